//! A file as a block device: `LOOP_CONFIGURE` and friends, each result read back, because the
//! kernel drops direct I/O without a word. Knows nothing of pools.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use crate::error::Error;
use crate::format::units::Dev;
use crate::kernel::{node, sys};

/// `LO_FLAGS_*`.
const READ_ONLY: u32 = 1;
const AUTOCLEAR: u32 = 4;
const DIRECT_IO: u32 = 16;

/// Another process may take the free number first.
const TRIES: u32 = 64;

/// How to attach a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LoopOptions {
    /// Past the page cache: without it every block is cached twice. It is asked for; whether it
    /// holds is in [`Loop::direct_io`].
    pub direct_io: bool,
    /// Detach at the last close: while a pool holds it that is when the pool goes, so a killed
    /// process leaves no loop device.
    pub autoclear: bool,
    /// Refuse writes.
    pub read_only: bool,
}

impl Default for LoopOptions {
    fn default() -> LoopOptions {
        LoopOptions { direct_io: true, autoclear: true, read_only: false }
    }
}

/// An attached loop device. Dropping it closes our descriptor, which detaches one made with
/// `autoclear` unless something else holds it.
#[derive(Debug)]
pub struct Loop {
    path: PathBuf,
    dev: Dev,
    file: File,
    bytes: u64,
    flags: u32,
}

impl Loop {
    /// `/dev/loopN`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its number, for a table.
    pub fn dev(&self) -> Dev {
        self.dev
    }

    /// Its size.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether direct I/O is really on.
    pub fn direct_io(&self) -> bool {
        self.flags & DIRECT_IO != 0
    }

    /// Whether it goes at its last close.
    pub fn autoclear(&self) -> bool {
        self.flags & AUTOCLEAR != 0
    }

    /// Detaches now, or at the last close while something holds it.
    ///
    /// # Errors
    /// [`Error::Io`] with the kernel's answer.
    pub fn detach(self) -> Result<(), Error> {
        match sys::loop_clear(self.file.as_fd()) {
            // Not attached any more is what was wanted.
            Ok(()) | Err(Errno::ENXIO) => Ok(()),
            Err(errno) => Err(Error::errno("detach", &self.path, errno)),
        }
    }

    /// Takes the file's new size, and reads it back.
    ///
    /// # Errors
    /// [`Error::Io`] with the kernel's answer.
    pub fn refresh_size(&mut self) -> Result<u64, Error> {
        sys::loop_set_capacity(self.file.as_fd())
            .map_err(|errno| Error::errno("resize", &self.path, errno))?;
        self.bytes = sys::block_bytes(self.file.as_fd())
            .map_err(|errno| Error::errno("size of", &self.path, errno))?;
        Ok(self.bytes)
    }
}

/// Attaches `file` to a free loop device and reads size and flags back.
///
/// # Errors
/// [`Error::Io`]; EBUSY when no free device could be had.
pub fn attach(file: &Path, options: LoopOptions) -> Result<Loop, Error> {
    let backing = OpenOptions::new()
        .read(true)
        .write(!options.read_only)
        .open(file)
        .map_err(|err| Error::io("open", file, err))?;
    let meta = backing.metadata().map_err(|err| Error::io("look at", file, err))?;
    let control = open_control()?;
    let mut info = sys::LoopInfo::ZERO;
    for (bit, wanted) in [
        (READ_ONLY, options.read_only),
        (AUTOCLEAR, options.autoclear),
        (DIRECT_IO, options.direct_io),
    ] {
        info.flags |= if wanted { bit } else { 0 };
    }
    let name = file.as_os_str().as_encoded_bytes();
    let kept = name.len().min(info.file_name.len() - 1);
    info.file_name[..kept].copy_from_slice(&name[..kept]);
    let fd = u32::try_from(backing.as_raw_fd())
        .map_err(|_| Error::errno("attach", file, Errno::EBADF))?;
    let config = sys::LoopConfig { fd, block_size: 0, info, reserved: [0; 8] };
    for _ in 0..TRIES {
        let number = sys::loop_free(control.as_fd())
            .map_err(|errno| Error::errno("free loop device", "/dev/loop-control", errno))?;
        let path = PathBuf::from(format!("/dev/loop{number}"));
        let device = open_loop(&path, number, !options.read_only)?;
        match sys::loop_configure(device.as_fd(), &config) {
            Ok(()) => return verified(path, device, &meta, file),
            Err(Errno::EBUSY) => {}
            Err(errno) => return Err(Error::errno("attach", file, errno)),
        }
    }
    Err(Error::errno("attach", file, Errno::EBUSY))
}

