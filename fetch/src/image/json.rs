//! Documents of JSON, bounded.

use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use crate::image::descriptor::Media;
use crate::image::error::{Document, Error};

/// The largest manifest, index or config that is read, bytes (distribution-spec expects at least as much of
/// a registry).
pub const DOCUMENT_BYTES_MAX: u64 = 4 << 20;

/// Which document these bytes are that a digest names: an index or a manifest, by their own words.
///
/// # Errors
/// [`Error::Json`], [`Error::TooLarge`].
pub fn told(bytes: &[u8]) -> Result<Media, Error> {
    #[derive(Deserialize)]
    struct Head {
        #[serde(default, rename = "mediaType")]
        media_type: Option<String>,
        #[serde(default)]
        manifests: Option<IgnoredAny>,
    }
    let head: Head = read(Document::Manifest, bytes)?;
    Ok(match (head.media_type, head.manifests) {
        (Some(media_type), _) => Media::of(&media_type),
        (None, Some(_)) => Media::Index,
        (None, None) => Media::Manifest,
    })
}

/// Whether this is the `oci-layout` of a layout of a version that is known (image-spec, image-layout.md).
///
/// # Errors
/// [`Error::Json`], [`Error::Field`], [`Error::TooLarge`].
pub fn is_layout(bytes: &[u8]) -> Result<(), Error> {
    #[derive(Deserialize)]
    struct Layout {
        #[serde(default, rename = "imageLayoutVersion")]
        version: Option<String>,
    }
    let document = Document::Layout;
    let layout: Layout = read(document, bytes)?;
    match layout.version {
        Some(version) if version.starts_with("1.") => Ok(()),
        version => Err(Error::Field {
            document,
            field: "imageLayoutVersion",
            got: version.unwrap_or_default(),
            why: "of all versions only 1 is known",
        }),
    }
}

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
