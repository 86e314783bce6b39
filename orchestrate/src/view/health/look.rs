//! Gathers what is judged, each part by itself, so that a broken one leaves the others to tell.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use registry::{Registry, RunId, RunState, Verb};

use crate::error::Error;
use crate::error::leaves::whole;
use crate::host::settings::Settings;
use crate::host::{open_store, survey, walls};
use crate::plan::condemned::Standing;
use crate::process::lock::Locks;
use crate::process::{full, place, reserve};
use crate::store::seam::{Condition, Space, Store, StoreName};
use crate::verbs::catalog::bounds::now_s;
use crate::verbs::judge::{self, Judge};
use crate::verbs::unsettled::{self, Unsettled};
use crate::view::health::judge::{CatalogAge, Facts, LastFetch, Readiness};
use crate::view::health::room::growth;

/// What is found now. With `commit` a commit is made, so that it is known whether that works, and rows are
/// compared with devices; without, it costs little and is enough for [`sick`]. Makes neither a registry
/// nor a store.
pub fn look(settings: &Settings, commit: bool) -> Facts {
    let mut registry = open_registry(settings);
    let db_write = match &mut registry {
        Ok(registry) if commit => {
            registry.touch().map_err(|error| whole(&full::told(error.into(), &settings.places())))
        }
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
        Ok(registry) if commit => (last_fetch(registry), backlog(registry)),
        Ok(_) | Err(_) => (None, None),
    };
    let (unsettled, unchecked) = match &registry {
        Ok(_) if !commit => (Ok(Vec::new()), Vec::new()),
        Ok(registry) => (found_unsettled(settings, registry), unchecked_names(registry)),
        Err(why) => (Err(why.clone()), Vec::new()),
    };
    let barred = match &registry {
        Ok(_) if !commit => Ok(Vec::new()),
        Ok(registry) => found_barred(settings, registry),
        Err(why) => Err(why.clone()),
    };
    let catalog = match &registry {
        Ok(registry) => catalog(settings, registry).map_err(|error| whole(&error)),
        Err(why) => Err(why.clone()),
    };
    let disk = disk(&settings.state);
    let store_disk = store_disk(settings);
    let standing = match &registry {
        Ok(_) if !commit => Ok(Standing::default()),
        Ok(registry) => standing(registry).map_err(|error| whole(&error)),
        Err(why) => Err(why.clone()),
    };
    // It takes a process, once.
    let walls = if commit { walls::judged(settings) } else { Ok(String::new()) };
    let growth = growth(settings.growing.as_ref(), store.as_ref().ok());
    Facts {
        growth,
        marks: settings.pool,
        db_write,
        disk,
        store,
        store_disk,
        registry_transaction,
        last_fetch,
        backlog,
        unsettled,
        unchecked,
        standing,
        barred,
        catalog,
        walls,
        log: super::log::look(&settings.state.join("registry.db")),
    }
}

fn standing(registry: &Registry) -> Result<Standing, registry::Error> {
    let (volumes, images) = (registry.volumes()?, registry.images()?);
    Ok(crate::plan::condemned::standing(&volumes, &images, &registry.activations()?))
}

fn open_registry(settings: &Settings) -> Result<Registry, String> {
    let path = settings.state.join("registry.db");
    let told = |error: registry::Error| whole(&full::told(error.into(), &settings.places()));
    let opened = || match Registry::open_there(&path) {
        // It is there to be looked at all the same.
        Err(error) if reserve::lacks(&settings.state).is_some() => {
            Registry::open_as_it_stands(&path).map_err(|_| error)
        }
        opened => opened,
    };
    let registry = match survey::has_bytes(&path) {
        true => Some(opened().map_err(told)?),
        false => None,
    };
    let bound = match &registry {
        Some(registry) => registry.store().map_err(told)?.is_some(),
        None => false,
    };
    let objection = if bound { None } else { survey::objection(settings) };
    match (objection, registry) {
        (Some(why), _) => Err(whole(&why)),
        (None, Some(registry)) => Ok(registry),
        (None, None) => {
            Err(place::in_the_way(&settings.state, place::STATE).unwrap_or_else(|| {
                format!(
                    "there is no registry {} yet: `orchestrate serve` or any run makes one",
                    path.display()
                )
            }))
        }
    }
}

