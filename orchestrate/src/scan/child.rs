//! The two processes between us and a scanner. The first makes a pid and a mount namespace, the second
//! is the first in them: it mounts the tree, gives up what a scanner does not need, and becomes the
//! scanner. When either dies the kernel kills whatever the scanner left running (pid_namespaces(7)), and
//! the mount goes with the namespace: there is nothing to clean up after `kill -9`.

use std::ffi::{OsStr, OsString};
use std::os::fd::AsFd as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// What the two are called, and so known by.
pub(super) const OUTER: &str = "veneer-scan";
const INNER: &str = "veneer-scanner";

/// More files than this no scanner opens at once.
const FILES_MAX: u64 = 4096;

/// Exit code of one of the two that could not do its part; its stderr says why.
const FAILED: i32 = 125;

/// If this process was started as one of the two, does its work and does not return. To be called first
/// thing in `main`.
pub fn child_entry() {
    let mut words = std::env::args_os();
    let name = words.next().unwrap_or_default();
    if name != OUTER && name != INNER {
        return;
    }
    let words: Vec<OsString> = words.collect();
    let result = if name == OUTER { outer(&words) } else { inner(&words) };
    match result {
        Ok(code) => std::process::exit(code),
        Err(why) => {
            eprintln!("{why}");
            std::process::exit(FAILED);
        }
    }
}

fn die_with_parent() -> Result<(), String> {
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(|errno| format!("prctl: {errno}"))
}

fn outer(words: &[OsString]) -> Result<i32, String> {
    die_with_parent()?;
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWIPC)
        .map_err(|errno| format!("cannot make namespaces: {errno}: scans need root"))?;
    // Asked to end, this process ends last: when it is gone, all of the namespace is. It cannot have a
    // thread any more, whose pid namespace would be another.
    let mut awaited = SigSet::empty();
    awaited.add(Signal::SIGTERM);
    awaited.add(Signal::SIGCHLD);
    awaited.thread_block().map_err(|errno| format!("cannot block signals: {errno}"))?;
    let signals = SignalFd::with_flags(&awaited, SfdFlags::SFD_CLOEXEC)
        .map_err(|e| format!("signalfd: {e}"))?;
    let cannot = |error: std::io::Error| format!("cannot run itself: {error}");
    let mut inner =
        Command::new("/proc/self/exe").arg0(INNER).args(words).spawn().map_err(cannot)?;
    let status = loop {
        let signal = signals.read_signal().map_err(|errno| format!("signalfd: {errno}"))?;
        if let Some(status) = inner.try_wait().map_err(cannot)? {
            break status;
        }
        if signal.is_some_and(|signal| signal.ssi_signo == Signal::SIGTERM as u32) {
            inner.kill().map_err(cannot)?;
        }
    };
    Ok(status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(FAILED))
}

/// `FROM TARGET MEMORY CPU PROGRAM ARGS..`: FROM is a directory, or `-` for a mount on stdin.
fn inner(words: &[OsString]) -> Result<i32, String> {
    die_with_parent()?;
    let [from, target, memory, seconds, program, args @ ..] = words else {
        return Err("called wrongly; this is a bug".into());
    };
    let root = Path::new("/");
    let none: Option<&Path> = None;
    mount(none, root, none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .map_err(|errno| format!("cannot make mounts private: {errno}"))?;
    let target = Path::new(target);
    let fences = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    if from == OsStr::new("-") {
        thin::mount::attach(std::io::stdin().as_fd(), target).map_err(|error| error.to_string())?;
    } else {
        mount(Some(Path::new(from)), target, none, MsFlags::MS_BIND, none)
            .and_then(|()| {
                let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | fences;
                mount(none, target, none, flags, none)
            })
            .map_err(|errno| format!("cannot mount the tree: {errno}"))?;
    }
    let number = |text: &OsStr| text.to_str().and_then(|text| text.parse::<u64>().ok());
    let limits = [
        (Resource::RLIMIT_CORE, Some(0)),
        (Resource::RLIMIT_NOFILE, Some(FILES_MAX)),
        (Resource::RLIMIT_AS, number(memory)),
        (Resource::RLIMIT_CPU, number(seconds)),
    ];
    for (limit, value) in limits {
        let value = value.ok_or("called wrongly; this is a bug")?;
        setrlimit(limit, value, value).map_err(|errno| format!("setrlimit: {errno}"))?;
    }
    let error = Command::new(program).args(args).stdin(Stdio::null()).current_dir("/").exec();
    Err(format!("cannot run {}: {error}", program.to_string_lossy().escape_debug()))
}
