//! The host side: packs the guest, boots QEMU, runs scenarios and reports.

pub mod cpio;
pub mod cuts;
pub mod guest_root;
pub mod initramfs;
pub mod kernel;
pub mod modules;
pub mod places;
pub mod qemu;
pub mod results;
pub mod root_disk;
pub mod run;
pub mod store;
pub mod volatile;
