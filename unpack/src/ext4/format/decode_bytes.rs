//! Numbers out of bytes that nobody vouches for: what lies behind the end reads as zero, so that no
//! length that a disk tells can end in a panic.

fn array<const LEN: usize>(bytes: &[u8], at: usize) -> [u8; LEN] {
    let end = at.saturating_add(LEN);
    bytes.get(at..end).and_then(|part| part.try_into().ok()).unwrap_or([0; LEN])
}

/// A little-endian number of 16 bits.
pub(crate) fn le16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array(bytes, at))
}

/// A little-endian number of 32 bits.
pub(crate) fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(bytes, at))
}

/// A big-endian number of 32 bits, as a journal has them.
pub(crate) fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(array(bytes, at))
}

/// A number whose upper half lies elsewhere.
pub(crate) fn join32(low: u32, high: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

/// Sixteen bytes: a UUID.
pub(crate) fn sixteen(bytes: &[u8], at: usize) -> [u8; 16] {
    array(bytes, at)
}

/// An index into memory: what does not fit is behind every end.
pub(crate) fn index(number: impl TryInto<usize>) -> usize {
    number.try_into().unwrap_or(usize::MAX)
}
