//! What a daemon is started with.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::serve::auth::Allow;
use crate::serve::queue::Workers;

/// What may be changed while the daemon runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Runs at once that fetch and unpack.
    pub image_workers: usize,
    /// Runs at once that take devices and rows away.
    pub device_workers: usize,
    /// Runs that may wait.
    pub backlog: usize,
    /// Connections at once, of each socket.
    pub connections: usize,
    /// Questions at once that wait for an answer.
    pub waits: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { image_workers: 2, device_workers: 1, backlog: 4096, connections: 64, waits: 32 }
    }
}

impl Limits {
    pub(super) fn workers(&self, workers: Workers) -> usize {
        match workers {
            Workers::Image | Workers::Known => self.image_workers,
            Workers::Device => self.device_workers,
            Workers::Collect => 1,
        }
    }
}

/// What the daemon is started with.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The unix socket; none: `serve.sock` in the state directory.
    pub socket: Option<PathBuf>,
    /// An address for TCP, with the token that clients need.
    pub listen: Option<SocketAddr>,
    /// A file with that token.
    pub token_file: Option<PathBuf>,
    /// A file with another token, for clients that may only read.
    pub read_token_file: Option<PathBuf>,
    /// Who may use the socket besides root and the daemon's own user.
    pub allow: Vec<Allow>,
    /// What may be changed while it runs.
    pub limits: Limits,
    /// Who hears of the end of every run that names nobody.
    pub webhook: Option<String>,
    /// For how long somebody who does not listen is told again.
    pub webhook_time: Duration,
    /// The key of the seal on what is told.
    pub webhook_secret: Option<Vec<u8>>,
    /// Whether this very host may be told.
    pub webhook_loopback: bool,
    /// Every setting by its key, as a variable would have it: what is in force is told by it.
    pub values: BTreeMap<&'static str, Option<String>>,
}

/// How long a question may wait for a lock.
pub(crate) const QUESTION_WAIT: Duration = Duration::from_secs(5);
