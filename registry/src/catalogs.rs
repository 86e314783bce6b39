//! The newest signed catalog that was believed, of each place. What a catalog is, is the caller's.

use crate::rows::{digest, get};
use crate::write::now_ms;
use crate::{Digest, Error, Registry, Write};

impl Registry {
    /// Serial and digest of the newest catalog that was believed from `url`.
    pub fn catalog(&self, url: &str) -> Result<Option<(u64, Digest)>, Error> {
        let row = self.one("SELECT serial, digest FROM catalogs WHERE url = ?1", [url], |row| {
            Ok((get::<u64>(row, 0, "catalog")?, digest(row, 1, "catalog")?))
        })?;
        Ok(row.and_then(|(serial, digest)| Some((serial, digest?))))
    }
}

impl Write<'_> {
    /// Believes a catalog. An older one than is known changes nothing, and false is returned.
    pub fn put_catalog(&self, url: &str, serial: u64, digest: Digest) -> Result<bool, Error> {
        let changed = self.run(
            "INSERT INTO catalogs(url, serial, digest, seen_ms) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT DO UPDATE SET serial = excluded.serial, digest = excluded.digest,
               seen_ms = excluded.seen_ms
             WHERE excluded.serial > serial
               OR (excluded.serial = serial AND excluded.digest = digest)",
            (url, serial, digest.hex(), now_ms()),
        )?;
        Ok(changed == 1)
    }
}
