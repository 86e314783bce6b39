//! Layers on a pool are written and not mounted: the volumes have the bytes that the same layers have in a file,
//! and the kernel says nothing of them. Stacks of an earlier version, which were made through mounts, stay, are built
//! on, and are told by a rebuild; a volume whose mark is not as it was sealed is built again.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use thin::{Access, ThinId};

use crate::guest::kmsg::KernelLog;
use crate::guest::veneer::{Mounted, Veneer, expected, image};
use crate::guest::{Cmd, Guest, STORE};
use crate::layer;
use crate::s3::BUCKET;
use crate::scenario::{Images, Needs, Report, Scenario};

/// See the module.
pub const SCENARIO: Scenario = Scenario {
    name: "written",
    needs: Needs { images: Images::Small, timeout_s: 1200, ..Needs::DEFAULT },
    run,
};

/// Bytes of a volume: small, since all of it is compared.
const BYTES: u64 = 512 << 20;
/// Where the writer's mark begins, and where it ends.
const MARK: [u64; 2] = [896, 1024];

fn run(guest: &mut Guest) -> Result<Report> {
    let veneer = Veneer::new(guest)?;
    let mut log = KernelLog::from_now()?;
    let small = veneer.cmd(&["activate", &image("node"), "--name", "node-1", "--json"]);
    small.env("VENEER_VOLUME_BYTES", BYTES.to_string()).run()?.expect(0)?;
    let said = log.read()?;
    let ext4: Vec<&String> = said.iter().filter(|line| line.contains("EXT4")).collect();
    ensure!(ext4.is_empty(), "the kernel has met a file system: {ext4:?}");
    let blocks = veneer.used_blocks()?;
    same_as_a_file(guest, &veneer)?;
    older(guest, &veneer)?;
    damaged(&veneer)?;
    gone(&veneer)?;
    flipped(&veneer)?;
    let warnings: Vec<String> = log
        .read()?
        .into_iter()
        .filter(|line| line.contains("EXT4-fs (") && line.contains("error"))
        .collect();
    ensure!(warnings.is_empty(), "{warnings:?}");
    veneer.close()?;
    Ok(Report::new().figure("pool_blocks_of_node", blocks))
}

/// The rows of sealed layers, lowest first, as `registry ls volumes` has them.
fn layers(veneer: &Veneer) -> Result<Vec<Value>> {
    let listed = Cmd::new("registry").arg("--state").arg(&veneer.state);
    let rows = listed.args(["ls", "volumes", "--json"]).run()?.expect(0)?.json_lines()?;
    Ok(rows.into_iter().filter(|row| row["role"] == "layer").collect())
}

fn id(row: &Value) -> Result<u64> {
    row["id"].as_u64().context("an id")
}

/// Does something with the device of a volume that nobody has.
fn with<T>(
    veneer: &Veneer,
    id: u64,
    access: Access,
    act: impl FnOnce(&File) -> Result<T>,
) -> Result<T> {
    let pool = veneer.pool.pool();
    let volume = pool.activate(ThinId::new(id)?, "looked-at", BYTES / 512, access)?;
    let file = File::options().read(true).write(access == Access::ReadWrite).open(volume.path())?;
    let done = act(&file);
    file.sync_all().ok();
    drop(file);
    pool.deactivate("looked-at")?;
    done
}

fn start(veneer: &Veneer, id: u64) -> Result<Vec<u8>> {
    with(veneer, id, Access::ReadOnly, |device| {
        let mut start = vec![0; 1024];
        device.read_exact_at(&mut start, 0)?;
        Ok(start)
    })
}

