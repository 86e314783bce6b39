//! Why nothing is done for something that a document names, in words. Pure.

use std::fmt;
use std::time::Duration;

use crate::error::class::Class;
use crate::fleet::document::PARTS;

/// Why nothing is done now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// This host is told to do nothing.
    Hold,
    /// All hosts are.
    Paused,
    /// The entry, or the roll-out, goes by sites, and this host has none.
    NoSite,
    /// It is for other sites than this.
    OtherSite(String),
    /// This host has not the label, or not one of its values.
    Label(String),
    /// The roll-out has not come to this host.
    Later {
        /// The host's, or its site's, place.
        bucket: u64,
        /// How far it has come.
        parts: u64,
    },
    /// The roll-out went back behind this host, which has the image already.
    HasIt,
    /// The catalog that is believed here is too old for the document.
    Catalog {
        /// Its serial; none: none is believed.
        known: Option<u64>,
        /// What the document wants.
        wanted: u64,
    },
    /// Its moment within the spread has not come.
    Spread(Duration),
    /// As much of the store is used as may be.
    Room {
        /// Per cent that are used.
        used: u64,
        /// Per cent that may be.
        max_used: u64,
    },
    /// A run about it has not ended.
    UnderWay,
    /// As many runs of the document are under way as may be.
    Busy,
    /// It failed, and is tried again then.
    Failed {
        /// How.
        class: Class,
        /// When.
        until: Duration,
    },
    /// It failed, and would again: it is not tried by this document any more.
    Final(Class),
    /// The image that it is of is not here yet.
    NoImage,
    /// A person has made it, or asked for it.
    Person,
    /// A person has taken it down.
    TakenDown,
    /// It is of another image, and is left so.
    Kept,
    /// It is of another image, and somebody has it open.
    Open,
    /// It is pinned.
    Pinned,
    /// Activations are made of it.
    InUse,
    /// The document names it for something else.
    Named,
    /// Another image went less than an hour ago, or the daemon started: then it is not known when one went.
    Pace(Duration),
}

impl Why {
    /// The moment at which it is over, where it is known.
    pub fn until(&self) -> Option<Duration> {
        match self {
            Why::Spread(until) | Why::Pace(until) | Why::Failed { until, .. } => Some(*until),
            Why::Hold
            | Why::Paused
            | Why::NoSite
            | Why::OtherSite(_)
            | Why::Label(_)
            | Why::Later { .. }
            | Why::HasIt
            | Why::Catalog { .. }
            | Why::Room { .. }
            | Why::UnderWay
            | Why::Busy
            | Why::Final(_)
            | Why::NoImage
            | Why::Person
            | Why::TakenDown
            | Why::Kept
            | Why::Open
            | Why::Pinned
            | Why::InUse
            | Why::Named => None,
        }
    }
}

/// Parts of the whole as per cent: 1250 is 12.5.
fn percent(parts: u64) -> String {
    let per = PARTS / 100;
    let text = format!("{}.{:02}", parts / per, parts % per);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::Hold => f.write_str("this host only looks (fleet.hold)"),
            Why::Paused => f.write_str("the document is paused"),
            Why::NoSite => f.write_str("it goes by sites, and this host has none (fleet.site)"),
            Why::OtherSite(site) => write!(f, "it is not for the site {site}"),
            Why::Label(label) => {
                write!(f, "it is for hosts with another {label} (fleet.labels)")
            }
            Why::Later { bucket, parts } => write!(
                f,
                "the roll-out has come to {} %, and this host is in it above {} %",
                percent(*parts),
                percent(*bucket)
            ),
            Why::HasIt => f.write_str("the roll-out is behind this host, which has it already"),
            Why::Catalog { known: Some(known), wanted } => write!(
                f,
                "the catalog that is believed here has serial {known}, and the document wants {wanted}"
            ),
            Why::Catalog { known: None, wanted } => write!(
                f,
                "no catalog is believed here, and the document wants one of serial {wanted}"
            ),
            Why::Spread(_) => f.write_str("its moment within the spread has not come"),
            Why::Room { used, max_used } => {
                write!(
                    f,
                    "{used} % of the store are used, and nothing is begun from {max_used} % on"
                )
            }
            Why::UnderWay => f.write_str("a run about it has not ended"),
            Why::Busy => f.write_str("other runs of the document come first"),
            Why::Failed { class, .. } => {
                write!(f, "it failed ({}) and is tried again", class.word())
            }
            Why::Final(class) => write!(
                f,
                "it failed ({}) and is not tried again by this document; `orchestrate runs -a` shows why",
                class.word()
            ),
            Why::NoImage => f.write_str("its image is not here yet"),
            Why::Person => f.write_str("a person has asked for it, so no document changes it"),
            Why::TakenDown => f.write_str("a person has taken it down"),
            Why::Kept => f.write_str("it is of another image and stays so (on_change is keep)"),
            Why::Open => f.write_str("it is of another image, and somebody has it open"),
            Why::Pinned => f.write_str("it is pinned"),
            Why::InUse => f.write_str("activations are made of it"),
            Why::Named => f.write_str("the document names it for something else, too"),
            Why::Pace(_) => {
                f.write_str("another image went, or the daemon started, less than an hour ago")
            }
        }
    }
}
