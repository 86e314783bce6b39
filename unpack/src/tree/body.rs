//! The bytes of a file: out of the archive into what is being written, hashed here where nobody else does.
//!
//! A plain body is hashed where its buffer goes next (`content`). What is hashed here are the bodies
//! whose bytes are not the file's: those of sparse files, whose holes are in no buffer. What the
//! parts are was checked in `sparse`.

use crate::archive::Archive;
use crate::archive::buffers::Buffers;
use crate::error::Fault;
use crate::error::refusal::Refusal;
use crate::sha::Sha256;
use crate::tree::budget::Budget;

/// Zeros that are hashed at a time.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Hands the current body on in pieces, each with the offset where it belongs. Its digest follows from
/// whoever hashes the buffers.
pub(crate) fn pass(
    archive: &mut Archive<'_, Buffers>,
    mut put: impl FnMut(u64, &[u8]) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let mut offset = 0;
    loop {
        let piece = archive.chunk()?;
        let len = piece.len();
        if len == 0 {
            archive.end_content();
            return Ok(());
        }
        put(offset, piece)?;
        archive.consume_content(len);
        offset += len as u64;
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
pub(crate) fn spread(
    parts: &[(u64, u64)],
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
