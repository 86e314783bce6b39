//! An activation on a pool goes to what runs it: mounted in the caller's namespace with the options of a root file
//! system, as the root of a bundle, or told to a machine; and nobody mounts what a machine has open.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::guest::Guest;
use crate::guest::veneer::Veneer;
use crate::layer;
use crate::oci::Image;
use crate::scenario::{Needs, Report, Scenario};

/// See the module.
pub const SCENARIO: Scenario =
    Scenario { name: "handover", needs: Needs { timeout_s: 300, ..Needs::DEFAULT }, run };

const IMAGE: &str = "s3://handover/app/";

const PASSWD: &[u8] = b"root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n";
const GROUP: &[u8] = b"root:x:0:\nwheel:x:10:root,app\n";

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path of this test's")
}

/// The line of the table of mounts for this place.
fn mounted(at: &Path) -> Result<Option<String>> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let here = |line: &&str| line.split(' ').nth(4).is_some_and(|point| Path::new(point) == at);
    Ok(table.lines().find(here).map(str::to_owned))
}

/// The same layer as an image with a config, which says whom it runs as.
fn of_a_layout(guest: &Guest, veneer: &Veneer, tar: &[u8]) -> Result<()> {
    let (layer, layout) = (guest.scratch().join("layer.tar"), guest.scratch().join("layout"));
    fs::write(&layer, tar)?;
    let own =
        json!({"User": "app", "Entrypoint": ["/bin/set"], "Cmd": ["a b"], "WorkingDir": "/etc"});
    let name = ("org.opencontainers.image.ref.name", "one");
    Image::run_as(&[layer], name, &own)?.write(&layout)?;
    veneer.ok(&["activate", &format!("oci:{}:one", text(&layout)?), "--name", "app"])?;
    let machine = veneer.ok(&["show", "app", "--vm"])?;
    ensure!(machine["uid"] == 1000 && machine["gid"] == 1001, "{machine}");
    ensure!(machine["args"] == json!(["/bin/set", "a b"]) && machine["cwd"] == "/etc", "{machine}");
    let bundle = guest.scratch().join("app");
    let done = veneer.ok(&["bundle", "app", text(&bundle)?])?;
    ensure!(done["mounted"] == true && done["uid"] == 1000, "{done}");
    ensure!(bundle.join("rootfs/bin/set").exists(), "no root");
    // In use by its mount, and gone with it.
    veneer.cmd(&["rm", "app"]).run()?.expect_message(111, "app is in use")?;
    veneer.ok(&["umount", "app"])?;
    veneer.ok(&["rm", "app"]).map(drop)
}

fn run(guest: &mut Guest) -> Result<Report> {
    let veneer = Veneer::new(guest)?;
    veneer.s3.make_bucket("handover")?;
    let tar = layer::of_root(&[
        ("etc/passwd", PASSWD, 0o644),
        ("etc/group", GROUP, 0o644),
        ("bin/set", b"#!/bin/sh\n", 0o4755),
    ]);
    veneer.s3.put("handover", "app/1.tar", &tar)?;
    veneer.ok(&["activate", IMAGE, "--name", "web"])?;
    let said = |args: &[&str], code: i32, words: &str| -> Result<()> {
        veneer.cmd(args).run()?.expect_message(code, words).map(drop)
    };

    // What a machine is told.
    let machine = veneer.ok(&["show", "web", "--vm"])?;
    ensure!(machine["device"] == "/dev/mapper/web" && machine["fstype"] == "ext4", "{machine}");
    let drive = &machine["firecracker"];
    ensure!(drive["path_on_host"] == "/dev/mapper/web", "{machine}");
    ensure!(drive["cache_type"] == "Writeback", "{machine}");
    ensure!(machine["uid"] == 0 && machine["groups"] == json!([10]), "{machine}");
    veneer.check()?;

    // A mount has the options of a root file system that may be hostile.
    let at = guest.scratch().join("at");
    fs::create_dir(&at)?;
    ensure!(veneer.ok(&["mount", "web", text(&at)?])?["already"] == false, "mounted twice");
    ensure!(veneer.ok(&["mount", "web", text(&at)?])?["already"] == true, "mounted a second time");
    let line = mounted(&at)?.context("no mount")?;
    let options = line.split(' ').nth(5).context("options")?;
    ensure!(options == "rw,nodev,noatime", "mounted {options}");
    ensure!(line.contains(" ext4 "), "mounted {line}");
    // What the superblock says already is not among the options of a mount.
    let minor = line.split([' ', ':']).nth(3).context("a device number")?;
    let all = fs::read_to_string(format!("/proc/fs/ext4/dm-{minor}/options"))?;
    ensure!(all.lines().any(|option| option == "errors=remount-ro"), "mounted {all}");
    fs::write(at.join("written"), "kept")?;
    let place = format!("mounted at \\\"{}\\\"", text(&at)?);
    let bundle = guest.scratch().join("bundle");
    let of = ["bundle", "web", text(&bundle)?, "--", "/bin/set"];
    for busy in [&["deactivate", "web"][..], &["rm", "web"], &of] {
        said(busy, 111, "web is in use")?;
        said(busy, 111, &place.replace('\\', ""))?;
    }
    let inside = fs::File::open(at.join("written"))?;
    said(&["umount", "web"], 111, "where somebody is at work")?;
    drop(inside);
    ensure!(veneer.ok(&["umount", "web"])?["from"] == json!([at]), "what was unmounted");
    ensure!(mounted(&at)?.is_none(), "still mounted");
    ensure!(veneer.ok(&["umount", "web"])?["from"] == json!([]), "unmounted twice");

    // A machine has the device open: no mount beside it.
    let open = fs::OpenOptions::new().read(true).write(true).open("/dev/mapper/web")?;
    said(&["mount", "web", text(&at)?], 111, "open in process")?;
    said(&of, 111, "open in process")?;
    ensure!(!bundle.join("config.json").exists(), "a bundle without its root");
    drop(open);

    // A bundle, with the activation as its root; it goes with the device when asked to.
    veneer.cmd(&["--json"]).args(of).run()?.expect(0)?;
    let config = fs::read(bundle.join("config.json"))?;
    let config: serde_json::Value = serde_json::from_slice(&config)?;
    let root = bundle.join("rootfs");
    ensure!(config["root"]["path"] == json!(root), "{config}");
    ensure!(config["process"]["user"]["additionalGids"] == json!([10]), "{config}");
    ensure!(fs::read_to_string(root.join("written"))? == "kept", "not what was written");
    veneer.cmd(&["--json"]).args(of).run()?.expect(0)?;
    let down = veneer.ok(&["deactivate", "web", "--unmount"])?;
    ensure!(down["changed"] == true && mounted(&root)?.is_none(), "{down}");
    said(&of, 100, "activation web is inactive")?;
    of_a_layout(guest, &veneer, &tar)?;
    veneer.check()?;
    veneer.close()?;
    Ok(Report::new())
}
