//! Metrics as Prometheus text (exposition format 0.0.4). [`text`] is pure; what it is made of is
//! gathered in `facts`, and what only a living process knows is counted in `life`.
//!
//! Base units, no label that grows with images or names. Counters come from the registry's own counts,
//! so that they go on when a process ends; those of `life` begin anew with each process.

pub(crate) mod facts;
pub(crate) mod life;
pub(crate) mod text;

use crate::plan::guard::{Fill, Part};
use crate::view::metrics::text::Text;

pub use crate::view::metrics::facts::{Facts, RegistryFacts, RunFacts, StoreFacts};
pub use crate::view::metrics::life::{LIFE, Life, Process, Refusal};
use registry::{DURATION_MS, Severity, seconds};

/// What a pool may be; each is a series of `veneer_pool_mode`, 1 for the one that holds.
pub const MODES: [&str; 6] = ["rw", "ro", "out_of_data_space", "needs_check", "fail", "directory"];

/// The counters that are kept in the registry, with what they mean.
const KEPT: &[(&str, &str)] = &[
    ("runs_total", "Runs that ended, by verb and outcome."),
    ("run_failures_total", "Runs that failed, by class."),
    ("runs_resumed_total", "Runs resumed after their process died."),
    ("retries_total", "Steps tried again, by class of the failure."),
    (
        "layers_total",
        "Layers of ensured images: built, adopted (fetched, and found to be there), reused.",
    ),
    ("layers_removed_total", "Sealed layers taken out of the store."),
    ("fetch_bytes_total", "Bytes of layers that came over the network."),
    (
        "fetch_dedup_bytes_total",
        "Bytes of layers that were not fetched, since their stack was sealed.",
    ),
    ("unpack_bytes_total", "Bytes of files in layers that were sealed."),
    ("unpack_entries_total", "Entries of layers that were sealed."),
    ("blobs_refused_total", "Blobs that were refused and are quarantined."),
    ("gc_freed_bytes_total", "Bytes that collections freed."),
    ("pool_refused_total", "Times that a pool which was too full let no layer be begun."),
    ("pool_paused_total", "Times that a layer waited for room in the pool."),
    ("pool_copies_total", "Copies of the pool's metadata that the daemon has taken."),
    ("pool_grown_total", "Times that the daemon made the pool larger, by data and metadata."),
    ("scans_total", "Scans that ended, by outcome."),
    ("activations_blocked_total", "Activations that the scan policy refused."),
];

/// The whole text.
pub fn text(facts: &Facts) -> String {
    let mut text = Text(String::new());
    text.family("build_info", "gauge", "Always 1; the version is a label.");
    text.sample("build_info", concat!("version=\"", env!("CARGO_PKG_VERSION"), "\""), 1);
    text.family("up", "gauge", "Whether this part of the host could be read: 1 or 0.");
    text.sample("up", "part=\"registry\"", u8::from(facts.registry.is_some()));
    text.sample("up", "part=\"store\"", u8::from(facts.store.is_some()));
    if let Some(registry) = &facts.registry {
        rows(&mut text, registry);
        kept(&mut text, registry);
    }
    if let Some(store) = &facts.store {
        room(&mut text, store);
    }
    if let Some(mismatch) = facts.mismatch() {
        let help = "Transactions that registry and store are apart; more than 1 is no crash.";
        text.gauge("transaction_mismatch", help, mismatch);
    }
    files(&mut text, facts);
    let help = "Whether this wall stands around what unpacks a layer: 1 or 0.";
    text.family("wall_stands", "gauge", help);
    for (wall, stands) in &facts.walls {
        text.sample("wall_stands", &format!("wall=\"{wall}\""), u8::from(*stands));
    }
    if let Some(mode) = &facts.mode {
        text.family("mode", "gauge", "The daemon's mode, 1 for the one that holds.");
        for known in ["normal", "drain", "rescue"] {
            text.sample("mode", &format!("mode=\"{known}\""), u8::from(known == mode));
        }
        facts.life.write(&mut text);
    }
    facts.process.write(&mut text.0);
    text.0
}

