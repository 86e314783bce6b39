//! One thing that cannot be mended stops nothing else: devices that are open, that others have taken the
//! names of, that were deleted, renamed, grown or looked at by hand, and a host that went down with them up.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use thin::{Access, ThinId};

use crate::guest::Guest;
use crate::guest::daemon::{Daemon, get, wait};
use crate::guest::veneer::{Mounted, Veneer, image};
use crate::scenario::{Images, Needs, Report, Scenario};

/// See the module.
pub const SCENARIO: Scenario = Scenario {
    name: "unsettled",
    needs: Needs { images: Images::Small, timeout_s: 900, ..Needs::DEFAULT },
    run,
};

fn run(guest: &mut Guest) -> Result<Report> {
    let veneer = Veneer::new(guest)?;
    veneer.activate("golang", "b1")?;
    held(guest, &veneer)?;
    names(guest, &veneer)?;
    deleted(&veneer)?;
    renamed(&veneer)?;
    looked_at(&veneer)?;
    grown(guest, &veneer)?;
    another_boot(&veneer)?;
    veneer.close()?;
    Ok(Report::new())
}

/// An activation that nothing has to do with can be made and removed, without waiting for anybody.
fn others_go_on(veneer: &Veneer) -> Result<()> {
    let made = veneer.ok(&[
        "activate",
        &image("golang"),
        "--name",
        "other",
        "--no-fetch",
        "--wait",
        "0",
    ])?;
    ensure!(Path::new("/dev/mapper/other").exists(), "{made}");
    veneer.ok(&["rm", "other", "--wait", "0"])?;
    Ok(())
}

fn activation(veneer: &Veneer, name: &str) -> Result<Value> {
    let listing = veneer.ok(&["ls"])?;
    let lines = listing["activations"].as_array().context("activations")?;
    Ok(lines.iter().find(|line| line["name"] == name).cloned().unwrap_or_default())
}

/// What `health` says of a check, and whether it holds.
fn check(veneer: &Veneer, name: &str) -> Result<(bool, String)> {
    let found = veneer.cmd(&["health", "--json"]).run()?.json()?;
    let checks = found["checks"].as_array().context("checks")?;
    let check = checks.iter().find(|check| check["name"] == name).context("no such check")?;
    Ok((check["ok"] == true, check["reason"].as_str().unwrap_or_default().to_owned()))
}

fn is_settled(veneer: &Veneer) -> Result<()> {
    let (ok, reason) = check(veneer, "settled")?;
    ensure!(ok, "not settled: {reason}");
    Ok(())
}

fn is_unsettled(veneer: &Veneer, subject: &str, why: &str) -> Result<()> {
    let (ok, reason) = check(veneer, "settled")?;
    ensure!(!ok && reason.contains(subject) && reason.contains(why), "{ok}, {reason:?}");
    let told = veneer.ok(&["ls"])?["unsettled"].to_string();
    ensure!(told.contains(subject) && told.contains(why), "ls tells {told}");
    let metrics = veneer.cmd(&["metrics"]).run()?.expect(0)?.text()?.to_owned();
    ensure!(metrics.contains("veneer_unsettled 1\n"), "{metrics}");
    Ok(())
}

/// A device that somebody has open is refused at once, with nothing changed, or goes when it is closed.
fn held(guest: &Guest, veneer: &Veneer) -> Result<()> {
    let mounted = Mounted::new(guest.scratch(), "b1")?;
    for verb in ["rm", "deactivate"] {
        veneer.cmd(&[verb, "b1"]).run()?.expect_message(111, "mounted at")?;
        ensure!(activation(veneer, "b1")?["state"] == "active", "{verb} changed something");
    }
    is_settled(veneer)?;
    others_go_on(veneer)?;
    let done = veneer.ok(&["rm", "b1", "--when-closed"])?;
    ensure!(done["when_closed"] == true, "{done}");
    ensure!(activation(veneer, "b1")?["when_closed"] == "rm", "ls does not tell the wish");
    is_settled(veneer)?;
    others_go_on(veneer)?;
    ensure!(mounted.path().join("usr").exists(), "it was taken away while it was mounted");
    drop(mounted);
    others_go_on(veneer)?;
    ensure!(activation(veneer, "b1")?.is_null(), "the next command did not remove it");
    ensure!(!Path::new("/dev/mapper/b1").exists(), "its device is still there");

    // A daemon acts on it by itself.
    veneer.activate("golang", "b1")?;
    let mounted = Mounted::new(guest.scratch(), "b1")?;
    let daemon = Daemon::start(veneer, &[])?;
    veneer.ok(&["deactivate", "b1", "--when-closed"])?;
    veneer.cmd(&["rm", "b1"]).run()?.expect_message(111, "mounted at")?;
    drop(mounted);
    wait(|| Ok(get(&daemon.socket, "/v1/activations/b1")?["state"] == "inactive"))?;
    daemon.stop()?;
    veneer.activate("golang", "b1")?;
    Ok(())
}

