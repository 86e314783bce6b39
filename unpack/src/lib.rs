//! A hostile tar becomes a file tree under one directory fd.
//!
//! [`apply`] takes the bytes of one OCI layer and a [`Root`], and makes the tree below the root
//! what the layer says, or refuses. Nothing outside the root is named, followed or changed.
//! Where layers come from, where trees live and what happens to a tree that was refused are for
//! the caller.
//!
//! Bytes go through these modules: `compression` > `buffers` > `archive` (frames) > `header`,
//! `pax` (fields) > `entry` (meaning) > `apply` (effect), which acts through `dirs` (parents) and
//! `make` (nodes). Beside that, `content` hashes the stream and the files in it, and `budget` counts
//! the work that all of it may cause.

/// Raised with every change of what is refused: what another version refused may be fine.
pub const VERSION: u32 = 3;

mod acl;
mod applied;
mod apply;
mod archive;
mod body;
mod budget;
mod buffers;
mod clone;
mod compression;
mod content;
mod dirs;
mod entry;
mod error;
mod escape;
mod header;
mod limits;
mod make;
mod node;
mod pax;
mod pipeline;
mod plnk;
mod record;
mod remove;
mod root;
mod runs;
pub mod sandbox;
mod sha;
mod sparse;
mod spill;
mod stack;
mod stop;
mod sys;
mod touched;
mod tree;
mod verify;
mod way;

pub use applied::Applied;
pub use apply::{apply, apply_with};
pub use archive::End;
pub use clone::{Cloned, clone_tree};
pub use compression::Compression;
pub use entry::{Entry, Node, Xattrs};
pub use error::{Class, DependsOn, Error, Kind, Place, Refusal, Space, Value};
pub use escape::{Escaped, escaped, escaped_whole};
pub use limits::{Devices, Limits, Walls};
pub use pax::Time;
pub use root::{Root, remove_tree, remove_tree_until, sync};
pub use stack::tree_manifest;
pub use stop::Stop;
pub use tree::{tree_digest, tree_digest_until};
pub use verify::{Difference, Verified, list, verify};
