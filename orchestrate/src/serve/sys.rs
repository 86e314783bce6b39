//! The two calls that no safe crate has: a descriptor that was inherited, and the groups of a peer.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::libc;

/// Takes over a descriptor that this process was started with.
///
/// # Errors
/// `EBADF` when it is not open.
pub(super) fn inherited(fd: RawFd) -> io::Result<OwnedFd> {
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
pub(super) fn peer_groups(socket: BorrowedFd<'_>) -> io::Result<Vec<libc::gid_t>> {
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