/// The loop device whose backing file is `file`, by device and inode (the name it keeps is cut
/// at 64 bytes and may be stale).
///
/// # Errors
/// [`Error::Io`].
pub fn find_by_backing(file: &Path) -> Result<Option<Loop>, Error> {
    let meta = std::fs::metadata(file).map_err(|err| Error::io("look at", file, err))?;
    let list = match std::fs::read_dir("/sys/block") {
        Ok(list) => list,
        Err(err) => return Err(Error::io("list", "/sys/block", err)),
    };
    for entry in list.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(number) = name.strip_prefix("loop").and_then(|n| n.parse::<i32>().ok()) else {
            continue;
        };
        // Only an attached one has this file; opening the others would be noise.
        if !entry.path().join("loop/backing_file").exists() {
            continue;
        }
        let path = PathBuf::from(format!("/dev/{name}"));
        let Ok(device) = open_loop(&path, number, false) else { continue };
        match sys::loop_status(device.as_fd()) {
            Ok(info) if info.device == meta.dev() && info.inode == meta.ino() => {
                // Read-write now, if it is: the size may have to be refreshed through it.
                let device = open_loop(&path, number, info.flags & READ_ONLY == 0)?;
                return verified(path, device, &meta, file).map(Some);
            }
            Ok(_) | Err(_) => {}
        }
    }
    Ok(None)
}

/// Detaches the loop device at `path`.
///
/// # Errors
/// [`Error::Io`].
pub fn detach(path: &Path) -> Result<(), Error> {
    let device = File::open(path).map_err(|err| Error::io("open", path, err))?;
    match sys::loop_clear(device.as_fd()) {
        Ok(()) | Err(Errno::ENXIO) => Ok(()),
        Err(errno) => Err(Error::errno("detach", path, errno)),
    }
}

fn open_control() -> Result<File, Error> {
    let path = Path::new("/dev/loop-control");
    OpenOptions::new().read(true).write(true).open(path).map_err(|err| {
        match err.raw_os_error().map(Errno::from_raw) {
            Some(errno @ (Errno::EACCES | Errno::EPERM)) => {
                Error::Denied { what: "open /dev/loop-control".to_owned(), errno }
            }
            _ => Error::io("open (run `modprobe loop`?)", path, err),
        }
    })
}

fn open_loop(path: &Path, number: i32, write: bool) -> Result<File, Error> {
    let open =
        || OpenOptions::new().read(true).write(write).custom_flags(libc::O_CLOEXEC).open(path);
    match open() {
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => {
            // Where /dev is no devtmpfs: loop devices are major 7.
            let minor = u32::try_from(number).unwrap_or(0);
            let mode = nix::sys::stat::Mode::S_IRUSR | nix::sys::stat::Mode::S_IWUSR;
            let dev = Dev { major: 7, minor };
            nix::sys::stat::mknod(path, nix::sys::stat::SFlag::S_IFBLK, mode, dev.to_stat())
                .map_err(|errno| Error::errno("make node", path, errno))?;
            open().map_err(|err| Error::io("open", path, err))
        }
        other => other.map_err(|err| Error::io("open", path, err)),
    }
}

fn verified(
    path: PathBuf,
    device: File,
    backing: &std::fs::Metadata,
    file: &Path,
) -> Result<Loop, Error> {
    let info = sys::loop_status(device.as_fd())
        .map_err(|errno| Error::errno("status of", &path, errno))?;
    let bytes =
        sys::block_bytes(device.as_fd()).map_err(|errno| Error::errno("size of", &path, errno))?;
    let expected = backing.len() / 512 * 512;
    let same = info.device == backing.dev() && info.inode == backing.ino();
    if !same || info.offset != 0 || info.sizelimit != 0 {
        return Err(Error::Refused {
            path,
            why: format!("it is not a plain loop of {}", file.display()),
            hint: "detach it, then try again",
        });
    }
    if bytes > expected {
        return Err(Error::Refused {
            path,
            why: format!("it has {bytes} bytes, {} has {expected}", file.display()),
            hint: "the file was cut while attached: restore it before anything writes",
        });
    }
    let dev = node::block_dev(&path)
        .map_err(|err| Error::io("look at", &path, err))?
        .ok_or_else(|| Error::errno("look at", &path, Errno::ENOTBLK))?;
    Ok(Loop { path, dev, file: device, bytes, flags: info.flags })
}
