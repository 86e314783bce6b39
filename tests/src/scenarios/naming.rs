//! What operators say of activations on a pool: one that is read-only refuses writes and is mounted twice; one whose
//! ttl has ended goes when nobody has it open; one is renamed while it is mounted, also by a command that is killed
//! on its way; and who uses one is told, whatever it is that does.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use serde_json::{Value, json};

use crate::guest::Guest;
use crate::guest::daemon::{Daemon, wait};
use crate::guest::veneer::{Mounted, Veneer};
use crate::layer;
use crate::scenario::{Needs, Report, Scenario};
use crate::trace::{self, Act, Effect, Whose};

/// See the module.
pub const SCENARIO: Scenario =
    Scenario { name: "naming", needs: Needs { timeout_s: 900, ..Needs::DEFAULT }, run };

const IMAGE: &str = "s3://named/app/";

fn run(guest: &mut Guest) -> Result<Report> {
    let veneer = Veneer::new(guest)?;
    veneer.s3.make_bucket("named")?;
    let tar = layer::of_root(&[("etc/keep", b"x", 0o644), ("init", b"#", 0o755)]);
    veneer.s3.put("named", "app/1.tar", &tar)?;
    read_only(guest, &veneer)?;
    ttl(guest, &veneer)?;
    renamed(guest, &veneer)?;
    let kills = killed(guest, &veneer)?;
    who(guest, &veneer)?;
    veneer.check()?;
    veneer.close()?;
    Ok(Report::new().figure("kills", kills))
}

fn device(name: &str) -> PathBuf {
    Path::new("/dev/mapper").join(name)
}

/// The number of the device that a name leads to.
fn number(name: &str) -> Result<u64> {
    let path = device(name);
    let is = fs::metadata(&path).with_context(|| format!("look at {}", path.display()))?;
    ensure!(is.file_type().is_block_device(), "{} is no device", path.display());
    Ok(is.rdev())
}

fn place(guest: &Guest, name: &str) -> Result<PathBuf> {
    let at = guest.scratch().join(name);
    fs::create_dir_all(&at)?;
    Ok(at)
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path of this test's")
}

fn shown(veneer: &Veneer, name: &str) -> Result<Value> {
    Ok(veneer.ok(&["show", name])?["activation"].clone())
}

/// The kernel itself refuses to write to the device.
fn refuses_writes(name: &str) -> Result<()> {
    let dm = fs::canonicalize(device(name))?;
    let kernel = dm.file_name().context("a device")?.to_string_lossy().into_owned();
    let said = fs::read_to_string(format!("/sys/block/{kernel}/ro"))?;
    ensure!(said.trim() == "1", "{name}: ro is {said:?}");
    Ok(())
}

fn read_only(guest: &Guest, veneer: &Veneer) -> Result<()> {
    let words = ["activate", IMAGE, "--name", "ro", "--read-only"];
    let done = veneer.ok(&words)?;
    ensure!(done["read_only"] == true && veneer.ok(&words)?["already"] == true, "{done}");
    veneer.cmd(&words[..4]).run()?.expect_message(100, "a read-only activation")?;
    refuses_writes("ro")?;
    veneer.check()?;
    let places = [place(guest, "ro-1")?, place(guest, "ro-2")?];
    for at in &places {
        veneer.ok(&["mount", "ro", text(at)?])?;
        let refused = fs::write(at.join("written"), "").err().context("it was written to")?;
        ensure!(refused.raw_os_error() == Some(Errno::EROFS as i32), "{refused}");
        ensure!(fs::read(at.join("etc/keep"))? == b"x", "another tree");
    }
    let machine = veneer.ok(&["show", "ro", "--vm"])?;
    ensure!(machine["firecracker"]["is_read_only"] == true, "{machine}");
    ensure!(machine["kernel_command_line"].to_string().contains(" ro "), "{machine}");
    veneer.cmd(&["deactivate", "ro"]).run()?.expect_message(111, "ro is in use")?;
    veneer.ok(&["umount", "ro"])?;

    // It is remembered: by recovery, by a rebuild, and when it comes up again.
    guest.cmd("dmsetup").args(["remove", "ro"]).run()?.expect(0)?;
    veneer.ok(&["recover"])?;
    refuses_writes("ro")?;
    veneer.ok(&["deactivate", "ro"])?;
    veneer.ok(&words)?;
    refuses_writes("ro")?;
    for part in ["registry.db", "registry.db-wal", "registry.db-shm"] {
        drop(fs::remove_file(veneer.state.join(part)));
    }
    veneer.ok(&["rebuild"])?;
    ensure!(shown(veneer, "ro")?["read_only"] == true, "forgotten by a rebuild");
    refuses_writes("ro")?;
    veneer.check()?;
    veneer.ok(&["rm", "ro"])?;

    // A file of the caller's is in it, and nothing else can be.
    let init = guest.scratch().join("init");
    fs::write(&init, "mine")?;
    let copy = format!("{}:/sbin/mine", text(&init)?);
    veneer.ok(&[&words[..], &["--copy", &copy]].concat())?;
    veneer.ok(&["mount", "ro", text(&places[0])?])?;
    ensure!(fs::read(places[0].join("sbin/mine"))? == b"mine", "not copied");
    veneer.ok(&["umount", "ro"])?;
    veneer.ok(&["rm", "ro"]).map(drop)
}

