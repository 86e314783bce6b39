//! Whose turn it is. Pure: what waits, what is at work, and when each image last had a turn.

use std::collections::HashMap;

use registry::{Run, RunId, Verb};
use serde_json::Value;

use crate::host::order;

/// Which workers a run needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Workers {
    /// Network and unpack.
    Image,
    /// An activation of an image that is here: a listing, devices and rows. What turns out to need more
    /// goes over to `Image`.
    Known,
    /// Devices and rows.
    Device,
    /// Room: nobody needs that a collection has ended.
    Collect,
}

impl Workers {
    pub(super) const ALL: [Workers; 4] =
        [Workers::Image, Workers::Known, Workers::Device, Workers::Collect];

    pub(super) fn of(verb: Verb) -> Workers {
        match verb {
            Verb::Ensure | Verb::Activate => Workers::Image,
            Verb::Deactivate | Verb::Rm => Workers::Device,
            Verb::Gc => Workers::Collect,
        }
    }
}

/// A run that waits or is at work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) id: RunId,
    pub(super) workers: Workers,
    /// What shares turns: the image, or where there is none the subject.
    pub(super) share: String,
    /// The activation that it acts on: acts on one keep their order, whatever workers they need.
    pub(super) name: Option<String>,
    /// The image that it makes or brings or takes away: what does the one keeps its order with what does
    /// the other.
    pub(super) image: Option<String>,
    /// Whether it takes something away.
    pub(super) takes_away: bool,
    pub(super) priority: i32,
}

impl Item {
    pub(super) fn of(run: &Run) -> Item {
        let input: Value = serde_json::from_str(&run.input).unwrap_or_default();
        let share = input["image"].as_str().unwrap_or(&run.subject).to_owned();
        let of_image = order::is_image(&run.subject);
        let name = match run.verb {
            Verb::Activate | Verb::Deactivate | Verb::Rm if !of_image => Some(run.subject.clone()),
            Verb::Activate | Verb::Deactivate | Verb::Rm | Verb::Ensure | Verb::Gc => None,
        };
        let (image, takes_away) = match run.verb {
            Verb::Rm if of_image => (Some(run.subject.clone()), true),
            Verb::Rm | Verb::Deactivate => (None, true),
            Verb::Ensure | Verb::Activate | Verb::Gc => (order::image_of(run), false),
        };
        let (id, workers, priority) = (run.id, Workers::of(run.verb), run.priority);
        Item { id, workers, share, name, image, takes_away, priority }
    }

    pub(super) fn is_after(&self, other: &Item) -> bool {
        let same_name = self.name.is_some() && self.name == other.name;
        let same_image = self.image.is_some() && self.image == other.image;
        let taken = self.takes_away || other.takes_away;
        (same_name || same_image && taken) && self.id > other.id
    }
}

