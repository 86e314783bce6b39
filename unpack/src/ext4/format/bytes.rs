//! Little-endian numbers in a structure's bytes (`Documentation/filesystems/ext4/overview.rst`).

pub(crate) fn put16(to: &mut [u8], at: usize, value: u16) {
    to[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

pub(crate) fn put32(to: &mut [u8], at: usize, value: u32) {
    to[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

pub(crate) fn put64(to: &mut [u8], at: usize, value: u64) {
    to[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

pub(crate) fn get16(from: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([from[at], from[at + 1]])
}

pub(crate) fn get32(from: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([from[at], from[at + 1], from[at + 2], from[at + 3]])
}

pub(crate) fn get64(from: &[u8], at: usize) -> u64 {
    u64::from(get32(from, at)) | (u64::from(get32(from, at + 4)) << 32)
}

/// The low 16 bits.
pub(crate) fn low16(value: u32) -> u16 {
    u16::try_from(value & 0xffff).unwrap_or(0)
}

/// The low 32 bits.
pub(crate) fn low32(value: u64) -> u32 {
    u32::try_from(value & 0xffff_ffff).unwrap_or(0)
}

/// The high 32 bits.
pub(crate) fn high32(value: u64) -> u32 {
    u32::try_from(value >> 32).unwrap_or(0)
}
