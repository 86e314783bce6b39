//! Digests as image documents write them: `algorithm:encoded` (image-spec, descriptor.md).

use std::fmt;

use crate::image::error::Error;
use crate::text::digest::{self, Sha256, hex};

/// A sha256. Other algorithms pass the grammar and cannot be checked here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Digest {
        let mut hash = Sha256::new();
        hash.update(bytes);
        Digest(hash.finish())
    }

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

    /// The 64 digits alone, as a layout names its blobs.
    pub fn hex(&self) -> String {
        hex(&self.0)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&digest::write_digest(&self.0))
    }
}
