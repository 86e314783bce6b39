//! Digests as image documents write them: `algorithm:encoded` (image-spec, descriptor.md).

use std::fmt;

use crate::text::digest::{self, Sha256};

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

    /// The 64 digits alone, as a layout names its blobs.
    pub fn hex(&self) -> String {
        hex::encode(self.0)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&digest::write_digest(&self.0))
    }
}
