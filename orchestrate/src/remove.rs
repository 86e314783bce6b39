//! `rm`: an activation with what was written to it, or an image with the layers only it has.

use registry::VolumeState;
use serde::Serialize;

use crate::plan::Wish;
use crate::{Error, Host, perform};

/// What `rm` did, or would do.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Removed {
    /// The activation that is gone.
    pub activation: Option<String>,
    /// The image that is gone.
    pub image: Option<String>,
    /// Layers that are gone, from the top down.
    pub volumes: Vec<u32>,
    /// Layers of the image that stay, because something else stands on them.
    pub kept: Vec<u32>,
    /// Bytes that the store got back.
    pub freed_bytes: u64,
    /// Whether nothing was done on purpose.
    pub dry_run: bool,
}

impl Host {
    /// Removes the activation or image `name`.
    ///
    /// # Errors
    /// [`Error::Taken`] for an image of which there are activations.
    pub fn remove(&mut self, name: &str, dry_run: bool) -> Result<Removed, Error> {
        let before = self.store.space()?.used;
        let mut removed = if self.registry.activation(name)?.is_some() {
            self.remove_activation(name, dry_run)?
        } else if self.registry.image(name)?.is_some() {
            self.remove_image(name, dry_run)?
        } else {
            return Err(Error::Unknown { what: "activation or image", name: name.into() });
        };
        removed.dry_run = dry_run;
        removed.freed_bytes = before.saturating_sub(self.store.space()?.used);
        Ok(removed)
    }

    fn remove_activation(&mut self, name: &str, dry_run: bool) -> Result<Removed, Error> {
        let _mine = self.locks.activation(name)?;
        if !dry_run {
            self.drive(name, Wish::Gone)?;
        }
        Ok(Removed { activation: Some(name.into()), ..Removed::default() })
    }

    fn remove_image(&mut self, reference: &str, dry_run: bool) -> Result<Removed, Error> {
        let _alone = self.locks.images_alone()?;
        let Some(image) = self.registry.image(reference)? else {
            return Err(Error::Unknown { what: "image", name: reference.into() });
        };
        let activations = self.registry.activations()?;
        let used: Vec<_> = activations
            .iter()
            .filter(|activation| activation.reference == reference)
            .map(|activation| activation.name.as_str())
            .collect();
        if !used.is_empty() {
            return Err(Error::Taken {
                name: reference.into(),
                by: format!("its activations {}", used.join(", ")),
            });
        }
        let mut removed = Removed { image: Some(reference.into()), ..Removed::default() };
        let stack: Vec<u32> = image.layers.iter().rev().map(|layer| layer.volume).collect();
        if dry_run {
            removed.split_by_use(&stack, &self.used_without(reference)?);
            return Ok(removed);
        }
        self.registry.write(|write| write.forget_image(reference))?;
        for id in stack {
            // From the top down: a layer is free once nothing stands on it any more.
            let free = self.registry.unreferenced()?.into_iter().find(|volume| volume.id == id);
            match free {
                Some(volume) => {
                    let _store = self.locks.store()?;
                    self.registry
                        .write(|write| write.advance_volume(&volume, &VolumeState::Deleting))?;
                    perform::delete_volume(self, id)?;
                    removed.volumes.push(id);
                }
                None if removed.volumes.contains(&id) => {}
                None => removed.kept.push(id),
            }
        }
        Ok(removed)
    }

    /// Volumes that images but this one, activations, or builds stand on.
    fn used_without(&self, reference: &str) -> Result<Vec<u32>, Error> {
        let others = self.registry.images()?.into_iter().filter(|i| i.reference != reference);
        let mut used: Vec<u32> =
            others.flat_map(|image| image.layers).map(|layer| layer.volume).collect();
        used.extend(self.registry.activations()?.iter().map(|activation| activation.origin));
        let volumes = self.registry.volumes()?;
        let building = volumes.iter().filter(|v| v.state == VolumeState::Building);
        used.extend(building.filter_map(|volume| volume.parent));
        let mut next = 0;
        while let Some(id) = used.get(next).copied() {
            next += 1;
            let parent = volumes.iter().find(|v| v.id == id).and_then(|v| v.parent);
            used.extend(parent.filter(|parent| !used.contains(parent)));
        }
        Ok(used)
    }
}

impl Removed {
    fn split_by_use(&mut self, stack: &[u32], used: &[u32]) {
        for id in stack {
            let to = if used.contains(id) { &mut self.kept } else { &mut self.volumes };
            if !to.contains(id) {
                to.push(*id);
            }
        }
    }
}
