//! Two tenants with one host: what the one has, does and is refused changes nothing of what the other
//! gets, although their objects share bytes, ETags, sizes and the ends of their keys.
//!
//! The acts of one, the neighbour's beside them or not: each has the same exit code, and what is up
//! under its names has the same files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tests::dice::Dice;
use tests::layer;

use crate::bench::{Bench, Host};

/// The two; only the first one's outcomes are looked at.
const TENANTS: &[&str] = &["ours", "theirs"];

/// The form of an MD5, and of an ETag of several parts.
const ETAGS: &[&str] = &["00112233445566778899aabbccddeeff", "00112233445566778899aabbccdde-27"];

/// Contents of one size, so that size and ETag say nothing of them. Some are refused: alone, on top of
/// some layers, or always.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    Says(&'static str),
    /// Good where a layer below has `which`.
    Link,
    Escape,
    Garbled,
}

const CONTENTS: &[Content] = &[
    Content::Says("good"),
    Content::Says("fine"),
    Content::Says("evil"),
    Content::Says("base"),
    Content::Link,
    Content::Escape,
    Content::Garbled,
];

impl Content {
    fn bytes(self) -> Vec<u8> {
        let mut bytes = match self {
            Content::Says(text) => layer::of(&[("which".into(), text.into())]),
            Content::Link => layer::hard_link("link", "which"),
            Content::Escape => layer::named("../../evil"),
            Content::Garbled => {
                let mut bytes = layer::of(&[("which".into(), "good".into())]);
                bytes[0] ^= 1;
                bytes
            }
        };
        // Zeros after the end of an archive say nothing.
        bytes.resize(4096, 0);
        bytes
    }
}

/// Which ETag an object is given.
#[derive(Clone, Copy, Debug)]
enum Etag {
    /// The server's own, an MD5.
    Honest,
    Chosen(&'static str),
    /// That of another content.
    Of(Content),
}

#[derive(Clone, Debug)]
enum Act {
    Put { image: u64, number: u64, content: Content, etag: Etag },
    Ensure { image: u64 },
    Activate { image: u64, name: u64 },
    Deactivate { name: u64 },
    Remove { name: u64 },
    RemoveImage { image: u64 },
}

impl Act {
    fn roll(tenant: &str, dice: &mut Dice) -> Act {
        let (image, name) = (dice.roll(2), dice.roll(2));
        match dice.roll(10) {
            0..2 => {
                let content = dice.of(CONTENTS);
                // A server that gives an object the MD5 of other bytes is not a neighbour's doing, so
                // only the neighbour's own objects have such ETags.
                let etag = match dice.roll(4) {
                    0 | 1 => Etag::Honest,
                    2 => Etag::Chosen(dice.of(ETAGS)),
                    _ if tenant == TENANTS[0] => Etag::Honest,
                    _ => Etag::Of(dice.of(CONTENTS)),
                };
                Act::Put { image, number: 1 + dice.roll(2), content, etag }
            }
            2..4 => Act::Ensure { image },
            4..8 => Act::Activate { image, name },
            8 => match dice.roll(3) {
                0 => Act::Deactivate { name },
                _ => Act::Remove { name },
            },
            _ => Act::RemoveImage { image },
        }
    }

