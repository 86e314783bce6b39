//! The tree in an ext4 image, read without a mount.

use std::fs::File;
use std::sync::Arc;

use crate::diff::source::{EachPiece, Listed, Source, Target};
use crate::error::Fault;
use crate::ext4::format::decode_inode::Inode;
use crate::ext4::read::content::{parts, pieces};
use crate::ext4::read::cost::Cost;
use crate::ext4::read::image::Image;
use crate::ext4::read::replay::open;
use crate::ext4::read::walk::{How, names_of};
use crate::limits::Limits;
use crate::record::piece::Parts;
use crate::record::place::Spill;
use crate::tree::budget::Budget;

/// See the module. The number of a name is its inode.
pub(crate) struct Ext4<'f> {
    image: Image<'f>,
    how: How,
}

impl<'f> Ext4<'f> {
    /// Opens an image; with `replay` what is in its journal counts.
    pub(crate) fn open(
        file: &'f File,
        (limits, budget): (&Limits, Budget),
        replay: bool,
        spill: Option<Arc<Spill>>,
    ) -> Result<Ext4<'f>, Fault> {
        let image = open(file, Cost::new(limits, budget), replay)?;
        Ok(Ext4 { image, how: How { spill, strict: false, replay } })
    }

    fn inode(&mut self, file: Target<'_>) -> Result<Inode, Fault> {
        // It was one when the name was met.
        self.image.inode(u32::try_from(file.number).unwrap_or(0))
    }
}

impl Source for Ext4<'_> {
    fn names(&mut self) -> Result<Listed, Fault> {
        let (names, sockets) = names_of(&mut self.image, &self.how)?;
        Ok(Listed { names, sockets })
    }

    fn content(&mut self, file: Target<'_>, each: &mut EachPiece<'_>) -> Result<(), Fault> {
        let inode = self.inode(file)?;
        pieces(&mut self.image, &inode, each)
    }

    fn parts(&mut self, file: Target<'_>, max: usize) -> Result<Option<Parts>, Fault> {
        let inode = self.inode(file)?;
        parts(&mut self.image, &inode, max)
    }
}
