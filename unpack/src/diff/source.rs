//! What a tree has to offer to be compared with another.

use crate::error::Fault;
use crate::record::piece::{Parts, Piece};
use crate::record::runs::Sorter;
use crate::record::{Hashed, Record};
use crate::sha::Sha256;

/// Every name of a tree.
pub(crate) struct Listed {
    /// A row for each: the path's key, the number that [`Source`] knows it by, and the record. The digests of files
    /// are void.
    pub(crate) names: Sorter,
    /// Sockets that were left out.
    pub(crate) sockets: u64,
}

/// A file of a tree.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target<'a> {
    pub(crate) path: &'a [u8],
    /// What the row of its name said.
    pub(crate) number: u64,
    pub(crate) size: u64,
}

/// What takes a piece of a file.
pub(crate) type EachPiece<'a> = dyn FnMut(Piece<'_>) -> Result<(), Fault> + 'a;

/// A tree that can be read.
pub(crate) trait Source {
    /// All names, read once.
    fn names(&mut self) -> Result<Listed, Fault>;

    /// Hands a regular file to `each` from its beginning on: as many bytes as its record says, or an error.
    fn content(&mut self, file: Target<'_>, each: &mut EachPiece<'_>) -> Result<(), Fault>;

    /// Where a file has bytes; `None` where that is in more than `max` parts, or is not known.
    fn parts(&mut self, file: Target<'_>, max: usize) -> Result<Option<Parts>, Fault>;

    /// Size and digest of a file.
    fn hashed(&mut self, file: Target<'_>) -> Result<Hashed, Fault> {
        let mut hash = Sha256::new();
        self.content(file, &mut |piece| {
            match piece {
                Piece::Bytes(bytes) => hash.update(bytes),
                Piece::Zeros(len) => zeros(len, &mut |bytes| {
                    hash.update(bytes);
                    Ok(())
                })?,
            }
            Ok(())
        })?;
        Ok((file.size, hash.finish()))
    }
}

/// So many zeros, some at a time.
pub(crate) fn zeros(
    mut len: u64,
    each: &mut dyn FnMut(&[u8]) -> Result<(), Fault>,
) -> Result<(), Fault> {
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    while len > 0 {
        let now = usize::try_from(len).unwrap_or(usize::MAX).min(ZEROS.len());
        each(&ZEROS[..now])?;
        len -= now as u64;
    }
    Ok(())
}

/// The size of a regular file.
pub(crate) fn size_of(record: &Record) -> Option<u64> {
    use crate::record::What;
    match record.what {
        What::File { size, .. } => Some(size),
        What::Dir
        | What::Symlink { .. }
        | What::Hardlink { .. }
        | What::Char { .. }
        | What::Block { .. }
        | What::Fifo => None,
    }
}
