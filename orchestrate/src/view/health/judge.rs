//! Whether this host can do its work, as a list of checks with reasons. [`judge`] is pure; what it
//! judges is gathered by [`look`].

use std::time::Duration;

use registry::RunState;
use serde::{Deserialize, Serialize};

use crate::error::class::Class;
use crate::plan::class::S3;
use crate::plan::condemned::Standing;
use crate::plan::guard::{Part, Thresholds};
use crate::plan::{self, Fence, epoch};
use crate::store::seam::{Condition, Space};
use crate::verbs::catalog;
use crate::verbs::unsettled::Unsettled;
use crate::view::health::room::{mode, ratio, room};

/// How long the oldest run may wait for its turn.
const BACKLOG_MAX: Duration = Duration::from_secs(900);

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// `db_write`, `disk_free`, `pool_mode`, `pool_data_ratio`, `pool_meta_ratio`, `txid_match`,
    /// `s3_last_ok`, `backlog_age`, `settled`, `checked`, `sound`, `pool_growth`, `catalog`, `permitted`,
    /// `walls`, `registry_log`.
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
    /// At which marks of the store what is done.
    pub marks: Thresholds,
    /// Whether the file system of a store in a directory has room.
    pub store_disk: Result<(), String>,
    /// The registry's transaction id, of one moment with the store's.
    pub registry_transaction: Result<u64, String>,
    /// The last run that had to ask S3.
    pub last_fetch: Option<LastFetch>,
    /// How long the oldest queued run has been waiting.
    pub backlog: Option<Duration>,
    /// What is not as its row says.
    pub unsettled: Result<Vec<Unsettled>, String>,
    /// Activations that were up when the host went down, and that nobody has checked since.
    pub unchecked: Vec<String>,
    /// How far the pool grows by itself, or what is in the way.
    pub growth: Result<String, String>,
    /// What stands on volumes that are not as they were sealed.
    pub standing: Result<Standing, String>,
    /// Activations that run and may not, by name, with the reason.
    pub barred: Result<Vec<(String, String)>, String>,
    /// The signed catalog.
    pub catalog: Result<CatalogAge, String>,
    /// The walls that layers are unpacked behind, or why none can be.
    pub walls: Result<String, String>,
    /// How long the registry's log is, or who keeps it growing.
    pub log: Result<String, String>,
}

/// Until when the signed catalog does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CatalogAge {
    /// Whether one is trusted at all.
    pub trusted: bool,
    /// Its serial; none: none was believed yet.
    pub serial: Option<u64>,
    /// Seconds since 1970 after which it is too old; none: never.
    pub expires_s: Option<i64>,
    /// Seconds for which it still does after that.
    pub grace_s: u64,
    /// The host's clock.
    pub now_s: i64,
}

