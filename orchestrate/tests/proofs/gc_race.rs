//! `gc` against runs that ensure, activate and remove, some of them killed: whatever the interleaving,
//! nothing that is referenced goes. The programs take turns at the calls that change something, as one
//! seed has it, and in a part of the rounds they run freely, from random moments on.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tests::dice::Dice;
use tests::trace::turns::{Player, play};
use tests::trace::{self, Act, Call, Side, Whose};
use tests::tree::Tree;

use crate::bench::{Bench, Host, is_good};
use crate::matrix::killed_once;
use crate::storm::{REFERENCES, images, right_trees, told, trees};

const A: &str = "s3://bucket/a/";
const B: &str = "s3://bucket/b/";
const C: &str = "s3://bucket/c/";
const IMAGES: &[(&str, &[u8])] = &[("a", &[1, 2, 3]), ("b", &[1, 2, 4]), ("c", &[1, 5])];

/// Where a round begins.
struct Scene {
    name: &'static str,
    words: &'static [&'static [&'static str]],
    /// Killed when this volume is being made: sealed layers of no image stay below it.
    killed: Option<(&'static [&'static str], &'static str)>,
}

const SCENES: &[Scene] = &[
    Scene { name: "fresh", words: &[&["ensure", C], &["rm", C]], killed: None },
    Scene {
        name: "garbage of two layers",
        words: &[],
        killed: Some((&["ensure", A], "volumes/4")),
    },
    Scene {
        name: "one in use, one killed on top of it",
        words: &[&["activate", B, "--name", "kept"]],
        killed: Some((&["ensure", A], "volumes/6")),
    },
    Scene {
        name: "one pinned, one in use, one unused",
        words: &[&["ensure", A], &["pin", A], &["activate", B, "--name", "kept"], &["ensure", C]],
        killed: None,
    },
    Scene {
        name: "all unused",
        words: &[&["ensure", A], &["ensure", B], &["ensure", C]],
        killed: None,
    },
];

fn set_up<'b>(bench: &'b Bench, scene: &Scene) -> Host<'b> {
    let host = bench.host(&format!("scene {}", scene.name));
    scene.words.iter().for_each(|words| drop(host.ok(words)));
    if let Some((words, at)) = scene.killed {
        killed_once(&host, words, at);
    }
    host
}

