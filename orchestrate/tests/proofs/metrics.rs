//! Metrics: the counts are those of what was done, also by processes that are gone, and promtool finds
//! nothing to say against text, rules and alerts.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::bench::{Bench, Host};

fn metrics(host: &Host<'_>) -> String {
    let output = host.command(&["metrics"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn value(text: &str, series: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {series} in {text}")).parse().unwrap()
}

fn promtool() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = PathBuf::from(std::env::var_os("HOME").expect("HOME is set"));
    let path = cache.unwrap_or_else(|| home.join(".cache")).join("veneer/prometheus/promtool");
    assert!(path.exists(), "no promtool at {}: run ./bootstrap", path.display());
    path
}

#[test]
fn the_counts_are_those_of_what_was_done() {
    let bench = Bench::small();
    let host = bench.host("host");
    host.ok(&["ensure", "s3://bucket/a/"]);
    let ensured = host.ok(&["ensure", "s3://bucket/b/"]);
    let failed = host.command(&["ensure", "s3://bucket/none/"]).output().unwrap();
    assert!(!failed.status.success());
    host.ok(&["pin", "s3://bucket/a/"]);
    host.ok(&["rm", "s3://bucket/b/"]);
    let text = metrics(&host);
    let is = |series: &str, expected: f64| assert_eq!(value(&text, series), expected, "{series}");
    is("veneer_up{part=\"registry\"}", 1.0);
    is("veneer_runs_total{verb=\"ensure\",outcome=\"done\"}", 2.0);
    is("veneer_runs_total{verb=\"rm\",outcome=\"done\"}", 1.0);
    is("veneer_run_failures_total{class=\"not_found\"}", 1.0);
    is("veneer_run_duration_seconds_count{verb=\"ensure\"}", 3.0);
    is("veneer_layers_total{how=\"built\"}", 4.0);
    is("veneer_layers_total{how=\"reused\"}", 2.0);
    is("veneer_layers_removed_total", 1.0);
    is("veneer_images{pinned=\"yes\"}", 1.0);
    is("veneer_images{pinned=\"no\"}", 0.0);
    is("veneer_transaction_mismatch", 0.0);
    // Six layers of one size; two of them were there.
    let layer = ensured["layers"][0]["bytes"].as_f64().unwrap();
    let fetched = value(&text, "veneer_fetch_bytes_total");
    let dedup = value(&text, "veneer_fetch_dedup_bytes_total");
    assert!((fetched / layer - 4.0).abs() < 0.7 && (dedup / layer - 2.0).abs() < 0.7, "{text}");
    assert!(value(&text, "veneer_unpack_entries_total") >= 16.0);
}

#[test]
fn promtool_finds_nothing_wrong() {
    let bench = Bench::small();
    let host = bench.host("host");
    host.ok(&["ensure", "s3://bucket/a/"]);
    let mut check = Command::new(promtool())
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    check.stdin.take().unwrap().write_all(metrics(&host).as_bytes()).unwrap();
    let checked = check.wait_with_output().unwrap();
    assert!(checked.status.success() && checked.stderr.is_empty(), "{checked:?}");
    let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/prometheus");
    for words in [["check", "rules", "veneer.rules.yml"], ["test", "rules", "veneer.test.yml"]] {
        let done = Command::new(promtool()).args(words).current_dir(&rules).output().unwrap();
        assert!(done.status.success(), "{words:?}: {}", String::from_utf8_lossy(&done.stdout));
    }
}

/// Every series that an alert or the dashboard asks for is one that there is.
#[test]
fn alerts_and_dashboard_ask_for_series_that_exist() {
    let bench = Bench::small();
    let host = bench.host("host");
    host.ok(&["ensure", "s3://bucket/a/"]);
    let text = metrics(&host);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging");
    // A directory store has no such room, and only a daemon has a mode or is in a fleet (its series: serve/fleet.rs).
    let elsewhere = [
        "veneer_pool_metadata_bytes",
        "veneer_pool_level",
        "veneer_pool_copy_every_seconds",
        "veneer_pool_copy_timestamp_seconds",
        "veneer_mode",
        "veneer_http_requests_total",
        "veneer_fleet_serial",
        "veneer_fleet_images",
        "veneer_fleet_age_seconds",
        "veneer_fleet_refused_total",
    ];
    for file in ["prometheus/veneer.rules.yml", "grafana/veneer.json"] {
        let asks = std::fs::read_to_string(folder.join(file)).unwrap();
        let words = asks.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        let names = words.filter(|word| word.starts_with("veneer_"));
        for name in names.filter(|name| !elsewhere.contains(name)) {
            let family = name.strip_suffix("_bucket").unwrap_or(name);
            assert!(text.contains(&format!("# TYPE {family} ")), "{file} asks for {name}");
        }
    }
    let board = std::fs::read_to_string(folder.join("grafana/veneer.json")).unwrap();
    let board: serde_json::Value = serde_json::from_str(&board).expect("JSON");
    assert!(board["panels"].as_array().is_some_and(|panels| panels.len() >= 8));
}
