//! `gc`, pins and `df`: room that nobody needs is found, told, and given back.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::garbage::{Facts, Sweep, garbage, own_bytes};
use crate::store::Space;
use crate::{Error, Host, perform};

/// Runs of one subject, and lines of history, that a collection leaves.
const RUNS_KEPT: u32 = 20;
const EVENTS_KEPT: u32 = 100_000;

/// How much a store may have taken after a collection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bound {
    /// At most so many bytes.
    pub keep_bytes: Option<u64>,
    /// At most so many hundredths of all.
    pub max_used: Option<u8>,
}

impl Bound {
    fn bytes(&self, space: &Space) -> Option<u64> {
        let part = self.max_used.map(|part| space.total / 100 * u64::from(part));
        [self.keep_bytes, part].into_iter().flatten().min()
    }

    pub(crate) fn to_json(self) -> Value {
        json!({"keep_bytes": self.keep_bytes, "max_used": self.max_used})
    }

    pub(crate) fn from_json(value: &Value) -> Bound {
        let max_used = value["max_used"].as_u64().and_then(|part| u8::try_from(part).ok());
        Bound { keep_bytes: value["keep_bytes"].as_u64(), max_used }
    }
}

/// What `gc` did, or would do.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Collected {
    /// Removals, in their order.
    pub sweeps: Vec<Sweep>,
    /// Ids in the store that no row knows; they stay unless they are to be purged.
    pub foreign: Vec<u32>,
    /// What the removed layers were measured to take, bytes.
    pub layer_bytes: u64,
    /// Bytes that the store got back.
    pub freed_bytes: u64,
    /// Bytes that the store has taken now.
    pub used_bytes: u64,
    /// The bound that was asked for, bytes; none: no room was to be made.
    pub bound_bytes: Option<u64>,
    /// Ended runs that were forgotten.
    pub runs_forgotten: usize,
    /// Lines of history that were forgotten.
    pub events_forgotten: usize,
    /// Whether nothing was done on purpose.
    pub dry_run: bool,
}

/// What one image takes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ImageUse {
    /// Its reference.
    pub image: String,
    /// What its layers take together, bytes.
    pub bytes: u64,
    /// Of these, what other images or their activations need too.
    pub shared_bytes: u64,
    /// Of these, what only it needs.
    pub exclusive_bytes: u64,
    /// What removing it would free now: nothing while there are activations of it.
    pub would_free_bytes: u64,
    /// Whether `gc` leaves it.
    pub pinned: bool,
    /// Names of its activations.
    pub activations: Vec<String>,
}

/// What takes the room of a store.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Usage {
    /// Its room.
    pub space: Space,
    /// By reference.
    pub images: Vec<ImageUse>,
    /// Activations by name, with the bytes that only they have; none where the store cannot tell.
    pub activations: Vec<(String, Option<u64>)>,
    /// What `gc` would free without a bound, bytes.
    pub garbage_bytes: u64,
    /// Ids that no row knows.
    pub foreign: Vec<u32>,
}

impl Host {
    /// Removes what nothing needs; with a bound, also the images not asked for longest, until no
    /// more than that is taken. Waits until nobody makes or uses images.
    ///
    /// # Errors
    /// The first removal that failed; what went before it is gone.
    pub fn gc(
        &mut self,
        bound: Bound,
        purge_foreign: bool,
        dry_run: bool,
    ) -> Result<Collected, Error> {
        if let Some(part) = bound.max_used.filter(|part| *part > 100) {
            return Err(Error::Usage(format!("--max-used {part}%: more than 100%")));
        }
        if dry_run {
            return self.collect(bound, purge_foreign, true);
        }
        let input = json!({"bound": bound.to_json(), "purge_foreign": purge_foreign});
        self.as_run(registry::Verb::Gc, "store", input, |host| {
            host.collect(bound, purge_foreign, false)
        })
    }

    fn collect(
        &mut self,
        bound: Bound,
        purge_foreign: bool,
        dry_run: bool,
    ) -> Result<Collected, Error> {
        // To look, nobody need stop; the plan may then be old when it is read.
        let _alone = (!dry_run).then(|| self.locks.images_alone()).transpose()?;
        let before = self.store.space()?;
        let facts = self.garbage_facts(bound.bytes(&before))?;
        let sweeps = garbage(&facts, purge_foreign);
        let mut done = Collected {
            layer_bytes: sweeps.iter().map(bytes).sum(),
            sweeps,
            foreign: facts.foreign,
            used_bytes: before.used,
            bound_bytes: facts.bound,
            dry_run,
            ..Collected::default()
        };
        if dry_run {
            return Ok(done);
        }
        for sweep in &done.sweeps {
            self.settings.cancel.check()?;
            self.sweep(sweep)?;
        }
        done.used_bytes = self.store.space()?.used;
        done.freed_bytes = before.used.saturating_sub(done.used_bytes);
        (done.runs_forgotten, done.events_forgotten) = self.registry.write(|write| {
            write.count("gc_freed_bytes_total", "", done.freed_bytes)?;
            write.retire(RUNS_KEPT, EVENTS_KEPT)
        })?;
        Ok(done)
    }

