//! Signals: TERM and INT put everything by, a second one ends the process at once, HUP reloads limits.

use std::sync::Arc;
use std::thread;

use nix::sys::signal::{SigSet, Signal};

use super::Limits;
use super::daemon::Daemon;
use super::listen::Gate;
use super::queue::Hands;
use super::workers;
use crate::Error;
use crate::log::{self, Level};

/// Blocks the signals that are waited for. To be called while there is one thread.
pub(super) fn block() -> Result<SigSet, Error> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    let io = |errno: nix::errno::Errno| Error::Io {
        doing: "block signals of",
        path: "this process".into(),
        source: errno.into(),
    };
    signals.thread_block().map_err(io)?;
    Ok(signals)
}

/// Waits for signals in a thread of its own.
pub(super) fn watch(
    daemon: &Arc<Daemon>,
    signals: SigSet,
    gate: Arc<Gate>,
    reload: impl Fn() -> Result<Limits, Error> + Send + 'static,
) {
    let daemon = daemon.clone();
    thread::spawn(move || {
        while let Ok(signal) = signals.wait() {
            match signal {
                Signal::SIGHUP => renew(&daemon, &gate, &reload),
                _ if daemon.is_stopping() => {
                    // Every state may be killed at any moment; the next daemon does the rest.
                    std::process::exit(111);
                }
                signal => {
                    let msg = format!("{signal}: stopping; once more stops at once");
                    log::line(Level::Info, &msg, &[]);
                    daemon.stop(signal.as_str());
                }
            }
        }
    });
}

fn renew(daemon: &Arc<Daemon>, gate: &Gate, reload: &impl Fn() -> Result<Limits, Error>) {
    let before = daemon.limits();
    match reload() {
        Ok(limits) => {
            daemon.set_limits(limits);
            for hands in Hands::ALL {
                workers::start(daemon, hands, before.workers(hands));
            }
            log::line(Level::Info, &format!("SIGHUP: {limits:?}"), &[]);
        }
        // What was set stays: a mistake in a file is no reason to stop.
        Err(error) => {
            log::line(Level::Warning, &format!("SIGHUP: limits stay as they are: {error}"), &[]);
        }
    }
    if let Err(error) = gate.renew_token() {
        log::line(Level::Warning, &format!("SIGHUP: the token stays as it is: {error}"), &[]);
    }
}
