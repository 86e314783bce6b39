//! Digests and platforms as text has them.

use std::str::FromStr;

use crate::image::digest::Digest;
use crate::image::error::Error;
use crate::image::platform::{Platform, normal};
use crate::text::digest;

impl Digest {
    /// Reads `sha256:` and 64 digits of lower case; nothing else can become a path or a key.
    ///
    /// # Errors
    /// [`Error::Digest`].
    pub fn parse(text: &str) -> Result<Digest, Error> {
        let refused = |why| Error::Digest { text: text.to_owned(), why };
        let Some((algorithm, _)) = text.split_once(':') else {
            return Err(refused("a digest is written as sha256:<64 hexadecimal digits>"));
        };
        if algorithm != "sha256" {
            return Err(refused("of all algorithms only sha256 is supported"));
        }
        digest::parse_digest(text)
            .map(Digest)
            .ok_or_else(|| refused("sha256: is followed by 64 digits of 0-9 and a-f"))
    }
}

impl FromStr for Platform {
    type Err = Error;

    fn from_str(text: &str) -> Result<Platform, Error> {
        let refused = |why| Error::Platform { text: text.to_owned(), why };
        let parts: Vec<_> = text.split('/').collect();
        let plain = |part: &&str| {
            let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
            (1..=32).contains(&part.len()) && part.bytes().all(allowed)
        };
        if !(2..=3).contains(&parts.len()) || !parts.iter().all(plain) {
            return Err(refused("it is written as os/architecture or os/architecture/variant"));
        }
        if parts[0] != "linux" {
            return Err(refused("images for linux are the only ones that can be used here"));
        }
        let variant = parts.get(2).map(|variant| variant.to_ascii_lowercase());
        Ok(normal("linux".to_owned(), &parts[1].to_ascii_lowercase(), variant))
    }
}
