//! What must never follow from a document, each as one question: why is this not done now? Pure.
//!
//! | danger | question |
//! |---|---|
//! | something is begun on a host that only looks, by a paused document, or before its catalog came | [`begins`] |
//! | a pool runs full by images that are fetched beforehand | [`begins`] |
//! | all hosts begin in one moment | [`begins`] |
//! | what was refused is tried for ever, or all try again in one moment | [`tries_again`] |
//! | one document deletes everything | [`goes`] |

use std::collections::BTreeMap;
use std::time::Duration;

use crate::error::class::Class;
use crate::fleet::cohort::{Dice, spread};
use crate::fleet::document::Document;
use crate::fleet::member::Me;
use crate::fleet::why::Why;

/// A host loses one image to a document in this time at most.
pub const REMOVAL_PAUSE: Duration = Duration::from_secs(3600);

/// Runs of a document that have not ended, at most: room is looked at before each, and people's have workers too.
pub(super) const LIVE_MAX: usize = 2;

/// The longest pause after the first failure, and after any.
const AGAIN_FIRST: Duration = Duration::from_secs(30);
const AGAIN_MAX: Duration = Duration::from_secs(600);

/// The shortest pause after a failure.
const AGAIN_MIN: Duration = Duration::from_secs(1);

/// What is so on this host. Moments are of a clock that only goes forward, and that begins anew with each start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Images that are here, by reference.
    pub images: BTreeMap<String, ImageFact>,
    /// Activations by name.
    pub activations: BTreeMap<String, ActivationFact>,
    /// Runs that have not ended.
    pub live: Vec<Live>,
    /// Of each image and name whose last run has failed, how.
    pub failures: BTreeMap<String, Failure>,
    /// The serial of the catalog that is believed.
    pub catalog: Option<u64>,
    /// Per cent of the store that are used.
    pub used: u64,
    /// When the document came.
    pub since: Duration,
    /// When the last image went by a document; after a start, the start.
    pub lost: Duration,
}

/// An image that is here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ImageFact {
    /// Whether a person keeps it whatever room is needed.
    pub pinned: bool,
    /// Whether a person has asked for it.
    pub person: bool,
    /// Whether a document has.
    pub document: bool,
}

/// An activation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ActivationFact {
    /// The image that it was made of.
    pub image: String,
    /// Whether it is, or is to be, up.
    pub up: bool,
    /// Whether somebody has it open.
    pub open: bool,
    /// Whether a person has asked for it.
    pub person: bool,
}

/// A run that has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Live {
    /// The image or name that it is about.
    pub subject: String,
    /// The image that it makes, where it makes one.
    pub image: Option<String>,
    /// Whether a document has asked for it.
    pub document: bool,
    /// Whether it takes something away.
    pub takes_away: bool,
}

/// How the last run about something failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The serial of the document that had asked for it; none: a person had.
    pub serial: Option<u64>,
    /// How.
    pub class: Class,
    /// How often in a row.
    pub tries: u32,
    /// When that was seen.
    pub at: Duration,
}

/// Everything that a decision is made by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Case<'a> {
    pub(super) document: &'a Document,
    pub(super) facts: &'a Facts,
    pub(super) me: &'a Me,
    pub(super) now: Duration,
    pub(super) dice: Dice,
}

impl Case<'_> {
    /// Why nothing at all is done.
    fn rests(&self) -> Option<Why> {
        match (self.me.hold, self.document.paused) {
            (true, _) => Some(Why::Hold),
            (false, true) => Some(Why::Paused),
            (false, false) => None,
        }
    }

    /// Why nothing new is begun about this image or name.
    pub(super) fn begins(&self, subject: &str) -> Option<Why> {
        let facts = self.facts;
        if let Some(why) = self.rests() {
            return Some(why);
        }
        if self.is_live(subject) {
            return Some(Why::UnderWay);
        }
        if let Some(why) = self.tries_again(subject) {
            return Some(why);
        }
        if let Some(wanted) = self.document.catalog_min
            && facts.catalog.is_none_or(|known| known < wanted)
        {
            return Some(Why::Catalog { known: facts.catalog, wanted });
        }
        let pace = self.document.pace;
        let moment = facts.since + spread(&self.me.host, self.document.serial, pace.spread_s);
        if self.now < moment {
            return Some(Why::Spread(moment));
        }
        if facts.used >= pace.max_used {
            return Some(Why::Room { used: facts.used, max_used: pace.max_used });
        }
        None
    }

    /// Why what failed is not tried again now.
    pub(super) fn tries_again(&self, subject: &str) -> Option<Why> {
        let failure = self.facts.failures.get(subject)?;
        let Failure { serial, class, tries, at } = *failure;
        if self.is_final(failure) {
            return Some(Why::Final(class));
        }
        let longest =
            AGAIN_FIRST.saturating_mul(1 << tries.saturating_sub(1).min(16)).min(AGAIN_MAX);
        let words =
            [self.me.host.as_str(), subject, &tries.to_string(), &at.as_nanos().to_string()];
        let until = at + longest.mul_f64(self.dice.share(&words)).max(AGAIN_MIN);
        // What a person's run failed by says little of the next one's.
        (serial.is_some() && self.now < until).then_some(Why::Failed { class, until })
    }

    /// Whether something would fail again by this document, however often it is tried.
    pub(super) fn is_final(&self, failure: &Failure) -> bool {
        let last = match failure.class {
            Class::Refused | Class::Usage | Class::Bug | Class::Cancelled => true,
            Class::Temporary
            | Class::Throttled
            | Class::NoSpace
            | Class::NotFound
            | Class::Denied
            | Class::HostBroken => false,
        };
        last && failure.serial == Some(self.document.serial)
    }

    /// Whether a run about it has not ended.
    pub(super) fn is_live(&self, subject: &str) -> bool {
        let about = |run: &Live| run.subject == subject || run.image.as_deref() == Some(subject);
        self.facts.live.iter().any(about)
    }

    /// How many runs that bring something are under way for the document.
    pub(super) fn bringing(&self) -> usize {
        self.facts.live.iter().filter(|run| run.document && !run.takes_away).count()
    }

    /// Why an image does not go by the document now. The order is that of weight: what forbids it for good comes
    /// before what puts it off.
    pub(super) fn goes(&self, image: &str) -> Option<Why> {
        let facts = self.facts;
        // Nobody asks for what is not here, and no document removes what it does not name.
        let Some(here) = facts.images.get(image) else { return Some(Why::NoImage) };
        if self.document.names(image) || !self.document.remove.contains(image) {
            return Some(Why::Named);
        }
        if here.pinned {
            return Some(Why::Pinned);
        }
        if here.person || !here.document {
            return Some(Why::Person);
        }
        if facts.activations.values().any(|row| row.image == image) {
            return Some(Why::InUse);
        }
        if let Some(why) = self.rests() {
            return Some(why);
        }
        if self.is_live(image) {
            return Some(Why::UnderWay);
        }
        if let Some(why) = self.tries_again(image) {
            return Some(why);
        }
        if facts.live.iter().any(|run| run.document && run.takes_away) {
            return Some(Why::Busy);
        }
        let until = facts.lost + REMOVAL_PAUSE;
        (self.now < until).then_some(Why::Pace(until))
    }
}
