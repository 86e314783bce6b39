//! Sparse files as PAX has them, in GNU tar's formats 0.0 (a record for each offset and length), 0.1
//! (one record for all) and 1.0 (in front of the data): which parts of a file the archive has. Pure.
//!
//! Nothing is taken as it stands: parts come in order, do not overlap, lie within the real size and
//! are together just as long as what the archive has. What is between them is zeros.

use crate::archive::number::decimal;
use crate::error::refusal::{Class, Refusal};

/// Offset and length of what the archive has of a file, in order.
pub(crate) type Parts = Vec<(u64, u64)>;

/// What the records of one header say, as they stand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Said {
    major: Option<u64>,
    minor: Option<u64>,
    name: Option<Vec<u8>>,
    size: Option<u64>,
    real_size: Option<u64>,
    count: Option<u64>,
    /// Offsets and lengths in turn: of 0.1, and of 0.0.
    map: Option<Vec<u64>>,
    pairs: Vec<u64>,
}

/// A sparse file, as far as its header tells.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Sparse {
    /// The file's own name, where the header has a made-up one.
    pub(crate) name: Option<Vec<u8>>,
    /// Bytes of the file with its holes.
    pub(crate) size: u64,
    /// Offsets and lengths in turn; without them they come in front of the data.
    pub(crate) map: Option<Vec<u64>>,
}

fn refuse(rule: &'static str) -> Refusal {
    Refusal::new(Class::Sparse, rule)
}

fn number(value: &[u8]) -> Result<u64, Refusal> {
    match value {
        b"" => Err(Refusal::new(Class::Number, "empty number in a sparse map")),
        value => decimal(value, "size", u64::MAX),
    }
}

fn size(value: &[u8]) -> Result<u64, Refusal> {
    decimal(value, "size", i64::MAX.unsigned_abs())
}

impl Said {
    /// Takes the record `GNU.sparse.<key>`.
    pub(crate) fn record(&mut self, key: &[u8], value: &[u8]) -> Result<(), Refusal> {
        let turn = self.pairs.len() % 2;
        match key {
            b"major" => self.major = Some(number(value)?),
            b"minor" => self.minor = Some(number(value)?),
            b"name" => self.name = Some(value.to_vec()),
            b"size" => self.size = Some(size(value)?),
            b"realsize" => self.real_size = Some(size(value)?),
            b"numblocks" => self.count = Some(number(value)?),
            b"map" => {
                let numbers = value.split(|&b| b == b',').map(number);
                self.map = Some(numbers.collect::<Result<_, _>>()?);
            }
            b"offset" if turn == 0 => self.pairs.push(number(value)?),
            b"numbytes" if turn == 1 => self.pairs.push(number(value)?),
            b"offset" | b"numbytes" => {
                return Err(refuse("sparse offsets and lengths that are not in turn"));
            }
            _ => return Err(refuse("unknown sparse record").bytes(key)),
        }
        Ok(())
    }

    /// What all of them mean.
    pub(crate) fn settle(self) -> Result<Sparse, Refusal> {
        let size = match (self.size, self.real_size) {
            (Some(size), Some(real)) if size != real => return Err(refuse("two real sizes")),
            (Some(size), _) | (None, Some(size)) => size,
            (None, None) => return Err(refuse("a sparse file without its real size")),
        };
        let here = match (self.map, self.pairs) {
            (Some(_), pairs) if !pairs.is_empty() => return Err(refuse("two sparse maps")),
            (Some(map), _) => Some(map),
            (None, pairs) if !pairs.is_empty() => Some(pairs),
            (None, _) => None,
        };
        let map = match (self.major, self.minor, here) {
            (None, None, Some(map)) | (Some(0), Some(0 | 1), Some(map)) => {
                let count = self.count.and_then(|count| count.checked_mul(2));
                if count != Some(map.len() as u64) {
                    return Err(refuse("a sparse map of another length than it says"));
                }
                Some(map)
            }
            (Some(1), Some(0), None) => None,
            (Some(1), Some(0), Some(_)) => return Err(refuse("two sparse maps")),
            (None, None, None) | (Some(0), Some(0 | 1), None) => {
                return Err(refuse("a sparse file without a map"));
            }
            (major, minor, _) => {
                let text = |number: Option<u64>| number.map_or("?".into(), |n| n.to_string());
                let version = format!("{}.{}", text(major), text(minor));
                return Err(refuse("sparse format of unknown version").bytes(version.as_bytes()));
            }
        };
        Ok(Sparse { name: self.name, size, map })
    }
}

