//! The host of the wedge search on a pool: what must be there, what is not ours, and the programs run on
//! it so that every wait shows. Not a scenario.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use thin::{Access, Dm, Pool, ThinId};

use super::crash_host::{IMAGES, ONE, put_images};
use super::wedge_harm::Harm;
use crate::dice::Dice;
use crate::guest::veneer::Mounted;
use crate::guest::{Cmd, Guest, Ran, Running, S3};
use crate::told::tells;
use crate::trace::{self, Act, Call, Effect, Side, Whose};

/// The images: the first two share two layers; the third is the lowest of these alone.
pub(crate) const REFERENCES: [&str; 3] = [IMAGES[0], IMAGES[1], ONE];

/// Names of activations that stay for a while.
pub(crate) const NAMES: [&str; 5] = ["n-1", "n-2", "n-3", "n-4", "n-5"];

/// Bytes that are written to a thin of somebody else's.
const FOREIGN_BYTES: usize = 256 << 10;

/// A daemon tells how it is by what it found so long ago at most.
const STALE: Duration = Duration::from_millis(2500);

/// How an activation ought to be.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    pub(crate) image: usize,
    pub(crate) volume: u32,
    pub(crate) up: bool,
    /// What was written to it.
    pub(crate) mark: String,
}

pub(crate) struct Wedge<'g> {
    guest: &'g Guest,
    pub(crate) s3: S3,
    pub(crate) state: PathBuf,
    /// Where the pool's files are.
    pub(crate) dir: PathBuf,
    pub(crate) dice: Dice,
    pub(crate) acts: BTreeMap<String, Kept>,
    pub(crate) standing: Vec<Harm>,
    /// Devices that are not ours: their tables.
    pub(crate) devices: BTreeMap<String, String>,
    /// Thins that are not ours: their bytes.
    pub(crate) thins: BTreeMap<u32, Vec<u8>>,
    pub(crate) backup: Option<PathBuf>,
    pub(crate) daemon: Option<Running>,
    pub(crate) commands: u64,
    pub(crate) probes: u64,
    number: u64,
}

