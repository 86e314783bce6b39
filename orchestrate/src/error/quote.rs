//! Text from outside as a message has it.

use std::fmt;

/// At most this many characters of it are shown.
const SHOWN_MAX: usize = 200;

/// In quotes and escaped, and only its beginning where it is long.
pub fn quoted(text: &str) -> Quoted<'_> {
    Quoted(text)
}

/// See [`quoted`].
#[derive(Clone, Copy, Debug)]
pub struct Quoted<'t>(&'t str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.char_indices().nth(SHOWN_MAX) {
            None => write!(f, "{:?}", self.0),
            Some((end, _)) => {
                write!(f, "{:?}… ({} bytes)", self.0.get(..end).unwrap_or_default(), self.0.len())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_long_is_told_by_its_beginning() {
        assert_eq!(quoted("a\"b\n").to_string(), r#""a\"b\n""#);
        let long = "é".repeat(201);
        let told = quoted(&long).to_string();
        assert_eq!(told, format!("\"{}\"… (402 bytes)", "é".repeat(200)));
        assert_eq!(quoted(&long[..400]).to_string(), format!("\"{}\"", "é".repeat(200)));
    }
}
