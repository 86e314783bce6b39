//! Whether this host can do its work, as a list of checks with reasons. [`judge`] is pure; what it
//! judges is gathered by [`look`].

pub(crate) mod judge;
pub(crate) mod log;
pub(crate) mod look;
pub(crate) mod room;

pub use crate::view::health::judge::{CatalogAge, Check, Facts, LastFetch, Readiness, judge, sick};
pub use crate::view::health::look::{look, readiness};
