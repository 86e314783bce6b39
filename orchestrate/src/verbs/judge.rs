//! Whether what is here already may be up: by the catalog that is believed and by the verdicts of scanners
//! that are kept. It is judged from rows alone, so that recovery, a boot and the daemon's start judge as
//! `activate` does, without a server and without a scan.

use std::collections::BTreeMap;

use fetch::Reference;
use registry::{Activation, Believed, Digest, Registry, Volume, VolumeId, VolumeState};

use crate::error::Error;
use crate::error::class::Class;
use crate::host::Host;
use crate::store::seam::Store;
use crate::trust::bar::{Bar, Why};
use crate::trust::catalog::MadeOf;
use crate::trust::cosign::Unsigned;
use crate::trust::keys::{Distrust, Trust, name};
use crate::trust::scan::{Mode, Policy};
use crate::verbs::catalog;

/// By what it is judged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Judge<'a> {
    pub(crate) trust: &'a Trust,
    pub(crate) scan: &'a Policy,
}

impl Judge<'_> {
    /// Those of these activations that may not come up, by name.
    pub(crate) fn bars(
        &self,
        registry: &Registry,
        activations: &[Activation],
        volumes: &[Volume],
    ) -> Result<BTreeMap<String, Bar>, registry::Error> {
        let url = self.trust.url.as_deref();
        let believed = url.map(|url| registry.catalog(url)).transpose()?.flatten();
        let mut bars = BTreeMap::new();
        if believed.is_none()
            && self.scan.mode != Mode::Required
            && self.trust.cosign.required.is_empty()
        {
            return Ok(bars);
        }
        let volumes: BTreeMap<VolumeId, &Volume> =
            volumes.iter().map(|row| (row.id, row)).collect();
        for row in activations {
            let revoked = match (url, &believed) {
                // Nobody knows, so it does not come up; what runs goes on.
                (Some(_), Some(known)) if !known.listed => {
                    let (image, serial) = (row.reference.clone(), known.serial);
                    let why = Why::Unread { image, serial };
                    bars.insert(row.name.clone(), Bar { why, goes: false });
                    continue;
                }
                (Some(url), Some(known)) => self.revoked(registry, url, known, row, &volumes)?,
                (_, None) | (None, _) => None,
            };
            let found = match (revoked, self.unsigned(registry, row)?) {
                (Some(why), _) => Some(Bar { why, goes: self.trust.take_down }),
                // Whoever takes a key away keeps what runs from coming up again, and ends nothing.
                (None, Some(unsigned)) => Some(Bar { why: Why::Unsigned(unsigned), goes: false }),
                (None, None) => self.unfit(registry, row, &volumes)?,
            };
            if let Some(bar) = found {
                bars.insert(row.name.clone(), bar);
            }
        }
        Ok(bars)
    }

    fn revoked(
        &self,
        registry: &Registry,
        url: &str,
        known: &Believed,
        row: &Activation,
        volumes: &BTreeMap<VolumeId, &Volume>,
    ) -> Result<Option<Why>, registry::Error> {
        let (image, serial) = (row.reference.clone(), known.serial);
        let made_of = registry.activation_made_of(&row.name)?;
        let own = match made_of.manifest {
            Some(manifest) => Some(MadeOf::Manifest(manifest).content()),
            None => stack(row.origin, volumes),
        };
        let reference = row.reference.parse::<Reference>().ok();
        let Some(name) = reference.as_ref().and_then(name) else {
            // Found again by a rebuild that could not tell of which image it is, or an image that no catalog has a
            // name for: its content tells.
            let listed = own.map(|own| registry.catalog_lists(url, own)).transpose()?;
            let what = format!("no image has the layers of {image:?}");
            let none = listed != Some(true);
            return Ok(none.then_some(Why::Revoked { image, serial, what }));
        };
        let what = match registry.catalog_image(url, &name)? {
            None => format!("there is no image {name:?}"),
            Some(listed) if self.trust.superseded && own != Some(listed) => {
                format!("{name:?} has other layers")
            }
            Some(_) => return Ok(None),
        };
        Ok(Some(Why::Revoked { image, serial, what }))
    }

    /// Why an activation's image does not count as signed, where it has to be.
    fn unsigned(
        &self,
        registry: &Registry,
        row: &Activation,
    ) -> Result<Option<Unsigned>, registry::Error> {
        let trust = &self.trust.cosign;
        if !trust.requires(&row.reference) {
            return Ok(None);
        }
        let (image, digest) = (row.reference.clone(), manifest(registry, row)?);
        let known = digest.map(|manifest| registry.signatures(manifest)).transpose()?;
        let by: Vec<Digest> = known.unwrap_or_default().iter().map(|known| known.key).collect();
        match by.iter().any(|key| trust.file_of(*key).is_some()) {
            true => Ok(None),
            false => Ok(Some(Unsigned::Unknown { image, digest, by, files: trust.files() })),
        }
    }

    fn unfit(
        &self,
        registry: &Registry,
        row: &Activation,
        volumes: &BTreeMap<VolumeId, &Volume>,
    ) -> Result<Option<Bar>, registry::Error> {
        if self.scan.mode != Mode::Required {
            return Ok(None);
        }
        let image = row.reference.clone();
        let origin = volumes.get(&row.origin);
        let verdict = match origin.and_then(|origin| chain(origin)) {
            Some(chain) => registry.scan_by(chain, &self.scan.scanner())?,
            None => None,
        };
        let (why, goes) = match verdict.filter(|scan| self.scan.counts_for(scan)) {
            Some(scan) if self.scan.blocks(&scan.counts) => {
                (Why::Blocked { image, counts: scan.counts }, self.scan.take_down)
            }
            Some(_) => return Ok(None),
            None => (Why::Unscanned { image }, false),
        };
        Ok(Some(Bar { why, goes }))
    }
}

