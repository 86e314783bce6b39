//! The calls that no safe crate of ours has: a descriptor that was inherited, or sent over a socket, the groups of a
//! peer, the size of a terminal, memory given back, whether nobody else has a file open, its attributes, whether
//! standard output was closed, and the walls of a scanner.

#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::libc;

/// Takes over a descriptor that this process was started with.
///
/// # Errors
/// `EBADF` when it is not open.
pub(crate) fn inherited(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_GETFD only looks; a number that is not a descriptor gives EBADF.
    if unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and by the protocol of LISTEN_FDS nobody else in this process owns it; the
    // caller asks for each number once.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// What one read of a unix socket gave.
#[derive(Debug)]
pub(crate) struct Received {
    /// Bytes of the buffer that were filled.
    pub(crate) bytes: usize,
    /// Descriptors that came with them, closed in whatever this process starts.
    pub(crate) files: Vec<OwnedFd>,
    /// Whether the kernel left some out: this process had no more to give.
    pub(crate) cut: bool,
}

/// Descriptors that one message may carry (`SCM_MAX_FD`, unix(7)): there is room for all of them, so none is left out
/// for want of it.
const SCM_MAX_FD: usize = 253;

/// Bytes of one header and that many descriptors (cmsg(3)), with some to spare.
const CONTROL_BYTES: u16 = 1120;

/// Reads from a unix socket, with the descriptors that come (`SCM_RIGHTS`, unix(7)).
///
/// # Errors
/// Those of recvmsg(2).
pub(crate) fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Received> {
    // As `u64`, since a header has to be aligned.
    let mut control = [0_u64; CONTROL_BYTES as usize / 8];
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: a msghdr is numbers and pointers; all of them zero is one of nothing.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    (message.msg_iov, message.msg_iovlen) = (&raw mut part, 1);
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = CONTROL_BYTES.into();
    // SAFETY: the message points to one buffer and to `control`, with their sizes; both outlive the call.
    let got =
        unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
    let bytes = usize::try_from(got).map_err(|_| io::Error::last_os_error())?;
    let mut files = Vec::new();
    // SAFETY: the message is as the kernel left it, with its control buffer still there.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    // SAFETY: it is null, or the kernel wrote a header there, within `control`, which is aligned for it.
    while let Some(header) = unsafe { next.as_ref() } {
        if (header.cmsg_level, header.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            // SAFETY: it only computes.
            let empty = unsafe { libc::CMSG_LEN(0) };
            let length = header.cmsg_len.saturating_sub(usize::try_from(empty).unwrap_or(0));
            // SAFETY: it only computes; the data follow the header within `control`.
            let data = unsafe { libc::CMSG_DATA(next) }.cast::<RawFd>();
            for at in 0..(length / size_of::<RawFd>()).min(SCM_MAX_FD) {
                // SAFETY: the kernel wrote `length` bytes of descriptors there.
                let place = unsafe { data.add(at) };
                // SAFETY: as above; they need not be aligned.
                let fd = unsafe { place.read_unaligned() };
                // SAFETY: the kernel opened it for this process with this message, and nobody else knows of it.
                files.push(unsafe { OwnedFd::from_raw_fd(fd) });
            }
        }
        // SAFETY: both are of this message.
        next = unsafe { libc::CMSG_NXTHDR(&raw const message, next) };
    }
    Ok(Received { bytes, files, cut: message.msg_flags & libc::MSG_CTRUNC != 0 })
}

/// Sends bytes over a unix socket, and these descriptors with the first of them (`SCM_RIGHTS`, unix(7)); gives how many
/// bytes went.
///
/// # Errors
/// Those of sendmsg(2); `EINVAL` for more descriptors than a message may carry.
pub(crate) fn send(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    files: &[BorrowedFd<'_>],
) -> io::Result<usize> {
    if files.len() > SCM_MAX_FD {
        return Err(Errno::EINVAL.into());
    }
    let data_bytes = u32::try_from(size_of_val(files)).map_err(|_| Errno::EINVAL)?;
    let mut control = [0_u64; CONTROL_BYTES as usize / 8];
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: a msghdr is numbers and pointers; all of them zero is one of nothing.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    (message.msg_iov, message.msg_iovlen) = (&raw mut part, 1);
    if !files.is_empty() {
        message.msg_control = control.as_mut_ptr().cast();
        // SAFETY: it only computes.
        let space = unsafe { libc::CMSG_SPACE(data_bytes) };
        message.msg_controllen = usize::try_from(space).map_err(|_| Errno::EINVAL)?;
        // SAFETY: the control buffer is there, aligned, and larger than one header.
        let header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
        // SAFETY: it points into `control`, which nothing else refers to.
        if let Some(header) = unsafe { header.as_mut() } {
            (header.cmsg_level, header.cmsg_type) = (libc::SOL_SOCKET, libc::SCM_RIGHTS);
            // SAFETY: it only computes.
            let length = unsafe { libc::CMSG_LEN(data_bytes) };
            header.cmsg_len = usize::try_from(length).map_err(|_| Errno::EINVAL)?;
        }
        // SAFETY: it only computes; the data follow the header within `control`.
        let data = unsafe { libc::CMSG_DATA(header) }.cast::<RawFd>();
        for (at, file) in files.iter().enumerate() {
            // SAFETY: `space` has room for all of them.
            let place = unsafe { data.add(at) };
            // SAFETY: as above; they need not be aligned.
            unsafe { place.write_unaligned(file.as_raw_fd()) };
        }
    }
    // SAFETY: the message points to `bytes`, which is only read, and to `control`; both outlive the call.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// The supplementary groups of the process at the other end of a unix socket, as they were when it
/// connected (`SO_PEERGROUPS`, socket(7)).
pub(crate) fn peer_groups(socket: BorrowedFd<'_>) -> io::Result<Vec<libc::gid_t>> {
    let mut groups: Vec<libc::gid_t> = vec![0; 64];
    loop {
        let size = groups.len() * size_of::<libc::gid_t>();
        let mut length = libc::socklen_t::try_from(size).unwrap_or(0);
        // SAFETY: the buffer has `length` bytes and lives through the call, which writes no more, and
        // any bytes are gids.
        let failed = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut length,
            )
        } < 0;
        let given = usize::try_from(length).unwrap_or(0) / size_of::<libc::gid_t>();
        match failed.then(io::Error::last_os_error) {
            None => {
                groups.truncate(given);
                return Ok(groups);
            }
            // It has told how many there are.
            Some(error) if error.raw_os_error() == Some(libc::ERANGE) && given > groups.len() => {
                groups.resize(given, 0);
            }
            Some(error) => return Err(error),
        }
    }
}

/// Columns and rows of the terminal behind this descriptor (`TIOCGWINSZ`, ioctl_tty(2)); 80 and 24 where
/// it does not know.
///
/// # Errors
/// `ENOTTY` when it is none.
pub fn terminal_size(terminal: BorrowedFd<'_>) -> io::Result<(u16, u16)> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the request writes one winsize, which lives through the call.
    if unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(if size.ws_col == 0 || size.ws_row == 0 { (80, 24) } else { (size.ws_col, size.ws_row) })
}

/// Which signal tells of somebody at a leased file (fcntl(2)); the same number on every architecture.
const F_SETSIG: libc::c_int = 10;

/// Whether nobody else has this file open for writing, made sure by a lease (`F_SETLEASE`, fcntl(2)): whoever
/// opens it while that is held waits until it is given back, with [`end_lease`] or by closing. False also
/// where the file system has no leases.
pub(crate) fn lease(file: BorrowedFd<'_>) -> bool {
    let fd = file.as_raw_fd();
    // Who opens it would have SIGIO sent, which ends a process; this signal does nothing.
    // SAFETY: it sets a number of the descriptor's; no memory is touched.
    let quiet = unsafe { libc::fcntl(fd, F_SETSIG, libc::SIGURG) } == 0;
    // SAFETY: it sets a lease of the descriptor's; no memory is touched.
    quiet && unsafe { libc::fcntl(fd, libc::F_SETLEASE, libc::c_int::from(libc::F_WRLCK)) } == 0
}

/// Gives a lease back.
pub(crate) fn end_lease(file: BorrowedFd<'_>) {
    // SAFETY: it ends a lease of the descriptor's, if there is one; no memory is touched.
    unsafe {
        libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::c_int::from(libc::F_UNLCK));
    }
}

