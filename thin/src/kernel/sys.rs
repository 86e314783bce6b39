//! The one file of this crate with `unsafe`: each function is one system call, checked, and
//! turned into an errno or a safe value. Numbers and layouts are the kernel's, pinned below.
#![allow(unsafe_code, reason = "ioctls and mount calls that no safe crate wraps")]

use std::ffi::CStr;
use std::mem::{offset_of, size_of};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use nix::errno::Errno;

/// `LOOP_CTL_GET_FREE` and the like, from `include/uapi/linux/loop.h`.
const LOOP_CTL_GET_FREE: u32 = 0x4c82;
const LOOP_CONFIGURE: u32 = 0x4c0a;
const LOOP_CLR_FD: u32 = 0x4c01;
const LOOP_GET_STATUS64: u32 = 0x4c05;
const LOOP_SET_CAPACITY: u32 = 0x4c07;
/// From `include/uapi/linux/fs.h`.
const BLKGETSIZE64: u32 = 0x8008_1272;
const BLKDISCARD: u32 = 0x1277;
/// From `fs/ext4/ext4.h`: `_IOW('f', 16, __u64)`.
const EXT4_IOC_RESIZE_FS: u32 = 0x4008_6610;

/// `struct loop_info64`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct LoopInfo {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) rdevice: u64,
    pub(crate) offset: u64,
    pub(crate) sizelimit: u64,
    pub(crate) number: u32,
    pub(crate) encrypt_type: u32,
    pub(crate) encrypt_key_size: u32,
    pub(crate) flags: u32,
    pub(crate) file_name: [u8; 64],
    pub(crate) crypt_name: [u8; 64],
    pub(crate) encrypt_key: [u8; 32],
    pub(crate) init: [u64; 2],
}

/// `struct loop_config`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct LoopConfig {
    pub(crate) fd: u32,
    pub(crate) block_size: u32,
    pub(crate) info: LoopInfo,
    pub(crate) reserved: [u64; 8],
}

const _: () = assert!(size_of::<LoopInfo>() == 232);
const _: () = assert!(offset_of!(LoopInfo, flags) == 52);
const _: () = assert!(offset_of!(LoopInfo, file_name) == 56);
const _: () = assert!(size_of::<LoopConfig>() == 304);
const _: () = assert!(offset_of!(LoopConfig, info) == 8);

impl LoopInfo {
    pub(crate) const ZERO: LoopInfo = LoopInfo {
        device: 0,
        inode: 0,
        rdevice: 0,
        offset: 0,
        sizelimit: 0,
        number: 0,
        encrypt_type: 0,
        encrypt_key_size: 0,
        flags: 0,
        file_name: [0; 64],
        crypt_name: [0; 64],
        encrypt_key: [0; 32],
        init: [0; 2],
    };
}

/// A page-aligned buffer, as O_DIRECT asks for. Safe by its alignment alone.
#[repr(C, align(4096))]
#[derive(Clone, Debug)]
pub(crate) struct Page(pub(crate) [u8; 4096]);

/// One device-mapper ioctl. `buf` starts with a `struct dm_ioctl` whose `data_size` is its length.
pub(crate) fn dm(fd: BorrowedFd<'_>, request: u32, buf: &mut [u8]) -> Result<(), Errno> {
    assert!(buf.len() >= crate::format::wire::HEADER, "shorter than struct dm_ioctl");
    // SAFETY: the kernel reads and writes at most `data_size` bytes at the pointer; `wire.rs`
    // sets that field to the buffer's length, and the slice is exclusively ours for the call.
    let code = unsafe { libc::ioctl(fd.as_raw_fd(), request.into(), buf.as_mut_ptr()) };
    Errno::result(code).map(drop)
}

/// `LOOP_CTL_GET_FREE`: the number of a free loop device.
pub(crate) fn loop_free(control: BorrowedFd<'_>) -> Result<i32, Errno> {
    // SAFETY: takes no argument, returns a number or -1.
    let code = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE.into()) };
    Errno::result(code)
}

/// `LOOP_CONFIGURE`.
pub(crate) fn loop_configure(fd: BorrowedFd<'_>, config: &LoopConfig) -> Result<(), Errno> {
    // SAFETY: the kernel reads one `struct loop_config`, whose layout is asserted above.
    let code = unsafe {
        libc::ioctl(fd.as_raw_fd(), LOOP_CONFIGURE.into(), ptr::from_ref::<LoopConfig>(config))
    };
    Errno::result(code).map(drop)
}

/// `LOOP_GET_STATUS64`; ENXIO when the device has no file.
pub(crate) fn loop_status(fd: BorrowedFd<'_>) -> Result<LoopInfo, Errno> {
    let mut info = LoopInfo::ZERO;
    // SAFETY: the kernel writes one `struct loop_info64`, whose layout is asserted above.
    let code = unsafe {
        libc::ioctl(fd.as_raw_fd(), LOOP_GET_STATUS64.into(), ptr::from_mut::<LoopInfo>(&mut info))
    };
    Errno::result(code).map(|_| info)
}

