//! Block volumes in one device-mapper thin pool, by raw ioctls.
//!
//! A pool maps blocks of a data device to any number of thins, each numbered by the caller; a
//! snapshot is one message. This crate issues those messages, makes thins into devices, mounts
//! them detached, and believes nothing it has not read back. It knows nothing of images, and
//! keeps no records: which id is what, and how long a volume is, the caller has to know.
//!
//! Start at [`Pool`]; `wire.rs` and `sys.rs` are where the kernel's interface is.

mod bitmaps;
mod dm;
pub mod doctor;
mod error;
mod events;
#[cfg(test)]
mod fuzz;
mod growth;
mod header;
mod holders;
mod init;
mod kind;
mod lengths;
mod look;
pub mod loopdev;
mod message;
mod metadata;
pub mod mount;
mod node;
pub mod notes;
mod ondisk;
mod pool;
mod removal;
mod repair;
mod rescue;
mod room;
mod spacemap;
mod status;
mod store;
mod sys;
mod table;
pub mod template;
mod tidy;
mod units;
mod volume;
mod wire;

pub use dm::{By, DeviceEntry, DeviceState, Dm};
pub use error::Error;
pub use events::{Watch, Woken};
pub use growth::{Grown, Growth, Which};
pub use header::{Header, LastDown, Part, Verdict};
pub use holders::{Holder, of as holders_of};
pub use init::{InitOptions, metadata_bytes_for};
pub use kind::Kind;
pub use metadata::{ThinRecord, Usage};
pub use ondisk::{Fault, Superblock};
pub use pool::{Device, Pool, PoolSpec, REMOVE_WAIT};
pub use removal::Removal;
pub use repair::{RepairAct, Repaired};
pub use rescue::Freed;
pub use room::{Need, Reserve, Room};
pub use spacemap::Unreachable;
pub use status::{Discard, Mode, PoolStatus, ThinStatus, WhenFull, Working};
pub use store::{Store, Up, UpOptions};
pub use table::{DeviceRef, Features, PoolTable, ThinTable};
pub use tidy::{Act, Tidied};
pub use units::{
    Bytes, DataBlockSize, DataBlocks, Dev, DmName, SECTOR_BYTES, Sectors, ThinId, parse_bytes,
    parse_length,
};
pub use volume::{Access, ActiveThin, ListedThin, Volume};
pub use wire::{Command, Target};
