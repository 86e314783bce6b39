//! Disks of activations that travel: whole, in a chain of increments, to another host; cut and gone on with, with
//! flipped bytes, and with `kill -9` of the receiver at each call that changes the pool or the registry. What arrives is
//! equal to what was sent, byte for byte, and nothing of it is an activation before that.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::disk::{IMAGE, host};
use crate::guest::Guest;
use crate::guest::cmd::Cmd;
use crate::guest::disk::ScratchPool;
use crate::guest::veneer::{Mounted, Veneer};
use crate::scenario::{Needs, Report, Scenario};
use crate::trace::{self, Act, Call, Effect, Side, Whose};

/// See the module.
pub const SCENARIO: Scenario =
    Scenario { name: "travel", needs: Needs { timeout_s: 900, ..Needs::DEFAULT }, run };

/// Bytes of a disk: enough for what is written, and little to compare.
const DISK: &str = "268435456";

/// What is written between two points, in blocks of 64 KiB.
const CHANGED: [u64; 3] = [1, 100, 1000];

fn on(veneer: &Veneer, args: &[&str]) -> Cmd {
    veneer.cmd(args).env("VENEER_VOLUME_BYTES", DISK)
}

fn ok(veneer: &Veneer, args: &[&str]) -> Result<Value> {
    on(veneer, args).arg("--json").run()?.expect(0)?.json()
}

/// Another host: a pool and a state directory of its own.
struct Other<'a> {
    veneer: &'a Veneer,
    state: PathBuf,
    pool: ScratchPool,
}

impl Other<'_> {
    fn cmd(&self, args: &[&str]) -> Cmd {
        on(self.veneer, args).env("VENEER_STATE", &self.state).env("VENEER_STORE", "thin:other")
    }

    fn ok(&self, args: &[&str]) -> Result<Value> {
        self.cmd(args).arg("--json").run()?.expect(0)?.json()
    }
}

fn device(name: &str) -> PathBuf {
    Path::new("/dev/mapper").join(name)
}

/// Writes so many blocks of 64 KiB that nothing packs.
fn change(guest: &Guest, name: &str, file: &str, blocks: u64) -> Result<()> {
    let mounted = Mounted::new(guest.scratch(), name)?;
    let mut bytes = vec![0; usize::try_from(blocks << 16)?];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    fs::write(mounted.path().join(file), bytes)?;
    rustix::fs::syncfs(File::open(mounted.path())?)?;
    Ok(())
}

/// Every byte of both, and what e2fsck says of the one.
fn equal(guest: &Guest, one: &str, other: &str) -> Result<()> {
    let (mut left, mut right) = (File::open(device(one))?, File::open(device(other))?);
    let (mut a, mut b) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut at = 0;
    loop {
        let read = left.read(&mut a)?;
        right.read_exact(&mut b[..read])?;
        ensure!(a[..read] == b[..read], "{one} and {other} differ in the MiB at {at}");
        at += read;
        if read == 0 {
            break;
        }
    }
    ensure!(at.to_string() == DISK, "{at} bytes");
    guest.cmd("e2fsck").args(["-f", "-n"]).arg(device(other)).run()?.expect(0).map(drop)
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("text")
}

fn run(guest: &mut Guest) -> Result<Report> {
    let veneer = host(guest)?;
    ok(&veneer, &["ensure", IMAGE])?;
    ok(&veneer, &["activate", IMAGE, "--name", "vm"])?;
    let streams = guest.scratch().join("streams");
    fs::create_dir(&streams)?;
    let mut report = chain(guest, &veneer, &streams)?;
    eprintln!("a chain has arrived");
    whole(guest, &veneer, &streams)?;
    eprintln!("whole disks and zeros have arrived");
    refused(guest, &veneer, &streams)?;
    eprintln!("what was changed was refused");
    report = report.figure("cuts", cut(guest, &veneer, &streams)?);
    report = report.figure("kills", killed(guest, &veneer, &streams)?);
    ok(&veneer, &["rm", "vm"])?;
    veneer.check()?;
    veneer.close()?;
    Ok(report)
}

