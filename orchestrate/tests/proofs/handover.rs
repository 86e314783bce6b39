//! An activation goes to what runs it: bundles and mounts on a `dir:` store. The same under a real container
//! runtime is `just test-bundle`.

use std::fs;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount, umount};
use serde_json::{Value, json};
use tests::layer;
use tests::oci::Image;

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

fn text_of(path: &Path) -> &str {
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
    let words = ["bundle", "web", text_of(&dir)];

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
    assert!(said.contains("one of numbered layers has none"), "{said}");

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
    let more = ["--hostname", "db-7", "--hosts", text_of(&hosts), "--empty-machine-id", "--", "id"];
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
    let (code, said) = host.said(&["bundle", "other", text_of(&dir), "--", "id"]);
    assert_eq!(code, 100, "{said}");
    assert!(said.contains("config.json\\\" is not of this activation"), "{said}");
    assert_eq!(fs::read(dir.join("config.json")).unwrap(), before);

    for (words, told) in [
        (vec!["bundle", "none", text_of(&dir), "--", "id"], "no activation \\\"none\\\" here"),
        (vec!["bundle", "web", text_of(&dir), "--hostname", "a_b", "--", "id"], "--hostname"),
        (
            vec!["bundle", "web", text_of(&dir), "--hosts", "/none", "--", "id"],
            "there is no such file",
        ),
        (vec!["bundle", "web", "/none/dir", "--", "id"], "the directory above it is not there"),
        (vec!["show", "web", "--vm", "--image-config"], "not both"),
    ] {
        let (code, said) = host.said(&words);
        assert!(code == 100 && said.contains(told), "{words:?}: {code} {said}");
    }
    host.ok(&["deactivate", "web"]);
    let (code, said) = host.said(&["bundle", "web", text_of(&dir), "--", "id"]);
    assert_eq!(code, 100, "{said}");
    assert!(
        said.contains("activation web is inactive; `orchestrate activate s3://bucket/a/"),
        "{said}"
    );
}

#[test]
fn an_images_config_is_kept_and_says_what_runs_and_as_whom() {
    let bench = Bench::small();
    let host = bench.host("host");
    let (tar, layout) = (bench.path("layer.tar"), bench.path("layout"));
    let passwd = b"root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n";
    let group = b"app:x:1001:\nwheel:x:10:root,app\n";
    let files: [(&str, &[u8], u32); 2] =
        [("etc/passwd", passwd, 0o644), ("etc/group", group, 0o644)];
    fs::write(&tar, layer::of_root(&files)).unwrap();
    let image = |tag: &str, own: Value| {
        let name = ("org.opencontainers.image.ref.name", tag);
        let image = Image::run_as(std::slice::from_ref(&tar), name, &own).unwrap();
        image.write(&layout).unwrap();
        let config = image.texts.iter().find(|(_, text)| text.contains("rootfs")).unwrap();
        (format!("oci:{}:{tag}", layout.display()), config.1.clone())
    };
    let own = json!({
        "User": "app", "Env": ["A=b"], "Entrypoint": ["/init"], "Cmd": ["serve"], "WorkingDir": "/srv",
        "Labels": {"org.opencontainers.image.title": "App", "run.oci.handler": "evil"},
        "ExposedPorts": {"80/tcp": {}}, "StopSignal": "SIGQUIT",
    });
    let (one, text) = image("one", own);
    host.ok(&["activate", &one, "--name", "app"]);

    // As it came, by either name.
    for subject in ["app", &one] {
        let shown = host.command(&["show", subject, "--image-config"]).output().unwrap();
        assert_eq!(String::from_utf8(shown.stdout).unwrap(), format!("{text}\n"), "{subject}");
    }
    let dir = bench.path("bundle");
    let done = host.ok(&["bundle", "app", text_of(&dir)]);
    assert_eq!(done["args"], json!(["/init", "serve"]));
    let made = config(&dir);
    let process = &made["process"];
    assert_eq!(process["user"], json!({"uid": 1000, "gid": 1001, "additionalGids": [10]}));
    assert_eq!((&process["cwd"], &process["env"][0]), (&json!("/srv"), &json!("A=b")));
    assert_eq!(process["env"][2], "HOME=/home/app");
    assert_eq!(process["capabilities"]["effective"], json!([]));
    assert_eq!(made["annotations"]["org.opencontainers.image.title"], "App");
    assert_eq!(made["annotations"]["org.opencontainers.image.exposedPorts"], "80/tcp");
    assert_eq!(made["annotations"].get("run.oci.handler"), None);
    let machine = host.ok(&["show", "app", "--vm"]);
    assert_eq!((&machine["uid"], &machine["groups"]), (&json!(1000), &json!([10])));
    assert_eq!(machine["args"], json!(["/init", "serve"]));
    for (words, args) in [
        (vec!["--", "check", "now"], json!(["/init", "check", "now"])),
        (vec!["--entrypoint", "/bin/sh"], json!(["/bin/sh"])),
        (vec!["--entrypoint", "", "--", "id"], json!(["id"])),
    ] {
        let words: Vec<&str> = ["bundle", "app", text_of(&dir)].into_iter().chain(words).collect();
        assert_eq!(host.ok(&words)["args"], args, "{words:?}");
    }

    // What a guest writes does not decide whom the image runs as, and what lies there is not waited for.
    let passwd = tree(&host, "app").join("etc/passwd");
    fs::remove_file(&passwd).unwrap();
    nix::unistd::mkfifo(&passwd, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_eq!(host.ok(&["show", "app", "--vm"])["uid"], 1000);

    // An activation keeps the config that it was made of, whatever the tag says by now.
    let (moved, _) = image("one", json!({"User": "4711", "Cmd": ["id"]}));
    assert_eq!(moved, one);
    host.ok(&["activate", &one, "--name", "later"]);
    assert_eq!(host.ok(&["show", "app", "--vm"])["uid"], 1000);
    let later = host.ok(&["show", "later", "--vm"]);
    assert_eq!(
        (&later["uid"], &later["gid"], &later["args"]),
        (&json!(4711), &json!(0), &json!(["id"]))
    );

    // Nobody of that name: refused, with the name, the table and the image's wish.
    let (none, _) = image("none", json!({"User": "web:app", "Cmd": ["id"]}));
    host.ok(&["activate", &none, "--name", "none"]);
    let (code, said) = host.said(&["bundle", "none", text_of(&bench.path("other"))]);
    assert_eq!(code, 100, "{said}");
    assert!(
        said.contains("wants to run as \\\"web:app\\\", and its /etc/passwd has no user"),
        "{said}"
    );
    assert!(!bench.path("other").exists());
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
    let words = ["mount", "web", text_of(&at)];
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
            said.contains(&format!("a mount at {}", text_of(&at.canonicalize().unwrap()))),
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
