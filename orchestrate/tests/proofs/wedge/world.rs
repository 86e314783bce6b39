//! A host as the operator of the search has it: what must be there, what is not ours, and the program
//! run on it so that every wait shows.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::dice::Dice;
use tests::told::tells;
use tests::trace::{self, Act, Call, Effect, Side, Whose};

use super::harm::Harm;
use crate::bench::{Bench, Host, names, tree_digest};
use crate::damage::Mount;

/// The images: the first two share layers, the third has its own and is never harmed.
pub(crate) const IMAGES: &[(&str, &[u8])] = &[("a", &[1, 2, 3]), ("b", &[1, 2, 4]), ("c", &[5, 6])];
pub(crate) const REFERENCES: [&str; 3] = ["s3://bucket/a/", "s3://bucket/b/", "s3://bucket/c/"];

/// Names of activations that stay for a while.
pub(crate) const NAMES: [&str; 6] = ["n-1", "n-2", "n-3", "n-4", "n-5", "n-6"];

/// Room of the file system that state and store are on, MiB: more than `health` asks for.
const ROOM_MIB: u64 = 96;

/// A daemon tells how it is by what it found so long ago at most.
const STALE: Duration = Duration::from_millis(2500);

/// How an activation ought to be.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    pub(crate) image: usize,
    pub(crate) volume: u32,
    pub(crate) up: bool,
    /// Its tree with what was written to it.
    pub(crate) tree: String,
}

/// What a command came to.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) line: String,
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    /// Whether it waited for anybody: for a lock it may wait no time and says so, and a step that is tried
    /// again says that before it sleeps.
    pub(crate) fn waited(&self) -> bool {
        let all = [&self.out, &self.err];
        all.iter().any(|text| text.contains("still held by") || text.contains("again in "))
    }

    pub(crate) fn json(&self) -> Value {
        self.out.lines().last().and_then(|line| serde_json::from_str(line).ok()).unwrap_or_default()
    }
}

impl std::fmt::Display for Ran {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} -> {:?} {} {}", self.line, self.code, self.out.trim(), self.err.trim())
    }
}

/// Counts for the figures.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Figures {
    pub(crate) steps: usize,
    pub(crate) harms: usize,
    pub(crate) stops: usize,
    pub(crate) commands: usize,
    pub(crate) probes: usize,
}

pub(crate) struct World<'b> {
    pub(crate) host: Host<'b>,
    pub(crate) dice: Dice,
    /// Where the store is now.
    pub(crate) store: PathBuf,
    pub(crate) acts: BTreeMap<String, Kept>,
    /// The tree of each image.
    pub(crate) right: [String; 3],
    pub(crate) standing: Vec<Harm>,
    /// What is not ours, with its digest.
    pub(crate) foreign: BTreeMap<PathBuf, String>,
    /// A copy of the registry, where there is one.
    pub(crate) backup: Option<PathBuf>,
    pub(crate) daemon: Option<Child>,
    pub(crate) figures: Figures,
    /// What was done, for who reads of a failure.
    pub(crate) log: Vec<String>,
    place: String,
    number: u64,
    _room: Mount,
}

impl<'b> World<'b> {
    pub(crate) fn new(bench: &'b Bench, seed: u64) -> World<'b> {
        let host = bench.host(&format!("wedge-{seed}"));
        host.wipe();
        fs::create_dir_all(&host.dir).unwrap();
        let size = format!("size={ROOM_MIB}m");
        let room = Mount::new(&["-t", "tmpfs", "-o", &size, "none"], &host.dir);
        let mut world = World {
            store: host.store(),
            host,
            dice: Dice::new(seed),
            acts: BTreeMap::new(),
            right: Default::default(),
            standing: Vec::new(),
            foreign: BTreeMap::new(),
            backup: None,
            daemon: None,
            figures: Figures::default(),
            log: Vec::new(),
            place: format!("seed {seed}"),
            number: 0,
            _room: room,
        };
        for image in 0..3 {
            let name = NAMES[image];
            world.must(&["activate", REFERENCES[image], "--name", name]);
            world.right[image] = text(tree_digest(&world.link(name).join("")));
            world.adopt_new(name, image);
        }
        world
    }

    pub(crate) fn at(&mut self, step: usize) {
        let seed = self.place.split(',').next().unwrap_or_default().to_owned();
        self.place = format!("{seed}, step {step}");
        self.log.push(format!("--- step {step}"));
        self.figures.steps = step;
    }

    /// Ends the search with all that leads here.
    pub(crate) fn fail(&self, why: &str) -> ! {
        let from = self.log.len().saturating_sub(60);
        let standing: Vec<_> = self.standing.iter().map(ToString::to_string).collect();
        panic!(
            "{}: {why}\nstanding: {standing:?}\nactivations: {:?}\n{}",
            self.place,
            self.acts,
            self.log[from..].join("\n")
        );
    }

    pub(crate) fn holds(&self, so: bool, why: impl FnOnce() -> String) {
        if !so {
            self.fail(&why());
        }
    }

    pub(crate) fn say(&mut self, line: String) {
        self.log.push(line);
    }

    // ---- commands ------------------------------------------------------------------------------

    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = self.host.command_on(&self.host.state(), &self.store, words);
        command.env("VENEER_WAIT", "0");
        command
    }

