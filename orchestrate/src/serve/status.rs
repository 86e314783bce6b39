//! What the daemon says of itself.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What the daemon says of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Status {
    pub(crate) version: String,
    pub(crate) mode: String,
    pub(crate) why: Option<String>,
    pub(crate) pid: u32,
    pub(crate) started_ms: i64,
    pub(crate) stopping: bool,
    pub(crate) queued: usize,
    pub(crate) working: usize,
    /// Keys of settings that were read again and are not in force before a restart.
    #[serde(default)]
    pub(crate) restart: Vec<String>,
    /// How long a run waits for another process, seconds; none in a daemon of another day.
    #[serde(default)]
    pub(crate) wait_s: Option<u64>,
    /// How many open files may come with a request; none in a daemon of another day.
    #[serde(default)]
    pub(crate) descriptors: Option<usize>,
    /// Settings that decide what comes out of a run, as they are in force.
    pub(crate) settings: BTreeMap<String, String>,
}
