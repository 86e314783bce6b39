//! What an activation has changed, as a layer: whoever puts it on the image has the activation's tree again. On a
//! `dir:` store; on a pool it is the scenario `export` of the VM.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::mount::{MsFlags, mount, umount};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tests::layer;
use tests::oci::Image;
use tests::tree::Tree;

use crate::bench::{Bench, Host, names};

fn tree(host: &Host<'_>, name: &str) -> PathBuf {
    host.store().join("active").join(name).canonicalize().unwrap()
}

fn text_of(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{:x}", Sha256::digest(bytes))
}

/// Changes of each kind.
fn change(top: &Path) {
    let first = fs::read_dir(top.join("srv/layer-1")).unwrap().next().unwrap().unwrap().path();
    fs::remove_file(first).unwrap();
    fs::write(top.join("srv/new"), "new").unwrap();
    fs::hard_link(top.join("srv/new"), top.join("srv/again")).unwrap();
    symlink("new", top.join("srv/link")).unwrap();
    fs::remove_dir_all(top.join("srv/layer-3")).unwrap();
    fs::write(top.join("srv/layer-3"), "a file now").unwrap();
    fs::set_permissions(top.join("srv"), fs::Permissions::from_mode(0o2711)).unwrap();
    nix::unistd::mkfifo(&top.join("srv/fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
}

fn same(host: &Host<'_>, one: &str, other: &str) {
    let read = |name| Tree::read(&tree(host, name)).unwrap();
    read(one).expect_equal(&read(other)).unwrap();
}

#[test]
fn an_exported_layer_is_the_next_one_of_numbered_layers() {
    let bench = Bench::small();
    let host = bench.host("host");
    host.ok(&["activate", "s3://bucket/a/", "--name", "web"]);
    change(&tree(&host, "web"));
    for number in 1..=3u8 {
        bench.put(&format!("next/{number}.tar"), &layer::stacked(number, 4, 2000));
    }
    let before = host.rows("SELECT count(*) FROM runs");
    let mut digests = Vec::new();
    for (number, flag) in ["", "--gzip", "--zstd"].into_iter().enumerate() {
        let file = bench.path(&format!("layer-{number}"));
        let mut words = vec!["export", "web", "-o", text_of(&file)];
        words.extend((!flag.is_empty()).then_some(flag));
        let done = host.ok(&words);
        let bytes = fs::read(&file).unwrap();
        assert_eq!(done["digest"], sha256(&bytes), "{flag}");
        assert_eq!(
            (&done["bytes"], &done["base"]),
            (&json!(bytes.len()), &json!("s3://bucket/a/"))
        );
        assert_eq!((&done["removed"], &done["to"]), (&json!(1), &json!(text_of(&file))));
        digests.push(done["diff_id"].clone());
        bench.put("next/4.tar", &bytes);
        let name = format!("web-{number}");
        host.ok(&["activate", "s3://bucket/next/", "--name", &name]);
        same(&host, "web", &name);
    }
    assert!(digests.iter().all(|digest| *digest == digests[0]), "{digests:?}");
    // To standard output the same bytes, and the words beside it.
    let ran = host.command(&["export", "web"]).stdout(Stdio::piped()).output().unwrap();
    assert!(ran.status.success(), "{ran:?}");
    assert_eq!(sha256(&ran.stdout), digests[0].as_str().unwrap());
    let said: serde_json::Value = serde_json::from_slice(&ran.stderr).unwrap();
    assert_eq!((&said["diff_id"], &said["to"]), (&digests[0], &json!(null)));
    // One that is down has what was written to it.
    host.ok(&["deactivate", "web"]);
    let ran = host.command(&["export", "web"]).output().unwrap();
    assert_eq!(sha256(&ran.stdout), digests[0].as_str().unwrap());
    // Nothing of the host was changed by it, and nothing was written down as a request.
    let runs = host.rows("SELECT count(*) FROM runs WHERE verb NOT IN ('activate', 'deactivate')");
    assert_eq!((runs, before), (vec!["0".to_owned()], vec!["1".to_owned()]));
    host.check();
}

#[test]
fn an_exported_image_stands_beside_the_one_that_it_is_of() {
    let bench = Bench::small();
    let host = bench.host("host");
    let layout = bench.path("layout");
    let tars: Vec<PathBuf> = [1u8, 2, 3]
        .iter()
        .map(|number| {
            let path = bench.path(&format!("tar-{number}"));
            fs::write(&path, layer::stacked(*number, 4, 2000)).unwrap();
            path
        })
        .collect();
    let own = json!({"User": "7", "Cmd": ["/bin/app"], "Labels": {"k": "v"}});
    let image = Image::run_as(&tars, ("org.opencontainers.image.ref.name", "v1"), &own).unwrap();
    image.write(&layout).unwrap();
    let named = |tag: &str| format!("oci:{}:{tag}", layout.display());
    host.ok(&["activate", &named("v1"), "--name", "web"]);
    change(&tree(&host, "web"));
    let done = host.ok(&["export", "web", "--image", &named("v2"), "--zstd"]);
    assert_eq!(done["to"], named("v2"));
    let again = host.ok(&["activate", &named("v2"), "--name", "copy"]);
    assert_eq!(again["ensured"]["layers"].as_array().unwrap().len(), 4, "{again}");
    same(&host, "web", "copy");
    // What the image says of itself is what the other one says.
    assert_eq!(host.ok(&["show", "copy", "--vm"])["args"], json!(["/bin/app"]));
    // The tag that was there stands for what it stood for; whoever has never seen any of it reads the new one.
    let other = bench.host("other");
    other.ok(&["activate", &named("v1"), "--name", "old"]);
    other.ok(&["activate", &named("v2"), "--name", "new"]);
    let read = |host: &Host<'_>, name| Tree::read(&tree(host, name)).unwrap();
    read(&other, "new").expect_equal(&read(&host, "web")).unwrap();
    assert!(read(&other, "old").expect_equal(&read(&other, "new")).is_err());
    // A tag that is there is replaced, and one image can stand on another that was exported.
    fs::write(tree(&host, "copy").join("srv/more"), "more").unwrap();
    host.ok(&["export", "copy", "--image", &named("v2"), "--gzip"]);
    host.ok(&["activate", &named("v2"), "--name", "third"]);
    same(&host, "copy", "third");
    let left = names(&layout.join("blobs/sha256"));
    assert!(left.iter().all(|name| name.len() == 64), "{left:?}");
    host.check();
}

#[test]
fn what_cannot_be_exported_is_said_and_leaves_nothing() {
    let bench = Bench::small();
    let host = bench.host("host");
    host.ok(&["activate", "s3://bucket/a/", "--name", "web"]);
    let (out, layout) = (bench.path("out"), bench.path("layout"));
    fs::create_dir(&out).unwrap();
    let layer = out.join("layer");
    let to = ["-o", text_of(&layer)];
    Image::new(&[], ("org.opencontainers.image.ref.name", "v1")).unwrap().write(&layout).unwrap();
    let image = format!("oci:{}:v2", layout.display());
    let refused = |words: &[&str], code: i32, told: &str| {
        let said = host.said(words);
        assert!(said.0 == code && said.1.contains(told), "{words:?}: {said:?}");
        assert_eq!(names(&out), [""; 0], "{words:?}");
    };
    let export = |rest: &[&'static str]| [&["export", "web"][..], rest].concat();
    refused(&["export", "none", to[0], to[1]], 100, "no activation \\\"none\\\" here");
    refused(&export(&["--gzip", "--zstd"]), 100, "one of them");
    refused(&["export", "web", "--image", &image, to[0], to[1]], 100, "one of them");
    refused(&export(&["-o", "/dev/null"]), 100, "no regular file");
    refused(&["export", "web", "-o", text_of(&out)], 100, "no regular file");
    refused(&export(&["-o", "/none/layer"]), 100, "directory above it is not there");
    refused(&["export", "web", "--image", &image], 100, "has no manifest");
    refused(&export(&["--image", "oci:s3://bucket/x/:v2"]), 100, "orchestrate push oci:DIR:TAG");
    refused(&export(&["--image", "docker://docker.io/library/name:v2"]), 100, "made in a layout");
    let top = tree(&host, "web");
    fs::write(top.join("srv/.wh.trap"), "").unwrap();
    refused(&["export", "web", to[0], to[1]], 100, "srv/.wh.trap");
    fs::remove_file(top.join("srv/.wh.trap")).unwrap();
    // Whoever has something mounted in it may be writing.
    fs::create_dir(top.join("mnt")).unwrap();
    let none = None::<&str>;
    mount(Some("none"), &top.join("mnt"), Some("tmpfs"), MsFlags::empty(), none).unwrap();
    let said = host.said(&["export", "web", to[0], to[1]]);
    umount(&top.join("mnt")).unwrap();
    assert!(said.0 == 111 && said.1.contains("a fork of it"), "{said:?}");
    assert_eq!(names(&out), [""; 0]);
    // A reader that goes away ends it, and a socket is no reason not to.
    let _socket = std::os::unix::net::UnixListener::bind(top.join("srv/socket")).unwrap();
    let bytes: Vec<u8> = (0..4u32 << 20).map(|n| (n ^ (n >> 7)).to_le_bytes()[0]).collect();
    fs::write(top.join("srv/large"), bytes).unwrap();
    let mut child = host.command(&["export", "web"]).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(111));
    assert_eq!(host.ok(&["export", "web", to[0], to[1]])["sockets"], 1);
    let listed = Command::new("tar").arg("-tf").arg(&layer).output().unwrap();
    assert!(listed.status.success() && listed.stderr.is_empty(), "{listed:?}");
    host.check();
}

/// The layout lacks a layer of the image: a new one would be one that nobody can use.
#[test]
fn an_image_of_which_a_layer_is_missing_is_not_made() {
    let bench = Bench::small();
    let (host, layout, tar) = (bench.host("host"), bench.path("layout"), bench.path("tar"));
    fs::write(&tar, layer::stacked(1, 4, 2000)).unwrap();
    let image = Image::new(std::slice::from_ref(&tar), ("org.opencontainers.image.ref.name", "v1"));
    let image = image.unwrap();
    image.write(&layout).unwrap();
    let named = |tag: &str| format!("oci:{}:{tag}", layout.display());
    host.ok(&["activate", &named("v1"), "--name", "web"]);
    fs::write(tree(&host, "web").join("srv/new"), "new").unwrap();
    let index = fs::read(layout.join("index.json")).unwrap();
    let blob = layout.join(&image.layers[0].0);
    fs::rename(&blob, bench.path("away")).unwrap();
    let (code, said) = host.said(&["export", "web", "--image", &named("v2")]);
    assert!(code == 100 && said.contains("needs all layers of the old one"), "{said}");
    assert_eq!(fs::read(layout.join("index.json")).unwrap(), index);
    assert_eq!(names(&layout.join("blobs/sha256")).len(), 2, "manifest and config");
    fs::rename(bench.path("away"), &blob).unwrap();
    host.ok(&["export", "web", "--image", &named("v2")]);
    host.ok(&["activate", &named("v2"), "--name", "copy"]);
    same(&host, "web", "copy");
}
