//! `fork`: a snapshot of an activation's disk becomes an activation of its own.
//!
//! It goes the way of `activate`: the row is reserved, the snapshot made, the device mapped, the row active. Killed
//! before that last commit it is nobody's, and recovery takes it out.

use std::path::PathBuf;

use registry::{Activation, ActivationState, DiskState, NewActivation, VolumeId};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::host::Host;
use crate::host::ids::{self, New};
use crate::plan::Wish;
use crate::plan::disks::DiskUse;
use crate::store::snapshot::Snapshot;
use crate::verbs::disks::{self, smaller};
use crate::verbs::named::check_name;

/// What `fork` did, or would do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Forked {
    /// The new activation's name.
    pub name: String,
    /// The activation that it is a snapshot of.
    pub from: String,
    /// Its image.
    pub image: String,
    /// Where it is.
    pub path: PathBuf,
    /// Its volume; none while only planned.
    pub volume: Option<VolumeId>,
    /// Its size, bytes.
    pub bytes: u64,
    /// What the file system on it is; none while only planned.
    pub consistency: Option<DiskState>,
    /// Whether it was there before and nothing had to be done.
    pub already: bool,
    /// Who had the disk open that it is a snapshot of, where somebody had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_by: Option<String>,
    /// Whether nothing was done on purpose.
    pub dry_run: bool,
}

impl Host {
    /// Makes `new` an activation whose disk is a snapshot of that of `name`, and at least `bytes` large.
    ///
    /// # Errors
    /// [`Error::Unknown`]; [`Error::Taken`] and [`Error::Stranger`] for `new`; [`Error::Usage`] for a size below
    /// that of `name`, and for a directory that is active; those that keep an image from being activated.
    pub fn fork(
        &mut self,
        name: &str,
        new: &str,
        bytes: Option<u64>,
        dry_run: bool,
    ) -> Result<Forked, Error> {
        check_name(name)?;
        check_name(new)?;
        if name == new {
            return Err(Error::Taken { name: new.into(), by: "the activation itself".into() });
        }
        if self.store.keeps_name(new) {
            let what = "a build or a look on this pool may need a device of this name";
            return Err(Error::Usage(format!("{new:?}: {what}: choose another")));
        }
        self.on_one_file(|host| host.forked(name, new, bytes, dry_run))
    }

    fn forked(
        &mut self,
        name: &str,
        new: &str,
        bytes: Option<u64>,
        dry_run: bool,
    ) -> Result<Forked, Error> {
        // In one order, whoever forks whom.
        let (first, second) = if name < new { (name, new) } else { (new, name) };
        let _locks = (self.locks.activation(first)?, self.locks.activation(second)?);
        if let Some(there) = self.forked_already(name, new, bytes)? {
            return self.told_fork(there, name, true, None, dry_run);
        }
        let row = self.with_disk(name)?;
        let least = self.store.device_bytes(row.bytes);
        let asked = bytes.map_or(row.bytes, |bytes| self.store.device_bytes(bytes));
        if bytes.is_some() && asked < least {
            return Err(smaller(name, least, asked));
        }
        self.stands_still(&row)?;
        let bytes = asked.max(row.bytes);
        if dry_run {
            let used_by = self.disk_use(row.id)?.by().map(str::to_owned);
            return Ok(Forked {
                name: new.into(),
                from: name.into(),
                image: row.reference,
                path: self.store.path(new),
                volume: None,
                bytes,
                consistency: None,
                already: false,
                used_by,
                dry_run,
            });
        }
        let _using = self.locks.images_shared()?;
        // Whatever may not come up under its own name may not under another.
        self.permit_again(&row)?;
        // What a killed process has reserved and told nobody of.
        self.drive(new, Wish::Gone)?;
        if let Some(disks) = self.store.disks() {
            disks.write_out(row.id)?;
        }
        let used =
            self.reserve_fork(&row, new, bytes).or_else(|error| self.not_forked(new, error))?;
        let made = self
            .settle_fork(new, &used)
            .and_then(|()| self.drive(new, Wish::Up).map(drop))
            .or_else(|error| self.not_forked(new, error).map(drop));
        made?;
        let Some(there) = self.registry.activation(new)? else {
            return Err(Error::Unknown { what: "activation", name: new.into() });
        };
        self.told_fork(there, name, false, used.by().map(str::to_owned), false)
    }

