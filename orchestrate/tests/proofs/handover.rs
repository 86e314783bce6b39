//! An activation goes to what runs it: bundles and mounts on a `dir:` store. The same under a real container
//! runtime is `just test-bundle`.

use std::fs;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount, umount};
use serde_json::{Value, json};

use crate::bench::{Bench, Host};

/// One that is up: `web`, of the image `a`.
fn up(bench: &Bench) -> Host<'_> {
    let host = bench.host("host");
    host.ok(&["activate", "s3://bucket/a/", "--name", "web"]);
    host
}

fn config(dir: &Path) -> Value {
    serde_json::from_slice(&fs::read(dir.join("config.json")).unwrap()).unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The tree itself, and not the link to it.
fn tree(host: &Host<'_>, name: &str) -> PathBuf {
    host.store().canonicalize().unwrap().join("active").join(name).canonicalize().unwrap()
}

#[test]
fn a_bundle_names_the_tree_and_what_is_to_run() {
    let bench = Bench::small();
    let host = up(&bench);
    let dir = bench.path("bundle");
    let words = ["bundle", "web", text(&dir)];

    // Numbered layers do not say what to run.
    let (code, said) = host.said(&words);
    assert_eq!(code, 100, "{said}");
    assert!(
        said.contains("has no config that says what to run; give a command after --"),
        "{said}"
    );
    assert!(!dir.exists(), "nothing is made of what cannot be run");
    let (code, said) = host.said(&["show", "web", "--image-config"]);
    assert_eq!(code, 100, "{said}");
    assert!(said.contains("an image of numbered layers has none"), "{said}");

    let done = host.ok(&[&words[..], &["--", "/bin/sh", "-c", "id --json"]].concat());
    assert_eq!(done["args"], json!(["/bin/sh", "-c", "id --json"]));
    assert_eq!(
        (&done["uid"], &done["gid"], &done["mounted"]),
        (&json!(0), &json!(0), &json!(false))
    );
    let made = config(&dir);
    assert_eq!(made["root"], json!({"path": tree(&host, "web"), "readonly": false}));
    assert_eq!(made["hostname"], "web");
    assert_eq!(made["process"]["args"], json!(["/bin/sh", "-c", "id --json"]));
    assert_eq!(made["annotations"], json!({"veneer.activation": "web"}));
    let files = |dir: &Path| -> Vec<String> {
        let names = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name());
        let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
        names.sort_unstable();
        names
    };
    assert_eq!(files(&dir), ["config.json"]);

    // Again, with files of its own; what is in the image stays as it is.
    let hosts = bench.path("hosts");
    fs::write(&hosts, "10.0.0.1 db\n").unwrap();
    let more = ["--hostname", "db-7", "--hosts", text(&hosts), "--empty-machine-id", "--", "id"];
    host.ok(&[&words[..], &more].concat());
    let made = config(&dir);
    assert_eq!((&made["hostname"], &made["process"]["args"]), (&json!("db-7"), &json!(["id"])));
    let bound: Vec<&Value> = made["mounts"].as_array().unwrap()[7..].iter().collect();
    let places: Vec<&str> =
        bound.iter().map(|mount| mount["destination"].as_str().unwrap()).collect();
    assert_eq!(places, ["/etc/hosts", "/etc/hostname", "/etc/machine-id"]);
    assert_eq!(files(&dir), ["config.json", "hostname", "machine-id"]);
    host.check_tree("web", 3);

    // What another program put there, or another activation has, stays.
    host.ok(&["activate", "s3://bucket/b/", "--name", "other"]);
    let before = fs::read(dir.join("config.json")).unwrap();
    let (code, said) = host.said(&["bundle", "other", text(&dir), "--", "id"]);
    assert_eq!(code, 100, "{said}");
    assert!(said.contains("config.json\\\" is not of this activation"), "{said}");
    assert_eq!(fs::read(dir.join("config.json")).unwrap(), before);

    for (words, told) in [
        (vec!["bundle", "none", text(&dir), "--", "id"], "no activation \\\"none\\\" here"),
        (vec!["bundle", "web", text(&dir), "--hostname", "a_b", "--", "id"], "--hostname"),
        (
            vec!["bundle", "web", text(&dir), "--hosts", "/none", "--", "id"],
            "there is no such file",
        ),
        (vec!["bundle", "web", "/none/dir", "--", "id"], "the directory above it is not there"),
        (vec!["show", "web", "--vm", "--image-config"], "not both"),
    ] {
        let (code, said) = host.said(&words);
        assert!(code == 100 && said.contains(told), "{words:?}: {code} {said}");
    }
    host.ok(&["deactivate", "web"]);
    let (code, said) = host.said(&["bundle", "web", text(&dir), "--", "id"]);
    assert_eq!(code, 100, "{said}");
    assert!(
        said.contains("activation web is inactive; `orchestrate activate s3://bucket/a/"),
        "{said}"
    );
}