/// The same layers in a file, in another process and through no device: from the mark on every byte is equal, and so
/// is the block digest.
fn same_as_a_file(guest: &Guest, veneer: &Veneer) -> Result<()> {
    let path = guest.scratch().join("node.img");
    let path = path.to_str().context("a path")?;
    let align = (veneer.pool.pool().block_sectors() * 512).to_string();
    let blank = ["--image", path, "--blank", &BYTES.to_string(), "--align", &align, "-q"];
    guest.cmd("unpack").args(blank).run()?.expect(0)?;
    let top = layers(veneer)?.last().map(id).context("no layer")??;
    for number in 1..=5 {
        let layer = File::open(format!("{STORE}/{BUCKET}/images/node/{number}.tar"))?;
        guest.cmd("unpack").args(["--image", path, "-q"]).stdin(layer).run()?.expect(0)?;
    }
    let digest = guest.cmd("unpack").args(["--block-digest", "--image", path]);
    let digest = String::from_utf8(digest.run()?.expect(0)?.stdout)?;
    let rows = layers(veneer)?;
    let sealed = rows.last().and_then(|row| row["seal"]["blocks"].as_str());
    ensure!(sealed == Some(digest.trim_end()), "sealed with {sealed:?}, the file has {digest}");
    let file = File::open(path)?;
    with(veneer, top, Access::ReadOnly, |device| {
        let (mut ours, mut its) = (vec![0; 1 << 20], vec![0; 1 << 20]);
        let mut at = MARK[0];
        while at < BYTES {
            let len = usize::try_from(BYTES - at)?.min(1 << 20);
            file.read_exact_at(&mut ours[..len], at)?;
            device.read_exact_at(&mut its[..len], at)?;
            // As a whole first: byte by byte, half a gigabyte is a minute in software.
            if ours[..len] != its[..len] {
                let other = (0..len).position(|n| ours[n] != its[n]).unwrap_or_default();
                anyhow::bail!("byte {} of volume {top} is not that of the file", at + other as u64);
            }
            at += len as u64;
        }
        Ok(())
    })?;
    std::fs::remove_file(path)?;
    Ok(())
}

/// The record of a volume as an earlier version wrote it, and no mark.
fn make_older(veneer: &Veneer, id: u64, key: &[u8]) -> Result<()> {
    let start = start(veneer, id)?;
    ensure!(start.starts_with(b"veneer-sealed-3\n"), "volume {id} begins with {:?}", &start[..16]);
    let length = u32::from_le_bytes(start[16..20].try_into()?) as usize;
    let mut text: Value = serde_json::from_slice(&start[212..212 + length])?;
    // Four of the five: an earlier version knew of no block digests.
    for (name, digest) in ["blob", "diff", "chain", "tree"].iter().zip(start[52..180].chunks(32)) {
        if let Some(layer) = text["layer"].as_object_mut() {
            layer.insert((*name).into(), json!(format!("sha256:{}", hex(digest))));
        }
    }
    let json = serde_json::to_vec(&text)?;
    let with_manifest = !text["origin"]["manifest"].is_null();
    let mut older =
        if with_manifest { *b"veneer-sealed-2\n" } else { *b"veneer-sealed-1\n" }.to_vec();
    older.extend(u32::try_from(json.len())?.to_le_bytes());
    older.extend(hmac(key, &json));
    older.extend(json);
    older.resize(1024, 0);
    with(veneer, id, Access::ReadWrite, |device| Ok(device.write_all_at(&older, 0)?))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// RFC 2104, of a key of 32 bytes.
fn hmac(key: &[u8], text: &[u8]) -> [u8; 32] {
    let pad = |with: u8| -> Vec<u8> {
        (0..64).map(|at| key.get(at).copied().unwrap_or(0) ^ with).collect()
    };
    let inner = Sha256::digest([&pad(0x36)[..], text].concat());
    Sha256::digest([&pad(0x5c)[..], &inner].concat()).into()
}

/// The template's id, and the key of the store's seals in its record.
fn key(veneer: &Veneer) -> Result<(u64, Vec<u8>)> {
    let listed = Cmd::new("registry").arg("--state").arg(&veneer.state);
    let rows = listed.args(["ls", "volumes", "--json"]).run()?.expect(0)?.json_lines()?;
    let template = rows.iter().find(|row| row["role"] == "template").context("no template")?;
    let start = start(veneer, id(template)?)?;
    let at = start.windows(7).position(|bytes| bytes == b"\"key\":\"").context("no key")? + 7;
    let hex = std::str::from_utf8(&start[at..at + 64])?;
    let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16);
    Ok((id(template)?, (0..64).step_by(2).map(byte).collect::<Result<_, _>>()?))
}

/// An image of these layers, each with one small file.
fn put(veneer: &Veneer, name: &str, from: &[&str], own: &str) -> Result<String> {
    let mut number = 0;
    for layer in from {
        number += 1;
        let bytes = std::fs::read(format!("{STORE}/{BUCKET}/images/{layer}.tar"))?;
        veneer.s3.put(BUCKET, &format!("images/{name}/{number}.tar"), &bytes)?;
    }
    let layer = layer::of(&[(format!("srv/{own}"), own.as_bytes().to_vec())]);
    veneer.s3.put(BUCKET, &format!("images/{name}/{}.tar", number + 1), &layer)?;
    Ok(image(name))
}

fn intact(veneer: &Veneer) -> Result<()> {
    let found = veneer.ok(&["verify"])?;
    ensure!(found["intact"] == true, "{found}");
    Ok(())
}

