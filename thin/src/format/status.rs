//! What the `thin-pool` and `thin` targets say of themselves, as types: pure, total parsers of
//! one status line each. An unknown word is a typed error and never a guess.
//!
//! Source of the forms: `pool_status` and `thin_status` in the kernel's `drivers/md/dm-thin.c`.

use serde::Serialize;

use crate::format::garbled::Garbled;
use crate::format::kind::Kind;
use crate::format::units::{DataBlocks, Sectors};

/// A pool's status line.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum PoolStatus {
    /// It answers, in some mode.
    Working(Working),
    /// The kernel could not even read the figures.
    Error,
    /// The pool has failed: every request gets an error.
    Fail,
}

/// The figures of a pool that answers. Metadata blocks are 4 KiB.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Working {
    /// The caller's fence; see `Pool::set_transaction_id`.
    pub transaction_id: u64,
    /// Metadata blocks in use, the kernel's own reserve among them.
    pub used_metadata: u64,
    /// Metadata blocks in all.
    pub total_metadata: u64,
    /// Data blocks mapped at least once.
    pub used_data: DataBlocks,
    /// Data blocks in all.
    pub total_data: DataBlocks,
    /// The block of a held metadata snapshot.
    pub held_root: Option<u64>,
    /// What the pool takes now.
    pub mode: Mode,
    /// What becomes of discards.
    pub discard: Discard,
    /// What becomes of a write that finds no free block.
    pub when_full: WhenFull,
    /// Set when a metadata change failed: the pool stays read-only until it was checked.
    pub needs_check: bool,
    /// Free metadata blocks at which the kernel raises an event.
    pub metadata_low_water: Option<u64>,
}

/// The pool's mode.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Takes everything.
    ReadWrite,
    /// Takes no change: metadata full, or a failed commit.
    ReadOnly,
    /// No free data block: deletes and other messages still work.
    OutOfDataSpace,
}

/// The pool's way with discards.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Discard {
    /// Dropped.
    Ignore,
    /// Unmaps, and goes on to the data device.
    Passdown,
    /// Unmaps only.
    NoPassdown,
}

/// The pool's way with a write it has no block for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenFull {
    /// ENOSPC at once.
    Error,
    /// The writer waits in the kernel, for 60 s by default.
    Queue,
}

fn garbled(what: &'static str, text: &str) -> Garbled {
    Garbled::Text { what, text: text.to_owned() }
}

fn pair(text: &str) -> Option<(u64, u64)> {
    let (used, total) = text.split_once('/')?;
    Some((used.parse().ok()?, total.parse().ok()?))
}

impl PoolStatus {
    /// Reads the parameters of a `thin-pool` status line.
    ///
    /// # Errors
    /// [`Garbled::Text`] with the text when any word is not one the kernel writes.
    pub fn parse(params: &str) -> Result<PoolStatus, Garbled> {
        match params.trim() {
            "Fail" => Ok(PoolStatus::Fail),
            "Error" => Ok(PoolStatus::Error),
            text => Working::parse(text)
                .map(PoolStatus::Working)
                .ok_or_else(|| garbled("pool status", params)),
        }
    }

    /// The figures, if the pool answers.
    pub fn working(&self) -> Option<&Working> {
        match self {
            PoolStatus::Working(working) => Some(working),
            PoolStatus::Error | PoolStatus::Fail => None,
        }
    }

    /// The transaction id, if the pool answers.
    pub fn transaction_id(&self) -> Option<u64> {
        self.working().map(|working| working.transaction_id)
    }

    /// Whether the pool takes every change: mode `rw`, no `needs_check`.
    pub fn is_writable(&self) -> bool {
        self.working().is_some_and(|w| w.mode == Mode::ReadWrite && !w.needs_check)
    }

    /// Whether a delete that was just sent is durable: as [`PoolStatus::is_writable`], but a pool
    /// out of data space commits its metadata too.
    pub fn takes_deletes(&self) -> bool {
        self.working().is_some_and(|w| w.mode != Mode::ReadOnly && !w.needs_check)
    }

