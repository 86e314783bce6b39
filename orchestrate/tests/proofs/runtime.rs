//! Bundles under a real container runtime: `just test-bundle`. Not among the tests of every run, since no machine
//! has to have one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tests::layer;
use tests::oci::Image;

use crate::bench::{Bench, Host};

const PASSWD: &[u8] = b"root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n";
const GROUP: &[u8] = b"root:x:0:\napp:x:1001:app\nwheel:x:10:root,app\n";

/// What a program in the container says of itself.
const TELL: &str = "echo $(id -u) $(id -g) $(id -G) $HOME $(pwd) $(hostname)";

/// A shell and its programs in one file, which the guests of the tests have too.
fn busybox() -> Vec<u8> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = PathBuf::from(std::env::var_os("HOME").expect("HOME is set"));
    let guest = cache.unwrap_or_else(|| home.join(".cache")).join("veneer/guest");
    let found =
        ["bin/busybox", "usr/bin/busybox"].iter().find_map(|p| fs::read(guest.join(p)).ok());
    found.unwrap_or_else(|| panic!("no busybox below {}: run ./bootstrap", guest.display()))
}

/// The one layer of all images here.
fn tar() -> Vec<u8> {
    let there = Command::new("runc").arg("--version").output();
    assert!(there.is_ok_and(|ran| ran.status.success()), "no runc here: apt-get install runc");
    layer::of_root(&[
        ("bin/sh", &busybox(), 0o4755),
        ("etc/passwd", PASSWD, 0o644),
        ("etc/group", GROUP, 0o644),
        ("etc/hosts", b"192.0.2.1 of-the-image\n", 0o644),
        ("etc/machine-id", b"0123456789abcdef0123456789abcdef\n", 0o444),
        ("var/lib/dbus/machine-id", b"0123456789abcdef0123456789abcdef\n", 0o444),
    ])
}

/// A host with the image `box`, which is active as `web`.
fn host(bench: &Bench) -> Host<'_> {
    bench.put("box/1.tar", &tar());
    let host = bench.host("host");
    host.ok(&["activate", "s3://bucket/box/", "--name", "web"]);
    host
}

/// What `runc run` of the bundle says.
fn run(bench: &Bench, bundle: &Path) -> String {
    let name = format!("veneer-{}-{}", std::process::id(), bundle.file_name().unwrap().display());
    let ran = Command::new("runc")
        .arg("--root")
        .arg(bench.path("runc"))
        .args(["run", "-b"])
        .arg(bundle)
        .arg(name)
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{out}{err}");
    out.trim_end().to_owned()
}

fn config(bundle: &Path) -> Value {
    serde_json::from_slice(&fs::read(bundle.join("config.json")).unwrap()).unwrap()
}

#[test]
#[ignore = "needs runc: just test-bundle"]
fn a_bundle_runs() {
    let bench = Bench::small();
    let host = host(&bench);
    let bundle = bench.path("plain");
    let sh = |script| ["bundle", "web", bundle.to_str().unwrap(), "--", "/bin/sh", "-c", script];
    host.ok(&sh(TELL));
    assert_eq!(run(&bench, &bundle), "0 0 0 10 /root / web");
    assert_eq!(config(&bundle)["process"]["user"]["additionalGids"], json!([10]));
    // What is written is the activation's, and there at the next run.
    host.ok(&sh("echo kept >/srv && echo done"));
    assert_eq!(run(&bench, &bundle), "done");
    host.ok(&sh("cat /srv /etc/hosts; ls /dev; ls -d /proc/self"));
    let said = run(&bench, &bundle);
    assert!(said.starts_with("kept\n192.0.2.1 of-the-image\n"), "{said}");
    assert!(said.contains("\nnull\n") && said.ends_with("/proc/self"), "{said}");
}

#[test]
#[ignore = "needs runc: just test-bundle"]
fn files_of_an_activation_are_seen_in_place_of_the_images_and_the_image_keeps_its_own() {
    let bench = Bench::small();
    let host = host(&bench);
    let (bundle, hosts, resolv) = (bench.path("files"), bench.path("hosts"), bench.path("resolv"));
    fs::write(&hosts, "192.0.2.2 of-the-caller\n").unwrap();
    fs::write(&resolv, "nameserver 192.0.2.53\n").unwrap();
    let script = "cat /etc/hosts /etc/resolv.conf /etc/hostname; hostname; wc -c </etc/machine-id; \
                  wc -c </var/lib/dbus/machine-id; (echo x >>/etc/hosts) 2>/dev/null || echo refused; \
                  echo 11111111111111111111111111111111 >/etc/machine-id; cat /var/lib/dbus/machine-id";
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let words = [
        "bundle",
        "web",
        &path(&bundle),
        "--hostname",
        "db-7",
        "--hosts",
        &path(&hosts),
        "--resolv-conf",
        &path(&resolv),
        "--empty-machine-id",
        "--",
        "/bin/sh",
        "-c",
        script,
    ];
    host.ok(&words);
    assert_eq!(
        run(&bench, &bundle),
        "192.0.2.2 of-the-caller\nnameserver 192.0.2.53\ndb-7\ndb-7\n0\n0\nrefused\n\
         11111111111111111111111111111111"
    );
    assert_eq!(fs::read_to_string(&hosts).unwrap(), "192.0.2.2 of-the-caller\n");
    let tree = host.store().join("active/web").canonicalize().unwrap();
    assert_eq!(fs::read(tree.join("etc/hosts")).unwrap(), b"192.0.2.1 of-the-image\n");
    assert!(fs::read(tree.join("etc/machine-id")).unwrap().starts_with(b"0123"));
}

#[test]
#[ignore = "needs runc: just test-bundle"]
fn every_form_of_user_is_who_runs() {
    let bench = Bench::small();
    let (host, layer, layout) = (bench.host("host"), bench.path("layer.tar"), bench.path("layout"));
    fs::write(&layer, tar()).unwrap();
    let script = "echo $(id -u) $(id -g) $(id -G) $HOME $(pwd) $A; touch /srv/x 2>/dev/null && echo may || echo may not";
    for (number, (user, expected)) in [
        ("", "0 0 0 10 /root /srv b\nmay"),
        ("root", "0 0 0 10 /root /srv b\nmay"),
        ("app", "1000 1001 1001 10 /home/app /srv b\nmay not"),
        ("1000", "1000 1001 1001 10 /home/app /srv b\nmay not"),
        ("app:wheel", "1000 10 10 /home/app /srv b\nmay not"),
        ("1000:4711", "1000 4711 4711 /home/app /srv b\nmay not"),
        ("4711", "4711 0 0 / /srv b\nmay not"),
        ("4711:4712", "4711 4712 4712 / /srv b\nmay not"),
    ]
    .into_iter()
    .enumerate()
    {
        let own = json!({
            "User": user, "Env": ["A=a", "A=b"], "WorkingDir": "/srv",
            "Entrypoint": ["/bin/sh", "-c"], "Cmd": [script],
        });
        let tag = format!("t{number}");
        let name = ("org.opencontainers.image.ref.name", tag.as_str());
        Image::run_as(std::slice::from_ref(&layer), name, &own).unwrap().write(&layout).unwrap();
        host.ok(&["activate", &format!("oci:{}:{tag}", layout.display()), "--name", &tag]);
        let bundle = bench.path(&format!("bundle-{number}"));
        host.ok(&["bundle", &tag, bundle.to_str().unwrap()]);
        assert_eq!(run(&bench, &bundle), expected, "{user:?}");
    }
}
