//! A registry that is gone while an activation is mounted, and a second state directory on the same pool:
//! what a registry has sealed is never taken for new, no live device goes, no foreign thin is touched.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use sha2::{Digest as _, Sha256};
use thin::{Access, Pool, ThinId};

use super::crash_host::{CrashHost, IMAGES, put_images};
use crate::guest::veneer::Mounted;
use crate::guest::{Cmd, Guest, PoolSize, S3, ScratchPool};
use crate::scenario::{Needs, Report, Scenario};

/// See the module.
pub const SCENARIO: Scenario =
    Scenario { name: "lost_registry", needs: Needs { timeout_s: 900, ..Needs::DEFAULT }, run };

const POOL: PoolSize = PoolSize { data_mib: 512, metadata_kib: 4096, block_sectors: 128 };

/// Thins of somebody else: below and above ours.
const FOREIGN: [u32; 3] = [3, 4, 5000];
/// Their length.
const SECTORS: u64 = 2048;

const ACTIVATE: [&str; 4] = ["activate", IMAGES[0], "--name", "p1"];

/// What may be asked of a host whose registry is not there.
const COMMANDS: [&[&str]; 9] = [
    &["ls"],
    &["df"],
    &["recover"],
    &ACTIVATE,
    &["activate", IMAGES[1], "--name", "p2"],
    &["rm", "p1"],
    &["deactivate", "p1"],
    &["gc", "--keep-bytes", "0"],
    &["verify"],
];

fn run(guest: &mut Guest) -> Result<Report> {
    let scratch = ScratchPool::open(guest.scratch(), "veneer", POOL)?;
    let s3 = guest.s3()?;
    put_images(&s3)?;
    let pool = scratch.pool();
    let host = |name: &str| CrashHost { state: guest.scratch().join(name), pool, s3: &s3 };
    let first = host("state");

    for id in &FOREIGN[..2] {
        make_foreign(pool, *id)?;
    }
    begin(&first)?;
    first.ok(&ACTIVATE)?;
    first.ok(&["ensure", IMAGES[1]])?;
    make_foreign(pool, FOREIGN[2])?;
    let mounted = Mounted::new(guest.scratch(), "p1")?;
    std::fs::write(mounted.path().join("written"), "kept")?;
    File::open(mounted.path().join("written"))?.sync_all()?;
    let world = World::of(pool)?;

    lost(&first, &world)?;
    let gone = first.cmd(&["ls"]).env("VENEER_STORE", "thin:gone").run()?;
    ensure!(gone.code == Some(100), "with a registry, a pool that is down: {gone}");
    two_directories(&first, &host("second"), &world)?;

    ensure!(std::fs::read_to_string(mounted.path().join("written"))? == "kept");
    world.check(pool)?;
    drop(mounted);
    written_over(&first)?;
    believed(&first, &s3)?;
    let status = pool.status()?;
    let transaction = status.transaction_id().context("a transaction id")?;
    first.remove_all()?;
    for id in FOREIGN {
        pool.delete(ThinId::new(u64::from(id))?)?;
    }
    first.check()?;
    for record in pool.ids()? {
        pool.delete(record.id)?;
    }
    scratch.close()?;
    Ok(Report::new().figure("transaction", transaction))
}

fn make_foreign(pool: &Pool, id: u32) -> Result<()> {
    let thin = ThinId::new(u64::from(id))?;
    pool.create_thin(thin)?;
    let volume = pool.activate(thin, "somebodys", SECTORS, Access::ReadWrite)?;
    let file = File::options().write(true).open(volume.path())?;
    file.write_all_at(&vec![u8::try_from(id % 251)?; 1 << 20], 0)?;
    file.sync_all()?;
    drop(file);
    pool.deactivate("somebodys")?;
    Ok(())
}

/// What must stay as it is: ids, devices, and the bytes of what is not ours.
struct World {
    ids: Vec<u32>,
    devices: Vec<String>,
    foreign: Vec<String>,
}

