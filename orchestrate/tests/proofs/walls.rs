//! A host on which not every wall can be put up says so everywhere, and unpacks nothing unless it is told to.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::process::{Command, Output};

use serde_json::Value;
use tests::layer;

use crate::bench::{Bench, Host, names};

const IMAGE: &str = "s3://bucket/a/";
const LACKING: &str = "-sys_admin,-sys_chroot";

/// The command behind other words, which get it as their last ones.
fn behind(host: &Host<'_>, before: &[&str], words: &[&str]) -> Output {
    let inner = host.command(words);
    let mut command = Command::new(before[0]);
    command.args(&before[1..]).arg(inner.get_program()).args(inner.get_args());
    for (name, value) in inner.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    command.output().expect("setpriv, of util-linux, is needed")
}

fn without(host: &Host<'_>, words: &[&str]) -> (Option<i32>, String) {
    let before = ["setpriv", "--bounding-set", LACKING, "--inh-caps", LACKING];
    let out = behind(host, &before, words);
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    (out.status.code(), said + &String::from_utf8_lossy(&out.stderr))
}

fn check(host: &Host<'_>, words: &[&str]) -> Value {
    let found: Value =
        serde_json::from_slice(&host.command(words).output().unwrap().stdout).unwrap();
    let checks = found["checks"].as_array().unwrap().clone();
    checks.into_iter().find(|check| check["name"] == "walls").expect("a check of walls")
}

#[test]
fn no_wall_falls_in_silence() {
    let bench = Bench::small();
    let host = bench.host("host");
    let (code, said) = without(&host, &["ensure", IMAGE]);
    assert_eq!(code, Some(100), "{said}");
    for word in
        ["CAP_SYS_ADMIN", "CAP_SYS_CHROOT", "mount", "chroot", "--sandbox on", "host_broken"]
    {
        assert!(said.contains(word), "{word} in {said}");
    }
    assert_eq!(names(&host.store().join("volumes")).len(), 1, "only the template");
    // It is the host's fault and not the layer's.
    assert!(host.rows("SELECT digest FROM quarantine").is_empty());
    // Everybody who is asked says so.
    let (code, said) = without(&host, &["health"]);
    assert!(code == Some(1) && said.contains("no layer is unpacked, since"), "{said}");
    let (code, said) = without(&host, &["doctor"]);
    assert!(code == Some(1) && said.contains("CAP_SYS_CHROOT"), "{said}");
    let (_, said) = without(&host, &["metrics"]);
    assert!(said.contains("veneer_wall_stands{wall=\"mount\"} 0"), "{said}");
    assert!(said.contains("veneer_wall_stands{wall=\"seccomp\"} 1"), "{said}");
    // It is done with fewer where that is asked for, and that is told by the layer's event, too.
    let (code, said) = without(&host, &["--sandbox", "on", "ensure", IMAGE]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("was unpacked without all walls: mount: "), "{said}");
    let (code, said) = without(&host, &["--sandbox", "on", "health"]);
    assert!(code == Some(0) && said.contains("lacking mount: "), "{said}");
    let events = host.rows("SELECT detail FROM events WHERE to_state = 'sealed' AND detail <> ''");
    assert_eq!(events.len(), 3, "{events:?}");
    for event in &events {
        assert!(event.contains("walls: rlimits, capabilities, "), "{event}");
        assert!(event.contains("; lacking mount: "), "{event}");
    }
    host.check();
}