fn rows(text: &mut Text, registry: &RegistryFacts) {
    text.family(
        "runs",
        "gauge",
        "Runs that have not ended, by verb and whether a process is at work.",
    );
    for run in &registry.runs {
        for (state, value) in
            [("queued", run.queued), ("running", run.running), ("interrupted", run.interrupted)]
        {
            text.sample("runs", &format!("verb=\"{}\",state=\"{state}\"", run.verb), value);
        }
    }
    text.family("run_oldest_age_seconds", "gauge", "Age of the oldest run that has not ended.");
    for run in &registry.runs {
        let label = format!("verb=\"{}\"", run.verb);
        text.sample("run_oldest_age_seconds", &label, run.oldest_s);
    }
    let help = "Longest time for which a run that has begun said nothing new.";
    text.family("run_oldest_idle_seconds", "gauge", help);
    for run in &registry.runs {
        text.sample("run_oldest_idle_seconds", &format!("verb=\"{}\"", run.verb), run.idle_s);
    }
    text.family("images", "gauge", "Images, by whether they are pinned.");
    text.sample("images", "pinned=\"yes\"", registry.pinned);
    text.sample("images", "pinned=\"no\"", registry.images - registry.pinned);
    text.family("volumes", "gauge", "Layers and the template, by state.");
    for (state, value) in &registry.volumes {
        text.sample("volumes", &format!("state=\"{state}\""), value);
    }
    text.family("activations", "gauge", "Activations, by state.");
    for (state, value) in &registry.activations {
        text.sample("activations", &format!("state=\"{state}\""), value);
    }
    text.gauge(
        "activations_unchecked",
        "Activations that were up when the host went down, and that nobody has checked since.",
        registry.unchecked,
    );
    text.gauge("quarantined_blobs", "Blobs that are not unpacked again.", registry.quarantined);
    text.gauge("garbage_bytes", "Bytes that a collection would free.", registry.garbage_bytes);
    text.family("findings", "gauge", "What scanners found in the images here, by severity.");
    for (severity, value) in Severity::ALL.iter().zip(registry.findings) {
        text.sample("findings", &format!("severity=\"{}\"", severity.word()), value);
    }
    catalog(text, registry);
    text.family("events_total", "counter", "Lines of history that were ever written.");
    text.sample("events_total", "", registry.events);
}

/// Activations that are named; the count is of all.
const NAMED_MAX: usize = 64;

fn catalog(text: &mut Text, registry: &RegistryFacts) {
    let (serial, expires_s) = registry.catalog.unzip();
    let help = "Serial of the signed catalog that is believed; no sample where none is.";
    text.family("catalog_serial", "gauge", help);
    if let Some(serial) = serial {
        text.sample("catalog_serial", "", serial);
    }
    let help =
        "When the signed catalog that is believed expires, seconds since 1970; no sample: never.";
    text.family("catalog_expires_timestamp_seconds", "gauge", help);
    if let Some(at) = expires_s.flatten() {
        text.sample("catalog_expires_timestamp_seconds", "", at);
    }
    let Some(barred) = &registry.barred else { return };
    let help = "Activations that are up and may not be: revoked, or blocked by the scan policy.";
    text.gauge("activations_barred", help, barred.len());
    if barred.is_empty() {
        return;
    }
    let help = "Always 1; the name of an activation that is up and may not be, of the first 64.";
    text.family("activation_barred_info", "gauge", help);
    for name in barred.iter().take(NAMED_MAX) {
        text.sample("activation_barred_info", &format!("name=\"{name}\""), 1);
    }
}

/// What the registry has counted; a count that never was is 0 where it has no label.
fn kept(text: &mut Text, registry: &RegistryFacts) {
    for (name, help) in KEPT {
        text.family(name, "counter", help);
        let mut any = false;
        for counter in registry.counters.iter().filter(|counter| counter.name == *name) {
            text.sample(name, &counter.label, counter.value);
            any = true;
        }
        let labelled =
            ["runs_total", "run_failures_total", "retries_total", "layers_total", "scans_total"]
                .contains(name);
        if !any && !labelled {
            text.sample(name, "", 0);
        }
    }
    let name = "run_duration_seconds";
    text.family(name, "histogram", "Time from asking for a run to its end.");
    let of = |name: &str, label: &str| {
        let found = registry.counters.iter().find(|c| c.name == name && c.label == label);
        found.map_or(0, |counter| counter.value)
    };
    for run in &registry.runs {
        let verb = format!("verb=\"{}\"", run.verb);
        let mut count = 0;
        let bounds = DURATION_MS.into_iter().map(seconds).chain(["+Inf".to_owned()]);
        for le in bounds {
            let label = format!("{verb},le=\"{le}\"");
            count += of("run_duration_seconds_bucket", &label);
            text.sample("run_duration_seconds_bucket", &label, count);
        }
        let sum = of("run_duration_milliseconds", &verb) as f64 / 1000.0;
        text.sample("run_duration_seconds_sum", &verb, sum);
        text.sample("run_duration_seconds_count", &verb, count);
    }
}