impl World {
    fn of(pool: &Pool) -> Result<World> {
        let bytes = |id: &u32| -> Result<String> {
            let thin = ThinId::new(u64::from(*id))?;
            let volume = pool.activate(thin, "checked", SECTORS, Access::ReadOnly)?;
            let content = std::fs::read(volume.path());
            pool.deactivate("checked")?;
            Ok(format!("{:x}", Sha256::digest(content?)))
        };
        let there = |id: &u32| pool.ids().is_ok_and(|all| all.iter().any(|r| r.id.get() == *id));
        Ok(World {
            ids: pool.ids()?.iter().map(|record| record.id.get()).collect(),
            devices: pool.active()?.into_iter().map(|active| active.name).collect(),
            foreign: FOREIGN.iter().filter(|id| there(id)).map(bytes).collect::<Result<_>>()?,
        })
    }

    fn check(&self, pool: &Pool) -> Result<()> {
        let now = World::of(pool)?;
        ensure!(now.ids == self.ids, "the ids were {:?}, are {:?}", self.ids, now.ids);
        ensure!(now.devices == self.devices, "devices: {:?}, {:?}", self.devices, now.devices);
        ensure!(now.foreign == self.foreign, "what is not ours was changed");
        Ok(())
    }
}

/// A pool with thins of others alone is new; where one of them is in use, that is not known.
fn begin(host: &CrashHost<'_>) -> Result<()> {
    let world = World::of(host.pool)?;
    let down = host.cmd(&["ls"]).env("VENEER_STORE", "thin:gone").run()?;
    down.expect_message(111, "`thin pool up DIR`")?;
    let thin = ThinId::new(u64::from(FOREIGN[0]))?;
    host.pool.activate(thin, "somebodys", SECTORS, Access::ReadOnly)?;
    for words in [&["ls"][..], &ACTIVATE] {
        let unknown = host.cmd(words).run()?.expect_message(100, "--new")?;
        ensure!(unknown.stderr.contains("somebodys"), "{unknown}");
    }
    host.cmd(&["health"]).run()?.expect(1)?;
    ensure!(!host.state.exists(), "something was made");
    host.ok(&["ls", "--new"])?;
    std::fs::remove_dir_all(&host.state)?;
    host.pool.deactivate("somebodys")?;
    // Both look at the others' thins, and one makes the registry.
    let both = [host.cmd(&["ls"]).spawn()?, host.cmd(&["ls"]).spawn()?];
    for one in both {
        one.wait()?.expect(0)?;
    }
    world.check(host.pool)
}

fn lose(state: &Path) {
    for part in ["registry.db", "registry.db-wal", "registry.db-shm"] {
        std::fs::remove_file(state.join(part)).ok();
    }
}

