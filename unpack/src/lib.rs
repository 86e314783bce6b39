//! A hostile tar becomes a file tree under one directory fd.
//!
//! [`apply`] takes the bytes of one OCI layer and a [`Root`], and makes the tree below the root
//! what the layer says, or refuses. Nothing outside the root is named, followed or changed.
//! Where layers come from, where trees live and what happens to a tree that was refused are for
//! the caller.
//!
//! Bytes go through these modules: `compression` > `buffers` > `archive` (frames) > `header`,
//! `pax` (fields) > `entry` (meaning) > `apply` (effect), which acts through `dirs` (parents) and
//! `make` (nodes) on a `sink`: what a kind of tree has to offer. `fd` is the tree below a directory, by
//! system calls. Beside that, `content` hashes the stream and the files in it, and `budget` counts the
//! work that all of it may cause.

mod archive;
mod diff;
mod error;
mod ext4;
mod limits;
mod read;
mod record;
pub mod sandbox;
mod sha;
mod sys;
mod tree;

/// Raised with every change of what is refused: what another version refused may be fine.
pub const VERSION: u32 = 5;

pub use archive::End;
pub use archive::entry::{Entry, Node, Xattrs};
pub use archive::members::{Member, MemberKind, compression, members, plain};
pub use archive::pack::Packer;
pub use archive::pax::Time;
pub use archive::timed::Timed;
pub use diff::{Diffed, diff_images, diff_trees};
pub use error::escape::{Escaped, escaped, escaped_whole};
pub use error::image::{Flaw, FlawKind};
pub use error::refusal::{Class, DependsOn, Place, Refusal, Space, Value};
pub use error::stop::Stop;
pub use error::{Error, Kind};
pub use ext4::apply::{
    Before, ImageError, apply_image, drop_journal, geometry, grow_image, is_marked, layers,
    make_blank, mark,
};
pub use ext4::chunks::list::{Chunks, ChunksError};
pub use ext4::chunks::read::Compared;
pub use ext4::format::geometry::Geometry;
pub use ext4::read::manifest::{image_manifest, image_manifest_replayed, image_manifest_strict};
pub use ext4::unfit::Unfit;
pub use limits::Compression;
pub use limits::{Devices, Limits, Walls};
pub use read::clone::{Cloned, clone_tree};
pub use read::digest::tree_manifest;
pub use read::file::{Found, read_file};
pub use read::verify::{Difference, Verified, list, verify};
pub use read::walk::{tree_digest, tree_digest_until};
pub use record::applied::Applied;
pub use record::chunk_set::ChunkSet;
pub use tree::fd::apply::{apply, apply_with};
pub use tree::fd::open::open_beneath;
pub use tree::fd::root::{Root, remove_tree, remove_tree_until, sync};
