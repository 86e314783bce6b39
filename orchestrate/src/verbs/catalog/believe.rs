//! Which catalog is believed: signed, none older than was believed before, none too far above, and not for
//! longer than it says. What it lists is kept, so that what is here is judged without the server.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;

use fetch::Client;
use registry::{Activation, ActivationState, Believed, CatalogFact, NewCatalog};
use serde::Serialize;

use crate::error::Error;
use crate::error::leaves::whole;
use crate::host::Host;
use crate::process::full;
use crate::trust::catalog::{Catalog, Entry, Image, MadeOf, SERIAL_MAX};
use crate::trust::keys::{Distrust, name};
use crate::verbs::catalog::ask::{BYTES_MAX, SIGNATURE_BYTES_MAX, Signed, hasty};
use crate::verbs::catalog::bounds::{expired, now_s};
use crate::verbs::named::reference;

/// What a person had believed.
#[derive(Clone, Debug, Serialize)]
pub struct Reset {
    /// Where the catalog is.
    pub url: String,
    /// The serial that was believed before; none: none was.
    pub was: Option<u64>,
    /// The serial that is believed now.
    pub serial: u64,
}

/// What the store keeps of it.
fn fact(new: &NewCatalog<'_>) -> CatalogFact {
    let NewCatalog { url, serial, digest, expires_s, .. } = new;
    CatalogFact { url: (*url).into(), serial: *serial, digest: *digest, expires_s: *expires_s }
}

impl Host {
    /// The signed catalog, before anything is asked of an image itself; none where no key is trusted. With `keep` the
    /// store is told which catalog is believed.
    ///
    /// # Errors
    /// [`Error::Catalog`], also for one that has expired; those of fetching it.
    pub(crate) fn catalog_for_new(&mut self, keep: bool) -> Result<Option<Catalog>, Error> {
        if !self.trusts() {
            return Ok(None);
        }
        let client = self.client()?.clone();
        let catalog = self.believed(&client, keep)?;
        self.not_expired(catalog.serial, catalog.expires_s).map_err(Error::Catalog)?;
        Ok(Some(catalog))
    }

    /// Whether a key is trusted, and so nothing else is.
    pub fn trusts(&self) -> bool {
        self.settings.trust.url.is_some()
    }

    /// Fetches the catalog, believes it or not, and remembers the newest that was believed.
    ///
    /// # Errors
    /// [`Error::Catalog`]; those of fetching.
    pub fn trusted_catalog(&mut self) -> Result<Catalog, Error> {
        let client = self.client()?.clone();
        self.believed(&client, true)
    }

    /// Asks for the catalog before something that is here already comes up. A server that does not answer
    /// is no reason to be without it, as long as it is known what the last one lists.
    ///
    /// # Errors
    /// Why there is none, where none is known.
    pub(crate) fn look_at_catalog(&mut self) -> Result<(), Error> {
        let Some(url) = self.settings.trust.url.clone() else { return Ok(()) };
        let looked = Client::new(&hasty(&self.settings.fetch))
            .map_err(Error::from)
            .and_then(|client| self.believed(&client, true).map(drop));
        match (looked, self.registry.catalog(&url)?) {
            (Err(error @ Error::Cancelled { .. }), _) => Err(error),
            (Err(error), Some(Believed { listed: true, serial, .. })) => {
                let why = whole(&error);
                self.warn(&format!("the catalog of serial {serial} has to do: {why}"), &[]);
                Ok(())
            }
            (looked, _) => looked,
        }
    }

    /// Asks for the catalog before recovery brings up what is asked for now. What keeps it from being asked
    /// is told by `activate` itself.
    pub fn ask_catalog_for(&mut self, name: &str) {
        let down = |host: &Host| -> Result<bool, Error> {
            let Some(row) = host.registry.activation(name)? else { return Ok(false) };
            Ok(!host.is_up(name, &row.reference)?)
        };
        if self.trusts() && down(self).unwrap_or(false) {
            self.asked_catalog = self.look_at_catalog().is_ok();
        }
    }

    /// As [`Host::ask_catalog_for`], for all that should be up; where it is, only if that is `wanted`.
    pub fn ask_catalog(&mut self, wanted: bool) {
        let all_up = |host: &Host| -> Result<bool, Error> {
            let mapped = host.store.mapped()?;
            let up = |row: &Activation| mapped.iter().any(|mapped| mapped.id == row.id);
            let rows = host.registry.activations()?;
            Ok(rows.iter().all(|row| row.state != ActivationState::Active || up(row)))
        };
        if !self.trusts() || (!wanted && all_up(self).unwrap_or(false)) {
            return;
        }
        if let Err(error) = self.look_at_catalog() {
            self.warn(&whole(&error), &[]);
        }
    }

    fn not_expired(&self, serial: u64, expires_s: Option<i64>) -> Result<(), Distrust> {
        let now_s = now_s();
        match expires_s {
            Some(at) if expired(expires_s, self.settings.trust.grace_s, now_s) => {
                Err(Distrust::Expired { serial, expires_s: at, now_s })
            }
            Some(_) | None => Ok(()),
        }
    }

