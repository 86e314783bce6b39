//! The bytes of a file: out of the archive into an open file, hashed here where nobody else does.
//!
//! A plain body is hashed where its buffer goes next (`content`). What is hashed here are the bodies
//! whose bytes are not the file's: those of sparse files, whose holes are in no buffer. What the
//! parts are was checked in `sparse`.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::uio::pwrite;
use nix::unistd::{ftruncate, write};

use crate::archive::Archive;
use crate::archive::buffers::Buffers;
use crate::archive::sparse::Parts;
use crate::error::Fault;
use crate::error::refusal::{Class, Refusal};
use crate::sha::Sha256;
use crate::sys;
use crate::tree::budget::Budget;

/// Bytes of a file after which the kernel is told to begin writing them out: the disk then works
/// beside us, and not for the one who syncs in the end.
const WRITE_OUT: u64 = 8 << 20;

/// Zeros that are hashed at a time.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Why a file cannot become `size` bytes: by this process's own limit (setrlimit(2), RLIMIT_FSIZE), which
/// says nothing about the layer, or by the file system.
pub(crate) fn too_big(path: &[u8], size: u64, file_size_max: u64) -> Fault {
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
    let rule = "this file system cannot hold a file of that size";
    Refusal::new(Class::Fs, rule).number(size).into()
}

/// A file being written: what it is, how large it will be, and how large this process may make one.
pub(crate) struct Sink<'a> {
    pub(crate) fd: &'a OwnedFd,
    pub(crate) path: &'a [u8],
    pub(crate) size: u64,
    pub(crate) file_size_max: u64,
}

impl Sink<'_> {
    fn fault(&self, call: &'static str, errno: Errno) -> Fault {
        match errno {
            Errno::EFBIG => too_big(self.path, self.size, self.file_size_max),
            errno => Fault::fs(call, self.path)(errno),
        }
    }

    /// Writes the current body of the archive, and if `early` has the kernel write it out beside us.
    /// Its digest follows from whoever hashes the buffers.
    pub(crate) fn write(
        &self,
        early: bool,
        archive: &mut Archive<'_, Buffers>,
    ) -> Result<(), Fault> {
        let (mut written, mut begun) = (0, 0);
        loop {
            let piece = archive.chunk()?;
            if piece.is_empty() {
                if early && written > begun {
                    sys::begin_writing_out(self.fd.as_fd(), begun);
                }
                archive.end_content();
                return Ok(());
            }
            let len = match write(self.fd, piece) {
                Ok(len) => len,
                Err(Errno::EINTR) => continue,
                Err(errno) => return Err(self.fault("write", errno)),
            };
            archive.consume_content(len);
            written += len as u64;
            if early && written - begun >= WRITE_OUT {
                sys::begin_writing_out(self.fd.as_fd(), begun);
                begun = written;
            }
        }
    }

    /// Writes the current body to where its parts belong; the rest is holes. Gives the digest of the
    /// whole, void unless `hash` is wanted.
    pub(crate) fn write_parts(
        &self,
        parts: &Parts,
        hash: Sha256,
        archive: &mut Archive<'_, Buffers>,
        budget: &mut Budget,
    ) -> Result<[u8; 32], Fault> {
        let digest = spread(parts, self.size, hash, archive, budget, |mut at, mut piece| {
            while !piece.is_empty() {
                match pwrite(self.fd, piece, i64::try_from(at).unwrap_or(i64::MAX)) {
                    Ok(len) => {
                        piece = &piece[len..];
                        at += len as u64;
                    }
                    Err(Errno::EINTR) => {}
                    Err(errno) => return Err(self.fault("write", errno)),
                }
            }
            Ok(())
        })?;
        let end = i64::try_from(self.size).unwrap_or(i64::MAX);
        ftruncate(self.fd, end).map_err(|errno| self.fault("set the size of", errno))?;
        Ok(digest)
    }
}

/// The digest of the current body, with its holes if it has any.
pub(crate) fn digest(
    size: u64,
    archive: &mut Archive<'_, Buffers>,
    budget: &mut Budget,
) -> Result<[u8; 32], Fault> {
    let parts = archive.take_parts().unwrap_or_else(|| vec![(0, size)]);
    spread(&parts, size, Sha256::new(), archive, budget, |_, _| Ok(()))
}

/// Reads the current body to its end, hands each piece to `put` with the place where it belongs, and
/// hashes them with the holes before, between and after the parts.
fn spread(
    parts: &Parts,
    size: u64,
    mut hash: Sha256,
    archive: &mut Archive<'_, Buffers>,
    budget: &mut Budget,
    mut put: impl FnMut(u64, &[u8]) -> Result<(), Fault>,
) -> Result<[u8; 32], Fault> {
    let mut end = 0;
    for &(offset, len) in parts {
        zeros(&mut hash, offset - end, budget)?;
        let mut at = offset;
        end = offset + len;
        while at < end {
            budget.step()?;
            let piece = archive.chunk()?;
            let len = usize::try_from(end - at).unwrap_or(usize::MAX).min(piece.len());
            if len == 0 {
                break;
            }
            let piece = &piece[..len];
            hash.update(piece);
            put(at, piece)?;
            archive.consume(len);
            at += len as u64;
        }
    }
    zeros(&mut hash, size - end, budget)?;
    Ok(hash.finish())
}

/// Hashes a hole: it costs nobody bytes, so the clocks are looked at.
fn zeros(hash: &mut Sha256, mut len: u64, budget: &mut Budget) -> Result<(), Refusal> {
    if !hash.is_wanted() {
        return Ok(());
    }
    while len > 0 {
        budget.step()?;
        let now = usize::try_from(len).unwrap_or(usize::MAX).min(ZEROS.len());
        hash.update(&ZEROS[..now]);
        len -= now as u64;
    }
    Ok(())
}
