//! ext4 images made and read in user space: no mount, no kernel structure that a layer could reach.
//!
//! What lies where on the disk is in [`format`]. The rules are those of the kernel's documentation
//! (`Documentation/filesystems/ext4/`); where it is silent, those of `fs/ext4/` in Linux 6.12.

pub(crate) mod apply;
pub(crate) mod chunks;
pub(crate) mod format;
pub(crate) mod read;
pub(crate) mod unfit;
pub(crate) mod write;
