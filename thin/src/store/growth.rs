//! Growth by itself: a pool that runs low is made larger, within a bound. Decided by the state that the
//! pool is in and not by events, of which one that nobody saw never comes again.

use std::fs;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::sys::statvfs::statvfs;
use serde::Serialize;

use crate::error::Error;
use crate::format::status::{Mode, PoolStatus, Working};
use crate::kernel::dm::Dm;
use crate::pool::Device;
use crate::store::header::Part;
use crate::store::init::metadata_bytes_for;
use crate::store::{METADATA_MAX, Store};

/// Bytes that a growth leaves free of the file system that the pool's files are on: registry and
/// header have to be written there too.
const HOST_RESERVE: u64 = 256 << 20;

/// Up to how many percent free a part of a pool runs low.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Low {
    /// Of the data.
    pub data: u64,
    /// Of the metadata.
    pub metadata: u64,
}

impl Default for Low {
    fn default() -> Low {
        Low { data: 15, metadata: 25 }
    }
}

/// How far a pool may grow by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Growth {
    /// When it does.
    pub low: Low,
    /// Bytes of data that it may come to have.
    pub data_to: u64,
    /// Bytes of data that it grows by at a time.
    pub data_by: u64,
    /// Bytes of metadata that it may come to have; `None` for what that much data needs.
    pub metadata_to: Option<u64>,
}

/// Data or metadata.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Which {
    /// The blocks of the volumes.
    Data,
    /// The maps.
    Metadata,
}

impl Which {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Which::Data => "data",
            Which::Metadata => "metadata",
        }
    }
}

/// What became of one of the two that ran low.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Grown {
    /// Which.
    pub which: Which,
    /// Bytes it had.
    pub from: u64,
    /// Bytes it has; as many as before where its bound is reached.
    pub to: u64,
}

impl Grown {
    /// It runs low, and may not or cannot become larger.
    pub fn is_at_bound(&self) -> bool {
        self.from == self.to
    }
}

/// Whether so many percent or less are free, or so little that the kernel raises an event.
fn is_low(free: u64, total: u64, low_water: u64, percent: u64) -> bool {
    free <= low_water.max(total.saturating_mul(percent) / 100)
}

/// The sizes of now and the bounds, bytes.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    block: u64,
    data: u64,
    data_bound: u64,
    metadata: u64,
    metadata_bound: u64,
}

/// What runs low, and what size it is to have. Metadata first: without it no data can be mapped.
fn decide(
    working: &Working,
    lost: u64,
    low_water: u64,
    sizes: Sizes,
    growth: &Growth,
) -> Vec<Grown> {
    let (low, by) = (growth.low, growth.data_by);
    let mut out = Vec::new();
    let (free, total) = (working.free_metadata(), working.total_metadata);
    if is_low(free, total, working.metadata_low_water.unwrap_or(0), low.metadata) {
        let to = sizes.metadata.saturating_mul(2).min(sizes.metadata_bound).min(METADATA_MAX);
        let more = to / 4096 > sizes.metadata / 4096;
        let from = sizes.metadata;
        out.push(Grown { which: Which::Metadata, from, to: if more { to } else { from } });
    }
    let free = working.free_data().0.saturating_sub(lost);
    if is_low(free, working.total_data.0, low_water, low.data) {
        let to = sizes.data.saturating_add(by.max(sizes.block)).min(sizes.data_bound);
        let more = to / sizes.block > sizes.data / sizes.block;
        let from = sizes.data;
        out.push(Grown { which: Which::Data, from, to: if more { to } else { from } });
    }
    out
}

impl Store {
    /// Makes data or metadata larger where it runs low. Of what is low and at its bound it says so, each
    /// time; nothing comes back from a pool with enough room.
    ///
    /// # Errors
    /// [`Error::PoolMissing`] when the pool is down; [`Error::NotWritable`] when it has to be mended
    /// first; ENOSPC when the file system below has no room; those of [`Store::grow`].
    pub fn keep_room(&mut self, dm: &Dm, growth: &Growth) -> Result<Vec<Grown>, Error> {
        let missing = || Error::PoolMissing { pool: self.header.name.clone() };
        let pool = self.live(dm)?.ok_or_else(missing)?;
        let status = pool.status()?;
        let Some(working) = status.working().filter(|working| may_grow(working)) else {
            let pool = pool.name().to_owned();
            return Err(Error::NotWritable { pool, status: Box::new(status) });
        };
        let block = pool.block_sectors() * 512;
        let metadata_to =
            growth.metadata_to.unwrap_or_else(|| metadata_bytes_for(growth.data_to / block));
        let sizes = Sizes {
            block,
            data: self.header.data.bytes,
            data_bound: self.bound(&self.header.data, growth.data_to)?,
            metadata: self.header.metadata.bytes,
            metadata_bound: self.bound(&self.header.metadata, metadata_to)?,
        };
        // A pool that cannot be asked for this is full enough to be looked at another time.
        let lost = pool.unreachable().unwrap_or_default().data;
        let mut out = decide(working, lost, pool.table().low_water, sizes, growth);
        for grown in &mut out {
            if grown.is_at_bound() {
                continue;
            }
            grown.to = self.within_host(grown, block)?;
            match grown.which {
                Which::Data => self.grow(dm, Some(grown.to), None)?,
                Which::Metadata => self.grow(dm, None, Some(grown.to))?,
            };
        }
        Ok(out)
    }

    /// A disk is as large as it is; a file may become as large as `bytes`.
    fn bound(&self, part: &Part, bytes: u64) -> Result<u64, Error> {
        match part.inode {
            None => Ok(Device::open(&self.path_of(part))?.sectors.bytes()),
            Some(_) => Ok(bytes),
        }
    }

