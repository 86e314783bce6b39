//! Images that have a manifest and a config of their own: which, and the config as it came.

use crate::digest::Digest;
use crate::error::Error;
use crate::file::schema::Registry;
use crate::rows::{digest, get};
use crate::write::Write;

/// What an image was made from, beside its layers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Made {
    /// sha256 of what the place answered for the name: the manifest, or the index that it was chosen from.
    pub found: Option<Digest>,
    /// sha256 of its manifest; none where it came without one.
    pub manifest: Option<Digest>,
    /// sha256 of its config; none while only the manifest is known, as after a rebuild.
    pub config: Option<Digest>,
    /// The platform that was chosen.
    pub platform: Option<String>,
    /// The entity tag of the `index.json` that named it, where that is an object of a bucket.
    pub index_etag: Option<String>,
}

/// What an activation keeps of that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MadeOf {
    /// sha256 of the manifest.
    pub manifest: Option<Digest>,
    /// sha256 of the config.
    pub config: Option<Digest>,
}

impl Registry {
    /// What an image was made from; none for numbered layers.
    ///
    /// # Errors
    /// [`Error::Sqlite`], [`Error::Corrupt`].
    pub fn made(&self, reference: &str) -> Result<Option<Made>, Error> {
        let subject = format!("image {reference}");
        self.one(
            "SELECT found, manifest, config, platform, index_etag FROM images
             WHERE reference = ?1 AND (manifest IS NOT NULL OR config IS NOT NULL)",
            [reference],
            |row| made(row, &subject),
        )
    }

    /// Of all images with a manifest or config, by reference.
    ///
    /// # Errors
    /// [`Error::Sqlite`], [`Error::Corrupt`].
    pub fn all_made(&self) -> Result<Vec<(String, Made)>, Error> {
        self.all(
            "SELECT found, manifest, config, platform, index_etag, reference FROM images
             WHERE manifest IS NOT NULL OR config IS NOT NULL",
            [],
            |row| {
                let reference: String = get(row, 5, "image")?;
                let made = made(row, &format!("image {reference}"))?;
                Ok((reference, made))
            },
        )
    }

    /// What the image was made from that an activation is of.
    ///
    /// # Errors
    /// [`Error::Sqlite`], [`Error::Corrupt`].
    pub fn activation_made_of(&self, name: &str) -> Result<MadeOf, Error> {
        let subject = format!("activation {name}");
        let found =
            self.one("SELECT manifest, config FROM activations WHERE name = ?1", [name], |row| {
                Ok(MadeOf {
                    manifest: digest(row, 0, &subject)?,
                    config: digest(row, 1, &subject)?,
                })
            })?;
        Ok(found.unwrap_or_default())
    }

    /// A config as it came.
    ///
    /// # Errors
    /// [`Error::Sqlite`].
    pub fn config(&self, digest: Digest) -> Result<Option<String>, Error> {
        self.one("SELECT content FROM configs WHERE digest = ?1", [digest.hex()], |row| {
            get(row, 0, "config")
        })
    }

    /// The references of an image that is here, by the digest of its manifest, or of its config where it came
    /// without a manifest; the first few.
    ///
    /// # Errors
    /// [`Error::Sqlite`].
    pub fn images_of(&self, digest: Digest) -> Result<Vec<String>, Error> {
        self.all(
            "SELECT reference FROM images
             WHERE manifest = ?1 OR (config = ?1 AND manifest IS NULL) ORDER BY reference LIMIT 8",
            [digest.hex()],
            |row| get(row, 0, "image"),
        )
    }
}

fn made(row: &rusqlite::Row<'_>, subject: &str) -> Result<Made, Error> {
    Ok(Made {
        found: digest(row, 0, subject)?,
        manifest: digest(row, 1, subject)?,
        config: digest(row, 2, subject)?,
        platform: get(row, 3, subject)?,
        index_etag: get(row, 4, subject)?,
    })
}

impl Write<'_> {
    /// Records what an image was made from, with the text of its config where that is at hand.
    ///
    /// # Errors
    /// [`Error::Sqlite`].
    pub fn put_made(
        &self,
        reference: &str,
        made: &Made,
        content: Option<&str>,
    ) -> Result<(), Error> {
        if let (Some(config), Some(content)) = (made.config, content) {
            self.run(
                "INSERT INTO configs(digest, content) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
                (config.hex(), content),
            )?;
        }
        let hex = |digest: Option<Digest>| digest.map(|digest| digest.hex());
        self.run(
            "UPDATE images SET found = ?2, manifest = ?3, config = ?4, platform = ?5, index_etag = ?6
             WHERE reference = ?1",
            (
                reference,
                hex(made.found),
                hex(made.manifest),
                hex(made.config),
                &made.platform,
                &made.index_etag,
            ),
        )?;
        self.drop_configs()
    }

    /// Drops the configs and signatures that nothing here is of.
    pub(crate) fn drop_configs(&self) -> Result<(), Error> {
        self.run(
            "DELETE FROM signatures
             WHERE NOT EXISTS (SELECT 1 FROM images i WHERE i.manifest = signatures.manifest)
               AND NOT EXISTS (SELECT 1 FROM activations a WHERE a.manifest = signatures.manifest)",
            [],
        )?;
        self.run(
            "DELETE FROM configs WHERE NOT EXISTS (SELECT 1 FROM images i WHERE i.config = digest)
               AND NOT EXISTS (SELECT 1 FROM activations a WHERE a.config = digest)",
            [],
        )
        .map(drop)
    }
}
