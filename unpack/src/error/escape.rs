//! Bytes from a layer, made safe for a terminal, a log line and a manifest.
//!
//! Printable ASCII stays, everything else and the two characters `"` and `\` become `\xNN`.
//! So the text is one line, holds no control character, and the bytes can be read back from it.

use std::fmt;

/// Longest text shown in a message; a manifest is not cut.
const SHOWN: usize = 200;

/// `bytes` for a message: escaped, and cut after 200 bytes.
pub fn escaped(bytes: &[u8]) -> Escaped<'_> {
    Escaped { bytes, max: SHOWN }
}

/// `bytes` in full, escaped.
pub fn escaped_whole(bytes: &[u8]) -> Escaped<'_> {
    Escaped { bytes, max: usize::MAX }
}

/// See [`escaped`].
#[derive(Clone, Copy, Debug)]
pub struct Escaped<'a> {
    bytes: &'a [u8],
    max: usize,
}

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;
        for &byte in self.bytes.iter().take(self.max) {
            match byte {
                b'"' | b'\\' => write!(f, "\\x{byte:02x}")?,
                0x20..=0x7e => f.write_char(char::from(byte))?,
                _ => write!(f, "\\x{byte:02x}")?,
            }
        }
        if self.bytes.len() > self.max {
            write!(f, "...({} bytes)", self.bytes.len())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_never_pass() {
        let all: Vec<u8> = (0..=255).collect();
        let text = escaped_whole(&all).to_string();
        assert!(text.bytes().all(|b| (0x20..0x7f).contains(&b)));
        assert!(text.contains("\\x1b") && text.contains("\\x0a") && text.contains("\\x5c"));
    }

    #[test]
    fn a_message_is_cut_and_says_so() {
        let text = escaped(&[b'a'; 1000]).to_string();
        assert!(text.len() < 256 && text.ends_with("...(1000 bytes)"));
    }
}