impl<'g> Wedge<'g> {
    pub(crate) fn new(guest: &'g Guest) -> Result<Wedge<'g>> {
        let s3 = guest.s3()?;
        put_images(&s3)?;
        let mut wedge = Wedge {
            guest,
            s3,
            state: guest.scratch().join("state"),
            dir: guest.scratch().join("pool"),
            dice: guest.dice(),
            acts: BTreeMap::new(),
            standing: Vec::new(),
            devices: BTreeMap::new(),
            thins: BTreeMap::new(),
            backup: None,
            daemon: None,
            commands: 0,
            probes: 0,
            number: 0,
        };
        let dir = wedge.dir_text();
        wedge.thin(&["pool", "init", &dir, "--data", "256M", "--metadata", "4M"])?.expect(0)?;
        for (image, reference) in REFERENCES.iter().enumerate() {
            wedge.must(&["activate", reference, "--name", NAMES[image]])?;
            wedge.adopt_new(NAMES[image], image)?;
        }
        Ok(wedge)
    }

    pub(crate) fn dir_text(&self) -> String {
        self.dir.display().to_string()
    }

    pub(crate) fn scratch(&self) -> &Path {
        self.guest.scratch()
    }

    // ---- programs ------------------------------------------------------------------------------

    pub(crate) fn cmd_on(&self, state: &Path, words: &[&str]) -> Cmd {
        let cmd = Cmd::new("orchestrate").args(words).arg("--json").env("VENEER_STATE", state);
        let cmd = cmd.env("VENEER_STORE", "thin:veneer").env("VENEER_WAIT", "0");
        self.s3.environment(cmd)
    }

    pub(crate) fn run(&mut self, words: &[&str]) -> Result<Ran> {
        self.commands += 1;
        self.cmd_on(&self.state, words).run()
    }

    /// It ends well.
    pub(crate) fn must(&mut self, words: &[&str]) -> Result<Value> {
        let ran = self.run(words)?;
        ensure!(ran.code == Some(0), "this has nothing to do with the damage: {ran}");
        ran.json()
    }

    /// It ends well, and sleeps not once: for no lock, no device and no second try.
    pub(crate) fn at_once(&mut self, words: &[&str]) -> Result<Value> {
        self.commands += 1;
        let mut waits = 0;
        let each = |call: &Call, side: Side| {
            waits += u64::from(call.effect == Effect::Waits && side == Side::Before);
            Act::Go
        };
        let cmd = self.cmd_on(&self.state, words);
        let ended = trace::run(cmd.command(), &[&self.state], Whose::Main, each)?;
        eprintln!("$ {} -> {:?} {}", words.join(" "), ended.code, ended.stderr.trim());
        ensure!(
            ended.code == Some(0),
            "this has nothing to do with the damage: {words:?}: {:?} {}",
            ended.code,
            ended.stderr
        );
        ensure!(waits == 0, "{words:?} waited {waits} times: {}", ended.stderr);
        Ok(serde_json::from_str(ended.stdout.trim())?)
    }

    pub(crate) fn thin(&mut self, words: &[&str]) -> Result<Ran> {
        self.commands += 1;
        Cmd::new("thin").args(words).run()
    }

    pub(crate) fn dmsetup(&self, words: &[&str]) -> Result<Ran> {
        // There is no udev in the guest that would make the nodes.
        Cmd::new("dmsetup").env("DM_DISABLE_UDEV", "1").args(words).run()
    }

    pub(crate) fn pool(&self) -> Result<Pool> {
        Ok(Pool::adopt(Dm::open()?, "veneer")?)
    }

    /// What the registry has of this kind.
    pub(crate) fn rows(&self, what: &str) -> Result<Vec<Value>> {
        let registry = Cmd::new("registry").arg("--state").arg(&self.state);
        registry.args(["ls", what, "--json"]).run()?.expect(0)?.json_lines()
    }

    /// The volumes of an image's layers, from the lowest up.
    pub(crate) fn layers(&mut self, image: usize) -> Result<Vec<u32>> {
        let listing = self.run(&["ls"])?.json()?;
        let images = listing["images"].as_array().context("images")?;
        let line = images.iter().find(|line| line["image"] == REFERENCES[image]);
        let layers = line.and_then(|line| line["layers"].as_array()).into_iter().flatten();
        layers.map(|layer| number(&layer["volume"])).collect()
    }

    /// The next id is above all that rows have had.
    pub(crate) fn next_id(&self) -> Result<u32> {
        let mut ids = Vec::new();
        for what in ["volumes", "activations"] {
            for row in self.rows(what)? {
                ids.push(number(&row["id"])?);
            }
        }
        Ok(ids.into_iter().max().unwrap_or(0) + 1)
    }

    pub(crate) fn fresh(&mut self, prefix: &str) -> String {
        self.number += 1;
        format!("{prefix}-{}", self.number)
    }

    pub(crate) fn one_of<T: Clone>(&mut self, all: &[T]) -> Option<T> {
        let sides = u64::try_from(all.len()).ok().filter(|sides| *sides > 0)?;
        all.get(usize::try_from(self.dice.roll(sides)).ok()?).cloned()
    }

    // ---- what must be there --------------------------------------------------------------------

    /// Whether the kernel has this very thin of ours under this very name.
    pub(crate) fn is_up(&self, name: &str, volume: u32) -> Result<bool> {
        let active = self.pool()?.active_as(ThinId::new(u64::from(volume))?)?;
        Ok(active.is_some_and(|thin| thin.name == name && thin.has_table && !thin.suspended))
    }

    /// Writes to a new activation, and keeps in mind what.
    pub(crate) fn adopt_new(&mut self, name: &str, image: usize) -> Result<()> {
        let row = self.rows("activations")?.into_iter().find(|row| row["name"] == name);
        let volume = number(&row.with_context(|| format!("{name} is in no row"))?["id"])?;
        ensure!(self.is_up(name, volume)?, "{name} is not up");
        let mark = format!("{name} {}", self.dice.roll(1 << 30));
        let mounted = Mounted::new(self.guest.scratch(), name)?;
        let layer = mounted.path().join("srv/layer-1/1");
        ensure!(layer.exists(), "{name} is not its image: {}", layer.display());
        std::fs::write(mounted.path().join("mark"), &mark)?;
        drop(mounted);
        self.acts.insert(name.to_owned(), Kept { image, volume, up: true, mark });
        Ok(())
    }

    /// Activations that no standing damage is about.
    pub(crate) fn well(&self) -> Vec<String> {
        let hurt: BTreeSet<&str> = self.standing.iter().filter_map(Harm::name).collect();
        self.acts.keys().filter(|name| !hurt.contains(name.as_str())).cloned().collect()
    }

    /// Images with no layer that is damaged or looked at.
    pub(crate) fn well_images(&self) -> Vec<usize> {
        let hurt: BTreeSet<usize> = self.standing.iter().flat_map(Harm::images).collect();
        (0..3).filter(|image| !hurt.contains(image)).collect()
    }

    /// What is well is up or down as it should be; one of them reads right; nothing foreign has changed.
    pub(crate) fn untouched(&mut self) -> Result<()> {
        let well = self.well();
        for name in &well {
            let kept = &self.acts[name];
            let up = self.is_up(name, kept.volume)?;
            ensure!(up == kept.up, "{name} should be up: {}, and is: {up}", kept.up);
        }
        let up: Vec<String> = well.into_iter().filter(|name| self.acts[name].up).collect();
        if let Some(name) = self.one_of(&up) {
            self.reads_right(&name)?;
        }
        self.foreign_is_as_it_was()
    }

    pub(crate) fn reads_right(&self, name: &str) -> Result<()> {
        let mounted = Mounted::new(self.guest.scratch(), name)?;
        let found = std::fs::read_to_string(mounted.path().join("mark")).unwrap_or_default();
        ensure!(found == self.acts[name].mark, "{name}: what was written is gone: {found:?}");
        Ok(())
    }

    /// All that a rebuilt or restored registry knows is what there is: by volumes, since names of what was
    /// down may be lost with it.
    pub(crate) fn adopt(&mut self) -> Result<()> {
        let listing = self.must(&["ls"])?;
        let lines = listing["activations"].as_array().cloned().unwrap_or_default();
        let there: BTreeSet<u32> = self.ids()?;
        let mut now = BTreeMap::new();
        for (name, kept) in std::mem::take(&mut self.acts) {
            let Some(line) = lines.iter().find(|line| line["volume"] == kept.volume) else {
                ensure!(!there.contains(&kept.volume), "{name} is lost: {listing}");
                self.standing.retain(|harm| harm.name() != Some(&name));
                continue;
            };
            let found = line["name"].as_str().unwrap_or_default().to_owned();
            for harm in &mut self.standing {
                harm.renamed(&name, &found);
            }
            now.insert(found, Kept { up: line["state"] == "active", ..kept });
        }
        self.acts = now;
        for line in &lines {
            let name = line["name"].as_str().unwrap_or_default();
            if !self.acts.contains_key(name) {
                // A build or an activation that was killed is found as one, too.
                self.must(&["rm", name])?;
            }
        }
        // An image whose top layer was built for another one has lost its name, and nothing else.
        for image in self.well_images() {
            self.must(&["ensure", REFERENCES[image]])?;
        }
        let now = self.ids()?;
        ensure!(now.is_subset(&there), "a layer is built anew: {there:?}, {now:?}");
        self.settle()
    }

    pub(crate) fn ids(&self) -> Result<BTreeSet<u32>> {
        Ok(self.pool()?.ids()?.iter().map(|record| record.id.get()).collect())
    }

    /// Damages that our own commands have mended stand no longer.
    pub(crate) fn settle(&mut self) -> Result<()> {
        let mut stay = Vec::new();
        for harm in std::mem::take(&mut self.standing) {
            match harm.stands(self)? {
                true => stay.push(harm),
                false => eprintln!("mended: {harm}"),
            }
        }
        self.standing = stay;
        Ok(())
    }

    // ---- what is not ours ----------------------------------------------------------------------

    /// A device of somebody else's.
    pub(crate) fn plant_device(&mut self, name: &str) -> Result<()> {
        let sectors = 8 << self.dice.roll(10);
        self.dmsetup(&["create", name, "--table", &format!("0 {sectors} error")])?.expect(0)?;
        let table = self.dmsetup(&["table", name])?.expect(0)?.text()?.trim().to_owned();
        self.devices.insert(name.to_owned(), table);
        Ok(())
    }

    pub(crate) fn remove_device(&mut self, name: &str) -> Result<()> {
        if self.devices.remove(name).is_some() {
            self.dmsetup(&["remove", name])?.expect(0)?;
        }
        Ok(())
    }

    /// A thin of somebody else's, with data.
    pub(crate) fn plant_thin(&mut self, id: u32) -> Result<()> {
        let message = format!("create_thin {id}");
        self.dmsetup(&["message", "veneer", "0", &message])?.expect(0)?;
        let byte = u8::try_from(1 + self.dice.roll(250))?;
        let bytes = vec![byte; FOREIGN_BYTES];
        let pool = self.pool()?;
        let (thin, sectors) = (ThinId::new(u64::from(id))?, 2048);
        let volume = pool.activate(thin, "theirs", sectors, Access::ReadWrite)?;
        let file = std::fs::OpenOptions::new().write(true).open(volume.path())?;
        file.write_all_at(&bytes, 0)?;
        file.sync_all()?;
        drop(file);
        pool.deactivate("theirs")?;
        self.thins.insert(id, bytes);
        Ok(())
    }

    pub(crate) fn remove_thin(&mut self, id: u32) -> Result<()> {
        if self.thins.remove(&id).is_some() {
            let message = format!("delete {id}");
            self.dmsetup(&["message", "veneer", "0", &message])?.expect(0)?;
        }
        Ok(())
    }

    pub(crate) fn foreign_is_as_it_was(&self) -> Result<()> {
        for (name, table) in &self.devices {
            let found = self.dmsetup(&["table", name])?;
            let same = found.code == Some(0) && found.text()?.trim() == table;
            ensure!(same, "device {name} is not ours, and has changed: {found}");
        }
        if self.thins.is_empty() {
            return Ok(());
        }
        let (pool, ids) = (self.pool()?, self.ids()?);
        for (id, bytes) in &self.thins {
            ensure!(ids.contains(id), "thin {id} is not ours, and is gone");
            let thin = ThinId::new(u64::from(*id))?;
            let volume = pool.activate(thin, "theirs", 2048, Access::ReadOnly)?;
            let mut found = vec![0; bytes.len()];
            let read = std::fs::File::open(volume.path())?.read_exact_at(&mut found, 0);
            pool.deactivate("theirs")?;
            read?;
            let same = Sha256::digest(&found) == Sha256::digest(bytes);
            ensure!(same, "thin {id} is not ours, and its data has changed");
        }
        Ok(())
    }

    // ---- what is told --------------------------------------------------------------------------

    /// Whether `health` or `ls` names one of these words as something that is not well.
    pub(crate) fn told(&mut self, about: &[String]) -> Result<bool> {
        let begun = Instant::now();
        loop {
            let health = self.run(&["health"])?.json().unwrap_or_default();
            let listing = self.run(&["ls"])?.json().unwrap_or_default();
            if tells(&health, &listing, about) {
                return Ok(true);
            }
            if self.daemon.is_none() || begun.elapsed() > STALE {
                return Ok(false);
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// `health` says that all is well.
    pub(crate) fn is_well(&mut self) -> Result<()> {
        let begun = Instant::now();
        loop {
            let health = self.run(&["health"])?;
            if health.code == Some(0) {
                return Ok(());
            }
            if self.daemon.is_none() || begun.elapsed() > STALE {
                bail!("nothing is wrong: {health}");
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    // ---- the daemon ----------------------------------------------------------------------------

    pub(crate) fn start_daemon(&mut self) -> Result<()> {
        if self.daemon.is_some() {
            return Ok(());
        }
        self.daemon = Some(self.cmd_on(&self.state, &["serve"]).spawn()?);
        let socket = self.state.join("serve.sock");
        crate::guest::daemon::wait(|| Ok(crate::guest::daemon::get(&socket, "/healthz").is_ok()))
    }

    /// `kill -9`.
    pub(crate) fn kill_daemon(&mut self) -> Result<()> {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill()?;
            daemon.wait()?;
        }
        Ok(())
    }

    /// What the pool has: a command that is refused leaves it so.
    pub(crate) fn pool_text(&self) -> Result<String> {
        let number = self.pool()?.status()?.transaction_id();
        Ok(format!("{number:?} {}", self.pool_shape()?))
    }

    /// The same without the pool's number, which moves with the end of a run, also of one that is refused.
    pub(crate) fn pool_shape(&self) -> Result<String> {
        let status = self.dmsetup(&["ls", "--target", "thin"])?.expect(0)?;
        Ok(format!("{:?} {}", self.ids()?, status.text()?))
    }
}

pub(crate) fn number(value: &Value) -> Result<u32> {
    Ok(u32::try_from(value.as_u64().with_context(|| format!("a number: {value}"))?)?)
}
