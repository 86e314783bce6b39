//! What all parts of one object must agree on. Pure.
//!
//! Two answers are of one version if a digest will judge them, if they have the same strong ETag, or if they
//! have the same `Last-Modified` and that was old enough to mean one version only. Nothing else counts.

use ureq::http::HeaderMap;

use crate::error::Error;
use crate::http::head::{self, etag};

/// The version of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pin {
    pub(crate) size: u64,
    pub(crate) etag: Tag,
    /// `Last-Modified` as it came, where it tells versions apart.
    pub(crate) modified: Option<String>,
    /// What all bytes together must give: a mixture of two versions is found out at the end.
    pub(crate) digest: Option<[u8; 32]>,
}

/// What is known of the entity tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Tag {
    /// The next answer tells; only where a digest decides in the end.
    Unknown,
    /// It is this one, or the server gives none.
    Known(Option<String>),
}

impl Tag {
    pub(crate) fn text(&self) -> Option<&str> {
        match self {
            Tag::Unknown => None,
            Tag::Known(etag) => etag.as_deref(),
        }
    }

    /// If-Match compares strongly (RFC 9110 13.1.1), so a weak tag never matches.
    pub(crate) fn strong(&self) -> Option<&str> {
        self.text().filter(|etag| !etag.starts_with("W/"))
    }
}

impl Pin {
    /// The same for another server, whose entity tags and times are its own.
    pub(crate) fn anywhere(&self) -> Pin {
        Pin { etag: Tag::Unknown, modified: None, ..self.clone() }
    }

    /// Whether parts may be asked for apart, and so of different moments.
    pub(crate) fn may_have_parts(&self) -> bool {
        self.digest.is_some() || self.etag.strong().is_some()
    }

    /// Whether a broken stream may go on at its byte.
    pub(crate) fn may_go_on(&self) -> bool {
        self.may_have_parts() || self.modified.is_some()
    }

    /// The time to hold the server to, where nothing better is there.
    pub(crate) fn unmodified_since(&self) -> Option<&str> {
        self.modified.as_deref().filter(|_| !self.may_have_parts())
    }

    /// Compares an answer's tag and time with the pinned ones.
    ///
    /// # Errors
    /// [`Error::Changed`], [`Error::Malformed`].
    pub(crate) fn hold(&mut self, headers: &HeaderMap, subject: &str) -> Result<(), Error> {
        let etag = etag(headers, subject)?;
        match &self.etag {
            Tag::Unknown => self.etag = Tag::Known(etag),
            Tag::Known(pinned) if *pinned == etag => {}
            // Where the tag does not decide, its form may change.
            Tag::Known(pinned)
                if (self.digest.is_some() || self.etag.strong().is_none())
                    && opaque(pinned.as_deref()) == opaque(etag.as_deref()) => {}
            Tag::Known(pinned) => return Err(changed(subject, "ETag", pinned, &etag)),
        }
        if let Some(due) = self.unmodified_since() {
            let got = head::text(headers, "last-modified");
            if got.as_deref() != Some(due) {
                return Err(changed(subject, "Last-Modified", &self.modified, &got));
            }
        }
        Ok(())
    }
}

/// A tag without what makes it a weak one.
fn opaque(etag: Option<&str>) -> Option<&str> {
    etag.map(|etag| etag.strip_prefix("W/").unwrap_or(etag))
}

/// Another version than the pinned one.
pub(crate) fn changed(
    subject: &str,
    field: &'static str,
    want: &Option<String>,
    got: &Option<String>,
) -> Error {
    let shown = |text: &Option<String>| text.clone().unwrap_or_else(|| "none".to_owned());
    Error::Changed { subject: subject.to_owned(), field, want: shown(want), got: shown(got) }
}

/// Another size than the pinned one.
pub(crate) fn resized(subject: &str, want: u64, got: u64) -> Error {
    let (want, got) = (want.to_string(), got.to_string());
    Error::Changed { subject: subject.to_owned(), field: "size", want, got }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::head::modified;

    const DAY: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const NEXT: &str = "Sun, 06 Nov 1994 08:49:38 GMT";

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (n.parse().unwrap(), v.parse().unwrap())).collect()
    }

    #[test]
    fn a_time_counts_only_where_its_second_is_over() {
        let told = |pairs: &[(&'static str, &str)]| modified(&headers(pairs));
        assert_eq!(told(&[("last-modified", DAY), ("date", NEXT)]).as_deref(), Some(DAY));
        assert_eq!(told(&[("last-modified", DAY), ("date", DAY)]), None);
        assert_eq!(told(&[("last-modified", NEXT), ("date", DAY)]), None);
        assert_eq!(told(&[("last-modified", DAY)]), None);
        assert_eq!(told(&[("last-modified", "yesterday"), ("date", NEXT)]), None);
    }

    #[test]
    fn what_holds_an_answer_to_its_version() {
        let pin = |etag: Option<&str>, modified: Option<&str>, digest: bool| Pin {
            size: 1,
            etag: Tag::Known(etag.map(str::to_owned)),
            modified: modified.map(str::to_owned),
            digest: digest.then_some([0; 32]),
        };
        let holds = |mut pin: Pin, pairs: &[(&'static str, &str)]| {
            pin.hold(&headers(pairs), "s3://b/k").is_ok()
        };
        let (strong, weak) = (Some("\"a\""), Some("W/\"a\""));
        assert!(holds(pin(strong, None, false), &[("etag", "\"a\"")]));
        assert!(!holds(pin(strong, None, false), &[("etag", "W/\"a\"")]));
        assert!(!holds(pin(strong, None, false), &[]));
        assert!(holds(pin(strong, None, true), &[("etag", "W/\"a\"")]), "a digest decides");
        assert!(!holds(pin(strong, None, true), &[("etag", "\"b\"")]));
        assert!(holds(pin(weak, Some(DAY), false), &[("etag", "W/\"a\""), ("last-modified", DAY)]));
        assert!(!holds(
            pin(weak, Some(DAY), false),
            &[("etag", "W/\"a\""), ("last-modified", NEXT)]
        ));
        assert!(!holds(pin(weak, Some(DAY), false), &[("etag", "W/\"a\"")]));
        assert!(!holds(pin(None, Some(DAY), false), &[("last-modified", NEXT)]));
        // A strong tag says more than a time.
        let other_time = [("etag", "\"a\""), ("last-modified", NEXT)];
        assert!(holds(pin(strong, Some(DAY), false), &other_time));
        assert!(
            !pin(weak, None, false).may_go_on() && !pin(weak, Some(DAY), false).may_have_parts()
        );
    }
}
