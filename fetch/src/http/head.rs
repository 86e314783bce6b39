//! The head of an answer: single headers, read.

use ureq::http::HeaderMap;

use crate::error::Error;
use crate::s3::listing::entity_tag;
use crate::text::date;

/// A header's value, if it is text.
pub(crate) fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

/// `Last-Modified`, if an object that is changed after this answer has another one: whole seconds are told,
/// so the answer's own second must be a later one (RFC 9110 8.8.2.2).
pub(crate) fn modified(headers: &HeaderMap) -> Option<String> {
    let modified = text(headers, "last-modified")?;
    let (changed, now) = (date::http(&modified)?, date::http(&text(headers, "date")?)?);
    (now > changed).then_some(modified)
}

/// The entity tag of an answer.
pub(crate) fn etag(headers: &HeaderMap, subject: &str) -> Result<Option<String>, Error> {
    let Some(value) = headers.get("etag") else { return Ok(None) };
    let text = String::from_utf8_lossy(value.as_bytes());
    entity_tag(&text).map_err(|why| Error::Malformed {
        subject: subject.to_owned(),
        why,
        got: text.clone().into_owned(),
    })
}
