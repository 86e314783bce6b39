//! When the origin is asked for what the sources before it cannot give.

use std::str::FromStr;
use std::time::Duration;

use crate::error::Error;
use crate::s3::values::parse_seconds;

/// What becomes of an object that no source gives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fallback {
    /// The origin is asked at once.
    #[default]
    Now,
    /// The origin is not asked; sources that are away are waited for as long as patience goes.
    Never,
    /// Where a source may come back, the origin is asked after this time and at most twice that, most often late in it:
    /// counted once for all objects, and not without a last look at the source. Where none may, after a random part of
    /// this time, so that many hosts do not ask it together.
    Within(Duration),
}

impl FromStr for Fallback {
    type Err = Error;

    fn from_str(text: &str) -> Result<Fallback, Error> {
        match text {
            "now" => Ok(Fallback::Now),
            "never" => Ok(Fallback::Never),
            _ => match parse_seconds("source fallback", text) {
                Ok(time) => Ok(Fallback::Within(time)),
                Err(_) => Err(Error::Setting {
                    name: "source fallback",
                    value: text.to_owned(),
                    why: "expected now, never, or seconds, more than 0",
                }),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_word_or_seconds() {
        let read = |text: &str| text.parse::<Fallback>().ok();
        assert_eq!(read("now"), Some(Fallback::Now));
        assert_eq!(read("never"), Some(Fallback::Never));
        assert_eq!(read("1.5"), Some(Fallback::Within(Duration::from_millis(1500))));
        for text in ["", "0", "-1", "later", "nan", "NOW"] {
            assert_eq!(read(text), None, "{text:?}");
        }
    }
}
