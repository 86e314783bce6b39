//! The two processes between us and a scanner. The first makes a pid and a mount namespace, the second
//! is the first in them: it mounts the tree, puts up walls, gives up what a scanner does not need, and becomes
//! the scanner. When either dies the kernel kills whatever the scanner left running (pid_namespaces(7)), and
//! the mount goes with the namespace: there is nothing to clean up after `kill -9`.
//!
//! | wall | stops |
//! |---|---|
//! | namespaces | seeing or signalling processes of the host, outliving the scan, with `scan.network = false` any network |
//! | its own /proc | environments, memory and open files of the host's processes |
//! | read-only mounts | writing anywhere but in `scan.cache`; opening devices but null, zero, full, random and urandom |
//! | no_new_privs | gaining by exec |
//! | capabilities | all of root but reading what it may not read |
//! | seccomp | mounts, namespaces, unix sockets of those who serve root, keys, the kernel's own doors |

use std::ffi::{OsStr, OsString};
use std::os::fd::AsFd as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::process::sys;
use crate::verbs::scan::filter;

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

/// In words that come first: whether all walls have to stand, some, or none.
const REQUIRE: &str = "require";
const OFF: &str = "off";

/// In the place of that for the inner one: there are no namespaces.
const BARE: &str = "bare";

/// How a wall that cannot be put up ends: the scan too, or it is left out.
struct Walls {
    required: bool,
}

impl Walls {
    fn put<T>(&self, wall: &str, needs: &str, done: Result<T, Errno>) -> Result<Option<T>, String> {
        let why = match done {
            Ok(done) => return Ok(Some(done)),
            Err(errno) => format!("{wall}: {}: it needs {needs}", errno.desc()),
        };
        if self.required {
            return Err(format!(
                "a scanner's walls cannot all be put up: {why}; sandbox = \"on\" does with those that stand"
            ));
        }
        eprintln!("without the wall {why}");
        Ok(None)
    }
}

