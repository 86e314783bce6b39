//! Documents of JSON, bounded.

use serde::de::DeserializeOwned;

use crate::image::error::{Document, Error};

/// The largest manifest, index or config that is read, bytes (distribution-spec expects at least as much of
/// a registry).
pub const DOCUMENT_BYTES_MAX: u64 = 4 << 20;

/// Reads a document. Unknown fields are no error (image-spec, considerations.md); a field twice is one.
pub(super) fn read<T: DeserializeOwned>(document: Document, bytes: &[u8]) -> Result<T, Error> {
    let length = bytes.len() as u64;
    if length > DOCUMENT_BYTES_MAX {
        return Err(Error::TooLarge { document, bytes: length, bytes_max: DOCUMENT_BYTES_MAX });
    }
    serde_json::from_slice(bytes).map_err(|error| Error::Json {
        document,
        // The text may quote what stands there.
        source: error.to_string().chars().flat_map(char::escape_debug).take(200).collect(),
    })
}
