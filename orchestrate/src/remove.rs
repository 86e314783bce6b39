//! `rm`: an activation with what was written to it, or an image with the layers only it has.

use registry::{Verb, Volume, VolumeState};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::garbage::with_image;
use crate::plan::Wish;
use crate::policy::Step;
use crate::{Error, Host, perform};

/// What `rm` did, or would do.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
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
        if dry_run {
            return self.remove_alone(name, true);
        }
        self.as_run(Verb::Rm, name, json!({}), |host| host.remove_alone(name, false))
    }

    fn remove_alone(&mut self, name: &str, dry_run: bool) -> Result<Removed, Error> {
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
            self.patiently(Step::Device, |host| host.drive(name, Wish::Gone))?;
        }
        Ok(Removed { activation: Some(name.into()), ..Removed::default() })
    }

    fn remove_image(&mut self, reference: &str, dry_run: bool) -> Result<Removed, Error> {
        let _alone = self.locks.images_alone()?;
        if self.registry.image(reference)?.is_none() {
            return Err(Error::Unknown { what: "image", name: reference.into() });
        }
        let facts = self.garbage_facts(None)?;
        let used: Vec<_> = facts
            .activations
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
        let (volumes, kept) = with_image(&facts, reference);
        let removed =
            Removed { image: Some(reference.into()), volumes, kept, ..Removed::default() };
        if dry_run {
            return Ok(removed);
        }
        let of = |id: &u32| facts.volumes.iter().find(|row| row.id == *id);
        let rows: Vec<&Volume> = removed.volumes.iter().filter_map(of).collect();
        let _store = self.locks.store()?;
        // One commit for the image and its layers: killed after it, recovery does the rest.
        self.registry.write(|write| {
            write.forget_image(reference)?;
            rows.iter().try_for_each(|row| write.advance_volume(row, &VolumeState::Deleting))
        })?;
        for row in rows {
            perform::delete_volume(self, row.id)?;
        }
        Ok(removed)
    }
}