#[test]
fn a_machine_is_told_the_directory_where_there_is_no_device() {
    let bench = Bench::small();
    let host = up(&bench);
    let told = host.ok(&["show", "web", "--vm"]);
    assert_eq!(told["path"], json!(tree(&host, "web")));
    assert_eq!((&told["image"], &told["args"]), (&json!("s3://bucket/a/"), &json!([])));
    assert_eq!((&told["uid"], &told["gid"], &told["cwd"]), (&json!(0), &json!(0), &json!("/")));
    assert_eq!((told.get("device"), told.get("firecracker")), (None, None));
}

#[test]
fn who_mounts_an_activation_keeps_it_up_until_it_is_unmounted() {
    let bench = Bench::small();
    let host = up(&bench);
    let at = bench.path("at");
    let words = ["mount", "web", text(&at)];
    let (code, said) = host.said(&words);
    assert!(code == 100 && said.contains("there is no such directory"), "{code} {said}");
    fs::create_dir(&at).unwrap();
    let unmounted = |words: &[&str]| {
        let done = host.ok(words);
        done["from"].as_array().unwrap().len()
    };
    assert_eq!(unmounted(&["umount", "web"]), 0);

    assert_eq!(host.ok(&words)["already"], false);
    assert_eq!(host.ok(&words)["already"], true);
    assert!(at.join("srv").is_dir());
    fs::write(at.join("written"), "through the mount").unwrap();
    assert!(tree(&host, "web").join("written").exists());
    let flags = nix::sys::statvfs::statvfs(&at).unwrap().flags();
    assert!(flags.contains(nix::sys::statvfs::FsFlags::ST_NODEV), "{flags:?}");

    // It is in use, as a device would be, and the message says where.
    for words in [["deactivate", "web"], ["rm", "web"]] {
        let (code, said) = host.said(&words);
        assert_eq!(code, 111, "{said}");
        assert!(
            said.contains(&format!("a mount at {}", text(&at.canonicalize().unwrap()))),
            "{said}"
        );
    }
    // Who works in it keeps it there.
    let inside = fs::File::open(at.join("written")).unwrap();
    let (code, said) = host.said(&["deactivate", "web", "--unmount"]);
    assert_eq!(code, 111, "{said}");
    assert!(said.contains("where somebody is at work"), "{said}");
    drop(inside);
    let done = host.ok(&["deactivate", "web", "--unmount"]);
    assert_eq!(done["changed"], true);
    assert!(!at.join("srv").exists());

    // What is no mount of ours stays.
    host.ok(&["activate", "s3://bucket/a/", "--name", "web", "--no-fetch"]);
    let other = Some(tree(&host, "web").join("srv"));
    mount(other.as_deref(), &at, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    assert_eq!(unmounted(&["umount", "web"]), 0);
    let (code, said) = host.said(&["rm", "web"]);
    umount(&at).unwrap();
    assert!(code == 111 && said.contains("a mount at"), "{code} {said}");
    host.ok(&["rm", "web"]);
    host.check();
}
