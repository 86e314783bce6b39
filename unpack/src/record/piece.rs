//! The content of a file as it is read: bytes that are there, and holes.

/// A part of a file, which follows the one before.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Piece<'a> {
    /// These bytes.
    Bytes(&'a [u8]),
    /// So many zeros that nobody has written.
    Zeros(u64),
}

/// Where a file has bytes: offset and length of each part, in order, none of them next to another.
pub(crate) type Parts = Vec<(u64, u64)>;

/// Adds a part, which begins where the last one ends or behind it.
pub(crate) fn push(parts: &mut Parts, start: u64, len: u64) {
    match parts.last_mut() {
        Some((before, length)) if *before + *length == start => *length += len,
        _ if len == 0 => {}
        _ => parts.push((start, len)),
    }
}
