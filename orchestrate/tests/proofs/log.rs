//! What the program says on stderr while it works, in each form, and what journald is told.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;

use serde_json::Value;

use crate::bench::Bench;

#[test]
fn a_run_is_told_as_events_that_a_program_can_read() {
    let bench = Bench::small();
    let host = bench.host("host");
    let words = ["--log", "json", "ensure", "s3://bucket/a/"];
    let output = host.command(&words).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    let lines: Vec<Value> = said.lines().map(|l| serde_json::from_str(l).expect(l)).collect();
    let built: Vec<&Value> = lines.iter().filter(|line| line["state"] == "built").collect();
    assert_eq!(built.len(), 3, "{said}");
    for line in built {
        for field in ["ts", "level", "msg", "run", "image", "layer", "bytes", "ms"] {
            assert!(!line[field].is_null(), "{field} in {line}");
        }
    }
    let end = lines.iter().find(|line| line["msg"] == "run ended").expect("the end");
    assert_eq!((&end["state"], &end["verb"]), (&"done".into(), &"ensure".into()));
    // Quiet is quiet in every form; a failure is told with its class.
    let output =
        host.command(&["-q", "--log", "logfmt", "show", "none\n\x1b[31m"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains(" level=error msg=") && said.contains(" class=not_found"), "{said}");
    assert!(said.lines().count() == 1 && !said.contains('\x1b'), "{said}");
}

#[test]
fn journald_gets_priorities_and_no_clock_and_a_pipe_does_not() {
    let bench = Bench::small();
    let host = bench.host("host");
    let path = bench.path("stderr");
    let file = File::create(&path).unwrap();
    let meta = file.metadata().unwrap();
    let stream = format!("{}:{}", meta.dev(), meta.ino());
    let mut command = host.command(&["--log", "logfmt", "ensure", "s3://bucket/a/"]);
    let done = command.env("JOURNAL_STREAM", &stream).stderr(file).status().unwrap();
    assert!(done.success());
    let said = fs::read_to_string(&path).unwrap();
    assert!(said.lines().all(|line| line.starts_with("<6>level=info msg=")), "{said}");
    let mut command = host.command(&["--log", "logfmt", "ensure", "s3://bucket/b/"]);
    let output = command.env("JOURNAL_STREAM", &stream).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.lines().all(|line| line.starts_with("ts=")), "{said}");
}
