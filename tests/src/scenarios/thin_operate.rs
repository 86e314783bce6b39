//! `thin` as an operator needs it: a look at a thin that cannot write, sizes that stay true, files that
//! were moved, a pool that is down or needs a check, and growth that goes by the state the pool is in.
//! Everything is typed, and what is not as it should be is told all at once.

use std::fs::{self, OpenOptions};
use std::io::Write as _;

use anyhow::{Result, ensure};

use crate::guest::{Guest, Ran};
use crate::scenario::{Needs, Report, Scenario};

/// See the module.
pub const SCENARIO: Scenario =
    Scenario { name: "thin_operate", needs: Needs { timeout_s: 300, ..Needs::DEFAULT }, run };

/// A line typed, its exit code, and a part of what it says.
const LOOKS: &[(&str, u8, &str)] = &[
    ("pool init p --data 64M", 0, "total_data"),
    ("create 5", 0, "made thin 5"),
    ("activate 5 base --size 10M", 0, "/dev/mapper/base"),
    ("format base", 0, "made an ext4"),
    ("look 5", 111, "thin run --name base --ro -- ls -l"),
    ("look 9", 100, "has no thin 9"),
    ("deactivate base", 0, "is inactive"),
    ("look 5", 0, "/dev/mapper/pool-seen-5"),
    ("look 5", 0, "/dev/mapper/pool-seen-5"),
    ("run --name pool-seen-5 --ro -- ls", 0, "lost+found"),
    ("activate 5 base --size 10M", 111, "already active as \"pool-seen-5\""),
    ("format pool-seen-5", 100, "read-only"),
    ("grow pool-seen-5 --size 20M", 100, "read-only"),
    // Nothing can write to its origin.
    ("snap 6 5", 0, "a snapshot of 5"),
    ("ls", 0, "10 MiB"),
    ("deactivate pool-seen-5", 0, "is inactive"),
    ("activate 5 base --size 10M", 0, "/dev/mapper/base"),
    ("grow base --size 20M", 0, "orchestrate"),
    ("deactivate base", 0, "is inactive"),
    // As a reader does that wants only the beginning.
    ("activate 5 begin --size 64K --ro", 0, "/dev/mapper/begin"),
    ("look 5", 111, "active read-only as \"begin\""),
    ("ls", 0, "20 MiB"),
    ("deactivate begin", 0, "is inactive"),
    ("ls", 0, "20 MiB"),
    // The snapshot was never active: how long it is, only its file system knows.
    ("look 6", 0, "/dev/mapper/pool-seen-6"),
    ("run --name pool-seen-6 --ro -- ls", 0, "lost+found"),
    ("deactivate pool-seen-6", 0, "is inactive"),
    ("look 6 --size 1M", 0, "/dev/mapper/pool-seen-6"),
    ("deactivate pool-seen-6", 0, "is inactive"),
    ("pool down p", 0, "the pool is down"),
];

/// The pool's files are copies by then, as from a backup.
const MOVED: &[(&str, u8, &str)] = &[
    ("pool up q", 100, "--moved"),
    ("pool up q --moved", 0, "read_write"),
    ("pool down q", 0, "the pool is down"),
    ("pool repair q", 0, "clean"),
    ("doctor q", 1, "thin pool up q"),
    ("pool up q", 0, "was_up              no"),
    ("doctor q", 0, "writable"),
    ("pool grow q", 100, "thin pool grow q --data"),
    ("pool grow q --data 900G", 111, "No space left"),
    ("pool grow q --data 66M", 0, "1056"),
    ("pool down q", 0, "the pool is down"),
    ("pool up q", 0, "was_up              no"),
    ("pool down q", 0, "the pool is down"),
];

fn run(guest: &mut Guest) -> Result<Report> {
    let mut wrong = Vec::new();
    type_all(guest, LOOKS, &mut wrong)?;
    fs::create_dir(guest.scratch().join("q"))?;
    for file in ["pool.json", "data", "metadata", "spare"] {
        fs::copy(guest.scratch().join("p").join(file), guest.scratch().join("q").join(file))?;
    }
    fs::remove_dir_all(guest.scratch().join("p"))?;
    type_all(guest, MOVED, &mut wrong)?;
    let data = fs::metadata(guest.scratch().join("q/data"))?.len();
    if data != 66 << 20 {
        wrong.push(format!("a growth without room has left a file of {data} bytes"));
    }
    fills(guest, &mut wrong)?;
    ensure!(wrong.is_empty(), "{} are not as they should be:\n{}", wrong.len(), wrong.join("\n"));
    Ok(Report::new().figure("typed", LOOKS.len() + MOVED.len()))
}

fn type_all(guest: &Guest, lines: &[(&str, u8, &str)], wrong: &mut Vec<String>) -> Result<()> {
    for (typed, code, said) in lines {
        let ran = type_in(guest, typed)?;
        let text = String::from_utf8_lossy(&ran.stdout).into_owned() + &ran.stderr;
        if ran.code != Some(i32::from(*code)) || !text.contains(said) {
            wrong.push(format!("not {code} with {said:?}: {ran}"));
        }
    }
    Ok(())
}

fn type_in(guest: &Guest, typed: &str) -> Result<Ran> {
    let thin = guest.cmd("thin").env("VENEER_POOL", "pool");
    let thin = thin.env("VENEER_NOTES", guest.scratch().join("notes"));
    thin.args(typed.split(' ')).dir(guest.scratch()).run()
}

/// A pool that is below its mark before anybody watches: it grows at once, to the bound and no further.
fn fills(guest: &Guest, wrong: &mut Vec<String>) -> Result<()> {
    for typed in [
        "--pool filling pool init f --data 32M --metadata 2M",
        "--pool filling create 1",
        "--pool filling activate 1 full --size 31M",
    ] {
        type_in(guest, typed)?.expect(0)?;
    }
    let mut device = OpenOptions::new().write(true).open("/dev/mapper/full")?;
    device.write_all(&vec![7; 30 << 20])?;
    device.sync_all()?;
    drop(device);
    let watch =
        |grow: &str| type_in(guest, &format!("--pool filling watch --seconds 2 --grow f {grow}"));
    let total = || -> Result<u64> {
        let status = type_in(guest, "--json pool status f")?.expect(0)?.json()?;
        Ok(status["total_data"].as_u64().unwrap_or_default())
    };
    // The bound is reached and the pool is filling: that has to be said.
    let ran = watch("--grow-by 16M --grow-to 32M")?;
    if !ran.stderr.contains("--grow-to") {
        wrong.push(format!("a bound that is reached: {ran}"));
    }
    watch("--grow-by 16M --grow-to 40M")?.expect(0)?;
    if total()? != 640 {
        wrong.push(format!("watch: {} blocks, not grown to 640", total()?));
    }
    type_in(guest, "--pool filling deactivate full")?.expect(0)?;
    type_in(guest, "pool down f")?.expect(0)?;
    Ok(())
}
