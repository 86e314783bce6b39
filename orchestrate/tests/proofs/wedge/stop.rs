//! Damages that stop all until they are mended: every command refuses and says what to do, nothing moves,
//! and after the repair that the guide has everything is there again. And what passes by itself: kills.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use tests::trace::{self, Act, Call, Effect, Side, Whose};

use super::harm;
use super::world::{NAMES, REFERENCES, Ran, World};
use crate::damage::Mount;

pub(crate) const STOPS: &[Stop] = &[
    Stop::RegistryGone,
    Stop::StateGone,
    Stop::RegistryEmpty,
    Stop::RegistryOlder,
    Stop::StateTwice,
    Stop::StateCopied,
    Stop::StoreMoved,
    Stop::StateMoved,
    Stop::DiskFull,
    Stop::StateReadOnly,
    Stop::StoreReadOnly,
    Stop::DaemonStarted,
    Stop::Killed,
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    RegistryGone,
    StateGone,
    RegistryEmpty,
    /// A backup of another day is put in its place.
    RegistryOlder,
    /// A second, empty state directory is pointed at the store.
    StateTwice,
    /// A copy of the state directory is used beside it.
    StateCopied,
    StoreMoved,
    StateMoved,
    DiskFull,
    StateReadOnly,
    StoreReadOnly,
    /// From here on a daemon does the work, until something kills it.
    DaemonStarted,
    /// A command is killed in the middle.
    Killed,
}

/// What is tried on a host that can do nothing. None of it may change anything.
const TRIED: &[&[&str]] = &[
    &["activate", REFERENCES[2], "--name", "tried"],
    &["ls"],
    &["recover"],
    &["gc"],
    &["ensure", REFERENCES[0]],
    &["deactivate", "n-1"],
    &["rm", "n-2"],
    &["pin", REFERENCES[1]],
    &["runs"],
    &["df"],
    &["verify"],
    &["show", "n-1"],
    &["quarantine"],
    &["events"],
];

impl Stop {
    pub(crate) fn happens(self, world: &mut World<'_>) {
        world.say(format!("{self:?}"));
        match self {
            Stop::DaemonStarted => {
                if world.daemon.is_none() {
                    world.start_daemon();
                }
                return;
            }
            Stop::Killed => return killed(world),
            _ => world.kill_daemon(),
        }
        match self {
            Stop::RegistryGone | Stop::StateGone | Stop::RegistryEmpty => lost(world, self),
            Stop::RegistryOlder => older(world),
            Stop::StateTwice => twice(world),
            Stop::StateCopied => copied(world),
            Stop::StoreMoved => store_moved(world),
            Stop::StateMoved => state_moved(world),
            Stop::DiskFull => full(world),
            Stop::StateReadOnly | Stop::StoreReadOnly => read_only(world, self),
            Stop::DaemonStarted | Stop::Killed => {}
        }
    }
}

/// Some of what an operator tries is refused, with one of these codes and these words.
fn refused(world: &mut World<'_>, tries: usize, of: &[&[&str]], codes: &[i32], words: &[&str]) {
    let before = world.store_text();
    for at in 0..tries {
        let tried = if at == 0 { Some(of[0]) } else { world.one_of(of) };
        let ran = world.run(tried.unwrap_or_default());
        refused_so(world, &ran, codes, words);
    }
    let after = world.store_text();
    world.holds(before == after, || format!("refused, and the store moved:\n{before}\n{after}"));
    world.foreign_is_as_it_was();
}

fn refused_so(world: &World<'_>, ran: &Ran, codes: &[i32], words: &[&str]) {
    let code = ran.code.is_some_and(|code| codes.contains(&code));
    let said = words.iter().any(|word| ran.err.contains(word));
    world.holds(code && said, || format!("to be refused with {codes:?} and {words:?}: {ran}"));
}

fn database(world: &World<'_>) -> PathBuf {
    world.host.state().join("registry.db")
}

/// A volume that is not there takes whatever stands on it along, so it is put back first.
fn layers_are_back(world: &mut World<'_>) {
    let gone = |one: &harm::Harm| one.kind == harm::Kind::LayerGone;
    while let Some(at) = world.standing.iter().position(gone) {
        let one = world.standing.remove(at);
        one.mend(world);
    }
}

fn lost(world: &mut World<'_>, how: Stop) {
    layers_are_back(world);
    match how {
        Stop::StateGone => fs::remove_dir_all(world.host.state()).unwrap(),
        Stop::RegistryEmpty => {
            world.host.lose_registry();
            fs::write(database(world), b"").unwrap();
        }
        _ => world.host.lose_registry(),
    }
    let there = |world: &World<'_>| fs::metadata(database(world)).map(|found| found.len()).ok();
    let before = there(world);
    refused(world, 4, TRIED, &[100, 111], &["rebuild"]);
    let health = world.run(&["health"]);
    let said = health.code == Some(1) && health.out.contains("rebuild");
    world.holds(said, || format!("health does not say that the registry is lost: {health}"));
    let metrics = world.run(&["metrics"]);
    world.holds(metrics.out.contains("veneer_up{") && metrics.out.contains(" 0"), || {
        format!("metrics do not say so: {metrics}")
    });
    // Without its directory nothing tells it from somebody else's.
    let words: &[&str] = match how {
        Stop::StateGone => &["rebuild", "--take-over", "-n"],
        _ => &["rebuild", "-n"],
    };
    world.must(words);
    let after = there(world);
    world.holds(before == after, || format!("a registry was made: {before:?}, {after:?}"));
    world.must(&words[..words.len() - 1]);
    world.backup = None;
    world.adopt();
}

