//! One 512-byte tar header block, read strictly. Pure: no I/O, no allocation beyond the names.
//!
//! POSIX.1-2017 pax (ustar), the GNU variant and the old v7 layout. Where known readers disagree
//! about a field, it is refused. What extension headers add is in `pax`; what an entry means for
//! a layer is in `entry`.

use crate::error::refusal::{Class, Refusal};

/// Bytes of a block.
pub(crate) const BLOCK: usize = 512;

/// ext4 with 256-byte inodes clamps times outside this range without a word.
pub(crate) const TIME_MIN: i64 = -2_147_483_648;
pub(crate) const TIME_MAX: i64 = 15_032_385_535;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Ustar,
    Gnu,
    V7,
}

/// What a header says of an entry that is not an extension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) name: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// As it stands there: [`in_range`] judges it, where nothing better is said.
    pub(crate) mtime: i128,
    /// Major and minor; zero unless the type is a device.
    pub(crate) device: (u32, u32),
    /// What stands where a GNU header has times and is neither those nor a prefix.
    pub(crate) odd: Option<Vec<u8>>,
}

/// A block whose checksum, magic and size are good.
#[derive(Debug)]
pub(crate) struct Framed<'a> {
    block: &'a [u8; BLOCK],
    pub(crate) format: Format,
    pub(crate) typeflag: u8,
    /// Bytes of the body, by this header alone.
    pub(crate) size: u64,
}

/// Checks what framing depends on: checksum, magic, type, size.
pub(crate) fn frame(block: &[u8; BLOCK]) -> Result<Framed<'_>, Refusal> {
    checksum(block)?;
    let format = match &block[257..265] {
        // The second is Docker's of 2013 and 2014, the third that of Maven's archiver.
        b"ustar\x0000" | b"ustar\0 \0" | b"ustar\0\0\0" => Format::Ustar,
        b"ustar  \0" => Format::Gnu,
        [0, 0, 0, 0, 0, 0, 0, 0] => Format::V7,
        other => return Err(Refusal::new(Class::Frame, "unknown magic").bytes(other)),
    };
    if format == Format::Ustar && &block[508..512] == b"tar\0" {
        // star's layout keeps times in the last bytes of the prefix.
        return Err(Refusal::new(Class::Frame, "star header layout"));
    }
    let typeflag = block[156];
    if format == Format::V7 && !matches!(typeflag, 0 | b'0'..=b'2' | b'5') {
        return Err(
            Refusal::new(Class::Frame, "a v7 header cannot carry this type").bytes(&[typeflag])
        );
    }
    if format == Format::Gnu && matches!(typeflag, b'x' | b'g') {
        return Err(Refusal::new(Class::Extension, "a PAX header with GNU magic"));
    }
    let size = unsigned(&block[124..136], "size", i64::MAX.unsigned_abs())?;
    Ok(Framed { block, format, typeflag, size })
}

impl Framed<'_> {
    /// The fields of an entry's own header. Extension headers leave most of them blank.
    pub(crate) fn header(&self) -> Result<Header, Refusal> {
        let block = self.block;
        let mut name = text(&block[0..100]).to_vec();
        let prefix = match self.format {
            Format::Ustar => text(&block[345..500]),
            Format::Gnu => go_prefix(block),
            Format::V7 => b"",
        };
        let odd = (self.format == Format::Gnu && !prefix.iter().all(|b| matches!(b, b' '..=b'~')))
            .then(|| prefix.to_vec());
        if !prefix.is_empty() && odd.is_none() {
            name = [prefix, b"/", &name].concat();
        }
        let device = match self.typeflag {
            b'3' | b'4' => (
                small(&block[329..337], "device major", 4095)?,
                small(&block[337..345], "device minor", 1_048_575)?,
            ),
            _ => (0, 0),
        };
        Ok(Header {
            name,
            link: text(&block[157..257]).to_vec(),
            // Some writers put the type bits of st_mode here; they say nothing new.
            mode: unset(&block[100..108], "mode", u32::MAX)? & 0o7777,
            uid: unset(&block[108..116], "uid", u32::MAX - 1)?,
            gid: unset(&block[116..124], "gid", u32::MAX - 1)?,
            mtime: time(&block[136..148])?,
            device,
            odd,
        })
    }
}

/// The name field, for messages.
pub(crate) fn name(block: &[u8; BLOCK]) -> &[u8] {
    text(&block[0..100])
}

/// What Go up to 1.7, and so Docker up to 17.05, has written into a GNU header as if it were ustar's
/// prefix (golang/go#21005). GNU has two times there, or NUL; as the Go of today does, whatever does
/// not read as two times is the prefix.
fn go_prefix(block: &[u8; BLOCK]) -> &[u8] {
    let is_time = |field: &[u8]| match field[0] {
        0 => true,
        // Base-256 of any sign, within 63 bits.
        0x80.. => {
            let ones = if field[0] & 0x40 == 0 { 0 } else { 0xff };
            let digits = field.iter().enumerate();
            let value = digits.fold(0u128, |acc, (at, &b)| {
                acc << 8 | u128::from((b ^ ones) & if at == 0 { 0x7f } else { 0xff })
            });
            value < 1 << 63
        }
        _ => {
            let end = field.iter().rposition(|b| !matches!(b, b' ' | 0)).map_or(0, |at| at + 1);
            let start = field.iter().position(|b| !matches!(b, b' ' | 0)).unwrap_or(end);
            text(&field[start..end]).iter().all(|b| matches!(b, b'0'..=b'7'))
        }
    };
    if is_time(&block[345..357]) && is_time(&block[357..369]) {
        return b"";
    }
    text(&block[345..500])
}

