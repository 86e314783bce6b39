//! What the daemon holds of its clients' files: see `files`, which alone looks into it.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;

use registry::RunId;

use crate::local::way::Given;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// By the number of their run.
    pub(super) given: Mutex<HashMap<RunId, Given>>,
    /// How many archives are being read from pipes.
    pub(super) arriving: AtomicUsize,
    /// What has just come through pipes, and no run may be for yet.
    pub(super) arrived: Mutex<Vec<String>>,
}