    fn believed(&mut self, client: &Client, keep: bool) -> Result<Catalog, Error> {
        let url = self.settings.trust.url.clone().unwrap_or_default();
        let signed = self.newest_catalog(client, &url)?;
        let known = self.registry.catalog(&url)?;
        let serial = signed.catalog.serial;
        let new = new(&url, &signed);
        // Before the registry: what was believed once must not be forgotten with it.
        let kept = keep && self.tell_store(&new);
        if let Some(known) = known.filter(|known| known.listed && known.serial == serial) {
            if kept && known.stored != Some(serial) {
                self.registry.write(|write| write.catalog_stored(&url, serial))?;
            }
            return Ok(signed.catalog);
        }
        // With the store's number: a registry of before it would let come up what is revoked.
        let put = self.commit_told_soon(|write| {
            let put = write.put_catalog(&new)?;
            if put && kept {
                write.catalog_stored(&url, serial)?;
            }
            Ok(put)
        })?;
        match put {
            true => Ok(signed.catalog),
            false => {
                let known = self.registry.catalog(&url)?.map_or(serial, |known| known.serial);
                Err(Error::Catalog(Distrust::Older { serial, known }))
            }
        }
    }

    /// A person has a signed catalog in a file believed, whatever was believed before.
    ///
    /// # Errors
    /// [`Error::Catalog`]; [`Error::Io`] naming the file; those of the store, which would bring what was believed
    /// before back with a rebuild: then nothing is changed.
    pub fn reset_catalog(&mut self, file: &Path) -> Result<Reset, Error> {
        let Some(url) = self.settings.trust.url.clone() else {
            return Err(Error::Usage("set catalog.url and catalog.keys first".into()));
        };
        let beside = {
            let mut name = file.as_os_str().to_owned();
            name.push(".minisig");
            std::path::PathBuf::from(name)
        };
        let bytes = read_file(file, BYTES_MAX)?;
        let signature = read_file(&beside, SIGNATURE_BYTES_MAX)?;
        let signed = self.catalog_judge()?.signed(&bytes, &signature).map_err(Error::Catalog)?;
        let was = self.registry.catalog(&url)?.map(|known| known.serial);
        let new = new(&url, &signed);
        let kept = self.keep_serial(&fact(&new), true)?;
        self.commit_told_soon(|write| {
            write.reset_catalog(&new)?;
            if kept { write.catalog_stored(&url, new.serial) } else { Ok(()) }
        })?;
        let serial = new.serial;
        Ok(Reset { url, was, serial })
    }

    /// Has the store keep the serial, so that a rebuild knows it. That it cannot is told, and tried again
    /// with the next look at the catalog.
    fn tell_store(&mut self, new: &NewCatalog<'_>) -> bool {
        let serial = new.serial;
        self.keep_serial(&fact(new), false).unwrap_or_else(|error| {
            let line = format!(
                "the store does not keep that the catalog of serial {serial} is believed, so a rebuild \
                 would not know it: {}",
                whole(&full::told(error, &self.settings.places()))
            );
            self.warn(&line, &[]);
            false
        })
    }

    /// As soon as there is a store to keep it in.
    pub(crate) fn keep_believed(&mut self) -> Result<(), Error> {
        let Some(url) = self.settings.trust.url.clone() else { return Ok(()) };
        let Some(known) = self.registry.catalog(&url)? else { return Ok(()) };
        let Believed { serial, digest, expires_s, .. } = known;
        if known.stored != Some(serial) {
            let images = BTreeMap::new();
            let new = NewCatalog { url: &url, serial, digest, expires_s, images };
            if self.tell_store(&new) {
                self.registry.write(|write| write.catalog_stored(&url, serial))?;
            }
        }
        Ok(())
    }

    /// A catalog of the images that are here, to be signed: of version 1, or with an end of version 2.
    ///
    /// # Errors
    /// [`Error::Usage`] for a serial that no host takes; those of the registry.
    pub fn make_catalog(&self, serial: u64, expires_s: Option<i64>) -> Result<Catalog, Error> {
        if serial > SERIAL_MAX {
            let text = format!("--make {serial}: a serial is at most {SERIAL_MAX}");
            return Err(Error::Usage(text));
        }
        let mut images = BTreeMap::new();
        for image in self.registry.images()? {
            let reference = reference(&image.reference)?;
            let Some(name) = name(&reference) else { continue };
            if let Some(made) = self.registry.made(&image.reference)? {
                if let Some(manifest) = made.manifest {
                    let made_of = MadeOf::Manifest(manifest);
                    images.insert(name, Image { made_of, blocks: None });
                }
                continue;
            }
            let entry = |layer: registry::ImageLayer| Entry {
                key: layer.key,
                etag: layer.etag,
                size: layer.size,
                sha256: layer.digest,
            };
            let made_of = MadeOf::Layers(image.layers.into_iter().map(entry).collect());
            images.insert(name, Image { made_of, blocks: None });
        }
        let manifests = |image: &Image| matches!(image.made_of, MadeOf::Manifest(_));
        let version = if expires_s.is_some() || images.values().any(manifests) { 2 } else { 1 };
        Ok(Catalog { version, serial, expires_s, images })
    }
}

fn new<'a>(url: &'a str, signed: &Signed) -> NewCatalog<'a> {
    let images = signed.catalog.images.iter();
    NewCatalog {
        url,
        serial: signed.catalog.serial,
        digest: signed.digest,
        expires_s: signed.catalog.expires_s,
        images: images.map(|(name, image)| (name.clone(), image.made_of.content())).collect(),
    }
}

fn read_file(path: &Path, size_max: u64) -> Result<Vec<u8>, Error> {
    let fail = |source| Error::Io { doing: "read", path: path.into(), source };
    let mut bytes = Vec::new();
    let file = match std::fs::File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let text =
                format!("there is no file {}: catalog and signature are read", path.display());
            return Err(Error::Usage(text));
        }
        opened => opened.map_err(fail)?,
    };
    file.take(size_max + 1).read_to_end(&mut bytes).map_err(fail)?;
    if bytes.len() as u64 > size_max {
        let text = format!("{}: longer than {size_max} bytes, so no catalog", path.display());
        return Err(Error::Usage(text));
    }
    Ok(bytes)
}
