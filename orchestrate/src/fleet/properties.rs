//! What holds for every sequence of documents, held against random ones of fixed seeds.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use crate::error::class::Class;
use crate::fleet::cohort::{self, Dice};
use crate::fleet::converge::{Act, ActivationFact, Facts, Failure, ImageFact, converge, look};
use crate::fleet::document::{By, Document, Rollout};
use crate::fleet::member::Me;

/// xorshift64*, as the tests of the workspace have it.
struct Chance(u64);

impl Chance {
    fn new(seed: u64) -> Chance {
        Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % sides
    }
}

fn image(n: u64) -> String {
    format!("s3://bkt/{n}/")
}

/// A document that may be signed; now and then one that contradicts itself, of which there is none.
fn random(chance: &mut Chance, serial: u64) -> Option<Document> {
    let mut images = serde_json::Map::new();
    for name in 0..chance.roll(4) {
        let mut entry = json!({"image": image(chance.roll(6))});
        if chance.roll(2) == 0 {
            entry["before"] = image(chance.roll(6)).into();
        }
        if chance.roll(2) == 0 {
            let by = if chance.roll(4) == 0 { "site" } else { "host" };
            let percent = [0, 1, 10, 50, 100][usize::try_from(chance.roll(5)).unwrap()];
            entry["rollout"] =
                json!({"salt": format!("s{}", chance.roll(3)), "percent": percent, "by": by});
        }
        images.insert(format!("n{name}"), entry);
    }
    let names: Vec<String> = images.keys().cloned().collect();
    let mut activations = serde_json::Map::new();
    for name in &names {
        if chance.roll(2) == 0 {
            continue;
        }
        let change = if chance.roll(2) == 0 { "replace" } else { "keep" };
        activations.insert(format!("a-{name}"), json!({"image": name, "on_change": change}));
    }
    let remove: Vec<Value> = (0..chance.roll(3)).map(|_| image(chance.roll(6)).into()).collect();
    let document = json!({
        "version": 1, "serial": serial, "fleet": "f", "images": images, "activations": activations,
        "remove": remove, "paused": chance.roll(8) == 0,
    });
    Document::parse(document.to_string().as_bytes()).ok()
}

/// What a host comes to by an act.
fn done(facts: &mut Facts, act: &Act, now: Duration) {
    match act {
        Act::Ensure { image } => {
            facts
                .images
                .insert(image.clone(), ImageFact { document: true, ..ImageFact::default() });
        }
        Act::Activate { name, image } => {
            let row =
                ActivationFact { image: image.clone(), up: true, ..ActivationFact::default() };
            facts.activations.insert(name.clone(), row);
        }
        Act::Replace { name } => drop(facts.activations.remove(name)),
        Act::Remove { image } => {
            facts.images.remove(image);
            facts.lost = now;
        }
        Act::Wait { .. } => {}
    }
}

/// What people do in between.
fn people(facts: &mut Facts, chance: &mut Chance) {
    let named = image(chance.roll(6));
    match chance.roll(6) {
        0 => {
            let row = facts.images.entry(named).or_default();
            row.person = true;
        }
        1 => facts.images.values_mut().for_each(|row| row.pinned = chance.roll(4) == 0),
        2 if facts.images.contains_key(&named) => {
            let row = ActivationFact { image: named, up: true, open: true, person: true };
            facts.activations.insert("mine".into(), row);
        }
        3 => {
            let failure =
                Failure { serial: None, class: Class::Refused, tries: 1, at: Duration::ZERO };
            facts.failures.insert(named, failure);
        }
        _ => {}
    }
}

#[test]
fn nothing_unnamed_is_removed_by_any_sequence_of_documents() {
    let (mut removals, mut replaced, mut documents) = (0, 0, 0);
    for seed in 0..400 {
        let mut chance = Chance::new(seed);
        let site = (chance.roll(2) == 0).then(|| "fra".to_owned());
        let me = Me { fleet: "f".into(), host: format!("h{seed}"), site, ..Me::default() };
        let (mut facts, mut now) = (Facts::default(), Duration::ZERO);
        let mut lost: Vec<Duration> = vec![now];
        for serial in 1..20 {
            people(&mut facts, &mut chance);
            let Some(document) = random(&mut chance, serial) else { continue };
            documents += 1;
            for _ in 0..12 {
                let acts = converge(&document, &facts, &me, now, Dice(seed));
                let before = facts.clone();
                for act in &acts {
                    match act {
                        Act::Remove { image } => {
                            let row = before.images[image];
                            assert!(document.remove.contains(image) && !document.names(image));
                            assert!(row.document && !row.person && !row.pinned);
                            assert!(before.activations.values().all(|row| row.image != *image));
                            assert!(now - *lost.last().unwrap() >= Duration::from_secs(3600));
                            lost.push(now);
                            removals += 1;
                        }
                        Act::Replace { name } => {
                            let row = &before.activations[name];
                            assert!(
                                !row.person && !row.open && document.activations.contains_key(name)
                            );
                            replaced += 1;
                        }
                        Act::Ensure { image } => assert!(document.names(image)),
                        Act::Activate { name, .. } => {
                            assert!(document.activations.contains_key(name))
                        }
                        Act::Wait { until } => assert!(*until > now),
                    }
                    assert!(!document.paused || matches!(act, Act::Wait { .. }), "{act:?}");
                    done(&mut facts, act, now);
                }
                now += Duration::from_secs(chance.roll(3000));
            }
        }
    }
    assert!(
        removals > 100 && replaced > 20 && documents > 2000,
        "{removals} {replaced} {documents}"
    );
}

