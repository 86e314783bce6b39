//! The work that one layer may cause, counted above the code that does it: whatever writes the tree
//! asks here first, so that another kind of writer is held to the same.
//!
//! Entries and bytes are paid for by who sends them. Work is not: one entry of 512 bytes can lead
//! through forty symbolic links of two thousand components each, and one whiteout hides a tree. So
//! each step of a walk and each node of a removal is counted, and the clock is looked at on the way.
//! Pure, but for the clocks.

use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

use crate::archive::buffers::too_long;
use crate::error::refusal::{Class, Refusal};
use crate::error::stop::Stop;
use crate::limits::Limits;

/// Steps that may be walked before the average counts, so that a layer of few entries is not held to
/// an average of few: two thousand directories that have no entry, or three of the deepest paths.
const WALK_FREE: u64 = 32_768;

/// Levels that make whatever is done there cost once more: each wall of the kernel that looks at a
/// path goes up all of it.
const DEEP: u64 = 64;

/// Steps of a directory that is made for a missing parent: it takes some thirty microseconds, and a
/// step one or two.
const MADE: u64 = 16;

/// Steps of an attribute that is set or removed.
const ATTRIBUTE: u64 = 3;

/// Steps of an entry for every `DEEP` levels above it; none for one that is less deep.
const ENTRY_DEEP: u64 = 8;

/// Steps between two looks at the processor's clock, which is a system call.
const STEPS: u64 = 1024;

/// What has been done, and what may be.
#[derive(Debug)]
pub(crate) struct Budget {
    entries: u64,
    entries_max: u64,
    /// Directories made for missing parents.
    made: u64,
    walked: u64,
    walk_max: u64,
    removed: u64,
    removals_max: u64,
    /// Nodes that were removed or looked at.
    nodes: u64,
    steps: u64,
    deadline: Option<Instant>,
    time_max: Duration,
    /// What this process may use of the processor, where it does nothing else.
    processor_max: Option<Duration>,
    stop: Stop,
}

impl Budget {
    /// For one layer that has to be done by `deadline`; `alone` in a process of its own.
    pub(crate) fn new(limits: &Limits, deadline: Instant, alone: bool) -> Budget {
        Budget {
            entries: 0,
            entries_max: limits.entries_max,
            made: 0,
            walked: 0,
            walk_max: limits.walk_max,
            removed: 0,
            removals_max: limits.removals_max,
            nodes: 0,
            steps: 0,
            deadline: Some(deadline),
            time_max: limits.time_max,
            processor_max: alone.then_some(limits.processor_max),
            stop: Stop::default(),
        }
    }

    /// For work that no layer asked for.
    pub(crate) fn unlimited() -> Budget {
        Budget {
            entries: 0,
            entries_max: u64::MAX,
            made: 0,
            walked: 0,
            walk_max: u64::MAX,
            removed: 0,
            removals_max: u64::MAX,
            nodes: 0,
            steps: 0,
            deadline: None,
            time_max: Duration::MAX,
            processor_max: None,
            stop: Stop::default(),
        }
    }

    /// As [`Budget::unlimited`], until somebody asks to stop.
    pub(crate) fn until(stop: &Stop) -> Budget {
        Budget { stop: stop.clone(), ..Budget::unlimited() }
    }

    /// How many nodes were removed or looked at, whatever their depth.
    pub(crate) fn nodes(&self) -> u64 {
        self.nodes
    }

    /// Steps that were walked.
    pub(crate) fn walked(&self) -> u64 {
        self.walked
    }

    /// Nodes that were removed or looked at, each as often as it was deep.
    pub(crate) fn removed(&self) -> u64 {
        self.removed
    }

    /// Another entry takes effect, so many levels below the root.
    pub(crate) fn entry(&mut self, depth: u64) -> Result<(), Refusal> {
        self.entries += 1;
        match depth / DEEP {
            0 => self.step(),
            deep => self.walk(deep * ENTRY_DEEP),
        }
    }

    /// One component is walked, so many levels below the root.
    pub(crate) fn walk_one(&mut self, depth: u64) -> Result<(), Refusal> {
        self.walk(1 + depth / DEEP)
    }

    /// A directory is made for a missing parent, so many levels below the root. It is a node like any
    /// other, so it counts as an entry where those are counted, and no entry has paid for it.
    pub(crate) fn make(&mut self, depth: u64) -> Result<(), Refusal> {
        self.made += 1;
        let nodes = self.made.saturating_add(self.entries);
        if nodes > self.entries_max {
            let rule = "too many entries, with the directories made for missing parents";
            return Err(Refusal::limit("--entries-max", rule, nodes, self.entries_max));
        }
        self.walk(MADE * (1 + depth / DEEP))
    }

    /// So many attributes are set or removed.
    pub(crate) fn attributes(&mut self, count: usize) -> Result<(), Refusal> {
        match count as u64 {
            0 => Ok(()),
            count => self.walk(ATTRIBUTE * count),
        }
    }

