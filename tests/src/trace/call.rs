//! System calls of x86_64 by what they do: which change something that outlives the process, and on
//! what. Only these are stopped at; the rest of a program is its own affair.

use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use nix::libc::{self, user_regs_struct};
use nix::unistd::Pid;

/// Bytes of stack that are looked at: more than the callers of any call here have.
const STACK: usize = 32 << 10;

/// linux/sched.h.
const CLONE_THREAD: u64 = 0x1_0000;

/// What a call does to the world outside of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Effect {
    /// It changes a file, a directory, a device or a mount, makes something durable, or starts a process.
    Changes,
    /// It only looks, or takes a lock.
    Looks,
    /// It lets time pass: whoever sleeps waits for somebody else.
    Waits,
}

/// One system call that a program is about to make, or has made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Its name.
    pub name: &'static str,
    /// What it works on: paths, as far as known, or a device's command.
    pub on: String,
    /// Whether it changes anything.
    pub effect: Effect,
    /// Its answer, after it.
    pub answer: i64,
    /// Where in the program it comes from, where that was asked for ([`super::run_with_sites`]): equal for
    /// equal chains of callers, and seldom for others.
    pub site: u64,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.on)
    }
}

/// Which calls are looked at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View {
    /// On files: below the given places, anywhere, or not at all.
    files: Option<Where>,
    sockets: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Where {
    Within,
    Anywhere,
}

impl View {
    pub(crate) const FILES: View = View { files: Some(Where::Within), sockets: false };
    pub(crate) const ANYWHERE: View = View { files: Some(Where::Anywhere), sockets: false };
    pub(crate) const SOCKETS: View = View { files: None, sockets: true };
    pub(crate) const FILES_AND_SOCKETS: View = View { files: Some(Where::Within), sockets: true };
}

/// Where a call has what it works on.
#[derive(Clone, Copy)]
enum On {
    /// A connection.
    Socket,
    /// An open file.
    Fd(usize),
    /// A path.
    Path(usize),
    /// A directory that is open, and a path from there.
    At(usize, usize),
    /// Two of these.
    Ats((usize, usize), (usize, usize)),
    /// Two paths.
    Paths(usize, usize),
    /// A device's command.
    Ioctl,
    /// A structure that begins with flags.
    Clone3,
    /// Nothing that has a path: mounts, processes.
    None,
}

impl Call {
    /// The call that the stopped `pid` is about to make, if it is of interest: on something below one
    /// of `within`, or anywhere, or on a device, a mount or a socket, as `view` has it.
    pub(crate) fn at_entry(
        pid: Pid,
        regs: &user_regs_struct,
        within: &[PathBuf],
        view: View,
    ) -> Option<Call> {
        let args = [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9];
        let number = i64::try_from(regs.orig_rax).ok()?;
        let (name, effect, on) = kind(number, &args)?;
        let tracee = Tracee { pid };
        if matches!(on, On::Socket) {
            let on = || if tracee.is_local(args[0]) { "a local socket" } else { "a socket" };
            return view.sockets.then(|| Call {
                name,
                on: on().into(),
                effect,
                answer: 0,
                site: 0,
            });
        }
        let anywhere = view.files? == Where::Anywhere;
        let paths = match on {
            On::Socket => return None,
            On::Fd(fd) => vec![tracee.fd(args[fd])?],
            On::Path(path) => vec![tracee.path(libc::AT_FDCWD.cast_unsigned().into(), args[path])?],
            On::At(dir, path) => vec![tracee.path(args[dir], args[path])?],
            On::Ats(one, two) => {
                vec![tracee.path(args[one.0], args[one.1])?, tracee.path(args[two.0], args[two.1])?]
            }
            On::Paths(one, two) => {
                let here = libc::AT_FDCWD.cast_unsigned().into();
                vec![tracee.path(here, args[one])?, tracee.path(here, args[two])?]
            }
            On::Ioctl => return device(&tracee, &args, within),
            On::Clone3 if tracee.word(args[0])? & CLONE_THREAD != 0 => return None,
            On::Clone3 | On::None => {
                let on = String::new();
                return Some(Call { name, on, effect, answer: 0, site: 0 });
            }
        };
        let below = |path: &PathBuf| {
            let below = within.iter().find_map(|root| path.strip_prefix(root).ok());
            below.map(Path::to_path_buf)
        };
        let mut on = String::new();
        let mut any = anywhere;
        for path in &paths {
            let inside = below(path);
            any |= inside.is_some() || path.starts_with("/dev/mapper") || is_dm_node(path);
            let path = inside.as_ref().unwrap_or(path);
            on = format!("{on}{}{}", if on.is_empty() { "" } else { " " }, path.display());
        }
        any.then_some(Call { name, on, effect, answer: 0, site: 0 })
    }
}

