//! The scan hook against scanners that are shell scripts: what a good one finds decides, and a bad one is
//! bounded and leaves nothing behind.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Output;

use serde_json::Value;

use crate::bench::{Bench, Host};

const IMAGE: &str = "s3://bucket/a/";
const ACTIVATE: &[&str] = &["activate", IMAGE, "--name", "one"];

/// A scanner of these shell lines, at a path without blanks.
fn scanner(bench: &Bench, text: &str) -> PathBuf {
    let path = bench.path("scanner");
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn run(host: &Host<'_>, settings: &[(&str, &str)], words: &[&str]) -> Output {
    let mut command = host.command(words);
    command.env("VENEER_SCAN_COMMAND", format!("{} {{}}", host.bench().path("scanner").display()));
    command.envs(settings.iter().copied()).output().unwrap()
}

fn report(name: &str) -> String {
    format!("cat {}/tests/reports/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
}

/// Processes whose command line has this word.
fn processes(word: &str) -> usize {
    let all = fs::read_dir("/proc").unwrap().flatten();
    let lines = all.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    lines.filter(|line| String::from_utf8_lossy(line).contains(word)).count()
}

#[test]
fn what_is_found_is_kept_and_decides_what_is_activated() {
    let bench = Bench::small();
    let host = bench.host("host");
    scanner(&bench, &report("trivy.json"));
    let required = ("VENEER_SCAN_POLICY", "required");
    let refused = run(&host, &[required], ACTIVATE);
    assert_eq!(refused.status.code(), Some(100), "{refused:?}");
    let said = String::from_utf8_lossy(&refused.stderr);
    for word in ["2 critical", "CVE-2024-0001", "orchestrate scan --show s3://bucket/a/"] {
        assert!(said.contains(word), "{word} in {said}");
    }
    assert!(host.ok(&["ls"])["activations"].as_array().unwrap().is_empty());
    // What is kept is asked, and not scanned again.
    let shown = run(&host, &[], &["scan", "--show", IMAGE]);
    assert_eq!(shown.status.code(), Some(1), "the policy's severities are among it");
    assert_eq!(json(&shown)["counts"]["critical"], 2);
    assert_eq!(json(&shown)["findings"][0]["id"], "CVE-2024-0001");
    scanner(&bench, "exit 7");
    assert_eq!(run(&host, &[required], ACTIVATE).status.code(), Some(100));
    // Other severities, another verdict; a policy that only tells lets it through.
    let only_told = run(&host, &[("VENEER_SCAN_POLICY", "report")], ACTIVATE);
    assert!(only_told.status.success(), "{only_told:?}");
    assert!(String::from_utf8_lossy(&only_told.stderr).contains("2 critical"));
    let unknown = ("VENEER_SCAN_BLOCK", "medium");
    let second = ["activate", IMAGE, "--name", "two"];
    assert!(run(&host, &[required, unknown], &second).status.success());
    // Scanned again on demand, and by the other format.
    scanner(&bench, &report("other.sarif"));
    assert_eq!(json(&run(&host, &[], &["scan", IMAGE]))["format"], "sarif");
    scanner(&bench, "echo '{\"SchemaVersion\": 2, \"Results\": []}'");
    assert!(run(&host, &[], &["scan", IMAGE]).status.success());
    assert!(run(&host, &[required], &["activate", IMAGE, "--name", "three"]).status.success());
    host.check();
}

#[test]
fn the_scanner_sees_the_tree_and_cannot_change_it() {
    let bench = Bench::small();
    let host = bench.host("host");
    host.ok(&["ensure", IMAGE]);
    let before = host.state_text();
    let seen = host.state().join("scan-cache/seen");
    scanner(
        &bench,
        "{ ls $1/srv; echo in; cat; echo pid $$; env; ulimit -c
           touch $1/new && echo WRITTEN; echo x > $1/srv/layer-3/0 && echo WRITTEN; } > $XDG_CACHE_HOME/seen 2>&1
         echo '{\"SchemaVersion\": 2, \"Results\": []}'",
    );
    let done = run(&host, &[("VENEER_SECRET_OF_OURS", "hunter2")], &["scan", IMAGE]);
    assert!(done.status.success(), "{done:?}");
    let seen = fs::read_to_string(seen).unwrap();
    for word in ["layer-1", "layer-3", "in\npid 1\n", "\n0\n", "LANG=C.UTF-8"] {
        assert!(seen.contains(word), "{word:?} in {seen}");
    }
    for word in ["hunter2", "VENEER_", "AWS_"] {
        assert!(!seen.contains(word), "{word} in {seen}");
    }
    assert!(!seen.contains("WRITTEN"), "{seen}");
    let volumes = |text: &str| -> Vec<String> {
        text.lines().filter(|line| line.starts_with("volumes ")).map(str::to_owned).collect()
    };
    assert_eq!(volumes(&before), volumes(&host.state_text()));
    assert!(fs::read_dir(host.state().join("scan")).unwrap().next().is_none(), "a mount is left");
}

#[test]
fn a_scanner_that_hangs_lies_or_floods_is_bounded_and_nothing_of_it_stays() {
    let bench = Bench::small();
    let host = bench.host("host");
    host.ok(&["ensure", IMAGE]);
    let mark = format!("3{:06}", std::process::id());
    let sleep = format!("sleep {mark}");
    let good = "echo '{\"SchemaVersion\": 2, \"Results\": []}'";
    // What it does, what is set, the exit code, what is said.
    for (text, setting, code, wanted) in [
        (sleep.clone(), ("VENEER_SCAN_TIMEOUT", "1"), 111, "killed after 1 s"),
        // It ignores what it can, leaves its group and closes its streams.
        (
            format!("trap '' TERM HUP INT\nsetsid sh -c 'trap \"\" TERM; {sleep}' &\n{sleep}"),
            ("VENEER_SCAN_TIMEOUT", "1"),
            111,
            "killed after 1 s",
        ),
        (
            format!("exec >/dev/null 2>&1\n{sleep}"),
            ("VENEER_SCAN_TIMEOUT", "1"),
            111,
            "killed after 1 s",
        ),
        ("yes".into(), ("VENEER_SCAN_OUTPUT_MAX", "1000000"), 100, "printed 1000000 bytes"),
        ("yes >&2".into(), ("VENEER_SCAN_OUTPUT_MAX", "1000000"), 100, "printed 1000000 bytes"),
        ("exit 0".into(), ("LANG", "C"), 100, "printed nothing, and ended with 0"),
        ("echo oh no >&2; exit 3".into(), ("LANG", "C"), 100, "ended with 3; it says: oh no"),
        ("echo all is well".into(), ("LANG", "C"), 100, "did not print JSON"),
        ("kill -SEGV $$; echo \\{\\}".into(), ("LANG", "C"), 100, "neither Trivy"),
        (format!("{good}; {good}"), ("LANG", "C"), 100, "trailing characters"),
        // Children that stay hold the streams open; they go with it.
        (format!("setsid {sleep} &\n{good}"), ("LANG", "C"), 0, ""),
        // What it ends with counts, where it is not listed.
        (
            format!("{good}\nexit 9"),
            ("LANG", "C"),
            100,
            "ended with 9, so the report does not count",
        ),
        (format!("{good}\nexit 1"), ("LANG", "C"), 100, "scan.exit_codes = [\"0\", \"1\"]"),
        (format!("{good}\nexit 9"), ("VENEER_SCAN_EXIT_CODES", "0 9"), 0, ""),
        (format!("{good}\nexit 0"), ("VENEER_SCAN_EXIT_CODES", "9"), 100, "ended with 0"),
        // Nothing of what a report has to say, and a word for the worst that nobody knows.
        ("echo '{\"SchemaVersion\": 2}'".into(), ("LANG", "C"), 100, "does not say what was scanned"),
        (
            "echo '{\"SchemaVersion\": 2, \"Results\": [{\"Vulnerabilities\": [{\"VulnerabilityID\": \"X\", \
             \"Severity\": \"WORST\"}]}]}'"
                .into(),
            ("LANG", "C"),
            100,
            "WORST",
        ),
        // One key twice: who reads it decides what it says.
        (
            "echo '{\"SchemaVersion\": 2, \"Results\": [7], \"Results\": []}'".into(),
            ("LANG", "C"),
            100,
            "\\\"Results\\\" is there twice",
        ),
    ] {
        scanner(&bench, &text);
        let done = run(&host, &[setting], &["scan", IMAGE]);
        let said = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(code), "{text}: {done:?}");
        assert!(said.contains(wanted), "{text}: {said}");
        assert_eq!(processes(&mark), 0, "{text}: something is left");
    }
    let mut missing = host.command(&["scan", IMAGE]);
    let missing = missing.env("VENEER_SCAN_COMMAND", "/nonexistent/scanner {}").output().unwrap();
    let said = String::from_utf8_lossy(&missing.stderr);
    for part in ["cannot run /nonexistent/scanner", "no such program", "install it", "scan.command"]
    {
        assert!(said.contains(part), "{part}: {said}");
    }
    let mut relative = host.command(&["scan", IMAGE]);
    let relative = relative.env("VENEER_SCAN_COMMAND", "./scanner {}").output().unwrap();
    assert_eq!(relative.status.code(), Some(100), "{relative:?}");
    assert!(String::from_utf8_lossy(&relative.stderr).contains("expected an absolute path"));
    let unset = host.command(&["scan", IMAGE]).output().unwrap();
    assert!(String::from_utf8_lossy(&unset.stderr).contains("set scan.command"), "{unset:?}");
    host.check();
}