    /// That many steps are walked.
    pub(crate) fn walk(&mut self, steps: u64) -> Result<(), Refusal> {
        self.walked = self.walked.saturating_add(steps);
        let fair = self.walk_max.saturating_mul(self.entries.max(1)).saturating_add(WALK_FREE);
        if self.walked > fair {
            let rule = "too many steps for an entry, on average";
            let average = self.walked / self.entries.max(1);
            return Err(Refusal::limit("--walk-max", rule, average, self.walk_max));
        }
        self.step()
    }

    /// A node is looked at or removed, `depth` levels below where the removal began (1 is there).
    pub(crate) fn remove(&mut self, depth: u64) -> Result<(), Refusal> {
        self.nodes += 1;
        self.removed = self.removed.saturating_add(depth);
        if self.removed > self.removals_max {
            let rule = "too much to remove";
            return Err(Refusal::limit("--removals-max", rule, self.removed, self.removals_max));
        }
        self.step()
    }

    /// Looks at the clocks.
    pub(crate) fn step(&mut self) -> Result<(), Refusal> {
        if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Err(too_long(self.time_max));
        }
        if self.stop.is_set() {
            // Told as what it is by who has the same flag.
            return Err(Refusal::new(Class::Limit, "somebody asked to stop"));
        }
        self.steps += 1;
        match self.processor_max {
            Some(max) if self.steps.is_multiple_of(STEPS) => processor(max),
            Some(_) | None => Ok(()),
        }
    }
}

/// Refuses once this process has used the processor for `max`, with all its threads.
fn processor(max: Duration) -> Result<(), Refusal> {
    let Ok(used) = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID) else { return Ok(()) };
    let used = Duration::from(used);
    if used > max {
        let rule = "layer takes too much of the processor, in seconds";
        return Err(Refusal::limit("--processor-max", rule, used.as_secs(), max.as_secs()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(limits: &Limits) -> Budget {
        Budget::new(limits, Instant::now() + Duration::from_secs(3600), true)
    }

    fn flag(refusal: Refusal) -> String {
        refusal.limit.expect("a limit").0.into_owned()
    }

    #[test]
    fn a_walk_is_held_to_an_average() {
        let mut budget = budget(&Limits { walk_max: 10, ..Limits::default() });
        budget.entry(1).unwrap();
        budget.walk(WALK_FREE + 10).unwrap();
        budget.entry(1).unwrap();
        budget.walk(10).unwrap();
        assert_eq!(flag(budget.walk(1).unwrap_err()), "--walk-max");
        assert_eq!(flag(budget.walk(u64::MAX).unwrap_err()), "--walk-max");
    }

    /// What is deep costs more, and a directory that no entry has paid for most.
    #[test]
    fn steps_are_as_many_as_they_cost() {
        let mut budget = budget(&Limits { entries_max: 3, ..Limits::default() });
        budget.entry(DEEP - 1).unwrap();
        budget.walk_one(DEEP - 1).unwrap();
        assert_eq!(budget.walked(), 1);
        budget.walk_one(3 * DEEP).unwrap();
        assert_eq!(budget.walked(), 5);
        budget.entry(2 * DEEP).unwrap();
        assert_eq!(budget.walked(), 5 + 2 * ENTRY_DEEP);
        budget.make(DEEP).unwrap();
        assert_eq!(budget.walked(), 5 + 2 * ENTRY_DEEP + 2 * MADE);
        budget.attributes(2).unwrap();
        assert_eq!(budget.walked(), 5 + 2 * ENTRY_DEEP + 2 * MADE + 2 * ATTRIBUTE);
        assert_eq!(flag(budget.make(1).unwrap_err()), "--entries-max");
    }

    #[test]
    fn a_removal_counts_each_node_as_often_as_it_is_deep() {
        let mut budget = budget(&Limits { removals_max: 10, ..Limits::default() });
        budget.remove(4).unwrap();
        budget.remove(6).unwrap();
        assert_eq!(flag(budget.remove(1).unwrap_err()), "--removals-max");
    }

    #[test]
    fn the_clock_is_looked_at_with_every_step() {
        let mut late = Budget::new(&Limits::default(), Instant::now(), false);
        assert_eq!(flag(late.entry(1).unwrap_err()), "--time-max");
        assert_eq!(flag(late.walk(1).unwrap_err()), "--time-max");
        assert_eq!(flag(late.remove(1).unwrap_err()), "--time-max");
        assert_eq!(flag(late.step().unwrap_err()), "--time-max");
    }

    #[test]
    fn the_processor_counts_where_the_layer_is_alone() {
        let limits = Limits { processor_max: Duration::ZERO, ..Limits::default() };
        let mut alone = budget(&limits);
        let refused = (0..=STEPS).find_map(|_| alone.step().err());
        assert_eq!(flag(refused.expect("refused")), "--processor-max");
        let later = Instant::now() + Duration::from_secs(3600);
        let mut beside = Budget::new(&limits, later, false);
        assert!((0..=STEPS).all(|_| beside.step().is_ok()));
    }

    #[test]
    fn nothing_holds_what_is_unlimited() {
        let mut budget = Budget::unlimited();
        budget.walk(u64::MAX).unwrap();
        budget.remove(u64::MAX).unwrap();
        assert_eq!(budget.nodes(), 1);
    }
}
