//! Every verb of `thin` as a stranger would type it, right and wrong: exit codes, and messages that
//! name the thing, the value, the limit and the next act. Then pools on whole devices, a pool that
//! dmsetup made, sizes that grow and are read back, and what `ls` knows of a thin.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use thin::loopdev::{LoopOptions, attach};

use crate::guest::{Guest, Ran};
use crate::scenario::{Needs, Report, Scenario};

/// See the module.
pub const SCENARIO: Scenario =
    Scenario { name: "thin_verbs", needs: Needs { timeout_s: 300, ..Needs::DEFAULT }, run };

/// A line typed, its exit code, and a part of what it says (on stdout after 0 and 1, else on stderr).
/// `127` and `128` stand for names so long.
const TYPED: &[(&str, u8, &str)] = &[
    ("pool up p", 100, "thin pool init"),
    ("pool init p --data 0", 100, "at least one data block"),
    ("pool init p --data 1K", 100, "\"1024\""),
    ("pool init p --data 17T", 100, "at most 16 TiB"),
    ("pool init p --data 99999999T", 100, "below 16 EiB"),
    ("pool init p --data 64M --block-size 3K", 100, "multiple of 128"),
    ("pool init p --data 64M --block-size 96K", 100, "multiple of 128"),
    ("pool init p --data 64M --block-size 2G", 100, "128 to 2097152"),
    ("pool init p --data 64M --metadata 1K", 100, "2 MiB"),
    ("pool init p --data 64M --data-dev /dev/null", 100, "not both"),
    ("pool init p --data-dev /dev/null", 100, "not a block device"),
    ("pool init p", 100, "--data-dev"),
    ("pool init p --data 900G", 111, "No space left"),
    ("--pool a/b pool init p --data 64M", 100, "\"a/b\""),
    ("--pool 128 pool init p --data 64M", 100, "1 to 127"),
    ("pool init p --data 64M", 0, "total_data          1024"),
    ("pool init p --data 64M", 100, "thin pool up"),
    ("pool up p", 0, "was_up              yes"),
    ("pool status p", 0, "read_write"),
    ("pool status p", 0, "zeroing             yes"),
    ("pool status p", 0, "when_full           error"),
    ("create 1", 0, "made thin 1"),
    ("create 1", 100, "already has thin 1"),
    ("create 16777216", 100, "16777215"),
    ("snap 2 1", 0, "a snapshot of 1"),
    ("snap 2 1", 100, "already has thin 2"),
    ("snap 3 9", 100, "has no thin 9"),
    ("activate 1 base --size 10M", 0, "/dev/mapper/base"),
    ("activate 1 other --size 10M", 111, "already active as \"base\""),
    ("activate 2 base --size 10M", 100, "choose another name"),
    ("activate 9 none --size 10M", 100, "has no thin 9"),
    ("snap 4 1", 111, "thin deactivate base"),
    ("delete 1", 111, "thin deactivate base"),
    ("delete 9", 100, "has no thin 9"),
    ("delete 9 --if-exists", 0, "no thin 9"),
    ("delete 2 --dry-run", 0, "would delete thin 2"),
    ("exists 2", 0, "yes"),
    ("exists 9", 1, "no"),
    ("--wait-ms 100 pool down p", 111, "held by device \"base\""),
    ("deactivate base", 0, "is inactive"),
    ("deactivate base", 0, "was not active"),
    ("activate 1 a/b --size 1M", 100, "\"a/b\""),
    ("activate 1 .. --size 1M", 100, "\"..\""),
    ("activate 1 control --size 1M", 100, "control"),
    ("activate 1 128 --size 1M", 100, "1 to 127"),
    ("activate 1 127 --size 1M", 0, "nnnn"),
    ("deactivate 127", 0, "is inactive"),
    ("activate 1 zero --size 0", 100, "at least 512"),
    ("activate 1 odd --size 1000", 100, "multiple of 512"),
    ("activate 1 huge --size 99999999T", 100, "below 16 EiB"),
    ("usage", 0, "EXCLUSIVE BLOCKS"),
    ("room 10M", 0, "suffices        yes"),
    ("room 1G", 1, "suffices        no"),
    ("pool grow p", 100, "--metadata"),
    ("pool grow p --data 128M", 0, "total_data          2048"),
    ("pool grow p --metadata 16M", 0, "total_metadata      4096"),
    ("pool grow p --data 1M", 100, "sizes only grow"),
    ("pool repair p", 100, "thin pool down"),
    ("doctor p", 0, "thin-pool"),
    ("watch --seconds 1", 0, "data 0/2048"),
    ("transaction 0 1", 0, "transaction 1"),
    ("transaction 0 1", 100, "is at transaction 1"),
    ("rescue nosuch", 100, "no active volume"),
    ("delete 1", 0, "deleted thin 1"),
    ("pool down p", 0, "the pool is down"),
    ("pool down p", 0, "was not up"),
    ("pool status p", 100, "thin pool up"),
    ("ls", 100, "thin pool up"),
    ("pool grow p --data 256M", 100, "thin pool up"),
    ("pool up p", 0, "was_up              no"),
    ("pool down p", 0, "the pool is down"),
    ("pool adopt nosuch", 100, "no pool \"nosuch\""),
];

