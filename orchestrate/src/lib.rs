//! The order of the steps: images from S3 become activated snapshots.
//!
//! The only crate that knows all four leaves, and the only one that decides what comes next:
//! [`plan`] is pure (facts in, step out), `perform` does one step, `recover` compares rows with
//! devices. Bytes never pass through this crate's own hands except in `stream`.

mod activate;
mod build;
mod cancel;
pub mod catalog;
pub mod config;
mod ensure;
mod error;
pub mod garbage;
mod gc;
pub mod health;
mod host;
mod lock;
pub mod log;
mod manifest;
pub mod metrics;
mod note;
mod perform;
pub mod plan;
pub mod policy;
mod rebuild;
pub mod recover;
mod remove;
mod report;
mod runs;
pub mod scan;
pub mod serve;
pub mod store;
mod stream;
mod sys;
mod verbs;
mod verify;

pub use activate::{ActivateOptions, Activated, Deactivated, check_name};
pub use cancel::Cancel;
pub use ensure::{Ensured, How, LayerReport};
pub use error::{Class, Error, class, whole};
pub use gc::{Bound, Collected, ImageUse, Usage};
pub use host::{Host, Settings};
pub use rebuild::{Rebuilt, rebuild};
pub use remove::Removed;
pub use report::{ActivationLine, ImageLine, Listing};
pub use runs::{RunLine, TakenUp};
pub use sys::terminal_size;
pub use verbs::Verbs;
pub use verify::{Now, VolumeFinding};