/// Of another day, it is refused; of the same moment, it is the right one.
fn older(world: &mut World<'_>) {
    let Some(backup) = world.backup.clone() else {
        let backup = world.beside("backup");
        let registry = registry::Registry::open_existing(&database(world)).unwrap();
        registry.backup(&backup, 1).unwrap();
        world.say("a backup is made".into());
        world.backup = Some(backup);
        return;
    };
    layers_are_back(world);
    world.backup = None;
    world.host.lose_registry();
    fs::copy(&backup, database(world)).unwrap();
    let store = fs::read_to_string(world.store.join("transaction")).unwrap();
    let same = world.host.rows("SELECT transaction_id FROM meta") == [store.trim()];
    if !same {
        let tried: [&[&str]; 4] = [TRIED[0], TRIED[2], TRIED[3], TRIED[6]];
        refused(world, 4, &tried, &[100], &["out of step"]);
        let told = world.told(&["rebuild".into()]);
        world.holds(told, || "health does not say that it is of another day".into());
        world.must(&["rebuild"]);
    }
    world.run(&["recover", "--no-resume"]);
    world.adopt();
}

fn second(world: &World<'_>) -> PathBuf {
    world.host.dir.join("state-2")
}

fn run_second(world: &mut World<'_>, words: &[&str]) -> Ran {
    let mut command = world.host.command_on(&second(world), &world.store, words);
    command.env("VENEER_WAIT", "0");
    world.run_command(command, words)
}

/// Somebody points another state directory at the store: it is refused, and the first one goes on.
fn twice(world: &mut World<'_>) {
    let before = world.store_text();
    for words in [TRIED[0], TRIED[1], TRIED[3], TRIED[2]] {
        let ran = run_second(world, words);
        refused_so(world, &ran, &[100, 111], &["rebuild"]);
    }
    let after = world.store_text();
    world.holds(before == after, || format!("refused, and the store moved:\n{before}\n{after}"));
    let made = second(world).join("registry.db").exists();
    world.holds(!made, || "a second registry was made".into());
    drop(fs::remove_dir_all(second(world)));
}

/// Of two copies the one that was not used last is of another day.
fn copied(world: &mut World<'_>) {
    let copied = Command::new("cp").arg("-a").args([world.host.state(), second(world)]).status();
    assert!(copied.unwrap().success(), "cp -a");
    super::probe(world);
    let before = world.store_text();
    for words in [TRIED[0], TRIED[2], TRIED[3]] {
        let ran = run_second(world, words);
        refused_so(world, &ran, &[100], &["out of step"]);
    }
    let after = world.store_text();
    world.holds(before == after, || format!("refused, and the store moved:\n{before}\n{after}"));
    drop(fs::remove_dir_all(second(world)));
}

/// Without its store nothing goes; told where it is, everything.
fn store_moved(world: &mut World<'_>) {
    // What is planted in it, or mounted, would have to be found again.
    if world.standing.iter().any(|harm| harm.kind == harm::Kind::Mounted) {
        return;
    }
    let (old, new) = (world.store.clone(), world.host.dir.join("store-moved"));
    fs::rename(&old, &new).unwrap();
    let ran = world.run(TRIED[0]);
    refused_so(world, &ran, &[100, 111], &["store"]);
    let made = crate::bench::names(&old.join("volumes")).len();
    world.holds(made == 0, || "a store was begun anew under a registry".into());
    // The operator puts it back where it was, over what a refused command may have left.
    drop(fs::remove_dir_all(&old));
    world.store.clone_from(&new);
    let kept = std::mem::take(&mut world.foreign);
    let there = |path: PathBuf| path.strip_prefix(&old).map(|rest| new.join(rest)).unwrap_or(path);
    world.foreign = kept.iter().map(|(path, all)| (there(path.clone()), all.clone())).collect();
    super::probe(world);
    world.untouched();
    fs::rename(&new, &old).unwrap();
    world.store = old;
    world.foreign = kept;
}

fn state_moved(world: &mut World<'_>) {
    let (state, away) = (world.host.state(), world.host.dir.join("state-moved"));
    fs::rename(&state, &away).unwrap();
    refused(world, 3, TRIED, &[100, 111], &["rebuild"]);
    world.holds(!database(world).exists(), || "a registry was begun anew".into());
    drop(fs::remove_dir_all(&state));
    fs::rename(&away, &state).unwrap();
}

