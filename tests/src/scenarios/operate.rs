//! What an operator does besides activating, on a pool: a lost registry made again from the notes on
//! the volumes, a forged note that makes no layer, a flipped byte that `verify` finds, room given back.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use thin::Access;

use crate::guest::Guest;
use crate::guest::veneer::{Mounted, Veneer, image};
use crate::scenario::{Images, Needs, Report, Scenario};

/// See the module.
pub const SCENARIO: Scenario = Scenario {
    name: "operate",
    needs: Needs { images: Images::Small, timeout_s: 900, ..Needs::DEFAULT },
    run,
};

fn run(guest: &mut Guest) -> Result<Report> {
    let veneer = Veneer::new(guest)?;
    veneer.activate("golang", "golang-1")?;
    veneer.activate("golang", "golang-2")?;
    veneer.ok(&["ensure", &image("python")])?;
    let mounted = Mounted::new(guest.scratch(), "golang-1")?;
    std::fs::write(mounted.path().join("written"), "kept")?;
    drop(mounted);
    // Five of golang, and two that only python has.
    let layers = 7;
    let mut report = Report::new().figure("layers", layers);

    rebuild(&veneer, layers)?;
    let mounted = Mounted::new(guest.scratch(), "golang-1")?;
    ensure!(mounted.path().join("written").exists(), "a rebuild lost what was written");
    drop(mounted);
    scanned(&veneer)?;
    flipped(&veneer)?;

    // Room: python has no activation and goes, golang is in use and stays.
    let df = veneer.ok(&["df"])?;
    let python = df["images"]
        .as_array()
        .and_then(|images| images.iter().find(|line| line["image"] == image("python")))
        .context("python")?;
    let told = python["would_free_bytes"].as_u64().context("bytes")?;
    let before = veneer.used_blocks()?;
    // The template and what is active stay, so that it says no.
    let ran = veneer.cmd(&["gc", "--keep-bytes", "0", "--json"]).run()?.expect(1)?;
    let done = ran.json()?;
    let freed = before - veneer.used_blocks()?;
    ensure!(freed > 0 && done["freed_bytes"] == freed << 20, "freed {freed} blocks: {done}");
    report = report.figure("told_mib", told >> 20).figure("freed_mib", freed);
    veneer.check()?;
    veneer.close()?;
    Ok(report)
}

/// The registry is lost; one activation carries a note that its owner has forged.
fn rebuild(veneer: &Veneer, layers: usize) -> Result<()> {
    let device = Path::new("/dev/mapper/golang-2");
    let mut note = [0; 1024];
    File::open(device)?.read_exact_at(&mut note, 0)?;
    ensure!(note.starts_with(b"veneer-sealed-3\n"), "a snapshot has no note of its origin's");
    // What the owner can know: the origin's own note, with the activation's id in it.
    let row = veneer.ok(&["show", "golang-2"])?;
    let (id, origin) = (&row["activation"]["volume"], &row["activation"]["origin"]);
    let (from, to) = (format!("\"id\":{origin},"), format!("\"id\":{id},"));
    let at = note.windows(from.len()).position(|text| text == from.as_bytes()).context("id")?;
    ensure!(from.len() == to.len(), "ids of one length make the forgery easy: {from} {to}");
    note[at..at + to.len()].copy_from_slice(to.as_bytes());
    let file = OpenOptions::new().write(true).open(device)?;
    file.write_all_at(&note, 0)?;
    file.sync_all()?;
    drop(file);

    std::fs::remove_dir_all(&veneer.state)?;
    let done = veneer.ok(&["rebuild", "--take-over"])?;
    ensure!(done["layers"] == layers, "rebuilt {done}, sealed were {layers}");
    ensure!(
        done["images"] == serde_json::json!([image("golang"), image("python")]),
        "the images of {done}"
    );
    // What it says of itself is not sealed here: it is nobody's layer, and kept under the name it is up as.
    let names = serde_json::json!(["golang-1", "golang-2"]);
    ensure!(done["activations"] == names, "activations of {done}");
    ensure!(done["unread"][0]["volume"] == *id, "the forged one in {done}");
    veneer.s3.proxy.clear();
    let again = veneer.activate("golang", "golang-1")?;
    ensure!(again["already"] == true, "after the rebuild: {again}");
    let python = veneer.ok(&["ensure", &image("python")])?;
    ensure!(python["fetched_objects"] == 0, "after the rebuild: {python}");
    ensure!(veneer.s3.object_gets().is_empty(), "a rebuild cost an object");
    let verified = veneer.ok(&["verify", &image("python")])?;
    ensure!(verified["intact"] == true, "layers differ after the rebuild: {verified}");
    // The forged one is the operator's to remove.
    veneer.ok(&["rm", "golang-2"])?;
    veneer.check()
}

