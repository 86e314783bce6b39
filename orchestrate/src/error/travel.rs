//! Why a disk was not sent or received, beyond what a store or a file says itself.

use std::fmt;

use registry::Digest;

use crate::error::class::Class;
use crate::travel::fault::Fault;

/// What keeps a disk from travelling.
#[derive(Debug)]
pub enum NotMoved {
    /// Activations of this store are directories.
    Directories,
    /// Somebody has the disk open, and no point was named.
    Open {
        /// The activation.
        name: String,
        /// Who, in words.
        by: String,
    },
    /// The stack below the disk has no block digest.
    NoDigest {
        /// The activation.
        name: String,
        /// The image.
        image: String,
    },
    /// The stream is not what it should be, or not all of it came.
    Stream {
        /// What is wrong.
        fault: Fault,
        /// All blocks below this one are here, of so many; none where nothing of it is.
        here: Option<(u64, u64)>,
        /// The activation that it is for.
        name: String,
    },
    /// The image's stack is not here.
    NotHere {
        /// The image.
        image: String,
        /// The chain id of its stack.
        chain: Digest,
    },
    /// The image's stack is here, with other blocks.
    OtherBlocks {
        /// The image.
        image: String,
        /// The block digest here.
        here: Option<Digest>,
        /// The one that the stream needs.
        wanted: Digest,
    },
    /// The store has blocks of another size.
    BlockSize {
        /// Bytes here.
        here: u64,
        /// Bytes in the stream.
        sent: u64,
    },
    /// The activation has no point that an incremental stream stands on.
    NoBase {
        /// The activation.
        name: String,
        /// What the point has to be.
        identity: Digest,
    },
    /// The stream begins later than what is here ends.
    Gap {
        /// All blocks below this one are here.
        here: u64,
        /// The stream's first.
        begins: u64,
    },
    /// Another disk arrives under this name.
    Another {
        /// The name.
        name: String,
    },
    /// What came earlier is not what the index says.
    Differs {
        /// The first such block.
        block: u64,
        /// The activation that it was to be.
        name: String,
    },
}

impl NotMoved {
    /// Its class.
    pub(crate) fn class(&self) -> Class {
        match self {
            NotMoved::Open { .. } => Class::Temporary,
            NotMoved::Stream { fault, .. } if fault.is_cut() => Class::Temporary,
            NotMoved::Stream { .. } | NotMoved::Differs { .. } => Class::Refused,
            NotMoved::Directories
            | NotMoved::NoDigest { .. }
            | NotMoved::BlockSize { .. }
            | NotMoved::Gap { .. }
            | NotMoved::Another { .. } => Class::Usage,
            NotMoved::NotHere { .. } | NotMoved::OtherBlocks { .. } | NotMoved::NoBase { .. } => {
                Class::NotFound
            }
        }
    }
}

impl fmt::Display for NotMoved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotMoved::Directories => write!(
                f,
                "activations of a directory store are directories, which have no blocks to send or receive; \
                 `orchestrate export` writes what one has changed as a layer"
            ),
            NotMoved::Open { name, by } => write!(
                f,
                "activation {name} is in use: {by}. What is sent must not change meanwhile: make a point of it and \
                 send that, `orchestrate snapshot {name} POINT` and `orchestrate send {name} --point POINT`"
            ),
            NotMoved::NoDigest { name, image } => write!(
                f,
                "activation {name} stands on {}, which has no block digest here that a receiver could compare; send \
                 all its blocks by --whole",
                image.escape_debug()
            ),
            NotMoved::Stream { fault, here, name } => {
                write!(f, "the stream for {name}: {fault}")?;
                match here {
                    None => Ok(()),
                    Some((next, blocks)) => write!(
                        f,
                        ". Blocks below {next} of {blocks} are here: the same `orchestrate receive` with the same \
                         stream goes on from there, or with one that `orchestrate send --from {next}` makes"
                    ),
                }
            }
            NotMoved::NotHere { image, chain } => write!(
                f,
                "the disk stands on {} with the chain id {chain}, which is not on this host: \
                 `orchestrate ensure {}` first",
                image.escape_debug(),
                image.escape_debug()
            ),
            NotMoved::OtherBlocks { image, here, wanted } => {
                let here = here.map_or("none".to_owned(), |here| here.to_string());
                write!(
                    f,
                    "the disk stands on {} with the block digest {wanted}, and that of this host is {here}: it cannot \
                     be put on that; have it sent by --whole",
                    image.escape_debug()
                )
            }
            NotMoved::BlockSize { here, sent } => write!(
                f,
                "the stream has blocks of {sent} bytes, and this pool has blocks of {here}: they have to be equal"
            ),
            NotMoved::NoBase { name, identity } => write!(
                f,
                "the stream stands on the point with the identity {identity}, which {name} does not have: receive \
                 that point first, or send without --since; `orchestrate points {name}` lists those that are here"
            ),
            NotMoved::Gap { here, begins } => write!(
                f,
                "the stream begins at block {begins}, and only blocks below {here} are here: send from {here} or \
                 before, `orchestrate send --from {here}`"
            ),
            NotMoved::Another { name } => write!(
                f,
                "a part of another disk has arrived as {name}: receive the rest of that, or give it up by \
                 `orchestrate receive {name} --restart`"
            ),
            NotMoved::Differs { block, name } => write!(
                f,
                "block {block}, which came earlier, is not what the index of the stream says: what had arrived as \
                 {name} is given up; receive it again from its beginning"
            ),
        }
    }
}
