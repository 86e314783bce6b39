//! What stands between the extractor and the host, one fence after another.
//!
//! What each one stops, should the code inside be taken over:
//!
//! | fence | stops | does not stop |
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

use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::limits::{Devices, Limits};
use crate::root::Root;
use crate::sandbox::filter;
use crate::sys;

/// One fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fence {
    /// Resource limits.
    Rlimits,
    /// A detached copy of the root's mount: nodev, nosuid, noexec.
    Mount,
    /// chroot into it.
    Chroot,
    /// Six capabilities at most.
    Capabilities,
    /// no_new_privs.
    NoNewPrivs,
    /// Landlock.
    Landlock,
    /// A seccomp allow-list.
    Seccomp,
}

impl Fence {
    /// Every fence, in the order in which they are put up.
    pub const ALL: [Fence; 7] = [
        Fence::Rlimits,
        Fence::Mount,
        Fence::Chroot,
        Fence::Capabilities,
        Fence::NoNewPrivs,
        Fence::Landlock,
        Fence::Seccomp,
    ];

    /// The stable name, as in JSON output.
    pub fn name(self) -> &'static str {
        match self {
            Fence::Rlimits => "rlimits",
            Fence::Mount => "mount",
            Fence::Chroot => "chroot",
            Fence::Capabilities => "capabilities",
            Fence::NoNewPrivs => "no_new_privs",
            Fence::Landlock => "landlock",
            Fence::Seccomp => "seccomp",
        }
    }
}

/// Whether a fence stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Which.
    pub fence: Fence,
    /// Whether it stands.
    pub stands: bool,
    /// Why it does not, or how far it reaches; may be empty.
    pub note: String,
}

/// Puts the fences `which` up around the calling process, for work below `root`, and gives back
/// the root as it is from then on. The process must have one thread, and cannot go back.
///
/// A fence that this kernel or this user cannot put up is left out, and said to be.
///
/// # Errors
/// [`Error::Fs`] if the root cannot be reached any more.
pub fn confine(
    root: Root,
    limits: &Limits,
    which: &[Fence],
) -> Result<(Root, Vec<Standing>), Error> {
    let mut root = root;
    let mut standing = Vec::new();
    for &fence in which {
        let result = match fence {
            Fence::Rlimits => rlimits(limits),
            Fence::Mount => match sys::detached(root.as_fd()) {
                Ok(mount) => {
                    root = Root::from_fd(mount)?;
                    Ok(String::new())
                }
                Err(errno) => Err(errno),
            },
            Fence::Chroot => chroot(&root),
            Fence::Capabilities => capabilities(limits),
            Fence::NoNewPrivs => prctl::set_no_new_privs().map(|()| String::new()),
            Fence::Landlock => landlock(&root),
            Fence::Seccomp => sys::seccomp(&mut filter::program()).map(|()| String::new()),
        };
        standing.push(match result {
            Ok(note) => Standing { fence, stands: true, note },
            Err(errno) => Standing { fence, stands: false, note: errno.to_string() },
        });
    }
    Ok((root, standing))
}

fn rlimits(limits: &Limits) -> Result<String, Errno> {
    sys::ignore_sigxfsz()?;
    let set = |resource, value: u64| setrlimit(resource, value, value);
    set(Resource::RLIMIT_CORE, 0)?;
    // Not less than the records of a layer can take.
    set(Resource::RLIMIT_FSIZE, limits.file_bytes_max.max(4 << 30))?;
    set(Resource::RLIMIT_NOFILE, 1024)?;
    // Buffers, stacks and the largest zstd window are far below this.
    set(Resource::RLIMIT_AS, (2 << 30) + (1 << limits.zstd_window_log_max.min(31)))?;
    Ok(String::new())
}

fn chroot(root: &Root) -> Result<String, Errno> {
    nix::unistd::fchdir(root)?;
    nix::unistd::chroot(".")?;
    nix::unistd::chdir("/")?;
    Ok(String::new())
}

/// Exactly what write, chown, chmod of others' files, set-id bits, file capabilities and mknod
/// take (capabilities(7)).
fn capabilities(limits: &Limits) -> Result<String, Errno> {
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
    sys::keep_capabilities(keep)?;
    prctl::set_dumpable(false)?;
    Ok(String::new())
}

/// Rights of landlock.h by the ABI that brought them.
fn landlock(root: &Root) -> Result<String, Errno> {
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
    let allowed = handled & !EXECUTE & !IOCTL_DEV;
    sys::landlock(root.as_fd(), (handled, allowed), (net, scoped), size)?;
    Ok(format!("abi {abi}"))
}