/// A chain of increments to another host, and how many bytes each has moved.
fn chain(guest: &Guest, veneer: &Veneer, streams: &Path) -> Result<Report> {
    let other =
        Other { veneer, state: guest.scratch().join("other-state"), pool: guest.pool("other")? };
    let first = streams.join("p0");
    change(guest, "vm", "first", 160)?;
    ok(veneer, &["snapshot", "vm", "p0"])?;
    let sent = ok(veneer, &["send", "vm", "--point", "p0", "-o", text(&first)?])?;
    ensure!(sent["bytes"].as_u64() == Some(fs::metadata(&first)?.len()), "{sent}");
    // What it stands on has to be there.
    let receive = |file: &Path| other.cmd(&["receive", "there"]).arg(file).run();
    receive(&first)?.expect_message(100, "orchestrate ensure")?;
    other.ok(&["ensure", IMAGE])?;
    let done = receive(&first)?.expect(0)?;
    ensure!(done.text()?.contains("not mapped"), "{}", done.text()?);
    ensure!(!device("there").exists(), "a receive has made a device");
    other.ok(&["activate", IMAGE, "--name", "there"])?;
    equal(guest, "vm", "there")?;

    let mut report = Report::new();
    for (at, blocks) in CHANGED.into_iter().enumerate() {
        let (since, point) = (format!("p{at}"), format!("p{}", at + 1));
        change(guest, "vm", "later", blocks)?;
        ok(veneer, &["snapshot", "vm", &point])?;
        let file = streams.join(&point);
        let words = ["send", "vm", "--since", &since, "--point", &point, "-o", text(&file)?];
        let sent = ok(veneer, &words)?;
        let bytes = sent["bytes"].as_u64().context("bytes")?;
        let block = sent["block_bytes"].as_u64().context("bytes")?;
        // What was written, the file system's own blocks, and no more.
        let bound = (blocks << 16) + 40 * block + (blocks << 8);
        ensure!(bytes >= blocks << 16 && bytes < bound, "{blocks} blocks: {sent}");
        let done = other.ok(&["receive", "there", text(&file)?])?;
        ensure!(done["mapped"] == true && done["already"] == false, "{done}");
        equal(guest, "vm", "there")?;
        report = report.figure(&format!("bytes_of_{blocks}"), bytes);
    }
    // Again: nothing is done. A link of the chain that is missed is told.
    let again = other.ok(&["receive", "there", text(&streams.join("p3"))?])?;
    ensure!(again["already"] == true, "{again}");
    let late = other.cmd(&["receive", "elsewhere"]).arg(streams.join("p3")).run()?;
    late.expect_message(100, "which elsewhere does not have")?;
    // The points are there as well: an earlier state can be gone back to, and sent on from there.
    other.ok(&["restore", "there", "p1"])?;
    let back = other.ok(&["send", "there", "--since", "p0", "--point", "p1", "-o", "/tmp/back"])?;
    ensure!(back["data_blocks"].as_u64().is_some_and(|blocks| blocks > 0), "{back}");
    fs::remove_file("/tmp/back")?;
    other.ok(&["rm", "there"])?;
    other.ok(&["rm", IMAGE])?;
    let Other { pool, .. } = other;
    for record in pool.pool().ids()? {
        pool.pool().delete(record.id)?;
    }
    pool.close()?;
    Ok(report)
}