/// The last run that had to ask S3.
#[derive(Clone, Debug)]
pub struct LastFetch {
    /// How it ended.
    pub state: RunState,
    /// What it failed by; none where that was not kept.
    pub failed_by: Option<String>,
    /// How long ago.
    pub age: Duration,
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
    let data = facts.store.clone();
    let data = data.and_then(|store| {
        ratio(&store.data, Part::Data, &facts.marks.data, store.metadata.is_some())
    });
    // No reason to begin no work: what makes room works in a full store.
    check("pool_data_ratio", facts.store_disk.clone().and(data), now);
    let metadata = facts.store.clone().and_then(|store| match &store.metadata {
        Some(space) => ratio(space, Part::Metadata, &facts.marks.metadata, true),
        None => Ok("the store keeps no metadata of its own".into()),
    });
    check("pool_meta_ratio", metadata, now);
    check("txid_match", fence(facts), now);
    let (found, age) = match &facts.last_fetch {
        None => (Ok("nothing was asked of it yet".into()), now),
        Some(last) => (fetched(last), last.age),
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
    check("settled", facts.unsettled.clone().and_then(|found| settled(&found)), now);
    check("checked", Ok(unchecked(&facts.unchecked)), now);
    let sound = facts.standing.clone().and_then(|standing| match standing.advice() {
        Some(advice) => Err(advice),
        None => Ok("nothing stands on a condemned volume".into()),
    });
    check("sound", sound, now);
    check("pool_growth", facts.growth.clone(), now);
    check("catalog", facts.catalog.clone().and_then(|catalog| catalog_age(&catalog)), now);
    check("permitted", facts.barred.clone().and_then(|barred| permitted(&barred)), now);
    check("walls", facts.walls.clone(), now);
    check("registry_log", facts.log.clone(), now);
    checks
}

/// Whether anything new can be made or activated by the catalog.
fn catalog_age(found: &CatalogAge) -> Result<String, String> {
    let serial = match (found.trusted, found.serial) {
        (false, _) => return Ok("no key is trusted, so no catalog is asked for".into()),
        (true, None) => return Ok("none was believed yet".into()),
        (true, Some(serial)) => serial,
    };
    let Some(at) = found.expires_s else {
        return Ok(format!("serial {serial}, which never expires"));
    };
    let when = catalog::moment(at);
    if catalog::expired(Some(at), found.grace_s, found.now_s) {
        return Err(format!(
            "serial {serial} has expired at {when}: nothing new is made or activated; sign a newer one, and \
             `orchestrate catalog` tells whether the server gives it"
        ));
    }
    match catalog::expired(Some(at), 0, found.now_s) {
        true => {
            let end = catalog::moment(at.saturating_add_unsigned(found.grace_s));
            Ok(format!(
                "serial {serial} has expired at {when}, and still does until {end}: sign a newer one"
            ))
        }
        false => Ok(format!("serial {serial}, which expires at {when}")),
    }
}

/// Whether all that runs may.
fn permitted(barred: &[(String, String)]) -> Result<String, String> {
    if barred.is_empty() {
        return Ok("nothing runs that may not".into());
    }
    let told = |(name, why): &(String, String)| format!("activation {name} runs: {why}");
    let mut told: Vec<String> = barred.iter().take(NAMED_MAX).map(told).collect();
    if barred.len() > NAMED_MAX {
        told.push(format!("and {} more: `orchestrate ls`", barred.len() - NAMED_MAX));
    }
    Err(told.join("; "))
}

/// Names of one answer.
const NAMED_MAX: usize = 8;

fn settled(found: &[Unsettled]) -> Result<String, String> {
    let told = |found: &&Unsettled| format!("{}: {}", found.subject, found.why);
    let (trouble, notes): (Vec<_>, Vec<_>) = found.iter().partition(|f| f.kind.is_trouble());
    let list = |of: &[&Unsettled]| {
        let mut told: Vec<String> = of.iter().take(NAMED_MAX).map(told).collect();
        if of.len() > NAMED_MAX {
            told.push(format!("and {} more: `orchestrate ls`", of.len() - NAMED_MAX));
        }
        told.join("; ")
    };
    match (trouble.as_slice(), notes.as_slice()) {
        ([], []) => Ok("everything is as its row says".into()),
        ([], notes) => Ok(list(notes)),
        (trouble, _) => Err(list(trouble)),
    }
}

/// No reason to give the host no work: such an activation works as before, and its owner is to look.
fn unchecked(names: &[String]) -> String {
    if names.is_empty() {
        return "no activation was up when the host went down and is unchecked since".into();
    }
    let shown = names.iter().take(NAMED_MAX).map(String::as_str).collect::<Vec<_>>().join(", ");
    format!(
        "{} activations were up when the host went down, {shown}: check their file systems, then \
         `orchestrate checked NAME`",
        names.len()
    )
}

fn fence(facts: &Facts) -> Result<String, String> {
    let registry = facts.registry_transaction.clone()?;
    let store = facts.store.clone()?.transaction_id.ok_or("the store cannot tell its number")?;
    match plan::fence(registry, store) {
        Fence::Agree => Ok(format!("both at {registry}")),
        Fence::InFlight => Ok(format!("{registry} and {store}: one commit is in flight")),
        Fence::Apart => Err(epoch::apart(registry, store).to_string()),
    }
}

/// A failure that says something of the server, or of the way to it.
fn fetched(last: &LastFetch) -> Result<String, String> {
    let RunState::Failed { class, message } = &last.state else {
        return Ok("the last run that asked S3 got what it wanted".into());
    };
    // A class alone may be the pool's, or another process's.
    if let Some(by) = last.failed_by.as_deref().filter(|by| *by != S3) {
        return Ok(format!("the last run failed by the {by}, and not by S3 ({class}): {message}"));
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::settings::Growing;
    use crate::plan::guard::Marks;
    use crate::verbs::unsettled::Kind;

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
            marks: Thresholds {
                data: Marks { warn: 80, grow: 85, refuse: 95, pause: 97 },
                metadata: Marks { warn: 70, grow: 75, refuse: 90, pause: 93 },
                pause_time: Duration::ZERO,
            },
            store_disk: Ok(()),
            registry_transaction: Ok(8),
            last_fetch: None,
            backlog: None,
            unsettled: Ok(Vec::new()),
            unchecked: Vec::new(),
            standing: Ok(Standing::default()),
            growth: Ok("it may".into()),
            barred: Ok(Vec::new()),
            walls: Ok("walls: all".into()),
            log: Ok("short".into()),
            catalog: Ok(CatalogAge::default()),
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
    fn a_well_host_passes_all() {
        assert_eq!(judge(&well()).len(), 16);
        assert_eq!(failed(&well()), Vec::<String>::new());
        assert_eq!(sick(&well()), None);
    }

    fn found(kind: Kind) -> Unsettled {
        Unsettled { subject: "activation b2".into(), kind, why: "open".into(), class: None }
    }

    #[test]
    fn a_look_a_wish_and_an_unchecked_file_system_are_told_and_stop_nothing() {
        let facts = with(|f| {
            f.unsettled = Ok(vec![found(Kind::LookedAt), found(Kind::Wished)]);
            f.unchecked = vec!["b2".into()];
        });
        assert_eq!(failed(&facts), Vec::<String>::new());
        let said =
            |name: &str| judge(&facts).into_iter().find(|check| check.name == name).unwrap().reason;
        assert!(said("settled").contains("activation b2: open"), "{}", said("settled"));
        assert!(said("checked").contains("orchestrate checked"), "{}", said("checked"));
    }

    #[test]
    fn a_pool_that_fills_and_may_not_grow_is_told_of() {
        let growth =
            |data_to, metadata_to| Growing { dir: "/p".into(), data_to, data_by: 1, metadata_to };
        let mut store = well().store.unwrap();
        let told = |growing: Option<&Growing>, store: &Condition| {
            crate::view::health::room::growth(growing, Some(store))
        };
        assert!(told(None, &store).is_ok());
        // Half full: a bound below what it has is no matter yet.
        assert!(told(Some(&growth(1, Some(1))), &store).is_ok());
        store.data.used = store.data.total / 10 * 9 + 10;
        let why = told(Some(&growth(1 << 30, None)), &store).unwrap_err();
        assert!(why.contains("its data is filling") && why.contains("serve.grow_to"), "{why}");
        assert!(told(Some(&growth(2 << 30, None)), &store).is_ok());
        store.metadata.as_mut().unwrap().used = 1 << 30;
        assert!(told(Some(&growth(2 << 30, None)), &store).is_ok());
        let why = told(Some(&growth(2 << 30, Some(1 << 30))), &store).unwrap_err();
        assert!(why.contains("its metadata is filling"), "{why}");
        assert!(crate::view::health::room::growth(Some(&growth(1, None)), None).is_ok());
    }

    #[test]
    fn each_check_fails_by_its_own_fact_and_only_some_stop_work() {
        let store = |change: fn(&mut Condition)| {
            with(|facts| change(facts.store.as_mut().expect("it is well")))
        };
        let ago = Duration::from_secs(1000);
        let last = |class: &str, by: Option<&str>| {
            let state = RunState::Failed { class: class.into(), message: "m".into() };
            Some(LastFetch { state, failed_by: by.map(str::to_owned), age: ago })
        };
        let standing = Standing { activations: vec!["a-1".into()], ..Standing::default() };
        let catalog = |expires_s, grace_s, now_s| CatalogAge {
            trusted: true,
            serial: Some(7),
            expires_s: Some(expires_s),
            grace_s,
            now_s,
        };
        let cases = [
            ("db_write", with(|f| f.db_write = Err("full".into())), true),
            ("disk_free", with(|f| f.disk = Ok(Space { total: 9, used: 8, block: 1 })), false),
            ("pool_mode", store(|s| s.mode = "needs_check".into()), true),
            ("pool_mode", store(|s| s.mode = "out_of_data_space".into()), false),
            ("pool_data_ratio", with(|f| f.store_disk = Err("full".into())), false),
            ("pool_data_ratio", store(|s| s.data.used = s.data.total), false),
            ("pool_meta_ratio", store(|s| s.metadata.as_mut().unwrap().used = 1 << 30), false),
            ("txid_match", with(|f| f.registry_transaction = Ok(9)), true),
            ("s3_last_ok", with(|f| f.last_fetch = last("temporary", Some(S3))), false),
            ("backlog_age", with(|f| f.backlog = Some(ago)), false),
            ("settled", with(|f| f.unsettled = Ok(vec![found(Kind::Stuck)])), false),
            ("settled", with(|f| f.unsettled = Ok(vec![found(Kind::Pending)])), false),
            ("settled", with(|f| f.unsettled = Err("no store".into())), false),
            ("sound", with(|f| f.standing = Ok(standing)), false),
            ("pool_growth", with(|f| f.growth = Err("no room".into())), false),
            ("catalog", with(|f| f.catalog = Ok(catalog(100, 10, 111))), false),
            ("registry_log", with(|f| f.log = Err("a shell".into())), false),
            ("permitted", with(|f| f.barred = Ok(vec![("x".into(), "revoked".into())])), false),
        ];
        for (name, facts, stops) in cases {
            assert_eq!(failed(&facts), [name]);
            assert_eq!(sick(&facts).is_some(), stops, "{name}");
        }
        let in_grace = with(|f| f.catalog = Ok(catalog(100, 10, 105)));
        assert_eq!(failed(&in_grace), Vec::<String>::new());
        let said = judge(&in_grace).into_iter().find(|check| check.name == "catalog").unwrap();
        assert!(said.reason.contains("still does until"), "{}", said.reason);
        // Without a word on who failed, the class has to do.
        let old = with(|f| f.last_fetch = last("temporary", None));
        assert_eq!(failed(&old), ["s3_last_ok"]);
        let pool = with(|f| f.last_fetch = last("temporary", Some("pool")));
        assert_eq!(failed(&pool), Vec::<String>::new());
        let other = with(|f| f.last_fetch = last("refused", Some(S3)));
        assert_eq!(failed(&other), Vec::<String>::new());
        let gone = with(|f| f.store = Err("no such pool".into()));
        let names = ["pool_mode", "pool_data_ratio", "pool_meta_ratio", "txid_match"];
        assert_eq!(failed(&gone), names);
        assert!(sick(&gone).unwrap().contains("no such pool"));
    }
}