fn run(guest: &mut Guest) -> Result<Report> {
    for (typed, code, said) in TYPED {
        let ran = type_in(guest, typed)?;
        ensure!(ran.code == Some(i32::from(*code)), "not {code}: {ran}");
        let text = String::from_utf8_lossy(&ran.stdout).into_owned();
        let (says, silent) =
            if *code < 100 { (text, &ran.stderr) } else { (ran.stderr.clone(), &text) };
        ensure!(says.contains(said), "without \"{said}\": {ran}");
        ensure!(silent.is_empty(), "on the other stream too: {ran}");
    }
    // As an init leaves it that was killed before its header.
    std::fs::create_dir(guest.scratch().join("k"))?;
    std::fs::write(guest.scratch().join("k/data"), "")?;
    type_in(guest, "pool init k --data 64M")?.expect_message(100, "an init was cut off")?;
    ensure!(guest.scratch().join("k/data").exists(), "another's file is gone");
    devices(guest)?;
    adopted(guest)?;
    let freed = discards(guest)?;
    Ok(Report::new().figure("typed", TYPED.len()).figure("host_kib_freed_by_discard", freed))
}

/// In the scratch directory, on the pool "pool".
fn type_in(guest: &Guest, typed: &str) -> Result<Ran> {
    let words = typed.split(' ').map(|word| match word {
        "127" => "n".repeat(127),
        "128" => "n".repeat(128),
        other => other.to_owned(),
    });
    let notes = guest.scratch().join("notes");
    let thin = guest.cmd("thin").env("VENEER_POOL", "pool").env("VENEER_NOTES", notes);
    thin.args(words).dir(guest.scratch()).run()
}

fn good(guest: &Guest, typed: &str) -> Result<Ran> {
    type_in(guest, typed)?.expect(0)
}

fn rows(guest: &Guest) -> Result<Vec<Value>> {
    good(guest, "--json ls")?.json_lines()
}

/// A pool on whole devices; and `ls` over a reboot's worth of down and up.
fn devices(guest: &Guest) -> Result<()> {
    let options = LoopOptions { autoclear: false, ..LoopOptions::default() };
    let mut loops = Vec::new();
    for (name, mib) in [("data", 64_u64), ("meta", 8)] {
        let file = guest.scratch().join(name);
        std::fs::File::create(&file)?.set_len(mib << 20)?;
        loops.push(attach(&file, options)?);
    }
    let [data, meta] = [0, 1].map(|n: usize| loops[n].path().display().to_string());
    good(guest, &format!("pool init q --data-dev {data} --meta-dev {meta}"))?;
    for typed in ["create 7", "activate 7 seven --size 8M", "deactivate seven", "snap 8 7"] {
        good(guest, typed)?;
    }
    good(guest, "pool down q")?;
    let init = format!("pool init r --data-dev {data} --meta-dev {meta}");
    type_in(guest, &init)?.expect_message(100, "may be another pool's")?;
    good(guest, "pool up q")?;
    let listed = rows(guest)?;
    let [seven, eight] = listed.as_slice() else { anyhow::bail!("two thins: {listed:?}") };
    ensure!(seven["sectors"] == 16384 && seven["parent"] == Value::Null, "{seven}");
    ensure!(eight["parent"] == 7 && eight["owner"] == "thin", "{eight}");
    ensure!(eight["age_s"].as_u64().is_some_and(|age| age < 600), "{eight}");
    let table = good(guest, "ls")?;
    let head = table.text()?.lines().next().unwrap_or_default().to_owned();
    for column in ["ID", "NAME", "STATE", "SIZE", "MAPPED", "EXCLUSIVE", "PARENT", "AGE", "OWNER"] {
        ensure!(head.contains(column), "no {column}: {table}");
    }
    // The same id again, made by somebody else: a note is of the thin it was made for.
    good(guest, "transaction 0 4")?;
    for message in ["delete 8", "create_thin 8"] {
        guest.cmd("dmsetup").args(["message", "pool", "0", message]).run()?.expect(0)?;
    }
    let listed = rows(guest)?;
    ensure!(listed[1]["owner"] == Value::Null && listed[1]["parent"] == Value::Null, "{listed:?}");
    half_made(guest)?;
    // Lost notes are no loss.
    std::fs::remove_dir_all(guest.scratch().join("notes"))?;
    ensure!(rows(guest)?.len() == 2, "without notes");
    good(guest, "pool down q")?;
    loops.into_iter().try_for_each(|device| device.detach().context("detach"))
}

