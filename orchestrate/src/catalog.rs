//! The signed catalog: which objects an image is made of, and what each of them is. With a key
//! configured, only what it lists is made or activated, and digests are its own and not an ETag's word.
//!
//! ```text
//!   catalog.json          {"version": 1, "serial": 7, "images": {"images/golang/":
//!                           [{"key": "images/golang/1.tar", "etag": "..", "size": 1, "sha256": ".."}]}}
//!   catalog.json.minisig  a detached signature of it, by minisign
//! ```
//!
//! An image is named by what stands after the bucket, so that a mirror has the same catalog. The serial
//! never goes back: who can answer for the server must not bring back an image that was taken out.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read as _;

use fetch::{Client, Expect, ImageRef, Layer, ObjectRef};
use minisign_verify::{PublicKey, Signature};
use registry::Digest;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{Error, Host};

/// Bytes of a catalog: some hundred thousand layers.
const BYTES_MAX: u64 = 32 << 20;

/// Bytes of a signature; minisign's are about 300.
const SIGNATURE_BYTES_MAX: u64 = 16 << 10;

/// Where the catalog is, and whose word counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    /// `s3://bucket/key`; none: nothing is asked.
    pub url: Option<String>,
    /// minisign's public keys, each as its line or as a file that has it.
    pub keys: Vec<String>,
}

/// What a catalog says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Catalog {
    /// Of this form; 1.
    pub version: u64,
    /// Grows with each catalog.
    pub serial: u64,
    /// Images by what stands after the bucket, each from its lowest layer up.
    pub images: BTreeMap<String, Vec<Entry>>,
}

/// One layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Its key.
    pub key: String,
    /// Its entity tag, where it is to be just this upload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// Its size, bytes.
    pub size: u64,
    /// sha256 of the object.
    pub sha256: Digest,
}

/// Why an image is not believed.
#[derive(Debug)]
pub enum Distrust {
    /// A key that is none.
    Key(String),
    /// No key has signed these bytes.
    Unsigned(String),
    /// They are no catalog.
    Malformed(String),
    /// One that is older than, or other than, what was believed.
    Older {
        /// Its serial.
        serial: u64,
        /// The serial that was believed.
        known: u64,
    },
    /// An image that is not in it, or is another one.
    Unlisted {
        /// The image.
        image: String,
        /// What differs.
        why: String,
    },
}

impl Catalog {
    /// Reads a catalog that one of `keys` has signed. Pure.
    ///
    /// # Errors
    /// [`Distrust`].
    pub fn read(bytes: &[u8], signature: &str, keys: &[PublicKey]) -> Result<Catalog, Distrust> {
        let signature =
            Signature::decode(signature).map_err(|error| Distrust::Unsigned(error.to_string()))?;
        // The older form hashes nothing beforehand; nobody has to write it any more.
        if !keys.iter().any(|key| key.verify(bytes, &signature, false).is_ok()) {
            return Err(Distrust::Unsigned("no key of catalog.keys has signed these bytes".into()));
        }
        let catalog: Catalog = serde_json::from_slice(bytes)
            .map_err(|error| Distrust::Malformed(error.to_string()))?;
        match catalog.version {
            1 => Ok(catalog),
            version => {
                Err(Distrust::Malformed(format!("version {version}, and 1 is what is read")))
            }
        }
    }

    /// The digests of an image's layers, where it is just what the server lists. Pure.
    ///
    /// # Errors
    /// [`Distrust::Unlisted`] for whatever differs.
    pub fn check(&self, image: &ImageRef, layers: &[Layer]) -> Result<Vec<Digest>, Distrust> {
        let refuse = |why: String| Distrust::Unlisted { image: image.to_string(), why };
        let entries = self
            .images
            .get(name(image))
            .ok_or_else(|| refuse(format!("no image {:?} in it", name(image))))?;
        if entries.len() != layers.len() {
            let (listed, there) = (entries.len(), layers.len());
            return Err(refuse(format!("{listed} layers in it, {there} on the server")));
        }
        let same = |(entry, layer): (&Entry, &Layer)| {
            let object = &layer.object;
            let differs = |what: &str| refuse(format!("{what} of {:?} differs", object.object.key));
            match () {
                () if entry.key != object.object.key => Err(differs("the name or place")),
                () if entry.size != object.size => Err(differs("the size")),
                () if entry.etag.is_some() && entry.etag != object.etag => Err(differs("the ETag")),
                () => Ok(entry.sha256),
            }
        };
        entries.iter().zip(layers).map(same).collect()
    }
}

/// What stands after the bucket.
fn name(image: &ImageRef) -> &str {
    match image {
        ImageRef::Prefix { prefix, .. } => prefix,
        ImageRef::Object(object) => &object.key,
    }
}