/// One program of a round.
#[derive(Debug)]
struct Did {
    verb: &'static str,
    image: &'static str,
    name: String,
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Did {
    fn random(dice: &mut Dice, at: usize, of: &[&'static str]) -> Did {
        // One collects in every round; the others do what it may get in the way of.
        let verb = match at {
            0 => "gc",
            _ => dice.of(&["ensure", "ensure", "activate", "activate", "activate", "rm", "gc"]),
        };
        let (image, name) = (dice.of(of), format!("n-{at}"));
        Did { verb, image, name, code: None, stdout: String::new(), stderr: String::new() }
    }

    fn words(&self) -> Vec<&str> {
        match self.verb {
            "gc" => vec!["gc", "--keep-bytes", "0"],
            "activate" => vec!["activate", self.image, "--name", &self.name],
            verb => vec![verb, self.image],
        }
    }
}

/// What every round is held against.
struct Right {
    layers: BTreeMap<String, String>,
    images: BTreeMap<&'static str, String>,
}

fn tree_of(host: &Host<'_>, name: &str) -> String {
    let tree = Tree::read(&host.store().join("active").join(name).join("")).unwrap();
    format!("{:x}", Sha256::digest(format!("{tree:?}")))
}

fn right(bench: &Bench) -> Right {
    let layers = right_trees(bench);
    let host = bench.host("right");
    let images = REFERENCES.iter().map(|image| {
        let name = format!("n-{}", image.len());
        host.ok(&["activate", image, "--name", &name]);
        let tree = tree_of(&host, &name);
        host.ok(&["rm", &name]);
        (*image, tree)
    });
    Right { images: images.collect(), layers }
}

/// What a round was.
struct Round {
    killed: usize,
    passed: usize,
    moves: usize,
}

fn round(scenes: &[Host<'_>], right: &Right, seed: u64, free: bool) -> Round {
    let mut dice = Dice::new(seed);
    let scene = usize::try_from(dice.roll(scenes.len() as u64)).unwrap();
    let host = scenes[scene].copy_to(&format!("host-{seed}-{free}"));
    let pinned = host.rows("SELECT reference FROM images WHERE pinned");
    let before = told(&host);
    let count = 2 + usize::try_from(dice.roll(3)).unwrap();
    // Often all about one image, where they get in each other's way.
    let one = [dice.of(REFERENCES)];
    let of = if dice.roll(2) == 0 { REFERENCES } else { &one };
    let mut all: Vec<Did> = (0..count).map(|at| Did::random(&mut dice, at, of)).collect();
    let kills: Vec<_> = all.iter().map(|_| (dice.roll(4) == 0).then(|| dice.roll(300))).collect();
    let (passed, moves) = match free {
        false => in_turn(&host, &mut all, &kills, dice.clone()),
        true => at_once(&host, &mut all, &kills, &mut dice),
    };
    let place = format!("seed {seed}, free {free}, {}: {all:#?}", SCENES[scene].name);
    let (mut may_be_gone, mut removed) = (BTreeSet::new(), BTreeSet::new());
    for did in &all {
        let refused = did.verb == "rm"
            && (did.stdout.contains("\"not_found\"")
                || did.stderr.contains(" is in use by its activations ")
                || did.stderr.contains(" is making it"));
        match did.code {
            None => {}
            code if is_good(&did.words(), code) => {}
            Some(100 | 111) if refused => continue,
            Some(_) => panic!("{} {} failed: {place}", did.verb, did.image),
        }
        match did.verb {
            "rm" => drop(removed.insert(did.image.to_owned())),
            "gc" if did.code.is_none() => {
                may_be_gone.extend(REFERENCES.iter().map(|image| (*image).to_owned()))
            }
            "gc" => {
                let said: Value = serde_json::from_str(&did.stdout).unwrap();
                let swept = said["sweeps"].as_array().unwrap().iter();
                may_be_gone.extend(swept.filter_map(|one| Some(one["image"].as_str()?.to_owned())));
            }
            _ => {}
        }
    }
    // What was killed goes on, or is refused as it would have been.
    let recover = host.command(&["recover"]).output().unwrap();
    let said = String::from_utf8_lossy(&recover.stdout).into_owned();
    // Two processes that were killed in the same step of one run: that is given up, as it should be.
    let twice = all.iter().filter(|did| did.code.is_none()).count() >= 2;
    let refused = said.contains("\"not_found\"")
        || said.contains("\"usage\"")
        || twice && said.contains("\"crash_loop\"");
    let error = String::from_utf8_lossy(&recover.stderr).into_owned();
    assert!(recover.status.success() || refused, "recover: {said} {error}: {place}");
    holds(&host, right, &place);
    let (now, published) = (told(&host), images(&host));
    for (name, kept) in &before {
        assert_eq!(now.get(name), Some(kept), "{name} has moved: {place}");
    }
    for image in &pinned {
        assert!(
            published.contains(image) || removed.contains(image),
            "{image} was pinned: {place}"
        );
    }
    for did in all.iter().filter(|did| did.code == Some(0)) {
        let image = did.image.to_owned();
        match did.verb {
            "activate" => {
                let up = (image, "active".to_owned());
                assert_eq!(now.get(&did.name), Some(&up), "{} is gone: {place}", did.name);
            }
            "ensure" => {
                let gone = may_be_gone.contains(&image) || removed.contains(&image);
                assert!(published.contains(&image) || gone, "{image} is gone: {place}");
            }
            _ => {}
        }
    }
    // And what is left over is found by one more, which takes nothing else.
    host.ok(&["gc", "--keep-bytes", "0"]);
    holds(&host, right, &place);
    assert_eq!(told(&host), now, "gc moved an activation: {place}");
    let unused = host.rows(
        "WITH RECURSIVE used(id) AS (SELECT volume FROM image_layers UNION SELECT origin FROM activations
           UNION SELECT v.parent FROM volumes v JOIN used USING (id) WHERE v.parent NOT NULL)
         SELECT id FROM volumes WHERE role = 'layer' AND id NOT IN (SELECT id FROM used)",
    );
    assert_eq!(unused, Vec::<String>::new(), "left over: {place}");
    host.wipe();
    let killed = all.iter().filter(|did| did.code.is_none()).count();
    Round { killed, passed, moves }
}

/// Rows and directories agree, and every tree that anybody stands on is whole.
fn holds(host: &Host<'_>, right: &Right, place: &str) {
    let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| host.check()));
    assert!(checked.is_ok(), "not clean: {place}");
    for (chain, tree) in trees(host) {
        assert_eq!(right.layers.get(&chain), Some(&tree), "the tree of {chain}: {place}");
    }
    for (name, (image, _)) in told(host) {
        let tree = tree_of(host, &name);
        assert_eq!(right.images.get(image.as_str()), Some(&tree), "the tree of {name}: {place}");
    }
}