    /// The fork, where it was made before: whoever asks twice has asked once.
    fn forked_already(
        &self,
        name: &str,
        new: &str,
        bytes: Option<u64>,
    ) -> Result<Option<Activation>, Error> {
        let Some(there) = self.registry.activation(new)? else {
            return match self.is_being_made(new)? {
                true => Err(self.unknown("activation", new)),
                false => Ok(None),
            };
        };
        if there.state == ActivationState::Reserved || there.state == ActivationState::Deleting {
            return Ok(None);
        }
        let taken = |by: String| Err(Error::Taken { name: new.into(), by });
        match self.registry.fork(new)? {
            Some(fork) if fork.from == name => {}
            Some(fork) => return taken(format!("a fork of activation {}", fork.from)),
            None => return taken(format!("an activation of {}", there.reference)),
        }
        let has = self.store.device_bytes(there.bytes);
        match bytes.map(|bytes| self.store.device_bytes(bytes)).filter(|asked| *asked > has) {
            Some(asked) => {
                taken(format!("a fork of {name} with {has} bytes, and {asked} were asked for"))
            }
            None => Ok(Some(there)),
        }
    }

    /// Commits the row and makes the snapshot.
    fn reserve_fork(&mut self, row: &Activation, new: &str, bytes: u64) -> Result<DiskUse, Error> {
        let _alone = self.locks.store()?;
        self.nothing_arrives(new)?;
        self.still_sealed(row.origin)?;
        self.not_condemned(row.origin, &row.reference)?;
        if let Some(by) = self.store.stranger(None, new)? {
            return Err(Error::Stranger { name: new.into(), by });
        }
        self.store.admit(1)?;
        self.may_promise(new, bytes)?;
        let (reference, origin, parent) = (row.reference.as_str(), row.origin, row.id);
        let endpoint = row.endpoint.as_deref();
        // What a person said of the other one, its labels and its ttl, was said of that one.
        let (ttl_s, read_only, labels) = (None, false, &[][..]);
        // Its file system is the other one's.
        let no_journal = row.no_journal;
        let fork = NewActivation {
            name: new,
            reference,
            origin,
            bytes,
            endpoint,
            ttl_s,
            read_only,
            no_journal,
            labels,
        };
        let (_, made) = ids::take(self, &New::Fork(fork, &row.name), |host, id| {
            disks::snapshot(host.store.as_ref(), Snapshot { id, origin: parent }).map_err(|error| {
                match error {
                    Error::Lost { .. } => Error::Gone { volume: parent },
                    error => error,
                }
            })
        })?;
        made
    }

    /// Finds out what the file system on the snapshot is, before anybody can change it.
    fn settle_fork(&mut self, new: &str, used: &DiskUse) -> Result<(), Error> {
        let Some(row) = self.registry.activation(new)? else { return Ok(()) };
        let state = self.state_of_disk(row.id, used)?;
        Ok(self.registry.write(|write| write.put_fork_state(new, state))?)
    }

    /// A fork that nobody was told of leaves nothing behind when it fails.
    fn not_forked(&mut self, new: &str, error: Error) -> Result<DiskUse, Error> {
        let row = self.registry.activation(new)?;
        if row.is_some_and(|row| row.state == ActivationState::Reserved)
            && let Err(second) = self.drive(new, Wish::Gone)
        {
            self.say(1, format_args!("activation {new} is left to recovery: {second}"));
        }
        Err(error)
    }

    fn told_fork(
        &self,
        row: Activation,
        from: &str,
        already: bool,
        used_by: Option<String>,
        dry_run: bool,
    ) -> Result<Forked, Error> {
        let consistency = self.registry.fork(&row.name)?.and_then(|fork| fork.disk_state);
        Ok(Forked {
            path: self.store.path(&row.name),
            name: row.name,
            from: from.into(),
            image: row.reference,
            volume: Some(row.id),
            bytes: self.store.device_bytes(row.bytes),
            consistency,
            already,
            used_by,
            dry_run,
        })
    }
}