/// All blocks; the disk as it is; by a pipe.
fn whole(guest: &Guest, veneer: &Veneer, streams: &Path) -> Result<()> {
    let file = streams.join("whole");
    ok(veneer, &["send", "vm", "--whole", "-o", text(&file)?])?;
    ok(veneer, &["receive", "copy", text(&file)?])?;
    ok(veneer, &["activate", IMAGE, "--name", "copy"])?;
    equal(guest, "vm", "copy")?;
    on(veneer, &["receive", "copy"]).arg(&file).run()?.expect_message(100, "copy")?;
    ok(veneer, &["rm", "copy"])?;
    // Blocks that were given back read as zeros there, too.
    {
        let mounted = Mounted::new(guest.scratch(), "vm")?;
        fs::remove_file(mounted.path().join("later"))?;
        rustix::fs::syncfs(File::open(mounted.path())?)?;
        guest.cmd("fstrim").arg(mounted.path()).run()?.expect(0)?;
    }
    ok(veneer, &["snapshot", "vm", "p4"])?;
    ok(veneer, &["receive", "copy", text(&streams.join("p0"))?])?;
    for link in ["p1", "p2", "p3"] {
        ok(veneer, &["receive", "copy", text(&streams.join(link))?])?;
    }
    let file = streams.join("p4");
    let sent = ok(veneer, &["send", "vm", "--since", "p3", "--point", "p4", "-o", text(&file)?])?;
    ensure!(sent["zero_blocks"].as_u64().is_some_and(|zeros| zeros > 40), "{sent}");
    let before = veneer.used_blocks()?;
    ok(veneer, &["receive", "copy", text(&file)?])?;
    ensure!(veneer.used_blocks()? < before + 20, "zeros take room");
    ok(veneer, &["activate", IMAGE, "--name", "copy"])?;
    equal(guest, "vm", "copy")?;
    ok(veneer, &["rm", "copy"])?;
    veneer.check()
}

/// What is in use without a point, what is no stream, what was changed on its way; a store of directories.
fn refused(guest: &Guest, veneer: &Veneer, streams: &Path) -> Result<()> {
    let out = streams.join("none");
    {
        let _mounted = Mounted::new(guest.scratch(), "vm")?;
        let held = on(veneer, &["send", "vm", "-o", text(&out)?]).run()?;
        held.expect_message(111, "orchestrate snapshot vm POINT")?;
        ok(veneer, &["send", "vm", "--point", "p2", "-o", text(&out)?])?;
    }
    let stream = fs::read(streams.join("p0"))?;
    let bad = streams.join("bad");
    for at in [3, 40, 700, stream.len() - 100, stream.len() - 1, stream.len() / 2] {
        let mut flipped = stream.clone();
        flipped[at] ^= 4;
        fs::write(&bad, flipped)?;
        let ran = on(veneer, &["receive", "copy"]).arg(&bad).run()?;
        ran.expect_message(100, "the stream for copy")
            .with_context(|| format!("byte {at} of {}", stream.len()))?;
        let listed = ok(veneer, &["ls"])?;
        let there = listed["activations"].as_array().context("activations")?;
        ensure!(there.iter().all(|line| line["name"] != "copy"), "{listed}");
        ensure!(!device("copy").exists(), "a device of a bad stream");
    }
    let gone = on(veneer, &["gc"]).env("VENEER_RECEIVE_KEEP_S", "0").arg("--json").run()?;
    let gone = gone.expect(0)?.json()?;
    ensure!(gone["arrivals"] == serde_json::json!(["copy"]), "{gone}");
    veneer.check()?;
    let dir = format!("dir:{}", guest.scratch().join("tree").display());
    let directories = on(veneer, &["receive", "copy"]).arg(&bad).env("VENEER_STORE", dir);
    let state = guest.scratch().join("tree-state");
    directories.env("VENEER_STATE", state).run()?.expect_message(100, "no blocks to send")?;
    Ok(())
}

