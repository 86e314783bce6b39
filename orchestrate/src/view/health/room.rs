//! Whether the store and the state directory have room, and may have more.

use crate::host::settings::Growing;
use crate::plan::guard::{Fill, Level, Marks, Part};
use crate::store::seam::{Condition, Space};

/// Bytes of the state directory's file system below which no work is taken.
const DISK_FREE_MIN: u64 = 64 << 20;

pub(super) fn room(space: &Space) -> Result<String, String> {
    let text = format!("{} of {} bytes free", space.free(), space.total);
    if space.free() >= DISK_FREE_MIN {
        return Ok(text);
    }
    Err(format!("{text}, fewer than {DISK_FREE_MIN}: make room where the state directory is"))
}

pub(super) fn mode(store: &Condition) -> Result<String, String> {
    let next = match store.mode.as_str() {
        "rw" | "directory" => return Ok(store.mode.clone()),
        "out_of_data_space" => "`orchestrate gc`, or grow the pool",
        "needs_check" | "ro" | "fail" => "`thin doctor` tells how to repair it",
        _ => "`thin pool status` tells more",
    };
    Err(format!("{}: {next}", store.mode))
}

/// From the mark on at which no layer is begun, a host is to be given no work.
pub(super) fn ratio(
    space: &Space,
    part: Part,
    marks: &Marks,
    is_pool: bool,
) -> Result<String, String> {
    let fill = Fill { used: space.used, total: space.total };
    let text = format!("{}% of {} bytes used", fill.percent(), space.total);
    let level = marks.level(fill);
    if !is_pool {
        // Nothing waits or is refused in a directory: its file system says by itself that it is full.
        return match level {
            Level::Well | Level::Warn | Level::Grow => Ok(text),
            Level::Refuse | Level::Pause => Err(format!("{text}, {}% or more", marks.refuse)),
        };
    }
    let text = match marks.of(level) {
        None => text,
        Some(mark) => format!("{text}, and pool.{}_{} is {mark}", level.word(), part.word()),
    };
    match level {
        Level::Well | Level::Warn | Level::Grow => Ok(text),
        Level::Refuse => {
            Err(format!("{text}: no layer is begun; `orchestrate gc`, or grow the pool"))
        }
        Level::Pause => Err(format!("{text}: layers wait; `orchestrate gc`, or grow the pool")),
    }
}

/// Of a pool that is not filling, how far it may grow; of one that is, whether it still may.
pub(crate) fn growth(
    growing: Option<&Growing>,
    store: Option<&Condition>,
) -> Result<String, String> {
    let Some(growing) = growing else {
        return Ok("it does not grow by itself: serve.grow_to".into());
    };
    let at_bound = |what: &str, key: &str, space: &Space, bound: u64| {
        let low = space.free() <= space.total / 10;
        match low && space.total.saturating_add(space.block) > bound {
            false => Ok(()),
            true => Err(format!(
                "its {what} is filling ({} of {} bytes free) and may not become more than {bound} \
                 bytes: `orchestrate gc`, or a larger {key}",
                space.free(),
                space.total
            )),
        }
    };
    if let Some(store) = store {
        at_bound("data", "serve.grow_to", &store.data, growing.data_to)?;
        if let (Some(space), Some(bound)) = (&store.metadata, growing.metadata_to) {
            at_bound("metadata", "serve.grow_metadata_to", space, bound)?;
        }
    }
    Ok(format!("it may grow to {} bytes", growing.data_to))
}
