//! One host: its registry, its store, its locks, and a client for S3 that is made when needed.

pub(crate) mod asked;
pub(crate) mod asker;
pub(crate) mod bring_up;
pub(crate) mod client;
pub(crate) mod deaths;
pub(crate) mod ids;
pub(crate) mod manifest;
pub(crate) mod order;
pub(crate) mod owner;
pub(crate) mod reach;
pub(crate) mod run;
pub(crate) mod servers;
pub(crate) mod settings;
pub(crate) mod spools;
pub(crate) mod survey;
pub(crate) mod using;
pub mod walls;

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use registry::{Registry, RunId, StoreBinding, VolumeId, Write};

use crate::error::refusal::Refusal;
use crate::error::{Error, OfState};
use crate::host::manifest::Manifests;
use crate::host::reach::Reach;
use crate::host::settings::Settings;
use crate::local::spooled::Kept;
use crate::local::way::{Given, Way};
use crate::plan::{self, Fence, epoch};
use crate::process::lock::{Lock, Locks};
use crate::process::log::{self, Field, Level};
use crate::process::{full, place, reserve};
use crate::store::dir::DirStore;
use crate::store::pool::ThinStore;
use crate::store::seam::{Store, StoreName};

/// How often a registry may be replaced under one command.
const REPLACED_MAX: usize = 3;

/// How long a wish waits for the store's lock before it is committed without.
const SOON: Duration = Duration::from_millis(200);

/// What of its settings a process has for itself, while it takes up a run that was asked with others.
#[derive(Clone, Debug)]
pub(crate) struct OwnSettings {
    pub(crate) fetch: fetch::Options,
    pub(crate) etag_dedup: bool,
    pub(crate) bytes_max: u64,
    pub(crate) platform: Option<fetch::image::Platform>,
}

/// An opened host.
pub struct Host {
    pub(crate) registry: Registry,
    pub(crate) store: Box<dyn Store>,
    pub(crate) locks: Locks,
    pub(crate) settings: Settings,
    pub(crate) manifests: Manifests,
    /// The run that is under way.
    pub(crate) run: Option<RunId>,
    /// How this process was told to ask, where a run that is taken up was told otherwise.
    pub(crate) own_settings: Option<Box<OwnSettings>>,
    /// The queued or interrupted run that is about to be done: it, and no other, is begun.
    pub(crate) taking_up: Option<RunId>,
    /// What a run may need; one that needs more is put by.
    pub(crate) reach: Reach,
    /// Whether the last run was put by for that.
    pub(crate) put_by: bool,
    /// The images' lock, from one step of a build to the next: see `using`.
    pub(crate) using: Option<Lock>,
    /// Whether the catalog was asked for just now, for what comes next.
    pub(crate) asked_catalog: bool,
    /// What this process took in of standard input: whoever removes it by its name takes nothing away here.
    pub(crate) arrived: Option<Kept>,
    /// Layers sealed by the present run, by this process: how far it came.
    pub(crate) sealed: u64,
    /// By whose right files of this host are opened.
    pub(crate) way: Way,
    /// What a client opened for the run that is taken up next.
    pub(crate) given: Option<Given>,
    /// Whether nodes of devices outside of /dev are for this process to make and remove.
    pub(crate) nodes: bool,
    client: OnceCell<fetch::Client>,
    /// As long as it is held the registry is not made anew.
    in_use: Option<Lock>,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").field("registry", &self.registry).finish_non_exhaustive()
    }
}

impl Host {
    /// Opens the store first, so that a wrong one leaves no registry behind; then the registry. Where
    /// there is none yet it is made and tied to the store, unless that has what another has sealed:
    /// then it was lost, or is elsewhere, and nothing is made.
    ///
    /// In a full state directory, where there is no room to change anything, it is there to be looked at.
    pub fn open(settings: Settings) -> Result<Host, Error> {
        let places = settings.places();
        Host::open_it(settings).map_err(|error| full::told(error, &places))
    }

