//! A pool fills and the daemon goes by its marks: it says so, refuses new work of images, and has a layer that is being
//! unpacked wait where it is, while activations come up and go down as before. With room again the layer goes on; one
//! that waits can be cancelled, and it waits no longer than its time.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::thin_invariants::within;
use crate::dice::Dice;
use crate::guest::daemon::{Daemon, exchange, get};
use crate::guest::{Cmd, Guest, Ran, Running, S3};
use crate::layer;
use crate::scenario::{Needs, Report, Scenario};

/// See the module.
pub const SCENARIO: Scenario =
    Scenario { name: "pool_thresholds", needs: Needs { timeout_s: 400, ..Needs::DEFAULT }, run };

const MIB: u64 = 1 << 20;
const BUCKET: &str = "pool-thresholds";
/// Somebody else's thin, of an id that nothing here comes near.
const BALLAST: &str = "9000000";
/// The pool has 96 MiB. The layer has 16: begun below 50 % it passes the mark at 55 %, and there is room for all of it.
const MARKS: [(&str, &str); 4] = [
    ("VENEER_POOL_WARN_DATA", "30"),
    ("VENEER_POOL_GROW_DATA", "40"),
    ("VENEER_POOL_REFUSE_DATA", "50"),
    ("VENEER_POOL_PAUSE_DATA", "55"),
];
/// No wait of this scenario is longer.
const BOUND: Duration = Duration::from_secs(60);

struct Host<'a> {
    guest: &'a Guest,
    state: PathBuf,
    s3: S3,
}

fn run(guest: &mut Guest) -> Result<Report> {
    let host = Host { guest, state: guest.scratch().join("state"), s3: guest.s3()? };
    host.s3.make_bucket(BUCKET)?;
    host.s3.put(BUCKET, "small/1.tar", &layer::stacked(1, 3, 4096))?;
    for image in ["large", "other", "third"] {
        host.s3.put(BUCKET, &format!("{image}/1.tar"), &large(image))?;
    }
    host.thin("pool init p --data 96M --metadata 2M")?.expect(0)?;
    host.thin(&format!("create {BALLAST}"))?.expect(0)?;
    let wrong = host.orchestrate(&["ls"]).env("VENEER_POOL_WARN_DATA", "41").run()?;
    wrong.expect_message(100, "pool.warn_data = 41 is above pool.grow_data = 40")?;

    let daemon = Daemon::of(host.orchestrate(&["serve"]), host.state.join("serve.sock"))?;
    host.activate("small", "small-1").run()?.expect(0)?;
    ensure!(host.level(&daemon)? == 0, "nothing is full yet");
    host.fill(30)?;
    host.until("it warns", || Ok(host.events(&daemon)?.contains("pool.warn_data is 30")))?;
    ensure!(host.level(&daemon)? == 1, "at a third of its data");

    let paused = paused(&host, &daemon)?;
    cancelled(&host, &daemon)?;
    daemon.stop()?;
    given_up(&host)?;
    host.thin(&format!("delete {BALLAST}"))?.expect(0)?;
    for name in ["small-1", "large-1"] {
        host.orchestrate(&["rm", name]).run()?.expect(0)?;
    }
    let left = host.orchestrate(&["recover", "--dry-run", "--json"]).run()?.expect(0)?.json()?;
    ensure!(left["repairs"] == serde_json::json!([]), "left behind: {left}");
    host.thin("pool down p")?.expect(0)?;
    Ok(Report::new().figure("paused_at_percent", paused))
}

/// A layer waits, and activations do not; what is new is refused. With room again it goes on.
fn paused(host: &Host<'_>, daemon: &Daemon) -> Result<u64> {
    host.fill(42)?;
    let large = host.activate("large", "large-1").spawn()?;
    host.waits(daemon)?;
    let percent = host.used()? * 100 / (96 * 16);
    ensure!((55..75).contains(&percent), "it waits at {percent} %");
    let stands = host.used()?;
    // Nothing more is written while it waits, and activations go on.
    host.orchestrate(&["deactivate", "small-1"]).run()?.expect(0)?;
    host.activate("small", "small-1").run()?.expect(0)?;
    host.activate("small", "small-2").run()?.expect(0)?;
    host.orchestrate(&["rm", "small-2"]).run()?.expect(0)?;
    ensure!(host.used()? < stands + 16, "{stands} blocks, then {}", host.used()?);
    let refused = host.orchestrate(&["ensure", &image("other")]).run()?;
    refused.expect_message(111, "is not begun: the pool's data is")?;
    let health = host.orchestrate(&["health", "--json"]).run()?.expect(1)?.json()?;
    let said = check(&health, "pool_data_ratio")?;
    ensure!(said["ok"] == false && said["reason"].to_string().contains("layers wait"), "{said}");
    let (_, metrics) = exchange(&daemon.socket, "GET", "/metrics", "")?;
    for series in [
        "veneer_pool_level{what=\"data\"} 4",
        "veneer_pool_paused_total 1",
        "veneer_pool_refused_total 1",
        "veneer_promised_bytes ",
    ] {
        ensure!(metrics.contains(series), "no {series} in {metrics}");
    }
    host.thin(&format!("delete {BALLAST}"))?.expect(0)?;
    host.ends(large)?.expect(0)?;
    let events = host.events(daemon)?;
    ensure!(events.contains("goes on: the pool has room again"), "{events}");
    host.until("it is well again", || Ok(host.level(daemon)? == 0))?;
    Ok(percent)
}