/// The kernel's own node of a device-mapper device, by which volumes are written.
fn is_dm_node(path: &Path) -> bool {
    path.to_str().is_some_and(|path| path.starts_with("/dev/dm-"))
}

/// A call's name, what it does, and where its paths are; none for what is not looked at.
fn kind(number: i64, args: &[u64; 6]) -> Option<(&'static str, Effect, On)> {
    use Effect::{Changes, Looks, Waits};
    let opens = |flags: u64| {
        let made = libc::O_CREAT | libc::O_TRUNC;
        if flags & u64::from(made.cast_unsigned()) != 0 { Changes } else { Looks }
    };
    let (dir_1, dir_3) = (On::At(0, 1), On::Ats((0, 1), (2, 3)));
    Some(match number {
        libc::SYS_write => ("write", Changes, On::Fd(0)),
        libc::SYS_pwrite64 => ("pwrite64", Changes, On::Fd(0)),
        libc::SYS_writev => ("writev", Changes, On::Fd(0)),
        libc::SYS_pwritev2 => ("pwritev2", Changes, On::Fd(0)),
        libc::SYS_copy_file_range => ("copy_file_range", Changes, On::Fd(2)),
        libc::SYS_sendfile => ("sendfile", Changes, On::Fd(0)),
        libc::SYS_fsync => ("fsync", Changes, On::Fd(0)),
        libc::SYS_fdatasync => ("fdatasync", Changes, On::Fd(0)),
        libc::SYS_syncfs => ("syncfs", Changes, On::Fd(0)),
        libc::SYS_ftruncate => ("ftruncate", Changes, On::Fd(0)),
        libc::SYS_truncate => ("truncate", Changes, On::Path(0)),
        libc::SYS_fallocate => ("fallocate", Changes, On::Fd(0)),
        libc::SYS_rename => ("rename", Changes, On::Paths(0, 1)),
        libc::SYS_renameat => ("renameat", Changes, dir_3),
        libc::SYS_renameat2 => ("renameat2", Changes, dir_3),
        libc::SYS_link => ("link", Changes, On::Paths(0, 1)),
        libc::SYS_linkat => ("linkat", Changes, dir_3),
        libc::SYS_unlink => ("unlink", Changes, On::Path(0)),
        libc::SYS_unlinkat => ("unlinkat", Changes, dir_1),
        libc::SYS_rmdir => ("rmdir", Changes, On::Path(0)),
        libc::SYS_mkdir => ("mkdir", Changes, On::Path(0)),
        libc::SYS_mkdirat => ("mkdirat", Changes, dir_1),
        libc::SYS_symlink => ("symlink", Changes, On::Path(1)),
        libc::SYS_symlinkat => ("symlinkat", Changes, On::At(1, 2)),
        libc::SYS_mknod => ("mknod", Changes, On::Path(0)),
        libc::SYS_mknodat => ("mknodat", Changes, dir_1),
        libc::SYS_chmod => ("chmod", Changes, On::Path(0)),
        libc::SYS_fchmod => ("fchmod", Changes, On::Fd(0)),
        libc::SYS_fchmodat => ("fchmodat", Changes, dir_1),
        libc::SYS_chown => ("chown", Changes, On::Path(0)),
        libc::SYS_fchown => ("fchown", Changes, On::Fd(0)),
        libc::SYS_fchownat => ("fchownat", Changes, dir_1),
        libc::SYS_utimensat if args[1] == 0 => ("utimensat", Changes, On::Fd(0)),
        libc::SYS_utimensat => ("utimensat", Changes, dir_1),
        libc::SYS_fsetxattr => ("fsetxattr", Changes, On::Fd(0)),
        libc::SYS_open => ("open", opens(args[1]), On::Path(0)),
        libc::SYS_openat => ("openat", opens(args[2]), dir_1),
        // Its flags are in a structure; whoever makes a file with it also writes it.
        libc::SYS_openat2 => ("openat2", Changes, dir_1),
        libc::SYS_read => ("read", Looks, On::Fd(0)),
        libc::SYS_pread64 => ("pread64", Looks, On::Fd(0)),
        libc::SYS_getdents64 => ("getdents64", Looks, On::Fd(0)),
        libc::SYS_connect => ("connect", Looks, On::Socket),
        libc::SYS_sendto => ("sendto", Changes, On::Socket),
        libc::SYS_recvfrom => ("recvfrom", Looks, On::Socket),
        libc::SYS_flock => ("flock", Looks, On::Fd(0)),
        libc::SYS_fstat => ("fstat", Looks, On::Fd(0)),
        libc::SYS_newfstatat => ("newfstatat", Looks, dir_1),
        libc::SYS_statx => ("statx", Looks, dir_1),
        libc::SYS_readlink => ("readlink", Looks, On::Path(0)),
        libc::SYS_readlinkat => ("readlinkat", Looks, dir_1),
        libc::SYS_nanosleep => ("nanosleep", Waits, On::None),
        libc::SYS_clock_nanosleep => ("clock_nanosleep", Waits, On::None),
        libc::SYS_ioctl => ("ioctl", Changes, On::Ioctl),
        libc::SYS_mount => ("mount", Changes, On::None),
        libc::SYS_umount2 => ("umount2", Changes, On::None),
        libc::SYS_fsopen => ("fsopen", Changes, On::None),
        libc::SYS_fsconfig => ("fsconfig", Changes, On::None),
        libc::SYS_fsmount => ("fsmount", Changes, On::None),
        libc::SYS_move_mount => ("move_mount", Changes, On::None),
        libc::SYS_execve => ("execve", Changes, On::None),
        libc::SYS_vfork => ("vfork", Changes, On::None),
        libc::SYS_fork => ("fork", Changes, On::None),
        // A thread is no effect.
        libc::SYS_clone if args[0] & CLONE_THREAD == 0 => ("clone", Changes, On::None),
        libc::SYS_clone3 => ("clone3", Changes, On::Clone3),
        _ => return None,
    })
}