/// The parts, none empty, of a file of `size` bytes of which the archive has `bytes`.
pub(crate) fn parts(map: &[u64], size: u64, bytes: u64) -> Result<Parts, Refusal> {
    let (mut end, mut sum) = (0u64, 0u64);
    let mut parts = Vec::new();
    for pair in map.chunks(2) {
        let &[offset, len] = pair else {
            return Err(refuse("a sparse map of an odd length"));
        };
        if offset < end {
            return Err(refuse("sparse parts overlap or are out of order").number(offset));
        }
        end = match offset.checked_add(len) {
            Some(end) if end <= size => end,
            Some(_) | None => {
                return Err(refuse("a sparse part beyond the file's real size").number(offset));
            }
        };
        // No more than the size, as the parts do not overlap.
        sum += len;
        if len > 0 {
            parts.push((offset, len));
        }
    }
    if sum != bytes {
        return Err(refuse("a sparse map of more or less than the archive has").number(sum));
    }
    Ok(parts)
}

/// The map of format 1.0 as it comes, block by block: lines of decimal digits, the first says how many
/// pairs follow. The rest of its last block is padding.
#[derive(Debug, Default)]
pub(crate) struct Front {
    /// Numbers still to come; `None` before the first line.
    left: Option<u64>,
    line: Vec<u8>,
    numbers: Vec<u64>,
}

/// Digits of the largest number, and some zeros in front of it.
const DIGITS_MAX: usize = 32;

impl Front {
    /// Takes a block; `true` when the map is whole.
    pub(crate) fn block(&mut self, block: &[u8]) -> Result<bool, Refusal> {
        for &byte in block {
            if byte != b'\n' {
                self.line.push(byte);
                if !byte.is_ascii_digit() || self.line.len() > DIGITS_MAX {
                    return Err(refuse("malformed sparse map").bytes(&self.line));
                }
                continue;
            }
            if self.line.is_empty() {
                return Err(refuse("malformed sparse map"));
            }
            let number = number(&self.line)?;
            self.line.clear();
            self.left = match self.left {
                None => match number.checked_mul(2) {
                    Some(numbers) => Some(numbers),
                    None => return Err(refuse("a sparse map without an end").number(number)),
                },
                Some(left) => {
                    self.numbers.push(number);
                    Some(left - 1)
                }
            };
            if self.left == Some(0) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(crate) fn numbers(self) -> Vec<u64> {
        self.numbers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However the lines lie in blocks, the same numbers come out.
    #[test]
    fn a_map_is_read_wherever_it_is_cut() {
        let text = b"3\n0\n5\n1048576\n512\n18446744073709551615\n0\n\0\0\0junk that is padding";
        for size in 1..text.len() {
            let mut front = Front::default();
            let whole = text.chunks(size).any(|block| front.block(block).unwrap());
            assert!(whole, "blocks of {size}");
            assert_eq!(front.numbers(), [0, 5, 1_048_576, 512, u64::MAX, 0]);
        }
    }

    #[test]
    fn a_map_of_nothing_is_whole() {
        let mut front = Front::default();
        assert!(front.block(b"0\n\0\0").unwrap());
        assert!(front.numbers().is_empty());
    }

    #[test]
    fn a_number_without_an_end_is_refused_early() {
        let mut front = Front::default();
        assert_eq!(front.block(&[b'0'; 512]).unwrap_err().class, Class::Sparse);
    }

    #[test]
    fn parts_are_checked_at_their_edges() {
        assert_eq!(parts(&[0, 5, 5, 5, 10, 0], 10, 10).unwrap(), [(0, 5), (5, 5)]);
        assert_eq!(parts(&[], 10, 0).unwrap(), []);
        for (map, size, bytes) in [
            (&[0u64, 5, 4, 1][..], 10, 6),
            (&[0, 11], 10, 11),
            (&[11, 0], 10, 0),
            (&[u64::MAX, 1], 10, 1),
            (&[0, 5], 10, 4),
            (&[0, 5], 10, 6),
            (&[0], 10, 0),
        ] {
            assert_eq!(parts(map, size, bytes).unwrap_err().class, Class::Sparse, "{map:?}");
        }
    }
}