/// The registry is gone and `p1` is mounted.
fn lost(host: &CrashHost<'_>, world: &World) -> Result<()> {
    let database: PathBuf = host.state.join("registry.db");
    lose(&host.state);
    // Whatever somebody else has in use: ours is proven.
    let thin = ThinId::new(u64::from(FOREIGN[1]))?;
    for in_use in [false, true] {
        if in_use {
            host.pool.activate(thin, "somebodys", SECTORS, Access::ReadOnly)?;
        }
        for words in COMMANDS {
            for more in [&[][..], &["--new"]] {
                let refused = host.cmd(words).args(more).run()?;
                refused.expect_message(100, "`orchestrate rebuild`")?;
            }
        }
        if in_use {
            host.pool.deactivate("somebodys")?;
        }
        ensure!(!database.exists(), "a registry was made");
        world.check(host.pool)?;
    }
    let health = host.cmd(&["health"]).run()?.expect(1)?;
    ensure!(health.text()?.contains("`orchestrate rebuild`"), "{health}");
    let metrics = host.cmd(&["metrics"]).run()?.expect(0)?;
    ensure!(metrics.text()?.contains("veneer_up{part=\"registry\"} 0"), "{metrics}");
    let registry = Cmd::new("registry").arg("--state").arg(&host.state);
    registry.arg("check").run()?.expect(100)?;
    ensure!(!database.exists(), "a look made a registry");
    world.check(host.pool)?;

    // A daemon comes up, says so, and makes none.
    let daemon = host.cmd(&["serve"]).spawn()?;
    let socket = host.state.join("serve.sock");
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !socket.exists() {
        ensure!(std::time::Instant::now() < deadline, "the daemon does not come up");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let health = host.cmd(&["health"]).run()?.expect(1)?;
    let said = health.json()?;
    ensure!(said["mode"] == "rescue" && said["why"].to_string().contains("rebuild"), "{said}");
    host.cmd(&["ls"]).run()?.expect_message(100, "`orchestrate rebuild`")?;
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(i32::try_from(daemon.id())?).context("a pid")?,
        rustix::process::Signal::TERM,
    )?;
    daemon.wait()?.expect(0)?;
    ensure!(!database.exists(), "the daemon made a registry");
    world.check(host.pool)?;

    let done = host.ok(&["rebuild"])?;
    ensure!(done["activations"] == serde_json::json!(["p1"]), "{done}");
    ensure!(done["foreign"] == serde_json::json!(FOREIGN), "{done}");
    let again = host.ok(&ACTIVATE)?;
    ensure!(again["already"] == true, "after the rebuild: {again}");
    ensure!(host.ok(&["verify"])?["intact"] == true);
    world.check(host.pool)
}

/// Two state directories on one pool: it is one's, until the other says that it takes it over.
fn two_directories(first: &CrashHost<'_>, second: &CrashHost<'_>, world: &World) -> Result<()> {
    let take = ["rebuild", "--take-over"];
    for words in COMMANDS {
        second.cmd(words).run()?.expect_message(100, "`orchestrate rebuild --take-over`")?;
    }
    for words in [&["rebuild"][..], &["rebuild", "-n"]] {
        second.cmd(words).run()?.expect_message(100, "belongs to another registry")?;
    }
    second.ok(&["rebuild", "--take-over", "-n"])?;
    ensure!(!second.state.exists(), "something was made");
    world.check(first.pool)?;
    first.ok(&["recover"])?;
    for (epoch, owner, other) in [(1, second, first), (2, first, second)] {
        let done = owner.ok(&take)?;
        ensure!(done["activations"] == serde_json::json!(["p1"]), "{done}");
        let status = owner.pool.status()?;
        let found = status.transaction_id().context("a transaction id")? >> 32;
        ensure!(found == epoch, "epoch {found}, expected {epoch}");
        for words in [&ACTIVATE[..], &["rm", "p1"], &["recover"], &["gc"], &["rebuild"]] {
            other.cmd(words).run()?.expect_message(100, "taken over")?;
        }
        world.check(owner.pool)?;
        let again = owner.ok(&ACTIVATE)?;
        ensure!(again["already"] == true, "of the new owner: {again}");
        owner.ok(&["activate", IMAGES[1], "--name", "p2"])?;
        owner.ok(&["rm", "p2"])?;
        world.check(owner.pool)?;
        // The owner's registry is lost: its directory knows the pool.
        lose(&owner.state);
        owner.cmd(&["ls"]).run()?.expect_message(100, "`orchestrate rebuild`")?;
        owner.ok(&["rebuild"])?;
    }
    first.ok(&["recover"])?;
    Ok(())
}

/// The bytes of a volume where its seal record is.
const RECORD_BYTES: usize = 1024;

