//! Where volumes live: one seam, two real stores. `thin` is the product; `dir` is for hosts
//! without device-mapper.
//!
//! A store knows ids, sizes and mappings; it knows no image, no state and no registry. Every call
//! may be repeated after a crash.

pub(crate) mod content;
pub(crate) mod dir;
pub(crate) mod dir_files;
pub(crate) mod dir_held;
pub(crate) mod dir_place;
pub(crate) mod dir_restore;
pub(crate) mod dir_work;
pub(crate) mod disks;
pub(crate) mod pool;
pub(crate) mod pool_active;
pub(crate) mod pool_copies;
pub(crate) mod pool_disk;
pub(crate) mod pool_ids;
pub(crate) mod pool_image;
pub(crate) mod pool_names;
pub(crate) mod pool_open;
pub(crate) mod pool_read;
pub(crate) mod pool_room;
pub(crate) mod pool_seal;
pub(crate) mod pool_serials;
pub(crate) mod pool_travel;
pub(crate) mod seal;
pub mod seam;
pub(crate) mod serials;
pub(crate) mod snapshot;
pub(crate) mod travel;

pub use crate::store::dir::DirStore;
pub use crate::store::pool::ThinStore;