/// A field up to its first NUL.
fn text(field: &[u8]) -> &[u8] {
    field.split(|&b| b == 0).next().unwrap_or(field)
}

/// The sum of all bytes with the checksum field taken as spaces; old writers summed signed
/// chars, and every reader but one takes both.
fn checksum(block: &[u8; BLOCK]) -> Result<(), Refusal> {
    // Straight over the block and then the field off again: the compiler makes vectors of that.
    let sum = |bytes: &[u8]| bytes.iter().map(|&byte| u32::from(byte)).sum::<u32>();
    let negative = |bytes: &[u8]| bytes.iter().map(|&byte| u32::from(byte >> 7)).sum::<u32>();
    let field = &block[148..156];
    let plain = i64::from(sum(block) - sum(field) + 8 * u32::from(b' '));
    let signed = plain - 256 * i64::from(negative(block) - negative(field));
    let bad = || Refusal::new(Class::Frame, "bad header checksum").bytes(field);
    let said = number(field).ok_or_else(bad)?;
    if said == i128::from(plain) || said == i128::from(signed) { Ok(()) } else { Err(bad()) }
}

/// An octal or base-256 field; `None` when it is blank or holds anything else. Digits behind a NUL are
/// nothing to some readers, and the number to others.
fn number(field: &[u8]) -> Option<i128> {
    match field.first()? {
        0x80 => field[1..]
            .iter()
            .try_fold(0i128, |acc, &b| acc.checked_mul(256).map(|acc| acc + i128::from(b))),
        0xff => {
            let ones = field[1..]
                .iter()
                .try_fold(0i128, |acc, &b| acc.checked_mul(256).map(|acc| acc + i128::from(!b)))?;
            Some(-ones - 1)
        }
        _ => {
            let pad = |b: &u8| matches!(b, b' ' | 0);
            let start = field.iter().position(|&b| b != b' ')?;
            let end = field.iter().rposition(|b| !pad(b))? + 1;
            if start >= end {
                return None;
            }
            field[start..end].iter().try_fold(0i128, |acc, &b| match b {
                b'0'..=b'7' => Some(acc * 8 + i128::from(b - b'0')),
                _ => None,
            })
        }
    }
}

fn unsigned(field: &[u8], what: &'static str, max: u64) -> Result<u64, Refusal> {
    let value = number(field).ok_or_else(|| {
        Refusal::new(Class::Number, "a number field is blank or malformed").bytes(field)
    })?;
    match u64::try_from(value) {
        Ok(value) if value <= max => Ok(value),
        Ok(_) | Err(_) => Err(out_of_range(what, value)),
    }
}

pub(crate) fn out_of_range(what: &'static str, value: impl Into<i128>) -> Refusal {
    let rule = match what {
        "size" => "size out of range",
        "uid" => "uid out of range",
        "gid" => "gid out of range",
        "mtime" => "mtime out of range",
        "mode" => "mode out of range",
        _ => "device number out of range",
    };
    Refusal::new(Class::Number, rule).number(value)
}

fn small(field: &[u8], what: &'static str, max: u32) -> Result<u32, Refusal> {
    let value = unsigned(field, what, u64::from(max))?;
    u32::try_from(value).map_err(|_| out_of_range(what, value))
}

/// A field that writers leave out where they mean 0, as NUL or as spaces up to one. Spaces alone are
/// refused: readers differ.
fn unset(field: &[u8], what: &'static str, max: u32) -> Result<u32, Refusal> {
    if is_unset(field) { Ok(0) } else { small(field, what, max) }
}

fn is_unset(field: &[u8]) -> bool {
    field.iter().all(|b| matches!(b, b' ' | 0)) && field[1..].contains(&0)
}

fn time(field: &[u8]) -> Result<i128, Refusal> {
    if is_unset(field) {
        return Ok(0);
    }
    number(field)
        .ok_or_else(|| Refusal::new(Class::Number, "mtime is blank or malformed").bytes(field))
}

/// A time of modification that a tree can have.
pub(crate) fn in_range(value: i128) -> Result<i64, Refusal> {
    match i64::try_from(value) {
        Ok(value) if (TIME_MIN..=TIME_MAX).contains(&value) => Ok(value),
        Ok(_) | Err(_) => Err(out_of_range("mtime", value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octal_takes_padding_and_nothing_else() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"   644 \0"), Some(0o644));
        assert_eq!(number(b"  0 \0 \0 "), Some(0));
        let nul: &[u8] = b"\x00\x00644\0\0\0";
        for bad in [
            nul,
            b"\x000000644",
            b" \x00644",
            b"        ",
            b"\0\0\0\0",
            b"  \0",
            b"64 4\0",
            b"0000648\0",
            b"+000644\0",
            b"-1\0",
        ] {
            assert_eq!(number(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn base_256_keeps_its_sign() {
        assert_eq!(number(&[0x80, 0, 0, 0, 0, 0, 1, 0]), Some(256));
        assert_eq!(number(&[0xff; 12]), Some(-1));
        let minus_100 = [0xff, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 156];
        assert_eq!(number(&minus_100), Some(-100));
    }

    #[test]
    fn minus_one_is_nobodys_id() {
        let field = |n: u32| {
            let mut f = [0u8; 8];
            f[0] = 0x80;
            f[4..].copy_from_slice(&n.to_be_bytes());
            f
        };
        assert_eq!(small(&field(u32::MAX - 1), "uid", u32::MAX - 1).unwrap(), u32::MAX - 1);
        let refused = small(&field(u32::MAX), "uid", u32::MAX - 1).unwrap_err();
        assert_eq!(refused.class, Class::Number);
    }
}