    fn sweep(&mut self, sweep: &Sweep) -> Result<(), Error> {
        match sweep {
            Sweep::Image { image } => {
                self.registry.write(|write| write.forget_image(image))?;
                Ok(())
            }
            Sweep::Volume { volume, .. } => {
                let _store = self.locks.store()?;
                match self.registry.volume(*volume)? {
                    Some(row) => perform::discard_alone(self, &row),
                    None => Ok(()),
                }
            }
            Sweep::Foreign { volume } => {
                let _store = self.locks.store()?;
                self.store.delete(*volume)
            }
        }
    }

    /// The caller holds the images' lock, or only looks.
    pub(crate) fn garbage_facts(&self, bound: Option<u64>) -> Result<Facts, Error> {
        let (volumes, activations) = (self.registry.volumes()?, self.registry.activations()?);
        let ours = |id: &u32| {
            volumes.iter().any(|row| row.id == *id) || activations.iter().any(|row| row.id == *id)
        };
        let foreign = self.store.ids()?.into_iter().filter(|id| !ours(id)).collect();
        let used = self.store.space()?.used;
        let images = self.registry.images()?;
        Ok(Facts { volumes, images, activations, foreign, used, bound })
    }

    /// What `gc` would free, for the message of who has no room; none when that is not known.
    pub(crate) fn garbage_bytes(&self) -> Option<u64> {
        let facts = self.garbage_facts(None).ok()?;
        Some(garbage(&facts, false).iter().map(bytes).sum())
    }

    /// Keeps an image whatever room is needed, or no longer.
    ///
    /// # Errors
    /// [`Error::Unknown`].
    pub fn pin(&mut self, reference: &str, pinned: bool) -> Result<(), Error> {
        match self.registry.write(|write| write.pin_image(reference, pinned))? {
            true => Ok(()),
            false => Err(Error::Unknown { what: "image", name: reference.into() }),
        }
    }

    /// Allows refused bytes to be tried again; false when they were not refused.
    pub fn release(&mut self, digest: registry::Digest) -> Result<bool, Error> {
        Ok(self.registry.write(|write| write.release(digest))?)
    }

    /// What takes the room, by image.
    pub fn usage(&self) -> Result<Usage, Error> {
        let facts = self.garbage_facts(None)?;
        let measured = self.store.exclusive()?;
        let of = |id: u32| facts.volumes.iter().find(|volume| volume.id == id).map_or(0, own_bytes);
        let images = facts
            .images
            .iter()
            .map(|image| {
                let others = facts.images.iter().filter(|other| other.reference != image.reference);
                let of_others = facts.activations.iter().filter(|a| a.reference != image.reference);
                let kept = facts.in_use(others, of_others, []);
                let stack = facts.stack(&image.reference);
                let bytes = stack.iter().map(|id| of(*id)).sum();
                let shared_bytes =
                    stack.iter().filter(|id| kept.contains(id)).map(|id| of(*id)).sum();
                let activations: Vec<String> = facts
                    .activations
                    .iter()
                    .filter(|a| a.reference == image.reference)
                    .map(|a| a.name.clone())
                    .collect();
                let exclusive_bytes = bytes - shared_bytes;
                ImageUse {
                    image: image.reference.clone(),
                    bytes,
                    shared_bytes,
                    exclusive_bytes,
                    would_free_bytes: if activations.is_empty() { exclusive_bytes } else { 0 },
                    pinned: image.pinned,
                    activations,
                }
            })
            .collect();
        let activations = facts
            .activations
            .iter()
            .map(|row| {
                let own = measured.as_ref().and_then(|all| {
                    all.iter().find(|(id, _)| *id == row.id).map(|(_, bytes)| *bytes)
                });
                (row.name.clone(), own)
            })
            .collect();
        Ok(Usage {
            space: self.store.space()?,
            images,
            activations,
            garbage_bytes: garbage(&facts, false).iter().map(bytes).sum(),
            foreign: facts.foreign,
        })
    }
}

fn bytes(sweep: &Sweep) -> u64 {
    match sweep {
        Sweep::Volume { bytes, .. } => *bytes,
        Sweep::Image { .. } | Sweep::Foreign { .. } => 0,
    }
}
