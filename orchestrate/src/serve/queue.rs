//! Whose turn it is. Pure: what waits, what is at work, and when each image last had a turn.

use std::collections::HashMap;

use registry::{Run, Verb};
use serde_json::Value;

/// Which hands a run needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Hands {
    /// Network and unpack.
    Image,
    /// Devices and rows.
    Device,
}

impl Hands {
    pub(super) const ALL: [Hands; 2] = [Hands::Image, Hands::Device];

    pub(super) fn of(verb: Verb) -> Hands {
        match verb {
            Verb::Ensure | Verb::Activate => Hands::Image,
            Verb::Deactivate | Verb::Rm | Verb::Gc => Hands::Device,
        }
    }
}

/// A run that waits or is at work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) id: u64,
    pub(super) hands: Hands,
    /// What shares turns: the image, or where there is none the subject.
    pub(super) share: String,
    pub(super) priority: i32,
}

impl Item {
    pub(super) fn of(run: &Run) -> Item {
        let input: Value = serde_json::from_str(&run.input).unwrap_or_default();
        let share = input["image"].as_str().unwrap_or(&run.subject).to_owned();
        Item { id: run.id, hands: Hands::of(run.verb), share, priority: run.priority }
    }
}

/// The one of `waiting` that is next for these hands: the highest priority; then the image that fewest
/// are at work on, so that hands do not wait for each other's layer while another image waits; then
/// the image whose last turn is longest ago; then the oldest.
pub(super) fn next(
    waiting: &[Item],
    working: &[Item],
    turns: &HashMap<String, u64>,
    hands: Hands,
) -> Option<usize> {
    let key = |item: &Item| {
        let working = working.iter().filter(|other| other.share == item.share).count();
        let turn = turns.get(&item.share).copied().unwrap_or(0);
        (-item.priority, working, turn, item.id)
    };
    let fit = waiting.iter().enumerate().filter(|(_, item)| item.hands == hands);
    fit.min_by_key(|(_, item)| key(item)).map(|(at, _)| at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(id: u64, share: &str, priority: i32) -> Item {
        Item { id, hands: Hands::Image, share: share.into(), priority }
    }

    /// Takes all in turn with `hands` at work at once, the first to begin being the first to end.
    fn order(mut waiting: Vec<Item>, hands: usize) -> Vec<u64> {
        let (mut working, mut turns, mut order) = (Vec::new(), HashMap::new(), Vec::new());
        while let Some(at) = next(&waiting, &working, &turns, Hands::Image) {
            let item = waiting.remove(at);
            order.push(item.id);
            turns.insert(item.share.clone(), order.len() as u64);
            working.push(item);
            if working.len() == hands {
                working.remove(0);
            }
        }
        order
    }

    #[test]
    fn a_crowd_for_one_image_does_not_keep_another_waiting() {
        let mut waiting: Vec<Item> = (1..=5).map(|id| item(id, "a", 0)).collect();
        waiting.extend([item(6, "b", 0), item(7, "b", 0), item(8, "c", 0)]);
        for hands in [1, 2, 3] {
            assert_eq!(order(waiting.clone(), hands), [1, 6, 8, 2, 7, 3, 4, 5], "{hands} hands");
        }
    }

    #[test]
    fn a_priority_goes_before_all_fairness() {
        let waiting = vec![item(1, "a", 0), item(2, "b", -5), item(3, "a", 9), item(4, "a", 9)];
        assert_eq!(order(waiting, 1), [3, 4, 1, 2]);
    }

    #[test]
    fn each_kind_of_hands_has_its_own_line() {
        let gc = Item { id: 1, hands: Hands::Device, share: "store".into(), priority: 0 };
        let waiting = [gc, item(2, "a", 0)];
        let of = |hands| next(&waiting, &[], &HashMap::new(), hands);
        assert_eq!((of(Hands::Device), of(Hands::Image)), (Some(0), Some(1)));
    }
}
