//! Blocks of the metadata device: their numbers, their sums, and what can be wrong with one.

/// Size of a metadata block.
pub(crate) const BLOCK: usize = 4096;

pub(crate) const NODE_XOR: u32 = 121_107;

pub(crate) const NODE_HEADER: usize = 32;

/// What is wrong with a block that should be a superblock.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Fault {
    /// Shorter than a block.
    #[error("it is shorter than one 4096-byte block")]
    Short,
    /// All zeros: **the kernel would format it as a new pool**.
    #[error("its first 4096 bytes are zero, which the kernel takes for a new pool")]
    Zeroed,
    /// Not thin-pool metadata at all.
    #[error("it is no thin-pool metadata (magic {0}, not {SUPERBLOCK_MAGIC})")]
    Magic(u64),
    /// Its checksum does not hold.
    #[error("checksum {stored:#010x} stored, {computed:#010x} computed")]
    Checksum {
        /// In the block.
        stored: u32,
        /// Of the block.
        computed: u32,
    },
    /// It says that it belongs elsewhere.
    #[error("block {at} says it is block {says}")]
    Place {
        /// Where it was read.
        at: u64,
        /// Where it says it is.
        says: u64,
    },
    /// A format this crate does not know.
    #[error("metadata version {0}, not 1 or 2")]
    Version(u32),
    /// A node whose counts make no sense.
    #[error("a tree node's counts make no sense")]
    Node,
}

pub(crate) fn u32_at(block: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(block.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

pub(crate) fn u64_at(block: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(block.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

/// CRC-32C as the kernel's `crc32c(~0, ..)` gives it.
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    crc32c_on(!0, bytes)
}

/// As [`crc32c`], of what follows the bytes that gave `sum`.
pub(crate) fn crc32c_on(sum: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(sum, |crc: u32, &byte| {
        let [low, ..] = crc.to_le_bytes();
        CRC_TABLE[usize::from(low ^ byte)] ^ (crc >> 8)
    })
}

pub(crate) fn check_sum(block: &[u8], xor: u32, place: u64) -> Result<(), Fault> {
    let body = block.get(4..BLOCK).ok_or(Fault::Short)?;
    let stored = u32_at(block, 0).ok_or(Fault::Short)?;
    let computed = crc32c(body) ^ xor;
    if stored != computed {
        return Err(Fault::Checksum { stored, computed });
    }
    let says = u64_at(block, 8).ok_or(Fault::Short)?;
    if says == place { Ok(()) } else { Err(Fault::Place { at: place, says }) }
}

pub(crate) const SUPERBLOCK_MAGIC: u64 = 27_022_010;

pub(crate) const CRC_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut index = 0;
    let mut seed = 0_u32;
    while index < 256 {
        let mut crc = seed;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
        seed += 1;
    }
    table
};
