//! Questions to the registry. Nothing here writes.

use rusqlite::{OptionalExtension, Params, Row};

use crate::digest::Digest;
use crate::error::Error;
use crate::file::schema::Registry;
use crate::ids::VolumeId;
use crate::rows::{
    self, ACTIVATION, Activation, Blob, Event, Image, ImageLayer, StoreBinding, VOLUME, Volume,
};

/// What there is, in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Totals {
    /// Blobs that were read to their end.
    pub blobs: u64,
    /// Sealed layers.
    pub layers: u64,
    /// Images.
    pub images: u64,
    /// Activations that are not on their way out.
    pub activations: u64,
}

impl Registry {
    /// The store this registry is about; none before the first.
    pub fn store(&self) -> Result<Option<StoreBinding>, Error> {
        self.one("SELECT store_kind, store_id FROM meta", [], |row| {
            let kind: Option<String> = rows::get(row, 0, "meta")?;
            let id: Option<String> = rows::get(row, 1, "meta")?;
            Ok(kind.zip(id).map(|(kind, id)| StoreBinding { kind, id }))
        })
        .map(Option::flatten)
    }

    /// The transaction id that the store must have, or is about to get.
    pub fn transaction_id(&self) -> Result<u64, Error> {
        self.one("SELECT transaction_id FROM meta", [], |row| rows::get(row, 0, "meta"))?
            .ok_or_else(|| Error::Corrupt { subject: "meta".into(), what: "no row".into() })
    }

    /// The key under which sealed volumes say what they are; none before the template.
    pub fn seal_key(&self) -> Result<Option<Digest>, Error> {
        self.one("SELECT seal_key FROM meta", [], |row| rows::digest(row, 0, "meta"))
            .map(Option::flatten)
    }

    /// The id that is given next, where the store has nothing under it.
    pub fn next_id(&self) -> Result<VolumeId, Error> {
        self.one("SELECT next_id FROM meta", [], |row| rows::get(row, 0, "meta"))?
            .ok_or_else(|| Error::Corrupt { subject: "meta".into(), what: "no row".into() })
    }

    /// The store's transaction id with which the id of this volume or activation was reserved; none
    /// where that was not recorded.
    pub fn reserved_at(&self, id: VolumeId) -> Result<Option<u64>, Error> {
        let at = self.one(
            "SELECT reserved_at FROM volumes WHERE id = ?1
             UNION ALL SELECT reserved_at FROM activations WHERE id = ?1
             UNION ALL SELECT reserved_at FROM points WHERE id = ?1
             UNION ALL SELECT reserved_at FROM arrivals WHERE id = ?1
             UNION ALL SELECT reserved_at FROM serial_volume WHERE id = ?1",
            [id],
            |row| rows::get(row, 0, "volume"),
        )?;
        Ok(at.flatten())
    }

    /// The volume with this id.
    pub fn volume(&self, id: VolumeId) -> Result<Option<Volume>, Error> {
        self.one(&format!("SELECT {VOLUME} FROM volumes WHERE id = ?1"), [id], rows::volume)
    }

    /// The sealed layer with this chain id; one that is condemned has it no longer.
    pub fn layer(&self, chain: Digest) -> Result<Option<Volume>, Error> {
        self.one(
            &format!("SELECT {VOLUME} FROM volumes WHERE chain = ?1 AND state = 'sealed'"),
            [chain.hex()],
            rows::volume,
        )
    }

    /// The sealed template.
    pub fn template(&self) -> Result<Option<Volume>, Error> {
        self.one(
            &format!("SELECT {VOLUME} FROM volumes WHERE role = 'template' AND state = 'sealed'"),
            [],
            rows::volume,
        )
    }

    /// All volumes, by id.
    pub fn volumes(&self) -> Result<Vec<Volume>, Error> {
        self.all(&format!("SELECT {VOLUME} FROM volumes ORDER BY id"), [], rows::volume)
    }

    /// The blob with this digest.
    pub fn blob(&self, digest: Digest) -> Result<Option<Blob>, Error> {
        self.one(
            "SELECT digest, diff, size, diff_size FROM blobs WHERE digest = ?1",
            [digest.hex()],
            blob,
        )
    }

    /// The image with this reference.
    pub fn image(&self, reference: &str) -> Result<Option<Image>, Error> {
        let image = self.one(
            "SELECT reference, endpoint, chain, pinned, used FROM images WHERE reference = ?1",
            [reference],
            image,
        )?;
        image.map(|image| self.with_layers(image)).transpose()
    }

    /// All images, by reference.
    pub fn images(&self) -> Result<Vec<Image>, Error> {
        let images = self.all(
            "SELECT reference, endpoint, chain, pinned, used FROM images ORDER BY reference",
            [],
            image,
        )?;
        images.into_iter().map(|image| self.with_layers(image)).collect()
    }

    fn with_layers(&self, mut image: Image) -> Result<Image, Error> {
        image.layers = self.all(
            "SELECT key, etag, size, digest, volume FROM image_layers WHERE reference = ?1
             ORDER BY pos",
            [&image.reference],
            |row| {
                Ok(ImageLayer {
                    key: rows::get(row, 0, "image layer")?,
                    etag: rows::get(row, 1, "image layer")?,
                    size: rows::get(row, 2, "image layer")?,
                    digest: required(row, 3, "image layer")?,
                    volume: rows::get(row, 4, "image layer")?,
                })
            },
        )?;
        Ok(image)
    }

