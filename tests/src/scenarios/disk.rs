//! The disks of activations in each way in which they are used: down, idle, mounted, under a loop device, open in
//! another process. They grow live, and the host grows a file system only where it has it mounted; a fork and a point
//! are what the answer says they are, and cost one snapshot.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use thin::{By, Dm};

use crate::guest::Guest;
use crate::guest::veneer::{Mounted, Veneer};
use crate::layer;
use crate::scenario::{Needs, Report, Scenario};

/// See the module.
pub const SCENARIO: Scenario =
    Scenario { name: "disk", needs: Needs { timeout_s: 600, ..Needs::DEFAULT }, run };

pub(super) const IMAGE: &str = "s3://disk/app/";

/// Bytes of a new disk, and what it grows to.
const SMALL: u64 = 4 << 30;

/// One that has an image of one small layer.
pub(super) fn host(guest: &Guest) -> Result<Veneer> {
    let veneer = Veneer::new(guest)?;
    if let Err(error) = veneer.s3.make_bucket("disk") {
        // Another scenario of this boot has made it.
        ensure!(error.to_string().contains("409"), "{error}");
    }
    veneer.s3.put("disk", "app/1.tar", &layer::of(&[("srv/own".into(), b"as it was".to_vec())]))?;
    Ok(veneer)
}

fn device(name: &str) -> PathBuf {
    Path::new("/dev/mapper").join(name)
}

fn length(name: &str) -> Result<u64> {
    use std::io::Seek as _;
    Ok(File::open(device(name))?.seek(std::io::SeekFrom::End(0))?)
}

/// Bytes of a mounted file system.
fn room(at: &Path) -> Result<u64> {
    let is = rustix::fs::statvfs(at)?;
    Ok(is.f_blocks * is.f_frsize)
}

/// What e2fsck says of a disk that nobody uses: 0 is in order.
fn fsck(guest: &Guest, device: &Path) -> Result<()> {
    let ran = guest.cmd("e2fsck").args(["-f", "-n"]).arg(device).run()?;
    ran.expect(0).map(drop)
}

fn runs(name: &str) -> Result<()> {
    let state = Dm::open()?.state(By::Name(name))?.with_context(|| format!("no device {name}"))?;
    ensure!(!state.suspended && !state.has_inactive, "{name} is left half done: {state:?}");
    Ok(())
}

fn is(done: &Value, field: &str, wanted: &str) -> Result<()> {
    ensure!(done[field] == wanted, "{field} is not {wanted}: {done}");
    Ok(())
}

fn run(guest: &mut Guest) -> Result<Report> {
    let veneer = host(guest)?;
    let grown = grows(guest, &veneer)?;
    forks(guest, &veneer)?;
    points(guest, &veneer)?;
    unjournaled(guest, &veneer)?;
    veneer.check()?;
    veneer.close()?;
    Ok(Report::new().figure("grown_to", grown))
}