fn there(settings: &Settings) -> Result<Box<dyn Store>, String> {
    if let StoreName::Dir(path) = &settings.store
        && !path.exists()
    {
        return Err(place::in_the_way(path, place::STORE).unwrap_or_else(|| {
            format!("there is no store {} yet: any run makes one", path.display())
        }));
    }
    open_store(&mut settings.clone()).map_err(|error| whole(&error))
}

fn condition(settings: &Settings) -> Result<Condition, String> {
    there(settings)?.condition().map_err(|error| whole(&error))
}

fn found_unsettled(settings: &Settings, registry: &Registry) -> Result<Vec<Unsettled>, String> {
    let store = there(settings)?;
    let locks = Locks::new(&settings.state, Duration::ZERO, settings.cancel.clone());
    locks
        .and_then(|locks| {
            let judge = Judge { trust: &settings.trust, scan: &settings.scan };
            let mut found = unsettled::look(registry, store.as_ref(), &locks, judge)?;
            found.extend(unsettled::gone(registry, store.as_ref(), &found)?);
            Ok(found)
        })
        .map_err(|error| whole(&error))
}

fn found_barred(settings: &Settings, registry: &Registry) -> Result<Vec<(String, String)>, String> {
    let store = there(settings)?;
    let judge = Judge { trust: &settings.trust, scan: &settings.scan };
    judge::running(registry, store.as_ref(), judge).map_err(|error| whole(&error))
}

fn catalog(settings: &Settings, registry: &Registry) -> Result<CatalogAge, registry::Error> {
    let Some(url) = &settings.trust.url else { return Ok(CatalogAge::default()) };
    let known = registry.catalog(url)?;
    Ok(CatalogAge {
        trusted: true,
        serial: known.as_ref().map(|known| known.serial),
        expires_s: known.and_then(|known| known.expires_s),
        grace_s: settings.trust.grace_s,
        now_s: now_s(),
    })
}

fn unchecked_names(registry: &Registry) -> Vec<String> {
    let rows = registry.activations().unwrap_or_default();
    rows.into_iter().filter(|row| row.unchecked).map(|row| row.name).collect()
}

/// The readiness of a host without a daemon.
pub fn readiness(settings: &Settings) -> Readiness {
    let checks = crate::view::health::judge(&look(settings, true));
    Readiness { ready: checks.iter().all(|check| check.ok), mode: None, why: None, checks }
}

fn last_fetch(registry: &Registry) -> Option<LastFetch> {
    let run = registry.last_ended([Verb::Ensure, Verb::Activate]).ok()??;
    let (failed_by, age) = (run.failed_by(), since(run.finished_ms?));
    Some(LastFetch { state: run.state, failed_by, age })
}

fn backlog(registry: &Registry) -> Option<Duration> {
    let oldest = registry.runs_after(Some(RunState::Queued.word()), RunId::default(), 1).ok()?;
    oldest.first().map(|run| since(run.created_ms))
}

/// Of a wall clock that may have been set back.
fn since(ms: i64) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(Duration::from_millis(u64::try_from(ms).unwrap_or(0)))
}

/// The file system of a store in a directory, which no pool tells of.
fn store_disk(settings: &Settings) -> Result<(), String> {
    let StoreName::Dir(path) = &settings.store else { return Ok(()) };
    match reserve::lacks(path) {
        None => Ok(()),
        Some(what) => Err(format!(
            "the store is full: the file system of {} has hardly any {what} left; `orchestrate gc` and `orchestrate \
             rm` make room in it",
            path.display()
        )),
    }
}

fn disk(state: &Path) -> Result<Space, String> {
    let found = nix::sys::statvfs::statvfs(state).map_err(|errno| {
        let source = errno.into();
        whole(&Error::Io { doing: "measure", path: state.into(), source })
    })?;
    if let Some(what) = reserve::lacks(state) {
        return Err(format!("the state directory is full: it has hardly any {what} left"));
    }
    let block = found.fragment_size();
    let total = found.blocks() * block;
    Ok(Space { total, used: total.saturating_sub(found.blocks_available() * block), block })
}