/// Where the stopped `pid` is about to make its call.
pub(crate) fn site(pid: Pid, regs: &user_regs_struct) -> u64 {
    Tracee { pid }.site(regs).unwrap_or_default()
}

/// A device-mapper command (linux/dm-ioctl.h), a loop device's, a file's clone, or ext4's resize.
fn device(tracee: &Tracee, args: &[u64; 6], within: &[PathBuf]) -> Option<Call> {
    use Effect::{Changes, Looks};
    let file = tracee.fd(args[0])?;
    let (class, number) = ((args[1] >> 8) & 0xff, args[1] & 0xff);
    let call = |name: &str, effect| {
        Some(Call {
            name: "ioctl",
            on: format!("{name} {}", file.display()),
            effect,
            answer: 0,
            site: 0,
        })
    };
    match class {
        0xfd => {
            let (name, effect) = match number {
                3 => ("DM_DEV_CREATE", Changes),
                4 => ("DM_DEV_REMOVE", Changes),
                5 => ("DM_DEV_RENAME", Changes),
                6 => ("DM_DEV_SUSPEND", Changes),
                9 => ("DM_TABLE_LOAD", Changes),
                10 => ("DM_TABLE_CLEAR", Changes),
                14 => ("DM_TARGET_MSG", Changes),
                7 => ("DM_DEV_STATUS", Looks),
                12 => ("DM_TABLE_STATUS", Looks),
                2 => ("DM_LIST_DEVICES", Looks),
                _ => ("DM", Looks),
            };
            // struct dm_ioctl: the name is at 48, 128 bytes long.
            let device = tracee.text(args[2] + 48);
            call(&format!("{name} {}", device.unwrap_or_default()), effect)
        }
        0x4c => call("loop", Changes),
        0x94 if within.iter().any(|root| file.starts_with(root)) => call("clone", Changes),
        0x66 if number == 16 => call("EXT4_IOC_RESIZE_FS", Changes),
        _ => None,
    }
}