/// A guest writes to its own device where the record is: what the registry says of it stands, and where there is
/// none it is told by its name.
fn written_over(host: &CrashHost<'_>) -> Result<()> {
    let world = World::of(host.pool)?;
    host.ok(&["activate", IMAGES[1], "--name", "p2"])?;
    let mut others = vec![0; RECORD_BYTES];
    File::open("/dev/mapper/p2")?.read_exact_at(&mut others, 0)?;
    host.ok(&["rm", "p2"])?;
    let device = File::options().read(true).write(true).open("/dev/mapper/p1")?;
    let mut own = vec![0; RECORD_BYTES];
    device.read_exact_at(&mut own, 0)?;
    ensure!(own != others, "the two images have one last layer");
    let line = |host: &CrashHost<'_>| -> Result<serde_json::Value> {
        let listed = host.ok(&["ls"])?;
        let all = listed["activations"].as_array().context("activations")?;
        let mut found = all.iter().find(|row| row["name"] == "p1").context("p1")?.clone();
        found.as_object_mut().context("a row")?.remove("mapped");
        Ok(found)
    };
    let before = line(host)?;
    let volume = before["volume"].clone();
    for written in [&others, &vec![0; RECORD_BYTES], &vec![0xa5; RECORD_BYTES]] {
        device.write_all_at(written, 0)?;
        device.sync_all()?;
        let done = host.ok(&["rebuild"])?;
        ensure!(done["foreign"] == serde_json::json!(FOREIGN), "{done}");
        ensure!(done["unread"] == serde_json::json!([]), "{done}");
        let after = line(host)?;
        ensure!(after == before, "it was {before}, is {after}");
        host.ok(&["recover"])?;
        world.check(host.pool)?;
    }
    lose(&host.state);
    let done = host.ok(&["rebuild", "-n"])?;
    let told = done["unread"].as_array().context("unread")?;
    ensure!(told.iter().any(|row| row["volume"] == volume && row["name"] == "p1"), "{done}");
    // As it was sealed: it is known again.
    device.write_all_at(&own, 0)?;
    device.sync_all()?;
    let done = host.ok(&["rebuild"])?;
    ensure!(done["activations"] == serde_json::json!(["p1"]), "{done}");
    let after = line(host)?;
    ensure!(after["origin"] == before["origin"], "it was {before}, is {after}");
    world.check(host.pool)
}

/// Catalogs of no images by their serials, and who signed them: by minisign's own program, whose key is
/// thrown away.
const CATALOGS: [(u64, &str); 3] = [
    (
        8,
        "untrusted comment: signature from minisign secret key
RURnqYJEmjEQjTgu2rlOTNKBrPxteA6mFHG9ElyFzOnrFcoGkE2PbjvXK2D1gopwCZCaVIm3ozaz9ZlhPGUH+9A0Lvcaa4R7jAA=
trusted comment: timestamp:1795897797\tfile:c8.json\thashed
Rv1u24kbkDtSdjtWN1ZKgelhMWWQsAroFVChR0Ul8EzpWIMWAsxBITVfqJWjWILxJN31o1cb4TZAAF+7AEItDQ==
",
    ),
    (
        9,
        "untrusted comment: signature from minisign secret key
RURnqYJEmjEQjaBQPMNKRh0a/ddobumWuLZWnc6c6Ys6VM6fssxHWNdkXGY2PpYQj9iJsRR4E995dwa8JVVZTFRik7XMLElHhwA=
trusted comment: timestamp:1795897797\tfile:c9.json\thashed
ELWRHzd/O50OaUTq/F81hVetmQ6cV2orGpj9kEtOgSij529zSwCd7j8BDcc2aZFHHEqvAs1insyWdy3YRwmzBw==
",
    ),
    (
        10,
        "untrusted comment: signature from minisign secret key
RURnqYJEmjEQjc2cn/T9cu8eJlM70mhC2ycX83PssFgBd2GYxh5uUz0WF/Tl7Y/DRDTf0LdxrP2uWf+J1MVYd4vhQQZpqUSN8Qs=
trusted comment: timestamp:1795897797\tfile:c10.json\thashed
Rn//4j0TiPkKugO3Q5klaPUw49nQiHxKk51GBCYx3aUl4IJjZi4VSNcRRc/ZGP7uJVbCEd4h9qqQSeYD+4HCBA==
",
    ),
];
const CATALOG_KEY: &str = "RWRnqYJEmjEQjWrAmuKukqlu4bMFxbDp5plAcvxyLScBeR1V2PHCb+PN";