/// Once it has come to rest, the same document is no work, however often it is looked at.
#[test]
fn the_same_document_twice_is_no_work() {
    let mut rested = 0;
    for seed in 0..400 {
        let mut chance = Chance::new(seed);
        let me = Me { fleet: "f".into(), host: format!("h{seed}"), ..Me::default() };
        let (mut facts, mut now) = (Facts::default(), Duration::from_secs(10_000));
        for _ in 0..5 {
            people(&mut facts, &mut chance);
        }
        let Some(document) = random(&mut chance, 1) else { continue };
        for round in 0.. {
            let acts = converge(&document, &facts, &me, now, Dice(seed));
            if acts.is_empty() {
                break;
            }
            assert!(round < 50, "{document:?} comes to no rest: {acts:?}");
            for act in &acts {
                if let Act::Wait { until } = act {
                    now = *until;
                }
                done(&mut facts, act, now);
            }
        }
        rested += 1;
        for _ in 0..3 {
            now += Duration::from_secs(100_000);
            let again = look(&document, &facts, &me, now, Dice(seed + 1));
            assert_eq!(again.acts, [], "{document:?}");
        }
    }
    assert!(rested > 100, "{rested}");
}

#[test]
fn a_roll_out_only_grows_with_its_percent_and_always_chooses_the_same() {
    for salt in 0..20 {
        let mut inside: BTreeSet<u64> = BTreeSet::new();
        for parts in (0..=10_000).step_by(250) {
            let rollout = Rollout { salt: format!("s{salt}"), parts, by: By::Host };
            let chosen = |host: &u64| {
                let me = Me { host: format!("h{host}"), ..Me::default() };
                let first = cohort::reached(&rollout, &me).is_ok();
                // Whatever else is so of the host, and whenever it asks.
                let other = Me { site: Some("x".into()), hold: true, ..me };
                assert_eq!(cohort::reached(&rollout, &other).is_ok(), first);
                first
            };
            let now: BTreeSet<u64> = (0..200).filter(chosen).collect();
            assert!(now.is_superset(&inside), "{parts}");
            inside = now;
        }
        assert_eq!(inside.len(), 200);
    }
}

/// The text of a document, turned about at random: it is read or refused, and no more.
#[test]
fn bytes_from_outside_are_read_or_refused() {
    let whole = br#"{"version": 1, "serial": 7, "fleet": "f", "class": "w", "paused": false,
        "catalog": {"serial_min": 17}, "images": {"a": {"image": "s3://bkt/new/", "before": "s3://bkt/old/",
        "where": {"site": ["fra"], "labels": {"d": ["n"]}}, "rollout": {"salt": "s", "percent": 0.5}}},
        "activations": {"web": {"image": "a"}}, "remove": ["s3://bkt/gone/"], "pace": {"max_used": 85}}"#;
    assert!(Document::parse(whole).is_ok());
    let (mut good, mut bad) = (0, 0);
    for seed in 0..5000 {
        let mut chance = Chance::new(seed);
        let mut bytes = whole.to_vec();
        for _ in 0..=chance.roll(4) {
            let at = usize::try_from(chance.roll(bytes.len() as u64)).unwrap();
            match chance.roll(3) {
                0 => bytes[at] = u8::try_from(chance.roll(256)).unwrap(),
                1 if bytes.len() > 1 => drop(bytes.remove(at)),
                _ => bytes.truncate(at.max(1)),
            }
        }
        match Document::parse(&bytes) {
            Ok(_) => good += 1,
            Err(faults) => {
                bad += 1;
                let text = faults.to_string();
                assert!(
                    !faults.is_empty() && !text.contains('\0') && !text.contains('\u{1b}'),
                    "{text}"
                );
            }
        }
    }
    assert!(good > 50 && bad > 1000, "{good} {bad}");
}
