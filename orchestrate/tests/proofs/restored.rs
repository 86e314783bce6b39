//! A registry of yesterday, whatever it is that it lacks; and names that lead to what is another's: both are
//! found out, though no volume moved.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::Value;

use crate::bench::{Bench, Host, names};

const A: &str = "s3://bucket/a/";
const B: &str = "s3://bucket/b/";

/// What changes something that somebody is told of, without a volume that comes or goes.
const CHANGES: &[&[&str]] = &[
    &["pin", A],
    &["unpin", B],
    &["deactivate", "a-1"],
    &["activate", A, "--name", "down", "--no-fetch"],
    // The same layers under another name: no id is given.
    &["ensure", "s3://bucket/same/"],
    &["rm", "s3://bucket/twin/"],
    &["scan", A],
    &["recover", "--retry"],
];

fn restore(from: &Host<'_>, to: &Host<'_>) {
    fs::remove_dir_all(to.state()).unwrap();
    let words = ["-a".into(), from.state(), to.state()];
    assert!(std::process::Command::new("cp").args(words).status().unwrap().success());
}

#[test]
fn a_registry_from_before_a_change_that_moved_no_volume_is_not_taken_for_todays() {
    let bench = Bench::new(
        &[("a", &[1, 2, 3]), ("b", &[1, 2, 4]), ("same", &[1, 2, 3]), ("twin", &[1, 2, 3])],
        4,
        2000,
    );
    let one = bench.host("one");
    one.ok(&["activate", A, "--name", "a-1"]);
    one.ok(&["activate", A, "--name", "down"]);
    one.ok(&["deactivate", "down"]);
    for image in [B, "s3://bucket/twin/"] {
        one.ok(&["ensure", image]);
    }
    one.ok(&["pin", B]);
    // A digest that was refused, and is released.
    bench.put("evil/1.tar", &tests::layer::named("../../evil"));
    assert_eq!(one.said(&["ensure", "s3://bucket/evil/"]).0, 100);
    let digest = one.rows("SELECT digest FROM quarantine")[0].clone();
    let release = format!("sha256:{digest}");
    let scanner = bench.path("scanner");
    fs::write(&scanner, "#!/bin/sh\necho '{\"SchemaVersion\": 2, \"Results\": []}'\n").unwrap();
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(&scanner, fs::Permissions::from_mode(0o755)).unwrap();
    let released = [&["quarantine", "--release", &release][..]];
    for words in CHANGES.iter().copied().chain(released) {
        let host = one.copy_to("host");
        let kept = host.copy_to("kept");
        let mut command = host.command(words);
        command.env("VENEER_SCAN_COMMAND", format!("{} {{}}", scanner.display()));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{words:?}: {output:?}");
        let volumes = names(&host.store().join("volumes"));
        restore(&kept, &host);
        for after in
            [&["activate", A, "--name", "a-2", "--no-fetch"][..], &["recover"], &["rm", "a-1"]]
        {
            let (code, said) = host.said(after);
            assert!(code == 100 && said.contains("out of step"), "{words:?}: {said}");
        }
        assert_eq!(names(&host.store().join("volumes")), volumes);
        host.ok(&["rebuild"]);
        host.ok(&["recover"]);
        host.check();
    }
}

/// A name leads to its own activation's volume, or that is told and mended.
#[test]
fn a_name_that_leads_to_anothers_volume_is_noticed() {
    let bench = Bench::small();
    let one = bench.host("one");
    for name in ["a-1", "a-2", "down"] {
        one.ok(&["activate", A, "--name", name]);
    }
    one.ok(&["deactivate", "down"]);
    let at = |host: &Host<'_>, name: &str| host.store().join("active").join(name);
    let own = |name: &str| fs::read_link(at(&one, name)).ok();
    let (first, second) = (own("a-1").unwrap(), own("a-2").unwrap());
    let settled = |host: &Host<'_>| {
        let health = host.command(&["health"]).output().unwrap();
        let found: Value = serde_json::from_slice(&health.stdout).unwrap();
        let checks = found["checks"].as_array().unwrap().clone();
        checks.into_iter().find(|check| check["name"] == "settled").unwrap()
    };
    for links in [
        vec![("a-1", &second)],
        vec![("a-1", &second), ("a-2", &first)],
        vec![("down", &second)],
        vec![("down", &second), ("a-1", &second)],
        vec![("a-1", &second), ("theirs", &first)],
    ] {
        let host = one.copy_to("host");
        for (name, target) in &links {
            drop(fs::remove_file(at(&host, name)));
            symlink(target, at(&host, name)).unwrap();
        }
        let listing = host.ok(&["ls"]);
        let check = settled(&host);
        assert_eq!(check["ok"], false, "{links:?}: {check}");
        for (name, _) in links.iter().filter(|(name, _)| *name != "theirs") {
            let told = format!("activation {name}");
            assert!(listing["unsettled"].to_string().contains(&told), "{links:?}: {listing}");
            assert!(check["reason"].as_str().unwrap().contains(&told), "{links:?}: {check}");
            let rows = listing["activations"].as_array().unwrap();
            let row = rows.iter().find(|row| row["name"] == *name).unwrap();
            assert_eq!(row["mapped"], false, "{links:?}: it is another's that is mapped there");
        }
        fs::write(host.store().join("volumes").join(second.file_name().unwrap()).join("mine"), "2")
            .unwrap();
        host.ok(&["rm", "down"]);
        host.ok(&["recover"]);
        host.check();
        let now = |name: &str| fs::read_link(at(&host, name)).ok();
        assert_eq!(
            (now("a-1"), now("a-2"), now("down")),
            (own("a-1"), own("a-2"), None),
            "{links:?}"
        );
        assert_eq!(settled(&host)["ok"], true);
        assert_eq!(fs::read_to_string(at(&host, "a-2").join("mine")).unwrap(), "2");
    }
    // A name that nobody here has given is told, and left alone.
    let host = one.copy_to("host");
    symlink(&second, at(&host, "theirs")).unwrap();
    let (check, listing) = (settled(&host), host.ok(&["ls"]));
    assert!(
        check["ok"] == false && check["reason"].as_str().unwrap().contains("name theirs"),
        "{check}"
    );
    assert!(listing["unsettled"].to_string().contains("name theirs"), "{listing}");
    host.ok(&["recover"]);
    host.others_go_on();
    assert_eq!(fs::read_link(at(&host, "theirs")).ok(), Some(second));
    fs::remove_file(at(&host, "theirs")).unwrap();
    assert_eq!(settled(&host)["ok"], true);
    host.check();
}
