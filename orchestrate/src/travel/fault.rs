//! What can be wrong with a stream, as data and in words.

use std::fmt;
use std::io;

/// Why a stream is not taken, or not whole.
#[derive(Debug)]
pub enum Fault {
    /// It could not be read or written.
    Io(io::Error),
    /// It ends where it must go on.
    Ends {
        /// Bytes that came.
        at: u64,
    },
    /// It does not begin as one.
    NoStream,
    /// What it says of itself is not what this program knows.
    Head {
        /// What of it.
        what: String,
    },
    /// A number is beyond what may be.
    Beyond {
        /// Which.
        what: &'static str,
        /// What it is.
        value: u64,
        /// What it may be at most.
        limit: u64,
    },
    /// An entry makes no sense.
    Entry {
        /// Where it is, bytes from the beginning.
        at: u64,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A block is not what its digest says.
    Block {
        /// Its number.
        block: u64,
    },
    /// The index, the trailer or a digest over all does not fit what came before.
    Seal {
        /// What of it.
        what: &'static str,
    },
    /// There is more after its end.
    Longer {
        /// Where it ended.
        at: u64,
    },
}

impl Fault {
    /// Whether the stream was cut or could not be read: what came of it is good, and can be gone on from.
    pub(crate) fn is_cut(&self) -> bool {
        match self {
            Fault::Io(_) | Fault::Ends { .. } => true,
            Fault::NoStream
            | Fault::Head { .. }
            | Fault::Beyond { .. }
            | Fault::Entry { .. }
            | Fault::Block { .. }
            | Fault::Seal { .. }
            | Fault::Longer { .. } => false,
        }
    }
}

impl Fault {
    /// Whether what came before it is what it was sent as: what each digest is of was compared. Else a block may have
    /// come under the number of another.
    pub(crate) fn leaves_good(&self) -> bool {
        match self {
            Fault::Io(_) | Fault::Ends { .. } | Fault::Block { .. } => true,
            Fault::NoStream
            | Fault::Head { .. }
            | Fault::Beyond { .. }
            | Fault::Entry { .. }
            | Fault::Seal { .. }
            | Fault::Longer { .. } => false,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Io(source) => write!(f, "it cannot be read: {source}"),
            Fault::Ends { at } => write!(f, "it ends after {at} bytes, before its end"),
            Fault::NoStream => {
                write!(f, "it is no stream of a disk, or one of another version of this program")
            }
            Fault::Head { what } => write!(f, "what it says of itself cannot be used: {what}"),
            Fault::Beyond { what, value, limit } => {
                write!(f, "{what} is {value}, and may be at most {limit}")
            }
            Fault::Entry { at, what } => write!(f, "the entry at byte {at}: {what}"),
            Fault::Block { block } => {
                write!(f, "block {block} is not what its sha256 in the stream says")
            }
            Fault::Seal { what } => write!(f, "{what}"),
            Fault::Longer { at } => {
                write!(f, "it ends at byte {at}, and more bytes follow, which are none of it")
            }
        }
    }
}

impl std::error::Error for Fault {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Fault::Io(source) => Some(source),
            Fault::Ends { .. }
            | Fault::NoStream
            | Fault::Head { .. }
            | Fault::Beyond { .. }
            | Fault::Entry { .. }
            | Fault::Block { .. }
            | Fault::Seal { .. }
            | Fault::Longer { .. } => None,
        }
    }
}
