//! What objects were is remembered for a while after nothing here is of it: then it is read again.

use crate::error::Error;
use crate::past::history::Clock;
use crate::past::history::Keep;
use crate::write::Write;

/// Nothing here is of the blob `b`, nor is it remembered as refused.
const UNUSED: &str = "NOT EXISTS (SELECT 1 FROM volumes v WHERE v.blob = b.digest)
   AND NOT EXISTS (SELECT 1 FROM image_layers l WHERE l.digest = b.digest)
   AND NOT EXISTS (SELECT 1 FROM quarantine q WHERE q.digest = b.digest)
   AND NOT EXISTS (SELECT 1 FROM refused_sources r WHERE r.digest = b.digest)";

/// An image that is being made may be of a blob that was read so long ago, and have no row yet.
const LATE_MS: i64 = 86_400_000;

impl Write<'_> {
    /// What objects were: an object whose blob nothing here is of. One that comes again is read again.
    pub(crate) fn prune_sources(&self, keep: &Keep, clock: &Clock) -> Result<usize, Error> {
        let Some((older, most)) = self.unused("sources", keep, clock)? else { return Ok(0) };
        self.run(
            &format!(
                "DELETE FROM sources WHERE (endpoint, bucket, etag, size, key) IN (
                   SELECT endpoint, bucket, etag, size, key FROM sources b
                   WHERE seen_ms < ?1 AND {UNUSED} ORDER BY seen_ms LIMIT ?2)"
            ),
            (older, most),
        )
    }

    /// Blobs that no object that is remembered was, and that nothing here is of.
    pub(crate) fn prune_blobs(&self, keep: &Keep, clock: &Clock) -> Result<usize, Error> {
        let Some((older, most)) = self.unused("blobs", keep, clock)? else { return Ok(0) };
        self.run(
            &format!(
                "DELETE FROM blobs WHERE digest IN (
                   SELECT digest FROM blobs b WHERE seen_ms < ?1 AND {UNUSED}
                     AND NOT EXISTS (SELECT 1 FROM sources s WHERE s.digest = b.digest)
                   ORDER BY seen_ms LIMIT ?2)"
            ),
            (older, most),
        )
    }

    /// As [`Write::beyond`], of what something may be made of before long: what was seen of late stays.
    fn unused(&self, table: &str, keep: &Keep, clock: &Clock) -> Result<Option<(i64, i64)>, Error> {
        let of = (keep.sources, keep.sources_age);
        let (older, most) = self.beyond(table, ("seen_ms", "seen_ms > ?1"), of, clock)?;
        let late = clock.wall_ms.saturating_sub(LATE_MS);
        Ok((most > 0).then_some((older.min(late), most)))
    }
}
