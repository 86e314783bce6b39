//! Block volumes in one device-mapper thin pool, by raw ioctls.
//!
//! A pool maps blocks of a data device to any number of thins, each numbered by the caller; a
//! snapshot is one message. This crate issues those messages, makes thins into devices, mounts
//! them detached, and believes nothing it has not read back. It knows nothing of images, and
//! keeps no records: which id is what, and how long a volume is, the caller has to know.
//!
//! Start at [`Pool`]; `wire.rs` and `sys.rs` are where the kernel's interface is.

mod dm;
mod error;
mod holders;
pub mod loopdev;
mod metadata;
pub mod mount;
mod node;
mod ondisk;
mod pool;
mod removal;
mod status;
mod sys;
mod table;
pub mod template;
mod units;
mod volume;
mod wire;

pub use dm::{By, DeviceEntry, DeviceState, Dm};
pub use error::{Error, Kind};
pub use holders::{Holder, of as holders_of};
pub use metadata::{ThinRecord, Usage};
pub use ondisk::{Fault, Superblock};
pub use pool::{Device, Pool, PoolSpec, REMOVE_WAIT};
pub use removal::Removal;
pub use status::{Discard, Mode, PoolStatus, ThinStatus, WhenFull, Working};
pub use table::{DeviceRef, Features, PoolTable, ThinTable};
pub use units::{
    DataBlockSize, DataBlocks, Dev, DmName, SECTOR_BYTES, Sectors, ThinId, parse_bytes,
};
pub use volume::{Access, ActiveThin, Volume};
pub use wire::{Command, Target};
