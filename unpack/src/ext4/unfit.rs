//! Why an image cannot be what a layer goes on in, or cannot be made.

use std::{error, fmt, io};

use crate::error::refusal::Refusal;

/// See the module. What is not ours is never touched.
#[derive(Debug)]
pub enum Unfit {
    /// It has no file system at all: it reads as zeros.
    Empty,
    /// It holds something, but nothing that this program has made.
    Foreign,
    /// It was made by another version of the format.
    Version(u32),
    /// A layer was begun in it and never ended.
    Unsealed,
    /// It is not as it was sealed: somebody has mounted it read-write, or it is damaged.
    Changed,
    /// It is shorter than its file system, as a copy that was not ended.
    Short {
        /// Bytes of the file system.
        bytes: u64,
        /// Bytes that are there.
        have: u64,
    },
    /// There is no room behind it for what it shall become.
    NoRoom {
        /// Bytes of the larger file system.
        bytes: u64,
        /// Bytes that are there.
        have: u64,
    },
    /// It is not empty, and so nothing is made in it.
    InUse {
        /// The first byte that is not zero.
        at: u64,
    },
    /// No file system can have that size or shape.
    Geometry(Box<Refusal>),
    /// It cannot be read or written.
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

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unfit::Empty => f.write_str("there is no file system; make one with --blank"),
            Unfit::Foreign => {
                f.write_str("it holds something that this program has not made; it was left alone")
            }
            Unfit::Version(version) => write!(
                f,
                "it was made by version {version} of the format, and this program has version {}; \
                 make it anew",
                crate::ext4::format::superblock::VERSION
            ),
            Unfit::Unsealed => {
                f.write_str("a layer was begun in it and has not ended; if no other process is writing it now, throw it \
                 away and make it anew")
            }
            Unfit::Changed => f.write_str(
                "it is not as it was sealed: it was mounted for writing, or is damaged; only what \
                 nobody has written to can get another layer",
            ),
            Unfit::Short { bytes, have } => write!(
                f,
                "its file system has {bytes} bytes, and only {have} are there: it was cut short; nothing \
                 was written"
            ),
            Unfit::NoRoom { bytes, have } => write!(
                f,
                "its file system would have {bytes} bytes, and only {have} are there: give it a longer file \
                 or device; nothing was written"
            ),
            Unfit::InUse { at } if *at == crate::ext4::format::superblock::MARK_OFFSET => f.write_str(
                "it is not empty, but holds a file system of this program: --force makes it anew; nothing \
                 was written",
            ),
            Unfit::InUse { at } => {
                write!(f, "it is not empty: byte {at} is not zero; nothing was written")
            }
            Unfit::Geometry(refusal) => refusal.fmt(f),
            Unfit::Io { call, .. } => write!(f, "unable to {call} it"),
        }
    }
}

impl error::Error for Unfit {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        self.failed().map(|error| error as _)
    }
}
