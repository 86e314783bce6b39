//! The order of the steps: images from S3 become activated snapshots.
//!
//! The only crate that knows all four leaves, and the only one that decides what comes next:
//! [`plan`] is pure (facts in, step out), `perform` does one step, `recover` compares rows with
//! devices. Bytes never pass through this crate's own hands except in `stream`.

mod activate;
mod ensure;
mod error;
mod host;
mod lock;
mod perform;
pub mod plan;
pub mod recover;
mod remove;
mod report;
pub mod store;
mod stream;

pub use activate::{Activated, check_name};
pub use ensure::{Ensured, How, LayerReport};
pub use error::{Class, Error, class};
pub use host::{Host, Settings};
pub use remove::Removed;
pub use report::{ActivationLine, ImageLine, Listing};
