//! The newest signed catalog that was believed, of each place, and what it lists; and the volume of a
//! pool that keeps its serial. What a catalog is, is the caller's.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::Error;
use crate::file::schema::Registry;
use crate::ids::VolumeId;
use crate::rows::{digest, get};
use crate::write::{Reserved, Write, now_ms};

/// A catalog that was believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Believed {
    /// Its serial.
    pub serial: u64,
    /// sha256 of it.
    pub digest: Digest,
    /// Seconds since 1970 after which it is too old; none: never.
    pub expires_s: Option<i64>,
    /// Whether what it lists is kept.
    pub listed: bool,
    /// The serial that the store itself was told of.
    pub stored: Option<u64>,
}

/// A catalog that is believed from now on, with the content of each image by its name.
#[derive(Clone, Debug)]
pub struct NewCatalog<'a> {
    /// Where it is.
    pub url: &'a str,
    /// Its serial.
    pub serial: u64,
    /// sha256 of it.
    pub digest: Digest,
    /// Seconds since 1970 after which it is too old; none: never.
    pub expires_s: Option<i64>,
    /// A digest over what each image is made of.
    pub images: BTreeMap<String, Digest>,
}

/// The newest catalog of one place, as a store keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CatalogFact {
    /// Where it is.
    pub url: String,
    /// Its serial.
    pub serial: u64,
    /// sha256 of it.
    pub digest: Digest,
    /// Seconds since 1970 after which it is too old; none: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_s: Option<i64>,
}

impl Registry {
    /// The newest catalog that was believed from `url`.
    pub fn catalog(&self, url: &str) -> Result<Option<Believed>, Error> {
        let row = self.one(
            "SELECT serial, digest, expires_s, listed, stored FROM catalogs WHERE url = ?1",
            [url],
            |row| {
                let (serial, expires_s) = (get(row, 0, "catalog")?, get(row, 2, "catalog")?);
                let (listed, stored) = (get(row, 3, "catalog")?, get(row, 4, "catalog")?);
                let digest = digest(row, 1, "catalog")?;
                Ok(digest.map(|digest| Believed { serial, digest, expires_s, listed, stored }))
            },
        )?;
        Ok(row.flatten())
    }

    /// The newest catalog of each place.
    pub fn catalogs(&self) -> Result<Vec<CatalogFact>, Error> {
        let rows = self.all(
            "SELECT url, serial, digest, expires_s FROM catalogs ORDER BY seen_ms DESC, url",
            [],
            |row| {
                let (url, serial) = (get(row, 0, "catalog")?, get(row, 1, "catalog")?);
                let expires_s = get(row, 3, "catalog")?;
                let digest = digest(row, 2, "catalog")?;
                Ok(digest.map(|digest| CatalogFact { url, serial, digest, expires_s }))
            },
        )?;
        Ok(rows.into_iter().flatten().collect())
    }

    /// The content of an image as the catalog of `url` that is believed lists it; none: it does not.
    pub fn catalog_image(&self, url: &str, image: &str) -> Result<Option<Digest>, Error> {
        let row = self.one(
            "SELECT content FROM catalog_images WHERE url = ?1 AND image = ?2",
            (url, image),
            |row| digest(row, 0, "catalog image"),
        )?;
        Ok(row.flatten())
    }

    /// Whether the catalog of `url` that is believed lists this content, under whatever name.
    pub fn catalog_lists(&self, url: &str, content: Digest) -> Result<bool, Error> {
        let row = self.one(
            "SELECT 1 FROM catalog_images WHERE url = ?1 AND content = ?2 LIMIT 1",
            (url, content.hex()),
            |_| Ok(()),
        )?;
        Ok(row.is_some())
    }

    /// The volume that keeps the believed serials, where the store has such a one.
    pub fn serial_volume(&self) -> Result<Option<VolumeId>, Error> {
        self.one("SELECT id FROM serial_volume", [], |row| get(row, 0, "serial volume"))
    }
}

