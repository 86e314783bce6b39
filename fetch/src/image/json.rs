//! Documents of JSON, bounded.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{DeserializeOwned, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::image::error::{Document, Error};

/// The largest manifest, index or config that is read, bytes (distribution-spec expects at least as much of
/// a registry).
pub const DOCUMENT_BYTES_MAX: u64 = 4 << 20;

/// A list of at most `MAX`. What stands behind them is counted and not kept: an empty object of two bytes would take
/// a hundred in memory.
#[derive(Debug)]
pub(super) struct Few<T, const MAX: usize> {
    list: Vec<T>,
    more: usize,
}

impl<T, const MAX: usize> Few<T, MAX> {
    /// All of them.
    ///
    /// # Errors
    /// [`Error::TooMany`] of `what`.
    pub(super) fn all(self, document: Document, what: &'static str) -> Result<Vec<T>, Error> {
        match self.more {
            0 => Ok(self.list),
            more => {
                let (got, max) = ((MAX + more) as u64, MAX as u64);
                Err(Error::TooMany { document, what, got, max })
            }
        }
    }
}

impl<T, const MAX: usize> Few<T, MAX> {
    /// The first of them, and how many there are besides.
    pub(super) fn first(self) -> (Vec<T>, usize) {
        (self.list, self.more)
    }
}

impl<T, const MAX: usize> Default for Few<T, MAX> {
    fn default() -> Few<T, MAX> {
        Few { list: Vec::new(), more: 0 }
    }
}

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for Few<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Few<T, MAX>, D::Error> {
        struct Read<T, const MAX: usize>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for Read<T, MAX> {
            type Value = Few<T, MAX>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<S: SeqAccess<'de>>(self, mut from: S) -> Result<Few<T, MAX>, S::Error> {
                let mut few = Few::default();
                while few.list.len() < MAX {
                    match from.next_element()? {
                        Some(one) => few.list.push(one),
                        None => return Ok(few),
                    }
                }
                while from.next_element::<IgnoredAny>()?.is_some() {
                    few.more += 1;
                }
                Ok(few)
            }
        }

        from.deserialize_seq(Read(PhantomData))
    }
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