    pub(crate) fn run(&mut self, words: &[&str]) -> Ran {
        let command = self.command(words);
        self.run_command(command, words)
    }

    pub(crate) fn run_command(&mut self, mut command: Command, words: &[&str]) -> Ran {
        let output = command.output().unwrap();
        self.figures.commands += 1;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        let ran = Ran { line: words.join(" "), code: output.status.code(), out, err };
        let short: String = ran.out.trim().chars().take(300).collect();
        self.log.push(format!("{} -> {:?} {short} {}", ran.line, ran.code, ran.err.trim()));
        ran
    }

    /// It ends well, and waits for nothing.
    pub(crate) fn must(&mut self, words: &[&str]) -> Value {
        let ran = self.run(words);
        self.holds(ran.code == Some(0), || {
            format!("this has nothing to do with the damage: {ran}")
        });
        self.holds(!ran.waited(), || format!("it waited: {ran}"));
        ran.json()
    }

    /// As [`World::must`], and it sleeps not once: for no lock, no registry and no second try.
    pub(crate) fn at_once(&mut self, words: &[&str]) -> Value {
        let (mut waits, command) = (0, self.command(words));
        let each = |call: &Call, side: Side| {
            waits += u64::from(call.effect == Effect::Waits && side == Side::Before);
            Act::Go
        };
        let ended = trace::run(&command, &[&self.host.dir], Whose::Main, each).unwrap();
        self.figures.commands += 1;
        let line = words.join(" ");
        let ran = Ran { line, code: ended.code, out: ended.stdout, err: ended.stderr };
        self.log.push(ran.to_string().chars().take(400).collect());
        self.holds(ran.code == Some(0), || {
            format!("this has nothing to do with the damage: {ran}")
        });
        self.holds(waits == 0 && !ran.waited(), || format!("it waited {waits} times: {ran}"));
        ran.json()
    }

    // ---- places --------------------------------------------------------------------------------

    pub(crate) fn volume(&self, id: u32) -> PathBuf {
        self.store.join("volumes").join(id.to_string())
    }

    pub(crate) fn link(&self, name: &str) -> PathBuf {
        self.store.join("active").join(name)
    }

    pub(crate) fn link_is_right(&self, name: &str, volume: u32) -> bool {
        let target = PathBuf::from("../volumes").join(volume.to_string());
        fs::read_link(self.link(name)).is_ok_and(|found| found == target)
    }

    pub(crate) fn next_id(&self) -> u32 {
        let next = self.host.rows("SELECT next_id FROM meta");
        next.first().and_then(|text| text.parse().ok()).unwrap_or(1)
    }

    /// The volumes of an image's layers, from the lowest up.
    pub(crate) fn layers(&self, image: usize) -> Vec<u32> {
        let of = REFERENCES[image];
        let rows = format!("SELECT volume FROM image_layers WHERE reference = '{of}' ORDER BY pos");
        self.host.rows(&rows).iter().map(|id| id.parse().unwrap()).collect()
    }

    pub(crate) fn fresh(&mut self, prefix: &str) -> String {
        self.number += 1;
        format!("{prefix}-{}", self.number)
    }