/// Names that others have are refused before anything is reserved; one that somebody took meanwhile keeps
/// nobody else down.
fn names(guest: &Guest, veneer: &Veneer) -> Result<()> {
    let dm = veneer.pool.pool().dm();
    dm.create("vg-root", "LVM-of-somebody")?;
    let ids = veneer.pool.pool().ids()?.len();
    for name in ["veneer", "vg-root"] {
        let asked = veneer.cmd(&["activate", &image("golang"), "--name", name]);
        asked.run()?.expect_message(100, "not ours")?;
        ensure!(activation(veneer, name)?.is_null(), "a row {name} was made");
    }
    ensure!(veneer.pool.pool().ids()?.len() == ids, "an id was taken");
    ensure!(dm.list()?.iter().any(|entry| entry.name == "vg-root"), "somebody's device is gone");
    dm.remove(thin::By::Name("vg-root"))?;

    // After a boot somebody else's device has the name of b1; b2 comes up.
    veneer.activate("golang", "b2")?;
    for name in ["b1", "b2"] {
        veneer.pool.pool().deactivate(name)?;
    }
    dm.create("b1", "LVM-of-somebody")?;
    veneer.cmd(&["recover"]).run()?.expect(100)?;
    is_unsettled(veneer, "activation b1", "LVM-of-somebody")?;
    ensure!(activation(veneer, "b2")?["mapped"] == true, "b2 stays down");
    others_go_on(veneer)?;
    let daemon = Daemon::start(veneer, &[])?;
    others_go_on(veneer)?;
    let ready = crate::guest::daemon::exchange(&daemon.socket, "GET", "/readyz", "")?;
    ensure!(ready.0 == 503 && ready.1.contains("activation b1"), "{ready:?}");
    daemon.stop()?;
    ensure!(dm.list()?.iter().any(|entry| entry.name == "b1"), "somebody's device is gone");
    dm.remove(thin::By::Name("b1"))?;
    veneer.ok(&["recover"])?;
    is_settled(veneer)?;
    drop(Mounted::new(guest.scratch(), "b1")?);
    Ok(())
}

/// A thin that somebody deleted: its row is told, and `rm` is the way out.
fn deleted(veneer: &Veneer) -> Result<()> {
    let pool = veneer.pool.pool();
    let id = pool.volume("b2")?.id;
    pool.deactivate("b2")?;
    pool.delete(id)?;
    veneer.cmd(&["recover"]).run()?.expect(100)?;
    is_unsettled(veneer, "activation b2", "gone")?;
    others_go_on(veneer)?;
    veneer.ok(&["rm", "b2"])?;
    is_settled(veneer)
}

/// A device is known by its uuid: one that was renamed goes down, or gets its name back.
fn renamed(veneer: &Veneer) -> Result<()> {
    let rename = |from: &str, to: &str| -> Result<()> {
        crate::guest::Cmd::new("dmsetup").args(["rename", from, to]).run()?.expect(0)?;
        Ok(())
    };
    rename("b1", "elsewhere")?;
    let done = veneer.ok(&["deactivate", "b1"])?;
    ensure!(done["changed"] == true, "{done}");
    ensure!(veneer.pool.pool().active()?.is_empty(), "it is up under its other name");
    veneer.activate("golang", "b1")?;
    rename("b1", "elsewhere")?;
    veneer.ok(&["recover"])?;
    ensure!(Path::new("/dev/mapper/b1").exists(), "it has not its name");
    is_settled(veneer)
}

