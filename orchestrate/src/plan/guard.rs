//! How full a pool is, and what follows from it: it is told, the pool grows, new work of images is refused, and such work
//! that runs waits. Activations come first: none of this keeps anybody from using, taking down or removing one.
//!
//! What is begun may use the room in which nothing new is begun any more, so the mark to refuse at is not above the one to
//! pause at.

use std::time::Duration;

/// How full one of the two parts of a pool is; both numbers have the same unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fill {
    /// What is in use.
    pub used: u64,
    /// All there is.
    pub total: u64,
}

impl Fill {
    /// Percent in use, rounded down. What has no room at all is full.
    #[must_use]
    pub fn percent(self) -> u64 {
        let part = (u128::from(self.used) * 100).checked_div(u128::from(self.total));
        u64::try_from(part.unwrap_or(100)).unwrap_or(u64::MAX)
    }

    /// Whether so many percent are in use.
    fn reaches(self, percent: u64) -> bool {
        self.total == 0
            || u128::from(self.used) * 100 >= u128::from(self.total) * u128::from(percent)
    }
}

/// What a pool that is so full asks for; each includes those before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Nothing.
    #[default]
    Well,
    /// Somebody is told.
    Warn,
    /// It grows, where it may.
    Grow,
    /// No new work of images is begun.
    Refuse,
    /// What unpacks waits.
    Pause,
}

impl Level {
    /// The word for it, as settings and metrics have it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Level::Well => "well",
            Level::Warn => "warn",
            Level::Grow => "grow",
            Level::Refuse => "refuse",
            Level::Pause => "pause",
        }
    }

    /// 0 to 4, the worst last.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Level::Well => 0,
            Level::Warn => 1,
            Level::Grow => 2,
            Level::Refuse => 3,
            Level::Pause => 4,
        }
    }
}

/// The marks of one part, percent in use; a pool that has reached one is at that level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marks {
    /// Of [`Level::Warn`].
    pub warn: u64,
    /// Of [`Level::Grow`].
    pub grow: u64,
    /// Of [`Level::Refuse`].
    pub refuse: u64,
    /// Of [`Level::Pause`].
    pub pause: u64,
}

impl Marks {
    /// The level of a part that is so full.
    #[must_use]
    pub fn level(&self, fill: Fill) -> Level {
        let levels = [Level::Pause, Level::Refuse, Level::Grow, Level::Warn];
        let reached = |level: &Level| self.of(*level).is_some_and(|mark| fill.reaches(mark));
        levels.into_iter().find(reached).unwrap_or(Level::Well)
    }

    /// The level to tell, where `last` was told before: one that sinks has to be a hundredth below its mark, so that who
    /// writes and removes at a mark is not told of each time.
    #[must_use]
    pub fn level_after(&self, last: Level, fill: Fill) -> Level {
        let more = fill.used.saturating_add(fill.total / 100);
        self.level(fill).max(last.min(self.level(Fill { used: more, ..fill })))
    }

    /// The mark of a level; none of [`Level::Well`].
    #[must_use]
    pub fn of(&self, level: Level) -> Option<u64> {
        match level {
            Level::Well => None,
            Level::Warn => Some(self.warn),
            Level::Grow => Some(self.grow),
            Level::Refuse => Some(self.refuse),
            Level::Pause => Some(self.pause),
        }
    }

    /// The first two neighbours that are the wrong way round.
    #[must_use]
    pub fn disorder(&self) -> Option<[(Level, u64); 2]> {
        let all = [
            (Level::Warn, self.warn),
            (Level::Grow, self.grow),
            (Level::Refuse, self.refuse),
            (Level::Pause, self.pause),
        ];
        all.windows(2).find(|pair| pair[0].1 > pair[1].1).map(|pair| [pair[0], pair[1]])
    }
}

/// Data or metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The blocks of the volumes.
    Data,
    /// The maps.
    Metadata,
}

impl Part {
    /// The word for it, as settings and metrics have it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Part::Data => "data",
            Part::Metadata => "metadata",
        }
    }
}

/// How full a pool is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fills {
    /// Its data, bytes.
    pub data: Fill,
    /// Its metadata, bytes.
    pub metadata: Fill,
}

/// At which marks what is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Of the data.
    pub data: Marks,
    /// Of the metadata.
    pub metadata: Marks,
    /// How long what unpacks waits at most for room to come back.
    pub pause_time: Duration,
}

/// One part of a pool at a level, with all that a message needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reached {
    /// Which part.
    pub part: Part,
    /// Its level.
    pub level: Level,
    /// How full it is.
    pub fill: Fill,
    /// The mark that it has reached, percent; none of [`Level::Well`].
    pub mark: Option<u64>,
}

impl Thresholds {
    /// The levels of both parts, the worse one first; of two alike, the data.
    #[must_use]
    pub fn judge(&self, fills: &Fills) -> [Reached; 2] {
        let data = reached(Part::Data, &self.data, fills.data, Level::Well);
        let metadata = reached(Part::Metadata, &self.metadata, fills.metadata, Level::Well);
        if metadata.level > data.level { [metadata, data] } else { [data, metadata] }
    }