fn in_turn(host: &Host<'_>, all: &mut [Did], kills: &[Option<u64>], dice: Dice) -> (usize, usize) {
    let player = |(did, kill): (&Did, &Option<u64>)| Player {
        command: host.command(&did.words()),
        killed_at: kill.map(|at| usize::try_from(at).unwrap()),
    };
    let players = all.iter().zip(kills).map(player).collect();
    let played = play(players, &[&host.dir], "state/locks", dice).unwrap();
    for (did, ended) in all.iter_mut().zip(played.ended) {
        (did.code, did.stdout, did.stderr) = (ended.code, ended.stdout, ended.stderr);
    }
    (played.passed, played.moves)
}

fn at_once(
    host: &Host<'_>,
    all: &mut [Did],
    kills: &[Option<u64>],
    dice: &mut Dice,
) -> (usize, usize) {
    let mut running = Vec::new();
    for (did, kill) in all.iter().zip(kills) {
        std::thread::sleep(Duration::from_millis(dice.roll(60)));
        let mut command = host.command(&did.words());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        if let Some(late) = kill {
            std::thread::sleep(Duration::from_millis(late / 4));
            child.kill().unwrap();
        }
        running.push(child);
    }
    for (did, child) in all.iter_mut().zip(running) {
        let output = child.wait_with_output().unwrap();
        did.code = output.status.code();
        did.stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        did.stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    }
    (0, 0)
}

/// A registry of which all is still in the log is copied into its file, by another process, at each
/// moment of an opening: that is no registry that was cut off.
#[test]
fn a_registry_that_is_copied_from_its_log_meanwhile_can_be_opened() {
    let bench = Bench::new(IMAGES, 3, 2000);
    let start = set_up(&bench, &SCENES[1]);
    let mut at = 0;
    loop {
        let host = start.copy_to("host");
        let mut seen = 0;
        let each = |call: &Call, side: Side| {
            let looks = side == Side::After && call.on.starts_with("state/registry.db");
            if looks && seen == at {
                host.ok(&["recover"]);
            }
            seen += usize::from(looks);
            Act::Go
        };
        let words = ["runs"];
        let ended = trace::run(&host.command(&words), &[&host.dir], Whose::Main, each).unwrap();
        assert_eq!(ended.code, Some(0), "at look {at}: {}", ended.stderr);
        at += 1;
        if at > seen || at > 12 {
            break;
        }
    }
    assert!(at > 4, "only {at} looks");
}

/// One in so many rounds runs freely.
const FREE: u64 = 4;

#[test]
fn gc_among_others_takes_nothing_that_is_referenced() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let rounds = number("VENEER_ROUNDS").unwrap_or(12);
    let first = number("VENEER_SEED").unwrap_or(1) * 1_000_000;
    let bench = Bench::new(IMAGES, 3, 2000);
    let right = right(&bench);
    let scenes: Vec<Host<'_>> = SCENES.iter().map(|scene| set_up(&bench, scene)).collect();
    let [next, killed, passed, moves] = [(); 4].map(|()| AtomicUsize::new(0));
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed) as u64;
            if number >= rounds {
                return;
            }
            let free = number % FREE == FREE - 1;
            let round = round(&scenes, &right, first + number, free);
            killed.fetch_add(round.killed, Ordering::Relaxed);
            passed.fetch_add(round.passed, Ordering::Relaxed);
            moves.fetch_add(round.moves, Ordering::Relaxed);
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(work);
        work();
    });
    let [killed, passed, moves] = [killed, passed, moves].map(AtomicUsize::into_inner);
    eprintln!("{rounds} rounds, {moves} moves, {passed} turns, {killed} killed: every one passed");
}
