//! SIGINT and SIGTERM: the first stops the run at its next safe point, the second the process.

use std::thread;

use anyhow::Context as _;
use nix::sys::signal::{SigSet, Signal};
use orchestrate::Cancel;
use orchestrate::log::{self, Level};

/// From now on signals stop what `cancel` is for. To be called while there is one thread, since
/// others inherit what is blocked.
pub(crate) fn stop_by(cancel: Cancel) -> anyhow::Result<()> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    signals.thread_block().context("cannot block signals")?;
    thread::spawn(move || {
        while let Ok(signal) = signals.wait() {
            if cancel.is_set() {
                // Every state may be killed at any moment; recovery does the rest.
                std::process::exit(111);
            }
            let line = format!("{signal}: stopping; once more stops at once");
            log::line(Level::Info, &line, &[]);
            cancel.request(signal.as_str());
        }
    });
    Ok(())
}
