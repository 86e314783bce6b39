//! The verbs as the program needs them, whoever does the work: this process, or a daemon.

use std::time::Duration;

use fetch::Reference;
use registry::{Event, Run, RunId, VolumeId};

use crate::error::Error;
use crate::host::Host;
use crate::host::run::RunLine;
use crate::verbs::activate::{ActivateOptions, Activated};
use crate::verbs::deactivate::{Deactivated, Going};
use crate::verbs::ensure::Ensured;
use crate::verbs::fork::Forked;
use crate::verbs::gc::{Bound, Collected};
use crate::verbs::label::{LabelChanges, Labelled};
use crate::verbs::points::{Points, Snapshotted};
use crate::verbs::remove::Removed;
use crate::verbs::rename::Renamed;
use crate::verbs::resize::Resized;
use crate::verbs::restore::Restored;
use crate::verbs::ttl::Timed;
use crate::verbs::usage::Usage;
use crate::view::listing::Listing;

/// What both can do, with the same results.
pub trait Verbs {
    /// See [`Host::ensure`].
    fn ensure(&mut self, image: &Reference, dry_run: bool) -> Result<Ensured, Error>;

    /// See [`Host::activate`].
    fn activate(
        &mut self,
        image: &Reference,
        name: &str,
        options: ActivateOptions,
    ) -> Result<Activated, Error>;

    /// See [`Host::deactivate`].
    fn deactivate(&mut self, name: &str, how: Going) -> Result<Deactivated, Error>;

    /// See [`Host::remove`].
    fn remove(&mut self, name: &str, how: Going) -> Result<Removed, Error>;

    /// See [`Host::gc`].
    fn gc(&mut self, bound: Bound, purge: &[VolumeId], dry_run: bool) -> Result<Collected, Error>;

    /// See [`Host::pin`].
    fn pin(&mut self, image: &str, pinned: bool) -> Result<(), Error>;

    /// See [`Host::label`].
    fn label(&mut self, name: &str, changes: &LabelChanges) -> Result<Labelled, Error>;

    /// See [`Host::set_ttl`].
    fn set_ttl(&mut self, name: &str, seconds: Option<u64>) -> Result<Timed, Error>;

    /// See [`Host::rename`].
    fn rename(&mut self, name: &str, new: &str) -> Result<Renamed, Error>;

    /// See [`Host::resize`].
    fn resize(&mut self, name: &str, bytes: u64, dry_run: bool) -> Result<Resized, Error>;

    /// See [`Host::fork`].
    fn fork(
        &mut self,
        name: &str,
        new: &str,
        bytes: Option<u64>,
        dry_run: bool,
    ) -> Result<Forked, Error>;

    /// See [`Host::snapshot`].
    fn snapshot(&mut self, name: &str, point: &str, dry_run: bool) -> Result<Snapshotted, Error>;

    /// See [`Host::restore`].
    fn restore(&mut self, name: &str, point: &str, dry_run: bool) -> Result<Restored, Error>;

    /// See [`Host::points`].
    fn points(&mut self, name: &str) -> Result<Points, Error>;

    /// See [`Host::remove_point`].
    fn remove_point(&mut self, name: &str, point: &str, dry_run: bool) -> Result<Points, Error>;

    /// See [`Host::cancel`].
    fn cancel(&mut self, run: RunId, why: &str) -> Result<Run, Error>;

    /// See [`Host::list`].
    fn list(&mut self) -> Result<Listing, Error>;

    /// See [`Host::usage`].
    fn usage(&mut self) -> Result<Usage, Error>;

    /// See [`Host::runs`].
    fn runs(&mut self, all: bool) -> Result<Vec<RunLine>, Error>;

    /// History after a number, of one subject or all; with `time` it waits that long for some.
    fn events(
        &mut self,
        subject: Option<&str>,
        after: u64,
        time: Duration,
    ) -> Result<Vec<Event>, Error>;
}

/// Lines of history that are read at a time.
const PAGE: u32 = 1000;

impl Verbs for Host {
    fn ensure(&mut self, image: &Reference, dry_run: bool) -> Result<Ensured, Error> {
        Host::ensure(self, image, dry_run)
    }

    fn activate(
        &mut self,
        image: &Reference,
        name: &str,
        options: ActivateOptions,
    ) -> Result<Activated, Error> {
        Host::activate(self, image, name, options)
    }

    fn deactivate(&mut self, name: &str, how: Going) -> Result<Deactivated, Error> {
        Host::deactivate(self, name, how)
    }

    fn remove(&mut self, name: &str, how: Going) -> Result<Removed, Error> {
        Host::remove(self, name, how)
    }

    fn gc(&mut self, bound: Bound, purge: &[VolumeId], dry_run: bool) -> Result<Collected, Error> {
        Host::gc(self, bound, purge, dry_run)
    }

    fn pin(&mut self, image: &str, pinned: bool) -> Result<(), Error> {
        Host::pin(self, image, pinned)
    }

    fn label(&mut self, name: &str, changes: &LabelChanges) -> Result<Labelled, Error> {
        Host::label(self, name, changes)
    }

    fn set_ttl(&mut self, name: &str, seconds: Option<u64>) -> Result<Timed, Error> {
        Host::set_ttl(self, name, seconds)
    }

    fn rename(&mut self, name: &str, new: &str) -> Result<Renamed, Error> {
        Host::rename(self, name, new)
    }

    fn resize(&mut self, name: &str, bytes: u64, dry_run: bool) -> Result<Resized, Error> {
        Host::resize(self, name, bytes, dry_run)
    }

    fn fork(
        &mut self,
        name: &str,
        new: &str,
        bytes: Option<u64>,
        dry_run: bool,
    ) -> Result<Forked, Error> {
        Host::fork(self, name, new, bytes, dry_run)
    }

    fn snapshot(&mut self, name: &str, point: &str, dry_run: bool) -> Result<Snapshotted, Error> {
        Host::snapshot(self, name, point, dry_run)
    }

    fn restore(&mut self, name: &str, point: &str, dry_run: bool) -> Result<Restored, Error> {
        Host::restore(self, name, point, dry_run)
    }

    fn points(&mut self, name: &str) -> Result<Points, Error> {
        Host::points(self, name)
    }

    fn remove_point(&mut self, name: &str, point: &str, dry_run: bool) -> Result<Points, Error> {
        Host::remove_point(self, name, point, dry_run)
    }

    fn cancel(&mut self, run: RunId, why: &str) -> Result<Run, Error> {
        Host::cancel(self, run, why)
    }

    fn list(&mut self) -> Result<Listing, Error> {
        Host::list(self)
    }

    fn usage(&mut self) -> Result<Usage, Error> {
        Host::usage(self)
    }

    fn runs(&mut self, all: bool) -> Result<Vec<RunLine>, Error> {
        Host::runs(self, all)
    }

    fn events(
        &mut self,
        subject: Option<&str>,
        after: u64,
        time: Duration,
    ) -> Result<Vec<Event>, Error> {
        self.look_again()?;
        let events = self.registry().events(subject, after, PAGE)?;
        if !time.is_zero() {
            self.only_looks();
        }
        if events.is_empty() && !time.is_zero() {
            self.wait(time.min(crate::process::cancel::LOOK * 2))?;
        }
        Ok(events)
    }
}
