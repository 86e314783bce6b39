//! A file of which a part is here, for when the program ends before the rest is: nobody finds megabytes later
//! and wonders.
//!
//! Part of the program, not of the library.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::{fs, thread};

use nix::sys::signal::{SigSet, Signal, raise};

/// The file that grows now.
static GROWS: Mutex<Option<PathBuf>> = Mutex::new(None);

/// From now on this is the one; none where there is none any more.
pub(crate) fn is(path: Option<&Path>) {
    *GROWS.lock().unwrap_or_else(PoisonError::into_inner) = path.map(Path::to_owned);
}

/// What is to be said of it; none where nothing stays.
pub(crate) fn note() -> Option<String> {
    let path = GROWS.lock().unwrap_or_else(PoisonError::into_inner).take()?;
    let bytes = fs::metadata(&path).ok()?.len();
    let shown = path.display().to_string();
    (bytes > 0).then(|| {
        format!(
            "fetch: {bytes} bytes of it stay in {shown:?}: the same command goes on there; remove that file to \
             begin anew"
        )
    })
}

/// Ctrl-C and the like end the program as ever, after a word about what stays.
pub(crate) fn watch_signals(say: fn(&str)) {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    // Before there is any other thread, so that all of them have it.
    if signals.thread_block().is_err() {
        return;
    }
    let wait = move || {
        let Ok(signal) = signals.wait() else { return };
        if let Some(note) = note() {
            say(&note);
        }
        if signals.thread_unblock().is_ok() {
            raise(signal).ok();
        }
    };
    if thread::Builder::new().name("signals".into()).spawn(wait).is_err() {
        signals.thread_unblock().ok();
    }
}
