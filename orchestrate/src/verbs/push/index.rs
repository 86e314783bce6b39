//! `index.json` of a bucket: read, changed and written under a condition, so that nobody's tag is lost.

use std::hash::{BuildHasher as _, RandomState};
use std::time::{Duration, Instant};

use fetch::image::{DOCUMENT_BYTES_MAX, Entry, Index, Pick, with_entries};
use fetch::{Condition, ObjectRef, Small};

use crate::error::Error;
use crate::error::leaves::unusable;
use crate::error::push::NotPushed;
use crate::verbs::push::goal::Goal;

/// How often others may be first.
const TRIES_MAX: u32 = 100;

/// The longest pause before the second try; each further one may be twice as long, up to 64 times.
const PAUSE: Duration = Duration::from_millis(50);

/// When a tag that was written is looked at once more: after twice the time that writing it took, within these.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
const LOOK_AGAIN_MAX: Duration = Duration::from_secs(1);

/// A random number: std's hasher is seeded by the kernel.
pub(crate) fn dice() -> u64 {
    RandomState::new().hash_one(Instant::now())
}

/// A tag, and what it is to stand for.
pub(crate) struct Tagged<'a> {
    pub(crate) goal: &'a Goal,
    pub(crate) tag: &'a str,
    pub(crate) entries: &'a [Entry],
    pub(crate) unsafe_index: bool,
}

/// The index, where there is one.
type Found = Option<Small>;

impl Tagged<'_> {
    fn object(&self) -> Result<ObjectRef, Error> {
        self.goal.object("index.json")
    }

    fn read(&self, object: &ObjectRef) -> Result<Found, Error> {
        self.goal.heed(self.goal.client.read_small(object, DOCUMENT_BYTES_MAX))
    }

    /// The index with the tag in it; none where that is so already.
    fn changed(&self, object: &ObjectRef, found: &Found) -> Result<Option<Vec<u8>>, Error> {
        let bytes = found.as_ref().map(|found| found.bytes.as_slice());
        with_entries(bytes, self.tag, self.entries).map_err(unusable(object.to_string()))
    }

    /// Whether the index is one that the tag can be written into.
    pub(crate) fn look(&self) -> Result<(), Error> {
        let object = self.object()?;
        let found = self.read(&object)?;
        self.condition(&object, &found)?;
        self.changed(&object, &found).map(drop)
    }

    fn condition<'f>(
        &self,
        object: &ObjectRef,
        found: &'f Found,
    ) -> Result<Option<Condition<'f>>, Error> {
        let etag = found.as_ref().map(|found| found.etag.as_deref());
        match etag {
            None => Ok(Some(Condition::Absent)),
            Some(Some(etag)) if etag.starts_with('"') => Ok(Some(Condition::Match(etag))),
            Some(_) if self.unsafe_index => Ok(None),
            Some(_) => Err(NotPushed::NoTag { index: object.to_string() }.into()),
        }
    }

    /// Whether the index has the tag, whatever it stands for.
    fn is_named(&self, found: &Found) -> bool {
        let index = found.as_ref().and_then(|found| Index::read(&found.bytes).ok());
        index.is_some_and(|index| index.pick(&Pick::Name(self.tag.to_owned())).is_ok())
    }

    /// Writes the tag; says whether it was another before. It is looked at once more a moment later: there are servers
    /// that judge a condition and write in two steps, between which another writer fits.
    ///
    /// # Errors
    /// [`NotPushed::Raced`] where others were first each time.
    pub(crate) fn write(&self) -> Result<bool, Error> {
        let (object, client) = (self.object()?, &self.goal.client);
        let mut written = false;
        for tries in 1..=TRIES_MAX {
            let found = self.read(&object)?;
            let Some(bytes) = self.changed(&object, &found)? else { return Ok(written) };
            // Another push of the same tag came after this one.
            if written && self.is_named(&found) {
                return Ok(true);
            }
            let condition = self.condition(&object, &found)?;
            let begun = Instant::now();
            let mut put = client.put(&object, &bytes, "application/json", condition);
            if self.unsafe_index && status(&put) == Some(501) {
                put = client.put(&object, &bytes, "application/json", None);
            }
            let pause = match status(&put) {
                None if put.is_ok() => {
                    written = true;
                    (begun.elapsed() * 2).clamp(LOOK_AGAIN, LOOK_AGAIN_MAX)
                }
                // Somebody was first, or is at it now, or has removed it.
                Some(404 | 409 | 412) => {
                    let most = PAUSE.saturating_mul(1 << tries.min(6)).as_millis();
                    let pause = u128::from(dice()) % most.max(1);
                    Duration::from_millis(u64::try_from(pause).unwrap_or(0))
                }
                Some(_) | None => return self.goal.heed(put).map(|_| true),
            };
            self.goal.settings.cancel.sleep(pause)?;
        }
        Err(NotPushed::Raced { index: object.to_string(), tries: TRIES_MAX }.into())
    }
}

/// The status of an answer that is no success.
pub(crate) fn status<T>(done: &Result<T, fetch::Error>) -> Option<u16> {
    match done {
        Err(fetch::Error::Answer { answer, .. })
            if answer.code.as_deref() != Some("NoSuchBucket") =>
        {
            Some(answer.status)
        }
        Ok(_) | Err(_) => None,
    }
}