impl Write<'_> {
    /// Believes a catalog. An older one than is known changes nothing, and false is returned.
    pub fn put_catalog(&self, new: &NewCatalog<'_>) -> Result<bool, Error> {
        let changed = self.run(
            "INSERT INTO catalogs(url, serial, digest, seen_ms, expires_s, listed)
             VALUES (?1, ?2, ?3, ?4, ?5, 1)
             ON CONFLICT DO UPDATE SET serial = excluded.serial, digest = excluded.digest,
               seen_ms = excluded.seen_ms, expires_s = excluded.expires_s, listed = 1
             WHERE excluded.serial > serial
               OR (excluded.serial = serial AND excluded.digest = digest)",
            (new.url, new.serial, new.digest.hex(), now_ms(), new.expires_s),
        )?;
        if changed == 1 {
            self.put_catalog_images(new)?;
        }
        Ok(changed == 1)
    }

    /// Believes a catalog whatever was believed before: a person has said so.
    pub fn reset_catalog(&self, new: &NewCatalog<'_>) -> Result<(), Error> {
        let was: Option<u64> = self.ask("SELECT serial FROM catalogs WHERE url = ?1", [new.url])?;
        self.run("DELETE FROM catalogs WHERE url = ?1", [new.url])?;
        self.put_catalog(new)?;
        let was = was.map_or("none".into(), |serial| serial.to_string());
        let detail = format!("reset by hand from serial {was} to {}", new.serial);
        self.event(&format!("catalog {}", new.url), None, Some("believed"), &detail)
    }

    /// The store itself was told of this serial.
    pub fn catalog_stored(&self, url: &str, serial: u64) -> Result<(), Error> {
        self.run("UPDATE catalogs SET stored = ?2 WHERE url = ?1", (url, serial)).map(drop)
    }

    /// Puts what a store was found to keep, above what an older registry knew. Where that is of the same
    /// catalog, what it lists stays known; else it is not, until the catalog is read again.
    pub(crate) fn put_catalog_fact(&self, fact: &CatalogFact) -> Result<(), Error> {
        self.run(
            "INSERT INTO catalogs(url, serial, digest, seen_ms, expires_s) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT DO UPDATE SET serial = excluded.serial, digest = excluded.digest,
               seen_ms = excluded.seen_ms, expires_s = excluded.expires_s, listed = 0
             WHERE excluded.serial > serial OR excluded.serial = serial AND excluded.digest <> digest",
            (&fact.url, fact.serial, fact.digest.hex(), now_ms(), fact.expires_s),
        )
        .map(drop)
    }

    /// Only what differs is written: of a long catalog little changes from one to the next.
    fn put_catalog_images(&self, new: &NewCatalog<'_>) -> Result<(), Error> {
        let mut before: BTreeMap<String, String> = BTreeMap::new();
        let sql = "SELECT image, content FROM catalog_images WHERE url = ?1";
        let mut statement = self.tx.prepare(sql).map_err(Error::sqlite("read rows"))?;
        let mut rows = statement.query([new.url]).map_err(Error::sqlite("read rows"))?;
        while let Some(row) = rows.next().map_err(Error::sqlite("read rows"))? {
            before.insert(get(row, 0, "catalog image")?, get(row, 1, "catalog image")?);
        }
        for (image, content) in &new.images {
            let content = content.hex();
            if before.remove(image).as_ref() != Some(&content) {
                self.run(
                    "INSERT INTO catalog_images(url, image, content) VALUES (?1, ?2, ?3)
                     ON CONFLICT DO UPDATE SET content = excluded.content",
                    (new.url, image, content),
                )?;
            }
        }
        for image in before.keys() {
            let sql = "DELETE FROM catalog_images WHERE url = ?1 AND image = ?2";
            self.run(sql, (new.url, image))?;
        }
        Ok(())
    }

    /// Reserves an id for the volume that keeps the believed serials. `theirs` are ids that the store has:
    /// none of them is given.
    pub fn reserve_serial_volume(
        &self,
        theirs: &std::collections::BTreeSet<VolumeId>,
    ) -> Result<Reserved, Error> {
        let reserved = self.next_id(theirs)?;
        // The caller takes the next transaction id with this very commit.
        self.run(
            "INSERT INTO serial_volume(one, id, reserved_at)
             VALUES (1, ?1, (SELECT transaction_id + 1 FROM meta))",
            [reserved.id],
        )?;
        let subject = format!("volume {}", reserved.id);
        self.event(&subject, None, Some("reserved"), "for the believed serials of catalogs")?;
        Ok(reserved)
    }

    /// Drops that row; the store is not touched, and the id is not given again.
    pub fn forget_serial_volume(&self, why: &str) -> Result<(), Error> {
        let id: Option<VolumeId> = self.ask("SELECT id FROM serial_volume", [])?;
        self.run("DELETE FROM serial_volume", [])?;
        match id {
            Some(id) => self.event(&format!("volume {id}"), Some("reserved"), None, why),
            None => Ok(()),
        }
    }

    /// Puts the volume that a store was found to have.
    pub(crate) fn put_serial_volume(&self, id: VolumeId) -> Result<(), Error> {
        self.run("INSERT INTO serial_volume(one, id) VALUES (1, ?1)", [id]).map(drop)
    }
}