fn ttl(guest: &Guest, veneer: &Veneer) -> Result<()> {
    for name in ["short", "open"] {
        veneer.ok(&["activate", IMAGE, "--name", name, "--ttl", "1s"])?;
    }
    veneer.ok(&["activate", IMAGE, "--name", "long", "--ttl", "2h"])?;
    let mounted = Mounted::new(guest.scratch(), "open")?;
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let ended = veneer.ok(&["gc"])?["ended"].clone();
    let stays = ended[0]["stays"].as_str().unwrap_or_default();
    ensure!(ended[0]["name"] == "open" && stays.contains("mounted at"), "{ended}");
    ensure!(ended[1] == json!({"name": "short"}), "{ended}");
    ensure!(!device("short").exists() && device("open").exists(), "{ended}");
    // The daemon does it by itself, as soon as nobody has it open.
    let daemon = Daemon::start(veneer, &[])?;
    ensure!(mounted.path().join("etc/keep").exists(), "it went while it was mounted");
    drop(mounted);
    wait(|| Ok(!device("open").exists()))?;
    ensure!(device("long").exists(), "before its time");
    daemon.stop()?;
    veneer.check()?;
    veneer.ok(&["rm", "long"]).map(drop)
}

fn renamed(guest: &Guest, veneer: &Veneer) -> Result<()> {
    let node = place(guest, "jail")?.join("rootfs");
    let owner = ["--device-owner", "77:88", "--device-mode", "0640", "--node", text(&node)?];
    let words = ["activate", IMAGE, "--name", "old", "--label", "app=web", "--ttl", "4h"];
    veneer.ok(&[&words[..], &owner].concat())?;
    let before = number("old")?;
    let mounted = Mounted::new(guest.scratch(), "old")?;
    fs::write(mounted.path().join("before"), "x")?;

    // A name that another device has, whoever made it, is refused, and nothing is changed.
    let squatter = ["create", "squatter", "--table", "0 8 error"];
    guest.cmd("dmsetup").args(squatter).run()?.expect(0)?;
    veneer.cmd(&["rename", "old", "squatter"]).run()?.expect_message(100, "squatter")?;
    guest.cmd("dmsetup").args(["remove", "squatter"]).run()?.expect(0)?;
    ensure!(number("old")? == before, "it was changed");

    let done = veneer.ok(&["rename", "old", "new"])?;
    ensure!(done["path"] == "/dev/mapper/new", "{done}");
    ensure!(number("new")? == before && !device("old").exists(), "the links");
    fs::write(mounted.path().join("after"), "x")?;
    let line = shown(veneer, "new")?;
    ensure!(line["mapped"] == true && line["labels"] == json!({"app": "web"}), "{line}");
    ensure!(line["ttl_s"] == 14400 && line["device"]["uid"] == 77, "{line}");
    let is = fs::metadata(&node)?;
    ensure!(is.rdev() == before && is.uid() == 77, "the node");
    ensure!(fs::metadata(device("new"))?.uid() == 77, "the owner");
    veneer.check()?;
    // The name is free.
    veneer.ok(&["activate", IMAGE, "--name", "old"])?;
    ensure!(number("old")? != before, "the same device");
    veneer.cmd(&["rename", "old", "new"]).run()?.expect_message(100, "new")?;
    veneer.ok(&["rm", "old"])?;
    // What udev does for a device that changes takes neither link.
    guest.cmd("dmsetup").args(["rename", "new", "astray"]).run()?.expect(0)?;
    drop(mounted);
    veneer.ok(&["recover"])?;
    ensure!(device("new").exists() && !device("astray").exists(), "a name by hand stays");

    // By way of a daemon, of what is down and of what is up.
    let daemon = Daemon::start(veneer, &[])?;
    veneer.ok(&["rename", "new", "newer"])?;
    ensure!(device("newer").exists() && !device("new").exists(), "through the daemon");
    daemon.stop()?;
    veneer.ok(&["deactivate", "newer"])?;
    ensure!(!node.exists(), "the node of what is down");
    veneer.ok(&["rename", "newer", "last"])?;
    veneer.ok(&["activate", IMAGE, "--name", "last"])?;
    let mounted = Mounted::new(guest.scratch(), "last")?;
    ensure!(mounted.path().join("after").exists(), "what was written is gone");
    drop(mounted);
    veneer.ok(&["rm", "last"]).map(drop)
}

