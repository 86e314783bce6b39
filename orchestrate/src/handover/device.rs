//! To whom the device of an activation is given, so that a virtual machine without root's rights can open it. Pure.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::handover::unfit::Unfit;

/// The last number of a user or group: the one above it means "as it is" to the kernel (chown(2)).
const ID_MAX: u32 = u32::MAX - 1;

/// Read, write and execute, for owner, group and others: a device has no other bits.
const MODE_MAX: u32 = 0o777;

/// What is asked for; what is none stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Give {
    /// User and group.
    pub owner: Option<(u32, u32)>,
    /// Permissions.
    pub mode: Option<u32>,
    /// A second node of the device.
    pub node: Option<PathBuf>,
}

impl Give {
    /// Reads the three options.
    ///
    /// # Errors
    /// [`Unfit::Owner`].
    pub fn read(
        owner: Option<&str>,
        mode: Option<&str>,
        node: Option<PathBuf>,
    ) -> Result<Give, Unfit> {
        Ok(Give {
            owner: owner.map(owner_of).transpose()?,
            mode: mode.map(mode_of).transpose()?,
            node,
        })
    }

    /// Whether nothing is asked for.
    pub fn is_nothing(&self) -> bool {
        *self == Give::default()
    }
}

fn owner_of(text: &str) -> Result<(u32, u32), Unfit> {
    let id = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|id: &u32| digits && *id <= ID_MAX)
    };
    let pair = text.split_once(':').and_then(|(uid, gid)| Some((id(uid)?, id(gid)?)));
    pair.ok_or_else(|| {
        let why = "expected UID:GID, two numbers from 0 to 4294967294";
        Unfit::Owner { what: "--device-owner", text: text.into(), why }
    })
}

fn mode_of(text: &str) -> Result<u32, Unfit> {
    let octal = (3..=4).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| octal && *mode <= MODE_MAX);
    mode.ok_or_else(|| {
        let why = "expected octal digits from 0000 to 0777, such as 0660";
        Unfit::Owner { what: "--device-mode", text: text.into(), why }
    })
}

/// To whom a device is given, as it is told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    /// The user; none: whoever has it by itself.
    #[serde(default)]
    pub uid: Option<u32>,
    /// The group.
    #[serde(default)]
    pub gid: Option<u32>,
    /// Permissions, octal: `0660`; none: those that it has by itself.
    #[serde(default)]
    pub mode: Option<String>,
    /// The second node.
    #[serde(default)]
    pub node: Option<PathBuf>,
}

impl From<&registry::Device> for Given {
    fn from(device: &registry::Device) -> Given {
        Given {
            uid: device.uid,
            gid: device.gid,
            mode: device.mode.map(|mode| format!("{mode:04o}")),
            node: device.node.as_ref().map(PathBuf::from),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_two_numbers_and_a_mode_is_octal() {
        let read = |owner: &str, mode: &str| Give::read(Some(owner), Some(mode), None);
        let give = read("1000:0", "0660").unwrap();
        assert_eq!((give.owner, give.mode), (Some((1000, 0)), Some(0o660)));
        assert!(!give.is_nothing() && Give::read(None, None, None).unwrap().is_nothing());
        for bad in ["", "1000", "root:root", "1:2:3", "-1:0", "+1:0", "4294967295:0", "1:"] {
            let said = read(bad, "0660").unwrap_err().to_string();
            assert!(said.contains("--device-owner") && said.contains("UID:GID"), "{said}");
        }
        for bad in ["", "7", "0888", "1777", "06600", "rw-", "+66"] {
            let said = read("0:0", bad).unwrap_err().to_string();
            assert!(said.contains("--device-mode") && said.contains("0660"), "{said}");
        }
    }
}