fn room(text: &mut Text, store: &StoreFacts) {
    text.family("store_bytes", "gauge", "Room for data: all of it, and what is taken.");
    text.sample("store_bytes", "kind=\"total\"", store.data.total);
    text.sample("store_bytes", "kind=\"used\"", store.data.used);
    if let Some(metadata) = &store.metadata {
        text.family("pool_metadata_bytes", "gauge", "Room for the pool's metadata.");
        text.sample("pool_metadata_bytes", "kind=\"total\"", metadata.total);
        text.sample("pool_metadata_bytes", "kind=\"used\"", metadata.used);
    }
    levels(text, store);
    text.family("pool_mode", "gauge", "The store's mode, 1 for the one that holds.");
    for mode in MODES {
        text.sample("pool_mode", &format!("mode=\"{mode}\""), u8::from(mode == store.mode));
    }
    if let Some(foreign) = store.foreign {
        text.gauge("foreign_volumes", "Ids in the store that no row knows.", foreign);
    }
}

/// How full a pool is by the settings' marks, and what was promised of it.
fn levels(text: &mut Text, store: &StoreFacts) {
    if let Some(metadata) = &store.metadata {
        let help = "What the pool's room asks for: 0 nothing, 1 warn, 2 grow, 3 refuse layers, 4 pause them.";
        text.family("pool_level", "gauge", help);
        for (part, marks, space) in [
            (Part::Data, &store.marks.data, &store.data),
            (Part::Metadata, &store.marks.metadata, metadata),
        ] {
            let level = marks.level(Fill { used: space.used, total: space.total });
            text.sample("pool_level", &format!("what=\"{}\"", part.word()), level.number());
        }
    }
    if let Some(promised) = store.promised {
        text.gauge("promised_bytes", "The sizes of all activations together.", promised);
    }
    if let Some(bound) = store.bound {
        let help = "What they may come to by the setting overcommit.";
        text.gauge("promised_bytes_max", help, bound);
    }
}

