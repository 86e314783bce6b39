//! CRC-32C (Castagnoli, RFC 3720 appendix B.4) as ext4 uses it: the value goes in and comes out as it
//! is, without the inversion at the end. Every checksum of `metadata_csum` is one
//! (`Documentation/filesystems/ext4/checksums.rst`).

/// The polynomial, bits reversed.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// What a checksum begins with where nothing else is said.
pub(crate) const START: u32 = u32::MAX;

/// Where every checksum but the superblock's begins: a constant of the format, so that the UUID can
/// change without another byte (`metadata_csum_seed`).
pub(crate) const SEED: u32 = 0x7665_6e31;

/// Eight tables: byte `n` of eight goes through table `7 - n`, so that eight bytes cost one round.
const TABLES: [[u32; 256]; 8] = tables();

const fn tables() -> [[u32; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    // The same number twice: no cast could say that a byte fits.
    let (mut byte, mut number) = (0, 0u32);
    while byte < 256 {
        let mut value = number;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { (value >> 1) ^ POLYNOMIAL } else { value >> 1 };
            bit += 1;
        }
        tables[0][byte] = value;
        byte += 1;
        number += 1;
    }
    let mut table = 1;
    while table < 8 {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[table - 1][byte];
            tables[table][byte] = (before >> 8) ^ tables[0][(before & 0xff) as usize];
            byte += 1;
        }
        table += 1;
    }
    tables
}

/// The checksum of `bytes`, going on from `value`.
pub(crate) fn crc32c(value: u32, bytes: &[u8]) -> u32 {
    let (eights, rest) = bytes.as_chunks::<8>();
    let mut value = value;
    for eight in eights {
        let word = u64::from_le_bytes(*eight) ^ u64::from(value);
        value = word
            .to_le_bytes()
            .iter()
            .zip(TABLES.iter().rev())
            .fold(0, |sum, (&byte, table)| sum ^ table[usize::from(byte)]);
    }
    for &byte in rest {
        value = (value >> 8) ^ TABLES[0][usize::from(value.to_le_bytes()[0] ^ byte)];
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 3720, B.4, where the value is inverted at the end.
    #[test]
    fn the_vectors_of_the_rfc() {
        let ascending: Vec<u8> = (0..32).collect();
        assert_eq!(!crc32c(START, &[0; 32]), 0x8a91_36aa);
        assert_eq!(!crc32c(START, &[0xff; 32]), 0x62a8_ab43);
        assert_eq!(!crc32c(START, &ascending), 0x46dd_794e);
        assert_eq!(!crc32c(START, b"123456789"), 0xe306_9283);
    }

    #[test]
    fn pieces_are_the_whole() {
        let bytes: Vec<u8> = (0..=255).cycle().take(1000).collect();
        for cut in [0, 1, 7, 8, 9, 500, 1000] {
            let (first, second) = bytes.split_at(cut);
            assert_eq!(crc32c(crc32c(START, first), second), crc32c(START, &bytes));
        }
    }
}
