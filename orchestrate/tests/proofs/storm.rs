//! Random operations on images that share layers, each killed at a random time or not, and everything
//! that must hold after each. One seed gives the same operations and the same delays.

use std::collections::BTreeMap;
use std::fs::File;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tests::dice::Dice;
use tests::tree::Tree;

use crate::bench::{Bench, Host, is_good};

const IMAGES: &[(&str, &[u8])] = &[("a", &[1, 2, 3]), ("b", &[1, 2, 4]), ("c", &[1, 5])];
pub(crate) const REFERENCES: &[&str] = &["s3://bucket/a/", "s3://bucket/b/", "s3://bucket/c/"];
const NAMES: &[&str] = &["n-1", "n-2", "n-3", "n-4"];
const VERBS: &[&str] = &[
    "ensure",
    "activate",
    "activate",
    "activate",
    "deactivate",
    "rm",
    "rm-image",
    "gc",
    "gc-all",
    "verify",
];

/// What is told of activations: name to image and state.
pub(crate) type Told = BTreeMap<String, (String, String)>;

pub(crate) fn told(host: &Host<'_>) -> Told {
    let rows = host.rows("SELECT name, reference, state FROM activations");
    rows.iter()
        .map(|row| {
            let mut cells = row.split(" | ").map(str::to_owned);
            let mut next = || cells.next().unwrap();
            (next(), (next(), next()))
        })
        .collect()
}

pub(crate) fn images(host: &Host<'_>) -> Vec<String> {
    host.rows("SELECT reference FROM images ORDER BY 1")
}

/// The right tree of each chain.
pub(crate) fn right_trees(bench: &Bench) -> BTreeMap<String, String> {
    let host = bench.host("right");
    for image in REFERENCES {
        host.ok(&["ensure", image]);
    }
    trees(&host)
}

pub(crate) fn trees(host: &Host<'_>) -> BTreeMap<String, String> {
    let rows = host.rows("SELECT chain, id FROM volumes WHERE state = 'sealed' AND chain NOT NULL");
    rows.iter()
        .map(|row| {
            let (chain, id) = row.split_once(" | ").unwrap();
            let tree = Tree::read(&host.store().join("volumes").join(id)).unwrap();
            (chain.to_owned(), format!("{:x}", Sha256::digest(format!("{tree:?}"))))
        })
        .collect()
}

/// One operation: what is run, which activation it is about, and how it was.
struct Operation {
    verb: &'static str,
    words: Vec<&'static str>,
    name: &'static str,
    image: &'static str,
}

fn operation(dice: &mut Dice) -> Operation {
    let (verb, name, image) = (dice.of(VERBS), dice.of(NAMES), dice.of(REFERENCES));
    let words = match verb {
        "ensure" => vec!["ensure", image],
        "activate" => vec!["activate", image, "--name", name],
        "rm-image" => vec!["rm", image],
        "gc" | "verify" => vec![verb],
        "gc-all" => vec!["gc", "--keep-bytes", "0"],
        verb => vec![verb, name],
    };
    Operation { verb, words, name, image }
}

/// `runs` operations from one seed; gives how many were killed.
fn storm(seed: u64, runs: u32) -> u32 {
    let bench = Bench::new(IMAGES, 30, 9000);
    let right = right_trees(&bench);
    let host = bench.host("host");
    let mut dice = Dice::new(seed);
    // How long each verb has taken at most: kills fall all over that.
    let mut longest: BTreeMap<&str, Duration> = BTreeMap::new();
    let mut killed = 0;
    for run in 0..runs {
        let did = operation(&mut dice);
        let place = format!("seed {seed}, run {run}: {:?}", did.words);
        let (before, images_before) = (told(&host), images(&host));
        let whole = longest.get(did.verb).copied().unwrap_or(Duration::from_millis(50));
        // Early more often than late: most operations find little to do.
        let late = u32::try_from(dice.roll(1000).pow(2) / 1000).unwrap();
        let delay = (dice.roll(4) > 0).then(|| whole * late / 1000);
        let code = one(&bench, &host, &did, delay, &mut longest);
        killed += u32::from(code.is_none());
        // Some of the killed are cancelled, the others go on.
        for run in host.rows("SELECT id FROM runs WHERE state = 'running'") {
            if dice.roll(2) == 0 {
                let cancelled = host.command(&["cancel", &run]).output().unwrap();
                let said = String::from_utf8_lossy(&cancelled.stderr);
                assert!(matches!(cancelled.status.code(), Some(0 | 1)), "{place}: cancel: {said}");
            }
        }
        // A run that would have been refused undisturbed is refused when it is taken up.
        let recover = host.command(&["recover"]).output().unwrap();
        let ended = String::from_utf8_lossy(&recover.stdout).into_owned();
        let refused = ended.contains("\"not_found\"") || ended.contains("\"usage\"");
        let said = String::from_utf8_lossy(&recover.stderr);
        assert!(recover.status.success() || refused, "{place}: {ended} {said}");
        let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| host.check()));
        assert!(checked.is_ok(), "{place} ended with {code:?}");
        for (chain, tree) in trees(&host) {
            assert_eq!(right.get(&chain), Some(&tree), "{place}: the tree of {chain}");
        }
        held(&did, code, &before, &told(&host), &place);
        // Nothing but `rm` takes an image away, and only the one that it was told to; or `gc`, and
        // only those that are not active.
        let now = images(&host);
        let used = |image: &String| before.values().any(|(of, _)| of == image);
        for image in images_before.iter().filter(|image| !now.contains(image)) {
            let told = did.verb == "rm-image" && image == did.image;
            let swept = did.verb == "gc-all" && !used(image);
            assert!(told || swept, "{place}: {image} is gone");
        }
    }
    killed
}

