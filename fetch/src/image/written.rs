//! Digests as documents and people write them.

use crate::image::digest::Digest;
use crate::image::error::Error;
use crate::text::digest::parse_digest;

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
        parse_digest(text)
            .map(Digest)
            .ok_or_else(|| refused("sha256: is followed by 64 digits of 0-9 and a-f"))
    }
}