/// Whatever needs room says so; with room again, all of it goes on.
fn full(world: &mut World<'_>) {
    let ballast = world.host.dir.join("ballast");
    let file = fs::File::create(&ballast).unwrap();
    let stat = nix::sys::statvfs::statvfs(&world.host.dir).unwrap();
    let free = i64::try_from(stat.blocks_available() * stat.fragment_size()).unwrap();
    let none = nix::fcntl::FallocateFlags::empty();
    nix::fcntl::fallocate(&file, none, 0, free).unwrap();
    let words = ["activate", REFERENCES[2], "--name", "tried"];
    for words in [&words[..], &["rm", "tried"]] {
        let ran = world.run(words);
        let told = ran.out.contains("\"no_space\"") || ran.out.contains("\"not_found\"");
        let fine = ran.code == Some(0) || told;
        world.holds(fine, || format!("the disk is full, and that is not what it says: {ran}"));
    }
    world.untouched();
    let told = world.told(&["free".into(), "full".into(), "space".into()]);
    world.holds(told, || "health does not tell of the full disk".into());
    // A child that another thread has just forked may have it open for a moment more.
    file.set_len(0).unwrap();
    fs::remove_file(&ballast).unwrap();
    world.run(&["recover"]);
    let ran = world.run(&["rm", "tried"]);
    let gone = ran.code == Some(0) || ran.out.contains("\"not_found\"");
    world.holds(gone, || format!("there is room again: {ran}"));
}

fn read_only(world: &mut World<'_>, which: Stop) {
    let at = if which == Stop::StateReadOnly { world.host.state() } else { world.store.clone() };
    if which == Stop::StoreReadOnly
        && world.standing.iter().any(|harm| harm.kind == harm::Kind::Mounted)
    {
        return;
    }
    let from = at.to_str().unwrap_or_default().to_owned();
    let mount = Mount::new(&["--bind", &from], &at);
    mount.again("remount,bind,ro");
    let tried: [&[&str]; 3] = [TRIED[0], TRIED[6], TRIED[4]];
    for words in tried {
        let ran = world.run(words);
        let told = ["ead-only", "readonly"].iter().any(|text| ran.err.contains(text));
        // What is there already, or is not there at all, needs no write to be said.
        let nothing = ran.code == Some(0) && words[0] == "ensure"
            || ran.out.contains("\"not_found\"") && words[0] == "rm";
        world.holds(told || nothing, || format!("it cannot be written to: {ran}"));
    }
    world.untouched();
    drop(mount);
    world.run(&["recover"]);
    let ran = world.run(&["rm", "tried"]);
    let gone = ran.code == Some(0) || ran.out.contains("\"not_found\"");
    world.holds(gone, || format!("it can be written to again: {ran}"));
}

/// At one of its calls; then `recover` brings it to an end, and the rest has not moved.
fn killed(world: &mut World<'_>) {
    world.kill_daemon();
    let hurt: Vec<String> =
        world.standing.iter().filter_map(|harm| harm.name().map(str::to_owned)).collect();
    let free = |name: &&str| {
        !hurt.iter().any(|one| one == name) && !world.foreign.contains_key(&world.link(name))
    };
    let free: Vec<&str> = NAMES.iter().copied().filter(free).collect();
    let images = world.well_images();
    let (Some(name), Some(image)) = (world.one_of(&free), world.one_of(&images)) else { return };
    let kept = world.acts.get(name).cloned();
    let words: Vec<&str> = match (&kept, world.dice.roll(5)) {
        (_, 0) => vec!["gc"],
        (None, _) => vec!["activate", REFERENCES[image], "--name", name],
        (Some(kept), 1) => vec!["activate", REFERENCES[kept.image], "--name", name],
        (Some(_), 2 | 3) => vec!["deactivate", name],
        (Some(_), _) => vec!["rm", name],
    };
    let (mut seen, last) = (0, 1 + world.dice.roll(120));
    let each = |call: &Call, side: Side| {
        seen += u64::from(call.effect == Effect::Changes && side == Side::Before);
        if seen == last { Act::Kill } else { Act::Go }
    };
    let command = world.command(&words);
    let ended = trace::run(&command, &[&world.host.dir], Whose::Main, each).unwrap();
    world.say(format!("{words:?} -> {:?}, killed at {last}: {}", ended.code, ended.stderr));
    if words[0] == "gc" {
        return;
    }
    let ran = world.run(&["recover"]);
    let free = world.standing.is_empty() && !ran.out.contains("\"not_found\"");
    world.holds(ran.code == Some(0) || !free, || format!("after a kill: {ran}"));
    world.acts.remove(name);
    let image = kept.as_ref().map_or(image, |kept| kept.image);
    let listing = world.must(&["ls"]);
    let lines = listing["activations"].as_array().cloned().unwrap_or_default();
    let line = lines.iter().find(|line| line["name"] == name);
    match (line, kept) {
        (Some(line), Some(kept)) => {
            let up = line["state"] == "active";
            world.acts.insert(name.to_owned(), super::world::Kept { up, ..kept });
        }
        (Some(_), None) => world.adopt_new(name, image),
        (None, Some(_)) => {
            world.holds(words[0] == "rm", || format!("{name} is gone after {words:?}"));
        }
        (None, None) => {}
    }
}
