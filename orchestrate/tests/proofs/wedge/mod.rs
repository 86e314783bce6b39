//! The wedge search: a tired operator, at random from a seed, does to a host what operators do. After each
//! step every activation that has nothing to do with the damage can be made, used and removed without
//! waiting for what is damaged; nothing that is not ours has changed; and `health` or `ls` names what is
//! damaged. A short form runs with every test, the long one is `just soak-wedge`.

mod harm;
mod stop;
mod world;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use harm::{Harm, KINDS, Kind};
use stop::{STOPS, Stop};
use world::{Figures, NAMES, REFERENCES, World, text};

use tests::told::names_it;

use crate::bench::{Bench, tree_digest};

/// Damages that stand at once, at most.
const STANDING_MAX: usize = 4;

/// What may happen once in a deck.
#[derive(Clone, Copy, Debug)]
enum Card {
    Harm(Kind),
    Stop(Stop),
}

/// A fresh activation of an image that is well: made, written to, taken down and up again, removed.
fn probe(world: &mut World<'_>) {
    let images = world.well_images();
    let Some(image) = world.one_of(&images) else { world.fail("no image is well") };
    let name = world.fresh("p");
    let mut words = vec!["activate", REFERENCES[image], "--name", &name];
    if world.dice.roll(2) == 0 {
        words.push("--no-fetch");
    }
    world.at_once(&words);
    world.adopt_new(&name, image);
    world.at_once(&["deactivate", &name]);
    let mark = world.volume(world.acts[&name].volume).join("mark");
    world.holds(fs::symlink_metadata(world.link(&name)).is_err(), || format!("{name} is up"));
    world.holds(mark.exists(), || format!("{name} was taken down, and what it had is gone"));
    world.at_once(&["activate", REFERENCES[image], "--name", &name]);
    let kept = world.acts[&name].clone();
    let found = text(tree_digest(&world.link(&name).join("")));
    world.holds(found == kept.tree, || format!("{name} does not read as it was written"));
    world.at_once(&["rm", &name]);
    world.acts.remove(&name);
    let gone =
        fs::symlink_metadata(world.link(&name)).is_err() && !world.volume(kept.volume).exists();
    world.holds(gone, || format!("{name} was removed, and something of it is there"));
    world.figures.probes += 1;
}

/// What an operator does on a good day; also to what is damaged, where it may fail but must not harm.
fn operate(world: &mut World<'_>) {
    let (well, images) = (world.well(), world.well_images());
    let name = world.dice.of(&NAMES);
    // After a rebuild what is damaged may have another name than its link.
    let hurt = world.standing.iter().any(|harm| harm.name() == Some(name))
        || world.foreign.contains_key(&world.link(name));
    match (world.dice.roll(8), world.acts.get(name).cloned()) {
        (0, _) => drop(world.must(&["gc"])),
        (1, _) => {
            world.run(&["recover"]);
        }
        (2 | 3, Some(kept)) if !hurt && kept.up => {
            world.must(&["deactivate", name]);
            world.acts.insert(name.into(), world::Kept { up: false, ..kept });
        }
        (4, Some(_)) if !hurt && well.len() > 2 => {
            world.must(&["rm", name]);
            world.acts.remove(name);
        }
        (_, Some(kept)) if !hurt => {
            world.must(&["activate", REFERENCES[kept.image], "--name", name]);
            world.acts.insert(name.into(), world::Kept { up: true, ..kept });
        }
        (_, Some(_)) => {
            // It may be mended by this, or not; it may not wait.
            let ran = world.run(&["deactivate", name]);
            world.holds(!ran.waited(), || format!("it waited: {ran}"));
            if ran.code == Some(0)
                && let Some(kept) = world.acts.get_mut(name)
            {
                kept.up = false;
            }
        }
        (_, None) if hurt => {}
        (_, None) => {
            if let Some(image) = world.one_of(&images) {
                world.must(&["activate", REFERENCES[image], "--name", name]);
                world.adopt_new(name, image);
            }
        }
    }
}

