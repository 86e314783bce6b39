//! Block volumes in one device-mapper thin pool, by raw ioctls.
//!
//! A pool maps blocks of a data device to any number of thins, each numbered by the caller; a
//! snapshot is one message. This crate issues those messages, makes thins into devices, mounts
//! them detached, and believes nothing it has not read back. It knows nothing of images, and
//! keeps no records: which id is what, and how long a volume is, the caller has to know.
//!
//! Start at [`Pool`]; `wire.rs` and `sys.rs` are where the kernel's interface is.

pub mod doctor;
mod error;
mod format;
#[cfg(test)]
mod fuzz;
mod kernel;
mod pool;
mod store;

pub use kernel::loopdev;
pub use kernel::mount;
pub use pool::notes;
pub use store::template;

pub use error::Error;
pub use format::block::Fault;
pub use format::copy_head::CopyHead;
pub use format::garbled::Garbled;
pub use format::holder::Holder;
pub use format::kind::Kind;
pub use format::ondisk::Superblock;
pub use format::room::Unreachable;
pub use format::room::{Need, Reserve, Room};
pub use format::status::{Discard, Mode, PoolStatus, ThinStatus, WhenFull, Working};
pub use format::table::{DeviceRef, Features, PoolTable, ThinTable};
pub use format::units::{
    Bytes, DataBlockSize, DataBlocks, Dev, DmName, SECTOR_BYTES, Sectors, ThinId, parse_bytes,
    parse_length,
};
pub use format::wire::{Command, Target};
pub use kernel::dm::{By, DeviceEntry, DeviceState, Dm};
pub use kernel::holders::of as holders_of;
pub use kernel::removal::Removal;
pub use pool::delta::{Delta, Difference, Stretch};
pub use pool::disk::{FileSystem, InUse};
pub use pool::events::{Watch, Woken};
pub use pool::metadata::{ThinRecord, Usage};
pub use pool::rescue::Freed;
pub use pool::tidy::{Act, Tidied};
pub use pool::volume::{Access, ActiveThin, ListedThin, Volume, discard};
pub use pool::{Device, Pool, PoolSpec, REMOVE_WAIT};
pub use store::growth::{Grown, Growth, Low, Which};
pub use store::header::{Header, LastDown, Part, Verdict};
pub use store::init::{InitOptions, metadata_bytes_for};
pub use store::repair::{RepairAct, Repaired};
pub use store::restore::{RestoreOptions, Restored};
pub use store::{Store, Up, UpOptions};
