//! Gathers what metrics are made of. A part that cannot be read is left out, and said to be down: a sick
//! host must still tell that it is.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use registry::{
    Activation, ActivationState, Counter, Image, Registry, Run, RunState, Verb, Volume, VolumeId,
};

use crate::error::Error;
use crate::host::settings::Settings;
use crate::host::{Host, open_store, run, walls};
use crate::plan::garbage::{self, Sweep};
use crate::plan::guard::Thresholds;
use crate::store::pool_copies;
use crate::store::seam::{Space, Store, StoreName};
use crate::verbs::judge::{self, Judge};
use crate::verbs::unsettled::Unsettled;
use crate::verbs::usage;
use crate::view::metrics::life::{LIFE, Life, Process};

/// What the text is made of.
#[derive(Debug)]
pub struct Facts {
    /// Rows; none when the registry cannot be read.
    pub registry: Option<RegistryFacts>,
    /// The store; none when it cannot be read.
    pub store: Option<StoreFacts>,
    /// Size of the registry's file, bytes.
    pub database_bytes: u64,
    /// Size of its log, bytes.
    pub log_bytes: u64,
    /// Activations and volumes that are not as their rows say; none when that cannot be told.
    pub unsettled: Option<u64>,
    /// Bytes of spools.
    pub spool_bytes: u64,
    /// Spools.
    pub spools: u64,
    /// The file system of the state directory.
    pub disk: Option<Space>,
    /// Of a pool whose metadata a daemon copies: seconds between two copies, and when the newest was written, seconds
    /// since 1970, 0 where there is none.
    pub copies: Option<(u64, u64)>,
    /// The daemon's mode, `normal`, `drain` or `rescue`; none where no daemon speaks.
    pub mode: Option<String>,
    /// Each wall that layers are unpacked behind, and whether it stands; none where that cannot be told.
    pub walls: Vec<(&'static str, bool)>,
    /// What this process counted.
    pub life: &'static Life,
    /// What the kernel says of it.
    pub process: Process,
}

/// Rows, in numbers.
#[derive(Clone, Debug, Default)]
pub struct RegistryFacts {
    /// One for each verb.
    pub runs: Vec<RunFacts>,
    /// Images.
    pub images: u64,
    /// Those of them that are pinned.
    pub pinned: u64,
    /// Volumes by state.
    pub volumes: Vec<(&'static str, u64)>,
    /// Activations by state.
    pub activations: Vec<(&'static str, u64)>,
    /// Those that were up when the host went down, and that nobody has checked since.
    pub unchecked: u64,
    /// Refused blobs.
    pub quarantined: u64,
    /// Bytes that a collection would free.
    pub garbage_bytes: u64,
    /// Findings in scanned images, by severity, the worst first.
    pub findings: [u64; 5],
    /// Lines of history ever written.
    pub events: u64,
    /// Serial and end, seconds since 1970, of the catalog that is believed; none: none is.
    pub catalog: Option<(u64, Option<i64>)>,
    /// Activations that run and may not, by name; none where that cannot be told.
    pub barred: Option<Vec<String>>,
    /// What the registry counts.
    pub counters: Vec<Counter>,
    /// Its transaction id.
    pub transaction: u64,
}

/// The runs of one verb that have not ended.
#[derive(Clone, Debug, Default)]
pub struct RunFacts {
    /// The verb.
    pub verb: &'static str,
    /// That wait for their turn.
    pub queued: u64,
    /// At which a process is.
    pub running: u64,
    /// At which none is.
    pub interrupted: u64,
    /// Age of the oldest, seconds.
    pub oldest_s: u64,
    /// Longest time without a word, seconds.
    pub idle_s: u64,
}

/// The store, in numbers.
#[derive(Clone, Debug)]
pub struct StoreFacts {
    /// One of [`crate::view::metrics::MODES`].
    pub mode: String,
    /// Room for data.
    pub data: Space,
    /// Room for metadata, where there is such a thing.
    pub metadata: Option<Space>,
    /// Its transaction id, where it can say.
    pub transaction: Option<u64>,
    /// Ids that no row knows; none where rows or ids cannot be read.
    pub foreign: Option<u64>,
    /// At which marks what is done.
    pub marks: Thresholds,
    /// The sizes of all activations together, bytes; none of a directory, or where rows cannot be read.
    pub promised: Option<u64>,
    /// What they may come to, bytes; none where nothing bounds it.
    pub bound: Option<u64>,
}

impl Facts {
    /// How far registry and store are apart.
    pub(super) fn mismatch(&self) -> Option<u64> {
        let store = self.store.as_ref()?.transaction?;
        Some(self.registry.as_ref()?.transaction.abs_diff(store))
    }
}

impl Host {
    /// What there is to tell of this host.
    pub fn metrics(&self) -> Facts {
        let interrupted =
            |run: &Run| run::line(&self.locks, run.clone()).is_ok_and(|line| line.interrupted);
        let facts = gather(Some(&self.registry), Some(self.store()), &self.settings, interrupted);
        let trouble = |found: Vec<Unsettled>| found.iter().filter(|f| f.kind.is_trouble()).count();
        Facts { unsettled: self.unsettled().ok().map(|found| trouble(found) as u64), ..facts }
    }
}

impl Facts {
    /// What there is to tell of a host that cannot be opened.
    pub fn of_sick(mut settings: Settings) -> Facts {
        let registry = Registry::open_existing(&settings.state.join("registry.db")).ok();
        // A directory that is no store yet would be made one.
        let there = match &settings.store {
            StoreName::Thin(_) => true,
            StoreName::Dir(path) => path.join("veneer-store").exists(),
        };
        let store = there.then(|| open_store(&mut settings).ok()).flatten();
        gather(registry.as_ref(), store.as_deref(), &settings, |_| false)
    }
}

fn gather(
    registry: Option<&Registry>,
    store: Option<&dyn Store>,
    settings: &Settings,
    interrupted: impl Fn(&Run) -> bool,
) -> Facts {
    let state = settings.state.as_path();
    let mut rows = registry.and_then(|registry| read(registry, interrupted).ok());
    if let (Some(rows), Some(registry)) = (&mut rows, registry) {
        let known = settings.trust.url.as_deref().and_then(|url| registry.catalog(url).ok()?);
        rows.catalog = known.map(|known| (known.serial, known.expires_s));
        let judge = Judge { trust: &settings.trust, scan: &settings.scan };
        let running = store.and_then(|store| judge::running(registry, store, judge).ok());
        rows.barred = running.map(|all| all.into_iter().map(|(name, _)| name).collect());
    }
    let ids = registry.and_then(|registry| ours(registry).ok());
    let room = store.and_then(|store| room(store, ids.as_ref(), registry, settings).ok());
    let size = |name: &str| std::fs::metadata(state.join(name)).map_or(0, |meta| meta.len());
    let spools = fetch::leftovers(&state.join("spool")).unwrap_or_default();
    Facts {
        registry: rows,
        store: room,
        unsettled: None,
        database_bytes: size("registry.db"),
        log_bytes: size("registry.db-wal"),
        spool_bytes: spools.iter().map(|spool| spool.bytes).sum(),
        spools: spools.len() as u64,
        disk: disk(state),
        copies: copies(settings),
        mode: None,
        walls: walls::series(settings),
        life: &LIFE,
        process: Process::now(),
    }
}

fn read(
    registry: &Registry,
    interrupted: impl Fn(&Run) -> bool,
) -> Result<RegistryFacts, registry::Error> {
    let (volumes, images) = (registry.volumes()?, registry.images()?);
    let activations = registry.activations()?;
    let runs = registry.runs(false)?;
    let volume_states = ["building", "sealed", "deleting"].map(|state| {
        (state, volumes.iter().filter(|volume| volume.state.word() == state).count() as u64)
    });
    let activation_states = [
        ActivationState::Reserved,
        ActivationState::Active,
        ActivationState::Inactive,
        ActivationState::Deleting,
    ]
    .map(|state| {
        (state.word(), activations.iter().filter(|row| row.state == state).count() as u64)
    });
    Ok(RegistryFacts {
        runs: Verb::ALL.into_iter().map(|verb| run_facts(verb, &runs, &interrupted)).collect(),
        pinned: images.iter().filter(|image| image.pinned).count() as u64,
        images: images.len() as u64,
        volumes: volume_states.to_vec(),
        activations: activation_states.to_vec(),
        unchecked: activations.iter().filter(|row| row.unchecked).count() as u64,
        quarantined: registry.quarantined_by(unpack::VERSION)?,
        garbage_bytes: garbage_bytes(volumes, images, activations),
        findings: registry.findings_here()?,
        events: registry.events_written()?,
        counters: registry.counters()?,
        transaction: registry.transaction_id()?,
        catalog: None,
        barred: None,
    })
}

fn run_facts(verb: Verb, runs: &[Run], interrupted: &dyn Fn(&Run) -> bool) -> RunFacts {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    let since = |ms: i64| u64::try_from((now - ms) / 1000).unwrap_or(0);
    let mut facts = RunFacts { verb: verb.word(), ..RunFacts::default() };
    for run in runs.iter().filter(|run| run.verb == verb) {
        facts.oldest_s = facts.oldest_s.max(since(run.created_ms));
        match run.state {
            RunState::Queued => facts.queued += 1,
            RunState::Running => {
                facts.idle_s = facts.idle_s.max(since(run.updated_ms));
                match interrupted(run) {
                    true => facts.interrupted += 1,
                    false => facts.running += 1,
                }
            }
            RunState::Done | RunState::Failed { .. } | RunState::Cancelled => {}
        }
    }
    facts
}

fn garbage_bytes(volumes: Vec<Volume>, images: Vec<Image>, activations: Vec<Activation>) -> u64 {
    let facts = garbage::Facts { volumes, images, activations, ..garbage::Facts::default() };
    let bytes = |sweep: &Sweep| match sweep {
        Sweep::Volume { bytes, .. } => *bytes,
        Sweep::Image { .. } | Sweep::Foreign { .. } => 0,
    };
    garbage::garbage(&facts, &[]).iter().map(bytes).sum()
}

/// Every id that a row knows.
fn ours(registry: &Registry) -> Result<BTreeSet<VolumeId>, registry::Error> {
    let volumes = registry.volumes()?.into_iter().map(|volume| volume.id);
    let activations = registry.activations()?.into_iter().map(|row| row.id);
    let points = registry.points()?.into_iter().map(|point| point.id);
    let arrivals = registry.arrivals()?.into_iter().map(|row| row.id);
    let known = volumes.chain(activations).chain(points).chain(arrivals);
    Ok(known.chain(registry.serial_volume()?).collect())
}

fn room(
    store: &dyn Store,
    ours: Option<&BTreeSet<VolumeId>>,
    registry: Option<&Registry>,
    settings: &Settings,
) -> Result<StoreFacts, Error> {
    let condition = store.condition()?;
    // A pool that has failed does not tell its ids.
    let ids = store.ids().ok();
    let foreign =
        ids.zip(ours).map(|(ids, ours)| ids.iter().filter(|id| !ours.contains(id)).count());
    let rows = registry.filter(|_| store.alone()).and_then(|registry| registry.activations().ok());
    let percent = settings.overcommit.filter(|_| store.alone());
    Ok(StoreFacts {
        marks: settings.pool,
        promised: rows.map(|rows| usage::promised(&rows)),
        bound: percent.map(|percent| usage::bound(condition.data.total, percent)),
        mode: condition.mode,
        data: condition.data,
        metadata: condition.metadata,
        transaction: condition.transaction_id,
        foreign: foreign.map(|count| count as u64),
    })
}

fn copies(settings: &Settings) -> Option<(u64, u64)> {
    let StoreName::Thin(pool) = &settings.store else { return None };
    let newest = pool_copies::newest(&pool_copies::directory(&settings.state), pool);
    let since = newest.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    let every = settings.copies.every.as_secs();
    (every > 0).then(|| (every, since.map_or(0, |since| since.as_secs())))
}

fn disk(state: &Path) -> Option<Space> {
    let stat = nix::sys::statvfs::statvfs(state).ok()?;
    let block = stat.fragment_size();
    let (total, free) = (stat.blocks() * block, stat.blocks_available() * block);
    Some(Space { total, used: total.saturating_sub(free), block })
}
