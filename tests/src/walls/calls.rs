//! What only an attacker calls: the system calls for which no safe crate has a function.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use nix::libc;

fn done(got: i64) -> io::Result<()> {
    if got < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// tgkill(2).
pub(super) fn tgkill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: takes numbers and touches no memory.
    done(unsafe { libc::syscall(libc::SYS_tgkill, pid, pid, signal) })
}

/// Has the kernel send `signal` to `pid` when something happens to the fd (fcntl(2), F_SETOWN and F_SETSIG).
pub(super) fn signal_by_fd(fd: BorrowedFd<'_>, pid: i32, signal: i32) -> io::Result<()> {
    /// asm-generic/fcntl.h.
    const F_SETSIG: i32 = 10;
    let fd = fd.as_raw_fd();
    // SAFETY: sets a number of the descriptor's; no memory is touched.
    done(unsafe { libc::fcntl(fd, libc::F_SETOWN, pid) }.into())?;
    // SAFETY: as above.
    done(unsafe { libc::fcntl(fd, F_SETSIG, signal) }.into())?;
    // SAFETY: as above.
    done(unsafe { libc::fcntl(fd, libc::F_SETFL, libc::O_ASYNC) }.into())
}

/// A page that can be written and run.
pub(super) fn map_code() -> io::Result<()> {
    let rights = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), 4096, rights, flags, -1, 0) };
    if at == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A page that is made one that can be run.
pub(super) fn protect_code() -> io::Result<()> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_READ, flags, -1, 0) };
    // SAFETY: the page is the one just made, and nothing refers to it.
    done(unsafe { libc::mprotect(at, 4096, libc::PROT_READ | libc::PROT_EXEC) }.into())
}

/// A second process, which ends at once.
pub(super) fn fork() -> io::Result<()> {
    // SAFETY: this process has one thread, and the new one only ends.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: ends the process; nothing of it is used again.
        unsafe { libc::_exit(0) }
    }
    done(pid.into())
}
