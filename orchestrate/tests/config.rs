//! The settings as the program has them: which counts, what is refused, and that it says where from.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

fn orchestrate(args: &[&str], env: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_orchestrate"));
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("VENEER_") || name.starts_with("AWS_") {
            command.env_remove(&*name);
        }
    }
    command.args(args).envs(env.iter().copied()).output().expect("run orchestrate")
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

fn refused(output: &Output, wanted: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(100), "{output:?}");
    assert!(said.contains(wanted) && said.lines().count() == 1, "{said}");
}

fn file(dir: &Path, text: &str) -> String {
    let path = dir.join("veneer.toml");
    fs::write(&path, text).expect("write");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("chmod");
    path.to_string_lossy().into_owned()
}

#[test]
fn each_value_says_where_it_came_from() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(dir.path(), "state = \"/a\"\nregion = \"r\"\n[fetch]\ntries = 3\n");
    let env = [("VENEER_CONFIG", path.as_str()), ("AWS_REGION", "eu-west-1")];
    let text = stdout(&orchestrate(&["config", "--state", "/b"], &env));
    let line = |key: &str| text.lines().find(|line| line.starts_with(key)).unwrap_or_default();
    assert!(line("state = \"/b\"").ends_with("# --state"), "{text}");
    assert!(line("region = \"eu-west-1\"").ends_with("# AWS_REGION"), "{text}");
    assert!(line("fetch.tries = 3").ends_with(&format!("# {path} line 4")), "{text}");
    assert!(line("wait = 3600").ends_with("# default"), "{text}");
    // What is shown is a file that says the same.
    let again = file(dir.path(), &text);
    let shown = stdout(&orchestrate(&["config", "--json", "--config", &again], &[]));
    for line in shown.lines() {
        let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
        if line["key"] == "fetch.tries" {
            assert_eq!(line["value"], 3);
            assert_eq!(line["origin"]["from"], "file");
            return;
        }
    }
    panic!("no fetch.tries: {shown}");
}

#[test]
fn the_sample_can_be_installed_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let sample = stdout(&orchestrate(&["config", "--sample"], &[]));
    let path = file(dir.path(), &sample);
    let text = stdout(&orchestrate(&["config", "--config", &path], &[]));
    assert!(text.lines().all(|line| line.ends_with("# default")), "{text}");
}

#[test]
fn what_cannot_be_read_is_refused_before_any_command() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(dir.path(), "\nsotre = \"dir:/x\"\n");
    let wanted = format!("{path}: line 2: unknown key \"sotre\"; did you mean \"store\"?");
    refused(&orchestrate(&["ls", "--config", &path], &[]), &wanted);
    refused(&orchestrate(&["ls"], &[("VENEER_CONFIG", &path)]), &wanted);
    let path = file(dir.path(), "wait = 1\n");
    refused(
        &orchestrate(&["config"], &[("VENEER_WAIT", "soon")]),
        "VENEER_WAIT \"soon\": expected",
    );
    refused(&orchestrate(&["ls", "--config", "/nonexistent/f"], &[]), "there is no file");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    refused(&orchestrate(&["ls", "--config", &path], &[]), "others may write to it");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&path, b"state = \"\xff\"").unwrap();
    refused(&orchestrate(&["ls", "--config", &path], &[]), "not UTF-8");
    fs::write(&path, vec![b'#'; (1 << 20) + 1]).unwrap();
    refused(&orchestrate(&["ls", "--config", &path], &[]), "more than 1048576 bytes");
}
