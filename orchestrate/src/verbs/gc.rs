//! `gc` and pins: room that nobody needs is found, told, and given back.

use std::time::{Duration, Instant};

use registry::VolumeId;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::error::Error;
use crate::host::Host;
use crate::plan::garbage::{Facts, Sweep, bytes, garbage, own_bytes, still_garbage};
use crate::store::seam::Space;
use crate::verbs::ttl::Ended;
use crate::verbs::volumes;

/// For so long a collection keeps others from images at a time, and longer only where one removal takes
/// longer.
const AT_A_TIME: Duration = Duration::from_millis(200);

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
    /// Ids in the store that no row knows; they stay unless they were named.
    pub foreign: Vec<VolumeId>,
    /// Of the ids that were named, those that stay.
    #[serde(default)]
    pub refused: Vec<NotPurged>,
    /// What the removed layers were measured to take, bytes.
    pub layer_bytes: u64,
    /// Bytes that the store got back.
    pub freed_bytes: u64,
    /// Bytes that the store has taken now.
    pub used_bytes: u64,
    /// The bound that was asked for, bytes; none: no room was to be made.
    pub bound_bytes: Option<u64>,
    /// What holds the room, where more is taken than was asked for.
    #[serde(default)]
    pub holds: Vec<Hold>,
    /// Ended runs that were forgotten.
    pub runs_forgotten: usize,
    /// Lines of history that were forgotten.
    pub events_forgotten: usize,
    /// Activations whose time has ended: removed, or why not.
    #[serde(default)]
    pub ended: Vec<Ended>,
    /// Disks that arrived in part and that nobody has gone on with: removed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub arrivals: Vec<String>,
    /// Whether nothing was done on purpose.
    pub dry_run: bool,
}

/// An id that was named and stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotPurged {
    /// The id.
    pub volume: VolumeId,
    /// Why it stays.
    pub why: String,
}

/// What a collection may not take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// `image s3://..`, `activation NAME`, or `volume N`.
    pub what: String,
    /// Why it stays.
    pub why: String,
    /// What it was measured to take, bytes; none where that is not known.
    pub bytes: Option<u64>,
}

impl Collected {
    /// Bytes that are taken beyond what was asked for; where nothing was done, those that would be.
    pub fn missed_bytes(&self) -> u64 {
        let gone = if self.dry_run { self.layer_bytes } else { 0 };
        let left = self.used_bytes.saturating_sub(gone);
        self.bound_bytes.map_or(0, |bound| left.saturating_sub(bound))
    }

    /// Whether all that was asked for is done.
    pub fn whole(&self) -> bool {
        self.refused.is_empty() && self.missed_bytes() == 0
    }
}

impl Host {
    /// Removes what nothing needs; with a bound, also the images not asked for longest, until no
    /// more than that is taken. Of what is not ours, only the ids of `purge`, and none that is in use.
    /// What others have found and count on stays.
    ///
    /// # Errors
    /// The first removal that failed; what went before it is gone.
    pub fn gc(
        &mut self,
        bound: Bound,
        purge: &[VolumeId],
        dry_run: bool,
    ) -> Result<Collected, Error> {
        if let Some(part) = bound.max_used.filter(|part| *part > 100) {
            return Err(Error::Usage(format!("--max-used {part}%: more than 100%")));
        }
        if dry_run {
            return self.collect(bound, purge, true);
        }
        let input = json!({"bound": bound.to_json(), "purge_foreign": purge});
        self.as_run(registry::Verb::Gc, "store", input, |host| host.collect(bound, purge, false))
    }

