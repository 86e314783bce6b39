//! Thins of somebody else at the ids that would come next, active and not, with data: none is used, taken
//! down, deleted or written to, whatever our commands do; and one that took the place of ours stays too.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use thin::{Access, ThinId};

use crate::guest::Guest;
use crate::guest::veneer::{Mounted, Veneer, image};
use crate::scenario::{Images, Needs, Report, Scenario};

/// See the module.
pub const SCENARIO: Scenario = Scenario {
    name: "foreign",
    needs: Needs { images: Images::Small, timeout_s: 900, ..Needs::DEFAULT },
    run,
};

const BYTES: usize = 8 << 20;
const SECTORS: u64 = 16 << 11;

/// Somebody else's thins: what was written to each, and the device of those that are active.
struct Theirs<'a> {
    veneer: &'a Veneer,
    sums: BTreeMap<u32, String>,
    devices: BTreeMap<u32, String>,
}

impl Theirs<'_> {
    /// Makes one, writes to it, and leaves it active or not.
    fn put(&mut self, id: u32, active: bool) -> Result<()> {
        let pool = self.veneer.pool.pool();
        let thin = ThinId::new(u64::from(id))?;
        pool.create_thin(thin)?;
        let name = format!("theirs-{id}");
        let volume = pool.activate(thin, &name, SECTORS, Access::ReadWrite)?;
        let data: Vec<u8> =
            (0..BYTES).map(|at| (at / 512).to_le_bytes()[0] ^ id.to_le_bytes()[0]).collect();
        let mut file = OpenOptions::new().write(true).open(volume.path())?;
        file.write_all(&data)?;
        file.sync_all()?;
        drop(file);
        self.sums.insert(id, format!("{:x}", Sha256::digest(&data)));
        match active {
            true => drop(self.devices.insert(id, name)),
            false => drop(pool.deactivate(&name)?),
        }
        Ok(())
    }

    /// Each is there, as active as it was, and holds what was written to it.
    fn check(&self, after: &str) -> Result<()> {
        let pool = self.veneer.pool.pool();
        for (id, sum) in &self.sums {
            let thin = ThinId::new(u64::from(*id))?;
            let active = pool.active_as(thin)?.map(|active| active.name);
            ensure!(active.as_ref() == self.devices.get(id), "{id} is {active:?} after {after}");
            let path = match &active {
                Some(name) => Path::new("/dev/mapper").join(name),
                None => {
                    let found = pool.activate(thin, "look", SECTORS, Access::ReadOnly);
                    found.with_context(|| format!("thin {id} after {after}"))?.path()
                }
            };
            let mut data = vec![0; BYTES];
            File::open(&path)?.read_exact(&mut data)?;
            if active.is_none() {
                pool.deactivate("look")?;
            }
            let now = format!("{:x}", Sha256::digest(&data));
            ensure!(now == *sum, "thin {id} holds something else after {after}");
        }
        Ok(())
    }
}

fn run(guest: &mut Guest) -> Result<Report> {
    let veneer = Veneer::new(guest)?;
    veneer.activate("golang", "golang-1")?;
    let mut theirs = Theirs { veneer: &veneer, sums: BTreeMap::new(), devices: BTreeMap::new() };
    let last = veneer.pool.pool().ids()?.iter().map(|record| record.id.get()).max();
    let next = last.context("no thin")? + 1;
    // At the ids that come next, with a hole among them.
    for (id, active) in [(next, false), (next + 1, true), (next + 3, false), (next + 4, true)] {
        theirs.put(id, active)?;
    }
    let ids: Vec<u32> = theirs.sums.keys().copied().collect();

    // Layers and activations go around them, and each is named.
    let ran = veneer.cmd(&["activate", &image("python"), "--name", "python-1", "--json"]).run()?;
    let mut said = ran.stderr.clone();
    ran.expect(0)?;
    theirs.check("layers were built")?;
    for n in 2..=4 {
        let name = format!("golang-{n}");
        let ran = veneer.cmd(&["activate", &image("golang"), "--name", &name, "--json"]).run()?;
        said += &ran.stderr;
        ran.expect(0)?;
        theirs.check(&name)?;
    }
    for id in &ids {
        let line = format!("id {id} in the store is not ours");
        ensure!(said.matches(&line).count() == 1, "{line}: {said}");
    }
    drop(Mounted::new(guest.scratch(), "golang-4")?);
    drop(Mounted::new(guest.scratch(), "python-1")?);

    // Nothing of ours takes them away, or deletes them unless it is told the very id.
    veneer.ok(&["rm", "golang-2"])?;
    veneer.ok(&["recover"])?;
    let done = veneer.ok(&["gc"])?;
    ensure!(done["foreign"] == json!(ids), "{done}");
    let done = veneer.ok(&["gc", "--purge-foreign"])?;
    ensure!(done["foreign"] == json!(ids) && done["dry_run"] == true, "{done}");
    ensure!(veneer.ok(&["df"])?["foreign"] == json!(ids), "df");
    theirs.check("gc and a list of them")?;

    // One that is active stays, also when it is named; the other goes.
    let (active, idle) = (next + 1, next + 3);
    let named = format!("{active},{idle}");
    let ran = veneer.cmd(&["gc", "--purge-foreign", &named, "--json"]).run()?.expect(1)?;
    let done = ran.json()?;
    ensure!(done["refused"][0]["volume"] == active, "{done}");
    ensure!(done["refused"].to_string().contains(&format!("theirs-{active}")), "{done}");
    theirs.sums.remove(&idle);
    theirs.check("a purge")?;
    let gone = ThinId::new(u64::from(idle))?;
    ensure!(!veneer.pool.pool().exists(gone)?, "{idle} was named and is there");

    // Ours is deleted behind our back and its id taken: `rm` takes the row and leaves the thin.
    let row = veneer.ok(&["show", "golang-3"])?;
    let id = u32::try_from(row["activation"]["volume"].as_u64().context("an id")?)?;
    veneer.ok(&["deactivate", "golang-3"])?;
    veneer.pool.pool().delete(ThinId::new(u64::from(id))?)?;
    theirs.put(id, false)?;
    let ran = veneer.cmd(&["rm", "golang-3", "--json"]).run()?;
    ensure!(ran.stderr.contains(&format!("id {id} in the store is not ours")), "{}", ran.stderr);
    ran.expect(0)?;
    theirs.check("rm of an activation that was replaced")?;
    let listing = veneer.ok(&["ls"])?;
    ensure!(!listing["activations"].to_string().contains("golang-3"), "its row stays: {listing}");

    let report = Report::new().figure("foreign", theirs.sums.len());
    let Theirs { sums, devices, .. } = theirs;
    let pool = veneer.pool.pool();
    for name in devices.values() {
        pool.deactivate(name)?;
    }
    let left: Vec<String> = sums.keys().map(u32::to_string).collect();
    veneer.ok(&["gc", "--purge-foreign", &left.join(",")])?;
    veneer.check()?;
    veneer.close()?;
    Ok(report)
}
