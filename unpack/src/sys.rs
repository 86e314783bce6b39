//! The system calls that `nix` 0.31 does not have: extended attributes, FICLONE, memory shared by
//! two processes, writing back early, and those that wall a process in.
//!
//! The only file of this crate with `unsafe`. Every function takes borrowed fds and slices,
//! hands the kernel pointers that live as long as the call, and gives back an errno. Knows
//! nothing of layers.
#![allow(unsafe_code)]

use std::ffi::{CString, c_int, c_void};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;

/// An extended attribute's owner.
#[derive(Clone, Copy, Debug)]
pub(crate) enum On<'a> {
    /// An open file or directory (not O_PATH).
    Fd(BorrowedFd<'a>),
    /// A name in a directory, not followed; needs /proc. For what must not be opened.
    Name(BorrowedFd<'a>, &'a [u8]),
    /// The same without /proc: the thread goes to the directory and stays there, so it must not
    /// share its place with others (unshare(2), CLONE_FS).
    Here(BorrowedFd<'a>, &'a [u8]),
}

impl On<'_> {
    /// The path for the l*xattr calls, which know no directory fds before 6.13 (xattr(7)); `None`
    /// for an open file.
    fn path(&self) -> Result<Option<CString>, Errno> {
        match *self {
            On::Fd(_) => Ok(None),
            On::Name(dir, name) => {
                let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
                path.extend_from_slice(name);
                c(&path).map(Some)
            }
            On::Here(dir, name) => {
                nix::unistd::fchdir(dir)?;
                c(name).map(Some)
            }
        }
    }

    fn fd(&self) -> c_int {
        match self {
            On::Fd(fd) | On::Name(fd, _) | On::Here(fd, _) => fd.as_raw_fd(),
        }
    }
}

fn c(bytes: &[u8]) -> Result<CString, Errno> {
    CString::new(bytes).map_err(|_| Errno::EINVAL)
}

fn length(got: isize) -> Result<usize, Errno> {
    usize::try_from(got).map_err(|_| Errno::last())
}

fn done(got: c_int) -> Result<(), Errno> {
    Errno::result(got).map(drop)
}

/// setxattr(2).
pub(crate) fn set_xattr(on: On<'_>, name: &[u8], value: &[u8]) -> Result<(), Errno> {
    let name = c(name)?;
    let (data, len) = (value.as_ptr().cast::<c_void>(), value.len());
    match on.path()? {
        // SAFETY: `name` is NUL-terminated and `data` points to `len` readable bytes; both live
        // until the call returns.
        None => done(unsafe { libc::fsetxattr(on.fd(), name.as_ptr(), data, len, 0) }),
        // SAFETY: as above; `path` is NUL-terminated too.
        Some(path) => done(unsafe { libc::lsetxattr(path.as_ptr(), name.as_ptr(), data, len, 0) }),
    }
}

/// removexattr(2).
pub(crate) fn remove_xattr(on: On<'_>, name: &[u8]) -> Result<(), Errno> {
    let name = c(name)?;
    match on.path()? {
        // SAFETY: `name` is NUL-terminated and lives until the call returns.
        None => done(unsafe { libc::fremovexattr(on.fd(), name.as_ptr()) }),
        // SAFETY: both strings are NUL-terminated and live until the call returns.
        Some(path) => done(unsafe { libc::lremovexattr(path.as_ptr(), name.as_ptr()) }),
    }
}

