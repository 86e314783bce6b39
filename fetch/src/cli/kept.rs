//! A file of which a part is here, for when the program ends before the rest is: nobody finds megabytes later
//! and wonders.
//!
//! Part of the program, not of the library.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::{fs, thread};

use nix::sys::signal::{SigSet, Signal, raise};

/// The file that grows now, and whether the next process can go on with it.
static GROWS: Mutex<Option<(PathBuf, bool)>> = Mutex::new(None);

/// From now on this is the one; none where there is none any more.
pub(crate) fn is(grows: Option<(&Path, bool)>) {
    let grows = grows.map(|(path, goes_on)| (path.to_owned(), goes_on));
    *GROWS.lock().unwrap_or_else(PoisonError::into_inner) = grows;
}

/// What is to be said of it; none where nothing stays.
pub(crate) fn note() -> Option<String> {
    let (path, goes_on) = GROWS.lock().unwrap_or_else(PoisonError::into_inner).take()?;
    let bytes = fs::metadata(&path).ok()?.len();
    let shown = path.display().to_string();
    (bytes > 0).then(|| {
        let next = match goes_on {
            true => "the same command resumes there; remove that file to start again",
            false => {
                "the server gives no strong ETag, so the same command starts again from the beginning; with --digest it could resume"
            }
        };
        format!("fetch: {bytes} bytes of it stay in {shown:?}: {next}")
    })
}

/// Signals that this process was started to ignore, one bit each (proc_pid_status(5), `SigIgn`): `nohup` ignores
/// SIGHUP, and a shell's script SIGINT of what it runs in the background.
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// Ctrl-C and the like end the program as ever, after a word about what stays. What is ignored stays so.
pub(crate) fn watch_signals(say: fn(&str)) {
    let mut signals = SigSet::empty();
    let ignored = ignored();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        if ignored & (1 << (signal as u32 - 1)) == 0 {
            signals.add(signal);
        }
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
