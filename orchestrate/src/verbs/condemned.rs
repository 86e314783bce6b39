//! Volumes that are not as they were sealed, or gone: never built on or handed out again. What was handed
//! out before stays as it is; the next one who asks for the image gets a sound one.

use std::collections::BTreeMap;

use registry::{Role, Volume, VolumeId, VolumeState};
use unpack::Unfit;

use crate::error::Error;
use crate::error::leaves::whole;
use crate::host::Host;
use crate::plan::condemned::{Condemned, Standing, standing, with_descendants};
use crate::store::seal;

/// Why a volume is condemned that the store no longer has.
const GONE: &str = "gone from the store: somebody deleted it";

/// How often in one command a layer may turn out to be unusable: each is built anew.
pub(crate) const UNUSABLE_MAX: usize = 8;

impl Host {
    /// Condemns these layers, and the sealed ones that stand on them. Gives those that are now.
    pub(crate) fn condemn(
        &mut self,
        bad: &BTreeMap<VolumeId, String>,
    ) -> Result<Vec<Condemned>, Error> {
        if bad.is_empty() {
            return Ok(Vec::new());
        }
        self.has_any_volume()?;
        // Nobody seals on them, or snapshots them, in between.
        let _store = self.locks.store()?;
        let all = with_descendants(&self.registry.volumes()?, bad);
        let done = self.fenced(|write| {
            let mut done = Vec::new();
            for (volume, why) in &all {
                if write.condemn_volume(*volume, why)? {
                    done.push(Condemned { volume: *volume, why: why.clone() });
                }
            }
            Ok(done)
        })?;
        for line in &done {
            let msg = format!("volume {} is condemned: {}", line.volume, line.why);
            self.warn(&msg, &[("volume", line.volume.into())]);
        }
        Ok(done)
    }

    /// A store that has not one volume was not damaged in places: it is somewhere else, or not mounted, and
    /// nothing is to be judged by it.
    fn has_any_volume(&self) -> Result<(), Error> {
        match self.store.ids()?.is_empty() {
            true => Err(Error::NoVolumes { store: self.store.binding().id }),
            false => Ok(()),
        }
    }

    /// What stands on condemned volumes.
    pub fn standing(&self) -> Result<Standing, Error> {
        let (volumes, images) = (self.registry.volumes()?, self.registry.images()?);
        Ok(standing(&volumes, &images, &self.registry.activations()?))
    }

    /// Where `error` says that a sealed volume cannot be used, has it built anew by who needs it next,
    /// which may be the same command at once.
    ///
    /// # Errors
    /// Any other error, as it is.
    pub(crate) fn unusable(&mut self, error: Error) -> Result<(), Error> {
        match error {
            Error::Lost { volume } => {
                match self.registry.volume(volume)? {
                    Some(row) if row.role == Role::Template => {
                        self.has_any_volume()?;
                        self.registry.write(|write| write.condemn_template(volume, GONE))?;
                    }
                    Some(_) | None => {
                        drop(self.condemn(&BTreeMap::from([(volume, GONE.to_owned())]))?);
                    }
                }
                Ok(())
            }
            Error::Volume { volume, source } if is_of_the_volume(&source) => {
                let why = whole(source.as_ref());
                match self.registry.volume(volume)? {
                    Some(row) if row.role == Role::Template => {
                        let _store = self.locks.store()?;
                        // Another command may have made it again meanwhile.
                        let start = self.store.seal_record(volume)?.unwrap_or_default();
                        let is_there =
                            matches!(*source, Unfit::Foreign) && seal::mark(&start).is_some();
                        if !is_there {
                            self.registry.write(|write| write.condemn_template(volume, &why))?;
                        }
                    }
                    Some(row) if matches!(row.state, VolumeState::Sealed(_)) => {
                        drop(self.condemn(&BTreeMap::from([(volume, why)]))?);
                    }
                    // One that was only being built says nothing of what is below it.
                    Some(_) | None => return Err(Error::Volume { volume, source }),
                }
                Ok(())
            }
            Error::Condemned { .. } => Ok(()),
            other => Err(other),
        }
    }

    /// A volume that is about to be built on, or handed out: never a condemned one.
    ///
    /// # Errors
    /// [`Error::Condemned`].
    pub(crate) fn not_condemned(&self, id: VolumeId, what: &str) -> Result<(), Error> {
        match self.registry.volume(id)?.and_then(|row| row.condemned) {
            None => Ok(()),
            Some(why) => Err(Error::Condemned { what: what.into(), volume: id, why }),
        }
    }
}

/// Whether it is the volume itself in which no layer can go on, and not what is in the way of that.
fn is_of_the_volume(unfit: &Unfit) -> bool {
    match unfit {
        Unfit::Empty
        | Unfit::Foreign
        | Unfit::Version(_)
        | Unfit::Unsealed
        | Unfit::Changed
        | Unfit::Short { .. } => true,
        Unfit::NoRoom { .. } | Unfit::InUse { .. } | Unfit::Geometry(_) | Unfit::Io { .. } => false,
    }
}

/// The condemned volumes, with why.
pub(crate) fn reasons(volumes: &[Volume]) -> BTreeMap<VolumeId, String> {
    volumes.iter().filter_map(|row| Some((row.id, row.condemned.clone()?))).collect()
}