/// The manifest of the image that an activation is of. A rebuild knows that of the image alone, which is the activation's
/// while both have the same stack.
pub(crate) fn manifest(
    registry: &Registry,
    row: &Activation,
) -> Result<Option<Digest>, registry::Error> {
    if let Some(manifest) = registry.activation_made_of(&row.name)?.manifest {
        return Ok(Some(manifest));
    }
    let image = registry.image(&row.reference)?;
    let top = image.and_then(|image| image.layers.last().map(|layer| layer.volume));
    match top == Some(row.origin) {
        true => Ok(registry.made(&row.reference)?.and_then(|made| made.manifest)),
        false => Ok(None),
    }
}

/// The chain id that a layer was sealed with; none of one that is condemned.
fn chain(volume: &Volume) -> Option<Digest> {
    match &volume.state {
        VolumeState::Sealed(seal) => seal.chain,
        VolumeState::Building | VolumeState::Deleting => None,
    }
}

/// The digest over the blobs of a whole stack; none where that is not known.
fn stack(top: VolumeId, volumes: &BTreeMap<VolumeId, &Volume>) -> Option<Digest> {
    let (mut at, mut blobs) = (top, Vec::new());
    while let Some(volume) = volumes.get(&at) {
        let VolumeState::Sealed(seal) = &volume.state else { return None };
        let Some(parent) = volume.parent else {
            blobs.reverse();
            return Some(catalog::content(blobs));
        };
        blobs.push(seal.blob?);
        at = parent;
    }
    None
}

/// Activations that somebody has spoken against, and that run all the same, with the reason.
pub(crate) fn running(
    registry: &Registry,
    store: &dyn Store,
    judge: Judge<'_>,
) -> Result<Vec<(String, String)>, Error> {
    let rows = registry.activations()?;
    let bars = judge.bars(registry, &rows, &registry.volumes()?)?;
    if bars.is_empty() {
        return Ok(Vec::new());
    }
    let mapped = store.mapped()?;
    let runs = |row: &&Activation| mapped.iter().any(|mapped| mapped.id == row.id);
    let told = |row: &Activation| {
        let bar = bars.get(&row.name).filter(|bar| bar.why.is_verdict())?;
        Some((row.name.clone(), bar.why.to_string()))
    };
    Ok(rows.iter().filter(runs).filter_map(told).collect())
}