    /// Does it; gives the exit code of a command.
    fn run(&self, host: &Host<'_>, tenant: &str) -> Option<i32> {
        let image = |image: &u64| format!("s3://bucket/{tenant}-{image}/");
        let name = |name: &u64| format!("{tenant}-{name}");
        let words: Vec<String> = match self {
            Act::Put { image, number, content, etag } => {
                put(host.bench(), &format!("{tenant}-{image}/{number}.tar"), *content, *etag);
                return None;
            }
            Act::Ensure { image: one } => vec!["ensure".into(), image(one)],
            Act::Activate { image: one, name: called } => {
                vec!["activate".into(), image(one), "--name".into(), name(called)]
            }
            Act::Deactivate { name: called } => vec!["deactivate".into(), name(called)],
            Act::Remove { name: called } => vec!["rm".into(), name(called)],
            Act::RemoveImage { image: one } => vec!["rm".into(), image(one)],
        };
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let (code, said) = host.said(&words);
        // A person's acts on what is there never meet anything of the neighbour's.
        assert!([0, 1, 100].contains(&code), "{words:?}: {code}: {said}");
        Some(code)
    }
}

fn put(bench: &Bench, key: &str, content: Content, etag: Etag) {
    let bytes = content.bytes();
    let honest = |content: Content| format!("{:x}", md5::compute(content.bytes()));
    let etag = match etag {
        Etag::Honest => honest(content),
        Etag::Chosen(etag) => etag.into(),
        Etag::Of(other) => honest(other),
    };
    bench.put(key, &bytes);
    bench.proxy.forge_etag(key, &etag);
}

/// The files of what is up under the first tenant's names.
fn up(host: &Host<'_>) -> BTreeMap<String, Vec<(PathBuf, String)>> {
    let active = host.store().join("active");
    let ours = |name: &String| name.starts_with(TENANTS[0]);
    let names = crate::bench::names(&active).into_iter().filter(ours);
    names.map(|name| (name.clone(), files(&active.join(name)))).collect()
}

fn files(dir: &Path) -> Vec<(PathBuf, String)> {
    let names = crate::bench::names(dir).into_iter();
    let read = |name: String| {
        let text =
            std::fs::read_to_string(dir.join(&name)).unwrap_or_else(|_| "a directory".into());
        (name.into(), text)
    };
    names.map(read).collect()
}

/// The first tenant's acts of a seed, with the neighbour's between them or not: what each came to.
fn live(host: &Host<'_>, seed: u64, acts: usize, with: bool) -> Vec<String> {
    // Each has dice of its own: the neighbour's throws are not ours.
    let mut dice = [Dice::new(2 * seed + 1), Dice::new(2 * seed + 2)];
    let both = TENANTS.iter().zip(&mut dice);
    for (tenant, dice) in both.take(if with { 2 } else { 1 }) {
        for image in 0..2 {
            for number in 1..=1 + dice.roll(2) {
                let content = dice.of(&CONTENTS[..5]);
                let key = format!("{tenant}-{image}/{number}.tar");
                put(host.bench(), &key, content, Etag::Honest);
            }
        }
    }
    let mut came = Vec::new();
    for _ in 0..acts {
        if with {
            for _ in 0..dice[1].roll(3) {
                let act = Act::roll(TENANTS[1], &mut dice[1]);
                act.run(host, TENANTS[1]);
            }
        }
        let act = Act::roll(TENANTS[0], &mut dice[0]);
        let code = act.run(host, TENANTS[0]);
        came.push(format!("{act:?}: {code:?}, up: {:?}", up(host)));
    }
    came
}

#[test]
fn no_act_of_one_tenant_changes_an_outcome_of_the_other() {
    let number = |name: &str, usual: u64| {
        std::env::var(name).map_or(usual, |text| text.parse().expect("a number"))
    };
    let first = number("VENEER_SEED", 1);
    let (mut acts, mut good, mut refused) = (0, 0, 0);
    for seed in first..first + number("VENEER_ROUNDS", 6) {
        let benches = [Bench::new(&[], 1, 1), Bench::new(&[], 1, 1)];
        let [alone, beside] = [&benches[0], &benches[1]].map(|bench| bench.host("host"));
        let lives = [live(&alone, seed, 14, false), live(&beside, seed, 14, true)];
        for (number, (without, with)) in lives[0].iter().zip(&lives[1]).enumerate() {
            assert_eq!(without, with, "seed {seed}, act {number}: alone and beside the neighbour");
            acts += 1;
            good += usize::from(without.contains("Some(0)"));
            refused += usize::from(without.contains("Some(100)"));
        }
        alone.check();
        beside.check();
    }
    println!(
        "{acts} acts beside a neighbour's: {good} done, {refused} refused, each as without it"
    );
    // A search that comes to one kind of end alone is none.
    assert!(good > acts / 5 && refused > 0, "{acts} acts, {good} good, {refused} refused");
}