#[test]
fn where_all_stand_that_is_told_too() {
    let bench = Bench::small();
    let host = bench.host("host");
    host.ok(&["ensure", IMAGE]);
    let events = host.rows("SELECT detail FROM events WHERE to_state = 'sealed' AND detail <> ''");
    assert!(
        events.len() == 3 && events.iter().all(|event| !event.contains("lacking")),
        "{events:?}"
    );
    let found = check(&host, &["health"]);
    assert!(found["ok"] == true, "{found}");
    assert!(
        found["reason"].as_str().unwrap().starts_with("walls: rlimits, mount, chroot, "),
        "{found}"
    );
    let doctor = host.ok(&["doctor"]);
    assert_eq!(
        (&doctor["sandbox"], doctor["walls"].as_array().unwrap().len()),
        (&"require".into(), 7)
    );
    // None at all is a setting, and says so.
    let off = host.command(&["--sandbox", "off", "ensure", "s3://bucket/b/"]).output().unwrap();
    assert!(off.status.success(), "{off:?}");
    assert!(String::from_utf8_lossy(&off.stderr).contains("switched off"), "{off:?}");
    // A tree is read behind them as well, and what is there is what was sealed, whoever unpacked it.
    host.ok(&["verify"]);
    let (code, said) = without(&host, &["verify"]);
    assert_eq!(code, Some(100), "nothing is said of a volume that could not be looked at: {said}");
    assert!(said.contains("CAP_SYS_ADMIN") && said.contains("\"now\":\"unseen\""), "{said}");
    assert!(said.contains("volumes could not be looked at"), "{said}");
    assert_eq!(said.matches("\"class\":\"host_broken\"").count(), 5, "{said}");
    assert!(without(&host, &["--sandbox", "on", "verify"]).0 == Some(0));
    host.check();
}

/// A limit on files is named, with what to do; it is not the layer's fault, and nothing is remembered against that.
#[test]
fn a_limit_on_files_is_named_and_the_layer_is_good_without_it() {
    let bench = Bench::new(&[], 0, 0);
    bench.put("a/1.tar", &layer::stacked(1, 1, 9 << 20));
    let host = bench.host("host");
    // 8 MiB: enough for all that we write.
    let before = ["sh", "-c", "ulimit -f 16384; exec \"$@\"", "sh"];
    let out = behind(&host, &before, &["ensure", IMAGE]);
    assert_eq!(out.status.code(), Some(100), "{out:?}");
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(said.contains("ulimit -f") && said.contains("Raise that limit"), "{said}");
    host.ok(&["ensure", IMAGE]);
    host.check();
}

/// A user without root has a directory store, its own files in it, and every wall, in a user namespace.
#[test]
fn a_user_without_root_has_the_walls_in_a_namespace() {
    let bench = Bench::new(&[], 0, 0);
    bench.put("a/1.tar", &layer::of(&[("f".into(), b"hi".to_vec())]));
    let host = bench.host("host");
    fs::set_permissions(bench.path(""), Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(&host.dir).unwrap();
    chown(&host.dir, Some(1000), Some(50)).unwrap();
    let program = bench.path("orchestrate");
    // By another process: a thread that starts one meanwhile would have our copy open, and busy.
    let copied = Command::new("cp").arg(host.command(&[]).get_program()).arg(&program).status();
    assert!(copied.unwrap().success());
    let user = ["setpriv", "--reuid", "1000", "--regid", "50", "--clear-groups"];
    let run = |words: &[&str]| {
        let mut command = Command::new(user[0]);
        command.args(&user[1..]).arg("--bounding-set=-all").arg(&program);
        command.args(host.command(words).get_args());
        command.env("VENEER_CONFIG", bench.path("settings.toml")).output().unwrap()
    };
    let done = run(&["activate", IMAGE, "--name", "mine"]);
    if Command::new("setpriv")
        .args(&user[1..])
        .args(["unshare", "-Urm", "true"])
        .output()
        .is_ok_and(|out| !out.status.success())
    {
        // A host on which nobody may make one: it is refused, and the way out is said.
        assert_eq!(done.status.code(), Some(100), "{done:?}");
        assert!(run(&["--sandbox", "on", "activate", IMAGE, "--name", "mine"]).status.success());
        return;
    }
    assert!(done.status.success(), "{done:?}");
    assert_eq!(fs::read(host.store().join("active/mine/f")).unwrap(), b"hi");
    let doctor = run(&["doctor"]);
    assert!(doctor.status.success(), "{doctor:?}");
    assert!(String::from_utf8_lossy(&doctor.stdout).contains("in a user namespace"), "{doctor:?}");
}
