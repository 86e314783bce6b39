//! What stands between the extractor and the host, one wall after another.
//!
//! What each one stops, should the code inside be taken over:
//!
//! | wall | stops | does not stop |
//! |---|---|---|
//! | rlimits | core dumps, one huge file, endless fds or memory | |
//! | mount | opening devices, running or set-id'ing what was unpacked | acting outside the root |
//! | chroot | naming anything outside the root | fds opened before; root's ways out of a chroot |
//! | capabilities | mount, chroot, ptrace, raw devices, trusted.* and most of root | chmod and chown of what can be named |
//! | no_new_privs | gaining by exec | |
//! | landlock | opening, making, linking, removing outside; TCP; signals | chmod, chown, setxattr, utimensat outside: it has no right for them |
//! | seccomp | every call an extractor has no need of: exec, sockets, ptrace, mount .. | what the allowed calls can do |
//!
//! Chroot and Landlock need each other: the first stops naming, the second stops opening.
//! All are properties of a thread; they are put up while there is only one.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, readlink};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::{Mode, fstat};
use nix::sys::statvfs::{FsFlags, fstatvfs};

use crate::error::Error;
use crate::limits::wall::{Standing, Wall};
use crate::limits::{Devices, Limits};
use crate::sandbox::filter;
use crate::sys;
use crate::tree::fd::root::Root;

/// Puts the walls `which` up around the calling process, for work below `root`, and gives back
/// the root as it is from then on. The process must have one thread, and cannot go back.
///
/// A wall that this kernel or this user cannot put up is left out, and said to be.
///
/// # Errors
/// [`Error::Fs`] if the root cannot be reached any more.
pub fn confine(
    root: Root,
    limits: &Limits,
    which: &[Wall],
) -> Result<(Root, Vec<Standing>), Error> {
    walled(root, limits, which, (&|root| landlock(&[root], false), filter::program))
}

/// [`confine`] with all walls for work that only reads, below `root` and below `other`.
pub(crate) fn confine_reading(
    root: Root,
    other: &Root,
    limits: &Limits,
) -> Result<(Root, Vec<Standing>), Error> {
    let program = filter::reading;
    walled(root, limits, &Wall::ALL, (&|root| landlock(&[root, other], true), program))
}

/// Puts up that wall around work below the root as it is by then.
type Landlocked<'a> = &'a dyn Fn(&Root) -> Result<String, Errno>;

fn walled(
    root: Root,
    limits: &Limits,
    which: &[Wall],
    (landlocked, program): (Landlocked<'_>, fn() -> Vec<libc::sock_filter>),
) -> Result<(Root, Vec<Standing>), Error> {
    let mut root = root;
    let mut alone = false;
    let mut standing = Vec::new();
    for &wall in which {
        let result = match wall {
            Wall::Rlimits => rlimits(limits, 0),
            Wall::Mount => match mount(&root) {
                Ok((mount, how)) => {
                    alone = how == Mounted::InNamespace;
                    if let Some(mount) = mount {
                        root = Root::from_fd(mount)?;
                    }
                    Ok(how.note().to_owned())
                }
                Err(errno) => Err(errno),
            },
            Wall::Chroot => chroot(&root),
            Wall::Capabilities => capabilities(limits, alone),
            Wall::NoNewPrivs => prctl::set_no_new_privs().map(|()| String::new()),
            Wall::Landlock => landlocked(&root),
            Wall::Seccomp => sys::seccomp(&mut program()).map(|()| String::new()),
        };
        standing.push(stands(wall, result));
    }
    Ok((root, standing))
}

/// Puts up the walls around work that needs what it has open and no name: nothing can be opened from then on,
/// whatever this process was allowed to do before. There is no root to be confined to, so two of the walls have
/// nothing to stop. `end` is where what it may write to ends, in bytes; `program` is the filter of calls.
pub(crate) fn confine_nameless(
    limits: &Limits,
    end: u64,
    program: fn() -> Vec<libc::sock_filter>,
) -> Vec<Standing> {
    let which =
        [Wall::Rlimits, Wall::Capabilities, Wall::NoNewPrivs, Wall::Landlock, Wall::Seccomp];
    let put_up = |wall| {
        let result = match wall {
            Wall::Rlimits => rlimits(limits, end),
            Wall::Capabilities => sys::keep_capabilities(0)
                .and_then(|()| prctl::set_dumpable(false))
                .map(|()| String::new()),
            Wall::NoNewPrivs => prctl::set_no_new_privs().map(|()| String::new()),
            Wall::Landlock => landlock(&[], false),
            Wall::Seccomp => sys::seccomp(&mut program()).map(|()| String::new()),
            Wall::Mount | Wall::Chroot => Ok(String::new()),
        };
        stands(wall, result)
    };
    which.map(put_up).to_vec()
}

/// What is said of a wall.
fn stands(wall: Wall, result: Result<String, Errno>) -> Standing {
    match result {
        Ok(note) => Standing { wall, stands: true, note },
        Err(errno) => {
            let note = format!("{}: it needs {}", errno.desc(), wall.needs(errno));
            Standing { wall, stands: false, note }
        }
    }
}

fn rlimits(limits: &Limits, end: u64) -> Result<String, Errno> {
    // What whoever started us has set lower is meant for us too.
    let set = |resource, value: u64, soft: bool| {
        let (now, most) = getrlimit(resource)?;
        let value = value.min(if soft { now } else { most });
        setrlimit(resource, value, value)
    };
    set(Resource::RLIMIT_CORE, 0, false)?;
    // Not less than the records of a layer can take, and never more than the host lets us have.
    set(Resource::RLIMIT_FSIZE, limits.file_bytes_max.max(4 << 30).max(end), true)?;
    set(Resource::RLIMIT_NOFILE, 1024, false)?;
    // Buffers, stacks and the largest zstd window are far below this.
    set(Resource::RLIMIT_AS, (2 << 30) + (1 << limits.zstd_window_log_max.min(31)), true)?;
    Ok(String::new())
}

/// How the mount wall stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mounted {
    /// A copy of the root's mount.
    Copied,
    /// A copy, by rights in a user namespace of our own.
    InNamespace,
    /// The root's own mount, which has every flag of the copy.
    AsItWas,
}

