//! Interleaving search: a few actors on one host, of which exactly one goes on at a time, up to where it
//! meets others next: a lock, a commit, a call on the store, a request to a server. A seed chooses who takes
//! part and whose step is next, so a round that fails fails again. After every step it is looked at what must
//! hold ([`judge`]): registry and store are at most one transaction apart, no lock is held over the network,
//! an answer is true at one moment between request and answer, acts on one name can have happened in one
//! order ([`line`]), no run is lost, who is told of a run's end is told, and nobody waits for a silent server
//! whom it does not concern.
//!
//! The programs are the real ones, under ptrace ([`tests::trace::actor`]); the daemon's workers take turns
//! with the commands. The long form is `just soak-interleave`.

mod acts;
mod daemon;
mod judge;
mod line;
mod seat;
mod table;
mod view;
mod yard;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use seat::Round;
use yard::Yard;

/// Rounds of a test run.
const ROUNDS: u64 = 72;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

/// What many rounds were.
#[derive(Debug, Default)]
struct Figures {
    rounds: u64,
    steps: u64,
    views: u64,
    most_waited: u64,
    failed: u64,
    /// By kind of fault: rounds, and the first seeds.
    kinds: BTreeMap<&'static str, (u64, Vec<u64>)>,
}

impl Figures {
    fn add(&mut self, round: &Round) {
        self.rounds += 1;
        self.steps += round.steps.len() as u64;
        self.views += round.views.len() as u64;
        self.most_waited = self.most_waited.max(round.waited);
        self.failed += u64::from(!round.faults.is_empty());
        let mut kinds: Vec<_> = round.faults.iter().map(|fault| fault.kind).collect();
        kinds.dedup();
        for kind in kinds {
            let (rounds, seeds) = self.kinds.entry(kind).or_default();
            *rounds += 1;
            if seeds.len() < 8 {
                seeds.push(round.seed);
            }
        }
    }
}

#[test]
fn whatever_the_order_of_their_steps_all_are_told_the_truth() {
    let rounds = number("VENEER_SCHEDULES").unwrap_or(ROUNDS);
    let first = number("VENEER_SEED").unwrap_or(1);
    // All of them, and what each kind of failure is, in place of the end at the first.
    let survey = std::env::var_os("VENEER_SURVEY").is_some();
    let next = AtomicU64::new(0);
    let figures = Mutex::new(Figures::default());
    let failed = Mutex::new(None::<String>);
    let work = |number: usize| {
        // A server each: images change at it.
        let bench = Yard::bench();
        let yard = Yard::new(&bench, number);
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if at >= rounds || failed.lock().unwrap().is_some() {
                return;
            }
            let seed = first + at;
            let round = table::play(&yard, seed);
            let round = round.unwrap_or_else(|error| panic!("seed {seed}: {error:#}"));
            figures.lock().unwrap().add(&round);
            if round.faults.is_empty() {
                continue;
            }
            match survey {
                true => eprintln!("FAULT {}\n", round.story()),
                false => *failed.lock().unwrap() = Some(round.story()),
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| work(1));
        work(0);
    });
    let figures = figures.into_inner().unwrap();
    eprintln!("{figures:?}");
    if let Some(story) = failed.into_inner().unwrap() {
        panic!("{story}");
    }
}
