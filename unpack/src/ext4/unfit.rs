//! Why an image cannot be what a layer goes on in, or cannot be made.

use std::io;

use crate::error::refusal::Refusal;
use crate::ext4::format::superblock::{MARK_OFFSET, VERSION};

/// See the module. What is not ours is never touched.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    /// It has no file system at all: it reads as zeros.
    #[error("there is no file system; make one with --blank")]
    Empty,
    /// It holds something, but nothing that this program has made.
    #[error("it holds something that this program has not made; it was left alone")]
    Foreign,
    /// It was made by another version of the format.
    #[error(
        "it was made by version {0} of the format, and this program has version {VERSION}; create it again"
    )]
    Version(u32),
    /// A layer was begun in it and never ended.
    #[error(
        "a layer was begun in it and has not ended; if no other process is writing it now, throw it \
         away and create it again"
    )]
    Unsealed,
    /// It is not as it was sealed: somebody has mounted it read-write, or it is damaged.
    #[error(
        "it is not as it was sealed: it was mounted for writing, or is damaged; a layer can be added \
         only to an unchanged image"
    )]
    Changed,
    /// It is shorter than its file system, as a copy that was not ended.
    #[error(
        "its file system has {bytes} bytes, and only {have} are there: it was cut short; nothing \
         was written"
    )]
    Short {
        /// Bytes of the file system.
        bytes: u64,
        /// Bytes that are there.
        have: u64,
    },
    /// There is no room behind it for what it shall become.
    #[error(
        "its file system would have {bytes} bytes, and only {have} are there: give it a longer file \
         or device; nothing was written"
    )]
    NoRoom {
        /// Bytes of the larger file system.
        bytes: u64,
        /// Bytes that are there.
        have: u64,
    },
    /// It is not empty, and so nothing is made in it.
    #[error("it is not empty{}; nothing was written", found(*.at))]
    InUse {
        /// The first byte that is not zero.
        at: u64,
    },
    /// No file system can have that size or shape.
    #[error("{0}")]
    Geometry(Box<Refusal>),
    /// It cannot be read or written.
    #[error("unable to {call} it")]
    Io {
        /// The call.
        call: &'static str,
        /// Why.
        source: io::Error,
    },
}

impl Unfit {
    pub(crate) fn read(source: io::Error) -> Unfit {
        Unfit::Io { call: "read", source }
    }

    pub(crate) fn write(source: io::Error) -> Unfit {
        Unfit::Io { call: "write", source }
    }
}

impl Unfit {
    /// Whether it stays so however often the same is tried: only a read or a write may succeed another time.
    pub fn is_final(&self) -> bool {
        self.failed().is_none()
    }

    /// The error of a read or a write; all others are found by a look.
    fn failed(&self) -> Option<&io::Error> {
        match self {
            Unfit::Io { source, .. } => Some(source),
            Unfit::Empty
            | Unfit::Foreign
            | Unfit::Version(_)
            | Unfit::Unsealed
            | Unfit::Changed
            | Unfit::Short { .. }
            | Unfit::NoRoom { .. }
            | Unfit::InUse { .. }
            | Unfit::Geometry(_) => None,
        }
    }
}

/// What was found at the first byte that is not zero.
fn found(at: u64) -> String {
    match at == MARK_OFFSET {
        true => ", but holds a file system of this program: --force replaces it".to_owned(),
        false => format!(": byte {at} is not zero"),
    }
}