    /// A new place beside state and store.
    pub(crate) fn beside(&mut self, prefix: &str) -> PathBuf {
        let name = self.fresh(prefix);
        self.host.dir.join(name)
    }

    // ---- what must be there --------------------------------------------------------------------

    /// Writes to a new activation, and keeps in mind how it is.
    pub(crate) fn adopt_new(&mut self, name: &str, image: usize) {
        let row = format!("SELECT id FROM activations WHERE name = '{name}'");
        let id = self.host.rows(&row).first().map(|id| id.parse::<u32>().unwrap());
        let Some(volume) = id else { self.fail(&format!("{name} is in no row")) };
        self.holds(self.link_is_right(name, volume), || format!("{name} has no link to {volume}"));
        let found = text(tree_digest(&self.link(name).join("")));
        self.holds(found == self.right[image], || format!("{name} is not its image: {found}"));
        let mark = format!("{name} {}", self.dice.roll(1 << 30));
        fs::write(self.link(name).join("mark"), mark).unwrap();
        let tree = text(tree_digest(&self.volume(volume)));
        self.acts.insert(name.to_owned(), Kept { image, volume, up: true, tree });
    }

    /// Activations that no standing damage is about.
    pub(crate) fn well(&self) -> Vec<String> {
        let hurt: BTreeSet<&str> = self.standing.iter().filter_map(Harm::name).collect();
        self.acts.keys().filter(|name| !hurt.contains(name.as_str())).cloned().collect()
    }

    /// Images with no layer that is damaged.
    pub(crate) fn well_images(&self) -> Vec<usize> {
        let hurt: BTreeSet<usize> = self.standing.iter().flat_map(Harm::images).collect();
        (0..3).filter(|image| !hurt.contains(image)).collect()
    }

    pub(crate) fn one_of<T: Clone>(&mut self, all: &[T]) -> Option<T> {
        if all.is_empty() {
            return None;
        }
        let at = self.dice.roll(all.len() as u64);
        all.get(usize::try_from(at).unwrap()).cloned()
    }

    /// What is well reads right, and nothing foreign has changed.
    pub(crate) fn untouched(&self) {
        for name in self.well() {
            let kept = &self.acts[&name];
            let found = text(tree_digest(&self.volume(kept.volume)));
            self.holds(found == kept.tree, || format!("{name}: what was written is gone"));
            let whole = self.link_is_right(&name, kept.volume);
            self.holds(whole == kept.up, || {
                format!("{name}: up is {}, its link says not", kept.up)
            });
        }
        self.foreign_is_as_it_was();
    }

    pub(crate) fn foreign_is_as_it_was(&self) {
        for (path, digest) in &self.foreign {
            let found = digest_of(path);
            self.holds(found == *digest, || {
                format!("{} is not ours, and has changed", path.display())
            });
        }
    }

    /// All that a rebuilt or restored registry knows is what there is: by their volumes, since names of
    /// what was down may be lost with it.
    pub(crate) fn adopt(&mut self) {
        let listing = self.must(&["ls"]);
        let lines = listing["activations"].as_array().cloned().unwrap_or_default();
        let mut now = BTreeMap::new();
        for (name, kept) in std::mem::take(&mut self.acts) {
            let line = lines.iter().find(|line| line["volume"] == kept.volume);
            let Some(line) = line else {
                if self.volume(kept.volume).exists() {
                    self.fail(&format!("{name}, volume {}, is lost: {listing}", kept.volume));
                }
                self.standing.retain(|harm| harm.name() != Some(&name));
                continue;
            };
            let found = line["name"].as_str().unwrap_or_default().to_owned();
            let up = line["state"] == "active";
            for harm in &mut self.standing {
                harm.renamed(&name, &found);
            }
            now.insert(found, Kept { up, ..kept });
        }
        self.acts = now;
        for line in &lines {
            let name = line["name"].as_str().unwrap_or_default();
            if !self.acts.contains_key(name) {
                // A build or an activation that was killed is found as one, too.
                self.must(&["rm", name]);
            }
        }
        self.settle();
    }

    /// Damages that our own commands have mended stand no longer.
    pub(crate) fn settle(&mut self) {
        let standing = std::mem::take(&mut self.standing);
        let (stay, over): (Vec<_>, Vec<_>) = standing.into_iter().partition(|h| h.stands(self));
        self.standing = stay;
        for harm in over {
            self.log.push(format!("mended: {harm}"));
        }
    }

