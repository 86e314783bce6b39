//! The main job: three families from S3 to activated devices, each tree equal to the oracle's, every
//! distinct layer fetched and unpacked once, and what a second time costs.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::guest::veneer::{FAMILIES, Mounted, PROGRAMS, Veneer, expected, image};
use crate::guest::{Guest, STORE};
use crate::layer;
use crate::s3::BUCKET;
use crate::scenario::{Images, Needs, Report, Scenario};

/// See the module.
pub const SCENARIO: Scenario = Scenario {
    name: "activate",
    needs: Needs { images: Images::Small, timeout_s: 900, ..Needs::DEFAULT },
    run,
};

fn run(guest: &mut Guest) -> Result<Report> {
    let veneer = Veneer::new(guest)?;
    let mut report = Report::new();

    let dry = veneer.ok(&["activate", &image("golang"), "--name", "golang-1", "--dry-run"])?;
    ensure!(dry["ensured"]["fetched_objects"] == 5 && dry["volume"].is_null(), "the plan: {dry}");
    ensure!(veneer.s3.object_gets().is_empty(), "--dry-run fetched something");
    ensure!(veneer.pool.pool().ids()?.is_empty(), "--dry-run made a volume");

    let begun = Instant::now();
    for family in FAMILIES {
        veneer.activate(family, &format!("{family}-1"))?;
    }
    report = report.figure("all_three_ms", millis(begun));
    report = report.figure("pool_blocks", veneer.used_blocks()?);
    veneer.check()?;

    // Eight layers are distinct; server and registry agree that each byte came once, in however
    // many ranges.
    let mut came: BTreeMap<String, u64> = BTreeMap::new();
    for get in veneer.s3.object_gets() {
        *came.entry(get.target).or_default() += get.bytes;
    }
    let listing = veneer.ok(&["ls"])?;
    let mut distinct: BTreeMap<String, u64> = BTreeMap::new();
    for image in listing["images"].as_array().context("images")? {
        for layer in image["layers"].as_array().context("layers")? {
            let size = layer["bytes"].as_u64().context("bytes")?;
            distinct.insert(layer["volume"].to_string(), size);
        }
    }
    ensure!(came.len() == 8 && distinct.len() == 8, "fetched {came:?}, sealed {distinct:?}");
    let sizes = |map: &BTreeMap<String, u64>| {
        let mut sizes: Vec<u64> = map.values().copied().collect();
        sizes.sort_unstable();
        sizes
    };
    ensure!(sizes(&came) == sizes(&distinct), "fetched {came:?}, sealed {distinct:?}");
    let bytes: u64 = came.values().sum();
    report = report.figure("fetched_bytes", bytes);
    report = report.figure("unshared_bytes", listing["unshared_bytes"].clone());

    for (family, program, line) in PROGRAMS {
        let mounted = Mounted::new(guest.scratch(), &format!("{family}-1"))?;
        let expected = expected(guest, family, 256)?;
        ensure!(expected.len() > 100, "{family} has only {} paths", expected.len());
        expected.expect_equal(&mounted.tree()?).with_context(|| format!("the tree of {family}"))?;
        let said = mounted.run(program)?;
        ensure!(said.starts_with(line), "{family} says {said:?}");
        std::fs::write(mounted.path().join("written"), family)?;
        report = report.figure(&format!("{family}_paths"), expected.len());
    }

    // What is active is left alone, without a word to the server.
    veneer.s3.proxy.clear();
    let again = veneer.activate("golang", "golang-1")?;
    ensure!(again["already"] == true, "the same again: {again}");
    let asked = veneer.s3.proxy.exchanges();
    ensure!(asked.is_empty(), "the same again asked {asked:?}");
    report = report.figure("again_ms", again["ms"].clone());
    report = report.figure("again_ioctls", again["ioctls"].clone());

    // A second name costs one snapshot: no object, no mkfs, no data block.
    let (blocks, ids) = (veneer.used_blocks()?, veneer.pool.pool().ids()?.len());
    let second = veneer.cmd(&["activate", &image("golang"), "--name", "golang-2", "--json"]);
    // Were mkfs run, there would be none.
    let second = second.env("VENEER_MKFS", "/nowhere/mkfs").run()?.expect(0)?.json()?;
    ensure!(veneer.s3.object_gets().is_empty(), "a second name fetched an object");
    ensure!(veneer.pool.pool().ids()?.len() == ids + 1, "a second name is not one volume");
    ensure!(veneer.used_blocks()? == blocks, "a second name took data blocks");
    report = report.figure("second_ms", second["ms"].clone());
    report = report.figure("second_ioctls", second["ioctls"].clone());
    let fresh = Mounted::new(guest.scratch(), "golang-2")?;
    ensure!(!fresh.path().join("written").exists(), "two activations share what is written");
    drop(fresh);

    // One more costs the same, however many there are.
    let ioctls = |done: &serde_json::Value| done["ioctls"].as_u64().context("ioctls");
    for n in 3..=6 {
        let more = veneer.activate("golang", &format!("golang-{n}"))?;
        ensure!(ioctls(&more)? == ioctls(&second)?, "with {n} active: {more}, at first: {second}");
    }
    for n in 3..=6 {
        veneer.ok(&["rm", &format!("golang-{n}")])?;
    }

    let (bytes, blocks) = fourth(&veneer)?;
    report = report.figure("fourth_bytes", bytes).figure("fourth_blocks", blocks);

    // Recovery after a reboot, killed between making a device and giving it its table.
    let pool = veneer.pool.pool();
    let id = pool.volume("golang-1")?.id;
    pool.deactivate("golang-1")?;
    pool.dm().create("golang-1", &pool.thin_uuid(id))?;
    let mended = veneer.ok(&["recover"])?;
    let settled = serde_json::json!([{"repair": "settle", "name": "golang-1", "wish": "up"}]);
    ensure!(mended["repairs"] == settled, "{mended}");
    drop(Mounted::new(guest.scratch(), "golang-1")?);

    // Down keeps what was written, rm does not.
    veneer.ok(&["deactivate", "golang-1"])?;
    ensure!(!std::path::Path::new("/dev/mapper/golang-1").exists(), "golang-1 is still there");
    veneer.activate("golang", "golang-1")?;
    let back = Mounted::new(guest.scratch(), "golang-1")?;
    ensure!(back.path().join("written").exists(), "what was written to golang-1 is gone");
    drop(back);
    veneer.cmd(&["rm", &image("golang")]).run()?.expect_message(100, "golang-1, golang-2")?;

    veneer.close()?;
    Ok(report)
}

