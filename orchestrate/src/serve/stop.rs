//! Signals: TERM and INT put everything by, a second one ends the process at once, HUP reads the settings
//! again.

use std::sync::Arc;
use std::thread;

use nix::sys::signal::{SigSet, Signal};

use crate::error::Error;
use crate::host::settings::Settings;
use crate::process::log::{self, Level};
use crate::serve::daemon::Daemon;
use crate::serve::listen::Gate;
use crate::serve::options::Options;

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
    reload: impl Fn() -> Result<(Settings, Options), Error> + Send + 'static,
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

fn renew(
    daemon: &Arc<Daemon>,
    gate: &Gate,
    reload: &impl Fn() -> Result<(Settings, Options), Error>,
) {
    match reload() {
        Ok((settings, options)) => {
            let renewed = daemon.renew(settings, &options);
            let listed = |keys: &[&str]| match keys {
                [] => "none".to_owned(),
                keys => keys.join(", "),
            };
            let msg = format!(
                "SIGHUP: settings are read again; other ones from the next run on: {}",
                listed(&renewed.in_force)
            );
            log::line(Level::Info, &msg, &[]);
            if !renewed.restart.is_empty() {
                let msg = format!(
                    "SIGHUP: not in force before a restart of the daemon: {}",
                    listed(&renewed.restart)
                );
                log::line(Level::Warning, &msg, &[]);
            }
        }
        // What was set stays: a mistake in a file is no reason to stop.
        Err(error) => {
            let msg = format!("SIGHUP: settings and limits stay as they are: {error}");
            log::line(Level::Warning, &msg, &[]);
        }
    }
    if let Err(error) = gate.renew_token() {
        log::line(Level::Warning, &format!("SIGHUP: the token stays as it is: {error}"), &[]);
    }
}