impl Mounted {
    fn note(self) -> &'static str {
        match self {
            Mounted::Copied => "",
            Mounted::InNamespace => "in a user namespace",
            Mounted::AsItWas => "as it was mounted",
        }
    }
}

/// The root's mount, detached; none where its own will do. Who is not root gets the right to it in a user
/// namespace of our own, in which nobody but the caller is somebody.
fn mount(root: &Root) -> Result<(Option<OwnedFd>, Mounted), Errno> {
    match sys::detached(root.as_fd()) {
        Err(Errno::EPERM) if !nix::unistd::geteuid().is_root() => {
            let again = namespace(root)?;
            Ok((Some(sys::detached(again.as_fd())?), Mounted::InNamespace))
        }
        // Before Linux 6.15 a mount that is detached already is not copied.
        Err(Errno::EINVAL) if is_walled(root)? => Ok((None, Mounted::AsItWas)),
        done => done.map(|mount| (Some(mount), Mounted::Copied)),
    }
}

/// Whether nothing below the root is a device, runs, or changes who runs it, as it is mounted.
fn is_walled(root: &Root) -> Result<bool, Errno> {
    let all = FsFlags::ST_NODEV | FsFlags::ST_NOSUID | FsFlags::ST_NOEXEC;
    Ok(fstatvfs(root)?.flags().contains(all))
}

/// Goes into a user and a mount namespace of its own, and opens the root there: what was opened before
/// belongs to the mounts of before.
fn namespace(root: &Root) -> Result<OwnedFd, Errno> {
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    let path = readlink(format!("/proc/self/fd/{}", root.as_fd().as_raw_fd()).as_str())?;
    // It says EINVAL where there is no such namespace, ENOSPC where there may be no more.
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS).map_err(|_| Errno::EPERM)?;
    let set = |file: &str, text: String| {
        std::fs::write(format!("/proc/self/{file}"), text).map_err(|_| Errno::EPERM)
    };
    set("setgroups", "deny".into())?;
    set("uid_map", format!("{uid} {uid} 1"))?;
    set("gid_map", format!("{gid} {gid} 1"))?;
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let again = open(path.as_os_str(), flags, Mode::empty())?;
    let (here, there) = (fstat(root)?, fstat(&again)?);
    // Somebody has moved it meanwhile.
    match (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino) {
        true => Ok(again),
        false => Err(Errno::ESTALE),
    }
}

fn chroot(root: &Root) -> Result<String, Errno> {
    nix::unistd::fchdir(root)?;
    nix::unistd::chroot(".")?;
    nix::unistd::chdir("/")?;
    Ok(String::new())
}

/// Exactly what write, chown, chmod of others' files, set-id bits, file capabilities and mknod
/// take (capabilities(7)).
fn capabilities(limits: &Limits, alone: bool) -> Result<String, Errno> {
    const CHOWN: u32 = 0;
    const DAC_OVERRIDE: u32 = 1;
    const FOWNER: u32 = 3;
    const FSETID: u32 = 4;
    const MKNOD: u32 = 27;
    const SETFCAP: u32 = 31;
    let mut keep = 0u64;
    for capability in [CHOWN, DAC_OVERRIDE, FOWNER, FSETID, SETFCAP] {
        keep |= 1 << capability;
    }
    match limits.devices {
        Devices::Standard | Devices::Keep => keep |= 1 << MKNOD,
        Devices::Refuse => {}
    }
    // In a user namespace of our own none of them is of use.
    if alone {
        keep = 0;
    }
    sys::keep_capabilities(keep)?;
    prctl::set_dumpable(false)?;
    Ok(String::new())
}

/// Rights of landlock.h by the ABI that brought them, below `roots`; those to read, if `reads_only`.
fn landlock(roots: &[&Root], reads_only: bool) -> Result<String, Errno> {
    let abi = sys::landlock_abi()?;
    const EXECUTE: u64 = 1;
    let mut handled: u64 = (1 << 13) - 1;
    if abi >= 2 {
        handled |= 1 << 13; // REFER: links across directories
    }
    if abi >= 3 {
        handled |= 1 << 14; // TRUNCATE
    }
    if abi >= 5 {
        handled |= 1 << 15; // IOCTL_DEV
    }
    const IOCTL_DEV: u64 = 1 << 15;
    // Bind and connect of TCP; abstract sockets and signals.
    let net = if abi >= 4 { 3 } else { 0 };
    let scoped = if abi >= 6 { 3 } else { 0 };
    let size = match abi {
        ..4 => 8,
        4 | 5 => 16,
        6.. => 24,
    };
    const READ: u64 = 1 << 2 | 1 << 3;
    let allowed = if reads_only { READ } else { handled & !EXECUTE & !IOCTL_DEV };
    let roots: Vec<_> = roots.iter().map(AsFd::as_fd).collect();
    sys::landlock(&roots, (handled, allowed), (net, scoped), size)?;
    Ok(format!("abi {abi}"))
}
