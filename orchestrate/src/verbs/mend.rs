//! Performs what `plan::repair` has compared. It ends in the same place whatever was killed, also when recovery
//! itself was. What cannot be mended stops nothing else: it is told, with its reason, and tried again by
//! the next command.

use std::collections::BTreeMap;

use registry::{Activation, ActivationState, VolumeId, WhenClosed};
use serde::Serialize;

use crate::error::Error;
use crate::host::{Host, spools};
use crate::local::spooled;
use crate::plan::repair::{Facts, Repair, compare, wish};
use crate::plan::{self, Mapping, VolumeStep, Wish, retry};
use crate::process::full;
use crate::verbs::unsettled::Unsettled;
use crate::verbs::volumes;

/// What a recovery did, and what it could not do.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Recovered {
    /// What was mended, or with a dry run would be.
    pub repairs: Vec<Repair>,
    /// What is not as its row says, and stays so for now.
    pub unsettled: Vec<Unsettled>,
}

/// Rounds of looking and mending: a repair that leaves more to do is a bug, so they are few.
const ROUNDS: usize = 4;

/// How often one thing is tried in one recovery: a call may fail once.
const TRIES: usize = 2;

impl Host {
    /// Mends what killed runs left. Cheap when there is nothing: one look at rows and mappings.
    /// What a living process is at work on is left to it; what cannot be mended is told and left.
    ///
    /// # Errors
    /// [`Error::Fence`]; those of registry and store that keep it from looking.
    pub fn recover(&mut self, dry_run: bool) -> Result<Recovered, Error> {
        self.on_one_file(|host| host.recover_once(dry_run))
    }

    fn recover_once(&mut self, dry_run: bool) -> Result<Recovered, Error> {
        let mut done = Recovered::default();
        let mut failed: BTreeMap<Repair, (usize, Unsettled)> = BTreeMap::new();
        for _ in 0..ROUNDS {
            let facts = {
                let _alone = self.locks.store()?;
                if !dry_run {
                    self.resume_suspended()?;
                }
                self.facts()?
            };
            let repairs: Vec<Repair> = compare(&facts)?
                .into_iter()
                .filter(|repair| failed.get(repair).is_none_or(|(times, _)| *times < TRIES))
                .collect();
            done.unsettled =
                facts.looked_at.iter().map(|id| Unsettled::look(&facts, *id)).collect();
            done.unsettled.extend(Unsettled::barred(&facts));
            done.unsettled.extend(Unsettled::ghosts(&facts));
            if dry_run {
                done.repairs = repairs;
                return Ok(done);
            }
            self.note_boot(&facts)?;
            if repairs.is_empty() {
                self.sweep_spools();
                self.locks.sweep();
                break;
            }
            for repair in repairs {
                match self.mend(&repair) {
                    Ok(true) => {
                        self.say(1, format_args!("recovery: {repair}"));
                        failed.remove(&repair);
                        done.repairs.push(repair);
                    }
                    // Somebody else was at it, and has done it or will.
                    Ok(false) => {}
                    Err(error @ Error::Cancelled { .. }) => return Err(error),
                    // Whatever failed by it: somebody asked to stop.
                    Err(_) if self.settings.cancel.is_set() => self.settings.cancel.check()?,
                    // Before that nothing can be changed at all.
                    Err(error) if matches!(repair, Repair::CatchUp { .. }) => return Err(error),
                    Err(error) => {
                        let before = failed.get(&repair).map_or(0, |(times, _)| *times);
                        // What people do is not over in a moment.
                        let times = if retry::is_spent(&error) { TRIES } else { before + 1 };
                        let error = full::told(error, &self.settings.places());
                        let left = Unsettled::of(&repair, &error);
                        if times == TRIES {
                            self.say(1, format_args!("recovery cannot {repair}: {}", left.why));
                        }
                        failed.insert(repair, (times, left));
                    }
                }
            }
        }
        done.unsettled.extend(failed.into_values().map(|(_, left)| left));
        self.hand_over_all();
        Ok(done)
    }

    /// Remembers in which boot each device was seen up, so that the next boot knows it.
    fn note_boot(&mut self, facts: &Facts) -> Result<(), Error> {
        if facts.boot.is_none() {
            return Ok(());
        }
        let seen = |row: &&Activation| {
            row.state == ActivationState::Active
                && row.boot != facts.boot
                && facts.mapped.iter().any(|mapped| mapped.id == row.id)
        };
        let seen: Vec<&Activation> = facts.activations.iter().filter(seen).collect();
        if seen.is_empty() {
            return Ok(());
        }
        let boot = facts.boot.as_deref();
        Ok(self
            .registry
            .write(|write| seen.iter().try_for_each(|row| write.seen_up(&row.name, boot)))?)
    }

    /// Spools that nobody came back for go. It is no repair: nothing waits for it or fails by it.
    fn sweep_spools(&self) {
        let (state, age) = (&self.settings.state, self.settings.spool_age);
        let is_here = |digest: fetch::image::Digest| {
            self.registry.image(&digest.to_string()).is_ok_and(|image| image.is_some())
        };
        for (what, swept) in [
            ("spools", spools::sweep(state, age)),
            ("archives", spooled::sweep(state, age, is_here)),
        ] {
            match swept {
                Ok((0, _)) => {}
                Ok((count, bytes)) => {
                    self.say(1, format_args!("removed {count} old {what} of {bytes} bytes"));
                }
                Err(error) => self.say(1, format_args!("old {what} stay: {error}")),
            }
        }
    }