/// What a kill leaves between two ioctls, and `pool up` puts right.
fn half_made(guest: &Guest) -> Result<()> {
    good(guest, "activate 7 seven --size 8M")?;
    let id = good(guest, "--json pool status q")?.json()?["id"].as_str().unwrap_or("").to_owned();
    let uuid = format!("VENEER-{id}-8");
    for words in [
        &["suspend", "seven"][..],
        &["create", "--noudevsync", "half", "--notable", "--uuid", &uuid],
        &["message", "pool", "0", "reserve_metadata_snap"],
    ] {
        guest.cmd("dmsetup").args(words).run()?.expect(0)?;
    }
    type_in(guest, "activate 8 eight --size 8M")?
        .expect_message(111, "already active as \"half\"")?;
    let up = good(guest, "--json pool up q")?.json()?;
    let acts: Vec<&str> = up["tidied"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|act| act["act"].as_str())
        .collect();
    ensure!(acts == ["resumed", "removed"] && up["released_held_root"] == true, "{up}");
    let again = good(guest, "--json pool up q")?.json()?;
    ensure!(again["tidied"] == serde_json::json!([]), "{again}");
    good(guest, "deactivate seven")?;
    Ok(())
}

/// A pool that dmsetup made is taken as it is.
fn adopted(guest: &Guest) -> Result<()> {
    let options = LoopOptions { autoclear: false, ..LoopOptions::default() };
    let mut loops = Vec::new();
    for (name, mib) in [("theirs-meta", 4_u64), ("theirs-data", 32)] {
        let file = guest.scratch().join(name);
        std::fs::File::create(&file)?.set_len(mib << 20)?;
        loops.push(attach(&file, options)?);
    }
    let table = format!(
        "0 65536 thin-pool {} {} 2048 4",
        loops[0].path().display(),
        loops[1].path().display()
    );
    let dmsetup = |words: &[&str]| guest.cmd("dmsetup").args(words).run()?.expect(0);
    dmsetup(&["create", "--noudevsync", "theirs", "--table", &table])?;
    dmsetup(&["message", "theirs", "0", "create_thin 5"])?;
    let shown = good(guest, "--json pool adopt theirs")?.json()?;
    ensure!(shown["block_sectors"] == 2048 && shown["total_data"] == 32, "{shown}");
    for typed in ["snap 6 5", "activate 6 six --size 4M", "deactivate six"] {
        good(guest, &format!("--pool theirs {typed}"))?;
    }
    let listed = good(guest, "--pool theirs --json ls")?.json_lines()?;
    ensure!(listed.len() == 2 && listed[0]["owner"] == Value::Null, "{listed:?}");
    ensure!(listed[1]["parent"] == 5 && listed[1]["sectors"] == 8192, "{listed:?}");
    good(guest, "--pool theirs pool down")?;
    loops.into_iter().try_for_each(|device| device.detach().context("detach"))
}

/// A sparse pool gives to the host what is discarded on a volume, and only that: see `--sparse`.
fn discards(guest: &Guest) -> Result<u64> {
    good(guest, "pool init s --data 64M --sparse")?;
    good(guest, "create 1")?;
    good(guest, "activate 1 holes --size 32M")?;
    let held = || -> Result<u64> {
        let file = std::fs::metadata(guest.scratch().join("s/data"))?;
        Ok(std::os::unix::fs::MetadataExt::blocks(&file) / 2)
    };
    let write = ["if=/dev/urandom", "of=/dev/mapper/holes", "bs=1M", "count=16", "conv=fsync"];
    guest.cmd("dd").args(write).run()?.expect(0)?;
    let full = held()?;
    guest.cmd("blkdiscard").arg("/dev/mapper/holes").run()?.expect(0)?;
    good(guest, "pool status s")?;
    let after = held()?;
    ensure!(full >= 16 << 10 && after < full / 4, "{full} KiB before the discard, {after} after");
    good(guest, "deactivate holes")?;
    good(guest, "pool down s")?;
    Ok(full - after)
}
