//! Whether what was answered about one name can have happened in one order, act after act, that agrees with
//! the order in which they were asked and answered, and ends in what is there.

use std::collections::HashSet;

use super::acts::{Act, Answer, PLAIN};
use super::view::Name;

/// One act on the name.
#[derive(Clone, Debug)]
pub(crate) struct Op {
    pub(crate) act: Act,
    pub(crate) answer: Answer,
    /// The step at which it was asked.
    pub(crate) began: u64,
    /// The step from which on it stands in the daemon's queue.
    pub(crate) accepted: Option<u64>,
    /// The step at which it was answered; none: never.
    pub(crate) ended: Option<u64>,
}

impl Op {
    /// Whether the other can only have come after this: it was asked for when this had been answered, or
    /// stood in the queue. (That there is no such name, or that it is another's, may be true until then.) A
    /// command that takes the name away does not wait for the queue; one that brings it up does.
    fn is_before(&self, other: &Op) -> bool {
        let waits = other.accepted.is_some() || matches!(other.act, Act::Activate { .. });
        let queued = self.accepted.filter(|_| waits && matches!(other.answer, Answer::Done(_)));
        let known = [queued, self.ended].into_iter().flatten().min();
        known.is_some_and(|known| known < other.began)
    }

    fn overlaps(&self, other: &Op) -> bool {
        let ends_before = |one: &Op, two: &Op| one.ended.is_some_and(|ended| ended < two.began);
        !ends_before(self, other) && !ends_before(other, self)
    }
}

/// Whether such an order exists.
pub(crate) fn is_linear(first: &Name, ops: &[Op], last: &Name) -> bool {
    let mut seen = HashSet::new();
    let mut open = vec![(0_u32, first.clone())];
    while let Some((done, name)) = open.pop() {
        if !seen.insert((done, name.clone())) {
            continue;
        }
        if done.count_ones() as usize == ops.len() && name == *last {
            return true;
        }
        for (at, op) in ops.iter().enumerate() {
            let others = ops.iter().enumerate().filter(|(other, _)| *other != at);
            let blocked =
                others.clone().any(|(o, other)| done & 1 << o == 0 && other.is_before(op));
            if done & 1 << at != 0 || blocked {
                continue;
            }
            let beside: Vec<&Op> = others.map(|(_, o)| o).filter(|o| o.overlaps(op)).collect();
            for next in after(&name, op, &beside) {
                open.push((done | 1 << at, next));
            }
        }
    }
    false
}

/// What the name may stand for after it, if it was this before; nothing: it cannot have come then.
fn after(name: &Name, op: &Op, beside: &[&Op]) -> Vec<Name> {
    let whole = || effect(name, &op.act);
    let same = vec![name.clone()];
    match &op.answer {
        // Who joins a run is answered by its end, as is who asked first.
        Answer::Done(_)
            if matches!(op.act, Act::Rm(_) | Act::Deactivate(_)) && *name == Name::Absent =>
        {
            let removes = matches!(op.act, Act::Rm(_));
            let twin = |other: &&Op| {
                removes && other.act == op.act && matches!(other.answer, Answer::Done(_))
            };
            // A run that was only making it, and that nobody is at work on any more, is ended by it.
            let dead = |other: &&Op| {
                matches!(other.act, Act::Activate { .. }) && other.answer == Answer::None
            };
            match beside.iter().any(|other| twin(other) || dead(other)) {
                true => same,
                false => Vec::new(),
            }
        }
        Answer::Done(_) => whole(),
        // It may have been cancelled too late, or killed before or after its effect.
        Answer::Cancelled | Answer::None | Answer::Failed(_) => [same, whole()].concat(),
        Answer::Conflict => {
            let wants_other = |other: &&&Op| other.act != op.act;
            let refused = matches!(name, Name::There { .. }) && whole().is_empty();
            if refused || beside.iter().any(|other| wants_other(&other)) {
                same
            } else {
                Vec::new()
            }
        }
        Answer::Unknown => {
            if *name == Name::Absent {
                same
            } else {
                Vec::new()
            }
        }
        Answer::No => Vec::new(),
    }
}

fn effect(name: &Name, act: &Act) -> Vec<Name> {
    match (act, name) {
        (Act::Activate { image, bytes, .. }, Name::Absent) => {
            vec![Name::There { image: (*image).into(), bytes: bytes.unwrap_or(PLAIN), up: true }]
        }
        (Act::Activate { image, bytes, .. }, Name::There { image: has, bytes: of, .. }) => {
            let agrees = image == has && bytes.is_none_or(|bytes| bytes == *of);
            let up = Name::There { image: has.clone(), bytes: *of, up: true };
            if agrees { vec![up] } else { Vec::new() }
        }
        (Act::Deactivate(_), Name::There { image, bytes, .. }) => {
            vec![Name::There { image: image.clone(), bytes: *bytes, up: false }]
        }
        (Act::Rm(_), Name::There { .. }) => vec![Name::Absent],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::interleave::acts::{A, B};

    fn op(act: Act, [began, accepted, ended]: [u64; 3], answer: Answer) -> Op {
        Op { act, answer, began, accepted: (accepted > 0).then_some(accepted), ended: Some(ended) }
    }

    fn up(image: &'static str) -> Act {
        Act::Activate { name: "x", image, bytes: None }
    }

    fn there(image: &str, up: bool) -> Name {
        Name::There { image: image.into(), bytes: PLAIN, up }
    }

    #[test]
    fn one_name_is_not_of_two_images_and_the_later_wish_stands() {
        let done = || Answer::Done(Value::Null);
        let [one, two] = [op(up(A), [1, 0, 9], done()), op(up(B), [2, 0, 8], done())];
        assert!(!is_linear(&Name::Absent, &[one.clone(), two], &there(A, true)));
        let two = op(up(B), [2, 0, 8], Answer::Conflict);
        assert!(is_linear(&Name::Absent, &[one, two], &there(A, true)));
        // A killed run that was making it is ended by who takes it away, and nothing of it is there.
        let killed = op(up(A), [1, 0, 9], Answer::None);
        let down = op(Act::Deactivate("x"), [2, 0, 8], done());
        assert!(is_linear(&Name::Absent, &[killed, down.clone()], &Name::Absent));
        assert!(!is_linear(&Name::Absent, &[down], &Name::Absent));
        // It was in the queue before the other was asked for, so it comes first.
        let down = op(Act::Deactivate("x"), [1, 2, 9], done());
        let again = op(up(A), [3, 0, 4], done());
        let both = [down, again];
        assert!(is_linear(&there(A, true), &both, &there(A, true)));
        assert!(!is_linear(&there(A, true), &both, &there(A, false)));
    }
}
