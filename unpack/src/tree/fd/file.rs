//! The bytes of a file, into an open one.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::uio::pwrite;
use nix::unistd::{ftruncate, write};

use crate::error::Fault;
use crate::sys;
use crate::tree::sink::{Body, cannot_hold_size};

/// Bytes of a file after which the kernel is told to begin writing them out: the disk then works
/// beside us, and not for the one who syncs in the end.
const WRITE_OUT: u64 = 8 << 20;

/// Why a file cannot become `size` bytes: by this process's own limit (setrlimit(2), RLIMIT_FSIZE), which
/// says nothing about the layer, or by the file system.
fn too_big(path: &[u8], size: u64, file_size_max: u64) -> Fault {
    if size > file_size_max {
        let call = format!(
            "write {size} bytes under this process's limit on file sizes (ulimit -f) of \
             {file_size_max} bytes: raise that for"
        );
        let source = Errno::EFBIG.into();
        return Fault::Fs {
            call: call.into(),
            name: crate::error::refusal::cut(path).to_vec(),
            source,
        };
    }
    cannot_hold_size(size)
}

/// A file being written.
#[derive(Debug)]
pub(crate) struct File {
    fd: OwnedFd,
    /// How large it will be.
    size: u64,
    /// Whether it has holes.
    sparse: bool,
    /// Whether the kernel writes it out beside us.
    early: bool,
    /// Bytes that were written, and those of them that the kernel was told to write out.
    written: u64,
    begun: u64,
    /// How large a file this process may make.
    file_size_max: u64,
}

impl AsFd for File {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl File {
    pub(crate) fn new(fd: OwnedFd, body: &Body<'_>, early: bool, file_size_max: u64) -> File {
        let (size, sparse) = (body.size, body.parts.is_some());
        let early = early && !sparse;
        File { fd, size, sparse, early, written: 0, begun: 0, file_size_max }
    }

    fn fault(&self, call: &'static str, path: &[u8], errno: Errno) -> Fault {
        match errno {
            Errno::EFBIG => too_big(path, self.size, self.file_size_max),
            errno => Fault::fs(call, path)(errno),
        }
    }

    /// Takes its place; `false` if the file system does not know how.
    pub(crate) fn preallocate(&self, path: &[u8]) -> Result<bool, Fault> {
        if self.size == 0 || !self.early {
            return Ok(true);
        }
        let len = i64::try_from(self.size).unwrap_or(i64::MAX);
        match fallocate(&self.fd, FallocateFlags::empty(), 0, len) {
            Ok(()) => Ok(true),
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => Ok(false),
            Err(errno) => Err(self.fault("allocate", path, errno)),
        }
    }

    /// Writes a piece to where it belongs.
    pub(crate) fn write(
        &mut self,
        path: &[u8],
        mut offset: u64,
        mut piece: &[u8],
    ) -> Result<(), Fault> {
        while !piece.is_empty() {
            let done = match self.sparse {
                // The pieces of a whole file follow one another.
                false => write(&self.fd, piece),
                true => pwrite(&self.fd, piece, i64::try_from(offset).unwrap_or(i64::MAX)),
            };
            match done {
                Ok(len) => {
                    piece = &piece[len..];
                    offset += len as u64;
                    self.written += len as u64;
                }
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(self.fault("write", path, errno)),
            }
        }
        if self.early && self.written - self.begun >= WRITE_OUT {
            self.begin_writing_out();
        }
        Ok(())
    }

    /// Every piece was written.
    pub(crate) fn end(&mut self, path: &[u8]) -> Result<(), Fault> {
        if self.early && self.written > self.begun {
            self.begin_writing_out();
        }
        if self.sparse {
            let end = i64::try_from(self.size).unwrap_or(i64::MAX);
            ftruncate(&self.fd, end).map_err(|errno| self.fault("set the size of", path, errno))?;
        }
        Ok(())
    }

    fn begin_writing_out(&mut self) {
        sys::begin_writing_out(self.fd.as_fd(), self.begun);
        self.begun = self.written;
    }
}