/// Gives memory that was freed back to the system: the allocator keeps what a run's buffers took
/// (malloc_trim(3)), and a daemon idles for longer than it works.
pub(crate) fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it touches nothing but the allocator's own free memory, and takes its locks.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// One heap for all threads (mallopt(3)): what one of them frees, the next one takes, and no thread
/// keeps a heap of its own that was large for one run. To be called before there are threads.
pub(crate) fn share_one_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it sets a number of the allocator's; no memory that is in use is touched.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// capset(2) header and data, version 3 (linux/capability.h).
#[repr(C)]
struct CapHeader {
    version: u32,
    pid: libc::c_int,
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

/// Reduces this thread's capabilities to `keep` (bit n is capability n), as far as it has them, and its
/// bounding set with them: what it runs has no others.
pub(crate) fn keep_capabilities(keep: u64) -> Result<(), Errno> {
    let mut header = CapHeader { version: CAP_VERSION_3, pid: 0 };
    let mut data = [CapData { effective: 0, permitted: 0, inheritable: 0 }; 2];
    // SAFETY: both point to what version 3 of the call reads and writes: one header, two data.
    let got = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) };
    Errno::result(got)?;
    for capability in 0..64 {
        // SAFETY: both take a number and touch no memory; the first says -1 beyond the last capability.
        let has = unsafe { libc::prctl(libc::PR_CAPBSET_READ, capability, 0, 0, 0) };
        match has {
            0 => continue,
            1 if keep & (1 << capability) != 0 => continue,
            1 => {}
            _ => break,
        }
        // SAFETY: as above.
        Errno::result(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) })?;
    }
    for (data, keep) in data.iter_mut().zip([keep & 0xffff_ffff, keep >> 32]) {
        let keep = u32::try_from(keep).unwrap_or(0) & data.permitted;
        *data = CapData { effective: keep, permitted: keep, inheritable: 0 };
    }
    // SAFETY: as for capget.
    let got = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) };
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