/// getxattr(2), whole value; `None` if there is no such attribute.
pub(crate) fn get_xattr(on: On<'_>, name: &[u8]) -> Result<Option<Vec<u8>>, Errno> {
    let name = c(name)?;
    // The kernel's own bound (XATTR_SIZE_MAX).
    let mut value = vec![0u8; 65536];
    let (data, len) = (value.as_mut_ptr().cast::<c_void>(), value.len());
    let got = match on.path()? {
        // SAFETY: `data` points to `len` writable bytes, `name` is NUL-terminated.
        None => unsafe { libc::fgetxattr(on.fd(), name.as_ptr(), data, len) },
        // SAFETY: as above.
        Some(path) => unsafe { libc::lgetxattr(path.as_ptr(), name.as_ptr(), data, len) },
    };
    match length(got) {
        Ok(len) => {
            value.truncate(len);
            value.shrink_to_fit();
            Ok(Some(value))
        }
        Err(Errno::ENODATA | Errno::EOPNOTSUPP) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// listxattr(2): the names, in the kernel's order.
pub(crate) fn list_xattr(on: On<'_>) -> Result<Vec<Vec<u8>>, Errno> {
    let mut small = [0u8; 256];
    let mut large = Vec::new();
    let mut names: &mut [u8] = &mut small;
    let got = loop {
        let (data, len) = (names.as_mut_ptr().cast(), names.len());
        let got = match on.path()? {
            // SAFETY: `data` points to `len` writable bytes.
            None => unsafe { libc::flistxattr(on.fd(), data, len) },
            // SAFETY: as above, and `path` is NUL-terminated.
            Some(path) => unsafe { libc::llistxattr(path.as_ptr(), data, len) },
        };
        match length(got) {
            Ok(got) => break got,
            Err(Errno::ERANGE) if names.len() < 65536 => {
                large.resize(65536, 0);
                names = &mut large;
            }
            Err(Errno::EOPNOTSUPP) => return Ok(Vec::new()),
            Err(errno) => return Err(errno),
        }
    };
    Ok(names[..got].split(|&b| b == 0).filter(|n| !n.is_empty()).map(<[u8]>::to_vec).collect())
}

/// fchmodat2(2) of what an fd refers to, which may be O_PATH: 6.6 and later, else ENOSYS.
pub(crate) fn chmod_handle(fd: BorrowedFd<'_>, mode: u32) -> Result<(), Errno> {
    let empty = libc::AT_EMPTY_PATH;
    // SAFETY: the path is a NUL-terminated literal.
    let got =
        unsafe { libc::syscall(libc::SYS_fchmodat2, fd.as_raw_fd(), c"".as_ptr(), mode, empty) };
    Errno::result(got).map(drop)
}

/// FICLONE (ioctl_ficlone(2)): makes `to` share all of `from`'s blocks.
pub(crate) fn clone_file(from: impl AsFd, to: impl AsFd) -> Result<(), Errno> {
    let (from, to) = (from.as_fd().as_raw_fd(), to.as_fd().as_raw_fd());
    // SAFETY: FICLONE takes an fd by value and touches no memory of ours.
    done(unsafe { libc::ioctl(to, libc::FICLONE, from) })
}

/// sync_file_range(2): begins to write out what the file holds from `from` on, and waits for
/// nothing. Says nothing either: what fails here fails again, and is told, when all is synced.
pub(crate) fn begin_writing_out(file: BorrowedFd<'_>, from: u64) {
    let from = libc::off64_t::try_from(from).unwrap_or(libc::off64_t::MAX);
    // SAFETY: takes an fd and numbers.
    unsafe { libc::sync_file_range(file.as_raw_fd(), from, 0, libc::SYNC_FILE_RANGE_WRITE) };
}

/// Memory that its maker writes and another process reads: a memfd (memfd_create(2)), sealed so
/// that no later mapping of it can be written.
#[derive(Debug)]
pub(crate) struct Shared {
    at: *mut u8,
    len: usize,
    /// Whether this mapping is the maker's.
    mine: bool,
}

// SAFETY: the mapping lives as long as the value and belongs to no thread.
unsafe impl Send for Shared {}
// SAFETY: as above; shared references only read.
unsafe impl Sync for Shared {}

impl Shared {
    /// New memory, and the fd by which another process gets its view.
    pub(crate) fn new(len: usize) -> Result<(Shared, OwnedFd), Errno> {
        // SAFETY: the name is a NUL-terminated literal.
        let raw = unsafe {
            libc::memfd_create(c"layer".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING)
        };
        Errno::result(raw)?;
        // SAFETY: the call has just made this fd and nobody else has it.
        let fd = unsafe { OwnedFd::from_raw_fd(raw) };
        nix::unistd::ftruncate(&fd, i64::try_from(len).map_err(|_| Errno::EINVAL)?)?;
        let shared = Shared::map(fd.as_fd(), len, true)?;
        let seals =
            libc::F_SEAL_FUTURE_WRITE | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
        // SAFETY: takes an fd and flags.
        Errno::result(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, seals) })?;
        Ok((shared, fd))
    }

    /// The other process's view.
    pub(crate) fn view(fd: BorrowedFd<'_>, len: usize) -> Result<Shared, Errno> {
        Shared::map(fd, len, false)
    }

    fn map(fd: BorrowedFd<'_>, len: usize, mine: bool) -> Result<Shared, Errno> {
        let rights = if mine { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_READ };
        let none = std::ptr::null_mut();
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let at = unsafe { libc::mmap(none, len, rights, libc::MAP_SHARED, fd.as_raw_fd(), 0) };
        if at == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        Ok(Shared { at: at.cast(), len, mine })
    }

    pub(crate) fn read(&self, from: usize, to: usize) -> &[u8] {
        assert!(from <= to && to <= self.len);
        // SAFETY: within the mapping, which lives as long as `self`.
        let at = unsafe { self.at.add(from) };
        // SAFETY: readable for that long. Only the maker writes, through `&mut self`, and the
        // other process reads a part only between being told of it and giving it back.
        unsafe { std::slice::from_raw_parts(at, to - from) }
    }

    /// The maker's handles to it, each the only way to write its part.
    pub(crate) fn parts(self, size: usize) -> Vec<Part> {
        let (count, memory) = (self.len / size, Arc::new(self));
        (0..count).map(|n| Part { memory: memory.clone(), from: n * size, len: size }).collect()
    }
}

