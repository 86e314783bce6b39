//! Why an image was not pushed, beyond what a server or a file says itself.

use std::fmt;
use std::path::PathBuf;

use crate::error::class::Class;

/// What keeps an image from being named in the index of a bucket.
#[derive(Debug)]
pub enum NotPushed {
    /// The server writes an object although the condition of the request does not hold.
    Ignores {
        /// The server.
        endpoint: String,
        /// The bucket.
        bucket: String,
        /// Where it is remembered, and for how many seconds it has been known; none where it was found just now.
        known: Option<(PathBuf, u64)>,
    },
    /// Others changed the index each time that it was to be written.
    Raced {
        /// The index.
        index: String,
        /// How often it was tried.
        tries: u32,
    },
    /// The server tells no strong ETag of the index, so that no condition can be made of it.
    NoTag {
        /// The index.
        index: String,
    },
}

impl NotPushed {
    /// Its class.
    pub(crate) fn class(&self) -> Class {
        match self {
            NotPushed::Raced { .. } => Class::Temporary,
            NotPushed::Ignores { .. } | NotPushed::NoTag { .. } => Class::Refused,
        }
    }
}

impl fmt::Display for NotPushed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotPushed::Ignores { endpoint, bucket, known } => {
                write!(
                    f,
                    "the server {} ignores If-Match and If-None-Match in bucket {bucket:?}, so that two \
                     pushes at once would lose the tag of one; where nobody else pushes, \
                     --unsafe-index writes index.json all the same",
                    endpoint.escape_debug()
                )?;
                match known {
                    Some((file, age)) => write!(
                        f,
                        " (this was found {age} s ago and is believed for a day; remove {} to have it \
                         tried again)",
                        file.display().to_string().escape_debug()
                    ),
                    None => Ok(()),
                }
            }
            NotPushed::Raced { index, tries } => write!(
                f,
                "{}: others wrote it each of the {tries} times that the tag was to be added; every blob \
                 is there, and the same push again sends none of them",
                index.escape_debug()
            ),
            NotPushed::NoTag { index } => write!(
                f,
                "{}: the server tells no strong ETag of it, so that it cannot be changed without losing \
                 what others write; where nobody else pushes, --unsafe-index writes it all the same",
                index.escape_debug()
            ),
        }
    }
}
