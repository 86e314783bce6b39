//! What may be done to the disk of an activation that somebody uses, and what a snapshot of it is. Pure.

use registry::DiskState;
use serde::{Deserialize, Serialize};

/// Who uses the disk of an activation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskUse {
    /// It has no device now.
    Down,
    /// It has a device that nobody has open.
    Idle,
    /// This kernel has it mounted.
    Mounted {
        /// By whom.
        by: String,
    },
    /// Somebody else has it open: a virtual machine, a loop device, a process.
    Held {
        /// Who.
        by: String,
    },
}

impl DiskUse {
    /// Who has it open, where somebody has.
    pub fn by(&self) -> Option<&str> {
        match self {
            DiskUse::Down | DiskUse::Idle => None,
            DiskUse::Mounted { by } | DiskUse::Held { by } => Some(by),
        }
    }
}

/// What becomes of a device that is to be larger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceNow {
    /// It has the new size.
    Grown,
    /// It had that size already.
    AsItWas,
    /// There is none now; the next one has the new size.
    Down,
}

/// What becomes of the file system on a device that is larger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileSystemNow {
    /// It fills the device.
    Grown,
    /// It is mounted and could not be grown.
    NotGrown,
    /// Whoever has the device open grows it.
    ByHolder,
    /// It is grown when it is mounted.
    AtNextMount,
}

impl FileSystemNow {
    /// Who is to grow the file system. The host never mounts a device for it: what is on the disk was written by
    /// whoever had it.
    pub fn of(used: &DiskUse) -> FileSystemNow {
        match used {
            DiskUse::Mounted { .. } => FileSystemNow::Grown,
            DiskUse::Held { .. } => FileSystemNow::ByHolder,
            DiskUse::Down | DiskUse::Idle => FileSystemNow::AtNextMount,
        }
    }
}

/// Where the ext4 superblock begins, and in it its magic number and the features without which it cannot be
/// mounted (kernel's filesystems/ext4/super.rst).
const SUPERBLOCK: usize = 1024;
const MAGIC_AT: usize = SUPERBLOCK + 0x38;
const MAGIC: [u8; 2] = [0x53, 0xef];
const INCOMPATIBLE_AT: usize = SUPERBLOCK + 0x60;
/// `INCOMPAT_RECOVER`: the journal has to be replayed.
const RECOVER: u8 = 0x04;

/// What the file system on a snapshot is that was made while the disk was used so. `start` is the beginning of the
/// snapshot: nobody writes to that.
pub(crate) fn disk_state(used: &DiskUse, start: &[u8]) -> DiskState {
    if let DiskUse::Held { .. } = used {
        return DiskState::CrashConsistent;
    }
    let is_ext4 = start.get(MAGIC_AT..MAGIC_AT + 2) == Some(&MAGIC);
    let replay = start.get(INCOMPATIBLE_AT).is_some_and(|features| features & RECOVER != 0);
    match (is_ext4, used) {
        (true, _) if replay => DiskState::AfterReplay,
        (true, _) | (false, DiskUse::Mounted { .. }) => DiskState::Clean,
        // Whether another file system was unmounted is not known here.
        (false, DiskUse::Down | DiskUse::Idle | DiskUse::Held { .. }) => DiskState::AfterReplay,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ext4(features: u8) -> Vec<u8> {
        let mut start = vec![0; 2048];
        start[MAGIC_AT..MAGIC_AT + 2].copy_from_slice(&MAGIC);
        start[INCOMPATIBLE_AT] = features;
        start
    }

    #[test]
    fn a_snapshot_is_what_its_superblock_says_unless_somebody_else_writes() {
        let mounted = DiskUse::Mounted { by: "m".into() };
        let held = DiskUse::Held { by: "h".into() };
        for (used, start, wanted) in [
            (&DiskUse::Down, ext4(0x42), DiskState::Clean),
            (&DiskUse::Idle, ext4(0x46), DiskState::AfterReplay),
            (&mounted, ext4(0x42), DiskState::Clean),
            // A freeze that did not settle the journal is told as it is.
            (&mounted, ext4(0x46), DiskState::AfterReplay),
            (&held, ext4(0x42), DiskState::CrashConsistent),
            (&mounted, vec![0; 2048], DiskState::Clean),
            (&DiskUse::Idle, vec![0; 2048], DiskState::AfterReplay),
            (&DiskUse::Idle, Vec::new(), DiskState::AfterReplay),
        ] {
            assert_eq!(disk_state(used, &start), wanted, "{used:?}");
        }
    }

    #[test]
    fn the_host_grows_only_what_it_has_mounted() {
        let mounted = DiskUse::Mounted { by: String::new() };
        let held = DiskUse::Held { by: String::new() };
        let of = FileSystemNow::of;
        assert_eq!(of(&mounted), FileSystemNow::Grown);
        assert_eq!(of(&held), FileSystemNow::ByHolder);
        assert_eq!([of(&DiskUse::Down), of(&DiskUse::Idle)], [FileSystemNow::AtNextMount; 2]);
    }
}
