//! The program's contract that needs no device-mapper: usage, exit codes, where the text goes.

use std::io::Read;
use std::process::{Command, Output, Stdio};

fn thin(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_thin"))
        .args(words)
        .env_remove("VENEER_POOL")
        .env_remove("VENEER_REMOVE_WAIT_MS")
        .output()
        .expect("the program starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

#[test]
fn help_goes_to_stdout_and_names_every_exit_code() {
    for words in [&["--help"][..], &["pool", "--help"], &["run", "--help"]] {
        let ran = thin(words);
        assert_eq!(ran.status.code(), Some(0), "{words:?}");
        assert!(ran.stderr.is_empty(), "{words:?}: {}", text(&ran.stderr));
        assert!(text(&ran.stdout).starts_with("Usage: thin"), "{words:?}");
    }
    let help = text(&thin(&["--help"]).stdout);
    for code in ["  0 ", "  1 ", "  100 ", "  111 "] {
        assert!(help.contains(code), "{code} is not in the help");
    }
    let version = text(&thin(&["--version"]).stdout);
    assert_eq!(version, format!("thin {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn wrong_usage_is_100_and_says_what_was_wrong() {
    for (words, said) in [
        (&[][..], "no command given"),
        (&["--bogus"], "--bogus"),
        (&["create"], "id"),
        (&["create", "x"], "x"),
        (&["create", "16777216"], "0 to 16777215"),
        (&["activate", "1", "n", "--size", "1Q"], "\"1Q\""),
        (&["pool", "up"], "dir"),
        (&["pool", "up", "/nonexistent/pool"], "/nonexistent/pool/pool.json"),
        (&["pool", "when-full", "explode"], "error or queue"),
        (&["loop", "dance", "/tmp"], "attach, find or detach"),
        (&["--wait-ms", "soon", "ls"], "soon"),
    ] {
        let ran = thin(words);
        let stderr = text(&ran.stderr);
        assert_eq!(ran.status.code(), Some(100), "{words:?}: {stderr}");
        assert!(stderr.starts_with("thin: fatal: "), "{words:?}: {stderr}");
        assert!(stderr.contains(said), "{words:?}: {stderr}");
        assert!(ran.stdout.is_empty(), "{words:?}");
    }
}

#[test]
fn bytes_from_outside_cannot_move_the_cursor() {
    let ran = thin(&["activate", "1", "n", "--size", "\u{1b}[2J\r"]);
    assert_eq!(ran.status.code(), Some(100));
    let stderr = text(&ran.stderr);
    let line = stderr.strip_suffix('\n').expect("one line");
    assert!(line.chars().all(|c| !c.is_control()), "{stderr:?}");
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_thin"))
        .arg("--help")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    drop(child.stdout.take());
    let mut stderr = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut stderr).expect("UTF-8");
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
    assert_eq!(stderr, "");
}