    /// Allows builds again that were begun too often.
    pub fn allow_retries(&mut self) -> Result<(), Error> {
        self.commit_told(|write| write.settle_attempts())
    }

    /// Mends one thing; false when a living process is at it or nothing was left to do.
    fn mend(&mut self, repair: &Repair) -> Result<bool, Error> {
        match repair {
            Repair::CatchUp { from, to } => {
                let _alone = self.locks.store()?;
                match self.store.transaction_id()? {
                    now if now == *from => {
                        self.store.set_transaction_id(*from, *to)?;
                        Ok(true)
                    }
                    _ => Ok(false),
                }
            }
            Repair::Discard { volume } | Repair::Delete { volume } | Repair::Unmap { volume } => {
                self.mend_volume(*volume)
            }
            Repair::Grown { name, bytes } => {
                self.registry.write(|write| write.grow_activation(name, *bytes))?;
                Ok(true)
            }
            Repair::Points { name } => self.mend_points(name),
            Repair::Arrival { name } => self.mend_arrival(name),
            Repair::Adrift { volume } => self.mend_adrift(*volume),
            Repair::Lengthen { name, .. } => self.mend_length(name),
            Repair::Unchecked { name } => {
                self.commit_told(|write| write.put_unchecked(name))?;
                Ok(true)
            }
            Repair::TakeDown { name } => self.take_down(name),
            Repair::Stray { name, volume } => {
                let Some(_mine) = self.locks.try_activation(name)? else { return Ok(false) };
                match self.registry.activation(name)? {
                    Some(row) if row.id != *volume => self.store.unlink(*volume, name),
                    Some(_) | None => Ok(false),
                }
            }
            Repair::Rename { name, .. } => {
                let Some(_mine) = self.locks.try_activation(name)? else { return Ok(false) };
                self.finish_rename(name)
            }
            Repair::Settle { name, .. } => {
                let Some(_mine) = self.locks.try_activation(name)? else { return Ok(false) };
                match self.registry.activation(name)? {
                    // It may have been revoked since.
                    Some(row) if wish(&row) == Wish::Up && self.bar(&row)?.is_some() => Ok(false),
                    Some(row) => self.drive(name, wish(&row)),
                    None => Ok(false),
                }
            }
        }
    }

    /// Takes down what may not be up any more: now, or as soon as nobody has it open.
    fn take_down(&mut self, name: &str) -> Result<bool, Error> {
        let Some(_mine) = self.locks.try_activation(name)? else { return Ok(false) };
        let Some(row) = self.registry.activation(name)? else { return Ok(false) };
        let Some(bar) = self.bar(&row)?.filter(|bar| bar.goes) else { return Ok(false) };
        let why = bar.why.to_string();
        self.registry.write(|write| write.happened(&format!("activation {name}"), &why))?;
        self.warn(&format!("activation {name} is taken down: {why}"), &[]);
        match self.store.held(row.id)? {
            Some(_) => {
                let wish = Some(WhenClosed::Deactivate);
                self.registry.write(|write| write.put_when_closed(name, wish))?;
                Ok(true)
            }
            None => self.drive(name, Wish::Down),
        }
    }

    fn is_stood_on(&self, id: VolumeId) -> Result<bool, Error> {
        Ok(self.registry.volumes()?.iter().any(|row| row.parent == Some(id)))
    }

    /// Looks again under the lock: the facts may have moved since they were compared. Nobody is waited
    /// for under the store's lock: who has a device open is asked before.
    fn mend_volume(&mut self, id: VolumeId) -> Result<bool, Error> {
        if self.registry.serial_volume()? == Some(id) {
            let _alone = self.locks.store()?;
            let left = self.store.mapped_as(id)?;
            left.iter().try_for_each(|left| self.store.unmap(id, &left.name))?;
            return Ok(left.is_some());
        }
        let mut changed = false;
        for _ in 0..3 {
            let Some(row) = self.registry.volume(id)? else { return Ok(changed) };
            let Some(_dead) = self.locks.try_build(&row.build)? else { return Ok(changed) };
            if let Some(by) = self.store.held(id)? {
                return Err(Error::Held { what: format!("volume {id}"), by });
            }
            let _alone = self.locks.store()?;
            let Some(row) = self.registry.volume(id)? else { return Ok(changed) };
            let mapped = self.store.mapped_as(id)?;
            let mapping = mapped.map_or(Mapping::Absent, |mapped| mapped.mapping);
            match plan::volume(&row.state, mapping) {
                VolumeStep::Keep => return Ok(changed),
                // One that stands on it could not be taken out: it waits for that.
                VolumeStep::Delete if self.is_stood_on(id)? => return Ok(changed),
                step @ (VolumeStep::Unmap | VolumeStep::Discard | VolumeStep::Delete) => {
                    volumes::settle_volume(self, &row, step)?;
                    changed = true;
                }
            }
        }
        Ok(changed)
    }
}