impl Trust {
    /// The keys, read.
    ///
    /// # Errors
    /// [`Distrust::Key`] naming the one that is none.
    pub fn public_keys(&self) -> Result<Vec<PublicKey>, Distrust> {
        let one = |text: &String| {
            let bad = |why: String| Distrust::Key(format!("{text:?}: {why}"));
            match text.contains(['/', '.']) && std::path::Path::new(text).is_absolute() {
                true => PublicKey::from_file(text).map_err(|error| bad(error.to_string())),
                false => PublicKey::from_base64(text).map_err(|error| bad(error.to_string())),
            }
        };
        self.keys.iter().map(one).collect()
    }
}

impl Host {
    /// The digests that a signed catalog has for these layers; none where no key is trusted.
    pub(crate) fn signed(
        &self,
        client: &Client,
        image: &ImageRef,
        layers: &[Layer],
    ) -> Result<Option<Vec<Digest>>, Error> {
        if !self.trusts() {
            return Ok(None);
        }
        let catalog = self.catalog(client)?;
        catalog.check(image, layers).map(Some).map_err(Error::Catalog)
    }

    /// Whether a key is trusted, and so nothing else is.
    pub fn trusts(&self) -> bool {
        self.settings.trust.url.is_some()
    }

    /// Fetches the catalog, believes it or not, and remembers the newest that was believed.
    ///
    /// # Errors
    /// [`Error::Catalog`]; those of fetching.
    pub fn trusted_catalog(&self) -> Result<Catalog, Error> {
        self.catalog(self.client()?)
    }

    fn catalog(&self, client: &Client) -> Result<Catalog, Error> {
        let trust = &self.settings.trust;
        let url = trust.url.as_deref().unwrap_or_default();
        let keys = trust.public_keys().map_err(Error::Catalog)?;
        let bytes = read(client, url, BYTES_MAX)?;
        let signature = read(client, &format!("{url}.minisig"), SIGNATURE_BYTES_MAX)?;
        let signature = String::from_utf8_lossy(&signature);
        let catalog = Catalog::read(&bytes, &signature, &keys).map_err(Error::Catalog)?;
        let digest = Digest(Sha256::digest(&bytes).into());
        let known = self.registry.catalog(url)?;
        if known == Some((catalog.serial, digest)) {
            return Ok(catalog);
        }
        // By a connection of its own: the host's is only lent here.
        let mut registry = registry::Registry::open(self.registry.path())?;
        match registry.write(|write| write.put_catalog(url, catalog.serial, digest))? {
            true => Ok(catalog),
            false => Err(Error::Catalog(Distrust::Older {
                serial: catalog.serial,
                known: known.map_or(catalog.serial, |(serial, _)| serial),
            })),
        }
    }

    /// A catalog of the images that are here, to be signed.
    ///
    /// # Errors
    /// Those of the registry.
    pub fn make_catalog(&self, serial: u64) -> Result<Catalog, Error> {
        let mut images = BTreeMap::new();
        for image in self.registry.images()? {
            let reference: ImageRef = image.reference.parse().map_err(Error::Fetch)?;
            let entry = |layer: registry::ImageLayer| Entry {
                key: layer.key,
                etag: layer.etag,
                size: layer.size,
                sha256: layer.digest,
            };
            images
                .insert(name(&reference).to_owned(), image.layers.into_iter().map(entry).collect());
        }
        Ok(Catalog { version: 1, serial, images })
    }
}

fn read(client: &Client, url: &str, size_max: u64) -> Result<Vec<u8>, Error> {
    let object = match url.parse::<ObjectRef>() {
        Ok(object) => object,
        Err(error) => return Err(Error::Fetch(error)),
    };
    let expect = Expect { size_max: Some(size_max), ..Expect::default() };
    let mut bytes = Vec::new();
    let mut body = client.open(&object, &expect)?;
    body.read_to_end(&mut bytes).map_err(|source| Error::Io {
        doing: "fetch",
        path: url.into(),
        source,
    })?;
    Ok(bytes)
}

impl fmt::Display for Distrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Distrust::Key(why) => write!(f, "catalog.keys: {why}"),
            Distrust::Unsigned(why) => {
                write!(f, "the catalog's signature is not good: {}", why.escape_debug())
            }
            Distrust::Malformed(why) => {
                write!(f, "the catalog cannot be read: {}", why.escape_debug())
            }
            Distrust::Older { serial, known } => write!(
                f,
                "the catalog has serial {serial}, and another one of serial {known} was believed before: \
                 an old one is played back, or two were signed with one serial"
            ),
            Distrust::Unlisted { image, why } => {
                write!(f, "{} is not as the signed catalog has it: {}", image.escape_debug(), why)
            }
        }
    }
}
