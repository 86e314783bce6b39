//! What a file or a device reads as where nothing was written: found, or made so.

use std::fs::File;
use std::os::unix::fs::{FileExt, FileTypeExt};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::{Whence, lseek};

use crate::ext4::unfit::Unfit;

/// Makes zero what is not, from `from` to `to`; holes are not read.
pub(crate) fn clear(file: &File, from: u64, to: u64) -> Result<(), Unfit> {
    let zeros = vec![0; 1 << 20];
    let mut buffer = zeros.clone();
    let mut at = from;
    while at < to {
        at = match next_data(file, at)? {
            Some(next) if next < to => next,
            Some(_) | None => return Ok(()),
        };
        let len = usize::try_from(to - at).unwrap_or(usize::MAX).min(zeros.len());
        file.read_exact_at(&mut buffer[..len], at).map_err(Unfit::read)?;
        if buffer[..len] != zeros[..len] {
            file.write_all_at(&zeros[..len], at).map_err(Unfit::write)?;
        }
        at += len as u64;
    }
    Ok(())
}

/// What direct reads are aligned to: no disk has larger sectors than a page.
const PAGE: usize = 4096;

/// Where the first byte is that is not zero; holes are not read. A device is read past the page cache, of which a
/// large empty one would take all.
pub(crate) fn first_byte(file: &File, bytes: u64) -> Result<Option<u64>, Unfit> {
    let flags = fcntl(file, FcntlArg::F_GETFL).map_err(|errno| Unfit::read(errno.into()))?;
    let flags = OFlag::from_bits_retain(flags);
    let is_device = file.metadata().map_err(Unfit::read)?.file_type().is_block_device();
    if is_device && fcntl(file, FcntlArg::F_SETFL(flags | OFlag::O_DIRECT)).is_ok() {
        let found = first_byte_read(file, bytes);
        fcntl(file, FcntlArg::F_SETFL(flags)).map_err(|errno| Unfit::read(errno.into()))?;
        match found {
            // It has larger sectors than the end of the file system is a multiple of.
            Err(Unfit::Io { source, .. }) if source.raw_os_error() == Some(libc::EINVAL) => {}
            found => return found,
        }
    }
    first_byte_read(file, bytes)
}

fn first_byte_read(file: &File, bytes: u64) -> Result<Option<u64>, Unfit> {
    let mut memory = vec![0; (1 << 20) + PAGE];
    let start = memory.as_ptr().align_offset(PAGE).min(PAGE);
    let buffer = &mut memory[start..start + (1 << 20)];
    let mut at = 0;
    while at < bytes {
        at = match next_data(file, at)? {
            Some(next) => next,
            None => return Ok(None),
        };
        let len = usize::try_from(bytes.saturating_sub(at)).unwrap_or(usize::MAX).min(buffer.len());
        let piece = &mut buffer[..len];
        file.read_exact_at(piece, at).map_err(Unfit::read)?;
        if let Some(found) = piece.iter().position(|&byte| byte != 0) {
            return Ok(Some(at + found as u64));
        }
        at += len as u64;
    }
    Ok(None)
}

/// Where the next bytes are that may not be zero, from `at` on. A device has no holes that could be asked for.
fn next_data(file: &File, at: u64) -> Result<Option<u64>, Unfit> {
    let from = i64::try_from(at).unwrap_or(i64::MAX);
    match lseek(file, from, Whence::SeekData) {
        Ok(next) => Ok(Some(next.cast_unsigned())),
        Err(Errno::ENXIO) => Ok(None),
        Err(Errno::EINVAL) => Ok(Some(at)),
        Err(errno) => Err(Unfit::read(errno.into())),
    }
}
