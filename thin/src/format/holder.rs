//! Who keeps a device open, as data.

use std::fmt;
use std::path::PathBuf;

use crate::format::quote::clean;

/// One that keeps a device open.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Holder {
    /// Another block device built on it.
    Device {
        /// Its kernel name, such as `dm-3`.
        name: String,
        /// Its device-mapper name, if it is one.
        mapped: Option<String>,
    },
    /// A process with a mount of it in its mount namespace.
    Mount {
        /// The process.
        pid: u32,
        /// Its command name.
        command: String,
        /// Where, in that process's own view.
        target: PathBuf,
    },
    /// A process with the device open.
    Process {
        /// The process.
        pid: u32,
        /// Its command name.
        command: String,
    },
}

impl Holder {
    /// Whether it is one of those that look at each device for a moment when it appears or changes.
    pub fn is_passing(&self) -> bool {
        match self {
            Holder::Process { command, .. } => {
                matches!(
                    command.as_str(),
                    "(udev-worker)" | "systemd-udevd" | "udevd" | "udevadm" | "blkid"
                )
            }
            Holder::Device { .. } | Holder::Mount { .. } => false,
        }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Holder::Device { name, mapped: None } => write!(f, "held by device {}", clean(name)),
            Holder::Device { name, mapped: Some(mapped) } => {
                write!(f, "held by device \"{}\" ({})", clean(mapped), clean(name))
            }
            Holder::Mount { pid, command, target } => write!(
                f,
                "mounted at \"{}\" for process {pid} ({})",
                clean(&target.to_string_lossy()),
                clean(command)
            ),
            Holder::Process { pid, command } => {
                write!(f, "open in process {pid} ({})", clean(command))
            }
        }
    }
}