/// The one of `waiting` that is next for these workers, of those whose name no earlier act is about, here or, of
/// what is taken away, in another process: the
/// highest priority; then the image that fewest
/// are at work on, so that workers do not wait for each other's layer while another image waits; then
/// the image whose last turn is longest ago; then the oldest.
pub(super) fn next(
    waiting: &[Item],
    (working, elsewhere): (&[Item], &[Item]),
    turns: &HashMap<String, u64>,
    workers: Workers,
) -> Option<usize> {
    let key = |item: &Item| {
        let working = working.iter().filter(|other| other.share == item.share).count();
        let turn = turns.get(&item.share).copied().unwrap_or(0);
        (-item.priority, working, turn, item.id)
    };
    let all = || waiting.iter().chain(working);
    // What brings something up looks by itself after what other processes take away.
    let away = |item: &Item| item.takes_away && elsewhere.iter().any(|other| item.is_after(other));
    let turn_has_come = |item: &Item| !all().any(|other| item.is_after(other)) && !away(item);
    let fit = waiting.iter().enumerate();
    let fit = fit.filter(|(_, item)| item.workers == workers && turn_has_come(item));
    fit.min_by_key(|(_, item)| key(item)).map(|(at, _)| at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(id: u64, share: &str, priority: i32) -> Item {
        let share = share.into();
        let workers = Workers::Image;
        let id = RunId::new(id);
        Item { id, workers, share, name: None, image: None, takes_away: false, priority }
    }

    /// Takes all in turn with `workers` at work at once, the first to begin being the first to end.
    fn order(mut waiting: Vec<Item>, workers: usize) -> Vec<u64> {
        let (mut working, mut turns, mut order) = (Vec::new(), HashMap::new(), Vec::new());
        while let Some(at) = next(&waiting, (&working, &[]), &turns, Workers::Image) {
            let item = waiting.remove(at);
            order.push(item.id.get());
            turns.insert(item.share.clone(), order.len() as u64);
            working.push(item);
            if working.len() == workers {
                working.remove(0);
            }
        }
        order
    }

    #[test]
    fn a_crowd_for_one_image_does_not_keep_another_waiting() {
        let mut waiting: Vec<Item> = (1..=5).map(|id| item(id, "a", 0)).collect();
        waiting.extend([item(6, "b", 0), item(7, "b", 0), item(8, "c", 0)]);
        for workers in [1, 2, 3] {
            assert_eq!(
                order(waiting.clone(), workers),
                [1, 6, 8, 2, 7, 3, 4, 5],
                "{workers} workers"
            );
        }
    }

    #[test]
    fn a_priority_goes_before_all_fairness() {
        let waiting = vec![item(1, "a", 0), item(2, "b", -5), item(3, "a", 9), item(4, "a", 9)];
        assert_eq!(order(waiting, 1), [3, 4, 1, 2]);
    }

    #[test]
    fn each_kind_of_hands_has_its_own_line() {
        let gc = Item { workers: Workers::Collect, ..item(1, "store", 0) };
        let waiting = [gc, item(2, "a", 0)];
        let of = |workers| next(&waiting, (&[], &[]), &HashMap::new(), workers);
        assert_eq!(Workers::ALL.map(of), [Some(1), None, None, Some(0)]);
    }

    #[test]
    fn acts_on_one_name_keep_their_order_whatever_hands_and_priority_they_have() {
        let on = |id, workers, priority| Item {
            workers,
            name: Some("x".into()),
            ..item(id, "a", priority)
        };
        let waiting = [on(2, Workers::Device, 9), on(3, Workers::Image, 99), item(4, "b", 0)];
        let of =
            |working: &[Item], workers| next(&waiting, (working, &[]), &HashMap::new(), workers);
        assert_eq!((of(&[], Workers::Device), of(&[], Workers::Image)), (Some(0), Some(2)));
        let working = [on(1, Workers::Image, 0)];
        assert_eq!((of(&working, Workers::Device), of(&working, Workers::Image)), (None, Some(2)));
    }

    #[test]
    fn an_image_is_made_and_taken_away_in_the_order_in_which_that_was_asked() {
        let of = |id, takes_away| Item { image: Some("a".into()), takes_away, ..item(id, "a", 0) };
        let next = |waiting: &[Item], working: &[Item]| {
            let found = next(waiting, (working, &[]), &HashMap::new(), Workers::Image);
            found.map(|at| waiting[at].id.get())
        };
        assert_eq!(next(&[of(2, true), of(3, false)], &[of(1, false)]), None);
        assert_eq!(next(&[of(2, true), of(3, false)], &[]), Some(2));
        // Those that make it are in nobody's way.
        assert_eq!(next(&[of(2, false)], &[of(1, false)]), Some(2));
        let other = [Item { image: Some("b".into()), takes_away: true, ..item(2, "b", 0) }];
        assert_eq!(next(&other, &[of(1, false)]), Some(2));
        // Another process is waited for by what takes away, and by nothing else.
        for (takes_away, wanted) in [(true, None), (false, Some(0))] {
            let (waiting, elsewhere) = ([of(3, takes_away)], [of(1, false), of(2, !takes_away)]);
            let found = super::next(&waiting, (&[], &elsewhere), &HashMap::new(), Workers::Image);
            assert_eq!(found, wanted);
        }
    }
}