/// A part of shared memory.
#[derive(Debug)]
pub(crate) struct Part {
    memory: Arc<Shared>,
    from: usize,
    len: usize,
}

impl Part {
    pub(crate) fn read(&self, len: usize) -> &[u8] {
        assert!(len <= self.len);
        self.memory.read(self.from, self.from + len)
    }

    pub(crate) fn write(&mut self) -> &mut [u8] {
        assert!(self.memory.mine);
        // SAFETY: within the mapping, which lives as long as `self.memory`.
        let at = unsafe { self.memory.at.add(self.from) };
        // SAFETY: writable for that long. No two parts overlap and this one is borrowed mutably;
        // the maker reads by parts alone. The other process does not look at a part before it is
        // told of it.
        unsafe { std::slice::from_raw_parts_mut(at, self.len) }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: this mapping is ours, and no reference into it outlives `self`. What fails here
        // leaks.
        unsafe { libc::munmap(self.at.cast(), self.len) };
    }
}

/// capset(2) header and data, version 3 (linux/capability.h).
#[repr(C)]
struct CapHeader {
    version: u32,
    pid: c_int,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const _: () = assert!(size_of::<CapHeader>() == 8 && size_of::<CapData>() == 12);
const CAP_VERSION_3: u32 = 0x2008_0522;

/// Reduces this thread's capabilities to `keep` (bit n is capability n), as far as it has them,
/// and its bounding set with them.
pub(crate) fn keep_capabilities(keep: u64) -> Result<(), Errno> {
    let mut header = CapHeader { version: CAP_VERSION_3, pid: 0 };
    let mut data = [CapData { effective: 0, permitted: 0, inheritable: 0 }; 2];
    // SAFETY: both point to what version 3 of the call reads and writes: one header, two data.
    let got = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) };
    Errno::result(got)?;
    for capability in 0..64 {
        if keep & (1 << capability) == 0 {
            // SAFETY: PR_CAPBSET_DROP takes a number and touches no memory. It fails for numbers
            // beyond the last capability and without CAP_SETPCAP, where there is less to drop.
            match unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) } {
                0 => {}
                _ => break,
            }
        }
    }
    for (data, keep) in data.iter_mut().zip([keep & 0xffff_ffff, keep >> 32]) {
        let keep = u32::try_from(keep).unwrap_or(0) & data.permitted;
        *data = CapData { effective: keep, permitted: keep, inheritable: 0 };
    }
    // SAFETY: as for capget.
    let got = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) };
    Errno::result(got).map(drop)
}

/// Closes every fd from `first` on.
pub(crate) fn close_from(first: u32) -> Result<(), Errno> {
    // SAFETY: only called at the start of a sandboxed child, where no code of ours holds an fd
    // beyond stdio yet.
    let got = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) };
    Errno::result(got).map(drop)
}

/// struct mount_attr (linux/mount.h).
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns: u64,
}

const _: () = assert!(size_of::<MountAttr>() == 32);

