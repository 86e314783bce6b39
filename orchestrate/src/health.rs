//! Whether this host can do its work, as a list of checks with reasons. [`judge`] is pure; what it
//! judges is gathered in [`look`], which opens each part by itself, so that a broken one leaves the
//! others to tell.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use registry::{Registry, RunState, Verb};
use serde::{Deserialize, Serialize};

use crate::error::{Class, whole};
use crate::host::open_store;
use crate::plan::{self, Fence};
use crate::store::{Condition, Space, StoreName};
use crate::{Error, Settings};

/// Bytes of the state directory's file system below which no work is taken.
const DISK_FREE_MIN: u64 = 64 << 20;

/// Hundredths of a store's data or bookkeeping above which there is no room for work.
const DATA_MAX: u64 = 95;
const METADATA_MAX: u64 = 90;

/// How long the oldest run may wait for its turn.
const BACKLOG_MAX: Duration = Duration::from_secs(900);

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// `db_write`, `disk_free`, `pool_mode`, `pool_data_ratio`, `pool_meta_ratio`, `txid_match`,
    /// `s3_last_ok`, `backlog_age`.
    pub name: String,
    /// Whether it holds.
    pub ok: bool,
    /// What was found, also when it holds.
    pub reason: String,
    /// How old that is, milliseconds.
    pub age_ms: u64,
}

/// All checks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readiness {
    /// Whether all of them hold and the mode is `normal`.
    pub ready: bool,
    /// `normal`, `drain` or `rescue`; none where no daemon runs.
    pub mode: Option<String>,
    /// Why it is not `normal`, where there is a reason.
    pub why: Option<String>,
    /// In the order of their names' list.
    pub checks: Vec<Check>,
}

/// What was found on the host. A text is why something could not be found out.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Whether a commit came to disk.
    pub db_write: Result<(), String>,
    /// The file system of the state directory.
    pub disk: Result<Space, String>,
    /// The store.
    pub store: Result<Condition, String>,
    /// The registry's transaction id, of one moment with the store's.
    pub registry_transaction: Result<u64, String>,
    /// The last run that had to ask S3: how it ended, and how long ago.
    pub last_fetch: Option<(RunState, Duration)>,
    /// How long the oldest queued run has been waiting.
    pub backlog: Option<Duration>,
}

/// The checks of these facts.
pub fn judge(facts: &Facts) -> Vec<Check> {
    let mut checks = Vec::new();
    let mut check = |name: &str, found: Result<String, String>, age: Duration| {
        let ok = found.is_ok();
        let reason = found.unwrap_or_else(|why| why);
        let age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        checks.push(Check { name: name.into(), ok, reason, age_ms });
    };
    let now = Duration::ZERO;
    check("db_write", facts.db_write.clone().map(|()| "a commit is on disk".into()), now);
    check("disk_free", facts.disk.clone().and_then(|space| room(&space)), now);
    check("pool_mode", facts.store.clone().and_then(|store| mode(&store)), now);
    let data = facts.store.clone().and_then(|store| ratio(&store.data, DATA_MAX));
    check("pool_data_ratio", data, now);
    let metadata = facts.store.clone().and_then(|store| match &store.metadata {
        Some(space) => ratio(space, METADATA_MAX),
        None => Ok("the store keeps no metadata of its own".into()),
    });
    check("pool_meta_ratio", metadata, now);
    check("txid_match", fence(facts), now);
    let (found, age) = match &facts.last_fetch {
        None => (Ok("nothing was asked of it yet".into()), now),
        Some((state, age)) => (fetched(state), *age),
    };
    check("s3_last_ok", found, age);
    let backlog = facts.backlog.unwrap_or_default();
    let found = match facts.backlog {
        None => Ok("nothing waits".into()),
        Some(age) if age > BACKLOG_MAX => Err(format!(
            "the oldest run has been waiting for {} s, more than {} s",
            age.as_secs(),
            BACKLOG_MAX.as_secs()
        )),
        Some(age) => Ok(format!("the oldest run has been waiting for {} s", age.as_secs())),
    };
    check("backlog_age", found, backlog);
    checks
}

