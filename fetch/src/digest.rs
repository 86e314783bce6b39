//! sha256 digests in their written form, `sha256:<64 hex digits>` (OCI image spec, descriptor.md).

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
