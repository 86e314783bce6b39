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
    let digits = text.strip_prefix("sha256:").unwrap_or(text);
    let mut digest = [0; 32];
    let lower = !digits.bytes().any(|digit| digit.is_ascii_uppercase());
    (lower && hex::decode_to_slice(digits, &mut digest).is_ok()).then_some(digest)
}

/// The written form of a digest.
pub fn write_digest(digest: &[u8; 32]) -> String {
    format!("sha256:{}", hex::encode(digest))
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
        assert_eq!(hex::encode(hash.finish()), due);
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
