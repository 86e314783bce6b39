//! What is in a file: its digest, and the target of a symlink.

use crate::error::Fault;
use crate::error::image::{Flaw, FlawKind};
use crate::ext4::format::decode_bytes::index;
use crate::ext4::format::decode_inode::Inode;
use crate::ext4::read::image::Image;
use crate::ext4::read::map::{Run, named, runs};
use crate::record::Hashed;
use crate::record::piece::{Parts, Piece, push};
use crate::sha::Sha256;

/// Bytes read at a time.
const PIECE: usize = 256 << 10;

/// Bytes of a target that a system call gives (`PATH_MAX` without its NUL).
const TARGET_MAX: u64 = 4095;

static ZEROS: [u8; PIECE] = [0; PIECE];

/// Hands a file's bytes to `each`, piece by piece: holes and what was never written as zeros.
pub(crate) fn bytes(
    image: &mut Image<'_>,
    inode: &Inode,
    each: &mut dyn FnMut(&[u8]),
) -> Result<(), Fault> {
    pieces(image, inode, &mut |piece| {
        match piece {
            Piece::Bytes(bytes) => each(bytes),
            Piece::Zeros(len) => each(ZEROS.get(..index(len)).unwrap_or(&ZEROS)),
        }
        Ok(())
    })
}

/// Hands a file to `each`, piece by piece, of at most 256 KiB each; what is in none of its blocks as zeros.
pub(crate) fn pieces(
    image: &mut Image<'_>,
    inode: &Inode,
    each: &mut dyn FnMut(Piece<'_>) -> Result<(), Fault>,
) -> Result<(), Fault> {
    image.cost.file(inode.size)?;
    let block_size = u64::from(image.sup.block_size);
    let blocks = inode.size.div_ceil(block_size);
    let mut buffer = vec![0; PIECE];
    runs(image, inode, blocks, &mut |image: &mut Image<'_>, run: Run| {
        let start = run.logical * block_size;
        let mut left = (run.len * block_size).min(inode.size - start);
        let mut at = run.at;
        while left > 0 {
            let len = index(left).min(PIECE);
            match at {
                None => {
                    image.cost.step()?;
                    each(Piece::Zeros(len as u64))?;
                }
                Some(block) => {
                    image.read_file(block, &mut buffer[..len])?;
                    each(Piece::Bytes(&buffer[..len]))?;
                    at = Some(block + len as u64 / block_size);
                }
            }
            left -= len as u64;
        }
        Ok(())
    })
}

/// Where a file has blocks, in order; `None` where that is in more than `max` parts.
pub(crate) fn parts(
    image: &mut Image<'_>,
    inode: &Inode,
    max: usize,
) -> Result<Option<Parts>, Fault> {
    let block_size = u64::from(image.sup.block_size);
    let mut parts = Parts::new();
    runs(image, inode, inode.size.div_ceil(block_size), &mut |image, run: Run| {
        image.cost.step()?;
        let start = run.logical * block_size;
        if run.at.is_some() && parts.len() <= max {
            push(&mut parts, start, (run.len * block_size).min(inode.size - start));
        }
        Ok(())
    })?;
    Ok((parts.len() <= max).then_some(parts))
}

/// Size and digest of a regular file.
pub(crate) fn hashed(image: &mut Image<'_>, inode: &Inode) -> Result<Hashed, Fault> {
    let mut hash = Sha256::new();
    bytes(image, inode, &mut |piece| hash.update(piece))?;
    Ok((inode.size, hash.finish()))
}

/// The target of a symlink. The kernel gives what comes before the first NUL; nobody writes another.
pub(crate) fn target(image: &mut Image<'_>, inode: &Inode) -> Result<Vec<u8>, Fault> {
    let bad = |rule| named(Flaw::new(FlawKind::Inode, rule).value(inode.size).into(), inode.number);
    let most = match inode.is_fast {
        true => inode.map.len() as u64 - 1,
        false => TARGET_MAX.min(u64::from(image.sup.block_size) - 1),
    };
    if inode.size == 0 || inode.size > most {
        return Err(bad("the target of a symlink is empty or too long"));
    }
    let mut target = Vec::new();
    match inode.is_fast {
        true => target.extend_from_slice(&inode.map[..index(inode.size)]),
        false => bytes(image, inode, &mut |piece| target.extend_from_slice(piece))?,
    }
    match target.contains(&0) {
        true => Err(bad("the target of a symlink holds a NUL")),
        false => Ok(target),
    }
}