/// `LOOP_CLR_FD`: detaches now, or at the last close when something holds it.
pub(crate) fn loop_clear(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: takes no argument.
    let code = unsafe { libc::ioctl(fd.as_raw_fd(), LOOP_CLR_FD.into()) };
    Errno::result(code).map(drop)
}

/// `LOOP_SET_CAPACITY`: takes the file's new size.
pub(crate) fn loop_set_capacity(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: takes no argument.
    let code = unsafe { libc::ioctl(fd.as_raw_fd(), LOOP_SET_CAPACITY.into()) };
    Errno::result(code).map(drop)
}

/// `BLKGETSIZE64`: the size of a block device in bytes.
pub(crate) fn block_bytes(fd: BorrowedFd<'_>) -> Result<u64, Errno> {
    let mut bytes = 0_u64;
    // SAFETY: the kernel writes one u64 (its `size_t` is 8 bytes on every 64-bit target).
    let code = unsafe {
        libc::ioctl(fd.as_raw_fd(), BLKGETSIZE64.into(), ptr::from_mut::<u64>(&mut bytes))
    };
    Errno::result(code).map(|_| bytes)
}

/// `BLKDISCARD`: gives these bytes of a block device back; a thin reads them as zeros then.
pub(crate) fn discard(fd: BorrowedFd<'_>, begin: u64, bytes: u64) -> Result<(), Errno> {
    let range = [begin, bytes];
    // SAFETY: the kernel reads two u64.
    let code = unsafe { libc::ioctl(fd.as_raw_fd(), BLKDISCARD.into(), range.as_ptr()) };
    Errno::result(code).map(drop)
}

/// `EXT4_IOC_RESIZE_FS`: grows the file system that holds `dir` to `blocks` of its own blocks.
pub(crate) fn ext4_resize(dir: BorrowedFd<'_>, blocks: u64) -> Result<(), Errno> {
    // SAFETY: the kernel reads one u64.
    let code = unsafe {
        libc::ioctl(dir.as_raw_fd(), EXT4_IOC_RESIZE_FS.into(), ptr::from_ref::<u64>(&blocks))
    };
    Errno::result(code).map(drop)
}

/// Flags of the mount calls, from `include/uapi/linux/mount.h`.
pub(crate) mod mount {
    pub(crate) const FSOPEN_CLOEXEC: u32 = 1;
    pub(crate) const FSMOUNT_CLOEXEC: u32 = 1;
    pub(crate) const SET_FLAG: u32 = 0;
    pub(crate) const SET_STRING: u32 = 1;
    pub(crate) const CMD_CREATE: u32 = 6;
    pub(crate) const ATTR_RDONLY: u32 = 0x01;
    pub(crate) const ATTR_NOSUID: u32 = 0x02;
    pub(crate) const ATTR_NODEV: u32 = 0x04;
    pub(crate) const ATTR_NOEXEC: u32 = 0x08;
    pub(crate) const ATTR_NOATIME: u32 = 0x10;
    pub(crate) const MOVE_FROM_EMPTY_PATH: u32 = 0x04;
}

fn owned(code: libc::c_long) -> Result<OwnedFd, Errno> {
    let fd = Errno::result(code)?;
    let fd = RawFd::try_from(fd).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just made this descriptor for us and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `fsopen(2)`.
pub(crate) fn fsopen(fstype: &CStr, flags: u32) -> Result<OwnedFd, Errno> {
    // SAFETY: the string is NUL-terminated and outlives the call.
    owned(unsafe { libc::syscall(libc::SYS_fsopen, fstype.as_ptr(), flags) })
}

/// `fsconfig(2)` with a key and, for strings, a value.
pub(crate) fn fsconfig(
    fd: BorrowedFd<'_>,
    command: u32,
    key: Option<&CStr>,
    value: Option<&CStr>,
) -> Result<(), Errno> {
    let key = key.map_or(ptr::null(), CStr::as_ptr);
    let value = value.map_or(ptr::null(), CStr::as_ptr);
    // SAFETY: both strings are NUL-terminated or null and outlive the call; aux is unused.
    let code = unsafe { libc::syscall(libc::SYS_fsconfig, fd.as_raw_fd(), command, key, value, 0) };
    Errno::result(code).map(drop)
}

/// `fsmount(2)`.
pub(crate) fn fsmount(fd: BorrowedFd<'_>, flags: u32, attributes: u32) -> Result<OwnedFd, Errno> {
    // SAFETY: takes integers only.
    owned(unsafe { libc::syscall(libc::SYS_fsmount, fd.as_raw_fd(), flags, attributes) })
}

/// `move_mount(2)`: a whole detached mount to `target`, from the working directory on.
pub(crate) fn move_mount(mount: BorrowedFd<'_>, target: &CStr) -> Result<(), Errno> {
    let (from, empty, here) = (mount.as_raw_fd(), c"".as_ptr(), libc::AT_FDCWD);
    let flags = self::mount::MOVE_FROM_EMPTY_PATH;
    // SAFETY: both strings are NUL-terminated and outlive the call.
    let code =
        unsafe { libc::syscall(libc::SYS_move_mount, from, empty, here, target.as_ptr(), flags) };
    Errno::result(code).map(drop)
}