    fn collect(
        &mut self,
        bound: Bound,
        purge: &[VolumeId],
        dry_run: bool,
    ) -> Result<Collected, Error> {
        let before = self.store.space()?;
        // What they stood on may be garbage by that.
        let ended = self.end_ttls(dry_run)?;
        let arrivals = self.end_arrivals(dry_run)?;
        // To look, nobody need stop; each removal looks again whether it still is one.
        let facts = self.garbage_facts(bound.bytes(&before))?;
        let refused = self.not_purged(&facts, purge)?;
        let purge: Vec<VolumeId> = purge
            .iter()
            .filter(|id| refused.iter().all(|stays| stays.volume != **id))
            .copied()
            .collect();
        let sweeps = garbage(&facts, &purge);
        let mut done = Collected {
            layer_bytes: sweeps.iter().map(bytes).sum(),
            sweeps,
            foreign: facts.foreign.clone(),
            refused,
            used_bytes: before.used,
            bound_bytes: facts.bound,
            ended,
            arrivals,
            dry_run,
            ..Collected::default()
        };
        if dry_run {
            if done.missed_bytes() > 0 {
                done.holds = holds(&facts, &done.sweeps);
            }
            return Ok(done);
        }
        let mut left = std::mem::take(&mut done.sweeps).into_iter().peekable();
        while left.peek().is_some() {
            self.settings.cancel.check()?;
            // Who makes or uses images waits for a moment, and not for the whole collection.
            let begun = Instant::now();
            let _alone = self.locks.images_alone()?;
            let mut now = self.garbage_facts(facts.bound)?;
            while let Some(sweep) = left.next_if(|_| begun.elapsed() < AT_A_TIME) {
                if !still_garbage(&now, &facts, &sweep) {
                    continue;
                }
                if let Sweep::Image { image } = &sweep {
                    now.images.retain(|row| row.reference != *image);
                }
                match (self.sweep(&sweep), &sweep) {
                    (Ok(true), _) => done.sweeps.push(sweep),
                    // Somebody looks at it: the next collection takes it.
                    (Ok(false), _) => {}
                    // Somebody has begun to use it since we looked.
                    (Err(Error::Taken { by, .. }), Sweep::Foreign { volume }) => {
                        let why = format!("{by} is in use of it");
                        done.refused.push(NotPurged { volume: *volume, why });
                    }
                    (Err(error), _) => return Err(error),
                }
            }
        }
        done.layer_bytes = done.sweeps.iter().map(bytes).sum();
        done.used_bytes = self.store.space()?.used;
        if done.missed_bytes() > 0 {
            done.holds = holds(&facts, &done.sweeps);
        }
        done.freed_bytes = before.used.saturating_sub(done.used_bytes);
        self.registry.write(|write| write.count("gc_freed_bytes_total", "", done.freed_bytes))?;
        let pruned = self.prune()?;
        (done.runs_forgotten, done.events_forgotten) = (pruned.runs, pruned.events);
        Ok(done)
    }

    /// One removal; false where a living process is at work on it, or on what stands on it.
    fn sweep(&mut self, sweep: &Sweep) -> Result<bool, Error> {
        match sweep {
            Sweep::Image { image } => {
                self.registry.write(|write| write.forget_image(image))?;
                Ok(true)
            }
            Sweep::Volume { volume, .. } => {
                let Some(row) = self.registry.volume(*volume)? else { return Ok(true) };
                let Some(_nobody) = self.locks.try_build(&row.build)? else { return Ok(false) };
                let _store = self.locks.store()?;
                let rows = self.registry.volumes()?;
                match rows.iter().find(|row| row.id == *volume) {
                    Some(_) if rows.iter().any(|row| row.parent == Some(*volume)) => Ok(false),
                    Some(row) => volumes::discard_alone(self, row).map(|()| true),
                    None => Ok(true),
                }
            }
            Sweep::Foreign { volume } => {
                let _store = self.locks.store()?;
                self.store.purge(*volume).map(|()| true)
            }
        }
    }

    /// Of the ids of `purge`, those that have to stay, and why.
    fn not_purged(&self, facts: &Facts, purge: &[VolumeId]) -> Result<Vec<NotPurged>, Error> {
        if purge.is_empty() {
            return Ok(Vec::new());
        }
        let mapped = self.store.mapped()?;
        let serials = self.registry.serial_volume()?;
        let points = self.registry.points()?;
        let arrivals = self.registry.arrivals()?;
        let why = |id: VolumeId| {
            if serials == Some(id) {
                return Some("it keeps which catalog is believed".to_owned());
            }
            if facts.volumes.iter().any(|row| row.id == id) {
                return Some("it is a layer of ours: `orchestrate rm` its images".to_owned());
            }
            if let Some(row) = facts.activations.iter().find(|row| row.id == id) {
                return Some(format!("it is the activation {0}: `orchestrate rm {0}`", row.name));
            }
            if let Some(point) = points.iter().find(|point| point.id == id) {
                let of = &point.activation;
                return Some(format!(
                    "it is a point of {of}: `orchestrate points {of}` lists them"
                ));
            }
            if let Some(row) = arrivals.iter().find(|row| row.id == id) {
                return Some(format!("it arrives as {}, by `orchestrate receive`", row.name));
            }
            if !facts.foreign.contains(&id) {
                return Some("the store has no such id".to_owned());
            }
            let mapped = mapped.iter().find(|mapped| mapped.id == id)?;
            Some(format!("it is active as {}: take that down first", mapped.name))
        };
        let mut named = purge.to_vec();
        named.sort_unstable();
        named.dedup();
        let stays = |volume| why(volume).map(|why| NotPurged { volume, why });
        Ok(named.into_iter().filter_map(stays).collect())
    }

