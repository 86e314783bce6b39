//! The daemon makes its pool larger: at once where it runs low before the daemon starts, again when it
//! fills, up to the bound; and at the bound health says so.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;

use anyhow::{Context, Result, ensure};

use crate::guest::daemon::{Daemon, exchange, wait};
use crate::guest::{Guest, Ran};
use crate::scenario::{Needs, Report, Scenario};

/// See the module.
pub const SCENARIO: Scenario =
    Scenario { name: "serve_grows", needs: Needs { timeout_s: 300, ..Needs::DEFAULT }, run };

const MIB: u64 = 1 << 20;
/// Somebody else's thin, of an id that nothing here comes near.
const FOREIGN: &str = "9000000";

fn run(guest: &mut Guest) -> Result<Report> {
    let dir = guest.scratch().join("p");
    thin(guest, "pool init p --data 32M --metadata 2M")?.expect(0)?;
    thin(guest, &format!("create {FOREIGN}"))?.expect(0)?;
    fill(guest, 0..30)?;

    let state = guest.scratch().join("state");
    let orchestrate = || {
        let program = guest.cmd("orchestrate").env("VENEER_STORE", "thin:grows");
        let program = program.env("VENEER_STATE", &state).env("VENEER_POOL_DIR", &dir);
        let program = program.env("VENEER_SERVE_GROW_TO", (64 * MIB).to_string());
        program.env("VENEER_SERVE_GROW_BY", (16 * MIB).to_string())
    };
    let daemon = Daemon::of(orchestrate().arg("serve"), state.join("serve.sock"))?;
    wait(|| Ok(total(guest)? == 48 * 16)).context("low before it started")?;
    fill(guest, 30..46)?;
    wait(|| Ok(total(guest)? == 64 * 16)).context("low while it ran")?;
    let told = || -> Result<Ran> { orchestrate().arg("health").run() };
    ensure!(told()?.text()?.contains("pool_growth"), "{}", told()?);
    let growth = |ran: &Ran| ran.json().map(|health| check(&health, "pool_growth"));
    let health = || growth(&orchestrate().args(["health", "--json"]).run()?);
    wait(|| Ok(health()? == Some(true))).context("it may grow, and need not")?;

    fill(guest, 46..61)?;
    wait(|| Ok(health()? == Some(false))).context("health at the bound")?;
    told()?.expect(1)?;
    ensure!(total(guest)? == 64 * 16, "beyond the bound");
    // Also where no daemon is asked.
    let alone = orchestrate().args(["--no-daemon", "health", "--json"]).run()?;
    ensure!(growth(&alone)? == Some(false), "{alone}");

    let (_, metrics) = exchange(&daemon.socket, "GET", "/metrics", "")?;
    ensure!(metrics.contains("veneer_pool_grown_total{what=\"data\"} 2"), "{metrics}");
    let (_, events) = exchange(&daemon.socket, "GET", "/v1/events?after=0", "")?;
    for said in ["data grew from 33554432 to 50331648 bytes", "cannot grow: its data is filling"] {
        ensure!(events.contains(said), "no {said:?} in {events}");
    }
    daemon.stop()?;
    thin(guest, "pool down p")?.expect(0)?;
    Ok(Report::new().figure("mib", 64))
}

fn check(health: &serde_json::Value, name: &str) -> Option<bool> {
    let checks = health["checks"].as_array()?;
    checks.iter().find(|check| check["name"] == name)?["ok"].as_bool()
}

fn thin(guest: &Guest, typed: &str) -> Result<Ran> {
    let program = guest.cmd("thin").env("VENEER_POOL", "grows");
    program.args(typed.split(' ')).dir(guest.scratch()).run()
}

/// Data blocks of the pool, 16 to a MiB.
fn total(guest: &Guest) -> Result<u64> {
    let status = thin(guest, "--json pool status")?.expect(0)?.json()?;
    Ok(status["total_data"].as_u64().unwrap_or_default())
}

/// Writes these MiB of the foreign thin.
fn fill(guest: &Guest, mib: std::ops::Range<u64>) -> Result<()> {
    thin(guest, &format!("activate {FOREIGN} full --size 64M"))?.expect(0)?;
    let device = OpenOptions::new().write(true).open("/dev/mapper/full")?;
    let chunk = vec![7; 1 << 20];
    for at in mib {
        device.write_all_at(&chunk, at * MIB)?;
    }
    device.sync_all()?;
    drop(device);
    thin(guest, "deactivate full")?.expect(0)?;
    Ok(())
}