/// Who waits for room can be cancelled, and leaves nothing.
fn cancelled(host: &Host<'_>, daemon: &Daemon) -> Result<()> {
    host.thin(&format!("create {BALLAST}"))?.expect(0)?;
    host.fill(26)?;
    let before = host.used()?;
    let other = host.orchestrate(&["ensure", &image("other")]).spawn()?;
    let run = host.waits(daemon)?;
    host.orchestrate(&["cancel", &run.to_string()]).run()?.expect(0)?;
    let ran = host.ends(other)?;
    ensure!(ran.code != Some(0) && ran.stderr.contains("stopped on request"), "cancelled: {ran}");
    ensure!(host.used()? <= before + 4, "{before} blocks before, {} after", host.used()?);
    Ok(())
}

/// A command without a daemon waits as long as the setting says.
fn given_up(host: &Host<'_>) -> Result<()> {
    let before = host.used()?;
    let third = host.orchestrate(&["ensure", &image("third")]).env("VENEER_POOL_PAUSE_S", "2");
    let ran = host.ends(third.spawn()?)?;
    ran.expect_message(111, "is given up for now after 2 s without room (pool.pause_s)")?;
    ensure!(host.used()? <= before + 4, "{before} blocks before, {} after", host.used()?);
    Ok(())
}

impl Host<'_> {
    fn thin(&self, typed: &str) -> Result<Ran> {
        let program = self.guest.cmd("thin").env("VENEER_POOL", "guarded");
        program.args(typed.split(' ')).dir(self.guest.scratch()).run()
    }

    fn orchestrate(&self, words: &[&str]) -> Cmd {
        let program = self.guest.cmd("orchestrate").args(words).env("VENEER_STATE", &self.state);
        let program = self.s3.environment(program.env("VENEER_STORE", "thin:guarded"));
        MARKS.iter().fold(program, |program, (name, value)| program.env(name, value))
    }

    fn activate(&self, of: &str, name: &str) -> Cmd {
        self.orchestrate(&["activate", &image(of), "--name", name])
    }

    /// Writes so many MiB of the ballast, from its beginning.
    fn fill(&self, mib: u64) -> Result<()> {
        self.thin(&format!("activate {BALLAST} ballast --size 96M"))?.expect(0)?;
        let device = OpenOptions::new().write(true).open("/dev/mapper/ballast")?;
        let chunk = vec![7; 1 << 20];
        for at in 0..mib {
            device.write_all_at(&chunk, at * MIB)?;
        }
        device.sync_all()?;
        drop(device);
        self.thin("deactivate ballast")?.expect(0)?;
        Ok(())
    }

    /// Blocks in use, 16 to a MiB.
    fn used(&self) -> Result<u64> {
        let status = self.thin("--json pool status")?.expect(0)?.json()?;
        status["used_data"].as_u64().context("used_data")
    }

    fn level(&self, daemon: &Daemon) -> Result<u64> {
        let (_, metrics) = exchange(&daemon.socket, "GET", "/metrics", "")?;
        let series = "veneer_pool_level{what=\"data\"} ";
        let level = metrics.lines().find_map(|line| line.strip_prefix(series));
        Ok(level.context("no level")?.parse()?)
    }

    fn events(&self, daemon: &Daemon) -> Result<String> {
        Ok(exchange(&daemon.socket, "GET", "/v1/events?after=0", "")?.1)
    }

    fn until(&self, what: &str, holds: impl FnMut() -> Result<bool>) -> Result<()> {
        ensure!(within(BOUND, holds)?, "not within {BOUND:?}: {what}");
        Ok(())
    }

    /// Waits until a run says that it waits for room; gives its number.
    fn waits(&self, daemon: &Daemon) -> Result<u64> {
        let mut found = None;
        self.until("a layer waits for room", || {
            let live = get(&daemon.socket, "/v1/runs?status=live")?;
            let runs = live["runs"].as_array().context("runs")?;
            let waits = runs.iter().find(|run| run.to_string().contains("waits for room"));
            found = waits.and_then(|run| run["id"].as_u64());
            Ok(found.is_some())
        })?;
        found.context("its number")
    }

    fn ends(&self, mut running: Running) -> Result<Ran> {
        let ended = within(BOUND, || Ok(!running.running()?))?;
        if !ended {
            running.kill()?;
        }
        let ran = running.wait()?;
        ensure!(ended, "it did not end within {BOUND:?}: {ran}");
        Ok(ran)
    }
}

fn image(name: &str) -> String {
    format!("s3://{BUCKET}/{name}/")
}

/// A layer of 16 MiB that no file system makes holes of, and that no other is.
fn large(image: &str) -> Vec<u8> {
    let mut dice = Dice::new(image.len() as u64 * 7 + u64::from(image.as_bytes()[0]));
    let mut piece = || -> Vec<u8> {
        (0..4096).map(|_| u8::try_from(dice.roll(255) + 1).unwrap_or(1)).collect()
    };
    let files = (0..16).map(|file| (format!("srv/{image}/{file}"), piece().repeat(256)));
    layer::of(&files.collect::<Vec<_>>())
}

fn check(health: &Value, name: &str) -> Result<Value> {
    let checks = health["checks"].as_array().context("checks")?;
    let found = checks.iter().find(|check| check["name"] == name);
    found.cloned().with_context(|| format!("no {name} in {health}"))
}
