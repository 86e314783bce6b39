//! Which document is believed: one that a key of the fleet has signed, that is for this fleet and class, and that
//! is no older than, and no other than, what was believed. Pure.

use std::fmt;

use minisign_verify::PublicKey;
use registry::Digest;

use crate::error::quote::quoted;
use crate::fleet::document::Document;
use crate::fleet::fault::Faults;
use crate::fleet::member::Me;
use crate::trust::keys::{Distrust, Trust, signed};

/// How far a serial may be above the last one: room for seconds since 1970 as a first serial, and still one that
/// was signed by mistake does not shut out all that come after it.
pub(crate) const STEP: u64 = 1 << 32;

/// Why a document is not believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// No key has signed these bytes; half of a new pair, too.
    Unsigned(String),
    /// It is no document.
    Malformed(Faults),
    /// It is another fleet's, or for hosts of another class.
    Other {
        /// `fleet` or `class`.
        what: &'static str,
        /// What it says.
        found: String,
        /// What this host is.
        own: String,
    },
    /// It is older than what was believed.
    Older {
        /// Its serial.
        serial: u64,
        /// The serial that was believed.
        known: u64,
    },
    /// It has the serial of what was believed, and other bytes.
    Twice {
        /// The serial of both.
        serial: u64,
    },
    /// Its serial is too far above the last one.
    Far {
        /// Its serial.
        serial: u64,
        /// The last one that would be believed.
        most: u64,
    },
}

impl Refused {
    /// Every word that [`Refused::word`] gives.
    pub const WORDS: [&'static str; 6] =
        ["unsigned", "malformed", "other_fleet", "older", "same_serial", "far"];

    /// One word, for metrics.
    pub fn word(&self) -> &'static str {
        match self {
            Refused::Unsigned(_) => "unsigned",
            Refused::Malformed(_) => "malformed",
            Refused::Other { .. } => "other_fleet",
            Refused::Older { .. } => "older",
            Refused::Twice { .. } => "same_serial",
            Refused::Far { .. } => "far",
        }
    }
}

/// The keys of a fleet, read.
///
/// # Errors
/// Which one is none.
pub fn public_keys(keys: &[String]) -> Result<Vec<PublicKey>, String> {
    let trust = Trust { keys: keys.to_vec(), ..Trust::default() };
    trust.public_keys().map_err(|error| match error {
        Distrust::Key(why) => format!("fleet.keys: {why}"),
        other => other.to_string(),
    })
}

/// Reads a document that one of `keys` has signed and that is for `me`.
///
/// # Errors
/// [`Refused`].
pub fn read(
    bytes: &[u8],
    signature: &str,
    keys: &[PublicKey],
    me: &Me,
) -> Result<Document, Refused> {
    signed(bytes, signature, keys, "fleet.keys").map_err(Refused::Unsigned)?;
    let document = Document::parse(bytes).map_err(Refused::Malformed)?;
    is_for(&document, me)?;
    Ok(document)
}

/// Whether a document is for this host.
///
/// # Errors
/// [`Refused::Other`].
pub(crate) fn is_for(document: &Document, me: &Me) -> Result<(), Refused> {
    let none = || "none".to_owned();
    if document.fleet != me.fleet {
        let (found, own) = (document.fleet.clone(), me.fleet.clone());
        return Err(Refused::Other { what: "fleet", found, own });
    }
    if document.class != me.class {
        let found = document.class.clone().unwrap_or_else(none);
        let own = me.class.clone().unwrap_or_else(none);
        return Err(Refused::Other { what: "class", found, own });
    }
    Ok(())
}

/// Whether a document of this serial may come after the one that is `known`.
///
/// # Errors
/// [`Refused::Older`], [`Refused::Twice`], [`Refused::Far`].
pub fn follows(known: Option<(u64, Digest)>, serial: u64, digest: Digest) -> Result<(), Refused> {
    let last = known.map_or(0, |(last, _)| last);
    let most = last.saturating_add(STEP);
    match known {
        Some((known, _)) if serial < known => Err(Refused::Older { serial, known }),
        Some((known, same)) if serial == known && digest != same => Err(Refused::Twice { serial }),
        Some(_) | None if serial > most => Err(Refused::Far { serial, most }),
        Some(_) | None => Ok(()),
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::Unsigned(why) => write!(
                f,
                "the signature of the fleet's document is not good: {}. Where both were just uploaded this \
                 passes by itself; else sign it with a key of fleet.keys",
                quoted(why)
            ),
            Refused::Malformed(faults) => {
                write!(f, "the fleet's document cannot be used: {faults}")
            }
            Refused::Other { what, found, own } => write!(
                f,
                "the document is for the {what} {}, and this host is of the {what} {}: compare fleet.url with \
                 fleet.name and fleet.class",
                quoted(found),
                quoted(own)
            ),
            Refused::Older { serial, known } => write!(
                f,
                "the document has serial {serial}, and one of serial {known} was believed before: an old one \
                 is played back, or a cache keeps it. Sign one above {known}"
            ),
            Refused::Twice { serial } => write!(
                f,
                "two documents were signed with serial {serial}, and the other one was believed before: sign \
                 one with a higher serial"
            ),
            Refused::Far { serial, most } => write!(
                f,
                "the document has serial {serial}, and none above {most} is believed now: after such a one \
                 every later document would be an older one. Sign it with a serial of at most {most}"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serials_go_up_and_name_one_document_each() {
        let (a, b) = (Digest([1; 32]), Digest([2; 32]));
        let after = |known: Option<u64>, serial, digest| {
            follows(known.map(|known| (known, a)), serial, digest).map_err(|why| why.word())
        };
        for (known, serial, digest, expected) in [
            (None, 1, b, Ok(())),
            (None, STEP, b, Ok(())),
            (None, STEP + 1, b, Err("far")),
            (Some(8), 8, a, Ok(())),
            (Some(8), 8, b, Err("same_serial")),
            (Some(8), 7, a, Err("older")),
            (Some(8), 9, b, Ok(())),
            (Some(8), 9 + STEP, b, Err("far")),
            (Some(u64::MAX - 1), u64::MAX, b, Ok(())),
        ] {
            assert_eq!(after(known, serial, digest), expected, "{serial} after {known:?}");
        }
    }

    #[test]
    fn a_document_is_for_one_fleet_and_one_class() {
        let of = |text: &str| Document::parse(text.as_bytes()).unwrap();
        let (with, without) = (
            of(r#"{"version": 1, "serial": 1, "fleet": "a", "class": "w"}"#),
            of(r#"{"version": 1, "serial": 1, "fleet": "a"}"#),
        );
        let me = |fleet: &str, class: Option<&str>| Me {
            fleet: fleet.into(),
            class: class.map(str::to_owned),
            ..Me::default()
        };
        assert!(is_for(&with, &me("a", Some("w"))).is_ok());
        assert!(is_for(&without, &me("a", None)).is_ok());
        for (document, me, what) in [
            (&with, me("b", Some("w")), "fleet"),
            (&with, me("a", Some("x")), "class"),
            (&with, me("a", None), "class"),
            (&without, me("a", Some("w")), "class"),
        ] {
            let why = is_for(document, &me).unwrap_err();
            assert!(why.to_string().contains(&format!("for the {what}")), "{why}");
        }
    }
}