    /// The caller holds the images' lock, or only looks.
    pub(crate) fn garbage_facts(&self, bound: Option<u64>) -> Result<Facts, Error> {
        let (volumes, activations) = (self.registry.volumes()?, self.registry.activations()?);
        let serials = self.registry.serial_volume()?;
        let points = self.registry.points()?;
        let arrivals = self.registry.arrivals()?;
        let ours = |id: &VolumeId| {
            volumes.iter().any(|row| row.id == *id)
                || activations.iter().any(|row| row.id == *id)
                || serials == Some(*id)
                || points.iter().any(|point| point.id == *id)
                || arrivals.iter().any(|row| row.id == *id)
        };
        let foreign = self.store.ids()?.into_iter().filter(|id| !ours(id)).collect();
        let used = self.store.space()?.used;
        let images = self.registry.images()?;
        let arriving = arrivals.iter().map(|row| row.origin).collect();
        Ok(Facts { volumes, images, activations, arriving, foreign, used, bound })
    }

    /// What `gc` would free, for the message of who has no room; none when that is not known.
    pub(crate) fn garbage_bytes(&self) -> Option<u64> {
        let facts = self.garbage_facts(None).ok()?;
        Some(garbage(&facts, &[]).iter().map(bytes).sum())
    }

    /// Keeps an image whatever room is needed, or no longer.
    ///
    /// # Errors
    /// [`Error::Unknown`]; [`Error::Making`].
    pub fn pin(&mut self, reference: &str, pinned: bool) -> Result<(), Error> {
        let reference = &self.only_name(reference)?;
        if self.registry.image(reference)?.is_none() {
            return Err(self.unknown("image", reference));
        }
        if pinned {
            crate::process::reserve::spare(&self.settings.state)?;
        }
        match self.commit_told(|write| write.pin_image(reference, pinned))? {
            true => Ok(()),
            false => Err(self.unknown("image", reference)),
        }
    }

    /// Allows refused bytes to be tried again; false when they were not refused.
    pub fn release(&mut self, digest: registry::Digest) -> Result<bool, Error> {
        self.commit_told(|write| write.release(digest))
    }
}

/// What stays of images, activations and others after these removals, the largest first.
fn holds(facts: &Facts, sweeps: &[Sweep]) -> Vec<Hold> {
    let of =
        |id: &VolumeId| facts.volumes.iter().find(|volume| volume.id == *id).map_or(0, own_bytes);
    let gone = |gone: &dyn Fn(&Sweep) -> bool| sweeps.iter().any(gone);
    let mut holds = Vec::new();
    for image in &facts.images {
        if gone(&|sweep| matches!(sweep, Sweep::Image { image: gone } if *gone == image.reference))
        {
            continue;
        }
        let used = facts.activations.iter().filter(|row| row.reference == image.reference);
        let names: Vec<&str> = used.map(|row| row.name.as_str()).collect();
        let why = match (image.pinned, names.is_empty()) {
            (true, _) => "pinned".to_owned(),
            (false, false) => format!("its activations {}", names.join(", ")),
            (false, true) => "asked for last".to_owned(),
        };
        let bytes = facts.stack(&image.reference).iter().map(of).sum();
        holds.push(Hold { what: format!("image {}", image.reference), why, bytes: Some(bytes) });
    }
    for row in &facts.activations {
        let why = "what was written to it".to_owned();
        holds.push(Hold { what: format!("activation {}", row.name), why, bytes: None });
    }
    for id in &facts.foreign {
        if !gone(&|sweep| matches!(sweep, Sweep::Foreign { volume } if volume == id)) {
            let why = "not ours".to_owned();
            holds.push(Hold { what: format!("volume {id}"), why, bytes: None });
        }
    }
    holds.sort_by_key(|hold| std::cmp::Reverse(hold.bytes));
    holds
}
