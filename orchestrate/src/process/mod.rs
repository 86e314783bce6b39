//! This process and the machine under it: cancelling, the log, locks, directories of our own, room kept back.

pub(crate) mod cancel;
pub(crate) mod clock;
pub mod full;
pub mod guardian;
pub mod holders;
pub(crate) mod lock;
pub(crate) mod lock_files;
pub mod log;
pub(crate) mod place;
pub mod reserve;
pub(crate) mod sys;
