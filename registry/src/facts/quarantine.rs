//! Blobs whose bytes were refused, each under all that the refusal depended on.

use rusqlite::Row;
use serde::Serialize;
use serde_json::Value;

use crate::digest::Digest;
use crate::error::Error;
use crate::file::schema::Registry;
use crate::rows::{Source, digest, get};
use crate::write::{Write, now_ms};

/// One refusal of one blob. Whether it still holds is for whoever knows the rules and the limits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Quarantined {
    /// sha256 of the bytes as they came.
    pub digest: Digest,
    /// What it was to stand on: `any` where that had no part in it, `template`, or a chain id.
    pub below: String,
    /// The limits, where they had a part in it.
    pub limits: Option<Value>,
    /// The version of the rules; 0 for one that did not say what it depended on.
    pub unpacker: u32,
    /// Bytes.
    pub size: u64,
    /// The object's key when it was refused.
    pub key: String,
    /// Why it was refused.
    pub message: String,
    /// Wall clock, milliseconds since 1970 UTC; for people.
    pub at_ms: i64,
}

impl Quarantined {
    /// What stands in [`Quarantined::below`] where nothing below had a part in it.
    pub const ANY: &str = "any";
}

const QUARANTINED: &str = "digest, below, limits, unpacker, size, key, message, at_ms";

fn quarantined(row: &Row<'_>) -> Result<Quarantined, Error> {
    let corrupt = |what: String| Error::Corrupt { subject: "quarantine".into(), what };
    let limits: Option<String> = get(row, 2, "quarantine")?;
    let limits = limits.map(|text| serde_json::from_str(&text)).transpose();
    Ok(Quarantined {
        digest: digest(row, 0, "quarantine")?.ok_or_else(|| corrupt("a digest is null".into()))?,
        below: get(row, 1, "quarantine")?,
        limits: limits.map_err(|error| corrupt(error.to_string()))?,
        unpacker: get(row, 3, "quarantine")?,
        size: get(row, 4, "quarantine")?,
        key: get(row, 5, "quarantine")?,
        message: get(row, 6, "quarantine")?,
        at_ms: get(row, 7, "quarantine")?,
    })
}

impl Registry {
    /// The refusals of these bytes.
    pub fn refused(&self, digest: Digest) -> Result<Vec<Quarantined>, Error> {
        self.all(
            &format!("SELECT {QUARANTINED} FROM quarantine WHERE digest = ?1 ORDER BY below"),
            [digest.hex()],
            quarantined,
        )
    }

    /// The bytes that this object was at this ETag and size, where it was itself read and refused.
    pub fn refused_source(&self, source: &Source, key: &str) -> Result<Option<Digest>, Error> {
        self.one(
            "SELECT digest FROM refused_sources WHERE endpoint = ?1 AND bucket = ?2 AND key = ?3
             AND etag = ?4 AND size = ?5",
            (&source.endpoint, &source.bucket, key, &source.etag, source.size),
            |row| digest(row, 0, "refused source"),
        )
        .map(Option::flatten)
    }

    /// Blobs with a refusal by this version of the rules.
    pub fn quarantined_by(&self, unpacker: u32) -> Result<u64, Error> {
        let sql = "SELECT count(DISTINCT digest) FROM quarantine WHERE unpacker = ?1";
        let found = self.one(sql, [unpacker], |row| get(row, 0, "quarantine"))?;
        Ok(found.unwrap_or(0))
    }

    /// All refusals.
    pub fn quarantine(&self) -> Result<Vec<Quarantined>, Error> {
        self.all(
            &format!("SELECT {QUARANTINED} FROM quarantine ORDER BY key, digest, below"),
            [],
            quarantined,
        )
    }
}

impl Write<'_> {
    /// Records that bytes were refused, in place of what was said of them on the same layers below; and
    /// with `source` that the object was those bytes.
    pub fn refuse(&self, refused: &Quarantined, source: Option<&Source>) -> Result<(), Error> {
        self.run(
            "INSERT INTO quarantine(digest, below, limits, unpacker, size, key, message, at_ms)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
             ON CONFLICT DO UPDATE SET limits = excluded.limits, unpacker = excluded.unpacker,
               key = excluded.key, message = excluded.message, at_ms = excluded.at_ms",
            (
                refused.digest.hex(),
                &refused.below,
                refused.limits.as_ref().map(Value::to_string),
                refused.unpacker,
                refused.size,
                &refused.key,
                &refused.message,
                now_ms(),
            ),
        )?;
        if let Some(source) = source {
            self.run(
                "INSERT INTO refused_sources(endpoint, bucket, key, etag, size, digest, at_ms)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
                 ON CONFLICT DO UPDATE SET digest = excluded.digest, at_ms = excluded.at_ms",
                (
                    &source.endpoint,
                    &source.bucket,
                    &refused.key,
                    &source.etag,
                    source.size,
                    refused.digest.hex(),
                    now_ms(),
                ),
            )?;
        }
        self.event(&format!("blob {}", refused.digest), None, Some("refused"), &refused.message)
    }

    /// Allows these bytes to be tried again, on whatever. Returns whether they were refused.
    pub fn release(&self, digest: Digest) -> Result<bool, Error> {
        let changed = self.run("DELETE FROM quarantine WHERE digest = ?1", [digest.hex()])?;
        self.run("DELETE FROM refused_sources WHERE digest = ?1", [digest.hex()])?;
        if changed > 0 {
            self.event(&format!("blob {digest}"), Some("refused"), None, "released")?;
        }
        Ok(changed > 0)
    }
}