/// Where the second copy of the serials is on their volume.
const SECOND_COPY: u64 = 32 << 10;

/// What catalog was believed outlives the registry, in a volume that is ours and nobody's layer.
fn believed(host: &CrashHost<'_>, s3: &S3) -> Result<()> {
    let catalog = |serial: u64| -> Result<Cmd> {
        let signed = CATALOGS.iter().find(|(of, _)| *of == serial).context("a serial")?.1;
        let text = format!("{{\"version\":2,\"serial\":{serial},\"images\":{{}}}}");
        s3.put("crash", "catalog.json", text.as_bytes())?;
        s3.put("crash", "catalog.json.minisig", signed.as_bytes())?;
        let cmd = host.cmd(&["catalog"]).env("VENEER_CATALOG_URL", "s3://crash/catalog.json");
        Ok(cmd.env("VENEER_CATALOG_KEYS", CATALOG_KEY))
    };
    let before = World::of(host.pool)?;
    catalog(9)?.run()?.expect(0)?;
    let volume = host.serials()?.context("a volume of the serials")?;
    let with = World::of(host.pool)?;
    ensure!(with.ids.len() == before.ids.len() + 1 && with.ids.contains(&volume), "{volume}");
    ensure!(with.devices == before.devices, "its device is left: {:?}", with.devices);
    catalog(9)?.run()?.expect(0)?;
    with.check(host.pool)?;
    // It is nobody else's, and stays.
    let listed = host.ok(&["gc", "--purge-foreign"])?;
    ensure!(listed["foreign"] == serde_json::json!(FOREIGN), "{listed}");
    let named =
        host.cmd(&["gc", "--purge-foreign", &volume.to_string()]).run()?.expect(1)?.json()?;
    ensure!(named["refused"][0]["volume"] == volume, "{named}");
    ensure!(host.ok(&["df"])?["foreign"] == serde_json::json!(FOREIGN));
    let metrics = host.cmd(&["metrics"]).run()?.expect(0)?;
    ensure!(metrics.text()?.contains("veneer_foreign_volumes 3"), "{metrics}");
    host.check_with(&FOREIGN)?;
    with.check(host.pool)?;

    let rebuilt = || -> Result<()> {
        lose(&host.state);
        let done = host.ok(&["rebuild"])?;
        ensure!(done["foreign"] == serde_json::json!(FOREIGN), "{done}");
        ensure!(done["unread"] == serde_json::json!([]), "{done}");
        ensure!(host.serials()? == Some(volume), "another volume");
        with.check(host.pool)
    };
    rebuilt()?;
    catalog(8)?.run()?.expect_message(100, "another one of serial 9 was believed")?;
    catalog(10)?.run()?.expect(0)?;
    rebuilt()?;
    catalog(9)?.run()?.expect_message(100, "another one of serial 10 was believed")?;
    // A power cut tears the copy that was written last: the one before stands.
    let thin = ThinId::new(u64::from(volume))?;
    let torn = host.pool.activate(thin, "torn", 128, Access::ReadWrite)?;
    let file = File::options().write(true).open(torn.path())?;
    file.write_all_at(&[0xff; 512], SECOND_COPY + 64)?;
    file.sync_all()?;
    drop(file);
    host.pool.deactivate("torn")?;
    rebuilt()?;
    catalog(8)?.run()?.expect_message(100, "another one of serial 9 was believed")?;
    catalog(10)?.run()?.expect(0)?;
    // Killed with its device active, the next command takes that down, and the next look uses it.
    let left = format!("{}-work-{volume}", host.pool.name());
    host.pool.activate(thin, &left, 128, Access::ReadWrite)?;
    host.ok(&["recover"])?;
    with.check(host.pool)?;
    host.pool.activate(thin, &left, 128, Access::ReadWrite)?;
    rebuilt()?;
    catalog(9)?.run()?.expect_message(100, "another one of serial 10 was believed")?;
    with.check(host.pool)
}