/// Who looks at a sealed layer, or at an activation that is down, through a device that refuses writes
/// is left alone; one that takes writes goes, and while it is open keeps nobody else up.
fn looked_at(veneer: &Veneer) -> Result<()> {
    let pool = veneer.pool.pool();
    let origin = activation(veneer, "b1")?["origin"].as_u64().context("an origin")?;
    let layer = pool.activate(ThinId::new(origin)?, "look-a", 8 << 20, Access::ReadOnly)?;
    veneer.ok(&["deactivate", "b1"])?;
    let id = activation(veneer, "b1")?["volume"].as_u64().context("an id")?;
    pool.activate(ThinId::new(id)?, "b1", 8 << 20, Access::ReadOnly)?;
    let recovered = veneer.ok(&["recover"])?;
    ensure!(recovered["repairs"] == json!([]), "{recovered}");
    ensure!(pool.active()?.len() == 2, "somebody's look was ended");
    let told = veneer.ok(&["ls"])?["unsettled"].to_string();
    ensure!(told.contains("look-a") && told.contains("looked_at"), "ls tells {told}");
    is_settled(veneer)?;
    others_go_on(veneer)?;
    let asked = veneer.cmd(&["activate", &image("golang"), "--name", "b1"]);
    asked.run()?.expect_message(111, "thin deactivate b1")?;
    let verified = veneer.ok(&["verify", &image("golang")])?;
    ensure!(verified["intact"] == true, "{verified}");
    pool.deactivate("b1")?;
    pool.deactivate("look-a")?;
    drop(layer);

    let writable = pool.activate(ThinId::new(origin)?, "hand", 8 << 20, Access::ReadWrite)?;
    let open = std::fs::File::open(writable.path())?;
    veneer.cmd(&["recover"]).run()?.expect(111)?;
    is_unsettled(veneer, &format!("volume {origin}"), "open in process")?;
    // It may be written to, so nothing can be made of that very layer; of another image it can.
    veneer.ok(&["activate", &image("node"), "--name", "n1"])?;
    veneer.ok(&["rm", "n1", "--wait", "0"])?;
    drop(open);
    veneer.ok(&["recover"])?;
    ensure!(pool.active()?.is_empty(), "it was not taken down when it was closed");
    is_settled(veneer)?;
    veneer.activate("golang", "b1")?;
    Ok(())
}

/// `thin grow` is the registry's size from the next command on, and outlives the device.
fn grown(guest: &Guest, veneer: &Veneer) -> Result<()> {
    let pool = veneer.pool.pool();
    let volume = pool.volume("b1")?;
    let larger = volume.sectors.0 + (256 << 20) / 512;
    volume.grow(pool, larger)?;
    let mounted = Mounted::new(guest.scratch(), "b1")?;
    let mount = std::fs::File::open(mounted.path())?;
    thin::mount::grow_ext4(std::os::fd::AsFd::as_fd(&mount), larger * 512)?;
    drop((mount, mounted));
    others_go_on(veneer)?;
    ensure!(activation(veneer, "b1")?["bytes"] == larger * 512, "the registry has another size");
    veneer.ok(&["deactivate", "b1"])?;
    veneer.activate("golang", "b1")?;
    ensure!(pool.volume("b1")?.sectors.0 == larger, "the next activation made it smaller");
    drop(Mounted::new(guest.scratch(), "b1")?);
    let asked = |size: u64| {
        veneer
            .cmd(&["activate", &image("golang"), "--name", "b1", "--size", &size.to_string()])
            .run()
    };
    asked(larger * 512)?.expect(0)?;
    asked(larger * 1024)?.expect_message(100, "were asked for")?;
    Ok(())
}

/// What was up when the host went down comes up again; it has a journal, so nobody has to look at it.
fn another_boot(veneer: &Veneer) -> Result<()> {
    veneer.ok(&["activate", &image("golang"), "--name", "down", "--no-fetch"])?;
    veneer.ok(&["deactivate", "down"])?;
    veneer.pool.pool().deactivate("b1")?;
    veneer.in_another_boot(|| {
        veneer.ok(&["recover"])?;
        let up = activation(veneer, "b1")?;
        ensure!(up["unchecked"] == false && up["mapped"] == true, "{up}");
        ensure!(activation(veneer, "down")?["mapped"] == false, "it was down");
        veneer.ok(&["rm", "down"]).map(drop)
    })
}
