//! `rename`: an activation gets another name, also while it is open.
//!
//! The row has the new name first, and notes the former one; then the device or link follows, and the note goes.
//! Killed in between, the next command finishes it: [`Host::finish_rename`] reaches the same end from wherever the
//! store is. It is no run: there is nothing to wait for.

use registry::VolumeId;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::error::leaves::whole;
use crate::host::Host;
use crate::verbs::activate::is_told;
use crate::verbs::named::check_name;

/// What `rename` did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renamed {
    /// The activation's name now.
    pub name: String,
    /// The name that it had.
    pub former: String,
    /// Where it is now: a block device, or a directory for `dir` stores.
    pub path: std::path::PathBuf,
}

impl Host {
    /// Gives the activation `name` the name `new`. All that is known of it stays with it, and whoever has it open
    /// keeps it open.
    ///
    /// # Errors
    /// [`Error::Unknown`]; [`Error::Taken`] and [`Error::Stranger`] where something has that name;
    /// [`Error::Locked`] while a run of either name has not ended. Then nothing is changed.
    pub fn rename(&mut self, name: &str, new: &str) -> Result<Renamed, Error> {
        check_name(new)?;
        if name == new {
            return Err(match self.registry.activation(name)?.filter(is_told) {
                Some(_) => Error::Usage(format!("rename {name}: it has that name already")),
                None => self.unknown("activation", name),
            });
        }
        if self.store.keeps_name(new) {
            let what = "a build or a look on this pool may need a device of this name";
            return Err(Error::Usage(format!("rename {new:?}: {what}: choose another")));
        }
        crate::process::reserve::spare(&self.settings.state)?;
        // In one order, whoever else swaps the two.
        let (first, second) = if name < new { (name, new) } else { (new, name) };
        let (_first, _second) = (self.locks.activation(first)?, self.locks.activation(second)?);
        let Some(row) = self.registry.activation(name)?.filter(is_told) else {
            return Err(self.unknown("activation", name));
        };
        if row.former.is_some() {
            self.finish_rename(name)?;
        }
        let taken = |by| Err(Error::Taken { name: new.into(), by });
        if let Some(other) = self.registry.activation(new)? {
            return taken(format!("an activation of {}", other.reference));
        }
        self.nothing_arrives(new)?;
        for of in [name, new] {
            if let Some(run) = self.registry.live_runs_of(of)?.first() {
                let (what, verb, id) = (format!("the name {of}"), run.verb.word(), run.id);
                let holder = format!(
                    "run {id} ({verb} {of}), which has not ended: `orchestrate recover` ends an interrupted one, \
                     `orchestrate cancel {id}` gives it up"
                );
                return Err(Error::Locked { what, holder, waited_s: 0 });
            }
        }
        if let Some(by) = self.store.stranger(Some(row.id), new)? {
            return Err(Error::Stranger { name: new.into(), by });
        }
        self.commit_told(|write| {
            write.rename_activation(name, new)?;
            write.person_has(new)
        })?;
        if let Err(error) = self.store.rename(row.id, name, new) {
            return Err(self.not_renamed(row.id, (name, new), error));
        }
        if let Err(error) = self.registry.write(|write| write.settle_name(new)) {
            // It has its name; the note of the former one goes with the next recovery.
            self.warn(&format!("activation {new}: {}", whole(&error)), &[]);
        }
        let path = self.store.path(new);
        Ok(Renamed { name: new.into(), former: name.into(), path })
    }

    /// Takes the new name back where the store still has the former one, so that whoever asks again finds what was
    /// asked for. Gives back the error.
    fn not_renamed(&mut self, id: VolumeId, (name, new): (&str, &str), error: Error) -> Error {
        let as_before = self.store.mapped_as(id).is_ok_and(|found| match found {
            Some(mapped) => mapped.name == name,
            None => true,
        });
        if as_before {
            let back = self.commit_told(|write| {
                write.rename_activation(new, name)?;
                write.settle_name(name)
            });
            if let Err(second) = back {
                let line = format!(
                    "activation {new}, which was {name}, keeps that name: {}",
                    whole(&second)
                );
                self.warn(&line, &[]);
            }
        }
        error
    }

    /// Has the store's name of an activation follow that of its row; whether there was anything to do. The caller
    /// holds the activation's lock.
    pub(crate) fn finish_rename(&mut self, name: &str) -> Result<bool, Error> {
        let Some(row) = self.registry.activation(name)? else { return Ok(false) };
        let Some(former) = row.former else { return Ok(false) };
        self.store.rename(row.id, &former, name)?;
        self.registry.write(|write| write.settle_name(name))?;
        Ok(true)
    }
}