/// Changes flags of the mount at `path` (mount_setattr(2), 5.12), or with `all` of those below it too.
pub(crate) fn set_mount(
    path: &std::path::Path,
    all: bool,
    set: u64,
    clear: u64,
) -> Result<(), Errno> {
    let path = CString::new(path.as_os_str().as_encoded_bytes()).map_err(|_| Errno::EINVAL)?;
    let attr = MountAttr { set, clear, propagation: 0, userns: 0 };
    let flags = if all { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: `attr` is a mount_attr of the size given, `path` is NUL-terminated; both outlive the call.
    let got = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            flags,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    Errno::result(got).map(drop)
}

/// The attributes of a file or directory itself (statx(2), `STATX_ATTR_IMMUTABLE` and others): those that its file
/// system knows.
///
/// # Errors
/// Those of statx(2); `EINVAL` for a path with a zero byte.
pub(crate) fn attributes(path: &Path) -> Result<u64, Errno> {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL)?;
    // SAFETY: a statx is numbers; all of them zero is one of nothing.
    let mut found: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: the path ends in a zero and lives until the call returns, which fills one statx.
    let got = unsafe {
        let flags = libc::AT_SYMLINK_NOFOLLOW;
        libc::statx(libc::AT_FDCWD, path.as_ptr(), flags, 0, &raw mut found)
    };
    Errno::result(got)?;
    Ok(found.stx_attributes & found.stx_attributes_mask)
}

/// Whether standard output was closed when this process was started. Before `main` /dev/null is opened in its place,
/// which nobody can tell from one that was meant.
pub(crate) fn output_was_closed() -> bool {
    OUTPUT_WAS_CLOSED.load(Ordering::Relaxed)
}

static OUTPUT_WAS_CLOSED: AtomicBool = AtomicBool::new(false);

/// Looks before all else does: the loader calls what is in this section (System V ABI, initialization functions).
// SAFETY: the section holds pointers to functions of C, and this is one.
#[used]
#[unsafe(link_section = ".init_array")]
static LOOK: extern "C" fn() = look_at_output;

extern "C" fn look_at_output() {
    // SAFETY: F_GETFD only looks; a number that is not a descriptor gives EBADF.
    let closed = unsafe { libc::fcntl(libc::STDOUT_FILENO, libc::F_GETFD) } < 0;
    OUTPUT_WAS_CLOSED.store(closed, Ordering::Relaxed);
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

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read as _;
    use std::os::fd::AsFd as _;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn descriptors_come_with_the_bytes_and_are_closed_in_programs() {
        let (one, other) = UnixStream::pair().unwrap();
        let mut buffer = [0; 8];
        for count in [0, 1, 65, SCM_MAX_FD] {
            let file = File::open("/proc/self/comm").unwrap();
            let files = vec![file.as_fd(); count];
            assert_eq!(send(one.as_fd(), b"abc", &files).unwrap(), 3);
            let received = receive(other.as_fd(), &mut buffer).unwrap();
            assert_eq!((received.bytes, received.files.len(), received.cut), (3, count, false));
            for fd in received.files {
                let flags = nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_GETFD).unwrap();
                assert_eq!(flags, libc::FD_CLOEXEC);
                let mut text = String::new();
                File::from(fd).read_to_string(&mut text).unwrap();
            }
        }
        let file = File::open("/proc/self/comm").unwrap();
        let many = vec![file.as_fd(); SCM_MAX_FD + 1];
        assert_eq!(send(one.as_fd(), b"a", &many).unwrap_err().raw_os_error(), Some(libc::EINVAL));
        drop(one);
        assert_eq!(receive(other.as_fd(), &mut buffer).unwrap().bytes, 0);
    }
}