    fn open_it(mut settings: Settings) -> Result<Host, Error> {
        place::free(&settings.state, place::STATE)?;
        let database = settings.state.join("registry.db");
        let store = open_store(&mut settings)
            .map_err(|error| survey::down(error, &database, &settings.store))?;
        // A rebuild may be about to put one in its place. Where nobody has been yet there is none, and a
        // lock is a file: what is to be refused is refused before it.
        let locks = || Locks::new(&settings.state, settings.wait, settings.cancel.clone());
        let lock = || locks().and_then(|locks| Ok((locks.registry_shared()?, locks)));
        let early = settings.state.join("locks").is_dir().then(lock).transpose()?;
        not_emptied(&database, store.as_ref())?;
        let looked_at = match database.exists() {
            true => None,
            false => Some(begin(store.as_ref(), &database, &settings)?),
        };
        place::make(&settings.state, place::STATE)?;
        let (in_use, locks) = early.map_or_else(lock, Ok)?;
        let mut registry = open_registry(&database, &settings.state)?;
        reserve::keep(&settings.state);
        locks.watch_registry(&database);
        bring_up::bring_up(&mut registry, &locks)?;
        tie(&mut registry, store.as_ref(), &settings, &locks, looked_at)?;
        owner::remember(&registry, store.as_ref(), &settings.state);
        let client = OnceCell::new();
        let manifests = Manifests::new(&settings.state);
        Ok(Host {
            registry,
            store,
            locks,
            settings,
            manifests,
            run: None,
            own_settings: None,
            taking_up: None,
            reach: Reach::default(),
            put_by: false,
            using: None,
            asked_catalog: false,
            arrived: None,
            sealed: 0,
            way: Way::default(),
            given: None,
            nodes: false,
            client,
            in_use: Some(in_use),
        })
    }

    /// Only looks from now on, for however long: it keeps nobody from making the registry anew, and
    /// [`Host::look_again`] finds that out.
    pub fn only_looks(&mut self) {
        self.in_use = None;
    }

    /// Opens the registry anew where its file is another by now.
    ///
    /// # Errors
    /// Those of opening.
    pub fn look_again(&mut self) -> Result<(), Error> {
        match self.locks.same_registry() {
            Ok(()) => Ok(()),
            Err(_) => self.open_again(),
        }
    }

    fn open_again(&mut self) -> Result<(), Error> {
        let again = Host::open(self.settings.clone())?;
        (self.registry, self.store, self.locks) = (again.registry, again.store, again.locks);
        if self.in_use.is_some() {
            self.in_use = again.in_use;
        }
        Ok(())
    }

    /// Does `work`; begins it again with the registry of now, where that was replaced under it.
    pub(crate) fn on_one_file<T>(
        &mut self,
        mut work: impl FnMut(&mut Host) -> Result<T, Error>,
    ) -> Result<T, Error> {
        for _ in 0..REPLACED_MAX {
            match work(self) {
                Err(Error::State(OfState::Replaced { .. })) => self.open_again()?,
                done => return done,
            }
        }
        work(self)
    }