fn files(text: &mut Text, facts: &Facts) {
    if let Some(unsettled) = facts.unsettled {
        text.gauge(
            "unsettled",
            "Activations and volumes that are not as the registry says; `orchestrate ls` names them.",
            unsettled,
        );
    }
    text.family(
        "registry_bytes",
        "gauge",
        "Size of the registry: its file, and the log beside it.",
    );
    text.sample("registry_bytes", "file=\"database\"", facts.database_bytes);
    text.sample("registry_bytes", "file=\"log\"", facts.log_bytes);
    text.gauge(
        "spool_bytes",
        "Bytes of layers that are on their way or were left.",
        facts.spool_bytes,
    );
    text.gauge("spools", "Layers that are on their way or were left.", facts.spools);
    if let Some((every, newest)) = facts.copies {
        let help =
            "Seconds between two copies of the pool's metadata, by the setting pool.backup_every.";
        text.gauge("pool_copy_every_seconds", help, every);
        let help =
            "When the newest copy of the pool's metadata was written; 0 where there is none.";
        text.gauge("pool_copy_timestamp_seconds", help, newest);
    }
    if let Some(disk) = &facts.disk {
        text.family("state_disk_bytes", "gauge", "Room of the file system of the state directory.");
        text.sample("state_disk_bytes", "kind=\"total\"", disk.total);
        text.sample("state_disk_bytes", "kind=\"used\"", disk.used);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::guard::{Marks, Thresholds};
    use crate::store::seam::Space;

    pub(crate) fn facts() -> Facts {
        let counter = |name: &str, label: &str, value| registry::Counter {
            name: name.into(),
            label: label.into(),
            value,
        };
        let space = |total, used| Space { total, used, block: 1 };
        let run = RunFacts {
            verb: "ensure",
            running: 1,
            oldest_s: 70,
            idle_s: 60,
            ..RunFacts::default()
        };
        Facts {
            registry: Some(RegistryFacts {
                runs: vec![run, RunFacts { verb: "gc", ..RunFacts::default() }],
                images: 3,
                pinned: 1,
                volumes: vec![("building", 0), ("sealed", 9), ("deleting", 0)],
                activations: vec![("active", 2)],
                counters: vec![
                    counter("runs_total", "verb=\"ensure\",outcome=\"done\"", 4),
                    counter("fetch_bytes_total", "", 1000),
                    counter("run_duration_seconds_bucket", "verb=\"ensure\",le=\"1\"", 3),
                    counter("run_duration_seconds_bucket", "verb=\"ensure\",le=\"+Inf\"", 1),
                    counter("run_duration_milliseconds", "verb=\"ensure\"", 2500),
                ],
                transaction: 12,
                catalog: Some((7, Some(1_798_761_600))),
                barred: Some(vec!["web-1".into()]),
                ..RegistryFacts::default()
            }),
            unsettled: Some(2),
            copies: Some((3600, 1_700_000_000)),
            store: Some(StoreFacts {
                mode: "rw".into(),
                data: space(1 << 31, 1 << 30),
                metadata: Some(space(4 << 20, 1 << 20)),
                transaction: Some(11),
                foreign: Some(0),
                marks: Thresholds {
                    data: Marks { warn: 40, grow: 50, refuse: 95, pause: 97 },
                    metadata: Marks { warn: 70, grow: 75, refuse: 90, pause: 93 },
                    pause_time: std::time::Duration::ZERO,
                },
                promised: Some(9 << 30),
                bound: Some(10 << 30),
            }),
            database_bytes: 4096,
            log_bytes: 0,
            spool_bytes: 0,
            spools: 0,
            disk: Some(space(100, 50)),
            mode: Some("drain".into()),
            walls: vec![("mount", true), ("landlock", false)],
            life: &LIFE,
            process: Process::default(),
        }
    }

    fn value(text: &str, series: &str) -> Option<f64> {
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map(|value| value.parse().unwrap())
    }

    #[test]
    fn every_fact_has_its_series() {
        let text = text(&facts());
        for (series, expected) in [
            ("veneer_up{part=\"store\"}", 1.0),
            ("veneer_runs{verb=\"ensure\",state=\"running\"}", 1.0),
            ("veneer_run_oldest_idle_seconds{verb=\"ensure\"}", 60.0),
            ("veneer_runs_total{verb=\"ensure\",outcome=\"done\"}", 4.0),
            ("veneer_fetch_bytes_total", 1000.0),
            ("veneer_gc_freed_bytes_total", 0.0),
            ("veneer_run_duration_seconds_bucket{verb=\"ensure\",le=\"0.05\"}", 0.0),
            ("veneer_run_duration_seconds_bucket{verb=\"ensure\",le=\"1200\"}", 3.0),
            ("veneer_run_duration_seconds_bucket{verb=\"ensure\",le=\"+Inf\"}", 4.0),
            ("veneer_run_duration_seconds_count{verb=\"ensure\"}", 4.0),
            ("veneer_run_duration_seconds_sum{verb=\"ensure\"}", 2.5),
            ("veneer_images{pinned=\"no\"}", 2.0),
            ("veneer_store_bytes{kind=\"used\"}", 1073741824.0),
            ("veneer_pool_level{what=\"data\"}", 2.0),
            ("veneer_pool_level{what=\"metadata\"}", 0.0),
            ("veneer_pool_copy_every_seconds", 3600.0),
            ("veneer_pool_copy_timestamp_seconds", 1_700_000_000.0),
            ("veneer_promised_bytes", 9_663_676_416.0),
            ("veneer_promised_bytes_max", 10_737_418_240.0),
            ("veneer_pool_mode{mode=\"rw\"}", 1.0),
            ("veneer_pool_mode{mode=\"fail\"}", 0.0),
            ("veneer_transaction_mismatch", 1.0),
            ("veneer_catalog_serial", 7.0),
            ("veneer_catalog_expires_timestamp_seconds", 1_798_761_600.0),
            ("veneer_activations_barred", 1.0),
            ("veneer_activation_barred_info{name=\"web-1\"}", 1.0),
            ("veneer_mode{mode=\"drain\"}", 1.0),
        ] {
            assert_eq!(value(&text, series), Some(expected), "{series} in {text}");
        }
    }

    #[test]
    fn a_sick_host_says_which_part_is_down_and_no_series_is_there_twice() {
        let sick = Facts { registry: None, store: None, mode: None, ..facts() };
        let said = text(&sick);
        assert_eq!(value(&said, "veneer_up{part=\"registry\"}"), Some(0.0));
        assert!(!said.contains("veneer_store_bytes") && !said.contains("veneer_http"), "{said}");
        let said = text(&facts());
        let mut seen = std::collections::HashSet::new();
        for line in said.lines() {
            let series = line.rsplit_once(' ').map_or(line, |(series, _)| series);
            assert!(line.starts_with("# HELP") || seen.insert(series), "{series} twice");
        }
        assert!(seen.iter().filter(|name| name.starts_with("# TYPE veneer_")).count() >= 30);
    }
}