fn grows(guest: &Guest, veneer: &Veneer) -> Result<u64> {
    veneer.ok(&["activate", IMAGE, "--name", "a"])?;
    let resize = |size: &str| veneer.ok(&["resize", "a", size]);
    ensure!(length("a")? == SMALL, "{} bytes", length("a")?);
    let dry = veneer.ok(&["resize", "a", "5G", "--dry-run"])?;
    is(&dry, "device", "grown")?;
    ensure!(length("a")? == SMALL, "grown by --dry-run");

    // Idle: only the device, since what is on it is mounted by nobody here.
    let done = resize("5G")?;
    is(&done, "device", "grown")?;
    is(&done, "file_system", "at_next_mount")?;
    ensure!(length("a")? == 5 << 30 && done["bytes_before"] == SMALL, "{done}");
    let at = guest.scratch().join("at");
    fs::create_dir(&at)?;
    veneer.ok(&["mount", "a", at.to_str().context("text")?])?;
    ensure!(room(&at)? > 9 << 29, "`mount` has not grown it: {}", room(&at)?);

    // Mounted: both, while somebody writes.
    fs::write(at.join("kept"), vec![7; 1 << 20])?;
    let done = resize("6G")?;
    is(&done, "device", "grown")?;
    is(&done, "file_system", "grown")?;
    ensure!(done["next"].is_null() && length("a")? == 6 << 30, "{done}");
    ensure!(room(&at)? > 11 << 29, "not grown: {}", room(&at)?);
    let said = |text: &str, size: &str| -> Result<()> {
        veneer.cmd(&["resize", "a", size]).run()?.expect_message(100, text).map(drop)
    };
    said("6442450944", "5G")?;
    said("5368709120", "5G")?;
    let again = resize("6G")?;
    is(&again, "device", "as_it_was")?;
    ensure!(fs::read(at.join("kept"))? == vec![7; 1 << 20], "other bytes");
    veneer.ok(&["umount", "a"])?;
    fsck(guest, &device("a"))?;

    // Mounted in another mount namespace only.
    let point = guest.scratch().join("elsewhere");
    fs::create_dir(&point)?;
    let script = format!(
        "busybox mount -t ext4 /dev/mapper/a {0} && touch {0}/here && exec sleep 1000",
        point.display()
    );
    let mut other = guest.cmd("busybox").args(["unshare", "-m", "sh", "-c", &script]).spawn()?;
    crate::guest::daemon::wait(|| {
        let table = fs::read_to_string(format!("/proc/{}/mountinfo", other.id()));
        Ok(table.is_ok_and(|table| table.contains("elsewhere")))
    })?;
    let done = resize("7G")?;
    is(&done, "file_system", "grown")?;
    let inside = PathBuf::from(format!("/proc/{}/root", other.id()))
        .join(point.strip_prefix("/").unwrap_or(&point));
    ensure!(room(&inside)? > 13 << 29, "not grown elsewhere: {}", room(&inside)?);
    other.kill()?;
    other.wait()?;

    // Open in another process, as a machine's disk: the file system is left alone.
    let open = OpenOptions::new().read(true).write(true).open(device("a"))?;
    let before = start(&device("a"))?;
    let done = resize("8G")?;
    is(&done, "device", "grown")?;
    is(&done, "file_system", "by_holder")?;
    let by = done["used_by"].as_str().context("used_by")?;
    ensure!(by.contains("open in process"), "{done}");
    ensure!(done["next"].as_str().is_some_and(|next| next.contains("resize2fs")), "{done}");
    ensure!(length("a")? == 8 << 30 && start(&device("a"))? == before, "written to, or not grown");
    drop(open);

    // Under a loop device, whose file system is mounted: that is somebody else's disk.
    let over = Over::attach(guest, "a")?;
    let mounted = Mounted::of(&over.0, &point)?;
    let before = room(mounted.path())?;
    let done = resize("9G")?;
    is(&done, "file_system", "by_holder")?;
    ensure!(done["used_by"].as_str().is_some_and(|by| by.contains("loop")), "{done}");
    ensure!(room(mounted.path())? == before, "grown through a loop device");
    drop(mounted);
    drop(over);

    // Down: the next device has the size.
    crate::guest::daemon::wait(|| {
        Ok(Dm::open()?.state(By::Name("a"))?.is_some_and(|a| a.open_count == 0))
    })?;
    veneer.ok(&["deactivate", "a"])?;
    let done = resize("10G")?;
    is(&done, "device", "down")?;
    veneer.ok(&["activate", IMAGE, "--name", "a"])?;
    ensure!(length("a")? == 10 << 30, "{}", length("a")?);
    runs("a")?;
    fsck(guest, &device("a"))?;
    veneer.cmd(&["resize", "none", "5G"]).run()?.expect_message(100, "no activation \"none\"")?;
    veneer.check()?;
    veneer.ok(&["rm", "a"])?;
    Ok(10)
}

