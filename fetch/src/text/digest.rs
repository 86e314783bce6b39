//! sha256, and digests in their written form, `sha256:<64 hex digits>` (OCI image spec, descriptor.md).

use std::fmt;

use ring::digest;

/// A running sha256. ring is in the tree for TLS, and where a processor has no instructions for
/// sha256 its code for vector units does 1.7 times the bytes of the sha2 crate; elsewhere both are
/// alike.
#[derive(Clone)]
pub(crate) struct Sha256(digest::Context);

impl Sha256 {
    pub(crate) fn new() -> Sha256 {
        Sha256(digest::Context::new(&digest::SHA256))
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn finish(self) -> [u8; 32] {
        let mut digest = [0; 32];
        digest.copy_from_slice(self.0.finish().as_ref());
        digest
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sha256")
    }
}

/// Reads a digest; the `sha256:` may be left out, the digits are lower case.
pub fn parse_digest(text: &str) -> Option<[u8; 32]> {
    let hex = text.strip_prefix("sha256:").unwrap_or(text).as_bytes();
    if hex.len() != 64 {
        return None;
    }
    let mut digest = [0; 32];
    for (byte, pair) in digest.iter_mut().zip(hex.chunks_exact(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(digest)
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

/// Lower-case hex digits of any bytes.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The written form of a digest.
pub fn write_digest(digest: &[u8; 32]) -> String {
    format!("sha256:{}", hex(digest))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FIPS 180-2, appendix B.1.
    #[test]
    fn the_standards_own_example() {
        let mut hash = Sha256::new();
        hash.update(b"a");
        hash.update(b"bc");
        let due = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(hex(&hash.finish()), due);
    }

    #[test]
    fn what_is_written_is_read() {
        let digest: [u8; 32] = std::array::from_fn(|i| u8::try_from(i * 7).unwrap());
        let text = write_digest(&digest);
        assert_eq!(parse_digest(&text), Some(digest));
        assert_eq!(parse_digest(&text["sha256:".len()..]), Some(digest));
        let upper = text.replace('a', "A");
        for bad in ["", "sha256:", "md5:00", &text[..70], &format!("{text}0"), &upper] {
            assert_eq!(parse_digest(bad), None, "{bad}");
        }
    }
}