/// `MODE NETWORK` and the words of [`inner`].
fn outer(words: &[OsString]) -> Result<i32, String> {
    die_with_parent()?;
    let [mode, network, rest @ ..] = words else {
        return Err("called wrongly; this is a bug".into());
    };
    let walls = Walls { required: mode == REQUIRE };
    let needs = "CAP_SYS_ADMIN, or user namespaces for who is not root";
    let own = walls.put("namespaces", needs, namespaces(network == OsStr::new("no")))?;
    let mode = if own.is_some() { mode } else { OsStr::new(BARE) };
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
        Command::new("/proc/self/exe").arg0(INNER).arg(mode).args(rest).spawn().map_err(cannot)?;
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

/// Who is not root has them in a user namespace, in which nobody but the caller is somebody.
fn namespaces(no_network: bool) -> Result<(), Errno> {
    let mut which = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWIPC;
    if no_network {
        which |= CloneFlags::CLONE_NEWNET;
    }
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    if uid.is_root() {
        return unshare(which);
    }
    unshare(which | CloneFlags::CLONE_NEWUSER)?;
    let set = |file: &str, text: String| {
        std::fs::write(format!("/proc/self/{file}"), text).map_err(|_| Errno::EPERM)
    };
    set("setgroups", "deny".into())?;
    set("uid_map", format!("{uid} {uid} 1"))?;
    set("gid_map", format!("{gid} {gid} 1"))
}

/// `MODE CACHE FROM TARGET MEMORY CPU PROGRAM ARGS..`: FROM is a directory, or `-` for a mount on stdin.
fn inner(words: &[OsString]) -> Result<i32, String> {
    die_with_parent()?;
    let [mode, cache, from, target, memory, seconds, program, args @ ..] = words else {
        return Err("called wrongly; this is a bug".into());
    };
    let mut args = args.to_vec();
    let walls = Walls { required: mode == REQUIRE };
    if mode != BARE {
        attach(from, Path::new(target))?;
        if mode != OFF {
            walls.put("its own /proc", "CAP_SYS_ADMIN", own_proc())?;
            let needs = "CAP_SYS_ADMIN, and mount_setattr(2), Linux 5.12";
            walls.put("read-only mounts", needs, read_only(Path::new(cache)))?;
        }
    } else if from == OsStr::new("-") {
        return Err("the tree of a pool's volume cannot be mounted without CAP_SYS_ADMIN".into());
    } else {
        // Nothing can be mounted, so it is looked at where it is.
        args = args.iter().map(|arg| instead(arg, target, from)).collect();
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
        // What whoever started us has set lower is meant for a scanner too.
        let most = getrlimit(limit).map_or(value, |(_, hard)| hard.min(value));
        setrlimit(limit, most, most).map_err(|errno| format!("setrlimit: {errno}"))?;
    }
    if mode != OFF {
        walls.put("no_new_privs", "prctl(2)", prctl::set_no_new_privs())?;
        walls.put("capabilities", "CAP_SETPCAP", sys::keep_capabilities(READING))?;
        let needs = "a kernel with seccomp filters";
        walls.put("seccomp", needs, sys::seccomp(&mut filter::program()))?;
    }
    let error = Command::new(program).args(args).stdin(Stdio::null()).current_dir("/").exec();
    let why = match error.raw_os_error() {
        Some(nix::libc::ENOENT) => {
            "there is no such program, or its first line names one that is not there: install it"
        }
        Some(nix::libc::EACCES) => {
            "it may not be run, as a file without the right or a directory: chmod +x it"
        }
        Some(nix::libc::ENOEXEC) => "it is no program of this machine, and a script begins with #!",
        _ => "look at it",
    };
    let program = program.to_string_lossy();
    Err(format!(
        "cannot run {}: {error}: {why}, or name another by scan.command",
        program.escape_debug()
    ))
}

/// CAP_DAC_READ_SEARCH.
const READING: u64 = 1 << 2;

/// Mounts the tree where nobody else sees it.
fn attach(from: &OsStr, target: &Path) -> Result<(), String> {
    let root = Path::new("/");
    let none: Option<&Path> = None;
    mount(none, root, none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .map_err(|errno| format!("cannot make mounts private: {errno}"))?;
    let fences = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    if from == OsStr::new("-") {
        return thin::mount::attach(std::io::stdin().as_fd(), target)
            .map_err(|error| error.to_string());
    }
    mount(Some(Path::new(from)), target, none, MsFlags::MS_BIND, none)
        .and_then(|()| {
            let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | fences;
            mount(none, target, none, flags, none)
        })
        .map_err(|errno| format!("cannot mount the tree: {errno}"))
}

/// A /proc of the processes of this namespace alone.
fn own_proc() -> Result<(), Errno> {
    let none: Option<&Path> = None;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), flags, none)
}

/// What a scanner may open of /dev.
const DEVICES: [&str; 5] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"];

/// Makes everything read-only and without devices, but `cache` and those few devices: each is a mount of its
/// own for that.
fn read_only(cache: &Path) -> Result<(), Errno> {
    let none: Option<&Path> = None;
    let itself = |path: &Path| mount(Some(path), path, none, MsFlags::MS_BIND, none);
    let devices: Vec<&Path> =
        DEVICES.iter().map(Path::new).filter(|device| device.exists()).collect();
    devices.iter().try_for_each(|device| itself(device))?;
    itself(cache)?;
    let fences = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
    sys::set_mount(Path::new("/"), true, fences, 0)?;
    for device in devices {
        sys::set_mount(device, false, 0, libc::MOUNT_ATTR_NODEV)?;
    }
    sys::set_mount(cache, false, libc::MOUNT_ATTR_NOEXEC, libc::MOUNT_ATTR_RDONLY)
}

/// A word with another place in it.
fn instead(word: &OsStr, target: &OsStr, from: &OsStr) -> OsString {
    match (word.to_str(), target.to_str(), from.to_str()) {
        (Some(word), Some(target), Some(from)) => word.replace(target, from).into(),
        (None, ..) | (_, None, _) | (.., None) => word.to_owned(),
    }
}