    // ---- what is not ours ----------------------------------------------------------------------

    /// Puts something of somebody else's there.
    pub(crate) fn plant(&mut self, path: &Path) {
        let content = format!("somebody else's {}", self.dice.roll(1 << 30));
        match self.dice.roll(3) {
            0 => fs::write(path, &content).unwrap(),
            1 => {
                let target = self.beside("elsewhere");
                fs::write(&target, &content).unwrap();
                std::os::unix::fs::symlink(&target, path).unwrap();
                self.foreign.insert(target.clone(), digest_of(&target));
            }
            _ => self.plant_dir(path),
        }
        self.foreign.insert(path.to_owned(), digest_of(path));
    }

    pub(crate) fn plant_dir(&mut self, path: &Path) {
        let content = format!("somebody else's {}", self.dice.roll(1 << 30));
        fs::create_dir(path).unwrap();
        fs::create_dir(path.join("srv")).unwrap();
        fs::write(path.join("srv/data"), &content).unwrap();
        self.foreign.insert(path.to_owned(), digest_of(path));
    }

    /// The operator takes something foreign out of the way.
    pub(crate) fn move_away(&mut self, path: &Path) {
        let Some(digest) = self.foreign.remove(path) else { return };
        let away = self.beside("away");
        fs::rename(path, &away).unwrap();
        self.foreign.insert(away, digest);
    }

    // ---- what is told --------------------------------------------------------------------------

    /// Whether `health` or `ls` names one of these words as something that is not well.
    pub(crate) fn told(&mut self, about: &[String]) -> bool {
        let begun = Instant::now();
        loop {
            let health = self.run(&["health"]).json();
            let listing = self.run(&["ls"]).json();
            if tells(&health, &listing, about) {
                return true;
            }
            if self.daemon.is_none() || begun.elapsed() > STALE {
                return false;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// `health` says that all is well.
    pub(crate) fn is_well(&mut self) {
        let begun = Instant::now();
        loop {
            let health = self.run(&["health"]);
            if health.code == Some(0) {
                return;
            }
            if self.daemon.is_none() || begun.elapsed() > STALE {
                self.fail(&format!("nothing is wrong: {health}"));
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    // ---- the daemon ----------------------------------------------------------------------------

    pub(crate) fn start_daemon(&mut self) {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.host.dir.join("log"));
        let mut command = self.command(&["serve"]);
        let child = command.stdout(Stdio::null()).stderr(log.unwrap()).spawn().unwrap();
        self.daemon = Some(child);
        let (socket, begun) = (self.host.state().join("serve.sock"), Instant::now());
        while UnixStream::connect(&socket).is_err() {
            self.holds(begun.elapsed() < Duration::from_secs(60), || {
                let log = fs::read_to_string(self.host.dir.join("log")).unwrap_or_default();
                format!("the daemon does not answer: {log}")
            });
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// `kill -9`.
    pub(crate) fn kill_daemon(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill().unwrap();
            daemon.wait().unwrap();
            self.log.push("the daemon is killed".into());
        }
    }

    /// What the store has, by name: a command that is refused leaves it so.
    pub(crate) fn store_text(&self) -> String {
        let of = |place: &str| names(&self.store.join(place)).join(" ");
        let transaction = fs::read_to_string(self.store.join("transaction")).unwrap_or_default();
        format!("{} | {} | {} | {transaction}", of("volumes"), of("active"), of("notes"))
    }
}

impl Drop for World<'_> {
    fn drop(&mut self) {
        if let Some(daemon) = &mut self.daemon {
            drop(daemon.kill());
            drop(daemon.wait());
        }
        for harm in std::mem::take(&mut self.standing) {
            harm.let_go();
        }
    }
}

pub(crate) fn digest_of(path: &Path) -> String {
    match fs::symlink_metadata(path) {
        Err(_) => "gone".into(),
        // The link itself: where it leads is kept by itself.
        Ok(found) if found.is_symlink() => format!("-> {}", fs::read_link(path).unwrap().display()),
        Ok(_) => text(tree_digest(path)),
    }
}

pub(crate) fn text(digest: impl std::fmt::LowerHex) -> String {
    format!("{digest:x}")
}
