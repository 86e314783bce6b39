//! How the daemon's threads reach host and registry: some are kept open for the next question. Where the
//! registry is gone none is made in its place, unless it may be.

use std::path::PathBuf;

use registry::Registry;

use crate::error::Error;
use crate::error::class::Class;
use crate::host::settings::Settings;
use crate::host::{Host, survey};
use crate::local::way::{Given, Way};
use crate::plan::class::class;
use crate::process::{full, reserve};
use crate::serve::daemon::{Daemon, lock};
use crate::serve::mode::Mode;
use crate::serve::options::QUESTION_WAIT;

/// Hosts and registries that are kept open for the next question.
const KEPT_OPEN: usize = 2;

impl Daemon {
    /// Whether anything new is taken on now.
    ///
    /// # Errors
    /// [`Error::Told`] when nothing is.
    pub(super) fn takes_work(&self) -> Result<(), Error> {
        let no = |class, message: String| Err(Error::Told { class, message });
        let modes = self.modes();
        let why = || modes.why().unwrap_or_default();
        match modes.now() {
            Mode::Normal if self.is_stopping() => {
                no(Class::Temporary, "the daemon is stopping".into())
            }
            Mode::Normal => Ok(()),
            Mode::Drain => no(Class::Temporary, format!("draining: {}", why())),
            Mode::Rescue => no(Class::HostBroken, format!("rescue mode: {}", why())),
        }
    }

    /// Asks a host that is open, or opens one. One that turns out broken is not kept.
    pub(super) fn with_host<T>(
        &self,
        ask: impl FnOnce(&mut Host) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let age = self.age();
        let kept = lock(&self.hosts).pop();
        let mut host = match kept {
            Some(host) => host,
            None => Host::open(Settings { wait: QUESTION_WAIT, talk: 0, ..self.settings() })?,
        };
        // Nothing is opened for a client but what is said.
        host.way = Way::client(Given::default(), self.settings().local_roots);
        // It may have been opened in better days.
        host.registry.in_room(reserve::short_of(&self.settings().state).is_some())?;
        let answer = ask(&mut host).map_err(|error| full::told(error, &self.settings().places()));
        let broken = answer.as_ref().is_err_and(|error| class(error) == Class::HostBroken);
        let mut hosts = lock(&self.hosts);
        // Nor is one that was opened with settings that are no longer in force.
        let lasts = !broken && !host.registry.stands() && age == self.age();
        if lasts && hosts.len() < KEPT_OPEN {
            hosts.push(host);
        }
        answer
    }

    /// Asks the registry alone: it may answer when the store does not.
    pub(super) fn with_registry<T>(
        &self,
        ask: impl FnOnce(&mut Registry) -> Result<T, registry::Error>,
    ) -> Result<T, Error> {
        let kept = lock(&self.registries).pop();
        let mut registry = match kept {
            Some(registry) => registry,
            None => self.open_registry().map_err(|error| {
                // What there is to say of a registry that is gone, and not only that it is.
                let error = || full::told(Error::Registry(error), &self.settings().places());
                survey::objection(&self.settings()).unwrap_or_else(error)
            })?,
        };
        registry.in_room(reserve::short_of(&self.settings().state).is_some())?;
        let answer = ask(&mut registry)
            .map_err(|error| full::told(Error::Registry(error), &self.settings().places()));
        let broken = answer.as_ref().is_err_and(|error| class(error) == Class::HostBroken);
        let mut registries = lock(&self.registries);
        if !broken && !registry.stands() && registries.len() < KEPT_OPEN {
            registries.push(registry);
        }
        answer
    }

    /// In a full state directory there may be room to look at it and no more.
    fn open_registry(&self) -> Result<Registry, registry::Error> {
        match Registry::open_there(&self.database()) {
            Err(error) if reserve::lacks(&self.settings().state).is_some() => {
                Registry::open_as_it_stands(&self.database()).map_err(|_| error)
            }
            opened => opened,
        }
    }

    fn database(&self) -> PathBuf {
        self.settings().state.join("registry.db")
    }

    /// Where the registry is gone, what is still open of it is no registry any more. One that there
    /// never was is made, as by any run.
    pub(super) fn look_for_registry(&self) {
        if self.database().exists() {
            return;
        }
        lock(&self.hosts).clear();
        lock(&self.registries).clear();
        // What keeps it from being made is found by the look at health.
        if survey::objection(&self.settings()).is_none() {
            let settings = Settings { wait: QUESTION_WAIT, talk: 0, ..self.settings() };
            drop(Host::open(settings));
        }
    }
}
