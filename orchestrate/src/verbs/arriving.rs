//! The bytes of a layer on their way to the unpacker, wherever they come from.

use std::io::{self, Read};

use fetch::Ahead;
use registry::Digest;
use sha2::{Digest as _, Sha256};

use crate::local::piece::Piece;

/// Bytes of a local layer that are read once more when it was refused. A hole in a file can be larger than that for
/// nothing.
const DRAINED_MAX: u64 = 256 << 20;

/// A layer on its way.
#[derive(Debug)]
pub(crate) enum Arriving {
    /// From a server, by a thread that reads ahead.
    Fetched(Ahead),
    /// From a file of this host.
    Local {
        /// All of it.
        whole: Piece,
        /// What is not read yet.
        rest: Piece,
    },
}

impl Arriving {
    pub(crate) fn local(piece: &Piece) -> Arriving {
        Arriving::Local { whole: piece.clone(), rest: piece.clone() }
    }

    /// It is put to use, or refused for good: no copy is wanted any more.
    pub(crate) fn discard_spool(&self) {
        match self {
            Arriving::Fetched(ahead) => ahead.discard_spool(),
            Arriving::Local { .. } => {}
        }
    }

    /// Lets go, so that another reader of the same object may begin.
    pub(crate) fn release(self) {
        match self {
            Arriving::Fetched(ahead) => ahead.release(),
            Arriving::Local { .. } => {}
        }
    }

    /// What the stream itself says of what came; known only after its end, and only of what was fetched.
    pub(crate) fn digest(&self) -> Option<Digest> {
        match self {
            Arriving::Fetched(ahead) => ahead.summary().map(|summary| Digest(summary.sha256)),
            Arriving::Local { .. } => None,
        }
    }

    /// Of so many bytes, those that came over the network just now.
    pub(crate) fn fetched(&self, bytes: u64) -> u64 {
        match self {
            Arriving::Fetched(ahead) => {
                bytes.saturating_sub(ahead.summary().map_or(0, |summary| summary.reused))
            }
            Arriving::Local { .. } => 0,
        }
    }

    /// The MD5 of all that was read, where it was wanted.
    pub(crate) fn md5(&self) -> Option<[u8; 16]> {
        match self {
            Arriving::Fetched(ahead) => ahead.md5(),
            Arriving::Local { .. } => None,
        }
    }

    /// Reads on to the end, and gives digest and size of the whole; none where it fails before, and of a file of this
    /// host that is large: to read that again costs no more than to find out now whether it is the same.
    pub(crate) fn drained(&mut self) -> Option<(Digest, u64)> {
        match self {
            Arriving::Fetched(ahead) => {
                io::copy(ahead, &mut io::sink()).ok()?;
                ahead.summary().map(|summary| (Digest(summary.sha256), summary.bytes))
            }
            Arriving::Local { whole, .. } if Piece::bytes(whole) > DRAINED_MAX => None,
            Arriving::Local { whole, .. } => {
                let mut hash = Sha256::new();
                let bytes = io::copy(&mut whole.clone(), &mut hash).ok()?;
                Some((Digest(hash.finalize().into()), bytes))
            }
        }
    }
}

impl Read for Arriving {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        match self {
            Arriving::Fetched(ahead) => ahead.read(to),
            Arriving::Local { rest, .. } => rest.read(to),
        }
    }
}