/// Everything that must hold after a step.
fn check(world: &mut World<'_>) {
    for at in 0..world.standing.len() {
        let harm = &world.standing[at];
        if !harm.stands(world) {
            continue;
        }
        let (line, about) = (harm.to_string(), harm.about(world));
        if let Some(about) = about {
            let told = world.told(&about);
            world.holds(told, || format!("neither health nor ls tells of {line}"));
        }
        if let Some(id) = world.standing[at].foreign_id() {
            let usage = world.must(&["df"]);
            let all = usage["foreign"].as_array().cloned().unwrap_or_default();
            world
                .holds(all.contains(&id.into()), || format!("df does not tell of {line}: {usage}"));
        }
        if let Some(taken) = world.standing[at].taken_name().map(str::to_owned) {
            let words = ["activate", REFERENCES[2], "--name", &taken];
            let before = world.next_id();
            let ran = world.run(&words);
            let refused = ran.code == Some(100) && names_it(&ran.err, &taken);
            world.holds(refused, || format!("the name is somebody else's: {ran}"));
            let after = world.next_id();
            world.holds(before == after, || format!("refused, and {before} was reserved"));
        }
    }
    world.untouched();
    let listing = world.must(&["ls"]);
    let lines = listing["activations"].as_array().cloned().unwrap_or_default();
    let mut listed: Vec<&str> = lines.iter().filter_map(|line| line["name"].as_str()).collect();
    listed.sort_unstable();
    let kept: Vec<&str> = world.acts.keys().map(String::as_str).collect();
    world.holds(listed == kept, || format!("ls has {listed:?}"));
    probe(world);
    world.settle();
    world.untouched();
    if world.standing.iter().all(|harm| harm.about(world).is_none()) {
        world.is_well();
    }
}

fn step(world: &mut World<'_>, deck: &mut Vec<Card>, only: Option<&str>) {
    match world.dice.roll(20) {
        0..=4 => operate(world),
        5..=8 if !world.standing.is_empty() => {
            let at = world.dice.roll(world.standing.len() as u64);
            let harm = world.standing.remove(usize::try_from(at).unwrap());
            harm.mend(world);
        }
        _ => {
            if deck.is_empty() {
                deck.extend(KINDS.iter().copied().map(Card::Harm));
                deck.extend(STOPS.iter().copied().map(Card::Stop));
                deck.retain(|card| only.is_none_or(|only| only.contains(&format!("{card:?}"))));
            }
            let at = world.dice.roll(deck.len() as u64);
            match deck.swap_remove(usize::try_from(at).unwrap()) {
                Card::Harm(_) if world.standing.len() >= STANDING_MAX => operate(world),
                Card::Harm(kind) => {
                    if let Some(harm) = Harm::inflict(kind, world) {
                        world.say(format!("harm: {harm}"));
                        world.standing.push(harm);
                        world.figures.harms += 1;
                    }
                }
                Card::Stop(stop) => {
                    stop.happens(world);
                    world.figures.stops += 1;
                }
            }
        }
    }
    world.settle();
}

/// The whole of one seed.
fn search(bench: &Bench, seed: u64, steps: usize) -> Figures {
    // For who looks for one thing: names of cards, as "Harm(LinkGone)".
    let only = std::env::var("VENEER_WEDGE_ONLY").ok();
    let mut world = World::new(bench, seed);
    let mut deck = Vec::new();
    check(&mut world);
    for number in 1..=steps {
        world.at(number);
        step(&mut world, &mut deck, only.as_deref());
        check(&mut world);
    }
    // And when all is mended, nothing is left of it.
    world.at(steps + 1);
    while let Some(harm) = world.standing.pop() {
        harm.mend(&mut world);
        world.settle();
    }
    check(&mut world);
    world.figures
}

#[test]
fn whatever_is_damaged_everything_else_goes_on() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seeds = number("VENEER_WEDGE_SEEDS").unwrap_or(2);
    let steps = usize::try_from(number("VENEER_WEDGE_STEPS").unwrap_or(25)).unwrap();
    let first = number("VENEER_SEED").unwrap_or(1);
    let bench = Bench::new(world::IMAGES, 4, 2000);
    let (next, failed) = (AtomicU64::new(first), Mutex::new(Vec::new()));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + seeds {
                return;
            }
            match catch_unwind(AssertUnwindSafe(|| search(&bench, seed, steps))) {
                Ok(done) => eprintln!("seed {seed}: passed, {done:?}"),
                Err(_) => {
                    eprintln!("seed {seed}: FAILED, see above");
                    failed.lock().unwrap().push(seed);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(work);
        work();
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "seeds {failed:?} of {first}.. failed");
}