/// Takes the registry away, and makes it again from the records.
fn rebuild(veneer: &Veneer) -> Result<()> {
    for name in ["registry.db", "registry.db-wal", "registry.db-shm"] {
        drop(std::fs::remove_file(veneer.state.join(name)));
    }
    veneer.ok(&["rebuild"]).map(drop)
}

/// What `verify` says of a volume.
fn finding(veneer: &Veneer, volume: u64) -> Result<Value> {
    let ran = veneer.cmd(&["verify", "--json"]).run()?;
    let found: Value = serde_json::from_slice(&ran.stdout)?;
    let mut volumes = found["volumes"].as_array().into_iter().flatten();
    volumes.find(|line| line["volume"] == volume).cloned().context("it was not looked at")
}

/// Blocks are compared, with their list and without it; one flipped bit is found, and where it is.
fn flipped(veneer: &Veneer) -> Result<()> {
    for (number, name) in [(1, "below"), (2, "flipped")] {
        let layer = layer::of(&[(format!("srv/{name}"), name.as_bytes().to_vec())]);
        veneer.s3.put(BUCKET, &format!("images/flipped/{number}.tar"), &layer)?;
    }
    veneer.ok(&["ensure", &image("flipped")])?;
    let top = layers(veneer)?.last().map(id).context("no layer")??;
    let kept = veneer.state.join(format!("manifests/{top}.chunks"));
    let list = std::fs::read_to_string(&kept)?;
    let now = finding(veneer, top)?;
    ensure!(now["now"] == "intact" && now["compared"] == "blocks", "{now}");
    std::fs::remove_file(&kept)?;
    let now = finding(veneer, top)?;
    ensure!(now["now"] == "intact" && now["compared"] == "blocks", "without its list: {now}");
    std::fs::write(&kept, &list)?;
    let last = list.lines().last().and_then(|line| line.split(' ').next()).context("no chunk")?;
    let chunk: u64 = last.parse()?;
    with(veneer, top, Access::ReadWrite, |device| {
        let mut bytes = vec![0; 1 << 20];
        device.read_exact_at(&mut bytes, chunk << 20)?;
        let at = bytes.iter().position(|&byte| byte != 0).context("zeros")?;
        Ok(device.write_all_at(&[bytes[at] ^ 4], (chunk << 20) + at as u64)?)
    })?;
    let now = finding(veneer, top)?;
    ensure!(now["now"] == "changed" && now["chunks"] == json!([chunk]), "{now}");
    let now = finding(veneer, top)?;
    ensure!(now["now"] == "condemned", "{now}");
    veneer.ok(&["gc"]).map(drop)
}

/// A pool of an earlier version: its stacks stay and are built on through mounts; a new template is written.
fn older(guest: &Guest, veneer: &Veneer) -> Result<()> {
    let (template, key) = key(veneer)?;
    let old: Vec<u64> = layers(veneer)?.iter().map(id).collect::<Result<_>>()?;
    for id in &old {
        make_older(veneer, *id, &key)?;
    }
    make_older(veneer, template, &key)?;
    rebuild(veneer)?;
    for row in layers(veneer)? {
        ensure!(row["seal"]["blocks"].is_null(), "an earlier version had none: {row}");
    }
    intact(veneer)?;

    // Layers 1 to 3 are node's; what goes on them goes on as they did.
    veneer.activate("golang", "golang-1")?;
    let mounted = Mounted::new(guest.scratch(), "golang-1")?;
    expected(guest, "golang", 256)?.expect_equal(&mounted.tree()?)?;
    drop(mounted);
    for row in layers(veneer)? {
        let start = start(veneer, id(&row)?)?;
        ensure!(
            !start.starts_with(b"veneer-sealed-3\n"),
            "written on what no writer has made: {row}"
        );
    }
    intact(veneer)?;

    // The first layer of something else finds no template of the writer's.
    let own = put(veneer, "written", &[], "first")?;
    veneer.ok(&["ensure", &own])?;
    let first = layers(veneer)?.last().map(id).context("no layer")??;
    ensure!(start(veneer, first)?.starts_with(b"veneer-sealed-3\n"), "it was not written");
    ensure!(self::key(veneer)? == (template, key), "another template, or another key");
    intact(veneer)?;
    veneer.check()?;

    // Both kinds of records tell what is there.
    let before = veneer.ok(&["ls"])?;
    let blocks = |rows: &[Value]| rows.last().map(|row| row["seal"]["blocks"].clone());
    let sealed = blocks(&layers(veneer)?);
    ensure!(sealed.as_ref().is_some_and(Value::is_string), "no block digest: {sealed:?}");
    rebuild(veneer)?;
    ensure!(sealed == blocks(&layers(veneer)?), "a block digest did not come back");
    let names = |listing: &Value| -> Vec<String> {
        let images = listing["images"].as_array().into_iter().flatten();
        let mut names: Vec<String> = images.map(|image| image["image"].to_string()).collect();
        names.sort();
        names
    };
    let after = veneer.ok(&["ls"])?;
    ensure!(names(&before) == names(&after), "before {before}, rebuilt {after}");
    intact(veneer)?;
    drop(Mounted::new(guest.scratch(), "node-1")?);
    veneer.check()?;
    after_a_crash(veneer, &own)
}

