//! Which blob an object was: what was read of itself, and what another key's ETag lets guess.

use crate::error::Error;
use crate::file::schema::Registry;
use crate::read;
use crate::rows::{Blob, KnownBy, Source};
use crate::write::{Write, now_ms};

/// A blob that an object is taken for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// The blob.
    pub blob: Blob,
    /// How that is known; by [`KnownBy::Etag`] it is a guess, of another key.
    pub by: KnownBy,
}

impl Source {
    /// Whether the ETag has the form of an MD5: that of an object that came in one part. One of several
    /// parts is a digest of digests, and whoever writes objects can choose much of it.
    #[must_use]
    pub fn is_single_part(&self) -> bool {
        self.md5_hex().is_some()
    }

    /// The 32 hex digits of an ETag that may be an MD5.
    fn md5_hex(&self) -> Option<&str> {
        let bare = self.etag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"'));
        let bare = bare.unwrap_or(&self.etag);
        (bare.len() == 32 && bare.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(bare)
    }

    /// Whether this MD5 is what the ETag says; none where it has not the form of one.
    #[must_use]
    pub fn is_md5(&self, md5: [u8; 16]) -> Option<bool> {
        self.md5_hex().map(|said| said.eq_ignore_ascii_case(&hex::encode(md5)))
    }
}

impl Registry {
    /// The blob that this object was at this ETag and size, where it was itself read. Else, with
    /// `across`, what another key of the bucket was: only by an ETag of one part that was the MD5 of
    /// what was read there, and only where no ETag of the bucket was found to be no such thing.
    pub fn known(&self, source: &Source, key: &str, across: bool) -> Result<Option<Known>, Error> {
        let own = self.one(
            "SELECT b.digest, b.diff, b.size, b.diff_size FROM sources s JOIN blobs b USING (digest)
             WHERE s.endpoint = ?1 AND s.bucket = ?2 AND s.etag = ?3 AND s.size = ?4 AND s.key = ?5
               AND s.known_by = 'read'",
            (&source.endpoint, &source.bucket, &source.etag, source.size, key),
            read::blob,
        )?;
        if let Some(blob) = own {
            return Ok(Some(Known { blob, by: KnownBy::Read }));
        }
        if !across || !source.is_single_part() {
            return Ok(None);
        }
        let guess = self.one(
            "SELECT b.digest, b.diff, b.size, b.diff_size FROM sources s JOIN blobs b USING (digest)
             WHERE s.endpoint = ?1 AND s.bucket = ?2 AND s.etag = ?3 AND s.size = ?4
               AND s.known_by = 'read' AND s.md5 = 1
               AND NOT EXISTS (SELECT 1 FROM etag_doubts d
                 WHERE d.endpoint = ?1 AND d.bucket = ?2 AND d.etag IN ('', ?3)) LIMIT 1",
            (&source.endpoint, &source.bucket, &source.etag, source.size),
            read::blob,
        )?;
        Ok(guess.map(|blob| Known { blob, by: KnownBy::Etag }))
    }

    /// Why no ETag of this bucket is taken for content; none where nothing speaks against it.
    pub fn etag_doubt(&self, endpoint: &str, bucket: &str) -> Result<Option<String>, Error> {
        self.one(
            "SELECT why FROM etag_doubts WHERE endpoint = ?1 AND bucket = ?2 AND etag = ''",
            (endpoint, bucket),
            |row| crate::rows::get(row, 0, "etag doubt"),
        )
    }
}

impl Write<'_> {
    /// Records that this object was read and was this blob; `md5` says whether its ETag was the MD5 of
    /// what came, where somebody looked. Returns what that says against the server's ETags, where it is
    /// news.
    pub fn put_read(
        &self,
        source: &Source,
        key: &str,
        blob: &Blob,
        md5: Option<bool>,
    ) -> Result<Option<String>, Error> {
        let (etag, size) = (&source.etag, source.size);
        let other = self.other_digest(source, blob)?;
        self.run(
            "INSERT INTO sources(endpoint, bucket, etag, size, key, digest, known_by, seen_ms, md5)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, 'read', ?7, ?8)
             ON CONFLICT DO UPDATE SET seen_ms = excluded.seen_ms, known_by = 'read',
               md5 = CASE WHEN excluded.md5 IS NULL AND digest = excluded.digest THEN md5
                     ELSE excluded.md5 END,
               digest = excluded.digest",
            (&source.endpoint, &source.bucket, etag, size, key, blob.digest.hex(), now_ms(), md5),
        )?;
        let why = match (other, md5) {
            (Some((key_before, before)), _) => format!(
                "ETag {etag} with {size} bytes is sha256:{before} as {key_before} and {} as {key}",
                blob.digest
            ),
            (None, Some(false)) => format!("ETag {etag} of {key} is not the MD5 of its bytes"),
            (None, Some(true) | None) => return Ok(None),
        };
        // An ETag of several parts is never taken for content, so it says nothing about the others.
        let of = if source.is_single_part() { "" } else { etag.as_str() };
        let news = self.run(
            "INSERT INTO etag_doubts(endpoint, bucket, etag, why, at_ms) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT DO NOTHING",
            (&source.endpoint, &source.bucket, of, &why, now_ms()),
        )?;
        if news == 0 {
            return Ok(None);
        }
        let subject = format!("bucket {} at {}", source.bucket, source.endpoint);
        self.event(&subject, None, Some("etags doubted"), &why)?;
        Ok(Some(format!("{subject}: {why}")))
    }

    /// Another blob that the same ETag and size stood for, with its key.
    fn other_digest(
        &self,
        source: &Source,
        blob: &Blob,
    ) -> Result<Option<(String, String)>, Error> {
        let row = self.tx.query_row(
            "SELECT key, digest FROM sources WHERE endpoint = ?1 AND bucket = ?2 AND etag = ?3
               AND size = ?4 AND digest <> ?5 LIMIT 1",
            (&source.endpoint, &source.bucket, &source.etag, source.size, blob.digest.hex()),
            |row| Ok((row.get(0)?, row.get(1)?)),
        );
        match row {
            Ok(found) => Ok(Some(found)),
            Err(rusqlite::Error::QueryReturnedNoRows) => Ok(None),
            Err(error) => Err(Error::sqlite("read a source")(error)),
        }
    }

    /// Records that this object was taken for this blob. What was read of it stays.
    pub fn put_guess(&self, source: &Source, key: &str, blob: &Blob) -> Result<(), Error> {
        self.run(
            "INSERT INTO sources(endpoint, bucket, etag, size, key, digest, known_by, seen_ms)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, 'etag', ?7)
             ON CONFLICT DO UPDATE SET seen_ms = excluded.seen_ms",
            (
                &source.endpoint,
                &source.bucket,
                &source.etag,
                source.size,
                key,
                blob.digest.hex(),
                now_ms(),
            ),
        )
        .map(drop)
    }
}
