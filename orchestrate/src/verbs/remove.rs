//! `rm`: an activation with what was written to it, or an image with the layers only it has.

use registry::{Asker, Verb, Volume, VolumeId, VolumeState, WhenClosed};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::error::amiss::Amiss;
use crate::host::asker::is_a_persons;
use crate::host::{Host, order};
use crate::plan::Wish;
use crate::plan::garbage::with_image;
use crate::plan::retry::Step;
use crate::verbs::deactivate::Going;
use crate::verbs::volumes;

/// What `rm` did, or would do.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Removed {
    /// The activation that is gone.
    pub activation: Option<String>,
    /// Whether that is open, and goes as soon as it is closed.
    #[serde(default)]
    pub when_closed: bool,
    /// The image that is gone.
    pub image: Option<String>,
    /// Points of the activation that are gone with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub points: Vec<String>,
    /// Layers that are gone, from the top down.
    pub volumes: Vec<VolumeId>,
    /// Layers of the image that stay, because something else stands on them.
    pub kept: Vec<VolumeId>,
    /// Bytes that the store got back.
    pub freed_bytes: u64,
    /// Whether nothing was done on purpose.
    pub dry_run: bool,
}

impl Host {
    /// Removes the activation or image `name`. An activation that somebody has open is left as it is;
    /// `when_closed` has it removed as soon as nobody has.
    ///
    /// # Errors
    /// [`Amiss::InUse`] for an image of which there are activations; [`Error::Held`].
    pub fn remove(&mut self, name: &str, how: Going) -> Result<Removed, Error> {
        let name = &self.only_name(name)?;
        if how.dry_run {
            return self.remove_alone(name, how);
        }
        self.as_run(Verb::Rm, name, how.to_json(), |host| host.remove_alone(name, how))
    }

    fn remove_alone(&mut self, name: &str, how: Going) -> Result<Removed, Error> {
        let dry_run = how.dry_run;
        let before = self.store.space()?.used;
        let is_here = |host: &Host| -> Result<bool, Error> {
            Ok(host.registry.activation(name)?.is_some() || host.registry.image(name)?.is_some())
        };
        let what = if order::is_image(name) { "image" } else { "activation" };
        if !dry_run && !is_here(self)? && self.after_its_makers(what, name)? && !is_here(self)? {
            // Nothing of it was there but the run.
            let gone = Some(name.to_owned());
            let (activation, image) =
                if order::is_image(name) { (None, gone) } else { (gone, None) };
            return Ok(Removed { activation, image, ..Removed::default() });
        }
        let mut removed = if self.registry.activation(name)?.is_some() {
            self.remove_activation(name, how)?
        } else if self.registry.image(name)?.is_some() {
            self.remove_image(name, dry_run)?
        } else {
            return Err(match self.is_being_made(name)? {
                true => self.unknown(what, name),
                false => Error::Unknown { what: "activation or image", name: name.into() },
            });
        };
        removed.dry_run = dry_run;
        removed.freed_bytes = before.saturating_sub(self.store.space()?.used);
        Ok(removed)
    }

    fn remove_activation(&mut self, name: &str, how: Going) -> Result<Removed, Error> {
        let _mine = self.locks.activation(name)?;
        let mut removed = Removed { activation: Some(name.into()), ..Removed::default() };
        if let Some(row) = self.registry.activation(name)? {
            if self.asker()? == Asker::Document
                && !self.registry.write(|write| write.is_documents_alone(name))?
            {
                return Err(is_a_persons(name));
            }
            let points = self.registry.points_of(name)?;
            removed.points = points.into_iter().filter_map(|point| point.name).collect();
            self.leaves_no_node(name)?;
            removed.when_closed = self.waits_to_be_closed(&row, how, WhenClosed::Rm)?;
        }
        if !how.dry_run && !removed.when_closed {
            self.patiently(Step::Device, |host| {
                host.drive(name, Wish::Gone)?;
                host.drop_points(name).map(drop)
            })?;
        }
        Ok(removed)
    }

    fn remove_image(&mut self, reference: &str, dry_run: bool) -> Result<Removed, Error> {
        loop {
            let alone = self.locks.images_alone()?;
            let removed = self.would_be_removed(reference)?;
            if dry_run {
                return Ok(removed);
            }
            let mut rows: Vec<Volume> = Vec::new();
            for id in &removed.volumes {
                rows.extend(self.registry.volume(*id)?);
            }
            let mut builds: Vec<&str> = rows.iter().map(|row| row.build.as_str()).collect();
            builds.sort_unstable();
            builds.dedup();
            let mut mine = Vec::new();
            let mut held = None;
            for build in builds {
                match self.locks.try_build(build)? {
                    Some(lock) => mine.push(lock),
                    None => held = Some(build.to_owned()),
                }
            }
            let Some(build) = held else { return self.remove_rows(reference, removed, &rows) };
            // Somebody looks at a layer of it, which may take long: nobody else waits for that.
            drop((alone, mine));
            drop(self.locks.build(&build)?);
        }
    }

    /// What an image's removal takes with it.
    fn would_be_removed(&self, reference: &str) -> Result<Removed, Error> {
        if self.registry.image(reference)?.is_none() {
            return Err(Error::Unknown { what: "image", name: reference.into() });
        }
        let facts = self.garbage_facts(None)?;
        let used: Vec<_> = facts
            .activations
            .iter()
            .filter(|activation| activation.reference == reference)
            .map(|activation| activation.name.clone())
            .collect();
        if !used.is_empty() {
            return Err(Error::Amiss(Amiss::InUse { image: reference.into(), names: used }));
        }
        let (volumes, kept) = with_image(&facts, reference);
        Ok(Removed { image: Some(reference.into()), volumes, kept, ..Removed::default() })
    }

    /// One commit for the image and its layers: killed after it, recovery does the rest. The caller holds
    /// the images' lock, and those of the layers.
    fn remove_rows(
        &mut self,
        reference: &str,
        removed: Removed,
        rows: &[Volume],
    ) -> Result<Removed, Error> {
        let _store = self.locks.store()?;
        let run = self.run;
        let gone = self.registry.write(|write| {
            // As of this very moment: a person may have asked for it since the document was looked at.
            if write.asker(run)? == Asker::Document && !write.is_documents_alone(reference)? {
                return Ok(false);
            }
            write.forget_image(reference)?;
            rows.iter().try_for_each(|row| write.advance_volume(row, &VolumeState::Deleting))?;
            Ok(true)
        })?;
        if !gone {
            return Err(is_a_persons(reference));
        }
        for row in rows {
            volumes::delete_volume(self, row.id)?;
        }
        Ok(removed)
    }
}