fn room(space: &Space) -> Result<String, String> {
    let text = format!("{} of {} bytes free", space.free(), space.total);
    if space.free() >= DISK_FREE_MIN {
        return Ok(text);
    }
    Err(format!("{text}, fewer than {DISK_FREE_MIN}: make room where the state directory is"))
}

fn mode(store: &Condition) -> Result<String, String> {
    let next = match store.mode.as_str() {
        "rw" | "directory" => return Ok(store.mode.clone()),
        "out_of_data_space" => "`orchestrate gc`, or grow the pool",
        "needs_check" | "ro" | "fail" => "`thin doctor` tells how to mend it",
        _ => "`thin pool status` tells more",
    };
    Err(format!("{}: {next}", store.mode))
}

fn ratio(space: &Space, most: u64) -> Result<String, String> {
    let part = (space.used.saturating_mul(100)).checked_div(space.total).unwrap_or(100);
    let text = format!("{part}% of {} bytes used", space.total);
    if part <= most { Ok(text) } else { Err(format!("{text}, more than {most}%")) }
}

fn fence(facts: &Facts) -> Result<String, String> {
    let registry = facts.registry_transaction.clone()?;
    let store = facts.store.clone()?.transaction_id.ok_or("the store cannot tell its number")?;
    match plan::fence(registry, store) {
        Fence::Agree => Ok(format!("both at {registry}")),
        Fence::InFlight => Ok(format!("{registry} and {store}: one commit is in flight")),
        Fence::Apart => Err(Error::Fence { registry, store }.to_string()),
    }
}

/// A failure that says something of the server, or of the way to it.
fn fetched(state: &RunState) -> Result<String, String> {
    let RunState::Failed { class, message } = state else {
        return Ok("the last run that asked S3 got what it wanted".into());
    };
    match Class::from_word(class) {
        Some(Class::Temporary | Class::Throttled | Class::Denied) => {
            Err(format!("the last run that asked S3 failed ({class}): {message}"))
        }
        _ => Ok(format!("the last run failed, and S3 was not why ({class})")),
    }
}

/// Why no work is to be begun here: what would harm the store or get nowhere. None: work may begin.
pub fn sick(facts: &Facts) -> Option<String> {
    let all = judge(facts);
    let of = |name: &str| all.iter().find(|check| check.name == name && !check.ok);
    // A full pool is no reason: deleting and collecting must go on.
    let mode = of("pool_mode").filter(|check| !check.reason.starts_with("out_of_data_space"));
    let found = of("db_write").or(mode).or_else(|| of("txid_match"));
    found.map(|check| format!("{}: {}", check.name, check.reason))
}

/// What is found now. With `commit` a commit is made, so that it is known whether that works. Makes
/// neither a registry nor a store.
pub fn look(settings: &Settings, commit: bool) -> Facts {
    let mut registry = open_registry(&settings.state.join("registry.db"));
    let db_write = match &mut registry {
        Ok(registry) if commit => registry.touch().map_err(|error| whole(&error)),
        Ok(_) => Ok(()),
        Err(why) => Err(why.clone()),
    };
    let read = || match &registry {
        Ok(registry) => registry.transaction_id().map_err(|error| whole(&error)),
        Err(why) => Err(why.clone()),
    };
    // Two numbers of one moment, while others commit: looked at until nobody did in between.
    let mut registry_transaction = read();
    let mut store = condition(settings);
    for _ in 0..20 {
        let after = read();
        if after == registry_transaction {
            break;
        }
        registry_transaction = after;
        store = condition(settings);
    }
    let (last_fetch, backlog) = match &registry {
        Ok(registry) => (last_fetch(registry), backlog(registry)),
        Err(_) => (None, None),
    };
    let disk = disk(&settings.state);
    Facts { db_write, disk, store, registry_transaction, last_fetch, backlog }
}

fn open_registry(path: &Path) -> Result<Registry, String> {
    match path.exists() {
        true => Registry::open(path).map_err(|error| whole(&error)),
        false => Err(format!(
            "there is no registry {} yet: `orchestrate serve` or any run makes one",
            path.display()
        )),
    }
}

fn condition(settings: &Settings) -> Result<Condition, String> {
    if let StoreName::Dir(path) = &settings.store
        && !path.exists()
    {
        return Err(format!("there is no store {} yet: any run makes one", path.display()));
    }
    open_store(&mut settings.clone())
        .and_then(|store| store.condition())
        .map_err(|error| whole(&error))
}