/// What an earlier version made has no journal for all that is known of it: after a crash of the host it is named until
/// somebody says that it is in order. What the writer made has one.
fn after_a_crash(veneer: &Veneer, written: &str) -> Result<()> {
    veneer.ok(&["activate", written, "--name", "written-1"])?;
    for name in ["golang-1", "written-1"] {
        veneer.pool.pool().deactivate(name)?;
    }
    veneer.in_another_boot(|| {
        veneer.ok(&["recover"])?;
        let unchecked = |name: &str| -> Result<bool> {
            let row = veneer.ok(&["show", name])?["activation"].take();
            ensure!(row["mapped"] == true, "it did not come up: {row}");
            row["unchecked"].as_bool().with_context(|| row.to_string())
        };
        ensure!(unchecked("golang-1")?, "it has no journal");
        ensure!(!unchecked("written-1")?, "it has a journal");
        let health = veneer.cmd(&["health", "--json"]).run()?.json()?;
        let checks = health["checks"].as_array().context("checks")?;
        let checked = checks.iter().find(|check| check["name"] == "checked").context("checked")?;
        let reason = checked["reason"].as_str().unwrap_or_default();
        ensure!(reason.contains("golang-1") && !reason.contains("written-1"), "{checked}");
        veneer.ok(&["checked", "golang-1"])?;
        ensure!(!unchecked("golang-1")?, "it was checked");
        veneer.ok(&["recover"])?;
        ensure!(!unchecked("golang-1")?, "in the same boot");
        Ok(())
    })?;
    veneer.ok(&["rm", "written-1"]).map(drop)
}

/// A mark that is not as it was sealed: what is built on it is built again, with all that is below.
fn damaged(veneer: &Veneer) -> Result<()> {
    let first = layers(veneer)?.last().map(id).context("no layer")??;
    with(veneer, first, Access::ReadWrite, |device| {
        let mut byte = [0];
        // Its first byte: what has no mark any more is no stack of an earlier version by that.
        device.read_exact_at(&mut byte, MARK[0])?;
        Ok(device.write_all_at(&[byte[0] ^ 1], MARK[0])?)
    })?;
    let bytes = layer::of(&[("srv/first".into(), b"first".to_vec())]);
    veneer.s3.put(BUCKET, "images/on-it/1.tar", &bytes)?;
    let own = layer::of(&[("srv/second".into(), b"second".to_vec())]);
    veneer.s3.put(BUCKET, "images/on-it/2.tar", &own)?;
    let ensured = veneer.ok(&["ensure", &image("on-it")])?;
    ensure!(ensured["condemned"].is_null() || ensured["condemned"].is_array(), "{ensured}");
    let rows = layers(veneer)?;
    let of = |id_: u64| rows.iter().find(|row| row["id"] == id_);
    ensure!(of(first).is_none_or(|row| !row["condemned"].is_null()), "not condemned: {rows:?}");
    let found = veneer.ok(&["verify", &image("on-it")])?;
    ensure!(found["intact"] == true, "{found}");
    ensure!(Path::new("/dev/mapper/node-1").exists(), "what has nothing to do with it is gone");
    veneer.ok(&["gc"]).map(drop)
}

/// A volume that somebody deleted below us is found to be gone, and built again by who needs it.
fn gone(veneer: &Veneer) -> Result<()> {
    let top = layers(veneer)?.last().map(id).context("no layer")??;
    veneer.pool.pool().delete(ThinId::new(top)?)?;
    let found = veneer.cmd(&["verify", &image("on-it"), "--json"]).run()?.expect(1)?.json()?;
    let lines = found["volumes"].as_array().context("volumes")?;
    let line = lines.iter().find(|line| line["volume"] == top).context("not looked at")?;
    ensure!(line["now"] == "unreadable", "{line}");
    veneer.ok(&["ensure", &image("on-it")])?;
    let found = veneer.ok(&["verify", &image("on-it")])?;
    ensure!(found["intact"] == true, "{found}");
    veneer.ok(&["gc"]).map(drop)
}