/// An image of three layers that are here and one of its own: that one is all that comes, and all that is
/// written. Gives its bytes, and the blocks that it took.
fn fourth(veneer: &Veneer) -> Result<(u64, u64)> {
    let key = |number: usize| format!("images/fourth/{number}.tar");
    for number in 1..=3 {
        let layer = std::fs::read(format!("{STORE}/{BUCKET}/images/golang/{number}.tar"))?;
        veneer.s3.put(BUCKET, &key(number), &layer)?;
    }
    let noise = |n: u32| n.wrapping_mul(0x9e37_79b1).to_le_bytes()[3];
    let own = layer::of(&[("srv/own".into(), (0..1 << 20).map(noise).collect())]);
    veneer.s3.put(BUCKET, &key(4), &own)?;

    veneer.s3.proxy.clear();
    let before = veneer.used_blocks()?;
    veneer.ok(&["ensure", &image("fourth")])?;
    let blocks = veneer.used_blocks()? - before;
    let gets = veneer.s3.object_gets();
    let bytes: u64 = gets.iter().map(|get| get.bytes).sum();
    let own_alone = gets.iter().all(|get| get.target.ends_with(&key(4)));
    ensure!(own_alone && bytes == u64::try_from(own.len())?, "for one new layer: {gets:?}");
    // A MiB of content, and what ext4 writes of its own for any layer: docs/space.md.
    ensure!(blocks <= 12, "one new MiB took {blocks} blocks");
    for number in 1..=4 {
        veneer.s3.delete(BUCKET, &key(number))?;
    }
    Ok((bytes, blocks))
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}