/// A detached copy of the mount at `fd`, rooted there: nodev, nosuid, noexec.
pub(crate) fn detached(fd: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    const OPEN_TREE_CLONE: u32 = 1;
    let flags =
        OPEN_TREE_CLONE | libc::O_CLOEXEC.cast_unsigned() | libc::AT_EMPTY_PATH.cast_unsigned();
    // SAFETY: the path is a NUL-terminated literal.
    let got = unsafe { libc::syscall(libc::SYS_open_tree, fd.as_raw_fd(), c"".as_ptr(), flags) };
    let raw = c_int::try_from(Errno::result(got)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: the call has just made this fd and nobody else has it.
    let mount = unsafe { OwnedFd::from_raw_fd(raw) };
    let attr = MountAttr {
        set: libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NOEXEC,
        clear: 0,
        propagation: 0,
        userns: 0,
    };
    // SAFETY: `attr` is a mount_attr of the size given; the path is a NUL-terminated literal.
    let got = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    Errno::result(got)?;
    Ok(mount)
}

/// struct landlock_ruleset_attr (linux/landlock.h, ABI 6); older kernels take a prefix.
#[repr(C)]
struct LandlockRuleset {
    fs: u64,
    net: u64,
    scoped: u64,
}

/// struct landlock_path_beneath_attr; packed in the header.
#[repr(C, packed)]
struct LandlockBeneath {
    allowed: u64,
    parent: c_int,
}

const _: () = assert!(size_of::<LandlockRuleset>() == 24 && size_of::<LandlockBeneath>() == 12);

/// The Landlock ABI of this kernel (landlock_create_ruleset(2), LANDLOCK_CREATE_RULESET_VERSION).
pub(crate) fn landlock_abi() -> Result<i64, Errno> {
    let none = std::ptr::null::<c_void>();
    // SAFETY: with this flag the call takes a null pointer and size 0.
    Errno::result(unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, none, 0usize, 1u32) })
}

/// Restricts this thread: of the file system rights `handled` it keeps `allowed` below each of `roots`, and none elsewhere.
/// `size` is how much of the ruleset this ABI knows.
pub(crate) fn landlock(
    roots: &[BorrowedFd<'_>],
    (handled, allowed): (u64, u64),
    (net, scoped): (u64, u64),
    size: usize,
) -> Result<(), Errno> {
    let attr = LandlockRuleset { fs: handled, net, scoped };
    let size = size.min(size_of::<LandlockRuleset>());
    // SAFETY: `attr` is readable for `size` bytes, which is at most its own.
    let got =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, &raw const attr, size, 0u32) };
    let raw = c_int::try_from(Errno::result(got)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: the call has just made this fd and nobody else has it.
    let ruleset = unsafe { OwnedFd::from_raw_fd(raw) };
    for root in roots {
        let rule = LandlockBeneath { allowed, parent: root.as_raw_fd() };
        let (set, rule) = (ruleset.as_raw_fd(), &raw const rule);
        // SAFETY: rule type 1 (PATH_BENEATH) reads one landlock_path_beneath_attr.
        let got = unsafe { libc::syscall(libc::SYS_landlock_add_rule, set, 1u32, rule, 0u32) };
        Errno::result(got)?;
    }
    // SAFETY: takes an fd and flags.
    let got = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0u32) };
    Errno::result(got).map(drop)
}

/// Installs a seccomp filter on this thread (seccomp(2), SECCOMP_SET_MODE_FILTER).
pub(crate) fn seccomp(filter: &mut [libc::sock_filter]) -> Result<(), Errno> {
    let len = libc::c_ushort::try_from(filter.len()).map_err(|_| Errno::E2BIG)?;
    let program = libc::sock_fprog { len, filter: filter.as_mut_ptr() };
    // SAFETY: `program` and the instructions it points to live until the call has copied them.
    let got = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0u32, &raw const program)
    };
    Errno::result(got).map(drop)
}

/// Has every piece of memory of 128 KiB or more given back to the kernel as soon as it goes (mallopt(3)). Else
/// glibc keeps them once one was freed, and in the holes between them lies what it asks for besides.
pub(crate) fn give_back_memory() {
    // SAFETY: takes two numbers, and changes no memory that is in use. Where it fails all stays as it was.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 128 << 10)
    };
}

/// Ignores SIGXFSZ, so that a file over RLIMIT_FSIZE is EFBIG and not a death.
pub(crate) fn ignore_sigxfsz() -> Result<(), Errno> {
    // SAFETY: SIG_IGN runs no code of ours.
    match unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) } {
        libc::SIG_ERR => Err(Errno::last()),
        _ => Ok(()),
    }
}

/// Owns an fd that came in a message (SCM_RIGHTS): the kernel has made it for us.
pub(crate) fn received(raw: c_int) -> OwnedFd {
    // SAFETY: the caller has taken the number out of a control message just received, once.
    unsafe { OwnedFd::from_raw_fd(raw) }
}