    /// The activation of this name.
    pub fn activation(&self, name: &str) -> Result<Option<Activation>, Error> {
        self.one(
            &format!("SELECT {ACTIVATION} FROM activations WHERE name = ?1"),
            [name],
            rows::activation,
        )
    }

    /// All activations, by name.
    pub fn activations(&self) -> Result<Vec<Activation>, Error> {
        self.all(
            &format!("SELECT {ACTIVATION} FROM activations ORDER BY name"),
            [],
            rows::activation,
        )
    }

    /// History after `seq`, at most `limit` lines, of one subject or of all.
    pub fn events(&self, subject: Option<&str>, seq: u64, limit: u32) -> Result<Vec<Event>, Error> {
        let Ok(seq) = i64::try_from(seq) else { return Ok(Vec::new()) };
        const EVENT: &str = "SELECT seq, at_ms, subject, from_state, to_state, detail FROM events";
        let event = |row: &Row<'_>| {
            Ok(Event {
                seq: rows::get(row, 0, "event")?,
                at_ms: rows::get(row, 1, "event")?,
                subject: rows::get(row, 2, "event")?,
                from: rows::get(row, 3, "event")?,
                to: rows::get(row, 4, "event")?,
                detail: rows::get(row, 5, "event")?,
            })
        };
        match subject {
            None => self.all(
                &format!("{EVENT} WHERE seq > ?1 ORDER BY seq LIMIT ?2"),
                (seq, limit),
                event,
            ),
            Some(subject) => self.all(
                &format!("{EVENT} WHERE subject = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3"),
                (subject, seq, limit),
                event,
            ),
        }
    }

    /// How often this build was begun without an end.
    pub fn attempts(&self, build: &str) -> Result<u32, Error> {
        let begun = self.one("SELECT begun FROM attempts WHERE build = ?1", [build], |row| {
            rows::get(row, 0, "attempt")
        })?;
        Ok(begun.unwrap_or(0))
    }

    /// What there is, in numbers.
    pub fn totals(&self) -> Result<Totals, Error> {
        let totals = self.one(
            "SELECT (SELECT count(*) FROM blobs),
                    (SELECT count(*) FROM volumes WHERE role = 'layer' AND state = 'sealed'),
                    (SELECT count(*) FROM images),
                    (SELECT count(*) FROM activations WHERE state <> 'deleting')",
            [],
            |row| {
                Ok(Totals {
                    blobs: rows::get(row, 0, "totals")?,
                    layers: rows::get(row, 1, "totals")?,
                    images: rows::get(row, 2, "totals")?,
                    activations: rows::get(row, 3, "totals")?,
                })
            },
        )?;
        Ok(totals.expect("an aggregate has one row"))
    }

    pub(crate) fn one<T>(
        &self,
        sql: &str,
        params: impl Params,
        decode: impl FnOnce(&Row<'_>) -> Result<T, Error>,
    ) -> Result<Option<T>, Error> {
        self.conn
            .prepare(sql)
            .and_then(|mut statement| {
                let found = statement.query_row(params, |row| Ok(decode(row))).optional();
                #[cfg(test)]
                crate::file::seen::note(sql, &statement);
                found
            })
            .map_err(Error::sqlite("read a row"))?
            .transpose()
    }

    pub(crate) fn all<T>(
        &self,
        sql: &str,
        params: impl Params,
        decode: impl Fn(&Row<'_>) -> Result<T, Error>,
    ) -> Result<Vec<T>, Error> {
        let mut statement = self.conn.prepare(sql).map_err(Error::sqlite("read rows"))?;
        let mut rows = statement.query(params).map_err(Error::sqlite("read rows"))?;
        let mut decoded = Vec::new();
        while let Some(row) = rows.next().map_err(Error::sqlite("read rows"))? {
            decoded.push(decode(row)?);
        }
        drop(rows);
        #[cfg(test)]
        crate::file::seen::note(sql, &statement);
        Ok(decoded)
    }
}

pub(crate) fn blob(row: &Row<'_>) -> Result<Blob, Error> {
    Ok(Blob {
        digest: required(row, 0, "blob")?,
        diff: required(row, 1, "blob")?,
        size: rows::get(row, 2, "blob")?,
        diff_size: rows::get(row, 3, "blob")?,
    })
}

fn image(row: &Row<'_>) -> Result<Image, Error> {
    Ok(Image {
        reference: rows::get(row, 0, "image")?,
        endpoint: rows::get(row, 1, "image")?,
        chain: required(row, 2, "image")?,
        layers: Vec::new(),
        pinned: rows::get(row, 3, "image")?,
        used: rows::get(row, 4, "image")?,
    })
}

fn required(row: &Row<'_>, column: usize, subject: &str) -> Result<Digest, Error> {
    rows::digest(row, column, subject)?
        .ok_or_else(|| Error::Corrupt { subject: subject.into(), what: "a digest is null".into() })
}
