//! What was written to an activation on a pool leaves the host as a layer: whoever puts it on the image has the same
//! tree. Nothing that a guest wrote is mounted for that, what somebody has open is not read, and an export that was
//! killed leaves nothing that recovery does not take away.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::guest::Guest;
use crate::guest::veneer::{Mounted, Veneer};
use crate::layer;
use crate::oci::Image;
use crate::scenario::{Needs, Report, Scenario};
use crate::tree::Tree;

/// See the module.
pub const SCENARIO: Scenario =
    Scenario { name: "export", needs: Needs { timeout_s: 300, ..Needs::DEFAULT }, run };

const IMAGE: &str = "s3://export/app/";
const NEXT: &str = "s3://export/next/";

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path of this test's")
}

/// Changes of each kind, and a file that is longer than a pipe.
fn change(top: &Path) -> Result<()> {
    fs::remove_file(top.join("etc/gone"))?;
    fs::write(top.join("etc/kept"), "changed")?;
    fs::hard_link(top.join("etc/kept"), top.join("etc/again"))?;
    symlink("kept", top.join("etc/link"))?;
    fs::remove_dir_all(top.join("opt"))?;
    fs::write(top.join("opt"), "a file now")?;
    fs::set_permissions(top.join("etc"), fs::Permissions::from_mode(0o2711))?;
    let bytes: Vec<u8> = (0..4u32 << 20).map(|n| (n ^ (n >> 9)).to_le_bytes()[0]).collect();
    Ok(fs::write(top.join("large"), bytes)?)
}

fn tree(guest: &Guest, name: &str) -> Result<Tree> {
    Mounted::new(guest.scratch(), name)?.tree()
}

/// Killed while it writes: its devices are there until the next command, and then they are not.
fn killed(veneer: &Veneer) -> Result<()> {
    let mut child = Command::new("orchestrate")
        .args(["export", "web"])
        .env("VENEER_STATE", &veneer.state)
        .env("VENEER_STORE", "thin:veneer")
        .stdout(Stdio::piped())
        .spawn()?;
    let mut first = [0];
    child.stdout.as_mut().context("a pipe")?.read_exact(&mut first)?;
    // Meanwhile nobody takes it away.
    veneer.cmd(&["rm", "web", "--wait", "0"]).run()?.expect(111)?;
    child.kill()?;
    child.wait()?;
    veneer.ok(&["recover"])?;
    veneer.check()?;
    let looks = veneer.pool.pool().active()?;
    let looks: Vec<_> = looks.iter().filter(|active| active.name.contains("-look-")).collect();
    ensure!(looks.is_empty(), "left behind: {looks:?}");
    Ok(())
}

/// As an image of a layout, which keeps its config.
fn of_a_layout(guest: &Guest, veneer: &Veneer, tar: &[u8]) -> Result<()> {
    let (layer, layout) = (guest.scratch().join("layer.tar"), guest.scratch().join("layout"));
    fs::write(&layer, tar)?;
    let name = ("org.opencontainers.image.ref.name", "v1");
    Image::run_as(&[layer], name, &json!({"Cmd": ["/bin/app"]}))?.write(&layout)?;
    let named = |tag: &str| format!("oci:{}:{tag}", layout.display());
    veneer.ok(&["activate", &named("v1"), "--name", "app"])?;
    {
        let mounted = Mounted::new(guest.scratch(), "app")?;
        change(mounted.path())?;
    }
    let done = veneer.ok(&["export", "app", "--image", &named("v2"), "--zstd"])?;
    ensure!(done["removed"] == 1, "{done}");
    veneer.ok(&["activate", &named("v2"), "--name", "app-2"])?;
    tree(guest, "app")?.expect_equal(&tree(guest, "app-2")?)?;
    let machine = veneer.ok(&["show", "app-2", "--vm"])?;
    ensure!(machine["args"] == json!(["/bin/app"]), "{machine}");
    Ok(())
}

fn run(guest: &mut Guest) -> Result<Report> {
    let veneer = Veneer::new(guest)?;
    veneer.s3.make_bucket("export")?;
    let tar = layer::of_root(&[
        ("etc/gone", b"gone", 0o644),
        ("etc/kept", b"kept", 0o640),
        ("opt/app/file", b"in a directory", 0o4755),
    ]);
    veneer.s3.put("export", "app/1.tar", &tar)?;
    veneer.s3.put("export", "next/1.tar", &tar)?;
    veneer.ok(&["activate", IMAGE, "--name", "web"])?;
    let file = guest.scratch().join("exported");
    let export = ["export", "web", "-o", text(&file)?];
    {
        let mounted = Mounted::new(guest.scratch(), "web")?;
        change(mounted.path())?;
        veneer.cmd(&export).run()?.expect_message(111, "export a fork of it")?;
    }
    let open = fs::OpenOptions::new().read(true).write(true).open("/dev/mapper/web")?;
    veneer.cmd(&export).run()?.expect_message(111, "open in process")?;
    ensure!(!file.exists(), "a file of what was not exported");
    drop(open);

    // It is up, and nobody has it open.
    let done = veneer.ok(&export)?;
    ensure!(done["removed"] == 1 && done["base"] == IMAGE, "{done}");
    veneer.check()?;
    let bytes = fs::read(&file)?;
    veneer.s3.put("export", "next/2.tar", &bytes)?;
    veneer.ok(&["activate", NEXT, "--name", "next"])?;
    tree(guest, "web")?.expect_equal(&tree(guest, "next")?)?;

    // It is down, and a guest's journal is in it.
    veneer.ok(&["deactivate", "web"])?;
    let again = veneer.cmd(&export).run()?.expect(0)?;
    ensure!(fs::read(&file)? == bytes, "other bytes of the same trees: {again:?}");
    veneer.check()?;
    killed(&veneer)?;
    veneer.ok(&["activate", IMAGE, "--name", "web"])?;
    killed(&veneer)?;
    of_a_layout(guest, &veneer, &tar)?;
    veneer.check()?;
    veneer.close()?;
    Ok(Report::new().figure("bytes_of_layer", bytes.len()))
}
