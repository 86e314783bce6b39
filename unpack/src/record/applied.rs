//! What became of a layer: counts and digests.

use serde::{Deserialize, Serialize};

use crate::archive::content::{Blob, Diff};
use crate::archive::entry::{Entry, Node};
use crate::limits::Compression;
use crate::limits::wall::Standing;
use crate::record::chunk_set::ChunkSet;

/// A layer that was applied whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// sha256 of the uncompressed tar (OCI: DiffID).
    #[serde(with = "digest")]
    pub diff_id: [u8; 32],
    /// sha256 of the layer as it was read.
    #[serde(with = "digest")]
    pub blob_digest: [u8; 32],
    /// Bytes of the layer as it was read.
    pub blob_bytes: u64,
    /// Bytes of the uncompressed tar.
    pub diff_bytes: u64,
    /// How it was wrapped.
    pub compression: Compression,
    /// Entries, whiteouts included.
    pub entries: u64,
    /// Regular file entries.
    pub files: u64,
    /// Directory entries.
    pub dirs: u64,
    /// Directories made because no entry named a parent.
    pub implicit_dirs: u64,
    /// Symlink entries.
    pub symlinks: u64,
    /// Hard link entries.
    pub hardlinks: u64,
    /// Device and FIFO entries.
    pub devices: u64,
    /// Whiteout entries.
    pub whiteouts: u64,
    /// Opaque markers.
    pub opaques: u64,
    /// AUFS metadata entries, skipped.
    pub aufs: u64,
    /// Bytes of all regular files.
    pub content_bytes: u64,
    /// sha256 of the layer's manifest: the nodes that the layer has entries for, as they are at
    /// its end, in path order. It covers nothing of the layers below and no implicit parents, so
    /// it is the same wherever the layer is applied; [`crate::read::walk::tree_digest`] covers a whole tree.
    #[serde(with = "digest")]
    pub tree_digest: [u8; 32],
    /// Extended attributes that policy dropped.
    pub dropped_xattrs: u64,
    /// Steps that were walked: see [`crate::limits::Limits::walk_max`].
    pub steps: u64,
    /// Nodes that were looked at or removed, each as often as it lay deep: see
    /// [`crate::limits::Limits::removals_max`].
    pub removals: u64,
    /// Which walls stood around the process that did it; empty if it was the caller's own.
    pub sandbox: Vec<Standing>,
    /// The chunks of the image that have changed, for [`crate::Chunks::of`]; none where it was a directory.
    #[serde(skip)]
    pub chunks: ChunkSet,
}

/// What is counted on the way.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) entries: u64,
    files: u64,
    dirs: u64,
    pub(crate) implicit_dirs: u64,
    symlinks: u64,
    pub(crate) hardlinks: u64,
    devices: u64,
    whiteouts: u64,
    opaques: u64,
    aufs: u64,
    pub(crate) content_bytes: u64,
    dropped_xattrs: u64,
    pub(crate) xattr_bytes: u64,
}

impl Counts {
    pub(crate) fn count(&mut self, entry: &Entry) {
        self.entries += 1;
        self.dropped_xattrs += entry.dropped_xattrs;
        let kind = match entry.node {
            Node::File { .. } => &mut self.files,
            Node::Dir => &mut self.dirs,
            Node::Symlink { .. } => &mut self.symlinks,
            Node::Hardlink { .. } => &mut self.hardlinks,
            Node::Char { .. } | Node::Block { .. } | Node::Fifo => &mut self.devices,
            Node::Whiteout => &mut self.whiteouts,
            Node::Opaque => &mut self.opaques,
            Node::Aufs | Node::Pseudo { .. } => &mut self.aufs,
        };
        *kind += 1;
    }
}

impl Applied {
    pub(crate) fn new(counts: Counts, tree_digest: [u8; 32]) -> Applied {
        Applied {
            diff_id: [0; 32],
            blob_digest: [0; 32],
            blob_bytes: 0,
            diff_bytes: 0,
            compression: Compression::Plain,
            entries: counts.entries,
            files: counts.files,
            dirs: counts.dirs,
            implicit_dirs: counts.implicit_dirs,
            symlinks: counts.symlinks,
            hardlinks: counts.hardlinks,
            devices: counts.devices,
            whiteouts: counts.whiteouts,
            opaques: counts.opaques,
            aufs: counts.aufs,
            content_bytes: counts.content_bytes,
            tree_digest,
            dropped_xattrs: counts.dropped_xattrs,
            steps: 0,
            removals: 0,
            sandbox: Vec::new(),
            chunks: ChunkSet::default(),
        }
    }

    /// Adds what is known only once the whole stream has been read.
    pub(crate) fn sealed(&mut self, blob: &Blob, diff: &Diff) {
        self.blob_digest = blob.digest;
        self.blob_bytes = blob.bytes;
        self.compression = blob.compression;
        self.diff_id = diff.digest;
        self.diff_bytes = diff.bytes;
    }
}

/// Digests as `sha256:<hex>`.
mod digest {
    use serde::de::{Deserialize, Deserializer, Error};
    use serde::ser::Serializer;

    pub(crate) fn serialize<S: Serializer>(digest: &[u8; 32], to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&format_args!("sha256:{}", hex::encode(digest)))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<[u8; 32], D::Error> {
        let text = String::deserialize(from)?;
        let digits = text.strip_prefix("sha256:").unwrap_or_default();
        let mut digest = [0; 32];
        hex::decode_to_slice(digits, &mut digest).map_err(|_| D::Error::custom("not a digest"))?;
        Ok(digest)
    }
}
