//! By what signatures of an image are known: the tags that they have, and what an entry of a list says that it is.

use crate::image::cosign::words;
use crate::image::descriptor::{NAME, Raw};
use crate::image::digest::Digest;

/// The tag under which cosign's older form has the signatures of an image.
pub fn signature_tag(image: &Digest) -> String {
    format!("sha256-{}.sig", image.hex())
}

/// The tag under which a registry that cannot list what refers to an image has that list (distribution-spec, "Referrers
/// Tag Schema").
pub fn referrers_tag(image: &Digest) -> String {
    format!("sha256-{}", image.hex())
}

/// How likely it is that an entry has signatures, 0 the most; none: it says that it is something else.
pub(super) fn likely(raw: &Raw) -> Option<u8> {
    if raw.annotation(words::SAYS).is_some_and(|says| says != words::SIGN) {
        return None;
    }
    match raw.artifact_type() {
        words::BUNDLE | words::SIMPLE_ARTIFACT => Some(0),
        // What lists an artifact does not always know what it is.
        "" | words::EMPTY => Some(1),
        _ => None,
    }
}

/// Whether an entry of a layout says that it is signatures of some image, and so is no image itself.
pub(crate) fn is_signatures(raw: &Raw) -> bool {
    is_artifact(raw) || raw.annotation(NAME).is_some_and(|name| is_tag_of_signatures(&name))
}

/// Whether it says so without a tag, which would say of which image.
pub(super) fn is_artifact(raw: &Raw) -> bool {
    likely(raw) == Some(0) || raw.annotation(words::KIND).as_deref() == Some(words::KIND_SIGNATURES)
}

/// Whether a tag is one of those that go with an image: `sha256-<hex>`, or that with `.sig`.
fn is_tag_of_signatures(tag: &str) -> bool {
    let Some(rest) = tag.strip_prefix("sha256-") else { return false };
    let hex = rest.strip_suffix(".sig").unwrap_or(rest);
    hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}