/// The beginning of a device, past the page cache that a reader of it has.
fn start(device: &Path) -> Result<Vec<u8>> {
    use std::io::Read as _;
    let mut bytes = vec![0; 1 << 20];
    File::open(device)?.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// A loop device over an activation's, as a machine's disk is: detached when dropped.
struct Over(PathBuf);

impl Over {
    fn attach(guest: &Guest, name: &str) -> Result<Over> {
        let free = guest.cmd("busybox").args(["losetup", "-f"]).run()?.expect(0)?;
        let over = PathBuf::from(free.text()?.trim());
        guest.cmd("busybox").arg("losetup").arg(&over).arg(device(name)).run()?.expect(0)?;
        Ok(Over(over))
    }
}

impl Drop for Over {
    fn drop(&mut self) {
        // One that stays is listed as left behind.
        crate::guest::Cmd::new("busybox").args(["losetup", "-d"]).arg(&self.0).run().ok();
    }
}

fn forks(guest: &Guest, veneer: &Veneer) -> Result<()> {
    veneer.ok(&["activate", IMAGE, "--name", "p"])?;
    let (blocks, ids) = (veneer.used_blocks()?, veneer.pool.pool().ids()?.len());
    let done = veneer.ok(&["fork", "p", "idle"])?;
    is(&done, "consistency", "clean")?;
    ensure!(veneer.used_blocks()? == blocks, "a fork took data blocks");
    ensure!(veneer.pool.pool().ids()?.len() == ids + 1, "a fork is not one snapshot");
    let again = veneer.ok(&["fork", "p", "idle"])?;
    ensure!(again["already"] == true && again["volume"] == done["volume"], "{again}");
    veneer.cmd(&["fork", "idle", "p"]).run()?.expect_message(100, "taken")?;
    veneer.cmd(&["fork", "p", "small", "--size", "1G"]).run()?.expect_message(100, "4294967296")?;

    // Mounted, in the middle of writing: frozen, and in order as it is.
    let parent = Mounted::new(guest.scratch(), "p")?;
    fs::write(parent.path().join("before"), vec![1; 4 << 20])?;
    let mut writer = Writer::begin(parent.path())?;
    let done = veneer.ok(&["fork", "p", "mounted", "--size", "6G"])?;
    runs("p")?;
    let wrote = writer.end()?;
    ensure!(wrote > 0, "nobody wrote meanwhile");
    is(&done, "consistency", "clean")?;
    ensure!(length("mounted")? == 6 << 30, "{done}");
    fsck(guest, &device("mounted"))?;
    let fork = Mounted::new(guest.scratch(), "mounted")?;
    ensure!(fs::read(fork.path().join("before"))? == vec![1; 4 << 20], "other bytes");
    fs::write(fork.path().join("own"), "of the fork")?;
    ensure!(!parent.path().join("own").exists(), "two disks share what is written");
    drop(fork);

    // Under a loop device that is mounted: as after a power cut of that machine, and a mount replays its journal.
    let idle = Over::attach(guest, "idle")?;
    let inside = Mounted::of(&idle.0, &guest.scratch().join("elsewhere"))?;
    fs::write(inside.path().join("synced"), "on the disk")?;
    rustix::fs::syncfs(File::open(inside.path())?)?;
    let done = veneer.ok(&["fork", "idle", "held"])?;
    is(&done, "consistency", "crash_consistent")?;
    ensure!(done["used_by"].as_str().is_some_and(|by| by.contains("loop")), "{done}");
    runs("idle")?;
    drop(inside);
    drop(idle);
    let fork = Mounted::new(guest.scratch(), "held")?;
    ensure!(
        fs::read_to_string(fork.path().join("synced"))? == "on the disk",
        "a synced file is lost"
    );

    // A mount that has ended without an unmount, as of a killed machine: the fork of a fork says so.
    let open = OpenOptions::new().read(true).write(true).open(device("idle"))?;
    is(&veneer.ok(&["fork", "idle", "open"])?, "consistency", "crash_consistent")?;
    drop(open);
    drop(fork);
    let listed = veneer.ok(&["ls"])?;
    let line = |name: &str| -> Result<Value> {
        let lines = listed["activations"].as_array().context("activations")?;
        let line = lines.iter().find(|line| line["name"] == name);
        line.cloned().with_context(|| format!("{name} is not listed: {listed}"))
    };
    ensure!(line("mounted")?["image"] == IMAGE && line("mounted")?["mapped"] == true, "{listed}");
    ensure!(
        line("mounted")?["forked_from"] == "p" && line("p")?["forked_from"].is_null(),
        "{listed}"
    );

    // Whoever suspended one of ours: the next command that repairs has it run again, before anything else.
    guest.cmd("dmsetup").args(["suspend", "p"]).run()?.expect(0)?;
    // As a kill between the resume and the node leaves it, where no udev makes one.
    fs::remove_file("/dev/mapper/p")?;
    veneer.ok(&["recover"])?;
    runs("p")?;
    ensure!(fs::metadata("/dev/mapper/p").is_ok(), "no node below /dev");

    // The parent goes, and the fork stays; also over a boot, and one of what is down.
    drop(parent);
    veneer.ok(&["rm", "p"])?;
    veneer.ok(&["deactivate", "mounted"])?;
    is(&veneer.ok(&["fork", "mounted", "of-down"])?, "consistency", "clean")?;
    let fork = Mounted::new(guest.scratch(), "of-down")?;
    ensure!(fs::read_to_string(fork.path().join("own"))? == "of the fork", "other bytes");
    drop(fork);
    guest.cmd("dmsetup").args(["remove", "of-down"]).run()?.expect(0)?;
    veneer.ok(&["recover"])?;
    runs("of-down")?;
    ensure!(length("of-down")? == 6 << 30, "another length after a boot");
    veneer.check()?;
    for name in ["idle", "mounted", "held", "open", "of-down"] {
        veneer.ok(&["rm", name])?;
    }
    Ok(())
}

fn points(guest: &Guest, veneer: &Veneer) -> Result<()> {
    veneer.ok(&["activate", IMAGE, "--name", "k"])?;
    let write = |text: &str| -> Result<()> {
        let mounted = Mounted::new(guest.scratch(), "k")?;
        Ok(fs::write(mounted.path().join("day"), text)?)
    };
    let read = || -> Result<String> {
        let mounted = Mounted::new(guest.scratch(), "k")?;
        Ok(fs::read_to_string(mounted.path().join("day"))?)
    };
    write("monday")?;
    let (blocks, ids) = (veneer.used_blocks()?, veneer.pool.pool().ids()?.len());
    is(&veneer.ok(&["snapshot", "k", "monday"])?, "consistency", "clean")?;
    ensure!(veneer.used_blocks()? == blocks, "a point took data blocks");
    ensure!(veneer.pool.pool().ids()?.len() == ids + 1, "a point is not one snapshot");
    let said = ["snapshot", "k", "monday"];
    veneer.cmd(&said).run()?.expect_message(100, "has a point \"monday\" already")?;
    veneer.cmd(&["snapshot", "k", "-x"]).run()?.expect(100)?;
    write("tuesday")?;
    let mounted = Mounted::new(guest.scratch(), "k")?;
    is(&veneer.ok(&["snapshot", "k", "tuesday"])?, "consistency", "clean")?;
    runs("k")?;

    // In use it stays as it is, and the answer says by whom.
    let ran = veneer.cmd(&["restore", "k", "monday"]).run()?.expect_message(111, "mounted at")?;
    drop(ran);
    ensure!(fs::read_to_string(mounted.path().join("day"))? == "tuesday", "changed under a mount");
    drop(mounted);
    let open = OpenOptions::new().read(true).write(true).open(device("k"))?;
    veneer.cmd(&["restore", "k", "monday"]).run()?.expect_message(111, "open in process")?;
    is(&veneer.ok(&["snapshot", "k", "held"])?, "consistency", "crash_consistent")?;
    drop(open);
    veneer.ok(&["restore", "k", "monday", "--dry-run"])?;
    ensure!(read()? == "tuesday", "changed by --dry-run");

    // There and back, and the size with it.
    veneer.ok(&["resize", "k", "6G"])?;
    let done = veneer.ok(&["restore", "k", "monday"])?;
    ensure!(done["mapped"] == true && length("k")? == SMALL, "{done}");
    ensure!(read()? == "monday", "not brought back");
    write("wednesday")?;
    veneer.ok(&["restore", "k", "tuesday"])?;
    ensure!(read()? == "tuesday", "not brought forward");
    fsck(guest, &device("k"))?;
    veneer.ok(&["deactivate", "k"])?;
    ensure!(veneer.ok(&["restore", "k", "monday"])?["mapped"] == false, "it came up");
    veneer.ok(&["activate", IMAGE, "--name", "k"])?;
    ensure!(read()? == "monday", "not brought back while it was down");

    // No collection takes them; `rm` does, and says so.
    veneer.ok(&["gc"])?;
    veneer.check()?;
    let usage = veneer.ok(&["df"])?;
    ensure!(usage["points"].as_array().is_some_and(|points| points.len() == 3), "{usage}");
    ensure!(usage["foreign"] == serde_json::json!([]), "{usage}");
    let left = veneer.ok(&["points", "k", "--remove", "held"])?;
    ensure!(left["points"].as_array().is_some_and(|left| left.len() == 2), "{left}");
    veneer.cmd(&["restore", "k", "held"]).run()?.expect_message(100, "no point")?;
    let gone = veneer.ok(&["rm", "k", "-n"])?;
    let names = serde_json::json!(["monday", "tuesday"]);
    ensure!(gone["points"] == names, "{gone}");
    veneer.check()?;
    ensure!(veneer.ok(&["rm", "k"])?["points"] == names, "other points went");
    veneer.check()
}

/// Writes and syncs small files until it is told to stop.
struct Writer {
    stop: std::sync::Arc<std::sync::atomic::AtomicBool>,
    thread: Option<std::thread::JoinHandle<Result<u32>>>,
}

impl Writer {
    fn begin(at: &Path) -> Result<Writer> {
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let (seen, at) = (stop.clone(), at.join("writes"));
        fs::create_dir_all(&at)?;
        let thread = std::thread::spawn(move || -> Result<u32> {
            let mut count = 0;
            while !seen.load(std::sync::atomic::Ordering::Relaxed) {
                let mut file = File::create(at.join(format!("{}", count % 64)))?;
                file.write_all(&[9; 20_000])?;
                file.sync_all()?;
                count += 1;
            }
            Ok(count)
        });
        Ok(Writer { stop, thread: Some(thread) })
    }

    fn end(&mut self) -> Result<u32> {
        self.stop.store(true, std::sync::atomic::Ordering::Relaxed);
        let thread = self.thread.take().context("it has ended")?;
        thread.join().map_err(|_| anyhow::anyhow!("the writer panicked"))?
    }
}

/// Whether the superblock of a disk names a journal (`has_journal`, bit 2 of the compatible features).
fn has_journal(device: &Path) -> Result<bool> {
    use std::os::unix::fs::FileExt as _;
    let mut features = [0];
    File::open(device)?.read_exact_at(&mut features, 1024 + 0x5c)?;
    Ok(features[0] & 4 != 0)
}

/// A disk without a journal is like any other, and stays without; so does its fork.
fn unjournaled(guest: &Guest, veneer: &Veneer) -> Result<()> {
    let copy = guest.scratch().join("copied");
    fs::write(&copy, "copied")?;
    let copy = format!("{}:/srv/copied", copy.display());
    let bare = ["activate", IMAGE, "--name", "bare", "--no-journal"];
    veneer.ok(&[&bare[..], &["--copy", &copy]].concat())?;
    veneer.ok(&["activate", IMAGE, "--name", "usual"])?;
    ensure!(!has_journal(&device("bare"))?, "it has a journal");
    ensure!(has_journal(&device("usual"))?, "no other one has a journal either");
    fsck(guest, &device("bare"))?;
    let listed = veneer.ok(&["ls"])?;
    let line = |name: &str| {
        let lines = listed["activations"].as_array().into_iter().flatten();
        lines.into_iter().find(|line| line["name"] == name).cloned().unwrap_or_default()
    };
    ensure!(
        line("bare")["no_journal"] == true && line("usual")["no_journal"].is_null(),
        "{listed}"
    );

    let at = guest.scratch().join("bare");
    fs::create_dir(&at)?;
    veneer.ok(&["mount", "bare", at.to_str().context("text")?])?;
    ensure!(fs::read_to_string(at.join("srv/copied"))? == "copied", "not copied");
    fs::write(at.join("new"), vec![7; 4 << 20])?;
    is(&veneer.ok(&["resize", "bare", "5G"])?, "file_system", "grown")?;
    is(&veneer.ok(&["fork", "bare", "bare-2"])?, "consistency", "clean")?;
    veneer.ok(&["umount", "bare"])?;
    fsck(guest, &device("bare"))?;
    veneer.ok(&["activate", IMAGE, "--name", "bare"])?;
    let conflict = ["activate", IMAGE, "--name", "usual", "--no-journal"];
    veneer.cmd(&conflict).run()?.expect_message(100, "with a journal").map(drop)?;
    ensure!(!has_journal(&device("bare-2"))?, "its fork has a journal");
    fsck(guest, &device("bare-2"))?;
    for name in ["bare", "bare-2", "usual"] {
        veneer.ok(&["rm", name])?;
    }
    Ok(())
}
