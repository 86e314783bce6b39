//! Blobs whose bytes were refused: the same bytes are never unpacked again, whatever names them.

use rusqlite::Row;
use serde::Serialize;

use crate::rows::{digest, get};
use crate::write::now_ms;
use crate::{Digest, Error, Registry, Source, Write};

/// One refused blob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Quarantined {
    /// sha256 of the bytes as they came.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    /// The object's key when it was refused.
    pub key: String,
    /// Why it was refused.
    pub message: String,
    /// Wall clock, milliseconds since 1970 UTC; for people.
    pub at_ms: i64,
}

const QUARANTINED: &str = "digest, size, key, message, at_ms";

fn quarantined(row: &Row<'_>) -> Result<Quarantined, Error> {
    let null = || Error::Corrupt { subject: "quarantine".into(), what: "a digest is null".into() };
    Ok(Quarantined {
        digest: digest(row, 0, "quarantine")?.ok_or_else(null)?,
        size: get(row, 1, "quarantine")?,
        key: get(row, 2, "quarantine")?,
        message: get(row, 3, "quarantine")?,
        at_ms: get(row, 4, "quarantine")?,
    })
}

impl Registry {
    /// The refusal of these bytes, where they were refused before.
    pub fn refused(&self, digest: Digest) -> Result<Option<Quarantined>, Error> {
        self.one(
            &format!("SELECT {QUARANTINED} FROM quarantine WHERE digest = ?1"),
            [digest.hex()],
            quarantined,
        )
    }

    /// The refusal of what an object was at this ETag and size. With `key`, only of that object.
    pub fn refused_source(
        &self,
        source: &Source,
        key: Option<&str>,
    ) -> Result<Option<Quarantined>, Error> {
        self.one(
            &format!(
                "SELECT {QUARANTINED} FROM quarantine WHERE endpoint = ?1 AND bucket = ?2
                 AND etag = ?3 AND size = ?4 AND (?5 IS NULL OR key = ?5) LIMIT 1"
            ),
            (&source.endpoint, &source.bucket, &source.etag, source.size, key),
            quarantined,
        )
    }

    /// All refused blobs.
    pub fn quarantine(&self) -> Result<Vec<Quarantined>, Error> {
        self.all(
            &format!("SELECT {QUARANTINED} FROM quarantine ORDER BY key, digest"),
            [],
            quarantined,
        )
    }
}

impl Write<'_> {
    /// Records that these bytes were refused.
    pub fn refuse(
        &self,
        digest: Digest,
        size: u64,
        source: Option<&Source>,
        key: &str,
        message: &str,
    ) -> Result<(), Error> {
        self.run(
            "INSERT INTO quarantine(digest, endpoint, bucket, etag, size, key, message, at_ms)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
             ON CONFLICT DO UPDATE SET message = excluded.message, at_ms = excluded.at_ms",
            (
                digest.hex(),
                source.map(|source| &source.endpoint),
                source.map(|source| &source.bucket),
                source.map(|source| &source.etag),
                size,
                key,
                message,
                now_ms(),
            ),
        )?;
        self.event(&format!("blob {digest}"), None, Some("refused"), message)
    }

    /// Allows these bytes to be tried again. Returns whether they were refused.
    pub fn release(&self, digest: Digest) -> Result<bool, Error> {
        let changed = self.run("DELETE FROM quarantine WHERE digest = ?1", [digest.hex()])?;
        if changed == 1 {
            self.event(&format!("blob {digest}"), Some("refused"), None, "released")?;
        }
        Ok(changed == 1)
    }
}
