//! By which keys images were found to be signed. What a signature is, and which keys are trusted, is the caller's.

use crate::digest::Digest;
use crate::error::Error;
use crate::file::schema::Registry;
use crate::rows::digest;
use crate::write::{Write, now_ms};

/// A signature that was verified once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signature {
    /// sha256 of the public key, as DER.
    pub key: Digest,
    /// The digest that was signed: the manifest's, or that of the index that it was chosen from.
    pub signed: Digest,
}

fn signature(row: &rusqlite::Row<'_>, at: usize) -> Result<Option<Signature>, Error> {
    let (key, signed) = (digest(row, at, "signature")?, digest(row, at + 1, "signature")?);
    Ok(key.zip(signed).map(|(key, signed)| Signature { key, signed }))
}

impl Registry {
    /// By which keys the image of this manifest was found to be signed, in the order of the keys.
    ///
    /// # Errors
    /// [`Error::Sqlite`], [`Error::Corrupt`].
    pub fn signatures(&self, manifest: Digest) -> Result<Vec<Signature>, Error> {
        let rows = self.all(
            "SELECT key, signed FROM signatures WHERE manifest = ?1 ORDER BY key",
            [manifest.hex()],
            |row| signature(row, 0),
        )?;
        Ok(rows.into_iter().flatten().collect())
    }

    /// Those of all images, by the manifest.
    ///
    /// # Errors
    /// [`Error::Sqlite`], [`Error::Corrupt`].
    pub fn all_signatures(&self) -> Result<Vec<(Digest, Signature)>, Error> {
        let rows = self.all(
            "SELECT manifest, key, signed FROM signatures ORDER BY manifest, key",
            [],
            |row| Ok(digest(row, 0, "signature")?.zip(signature(row, 1)?)),
        )?;
        Ok(rows.into_iter().flatten().collect())
    }
}

impl Write<'_> {
    /// Records that the image of this manifest was found to be signed. It is kept as long as an image or an activation is
    /// of the manifest.
    ///
    /// # Errors
    /// [`Error::Sqlite`].
    pub fn put_signature(&self, manifest: Digest, signature: &Signature) -> Result<(), Error> {
        self.run(
            "INSERT INTO signatures(manifest, key, signed, seen_ms) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (manifest, key) DO UPDATE SET signed = excluded.signed, seen_ms = excluded.seen_ms",
            (manifest.hex(), signature.key.hex(), signature.signed.hex(), now_ms()),
        )
        .map(drop)
    }
}