    /// The level of one part to tell, where `last` was told before.
    #[must_use]
    pub fn judge_after(&self, part: Part, last: Level, fills: &Fills) -> Reached {
        match part {
            Part::Data => reached(part, &self.data, fills.data, last),
            Part::Metadata => reached(part, &self.metadata, fills.metadata, last),
        }
    }
}

fn reached(part: Part, marks: &Marks, fill: Fill, last: Level) -> Reached {
    let level = marks.level_after(last, fill);
    Reached { part, level, fill, mark: marks.of(level) }
}

impl std::fmt::Display for Reached {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (part, Fill { used, total }) = (self.part.word(), self.fill);
        write!(f, "the pool's {part} is {}% full ({used} of {total} bytes)", self.fill.percent())?;
        match self.mark {
            Some(mark) => write!(f, ", and pool.{}_{part} is {mark}", self.level.word()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARKS: Marks = Marks { warn: 80, grow: 85, refuse: 95, pause: 97 };

    fn fill(used: u64) -> Fill {
        Fill { used, total: 1000 }
    }

    #[test]
    fn each_mark_is_where_its_level_begins() {
        for (used, level) in [
            (0, Level::Well),
            (799, Level::Well),
            (800, Level::Warn),
            (849, Level::Warn),
            (850, Level::Grow),
            (949, Level::Grow),
            (950, Level::Refuse),
            (969, Level::Refuse),
            (970, Level::Pause),
            (1000, Level::Pause),
            (u64::MAX, Level::Pause),
        ] {
            assert_eq!(MARKS.level(fill(used)), level, "{used}");
        }
        // Marks alike are one step, and the last of them counts.
        let one = Marks { warn: 90, grow: 90, refuse: 90, pause: 90 };
        assert_eq!((one.level(fill(899)), one.level(fill(900))), (Level::Well, Level::Pause));
        // At 100 only what is full to the last block; no room at all is full.
        let last = Marks { pause: 100, ..MARKS };
        assert_eq!((last.level(fill(999)), last.level(fill(1000))), (Level::Refuse, Level::Pause));
        assert_eq!(MARKS.level(Fill::default()), Level::Pause);
        let huge = Fill { used: u64::MAX / 100 * 96, total: u64::MAX };
        assert_eq!(MARKS.level(huge), Level::Refuse, "nothing overflows");
    }

    #[test]
    fn a_level_sinks_only_a_hundredth_below_its_mark() {
        for (last, used, told) in [
            (Level::Well, 800, Level::Warn),
            (Level::Warn, 799, Level::Warn),
            (Level::Warn, 790, Level::Warn),
            (Level::Warn, 789, Level::Well),
            (Level::Pause, 965, Level::Pause),
            (Level::Pause, 959, Level::Refuse),
            (Level::Pause, 10, Level::Well),
            // It rises at once.
            (Level::Warn, 970, Level::Pause),
        ] {
            assert_eq!(MARKS.level_after(last, fill(used)), told, "{last:?} at {used}");
        }
    }

    #[test]
    fn the_worse_part_is_told_first_with_its_figures() {
        let metadata = Marks { warn: 70, grow: 75, refuse: 90, pause: 93 };
        let all = Thresholds { data: MARKS, metadata, pause_time: Duration::ZERO };
        let judged = |data, metadata| {
            all.judge(&Fills { data: fill(data), metadata: fill(metadata) })
                .map(|reached| (reached.part, reached.level))
        };
        let (data, metadata) = (Part::Data, Part::Metadata);
        for (used, first, second) in [
            ((0, 0), (data, Level::Well), (metadata, Level::Well)),
            ((960, 0), (data, Level::Refuse), (metadata, Level::Well)),
            ((0, 930), (metadata, Level::Pause), (data, Level::Well)),
            ((950, 900), (data, Level::Refuse), (metadata, Level::Refuse)),
        ] {
            assert_eq!(judged(used.0, used.1), [first, second], "{used:?}");
        }
        let said = all.judge(&Fills { data: fill(951), metadata: fill(0) }).map(|r| r.to_string());
        assert_eq!(
            said,
            [
                "the pool's data is 95% full (951 of 1000 bytes), and pool.refuse_data is 95",
                "the pool's metadata is 0% full (0 of 1000 bytes)"
            ]
        );
    }

    #[test]
    fn marks_the_wrong_way_round_are_named() {
        assert_eq!(MARKS.disorder(), None);
        let alike = Marks { warn: 9, grow: 9, refuse: 9, pause: 9 };
        assert_eq!(alike.disorder(), None);
        let wrong = |marks: Marks| marks.disorder().map(|pair| pair.map(|(level, _)| level));
        let (warn, grow, refuse) = (Level::Warn, Level::Grow, Level::Refuse);
        assert_eq!(wrong(Marks { warn: 86, ..MARKS }), Some([warn, grow]));
        assert_eq!(wrong(Marks { grow: 96, ..MARKS }), Some([grow, refuse]));
        assert_eq!(wrong(Marks { refuse: 98, ..MARKS }), Some([refuse, Level::Pause]));
    }
}