    /// As much of a growth as the file system has room for, with its reserve.
    fn within_host(&self, grown: &Grown, block: u64) -> Result<u64, Error> {
        let (part, copies, unit) = match grown.which {
            Which::Data => (&self.header.data, 1, block),
            // The spare grows with it.
            Which::Metadata => (&self.header.metadata, 2, 4096),
        };
        if part.inode.is_none() || (self.header.sparse && grown.which == Which::Data) {
            return Ok(grown.to);
        }
        let path = self.path_of(part);
        let room = statvfs(&path).map_err(|errno| Error::errno("measure", &path, errno))?;
        let free = room.blocks_available().saturating_mul(room.fragment_size());
        let most = free.saturating_sub(HOST_RESERVE) / copies / unit * unit;
        if most == 0 {
            return Err(Error::Io {
                what: "grow, and leave 256 MiB of its file system free,",
                path: host_path(path),
                source: Errno::ENOSPC.into(),
            });
        }
        Ok(grown.to.min(grown.from.saturating_add(most)))
    }
}

fn host_path(path: PathBuf) -> PathBuf {
    fs::canonicalize(&path).unwrap_or(path)
}

/// A pool in these modes takes a larger table, and is then better off.
fn may_grow(working: &Working) -> bool {
    !working.needs_check
        && match working.mode {
            Mode::ReadWrite | Mode::OutOfDataSpace => true,
            Mode::ReadOnly => {
                PoolStatus::Working(working.clone()).refusal_kind()
                    == crate::format::kind::Kind::NoSpace
            }
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: Sizes = Sizes {
        block: 1 << 16,
        data: 64 << 20,
        data_bound: 128 << 20,
        metadata: 8 << 20,
        metadata_bound: 32 << 20,
    };

    fn decided(line: &str, lost: u64, sizes: Sizes, by: u64) -> Vec<Grown> {
        decided_by(Low::default(), line, lost, sizes, by)
    }

    fn decided_by(low: Low, line: &str, lost: u64, sizes: Sizes, by: u64) -> Vec<Grown> {
        let status = PoolStatus::parse(line).unwrap();
        let growth = Growth { low, data_to: 0, data_by: by, metadata_to: None };
        decide(status.working().unwrap(), lost, 100, sizes, &growth)
    }

    fn used(data: u64, metadata: u64) -> String {
        format!("0 {metadata}/2048 {data}/1024 - rw no_discard_passdown error_if_no_space - 300")
    }

    fn grown(which: Which, from: u64, to: u64) -> Grown {
        Grown { which, from: from << 20, to: to << 20 }
    }

    #[test]
    fn what_is_low_grows_and_what_is_not_does_not() {
        let by = 16 << 20;
        // 1024 blocks: low at 153 free, and 2048: at 512.
        assert_eq!(decided(&used(870, 1535), 0, SIZES, by), []);
        assert_eq!(decided(&used(871, 0), 0, SIZES, by), [grown(Which::Data, 64, 80)]);
        assert_eq!(decided(&used(0, 1536), 0, SIZES, by), [grown(Which::Metadata, 8, 16)]);
        let both = [grown(Which::Metadata, 8, 16), grown(Which::Data, 64, 80)];
        assert_eq!(decided(&used(1024, 2048), 0, SIZES, by), both);
        // What is counted as free and never given out is not free.
        assert_eq!(decided(&used(770, 0), 101, SIZES, by), [grown(Which::Data, 64, 80)]);
    }

    #[test]
    fn what_is_low_is_the_callers_choice_down_to_what_the_kernel_says() {
        let low = Low { data: 50, metadata: 40 };
        let which = |low, data, metadata| -> Vec<Which> {
            let found = decided_by(low, &used(data, metadata), 0, SIZES, 1 << 20);
            found.iter().map(|grown| grown.which).collect()
        };
        assert_eq!(which(low, 511, 1228), []);
        assert_eq!(which(low, 512, 1229), [Which::Metadata, Which::Data]);
        // The low water marks of the pool: 100 data blocks, 300 of the metadata.
        let none = Low { data: 0, metadata: 0 };
        assert_eq!(which(none, 923, 1747), []);
        assert_eq!(which(none, 924, 1748), [Which::Metadata, Which::Data]);
    }

    #[test]
    fn it_grows_up_to_the_bound_and_then_says_so() {
        let full = used(1024, 2048);
        let all = |sizes, by| decided(&full, 0, sizes, by);
        assert_eq!(all(SIZES, 1 << 40)[1], grown(Which::Data, 64, 128));
        let least = all(SIZES, 0)[1];
        assert_eq!(least.to, (64 << 20) + SIZES.block, "a step of nothing is a block");
        for bound in [0, 64 << 20, (64 << 20) + 4096] {
            let at = all(Sizes { data_bound: bound, metadata_bound: 8 << 20, ..SIZES }, 1 << 30);
            assert!(at.iter().all(Grown::is_at_bound), "{at:?}");
        }
        let huge = Sizes { metadata: METADATA_MAX, metadata_bound: u64::MAX, ..SIZES };
        assert!(all(huge, 1)[0].is_at_bound());
    }

    #[test]
    fn only_a_pool_that_takes_it_is_made_larger() {
        for (mode, check, meta, may) in [
            ("rw", "-", "10/2048", true),
            ("out_of_data_space", "-", "10/2048", true),
            ("ro", "-", "2047/2048", true),
            ("ro", "-", "10/2048", false),
            ("ro", "needs_check", "2047/2048", false),
            ("rw", "needs_check", "10/2048", false),
        ] {
            let line = format!("0 {meta} 9/9 - {mode} ignore_discard queue_if_no_space {check} 1");
            let status = PoolStatus::parse(&line).unwrap();
            assert_eq!(may_grow(status.working().unwrap()), may, "{line}");
        }
    }
}