/// A scanner sees the sealed top layer of a pool, cannot write to it, and leaves no device behind; one
/// that is killed with its orchestrate does not either.
fn scanned(veneer: &Veneer) -> Result<()> {
    let script = veneer.state.join("scanner");
    // A scanner gets the usual PATH, and the guest has its small programs elsewhere.
    let text = |lines: &str| format!("#!/bin/sh\nPATH=$PATH:/busybox\n{lines}\n");
    let scan = |lines: &str| -> Result<crate::guest::cmd::Ran> {
        std::fs::write(&script, text(lines))?;
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755))?;
        let command = format!("{} {{}}", script.display());
        let cmd = veneer.cmd(&["scan", &image("python"), "--json"]);
        cmd.env("VENEER_SCAN_COMMAND", command).env("VENEER_SCAN_TIMEOUT", "2").run()
    };
    let good = "echo '{\"SchemaVersion\": 2, \"Results\": []}'";
    let look = "test -e $1/srv/app/hello.py || exit 3; touch $1/new 2>/dev/null && exit 4
                mount -o remount,rw $1 2>/dev/null; touch $1/new 2>/dev/null && exit 5";
    let done = scan(&format!("{look}; {good}"))?.expect(0)?.json()?;
    ensure!(done["counts"]["critical"] == 0 && done["format"] == "trivy", "{done}");
    scan("sleep 600")?.expect_message(111, "killed after 2 s")?;
    veneer.check()
}

/// A byte of a sealed volume changes under us: a disk that lies, or an operator who wrote to it.
fn flipped(veneer: &Veneer) -> Result<()> {
    let listing = veneer.ok(&["ls"])?;
    let python = listing["images"]
        .as_array()
        .and_then(|images| images.iter().find(|line| line["image"] == image("python")))
        .context("python")?;
    let layer = python["layers"].as_array().and_then(|layers| layers.last()).context("a layer")?;
    let id = layer["volume"].as_u64().context("an id")?;
    let pool = veneer.pool.pool();
    let volume = pool.activate(thin::ThinId::new(id)?, "by-hand", 8 << 20, Access::ReadWrite)?;
    let point = veneer.state.join("by-hand");
    std::fs::create_dir_all(&point)?;
    let mounted = Mounted::of(&volume.path(), &point)?;
    let file = mounted.path().join("srv/app/hello.py");
    let modified = std::fs::metadata(&file)?.modified()?;
    let mut content = std::fs::read(&file)?;
    *content.last_mut().context("an empty file")? ^= 1;
    std::fs::write(&file, content)?;
    let times = std::fs::FileTimes::new().set_modified(modified);
    OpenOptions::new().write(true).open(&file)?.set_times(times)?;
    drop(mounted);
    pool.deactivate("by-hand")?;
    let found = veneer.cmd(&["verify", &image("python"), "--json"]).run()?.expect(1)?.json()?;
    let changed: Vec<_> = found["volumes"]
        .as_array()
        .context("volumes")?
        .iter()
        .filter(|line| line["now"] != "intact")
        .collect();
    ensure!(changed.len() == 1 && changed[0]["volume"] == id, "of volume {id}: {found}");
    Ok(())
}
