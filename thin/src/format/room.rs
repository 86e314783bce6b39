//! Whether the pool has room for what is about to be written: asked before work, because a pool
//! that fills up loses writes that were already acknowledged to the page cache.

use serde::Serialize;

use crate::format::status::Working;

/// Mappings in a half-full leaf of the mapping tree, which is what splitting leaves behind.
const MAPPINGS_PER_BLOCK: u64 = 126;
/// A new thin costs its details and a root; a commit rewrites the way down to what changed.
const METADATA_PER_VOLUME: u64 = 8;

/// What a piece of work needs of the pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Need {
    /// Bytes that will be written to new blocks.
    pub bytes: u64,
    /// Separate places they are written to, each of which may waste most of a block.
    pub pieces: u64,
    /// New thins.
    pub volumes: u64,
}

/// What to leave free.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Reserve {
    /// Of the data blocks, in percent.
    pub data_percent: u64,
    /// Of the metadata blocks, in percent.
    pub metadata_percent: u64,
}

impl Default for Reserve {
    fn default() -> Reserve {
        Reserve { data_percent: 1, metadata_percent: 5 }
    }
}

/// The answer, in blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Room {
    /// Data blocks the work needs at most.
    pub needs_data: u64,
    /// Data blocks free beyond the reserve.
    pub free_data: u64,
    /// Metadata blocks the work needs at most.
    pub needs_metadata: u64,
    /// Metadata blocks free beyond the reserve.
    pub free_metadata: u64,
    /// Size of a data block in bytes.
    pub block_bytes: u64,
    /// Blocks that the pool's status has as free and that it will not give out.
    pub unreachable: Unreachable,
}

impl Room {
    /// Whether the work fits.
    pub fn suffices(&self) -> bool {
        self.needs_data <= self.free_data && self.needs_metadata <= self.free_metadata
    }

    pub(crate) fn of(
        working: &Working,
        unreachable: Unreachable,
        block_bytes: u64,
        need: Need,
        reserve: Reserve,
    ) -> Room {
        let kept = |total: u64, percent: u64| total.saturating_mul(percent).div_ceil(100);
        let needs_data = need.bytes.div_ceil(block_bytes).saturating_add(need.pieces);
        let kept_data = kept(working.total_data.0, reserve.data_percent);
        let kept_metadata = kept(working.total_metadata, reserve.metadata_percent);
        Room {
            needs_data,
            free_data: (working.free_data().0.saturating_sub(unreachable.data))
                .saturating_sub(kept_data),
            needs_metadata: needs_data
                .div_ceil(MAPPINGS_PER_BLOCK)
                .saturating_add(need.volumes.saturating_mul(METADATA_PER_VOLUME)),
            free_metadata: (working.free_metadata().saturating_sub(unreachable.metadata))
                .saturating_sub(kept_metadata),
            block_bytes,
            unreachable,
        }
    }
}

/// Blocks that are counted as free and can never be given out, as long as nobody counts them again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Unreachable {
    /// Of the data.
    pub data: u64,
    /// Of the metadata.
    pub metadata: u64,
}

impl Unreachable {
    /// Whether there are none.
    pub fn is_none(self) -> bool {
        self.data == 0 && self.metadata == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::status::PoolStatus;

    fn room(used_data: u64, used_metadata: u64, need: Need) -> Room {
        room_but(Unreachable::default(), used_data, used_metadata, need)
    }

    fn room_but(lost: Unreachable, used_data: u64, used_metadata: u64, need: Need) -> Room {
        let line = format!(
            "0 {used_metadata}/1000 {used_data}/2000 - rw no_discard_passdown error_if_no_space -"
        );
        let status = PoolStatus::parse(&line).unwrap();
        Room::of(status.working().unwrap(), lost, 1 << 20, need, Reserve::default())
    }

    #[test]
    fn the_last_block_beyond_the_reserve_is_the_limit() {
        let need = |mib: u64| Need { bytes: mib << 20, pieces: 0, volumes: 1 };
        // 2000 blocks, 1 % kept: 1980 can be given.
        assert!(room(0, 0, need(1980)).suffices());
        assert!(!room(0, 0, need(1981)).suffices());
        assert!(!room(0, 0, Need { bytes: (1980 << 20) + 1, ..need(0) }).suffices());
        assert!(!room(0, 0, Need { pieces: 1, ..need(1980) }).suffices());
    }

    #[test]
    fn what_is_not_given_out_is_not_free() {
        let need = Need { bytes: 126 << 20, pieces: 0, volumes: 1 };
        let lost = |data, metadata| Unreachable { data, metadata };
        // 1980 can be given, and of the metadata 950.
        assert!(room_but(lost(1854, 941), 0, 0, need).suffices());
        assert!(!room_but(lost(1855, 0), 0, 0, need).suffices());
        assert!(!room_but(lost(0, 942), 0, 0, need).suffices());
        assert!(!room_but(lost(u64::MAX, u64::MAX), 0, 0, need).suffices());
    }

    #[test]
    fn metadata_is_a_limit_of_its_own() {
        let need = Need { bytes: 126 << 20, pieces: 0, volumes: 1 };
        // 5 % of 1000 kept; 9 needed.
        assert!(room(0, 941, need).suffices());
        assert!(!room(0, 942, need).suffices());
        let many = Need { bytes: u64::MAX, pieces: u64::MAX, volumes: u64::MAX };
        assert!(!room(0, 0, many).suffices());
    }
}