    /// Why a status that is not writable is not.
    pub(crate) fn refusal_kind(&self) -> Kind {
        match self {
            PoolStatus::Fail | PoolStatus::Error => Kind::Failed,
            PoolStatus::Working(w) if w.needs_check => Kind::NeedsCheck,
            PoolStatus::Working(w) => match w.mode {
                Mode::OutOfDataSpace => Kind::NoSpace,
                Mode::ReadOnly if w.metadata_is_full() => Kind::NoSpace,
                Mode::ReadOnly | Mode::ReadWrite => Kind::ReadOnly,
            },
        }
    }

    /// The same for a person, with the next act.
    pub(crate) fn refusal(&self) -> String {
        match self {
            PoolStatus::Fail | PoolStatus::Error => {
                "it has failed: `thin pool down`, then `thin pool repair`".to_owned()
            }
            PoolStatus::Working(w) if w.needs_check => {
                "a metadata commit failed and it needs a check: `thin pool down`, then \
                 `thin pool repair`"
                    .to_owned()
            }
            PoolStatus::Working(w) => match w.mode {
                Mode::OutOfDataSpace => format!(
                    "no data space: {} of {} blocks used: delete volumes or `thin pool grow`",
                    w.used_data, w.total_data
                ),
                Mode::ReadOnly if w.metadata_is_full() => format!(
                    "no metadata space: {} of {} blocks used: `thin pool grow --metadata`",
                    w.used_metadata, w.total_metadata
                ),
                Mode::ReadOnly => "it is read-only".to_owned(),
                Mode::ReadWrite => "it takes changes now".to_owned(),
            },
        }
    }
}

impl Working {
    fn parse(text: &str) -> Option<Working> {
        let mut words = text.split_ascii_whitespace();
        let transaction_id = words.next()?.parse().ok()?;
        let (used_metadata, total_metadata) = pair(words.next()?)?;
        let (used_data, total_data) = pair(words.next()?)?;
        let held_root = match words.next()? {
            "-" => None,
            block => Some(block.parse().ok()?),
        };
        let mode = match words.next()? {
            "rw" => Mode::ReadWrite,
            "ro" => Mode::ReadOnly,
            "out_of_data_space" => Mode::OutOfDataSpace,
            _ => return None,
        };
        let discard = match words.next()? {
            "ignore_discard" => Discard::Ignore,
            "discard_passdown" => Discard::Passdown,
            "no_discard_passdown" => Discard::NoPassdown,
            _ => return None,
        };
        let when_full = match words.next()? {
            "error_if_no_space" => WhenFull::Error,
            "queue_if_no_space" => WhenFull::Queue,
            _ => return None,
        };
        // Kernels before 4.3 stop here; those before 4.17 after needs_check.
        let needs_check = match words.next() {
            None | Some("-") => false,
            Some("needs_check") => true,
            Some(_) => return None,
        };
        let metadata_low_water = match words.next() {
            None => None,
            Some(blocks) => Some(blocks.parse().ok()?),
        };
        if words.next().is_some() {
            return None;
        }
        Some(Working {
            transaction_id,
            used_metadata,
            total_metadata,
            used_data: DataBlocks(used_data),
            total_data: DataBlocks(total_data),
            held_root,
            mode,
            discard,
            when_full,
            needs_check,
            metadata_low_water,
        })
    }

    /// Free data blocks.
    pub fn free_data(&self) -> DataBlocks {
        DataBlocks(self.total_data.0.saturating_sub(self.used_data.0))
    }

    /// Free metadata blocks, the kernel's reserve taken off already.
    pub fn free_metadata(&self) -> u64 {
        self.total_metadata.saturating_sub(self.used_metadata)
    }

    /// The kernel goes read-only a little before the last block, so a handful left is full.
    fn metadata_is_full(&self) -> bool {
        self.free_metadata() <= 4
    }
}

/// A `thin` status line.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum ThinStatus {
    /// It answers.
    Working {
        /// Sectors mapped, those shared with other thins among them.
        mapped: Sectors,
        /// The highest mapped sector.
        highest: Option<u64>,
    },
    /// Its pool has not got it open.
    Closed,
    /// The kernel could not read the figures.
    Error,
    /// Its pool has failed.
    Fail,
}

