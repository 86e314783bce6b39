//! A part of a file, as a stream: a blob of a layout, or a member of an archive.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use fetch::image::{DOCUMENT_BYTES_MAX, Document};

use crate::error::Error;
use crate::error::leaves::unusable;

/// Bytes of a file from `offset` on. Readers of one file do not disturb each other.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    file: Arc<File>,
    offset: u64,
    left: u64,
}

impl Piece {
    pub(crate) fn new(file: Arc<File>, offset: u64, bytes: u64) -> Piece {
        Piece { file, offset, left: bytes }
    }

    /// Bytes that are not read yet.
    pub(crate) fn bytes(&self) -> u64 {
        self.left
    }

    /// A document, within its bound; `shown` is the place that it is of.
    ///
    /// # Errors
    /// [`Error::Image`] where it is larger; [`Error::Io`].
    pub(crate) fn document(&self, document: Document, shown: &str) -> Result<Vec<u8>, Error> {
        let (bytes, bytes_max) = (self.left, DOCUMENT_BYTES_MAX);
        if bytes > bytes_max {
            let source = fetch::image::Error::TooLarge { document, bytes, bytes_max };
            return Err(unusable(shown)(source));
        }
        self.whole().map_err(|source| Error::Io { doing: "read", path: shown.into(), source })
    }

    /// All of it; the caller has bounded its size.
    pub(crate) fn whole(&self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.clone().read_to_end(&mut bytes)?;
        match bytes.len() as u64 == self.left {
            true => Ok(bytes),
            false => {
                Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file has become shorter"))
            }
        }
    }
}

/// A file from its beginning to wherever it ends. Its own offset is left alone: whoever opened it may have it still.
#[derive(Debug)]
pub(crate) struct Whole {
    file: Arc<File>,
    offset: u64,
}

impl Whole {
    pub(crate) fn new(file: Arc<File>) -> Whole {
        Whole { file, offset: 0 }
    }
}

impl Read for Whole {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(to, self.offset)?;
        self.offset += read as u64;
        Ok(read)
    }
}

impl Read for Piece {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(to.len());
        let read = self.file.read_at(&mut to[..most], self.offset)?;
        if read == 0 && most > 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the file has become shorter while it was read",
            ));
        }
        self.offset += read as u64;
        self.left -= read as u64;
        Ok(read)
    }
}