    /// Commits `change`, which somebody is told of: the store's number moves with it, so that a registry from
    /// before it is found out. The caller does not hold the store's lock.
    pub(crate) fn commit_told<T>(
        &mut self,
        change: impl Fn(&Write<'_>) -> Result<T, registry::Error>,
    ) -> Result<T, Error> {
        self.on_one_file(|host| {
            let _alone = host.locks.store()?;
            host.fenced(&change)
        })
    }

    /// As [`Host::commit_told`], for who cannot wait: while somebody else holds the store's lock, the change
    /// is committed without its number, which moves with what is being done there.
    pub(crate) fn commit_told_soon<T>(
        &mut self,
        change: impl Fn(&Write<'_>) -> Result<T, registry::Error>,
    ) -> Result<T, Error> {
        let wait = self.locks.set_wait(SOON);
        let told = self.commit_told(&change);
        self.locks.set_wait(wait);
        match told {
            Err(Error::Locked { .. }) => Ok(self.registry.write(change)?),
            told => told,
        }
    }

    /// The registry, to look at.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Waits so long, or until somebody asks to stop.
    ///
    /// # Errors
    /// [`Error::Cancelled`].
    pub fn wait(&self, time: Duration) -> Result<(), Error> {
        self.settings.cancel.sleep(time)
    }

    /// The store, to look at.
    pub fn store(&self) -> &dyn Store {
        self.store.as_ref()
    }

    /// Changes rows that stand for something in the store: commits them with the next transaction
    /// id, then brings the store to that id. Killed in between, the store is one behind, and
    /// recovery knows that one commit is in flight. An intent is committed so before its effect.
    ///
    /// The caller holds the store's lock.
    pub(crate) fn fenced<T>(
        &mut self,
        change: impl FnOnce(&Write<'_>) -> Result<T, registry::Error>,
    ) -> Result<T, Error> {
        // A step whose commit was made and whose effect failed has left the store one behind; one
        // more commit before the store has caught up would put them apart for good.
        let (registry, store) = (self.registry.transaction_id()?, self.store.transaction_id()?);
        match plan::fence(registry, store) {
            Fence::Agree => {}
            Fence::InFlight => self.move_store(store, registry)?,
            Fence::Apart => return Err(epoch::apart(registry, store)),
        }
        let (value, next) = self.registry.write(|write| {
            let value = change(write)?;
            Ok((value, write.next_transaction()?))
        })?;
        self.move_store(next - 1, next)?;
        Ok(value)
    }

    /// Brings the store to the number of a commit that somebody died over.
    pub(crate) fn catch_up(&self) -> Result<(), Error> {
        let numbers =
            || Ok::<_, Error>((self.registry.transaction_id()?, self.store.transaction_id()?));
        let (registry, store) = numbers()?;
        if plan::fence(registry, store) != Fence::InFlight {
            return Ok(());
        }
        let _alone = self.locks.store()?;
        let (registry, store) = numbers()?;
        match plan::fence(registry, store) {
            Fence::InFlight => self.move_store(store, registry),
            Fence::Agree | Fence::Apart => Ok(()),
        }
    }

    /// Brings the store to the registry's number; it may have become another's in between.
    fn move_store(&self, from: u64, to: u64) -> Result<(), Error> {
        self.store.set_transaction_id(from, to).map_err(|error| match self.store.transaction_id() {
            Ok(store) if plan::fence(to, store) == Fence::Apart => epoch::apart(to, store),
            Ok(_) | Err(_) => error,
        })
    }

    /// A line for people.
    pub(crate) fn say(&self, level: u8, line: std::fmt::Arguments<'_>) {
        self.tell(level, &line.to_string(), &[]);
    }

    /// A line for people, with what machines read of it.
    pub(crate) fn tell(&self, level: u8, msg: &str, fields: &[(&str, Field)]) {
        if self.settings.talk < level {
            return;
        }
        let mut all: Vec<(&str, Field)> = self.run.iter().map(|id| ("run", (*id).into())).collect();
        all.extend_from_slice(fields);
        log::line(if level > 1 { Level::Debug } else { Level::Info }, msg, &all);
    }

    /// A line that an operator should see: nothing fails by it.
    pub(crate) fn warn(&self, msg: &str, fields: &[(&str, Field)]) {
        if self.settings.talk > 0 {
            log::line(Level::Warning, msg, fields);
        }
    }

    /// A server's ETags were found not to stand for contents.
    pub(crate) fn warn_of_etags(&self, doubt: Option<String>) {
        if let Some(doubt) = doubt {
            let line = format!(
                "{doubt}. No object is taken for another by such an ETag any more: each is read itself"
            );
            self.warn(&line, &[]);
        }
    }

    /// As [`Host::tell`], for machines alone.
    pub(crate) fn event(&self, msg: &str, fields: &[(&str, Field)]) {
        if log::for_machines() {
            self.tell(1, msg, fields);
        }
    }
}

pub(crate) fn open_store(settings: &mut Settings) -> Result<Box<dyn Store>, Error> {
    Ok(match &settings.store {
        StoreName::Thin(pool) => {
            // Delayed allocation packs files closer, and keeps them out from between directories,
            // which a later layer writes into: docs/space.md.
            settings.limits.place_min = u64::MAX;
            Box::new(ThinStore::open(pool)?)
        }
        StoreName::Dir(path) => {
            not_made_for(path, &settings.state)?;
            Box::new(DirStore::open(path, settings.wait, &settings.cancel)?)
        }
    })
}

/// A store is made where there is none. For a registry that has one already, a place without one is a mistyped name, or
/// a disk that is not mounted.
fn not_made_for(path: &Path, state: &Path) -> Result<(), Error> {
    let database = state.join("registry.db");
    let is_empty = || std::fs::read_dir(path).map_or(true, |mut entries| entries.next().is_none());
    if !database.exists() || !is_empty() {
        return Ok(());
    }
    // One that does not open is told where it is needed.
    let bound = Registry::open_to_read(&database).and_then(|registry| registry.store());
    match bound.ok().flatten() {
        None => Ok(()),
        Some(bound) => Err(Error::Usage(format!(
            "there is no store at {}, and the registry in {} belongs to store \"{}:{}\": name that one by --store (is \
             its disk mounted?), or for a new store another --state",
            path.display(),
            state.display(),
            bound.kind,
            bound.id
        ))),
    }
}

/// The registry; in a state directory without room, as its file stands.
fn open_registry(database: &Path, state: &Path) -> Result<Registry, Error> {
    let little = reserve::short_of(state).is_some();
    match Registry::open_as_it_is(database) {
        Ok(registry) if little => registry.in_room(true).map(|()| registry).map_err(Error::from),
        Err(error)
            if little && matches!(error.kind(), registry::Kind::NoSpace | registry::Kind::Io) =>
        {
            Registry::open_as_it_stands(database).map_err(|_| error.into())
        }
        opened => opened.map_err(Error::from),
    }
}

/// SQLite takes an empty file for a new one. Beside a store that some registry has written to it is
/// a registry that was cut off, and the devices of today would be strays to a new one.
///
/// Looked at once in a process: to close the file again would drop the locks that another connection
/// of this process has on it (sqlite.org/howtocorrupt.html, 2.2).
fn not_emptied(database: &Path, store: &dyn Store) -> Result<(), Error> {
    static LOOKED_AT: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    let mut looked_at = LOOKED_AT.lock().unwrap_or_else(PoisonError::into_inner);
    if looked_at.contains(database) {
        return Ok(());
    }
    not_cut_off(database, store)?;
    looked_at.insert(database.into());
    Ok(())
}

fn not_cut_off(database: &Path, store: &dyn Store) -> Result<(), Error> {
    if has_content(database)? {
        return Ok(());
    }
    match store.transaction_id()? {
        0 => Ok(()),
        // What the store knows of was there before this look: another process may have made it.
        _ if has_content(database)? => Ok(()),
        transaction => Err(Refusal::Emptied { database: database.into(), transaction }.into()),
    }
}

/// Whether the file, or its log, has what some registry wrote; also where there is no file.
fn has_content(database: &Path) -> Result<bool, Error> {
    // The log first: another process may be copying it into the file, after which it goes.
    let log = database.with_file_name("registry.db-wal");
    let logged = std::fs::metadata(log).is_ok_and(|found| found.len() > 0);
    // A database has a header of 100 bytes, with the schema's version at 60 and the application's id
    // at 68; what is not in the file is in the log (sqlite.org/fileformat.html).
    let Ok(file) = std::fs::File::open(database) else { return Ok(true) };
    let mut header = Vec::new();
    file.take(100).read_to_end(&mut header).map_err(|source| Error::Io {
        doing: "read",
        path: database.into(),
        source,
    })?;
    let blank = header.get(60..64) == Some(&[0; 4]) && header.get(68..72) == Some(&[0; 4]);
    Ok(header.len() == 100 && (logged || !blank))
}

/// Whether a registry may be begun at `database`; gives the store's transaction id before that look.
fn begin(store: &dyn Store, database: &Path, settings: &Settings) -> Result<u64, Error> {
    let transaction = store.transaction_id()?;
    match survey::may_begin(store, database, settings) {
        // Another process was faster: what the store has is by the registry that it has made.
        Err(_) if survey::is_bound(database) => Ok(transaction),
        looked => looked.map(|()| transaction),
    }
}

/// Ties the registry to the store where it is new. `looked_at` is the store's transaction id when it
/// was seen that it may be.
fn tie(
    registry: &mut Registry,
    store: &dyn Store,
    settings: &Settings,
    locks: &Locks,
    looked_at: Option<u64>,
) -> Result<(), Error> {
    let binding = store.binding();
    let bound = registry.store()?;
    if bound.as_ref() == Some(&binding) {
        return Ok(());
    }
    // A lock is a file: what is to be refused is refused before it.
    if bound.is_none() && looked_at != Some(store.transaction_id()?) {
        begin(store, registry.path(), settings)?;
    }
    let _alone = locks.store()?;
    bind(registry, store, &binding)
}

fn bind(registry: &mut Registry, store: &dyn Store, binding: &StoreBinding) -> Result<(), Error> {
    let free = store.ids()?.into_iter().max().map_or(VolumeId::new(1), VolumeId::next);
    registry.bind(binding, store.transaction_id()?, free)?;
    Ok(())
}
