//! Those who take part in a round, and what is known of it.

use tests::trace::actor::{Actor, Point};

use super::acts::{Act, Answer, Theme, Via};
use super::view::View;

/// What was found, of a kind that can be counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) kind: &'static str,
    pub(crate) what: String,
}

/// Where somebody is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum At {
    /// Nothing of it has happened.
    Unborn,
    Before(Point),
    /// It has found a lock taken.
    Waits(String),
    /// A run of the daemon's stands for it.
    Asked(u64),
    /// A worker that waits for work.
    Idle,
    Over,
}

/// Somebody who takes part: who asks for something, or a worker of the daemon.
pub(crate) struct Seat {
    pub(crate) who: String,
    pub(crate) act: Option<Act>,
    pub(crate) via: Via,
    pub(crate) at: At,
    pub(crate) began: u64,
    pub(crate) accepted: Option<u64>,
    pub(crate) ended: Option<u64>,
    pub(crate) answer: Option<Answer>,
    pub(crate) hook: Option<String>,
    pub(super) actor: Option<Actor>,
    /// When it last found nothing to do.
    pub(super) looked: Option<u64>,
    /// `kill -9` after so many of its steps.
    pub(super) killed_at: Option<u64>,
    pub(super) steps: u64,
    /// The step at which it began to wait for a lock.
    pub(super) since: u64,
}

/// How it went.
pub(crate) struct Round {
    pub(crate) seed: u64,
    pub(crate) theme: Theme,
    pub(crate) scene: &'static str,
    pub(crate) steps: Vec<String>,
    pub(crate) faults: Vec<Fault>,
    pub(crate) seats: Vec<Seat>,
    pub(crate) views: Vec<(u64, View)>,
    /// The most steps of others that somebody waited for a lock.
    pub(crate) waited: u64,
}

impl Seat {
    pub(super) fn new(who: String, via: Via) -> Seat {
        Seat {
            who,
            act: None,
            via,
            at: At::Unborn,
            began: 0,
            accepted: None,
            ended: None,
            answer: None,
            hook: None,
            actor: None,
            looked: None,
            killed_at: None,
            steps: 0,
            since: 0,
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.at == At::Over || self.act.is_none()
    }
}

impl Round {
    /// All that it takes to understand it.
    pub(crate) fn story(&self) -> String {
        let seats: Vec<String> = self.seats.iter().map(|seat| seat.told()).collect();
        let faults: Vec<String> =
            self.faults.iter().map(|fault| format!("{}: {}", fault.kind, fault.what)).collect();
        format!(
            "seed {}, {:?}, {}\n{}\n  {}\n{}",
            self.seed,
            self.theme,
            self.scene,
            seats.join("\n"),
            self.steps.join("\n  "),
            faults.join("\n")
        )
    }
}

impl Seat {
    pub(super) fn told(&self) -> String {
        let Seat { who, via, began, accepted, ended, answer, at, .. } = self;
        format!("{who} by {via:?}: {began}, {accepted:?}, {ended:?}: {answer:?}, {at:?}")
    }
}