impl Host {
    pub(crate) fn judge(&self) -> Judge<'_> {
        Judge { trust: &self.settings.trust, scan: &self.settings.scan }
    }

    /// What keeps an activation from coming up, as far as it is known here.
    pub(crate) fn bar(&self, row: &Activation) -> Result<Option<Bar>, Error> {
        let volumes = self.registry.volumes()?;
        let mut bars = self.judge().bars(&self.registry, std::slice::from_ref(row), &volumes)?;
        Ok(bars.remove(&row.name))
    }

    /// Lets an activation that is here already come up, or not. Where the scanner that is required has not
    /// looked at it, that is done now. The caller holds the images' lock.
    ///
    /// # Errors
    /// [`Error::Catalog`], [`Error::Blocked`], [`Error::Scan`].
    pub(crate) fn permit_again(&mut self, row: &Activation) -> Result<(), Error> {
        match self.bar(row)?.map(|bar| bar.why) {
            Some(Why::Revoked { image, serial, what: why }) => {
                Err(Error::Catalog(Distrust::Revoked { image, serial, why }))
            }
            Some(why @ Why::Unread { .. }) => {
                Err(Error::Told { class: Class::Temporary, message: why.to_string() })
            }
            Some(Why::Unsigned(unsigned)) => {
                Err(Error::Catalog(Distrust::Cosign(Box::new(unsigned))))
            }
            Some(Why::Blocked { .. } | Why::Unscanned { .. }) | None => {
                match self.registry.volume(row.origin)? {
                    Some(origin) => self.permit(&row.reference, &origin),
                    None => Ok(()),
                }
            }
        }
    }

    /// That the catalog which is believed by now lists an image: a newer one may have been believed since
    /// its layers were asked for.
    ///
    /// # Errors
    /// [`Error::Catalog`].
    pub(crate) fn still_listed(&self, reference: &str) -> Result<(), Error> {
        let Some(url) = &self.settings.trust.url else { return Ok(()) };
        let Some(known) = self.registry.catalog(url)?.filter(|known| known.listed) else {
            return Ok(());
        };
        let image = crate::verbs::named::reference(reference)?;
        // Of one without a name the digest was looked up just now.
        let Some(name) = name(&image) else { return Ok(()) };
        match self.registry.catalog_image(url, &name)? {
            Some(_) => Ok(()),
            None => Err(Error::Catalog(Distrust::Revoked {
                image: reference.into(),
                serial: known.serial,
                why: format!("there is no image {name:?}"),
            })),
        }
    }

    /// That the activation which was reserved just now is of an image that is signed, where it has to be: somebody may
    /// have taken the image's name for another one meanwhile, or the keys are others.
    ///
    /// # Errors
    /// [`Error::Catalog`].
    pub(crate) fn still_signed(&self, name: &str) -> Result<(), Error> {
        let Some(row) = self.registry.activation(name)? else { return Ok(()) };
        match self.judge().unsigned(&self.registry, &row)? {
            Some(unsigned) => Err(Error::Catalog(Distrust::Cosign(Box::new(unsigned)))),
            None => Ok(()),
        }
    }

    /// Has what should be up and was not scanned be scanned, so that it is judged. One that cannot be
    /// scanned keeps no other from it; gives how many were.
    ///
    /// # Errors
    /// Those of registry and store; [`Error::Cancelled`].
    pub fn scan_unscanned(&mut self) -> Result<usize, Error> {
        if self.settings.scan.mode != Mode::Required {
            return Ok(0);
        }
        let (rows, volumes) = (self.registry.activations()?, self.registry.volumes()?);
        let bars = self.judge().bars(&self.registry, &rows, &volumes)?;
        let mut scanned = 0;
        for row in rows.iter().filter(|row| row.state == registry::ActivationState::Active) {
            self.settings.cancel.check()?;
            let unscanned = bars.get(&row.name).is_some_and(|bar| !bar.why.is_verdict());
            let origin = volumes.iter().find(|volume| volume.id == row.origin);
            if let Some(origin) = origin.filter(|_| unscanned) {
                // What is looked at stays as long as that takes, and no longer.
                let _using = self.locks.images_shared()?;
                match self.permit(&row.reference, origin) {
                    Ok(()) | Err(Error::Blocked { .. }) => scanned += 1,
                    Err(error @ Error::Cancelled { .. }) => return Err(error),
                    Err(error) => {
                        self.warn(&format!("{} is not scanned: {error}", row.reference), &[]);
                    }
                }
            }
        }
        Ok(scanned)
    }
}

#[cfg(test)]
mod tests {
    use registry::{Role, Seal};

    use super::*;

    fn volume(id: u32, parent: Option<u32>, blob: u8) -> Volume {
        let state = VolumeState::Sealed(Seal {
            chain: Some(Digest([blob; 32])),
            diff: None,
            blob: Some(Digest([blob; 32])),
            tree: None,
            blocks: None,
            own_bytes: 0,
            entries: 0,
            content_bytes: 0,
        });
        let role = if parent.is_some() { Role::Layer } else { Role::Template };
        let (id, parent) = (VolumeId::new(id), parent.map(VolumeId::new));
        Volume { id, role, parent, build: String::new(), bytes: 1, state, condemned: None }
    }

    #[test]
    fn a_stack_is_known_by_its_blobs_from_the_lowest_up() {
        let rows = [volume(1, None, 0), volume(2, Some(1), 7), volume(3, Some(2), 8)];
        let volumes: BTreeMap<VolumeId, &Volume> = rows.iter().map(|row| (row.id, row)).collect();
        let expected = catalog::content([Digest([7; 32]), Digest([8; 32])]);
        assert_eq!(stack(VolumeId::new(3), &volumes), Some(expected));
        assert_eq!(stack(VolumeId::new(4), &volumes), None);
    }
}