/// Runs one; its exit code, or none if it was killed.
fn one(
    bench: &Bench,
    host: &Host<'_>,
    did: &Operation,
    delay: Option<Duration>,
    longest: &mut BTreeMap<&str, Duration>,
) -> Option<i32> {
    let said = bench.path("said");
    let begun = Instant::now();
    let mut command = host.command(&did.words);
    command.stdout(Stdio::null()).stderr(File::create(&said).unwrap());
    let mut running = command.spawn().unwrap();
    if let Some(delay) = delay {
        std::thread::sleep(delay);
        running.kill().unwrap();
    }
    let code = running.wait().unwrap().code();
    if delay.is_none() {
        let known = longest.entry(did.verb).or_default();
        *known = begun.elapsed().max(*known);
    }
    let text = std::fs::read_to_string(&said).unwrap();
    match code {
        // What is not there, or is taken, is refused.
        None => {}
        code if is_good(&did.words, code) => {}
        Some(100 | 111) if REFUSED.iter().any(|words| text.contains(words)) => {}
        Some(code) => panic!("{:?} ended with {code}: {text}", did.words),
    }
    code
}

/// How what is not there, is taken, in use or only being made is refused.
const REFUSED: &[&str] = &[
    "orchestrate: fatal: no ",
    " is taken by ",
    " is in use by its activations ",
    " is making it",
];

/// What was acknowledged holds, and what was not asked for has not moved.
fn held(did: &Operation, code: Option<i32>, before: &Told, now: &Told, place: &str) {
    let about = ["activate", "deactivate", "rm"].contains(&did.verb);
    let mine = |name: &String| about && name == did.name;
    let others = |told: &Told| -> Told {
        told.iter().filter(|(name, _)| !mine(name)).map(|(n, s)| (n.clone(), s.clone())).collect()
    };
    assert_eq!(others(before), others(now), "{place}: another activation moved");
    let state = now.get(did.name).map(|(_, state)| state.as_str());
    match (did.verb, code) {
        ("activate", Some(0)) => assert_eq!(state, Some("active"), "{place}"),
        ("deactivate", Some(0)) => assert_eq!(state, Some("inactive"), "{place}"),
        ("rm", Some(0)) => assert_eq!(state, None, "{place}"),
        _ => {}
    }
}

fn number(name: &str) -> Option<u64> {
    let value: Value = std::env::var(name).ok()?.parse().expect("a number");
    value.as_u64()
}

#[test]
fn killed_at_random_in_random_operations_nothing_is_lost() {
    let runs = u32::try_from(number("VENEER_KILLS").unwrap_or(16)).unwrap();
    let seed = number("VENEER_SEED").unwrap_or(1);
    // Two hosts at once, each of a seed of its own.
    let killed: u32 = std::thread::scope(|scope| {
        let hosts: Vec<_> =
            [seed, seed + 1].map(|seed| scope.spawn(move || storm(seed, runs.div_ceil(2)))).into();
        hosts.into_iter().map(|host| host.join().unwrap()).sum()
    });
    eprintln!("{runs} random operations from seed {seed}, {killed} killed: every one passed");
}