/// Killed before and after changes that it makes, while it is mounted: the next command finishes it, and it is
/// the same device all the while. Gives how often it was killed.
fn killed(guest: &Guest, veneer: &Veneer) -> Result<usize> {
    veneer.ok(&["activate", IMAGE, "--name", "one"])?;
    let before = number("one")?;
    let mounted = Mounted::new(guest.scratch(), "one")?;
    let (mut at, mut kills, mut finished) = (0, 0, 0);
    let (mut name, mut other) = ("one", "two");
    loop {
        let mut seen = 0;
        let each = |call: &trace::Call, _side| {
            seen += usize::from(call.effect == Effect::Changes);
            match call.effect == Effect::Changes && seen > at {
                true => Act::Kill,
                false => Act::Go,
            }
        };
        let command = veneer.cmd(&["rename", name, other, "--json"]);
        let within = [veneer.state.as_path(), Path::new("/dev/mapper")];
        let ended = trace::run(command.command(), &within, Whose::Main, each)?;
        fs::write(mounted.path().join("written"), format!("{at}"))?;
        veneer.ok(&["recover"])?;
        let is = if device(other).exists() { other } else { name };
        let gone = if is == other { name } else { other };
        ensure!(number(is)? == before && !device(gone).exists(), "killed at {at}: {ended:?}");
        let line = shown(veneer, is)?;
        ensure!(line["mapped"] == true && line["state"] == "active", "killed at {at}: {line}");
        if is == other {
            finished += 1;
            (name, other) = (other, name);
        }
        if ended.signal.is_none() {
            ensure!(ended.code == Some(0) && is != gone, "{ended:?}");
            break;
        }
        kills += 1;
        // Each step where there is time for it; under emulation each takes seconds.
        at += if guest.long() { 1 } else { 7 };
    }
    ensure!(kills > 3 && finished > 1, "{kills} kills, of which {finished} were past the commit");
    drop(mounted);
    veneer.check()?;
    veneer.ok(&["rm", name])?;
    Ok(kills)
}

fn who(guest: &Guest, veneer: &Veneer) -> Result<()> {
    veneer.ok(&["activate", IMAGE, "--name", "used"])?;
    let found = veneer.ok(&["who", "used"])?;
    ensure!(found["held"] == false, "{found}");
    // Another table over it.
    let over = ["create", "over", "--readonly", "--table", "0 2048 linear /dev/mapper/used 0"];
    guest.cmd("dmsetup").args(over).run()?.expect(0)?;
    let found = veneer.ok(&["who", "used"])?;
    ensure!(found["tables"][0]["name"] == "over" && found["held"] == true, "{found}");
    guest.cmd("dmsetup").args(["remove", "over"]).run()?.expect(0)?;
    // The device itself.
    let open = guest.cmd("sleep").arg("600").stdin(fs::File::open(device("used"))?).spawn()?;
    let found = veneer.ok(&["who", "used"])?;
    ensure!(found["processes"][0]["has"] == json!(["device"]), "{found}");
    ensure!(found["processes"][0]["pid"] == open.id(), "{found}");
    stop(open)?;
    // A mount, a process in it, and a loop device over a file in it.
    let mounted = Mounted::new(guest.scratch(), "used")?;
    let inside = guest.cmd("sleep").arg("600").dir(mounted.path()).spawn()?;
    let file = mounted.path().join("disk");
    fs::File::create(&file)?.set_len(1 << 20)?;
    let options = thin::loopdev::LoopOptions { direct_io: false, ..Default::default() };
    let attached = thin::loopdev::attach(&file, options)?;
    let found = veneer.ok(&["who", "used"])?;
    let at = mounted.path().canonicalize()?;
    ensure!(found["mounts"][0]["at"] == text(&at)? && found["mounts"][0]["own"] == true, "{found}");
    let process = json!({"pid": inside.id(), "command": "sleep", "has": ["cwd"]});
    let seen = found["processes"].as_array().context("processes")?.contains(&process);
    ensure!(seen, "{process} is not in {found}");
    ensure!(found["loops"].as_array().is_some_and(|loops| loops.len() == 1), "{found}");
    drop(attached);
    stop(inside)?;
    wait(|| Ok(veneer.ok(&["who", "used"])?["loops"] == json!([])))?;
    drop(mounted);
    // A mount that only another namespace has.
    let at = place(guest, "apart")?;
    let script = format!("mount -t ext4 /dev/mapper/used {} && exec sleep 600", text(&at)?);
    let words = ["-m", "sh", "-c", script.as_str()];
    let apart = guest.cmd("unshare").args(words).spawn()?;
    wait(|| Ok(!veneer.ok(&["who", "used"])?["mounts"].to_string().contains("[]")))?;
    let found = veneer.ok(&["who", "used"])?;
    ensure!(found["mounts"][0]["own"] == false && found["held"] == true, "{found}");
    veneer.cmd(&["deactivate", "used"]).run()?.expect_message(111, "mounted at")?;
    stop(apart)?;
    wait(|| Ok(veneer.ok(&["who", "used"])?["held"] == false))?;
    veneer.ok(&["rm", "used"]).map(drop)
}

fn stop(mut running: crate::guest::Running) -> Result<()> {
    running.kill()?;
    running.wait().map(drop)
}
