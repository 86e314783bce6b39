//! The order of the steps: images from S3 become activated snapshots.
//!
//! The only crate that knows all four leaves, and the only one that decides what comes next:
//! [`plan`] is pure (facts in, step out) and also compares rows with devices, `verbs` takes the steps,
//! [`store`] is where volumes live. No bytes of an image pass through this crate's own hands.

pub mod config;
mod error;
pub mod fleet;
mod handover;
mod host;
mod local;
pub mod plan;
mod process;
pub mod serve;
pub mod store;
mod travel;
mod trust;
mod verbs;
mod view;

pub use host::walls;
pub use process::guardian;
pub use process::holders;
pub use process::log;
pub use process::{full, reserve};
pub use verbs::catalog;
pub use verbs::condemned;
pub use verbs::scan;
pub use verbs::unsettled;
pub use view::health;
pub use view::metrics;

pub use error::Error;
pub use error::OfState;
pub use error::amiss::{Amiss, Making};
pub use error::class::Class;
pub use error::export::NotExported;
pub use error::full::{Full, Lacks, Of};
pub use error::image::Unusable;
pub use error::leaves::whole;
pub use error::push::NotPushed;
pub use error::quote::quoted;
pub use error::refusal::Refusal;
pub use error::travel::NotMoved;
pub use handover::copies::{COPIES_MAX, COPY_BYTES_MAX, CopyIn};
pub use handover::device::{Give, Given};
pub use handover::unfit::Unfit;
pub use host::Host;
pub use host::run::RunLine;
pub use host::settings::Settings;
pub use plan::class::class;
pub use plan::disks::{DeviceNow, FileSystemNow};
pub use process::cancel::Cancel;
pub use process::sys::terminal_size;
pub use serve::verbs::Verbs;
pub use travel::fault::Fault as StreamFault;
pub use verbs::activate::{ActivateOptions, Activated};
pub use verbs::deactivate::{Deactivated, Going};
pub use verbs::ensure::{Ensured, How, LayerReport};
pub use verbs::export::{ExportTo, Exported};
pub use verbs::fleet::{Planned, document_of};
pub use verbs::fork::Forked;
pub use verbs::gc::{Bound, Collected, Hold, NotPurged};
pub use verbs::handover::bundle::{BundleOptions, Bundled};
pub use verbs::handover::mount::{Mounted, Unmounted};
pub use verbs::handover::node::check_node;
pub use verbs::label::{
    LABELS_MAX, LabelChange, LabelChanges, LabelFilter, Labelled, Labels, label_changes, new_labels,
};
pub use verbs::mend::Recovered;
pub use verbs::named::{check_name, reference};
pub use verbs::points::{PointLine, Points, Snapshotted};
pub use verbs::push::goal::{Pushed, PushedObject};
pub use verbs::push::{PushOptions, push};
pub use verbs::rebuild::unread::Unread;
pub use verbs::rebuild::{RebuildOptions, Rebuilt, rebuild};
pub use verbs::remove::Removed;
pub use verbs::rename::Renamed;
pub use verbs::resize::Resized;
pub use verbs::restore::Restored;
pub use verbs::resume::TakenUp;
pub use verbs::travel::receive::{Progress, ReceiveOptions, ReceivedDisk};
pub use verbs::travel::send::{SendOptions, SendTo, SentDisk};
pub use verbs::ttl::{Ended, Time, Timed};
pub use verbs::unsettled::Unsettled;
pub use verbs::usage::{ActivationUse, ImageUse, Usage};
pub use verbs::verify::{Measure, Now, Verified, VolumeFinding};
pub use verbs::who::Who;
pub use view::listing::{ActivationLine, ImageLine, Listing, SignedLine};
