//! A tree of a directory store that is open: to be filled by one apply, or to be read.

use std::path::PathBuf;

use registry::VolumeId;

use crate::error::Error;
use crate::store::content::Content;
use crate::store::dir_files::{replace, tree_error};
use crate::store::seam::{Reading, Tree, View, Work};

/// A tree that is open for one apply.
pub(super) struct DirWork {
    pub(super) root: unpack::Root,
    pub(super) bytes: u64,
    pub(super) id: VolumeId,
    pub(super) notes: PathBuf,
}

/// A sealed tree that is open to be read.
pub(super) struct DirView(pub(super) unpack::Root, pub(super) PathBuf);

impl View for DirView {
    fn tree(&self) -> Tree<'_> {
        Tree::Directory(&self.1)
    }

    fn root(&self) -> &unpack::Root {
        &self.0
    }

    fn close(self: Box<Self>) -> Result<(), Error> {
        Ok(())
    }
}

impl Reading for DirView {
    fn content(&self) -> Content<'_> {
        Content::Tree(&self.0)
    }

    fn close(self: Box<Self>) -> Result<(), Error> {
        Ok(())
    }
}

impl Work for DirWork {
    fn content(&self) -> Content<'_> {
        Content::Tree(&self.root)
    }

    /// The file system below is shared with others: it is asked when it is full, not before.
    fn make_room(&mut self, _bytes: u64) -> Result<(), Error> {
        Ok(())
    }

    fn has_room(&self, _bytes: u64) -> Result<(), Error> {
        Ok(())
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn close(self: Box<Self>, seal_record: Option<&[u8]>) -> Result<(), Error> {
        unpack::sync(&self.root).map_err(tree_error("sync the layer"))?;
        match seal_record {
            Some(seal_record) => replace(&self.notes, &self.id.to_string(), seal_record),
            None => Ok(()),
        }
    }
}
