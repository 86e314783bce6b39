//! The room of a thin pool: how much there is, who has it, and how the pool is.

use thin::Pool;

use crate::error::Error;
use crate::plan::guard::{Fill, Fills};
use crate::store::pool_ids::volume_id;
use crate::store::seam::{Condition, Space, Taken};

/// A block of the pool's metadata, bytes (kernel documentation, thin-provisioning).
pub(crate) const METADATA_BLOCK_BYTES: u64 = 4096;

/// A block of the pool's data, bytes.
pub(super) fn block_bytes(pool: &Pool) -> u64 {
    pool.block_sectors() * thin::SECTOR_BYTES
}

pub(super) fn space(pool: &Pool) -> Result<Space, Error> {
    let block = block_bytes(pool);
    let status = pool.status()?;
    let (used, total) =
        status.working().map_or((0, 0), |pool| (pool.used_data.0, pool.total_data.0));
    Ok(Space { total: total * block, used: used * block, block })
}

/// A pool that does not answer is full: nothing can be written to it.
pub(super) fn fills(pool: &Pool) -> Result<Fills, Error> {
    let block = block_bytes(pool);
    let status = pool.status()?;
    let of = |used: u64, total: u64, block: u64| Fill { used: used * block, total: total * block };
    Ok(status.working().map_or_else(Fills::default, |now| Fills {
        data: of(now.used_data.0, now.total_data.0, block),
        metadata: of(now.used_metadata, now.total_metadata, METADATA_BLOCK_BYTES),
    }))
}

pub(super) fn condition(pool: &Pool) -> Result<Condition, Error> {
    let block = block_bytes(pool);
    let status = pool.status()?;
    let Some(now) = status.working() else {
        let (mode, data) = ("fail".into(), Space { total: 0, used: 0, block });
        return Ok(Condition { mode, data, metadata: None, transaction_id: None });
    };
    // What is never given out is not free, whatever the pool's own figures say.
    let lost = pool.unreachable().unwrap_or_default();
    let (data, metadata) = (now.used_data.0 + lost.data, now.used_metadata + lost.metadata);
    let mode = match now.mode {
        _ if now.needs_check => "needs_check",
        thin::Mode::ReadWrite => "rw",
        thin::Mode::ReadOnly => "ro",
        thin::Mode::OutOfDataSpace => "out_of_data_space",
    };
    Ok(Condition {
        mode: mode.into(),
        data: Space { total: now.total_data.0 * block, used: data * block, block },
        metadata: Some(Space {
            total: now.total_metadata * METADATA_BLOCK_BYTES,
            used: metadata * METADATA_BLOCK_BYTES,
            block: METADATA_BLOCK_BYTES,
        }),
        transaction_id: Some(now.transaction_id),
    })
}

/// What each thin holds.
pub(super) fn taken_by_each(pool: &Pool) -> Result<Vec<Taken>, Error> {
    let block = block_bytes(pool);
    let taken = |of: &thin::Usage| Taken {
        id: volume_id(of.record.id),
        exclusive_bytes: of.exclusive_blocks * block,
        shared_bytes: of.shared_blocks * block,
    };
    Ok(pool.usage()?.iter().map(taken).collect())
}
