//! The calls that no safe crate of ours has: a descriptor that was inherited, the groups of a peer,
//! the size of a terminal, and memory given back.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

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
