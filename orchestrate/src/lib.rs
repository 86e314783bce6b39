//! The order of the steps: images from S3 become activated snapshots.
//!
//! The only crate that knows all four leaves, and the only one that decides what comes next:
//! [`plan`] is pure (facts in, step out), `perform` does one step, `recover` compares rows with
//! devices. Bytes never pass through this crate's own hands except in `stream`.

mod activate;
mod agrees;
mod asked;
mod bring_up;
mod build;
mod cancel;
pub mod catalog;
mod class;
pub mod condemned;
pub mod config;
mod deaths;
mod ensure;
mod error;
pub mod garbage;
mod gc;
pub mod health;
mod history;
mod host;
mod ids;
mod judge;
mod lock;
mod lock_files;
pub mod log;
mod manifest;
mod mend;
pub mod metrics;
mod note;
mod order;
mod owner;
mod perform;
mod place;
pub mod plan;
pub mod policy;
mod rebuild;
pub mod recover;
mod remove;
mod report;
pub mod reserve;
mod resume;
mod runs;
pub mod scan;
mod serials;
pub mod serve;
pub mod store;
mod stream;
mod survey;
mod sys;
pub mod unsettled;
mod using;
mod verbs;
mod verdict;
mod verify;
pub mod walls;

pub use activate::{ActivateOptions, Activated, Deactivated, Going, check_name};
pub use cancel::Cancel;
pub use ensure::{Ensured, How, LayerReport};
pub use error::{Amiss, Class, Error, Making, OfState, class, whole};
pub use gc::{Bound, Collected, Hold, ImageUse, NotPurged, Usage};
pub use host::{Host, Settings};
pub use mend::Recovered;
pub use owner::Refusal;
pub use rebuild::{RebuildOptions, Rebuilt, Unread, rebuild};
pub use remove::Removed;
pub use report::{ActivationLine, ImageLine, Listing};
pub use resume::TakenUp;
pub use runs::RunLine;
pub use sys::terminal_size;
pub use unsettled::Unsettled;
pub use verbs::Verbs;
pub use verify::{Now, Verified, VolumeFinding};
