//! `orchestrate top` where it cannot draw. What it draws is held in `src/top/frame_tests.rs`.

use std::process::{Command, Stdio};

#[test]
fn without_a_terminal_it_refuses_and_names_what_gives_the_same() {
    let dir = tempfile::tempdir().unwrap();
    for json in [false, true] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_orchestrate"));
        command.arg("--state").arg(dir.path().join("state"));
        command.arg("--store").arg(format!("dir:{}", dir.path().join("store").display()));
        command.args(json.then_some("--json")).arg("top").stdin(Stdio::null());
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(100), "{said}");
        assert!(said.contains("`--json df`, `runs` and `events`"), "{said}");
        assert!(!output.stdout.contains(&0x1b), "something was drawn");
        assert!(!dir.path().join("state").exists(), "something was made");
    }
}