impl ThinStatus {
    /// Reads the parameters of a `thin` status line.
    ///
    /// # Errors
    /// [`Garbled::Text`] with the text.
    pub fn parse(params: &str) -> Result<ThinStatus, Garbled> {
        let words: Vec<&str> = params.split_ascii_whitespace().collect();
        match words.as_slice() {
            ["Fail"] => Ok(ThinStatus::Fail),
            ["Error"] => Ok(ThinStatus::Error),
            ["-"] => Ok(ThinStatus::Closed),
            [mapped, highest] => {
                let mapped = mapped.parse().map(Sectors).ok();
                let highest = match *highest {
                    "-" => Some(None),
                    sector => sector.parse().ok().map(Some),
                };
                match (mapped, highest) {
                    (Some(mapped), Some(highest)) => Ok(ThinStatus::Working { mapped, highest }),
                    _ => Err(garbled("thin status", params)),
                }
            }
            _ => Err(garbled("thin status", params)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fresh_pool() {
        let status =
            PoolStatus::parse("0 10/256 0/2048 - rw no_discard_passdown error_if_no_space - 64 ")
                .unwrap();
        let working = status.working().unwrap();
        assert_eq!(working.free_data(), DataBlocks(2048));
        assert_eq!(working.free_metadata(), 246);
        assert_eq!(working.metadata_low_water, Some(64));
        assert!(status.is_writable() && status.takes_deletes());
    }

    #[test]
    fn every_mode_and_its_kind() {
        let line = |mode: &str, check: &str, meta: &str| {
            PoolStatus::parse(&format!(
                "7 {meta} 32/32 123 {mode} ignore_discard queue_if_no_space {check} 1024"
            ))
            .unwrap()
        };
        let full = line("out_of_data_space", "-", "10/256");
        assert!(!full.is_writable() && full.takes_deletes());
        assert_eq!(full.refusal_kind(), Kind::NoSpace);
        let checked = line("ro", "needs_check", "10/256");
        assert!(!checked.is_writable() && !checked.takes_deletes());
        assert_eq!(checked.refusal_kind(), Kind::NeedsCheck);
        assert_eq!(line("ro", "-", "255/256").refusal_kind(), Kind::NoSpace);
        assert_eq!(line("ro", "-", "10/256").refusal_kind(), Kind::ReadOnly);
        // rw with needs_check is not to be trusted either.
        let odd = line("rw", "needs_check", "10/256");
        assert!(!odd.is_writable());
        assert_eq!(PoolStatus::parse("Fail").unwrap().refusal_kind(), Kind::Failed);
        assert_eq!(PoolStatus::parse("Error ").unwrap().refusal_kind(), Kind::Failed);
        assert_eq!(full.working().unwrap().held_root, Some(123));
    }

    #[test]
    fn older_kernels_write_fewer_words() {
        let short = "3 1/2 3/4 - rw discard_passdown queue_if_no_space";
        assert!(PoolStatus::parse(short).unwrap().is_writable());
        assert!(PoolStatus::parse(&format!("{short} -")).unwrap().is_writable());
    }

    #[test]
    fn what_the_kernel_does_not_write_is_an_error() {
        let good = "0 10/256 0/2048 - rw no_discard_passdown error_if_no_space - 64";
        let words: Vec<&str> = good.split(' ').collect();
        for at in 0..words.len() {
            for bad in ["bogus", "", "-1", "1/", "/", "99999999999999999999"] {
                let mut changed = words.clone();
                changed[at] = bad;
                let text = changed.join(" ");
                if at == words.len() - 1 && bad.is_empty() {
                    continue;
                }
                assert!(PoolStatus::parse(&text).is_err(), "{text}");
            }
        }
        assert!(PoolStatus::parse("").is_err());
        assert!(PoolStatus::parse(&format!("{good} more")).is_err());
    }

    #[test]
    fn thin_lines() {
        assert_eq!(
            ThinStatus::parse("2048 4095 ").unwrap(),
            ThinStatus::Working { mapped: Sectors(2048), highest: Some(4095) }
        );
        assert_eq!(
            ThinStatus::parse("0 -").unwrap(),
            ThinStatus::Working { mapped: Sectors(0), highest: None }
        );
        assert_eq!(ThinStatus::parse("Fail").unwrap(), ThinStatus::Fail);
        assert_eq!(ThinStatus::parse("-").unwrap(), ThinStatus::Closed);
        for bad in ["", "1", "a b", "1 2 3", "- -"] {
            assert!(ThinStatus::parse(bad).is_err(), "{bad}");
        }
    }
}
