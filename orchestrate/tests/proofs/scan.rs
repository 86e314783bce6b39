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
    scanner(&bench, "echo '{\"SchemaVersion\": 2}'");
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
    let seen = bench.path("seen");
    scanner(
        &bench,
        &format!(
            "{{ ls $1/srv; echo in; cat; echo pid $$; env; ulimit -c
                touch $1/new && echo WRITTEN; echo x > $1/srv/layer-3/0 && echo WRITTEN; }} > {} 2>&1
             echo '{{\"SchemaVersion\": 2}}'",
            seen.display()
        ),
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
    let good = "echo '{\"SchemaVersion\": 2}'";
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
        (format!("{good}\nexit 9"), ("LANG", "C"), 0, ""),
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
    assert!(String::from_utf8_lossy(&missing.stderr).contains("cannot run /nonexistent/scanner"));
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
    scanner(&bench, "echo '{\"SchemaVersion\": 2}'");
    assert!(run(&host, &[], &["scan", IMAGE]).status.success());
    host.check();
}
