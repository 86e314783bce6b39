//! `Content-Range`, read and compared. Pure.

/// A satisfied range of a known whole: `bytes 5-9/40` (RFC 9110 14.4), both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ContentRange {
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) size: u64,
}

impl ContentRange {
    /// Reads the header; none unless it is exact, ordered and inside the whole.
    pub(crate) fn parse(text: &str) -> Option<ContentRange> {
        let (range, size) = text.strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let range =
            ContentRange { first: digits(first)?, last: digits(last)?, size: digits(size)? };
        (range.first <= range.last && range.last < range.size).then_some(range)
    }
}

impl std::fmt::Display for ContentRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "bytes {}-{}/{}", self.first, self.last, self.size)
    }
}

/// The size of an object that a range is out of: `bytes */40` (RFC 9110 14.4).
pub(crate) fn out_of(text: &str) -> Option<u64> {
    digits(text.strip_prefix("bytes */")?)
}

/// `str::parse` would also take a sign.
fn digits(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_out_of_the_object_tells_its_size() {
        assert_eq!(out_of("bytes */40"), Some(40));
        for text in ["bytes 0-1/40", "bytes */*", "bytes */", "*/40", "bytes */-1"] {
            assert_eq!(out_of(text), None, "{text}");
        }
    }

    #[test]
    fn only_exact_ranges_are_read() {
        let range = ContentRange { first: 5, last: 9, size: 40 };
        assert_eq!(ContentRange::parse("bytes 5-9/40"), Some(range));
        assert_eq!(ContentRange::parse(&range.to_string()), Some(range));
        for text in [
            "",
            "bytes",
            "bytes 5-9",
            "bytes 5-9/*",
            "bytes */40",
            "bytes 9-5/40",
            "bytes 5-40/40",
            "bytes +5-9/40",
            "bytes 5-9/40 ",
            "Bytes 5-9/40",
            "bytes  5-9/40",
            "bytes -5-9/40",
            "bytes 5-9/99999999999999999999",
            "items 5-9/40",
        ] {
            assert_eq!(ContentRange::parse(text), None, "{text}");
        }
    }
}