/// Streams that end too early, and what goes on from there.
fn cut(guest: &Guest, veneer: &Veneer, streams: &Path) -> Result<usize> {
    let stream = fs::read(streams.join("p0"))?;
    let part = streams.join("part");
    let mut cuts = 0;
    for tenth in 1..10 {
        fs::write(&part, &stream[..stream.len() * tenth / 10])?;
        let ran = on(veneer, &["receive", "copy"]).arg(&part).run()?;
        ran.expect_message(111, "goes on from there")?;
        cuts += 1;
    }
    let progress = ok(veneer, &["receive", "copy", "--progress"])?;
    let next = progress["next"].as_u64().context("a block")?.to_string();
    on(veneer, &["activate", IMAGE, "--name", "copy"]).run()?.expect_message(100, "arrives")?;
    let rest = streams.join("rest");
    ok(veneer, &["send", "vm", "--point", "p0", "--from", &next, "-o", text(&rest)?])?;
    ensure!(fs::metadata(&rest)?.len() < stream.len() as u64 / 2, "all of it was sent again");
    let done = ok(veneer, &["receive", "copy", text(&rest)?])?;
    ensure!(done["resumed_from"].as_u64() == next.parse().ok(), "{done}");
    ok(veneer, &["restore", "vm", "p0"])?;
    ok(veneer, &["activate", IMAGE, "--name", "copy"])?;
    equal(guest, "vm", "copy")?;
    ok(veneer, &["rm", "copy"])?;
    Ok(cuts)
}

/// Where a kill is of interest: the pool's calls, and of the registry's file those that make a commit durable.
fn is_place(call: &Call) -> bool {
    let on_pool = call.name == "ioctl" && !call.on.starts_with("clone");
    let commits = call.on.contains("registry.db-wal") && call.name.contains("sync");
    call.effect == Effect::Changes && (on_pool || commits)
}

/// A receive is killed at each of its places, or in the short form at some: a new disk, and an increment onto one that is
/// up.
fn killed(guest: &Guest, veneer: &Veneer, streams: &Path) -> Result<usize> {
    let mut kills = 0;
    for (link, point) in [("p0", "p0"), ("p1", "p1")] {
        let mut at = 0;
        loop {
            if link == "p1" {
                ok(veneer, &["receive", "copy", text(&streams.join("p0"))?])?;
                ok(veneer, &["activate", IMAGE, "--name", "copy"])?;
            }
            let file = streams.join(link);
            let (mut seen, mut place) = (0, None);
            let each = |call: &Call, now: Side| {
                if place.is_some() || now != Side::After || !is_place(call) {
                    return Act::Go;
                }
                seen += 1;
                if seen <= at {
                    return Act::Go;
                }
                place = Some(call.clone());
                Act::Kill
            };
            let command = on(veneer, &["receive", "copy"]).arg(&file).arg("--json");
            let ended = trace::run(command.command(), &[&veneer.state], Whose::Main, each)?;
            let Some(place) = place else {
                ensure!(ended.code == Some(0), "{ended:?}");
                tidy(veneer)?;
                break;
            };
            ensure!(ended.signal == Some(Signal::SIGKILL), "{ended:?}");
            kills += 1;
            eprintln!("{link} killed {at}: {place}");
            let told = format!("{link} killed {at}: {place}");
            again(guest, veneer, &file, point).context(told)?;
            tidy(veneer)?;
            // Some of the places: each takes as long as a whole receive.
            at += if guest.long() { 1 } else { 17 };
        }
    }
    Ok(kills)
}

/// After a kill: recovery leaves no device of it, and the same receive ends well.
fn again(guest: &Guest, veneer: &Veneer, file: &Path, point: &str) -> Result<()> {
    ok(veneer, &["recover"])?;
    for active in veneer.pool.pool().active()? {
        ensure!(["vm", "copy"].contains(&active.name.as_str()), "left up: {active:?}");
        ensure!(active.has_table && !active.suspended, "half made: {active:?}");
    }
    ok(veneer, &["receive", "copy", text(file)?])?;
    veneer.check()?;
    let points = ok(veneer, &["points", "copy"])?;
    let there = points["points"].as_array().context("points")?;
    ensure!(there.iter().any(|line| line["point"] == point), "{points}");
    ok(veneer, &["restore", "vm", point])?;
    ok(veneer, &["activate", IMAGE, "--name", "copy"])?;
    equal(guest, "vm", "copy")
}

fn tidy(veneer: &Veneer) -> Result<()> {
    ok(veneer, &["rm", "copy"])?;
    veneer.check()
}
