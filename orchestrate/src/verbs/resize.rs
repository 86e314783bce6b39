//! `resize`: the disk of an activation becomes larger, live.
//!
//! The size is committed before the device has it, so that a kill in between leaves a device that recovery makes as
//! long as its row says. The file system on it is grown only where this kernel has it mounted: nothing is ever
//! mounted or written for it, since somebody else may have the device open, or may have written what is on it.

use std::path::PathBuf;

use registry::{ActivationState, VolumeId};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::host::Host;
use crate::plan::disks::{DeviceNow, DiskUse, FileSystemNow};
use crate::verbs::disks::smaller;
use crate::verbs::named::check_name;

/// What `resize` did, or would do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Resized {
    /// The activation's name.
    pub name: String,
    /// Its device.
    pub path: PathBuf,
    /// Size before, bytes.
    pub bytes_before: u64,
    /// Size now, bytes.
    pub bytes: u64,
    /// What became of the device.
    pub device: DeviceNow,
    /// What became of the file system on it.
    pub file_system: FileSystemNow,
    /// Who has the device open, where somebody has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_by: Option<String>,
    /// What is still to be done, and where; none: nothing is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// Whether nothing was done on purpose.
    pub dry_run: bool,
}

impl Host {
    /// Makes the disk of the activation `name` at least `bytes` large, live. Asked again, it finishes what is left.
    ///
    /// # Errors
    /// [`Error::Usage`] for a smaller size, with both values, and on a directory store; [`Error::Unknown`];
    /// [`Error::LookedAt`] where the device refuses writes.
    pub fn resize(&mut self, name: &str, bytes: u64, dry_run: bool) -> Result<Resized, Error> {
        check_name(name)?;
        self.on_one_file(|host| host.resized(name, bytes, dry_run))
    }

    fn resized(&mut self, name: &str, bytes: u64, dry_run: bool) -> Result<Resized, Error> {
        let _mine = self.locks.activation(name)?;
        let row = self.with_disk(name)?;
        if self.has_directories(&row) {
            return Err(Error::Usage(format!(
                "{name} is a directory of a directory store and has no size of its own: it may grow as long as the \
                 file system has room that the store is on; only a disk on a thin pool is resized"
            )));
        }
        if row.read_only {
            return Err(Error::Usage(format!(
                "{name} is read-only: its disk stays as its image made it; `fork` it and resize the fork"
            )));
        }
        // As long as it really is, so that the same again asks for the same.
        let (before, bytes) = (self.store.device_bytes(row.bytes), self.store.device_bytes(bytes));
        if bytes < before {
            return Err(smaller(name, before, bytes));
        }
        let used = match row.state {
            ActivationState::Active => self.disk_use(row.id)?,
            ActivationState::Inactive | ActivationState::Reserved | ActivationState::Deleting => {
                DiskUse::Down
            }
        };
        if used != DiskUse::Down && self.store.read_only(row.id)? {
            return Err(Error::LookedAt { volume: row.id, name: name.into() });
        }
        let mut done = Resized {
            name: name.into(),
            path: self.store.path(name),
            bytes_before: before,
            bytes,
            device: match used {
                DiskUse::Down => DeviceNow::Down,
                _ if bytes == before => DeviceNow::AsItWas,
                DiskUse::Idle | DiskUse::Mounted { .. } | DiskUse::Held { .. } => DeviceNow::Grown,
            },
            file_system: FileSystemNow::of(&used),
            used_by: used.by().map(str::to_owned),
            next: None,
            dry_run,
        };
        let mut why = None;
        if !dry_run {
            if bytes > row.bytes {
                self.may_promise(name, bytes - row.bytes)?;
                self.commit_told(|write| {
                    write.resize_activation(name, bytes)?;
                    write.person_has(name)
                })?;
            }
            why = self.lengthened(row.id, bytes, &used)?;
        }
        if why.is_some() {
            done.file_system = FileSystemNow::NotGrown;
        }
        done.next = next(&done, why);
        Ok(done)
    }

    /// Gives the device of `id` its size, and its file system where this kernel has it mounted. Why that could not
    /// be grown, where it could not.
    pub(crate) fn lengthened(
        &self,
        id: VolumeId,
        bytes: u64,
        used: &DiskUse,
    ) -> Result<Option<String>, Error> {
        let Some(disks) = self.store.disks() else { return Ok(None) };
        match used {
            DiskUse::Down => Ok(None),
            DiskUse::Idle | DiskUse::Held { .. } => disks.lengthen(id, bytes).map(|()| None),
            DiskUse::Mounted { .. } => {
                disks.lengthen(id, bytes)?;
                disks.grow_mounted(id, bytes)
            }
        }
    }
}

fn next(done: &Resized, why: Option<String>) -> Option<String> {
    let path = done.path.display();
    match (done.file_system, why) {
        (FileSystemNow::Grown, _) => None,
        (FileSystemNow::NotGrown, why) => Some(format!(
            "the file system could not be grown ({}); run `resize2fs {path}` where it is mounted",
            why.unwrap_or_default()
        )),
        (FileSystemNow::ByHolder, _) => Some(
            "whoever has the disk open grows the file system: tell a virtual machine of the new size (QEMU: \
             `block_resize`; a loop device: `losetup -c`), then run `resize2fs` on the disk in it"
                .into(),
        ),
        (FileSystemNow::AtNextMount, _) => Some(format!(
            "the file system has its old size: `orchestrate mount` grows it, or run `resize2fs` on the disk where \
             it is mounted next ({path}, or in a virtual machine)"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_to_do_is_said_with_its_command() {
        let done = |file_system| Resized {
            name: "a".into(),
            path: "/dev/mapper/a".into(),
            bytes_before: 1,
            bytes: 2,
            device: DeviceNow::Grown,
            file_system,
            used_by: None,
            next: None,
            dry_run: false,
        };
        assert_eq!(next(&done(FileSystemNow::Grown), None), None);
        let said = |now| next(&done(now), Some("no room".into())).unwrap();
        for now in [FileSystemNow::NotGrown, FileSystemNow::ByHolder, FileSystemNow::AtNextMount] {
            assert!(said(now).contains("resize2fs"), "{now:?}: {}", said(now));
        }
        assert!(said(FileSystemNow::NotGrown).contains("no room"));
    }
}