impl Tracee {
    /// Whether it is a socket within this host (unix(7)).
    fn is_local(&self, fd: u64) -> bool {
        let name = std::fs::read_link(format!("/proc/{}/fd/{}", self.pid, fd & 0xffff_ffff));
        let name = name.unwrap_or_default().to_string_lossy().into_owned();
        let inode = name.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']'));
        let table = std::fs::read_to_string("/proc/net/unix").unwrap_or_default();
        inode.is_some_and(|inode| {
            table.lines().any(|line| line.split_whitespace().nth(6) == Some(inode))
        })
    }

    pub(super) fn fd(&self, fd: u64) -> Option<PathBuf> {
        let fd = fd & 0xffff_ffff;
        let path = std::fs::read_link(format!("/proc/{}/fd/{fd}", self.pid)).ok()?;
        // Pipes and sockets have names like "pipe:[1]".
        path.is_absolute().then_some(path)
    }

    pub(super) fn path(&self, dir: u64, at: u64) -> Option<PathBuf> {
        let text = self.text(at)?;
        if text.starts_with('/') {
            return Some(text.into());
        }
        let here = dir & 0xffff_ffff == u64::from(libc::AT_FDCWD.cast_unsigned());
        let dir = match here {
            true => std::fs::read_link(format!("/proc/{}/cwd", self.pid)).ok()?,
            false => self.fd(dir)?,
        };
        Some(if text.is_empty() { dir } else { dir.join(text) })
    }

    /// What on the stack points into the program's own code: the return addresses of all callers, and
    /// some that calls before have left. The program is where it is loaded, so addresses count from there.
    fn site(&self, regs: &user_regs_struct) -> Option<u64> {
        let exe = std::fs::read_link(format!("/proc/{}/exe", self.pid)).ok()?;
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", self.pid)).ok()?;
        let own = || maps.lines().filter(|line| line.ends_with(&*exe.to_string_lossy()));
        let range = |line: &str| -> Option<(u64, u64)> {
            let (from, to) = line.split_whitespace().next()?.split_once('-')?;
            Some((u64::from_str_radix(from, 16).ok()?, u64::from_str_radix(to, 16).ok()?))
        };
        let base = own().find_map(range)?.0;
        let code = own().find(|line| line.contains("r-xp")).and_then(range)?;
        let memory = std::fs::File::open(format!("/proc/{}/mem", self.pid)).ok()?;
        let mut stack = vec![0; STACK];
        let read = memory.read_at(&mut stack, regs.rsp).ok()?;
        let mut hasher = DefaultHasher::new();
        for word in stack[..read].as_chunks().0 {
            let word = u64::from_ne_bytes(*word);
            if (code.0..code.1).contains(&word) {
                (word - base).hash(&mut hasher);
            }
        }
        Some(hasher.finish())
    }

    pub(super) fn word(&self, at: u64) -> Option<u64> {
        let memory = std::fs::File::open(format!("/proc/{}/mem", self.pid)).ok()?;
        let mut bytes = [0; 8];
        memory.read_exact_at(&mut bytes, at).ok()?;
        Some(u64::from_ne_bytes(bytes))
    }

    /// A text that ends with a zero; it may lie at the end of mapped memory.
    fn text(&self, at: u64) -> Option<String> {
        let memory = std::fs::File::open(format!("/proc/{}/mem", self.pid)).ok()?;
        let mut bytes = vec![0; 4096];
        let read = memory.read_at(&mut bytes, at).ok()?;
        bytes.truncate(read);
        let end = bytes.iter().position(|byte| *byte == 0)?;
        bytes.truncate(end);
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// The memory and files of a stopped process.
pub(super) struct Tracee {
    pub(super) pid: Pid,
}
