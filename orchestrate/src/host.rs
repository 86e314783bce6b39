//! One host: its registry, its store, its locks, and a client for S3 that is made when needed.

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::io::Read as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use registry::{Registry, StoreBinding, Write};

use crate::catalog::Trust;
use crate::lock::Locks;
use crate::log::{self, Field, Level};
use crate::manifest::Manifests;
use crate::plan::{self, Fence};
use crate::scan::Policy;
use crate::store::{DirStore, Store, StoreName, ThinStore};
use crate::{Cancel, Error};

/// What the caller chose.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The state directory: registry.db, locks, spools.
    pub state: PathBuf,
    /// The store.
    pub store: StoreName,
    /// Where S3 is and who asks.
    pub fetch: fetch::Options,
    /// What a layer may be.
    pub limits: unpack::Limits,
    /// Size of a new template's volume, bytes; layers grow beyond it where they must.
    pub volume_bytes: u64,
    /// How long to wait for another process.
    pub wait: Duration,
    /// Spools of killed runs go when nobody wrote to them for so long.
    pub spool_age: Duration,
    /// Whose word counts for what an image is.
    pub trust: Trust,
    /// Who scans images, and what is not let through.
    pub scan: Policy,
    /// Whether an ETag seen before stands for the bytes seen before, whatever the key.
    pub etag_dedup: bool,
    /// Stops whatever runs, at its next safe point.
    pub cancel: Cancel,
    /// Lines for people on stderr: 0 none, 1 steps, 2 more.
    pub talk: u8,
}

/// An opened host.
pub struct Host {
    pub(crate) registry: Registry,
    pub(crate) store: Box<dyn Store>,
    pub(crate) locks: Locks,
    pub(crate) settings: Settings,
    pub(crate) manifests: Manifests,
    /// The run that is under way.
    pub(crate) run: Option<u64>,
    /// The server that this process was told of, where a run that is taken up may name another.
    pub(crate) named_endpoint: Option<Option<String>>,
    /// Layers sealed by this process: how far it came.
    pub(crate) sealed: u64,
    client: OnceCell<fetch::Client>,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").field("registry", &self.registry).finish_non_exhaustive()
    }
}

impl Host {
    /// Opens the store first, so that a wrong one leaves no registry behind; then the registry,
    /// which is tied to the store when it is new.
    pub fn open(mut settings: Settings) -> Result<Host, Error> {
        let store = open_store(&mut settings)?;
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&settings.state)
            .map_err(|source| Error::Io { doing: "make", path: settings.state.clone(), source })?;
        let locks = Locks::new(&settings.state, settings.wait, settings.cancel.clone())?;
        let database = settings.state.join("registry.db");
        not_emptied(&database, store.as_ref())?;
        let mut registry = Registry::open(&database)?;
        let binding = store.binding();
        if registry.store()?.as_ref() != Some(&binding) {
            let _alone = locks.store()?;
            bind(&mut registry, store.as_ref(), &binding)?;
        }
        let client = OnceCell::new();
        let manifests = Manifests::new(&settings.state);
        Ok(Host {
            registry,
            store,
            locks,
            settings,
            manifests,
            run: None,
            named_endpoint: None,
            sealed: 0,
            client,
        })
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

    pub(crate) fn client(&self) -> Result<&fetch::Client, Error> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let client = fetch::Client::new(&self.settings.fetch)?;
        Ok(self.client.get_or_init(|| client))
    }

    /// The next request is made with the settings as they are then.
    pub(crate) fn forget_client(&mut self) {
        self.client = OnceCell::new();
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
            Fence::InFlight => self.store.set_transaction_id(store, registry)?,
            Fence::Apart => return Err(Error::Fence { registry, store }),
        }
        let (value, next) = self.registry.write(|write| {
            let value = change(write)?;
            Ok((value, write.next_transaction()?))
        })?;
        self.store.set_transaction_id(next - 1, next)?;
        Ok(value)
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
        StoreName::Dir(path) => Box::new(DirStore::open(path)?),
    })
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
        transaction => Err(Error::Emptied { database: database.into(), transaction }),
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

fn bind(registry: &mut Registry, store: &dyn Store, binding: &StoreBinding) -> Result<(), Error> {
    let free = store.ids()?.into_iter().max().map_or(1, |id| id.saturating_add(1));
    registry.bind(binding, store.transaction_id()?, free)?;
    Ok(())
}
