//! The same images by the world's own programs: what umoci makes and skopeo copies is one stack here, and the tree is
//! that of `umoci unpack`. Only as `just test-peers-images`, where both are installed.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tests::tree::Tree;

use crate::bench::Bench;
use crate::images::layout::sha;

fn sh(dir: &Path, script: &str) {
    let ran = Command::new("sh").args(["-euc", script]).current_dir(dir).output().unwrap();
    assert!(ran.status.success(), "{script}: {ran:?}");
}

const MAKE: &str = "
umoci init --layout gzip
umoci new --image gzip:v1
umoci unpack --image gzip:v1 one
cd one/rootfs
mkdir -p bin etc srv/d srv/gone var/empty
cp /bin/ls bin/ls; chmod 4755 bin/ls
echo a > etc/a; ln -s a etc/soft; ln etc/a etc/hard; ln -s /nowhere etc/nowhere
echo x > srv/d/x; chown 1000:50 srv/d/x; echo y > srv/gone/y; mkfifo srv/fifo; chmod 1777 var/empty
cd ../..
umoci repack --image gzip:v1 one
umoci unpack --image gzip:v1 two
cd two/rootfs
rm etc/soft; rm -r srv/gone srv/d; mkdir srv/d; echo new > srv/d/new; chmod 600 etc/a
cd ../..
umoci repack --image gzip:v1 two
umoci unpack --image gzip:v1 three
echo last > three/rootfs/etc/last
umoci repack --image gzip:v1 three
umoci config --image gzip:v1 --config.user 1000:50 --config.cmd /bin/ls --config.env A=b
umoci unpack --image gzip:v1 reference
copy() { skopeo --insecure-policy copy --quiet \"$@\"; }
copy oci:gzip:v1 oci-archive:oci.tar:v1
copy oci:gzip:v1 docker-archive:docker.tar:app:v1
copy oci:gzip:v1 dir:dir
gzip -k docker.tar
";

const FORMS: &[&str] = &[
    "oci:gzip:v1",
    "oci-archive:oci.tar:v1",
    "oci-archive:oci.tar",
    "docker-archive:docker.tar:app:v1",
    "docker-archive:docker.tar.gz",
];

/// Whether this skopeo can write it; older ones cannot.
const ALSO: &[(&str, &str)] = &[
    ("zstd:v1", "--dest-compress --dest-compress-format zstd"),
    ("chunked:v1", "--dest-compress --dest-compress-format zstd:chunked"),
    ("plain:v1", "--dest-decompress"),
];

#[test]
#[ignore = "needs umoci and skopeo: just test-peers-images"]
fn what_the_worlds_programs_make_is_one_stack_and_their_tree() {
    let bench = Bench::new(&[], 4, 2000);
    let dir = bench.path("peers");
    fs::create_dir(&dir).unwrap();
    sh(&dir, MAKE);
    let mut forms: Vec<String> = FORMS.iter().map(|form| (*form).to_owned()).collect();
    for (form, flags) in ALSO {
        let copy = format!("skopeo --insecure-policy copy --quiet {flags} oci:gzip:v1 oci:{form}");
        let ran = Command::new("sh").args(["-c", &copy]).current_dir(&dir).output().unwrap();
        match ran.status.success() {
            true => forms.push(format!("oci:{form}")),
            false => {
                eprintln!("{form} cannot be made here: {}", String::from_utf8_lossy(&ran.stderr))
            }
        }
    }
    // The chain id, from umoci's config beforehand.
    let read = |digest: &Value| -> Value {
        let path = dir.join("gzip/blobs/sha256").join(&digest.as_str().unwrap()[7..]);
        serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
    };
    let index: Value =
        serde_json::from_slice(&fs::read(dir.join("gzip/index.json")).unwrap()).unwrap();
    let config = read(&read(&index["manifests"][0]["digest"])["config"]["digest"]);
    let diffs = config["rootfs"]["diff_ids"].as_array().unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let chain = diffs[1..].iter().fold(text(&diffs[0]), |below, diff| {
        format!("sha256:{}", sha(format!("{below} {}", text(diff)).as_bytes()))
    });
    let due = Tree::read(&dir.join("reference/rootfs")).unwrap().without_root();
    let host = bench.host("host");
    let mut built = 0;
    for (at, form) in forms.iter().enumerate() {
        let name = format!("a-{at}");
        let words = ["activate", form, "--name", &name];
        let ran = host.command(&words).current_dir(&dir).output().unwrap();
        assert!(ran.status.success(), "{form}: {ran:?}");
        let done: Value = serde_json::from_slice(&ran.stdout).unwrap();
        assert_eq!(done["ensured"]["chain"], chain.as_str(), "{form}");
        let layers = done["ensured"]["layers"].as_array().unwrap();
        let own = layers.iter().filter(|layer| layer["how"] == "built").count();
        let tree = Tree::read(&host.store().join("active").join(&name)).unwrap().without_root();
        let differences = due.differences(&tree);
        assert!(differences.is_empty(), "{form}: {differences:?}");
        eprintln!(
            "{form}: {own} of {} layers built, {} entries as umoci's",
            layers.len(),
            tree.len()
        );
        built += own;
        // And unpacked itself, on a host that has nothing.
        let alone = bench.host("alone");
        alone.wipe();
        let ran = alone.command(&words).current_dir(&dir).output().unwrap();
        assert!(ran.status.success(), "{form}: {ran:?}");
        let tree = Tree::read(&alone.store().join("active").join(&name)).unwrap().without_root();
        let differences = due.differences(&tree);
        assert!(differences.is_empty(), "{form}, alone: {differences:?}");
    }
    assert_eq!(built, diffs.len());
    host.check();
}