/// The readiness of a host without a daemon.
pub fn readiness(settings: &Settings) -> Readiness {
    let checks = judge(&look(settings, true));
    Readiness { ready: checks.iter().all(|check| check.ok), mode: None, why: None, checks }
}

fn last_fetch(registry: &Registry) -> Option<(RunState, Duration)> {
    let run = registry.last_ended([Verb::Ensure, Verb::Activate]).ok()??;
    Some((run.state, since(run.finished_ms?)))
}

fn backlog(registry: &Registry) -> Option<Duration> {
    let oldest = registry.runs_after(Some(RunState::Queued.word()), 0, 1).ok()?;
    oldest.first().map(|run| since(run.created_ms))
}

/// Of a wall clock that may have been set back.
fn since(ms: i64) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(Duration::from_millis(u64::try_from(ms).unwrap_or(0)))
}

fn disk(state: &Path) -> Result<Space, String> {
    let found = nix::sys::statvfs::statvfs(state).map_err(|errno| {
        let source = errno.into();
        whole(&Error::Io { doing: "measure", path: state.into(), source })
    })?;
    let block = found.fragment_size();
    let total = found.blocks() * block;
    Ok(Space { total, used: total.saturating_sub(found.blocks_available() * block), block })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn well() -> Facts {
        let space = |used| Space { total: 1 << 30, used, block: 1 };
        Facts {
            db_write: Ok(()),
            disk: Ok(space(0)),
            store: Ok(Condition {
                mode: "rw".into(),
                data: space(1 << 29),
                metadata: Some(space(1 << 20)),
                transaction_id: Some(7),
            }),
            registry_transaction: Ok(8),
            last_fetch: None,
            backlog: None,
        }
    }

    fn failed(facts: &Facts) -> Vec<String> {
        judge(facts).into_iter().filter(|check| !check.ok).map(|check| check.name).collect()
    }

    fn with(change: impl FnOnce(&mut Facts)) -> Facts {
        let mut facts = well();
        change(&mut facts);
        facts
    }

    #[test]
    fn a_well_host_passes_all_eight() {
        assert_eq!(judge(&well()).len(), 8);
        assert_eq!(failed(&well()), Vec::<String>::new());
        assert_eq!(sick(&well()), None);
    }

    #[test]
    fn each_check_fails_by_its_own_fact_and_only_some_stop_work() {
        let store = |change: fn(&mut Condition)| {
            with(|facts| change(facts.store.as_mut().expect("it is well")))
        };
        let refused = |class: &str| RunState::Failed { class: class.into(), message: "m".into() };
        let ago = Duration::from_secs(1000);
        let cases = [
            ("db_write", with(|f| f.db_write = Err("full".into())), true),
            ("disk_free", with(|f| f.disk = Ok(Space { total: 9, used: 8, block: 1 })), false),
            ("pool_mode", store(|s| s.mode = "needs_check".into()), true),
            ("pool_mode", store(|s| s.mode = "out_of_data_space".into()), false),
            ("pool_data_ratio", store(|s| s.data.used = s.data.total), false),
            ("pool_meta_ratio", store(|s| s.metadata.as_mut().unwrap().used = 1 << 30), false),
            ("txid_match", with(|f| f.registry_transaction = Ok(9)), true),
            ("s3_last_ok", with(|f| f.last_fetch = Some((refused("temporary"), ago))), false),
            ("backlog_age", with(|f| f.backlog = Some(ago)), false),
        ];
        for (name, facts, stops) in cases {
            assert_eq!(failed(&facts), [name]);
            assert_eq!(sick(&facts).is_some(), stops, "{name}");
        }
        let other = with(|f| f.last_fetch = Some((refused("refused"), ago)));
        assert_eq!(failed(&other), Vec::<String>::new());
        let gone = with(|f| f.store = Err("no such pool".into()));
        let names = ["pool_mode", "pool_data_ratio", "pool_meta_ratio", "txid_match"];
        assert_eq!(failed(&gone), names);
        assert!(sick(&gone).unwrap().contains("no such pool"));
    }
}