#[test]
fn a_killed_orchestrate_takes_its_scanner_with_it() {
    let bench = Bench::small();
    let host = bench.host("host");
    host.ok(&["ensure", IMAGE]);
    let mark = format!("4{:06}", std::process::id());
    scanner(&bench, &format!("setsid sleep {mark} &\nsleep {mark}"));
    let mut command = host.command(&["scan", IMAGE]);
    command.env("VENEER_SCAN_COMMAND", format!("{} {{}}", bench.path("scanner").display()));
    let mut child = command.stderr(std::process::Stdio::null()).spawn().unwrap();
    let until = |wanted: &dyn Fn(usize) -> bool| {
        for _ in 0..6000 {
            if wanted(processes(&mark)) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("{} processes of the scanner", processes(&mark));
    };
    until(&|count| count >= 2);
    child.kill().unwrap();
    child.wait().unwrap();
    until(&|count| count == 0);
    scanner(&bench, "echo '{\"SchemaVersion\": 2, \"Results\": []}'");
    assert!(run(&host, &[], &["scan", IMAGE]).status.success());
    host.check();
}

const CLEAN: &str = "echo '{\"SchemaVersion\": 2, \"Results\": []}'";

/// As [`run`], with another program as the scanner.
fn run_by(host: &Host<'_>, program: &str, policy: &str, words: &[&str]) -> Output {
    let mut command = host.command(words);
    command.env("VENEER_SCAN_COMMAND", format!("{} {{}}", host.bench().path(program).display()));
    command.env("VENEER_SCAN_POLICY", policy).output().unwrap()
}

fn is_up(host: &Host<'_>, name: &str) -> bool {
    host.store().join("active").join(name).is_symlink()
}

/// As a boot leaves it: what was up is to be up, and is not.
fn goes_down(host: &Host<'_>, name: &str) {
    fs::remove_file(host.store().join("active").join(name)).unwrap();
}

#[test]
fn a_verdict_by_another_scanner_or_under_another_policy_is_no_word_for_required() {
    let bench = Bench::small();
    let host = bench.host("host");
    fs::copy(scanner(&bench, CLEAN), bench.path("other")).unwrap();
    scanner(&bench, &report("trivy.json"));
    // It says that it is Trivy, as anything may.
    let other = run_by(&host, "other", "required", ACTIVATE);
    assert!(other.status.success(), "{other:?}");
    let refused = run_by(&host, "scanner", "required", &["activate", IMAGE, "--name", "two"]);
    assert_eq!(refused.status.code(), Some(100), "{refused:?}");
    // The same program under a policy that only tells.
    host.wipe();
    scanner(&bench, CLEAN);
    assert!(run_by(&host, "scanner", "report", ACTIVATE).status.success());
    scanner(&bench, &report("trivy.json"));
    let refused = run_by(&host, "scanner", "required", &["activate", IMAGE, "--name", "two"]);
    assert_eq!(refused.status.code(), Some(100), "{refused:?}");
    // Another scanner's clean word takes nothing back.
    assert!(run_by(&host, "other", "required", &["scan", IMAGE]).status.success());
    scanner(&bench, "exit 7");
    let refused = run_by(&host, "scanner", "required", &["activate", IMAGE, "--name", "two"]);
    assert_eq!(refused.status.code(), Some(100), "{refused:?}");
    // A verdict is kept with who, by what, and under which policy.
    scanner(&bench, &report("other.sarif"));
    let mut about = host.command(&["scan", IMAGE]);
    about.env("VENEER_SCAN_COMMAND", format!("{} {{}}", bench.path("scanner").display()));
    fs::copy(
        scanner_at(
            &bench,
            "about",
            "echo '{\"Version\": \"0.99\", \"VulnerabilityDB\": {\"UpdatedAt\": \"2026-01-02\"}}'",
        ),
        bench.path("about-copy"),
    )
    .unwrap();
    let kept = json(&about.env("VENEER_SCAN_ABOUT", bench.path("about")).output().unwrap());
    assert_eq!(
        (kept["version"].as_str(), kept["database"].as_str()),
        (Some("0.99"), Some("2026-01-02"))
    );
    assert_eq!((kept["scanner"].as_str(), kept["policy"].as_str()), (Some("Example"), Some("off")));
    assert!(kept["command"].as_str().unwrap().ends_with("scanner {}"), "{kept}");
    let without = json(&run_by(&host, "scanner", "required", &["scan", IMAGE]));
    assert_eq!(
        (without["version"].as_str(), without["policy"].as_str()),
        (Some("1"), Some("required"))
    );
    host.check();
}

fn scanner_at(bench: &Bench, name: &str, text: &str) -> PathBuf {
    let path = bench.path(name);
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn what_recovery_brings_up_is_judged_as_activate_does() {
    let bench = Bench::small();
    let host = bench.host("host");
    let required = |words: &[&str]| run_by(&host, "scanner", "required", words);
    let b = "s3://bucket/b/";
    scanner(&bench, CLEAN);
    for (image, name) in [(IMAGE, "one"), (IMAGE, "runs"), (b, "other")] {
        assert!(required(&["activate", image, "--name", name]).status.success());
    }
    scanner(&bench, &report("trivy.json"));
    assert_eq!(required(&["scan", IMAGE]).status.code(), Some(1));
    goes_down(&host, "one");
    goes_down(&host, "other");
    // Any command mends; none brings it up, and what has nothing to do with it comes up.
    assert!(required(&["pin", b]).status.success());
    assert!(!is_up(&host, "one") && is_up(&host, "other") && is_up(&host, "runs"));
    let told = required(&["recover"]);
    assert!(told.status.success() && !is_up(&host, "one"), "{told:?}");
    let said = json(&told)["unsettled"][0].to_string();
    assert!(said.contains("activation one") && said.contains("2 critical"), "{said}");
    assert_eq!(required(ACTIVATE).status.code(), Some(100));
    let health = required(&["health"]);
    let said = String::from_utf8_lossy(&health.stdout).into_owned();
    assert!(health.status.code() == Some(1) && said.contains("activation runs runs: "), "{said}");
    // Without a verdict a command does not wait for a scan, and `recover` makes one.
    fs::copy(bench.path("scanner"), bench.path("new")).unwrap();
    goes_down(&host, "other");
    assert!(run_by(&host, "new", "required", &["pin", b]).status.success());
    assert!(!is_up(&host, "other"));
    scanner_at(&bench, "new", CLEAN);
    assert!(run_by(&host, "new", "required", &["recover"]).status.success());
    assert!(is_up(&host, "other") && is_up(&host, "one"));
    // What runs is taken down only by a setting.
    let mut strict = host.command(&["recover"]);
    strict.env("VENEER_SCAN_COMMAND", format!("{} {{}}", bench.path("scanner").display()));
    strict.env("VENEER_SCAN_POLICY", "required").env("VENEER_SCAN_RUNNING", "deactivate");
    assert!(strict.output().unwrap().status.success());
    assert!(!is_up(&host, "runs") && !is_up(&host, "one"));
    host.check();
}
