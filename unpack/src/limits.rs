//! The budgets a layer is held to, each checked before its effect.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::compression::Compression;

/// Which device nodes a layer may make. FIFOs are always kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Devices {
    /// Character devices with major 1 (memory: null, zero, random ..) or 5 (tty, console, ptmx);
    /// all else is refused.
    Standard,
    /// Every character and block device.
    Keep,
    /// None.
    Refuse,
}

/// What a layer may cost. Everything is refused before it takes effect, with the limit and the
/// value in the message.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes of the layer as it is read, compressed or not.
    pub blob_bytes_max: u64,
    /// Bytes of the uncompressed tar, headers and padding included.
    pub bytes_max: u64,
    /// Bytes of one regular file.
    pub file_bytes_max: u64,
    /// Entries, whiteouts included.
    pub entries_max: u64,
    /// Hard link entries.
    pub links_max: u64,
    /// Bytes of a path or a link target; the kernel takes 4095 at most.
    pub path_bytes_max: u64,
    /// Components of a path.
    pub depth_max: u64,
    /// Bytes of all extension bodies of one entry.
    pub extension_bytes_max: u64,
    /// Extension headers before one entry.
    pub extensions_max: u64,
    /// Bytes of one extended attribute's value; the kernel takes 65536 at most.
    pub xattr_bytes_max: u64,
    /// Bytes of all extended attributes of the layer, names and values.
    pub xattrs_bytes_max: u64,
    /// Nodes that whiteouts and replacements may visit or remove in the lower tree.
    pub removals_max: u64,
    /// Uncompressed bytes per compressed byte, held once more than 1 GiB has come out.
    pub ratio_max: u64,
    /// Base-2 logarithm of the largest zstd window, in bytes (27 is 128 MiB).
    pub zstd_window_log_max: u32,
    /// Wall time of the whole layer. A reader that blocks for ever has to bring its own bound.
    pub time_max: Duration,
    /// Device nodes.
    pub devices: Devices,
    /// Refuse an extended attribute that would otherwise be dropped and counted.
    pub xattrs_strict: bool,
    /// The compression the layer is declared to have, if it must match.
    pub compression: Option<Compression>,
    /// sha256 the blob must have.
    pub blob_digest: Option<[u8; 32]>,
    /// sha256 the uncompressed tar must have.
    pub diff_id: Option<[u8; 32]>,
    /// Make the digests: of the blob, of the tar, of each file and of the tree. Without they are void
    /// (zeros), there are no records for a manifest, and neither digest above may be asked for.
    pub digests: bool,
    /// The reader itself fails at its end unless the digest matches. Only such a reader, or one
    /// of the two digests above, can vouch for a tar that ends without its end marker.
    pub reader_verifies: bool,
    /// Files of at least this many bytes get their place at once: preallocated, and written out while
    /// the rest is applied. `u64::MAX` is never: the file system places all in the end, closer.
    pub place_min: u64,
    /// Call `syncfs` at the end.
    pub sync: bool,
    /// In a sandbox: fail unless every fence stands.
    pub fences_required: bool,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            blob_bytes_max: 64 << 30,
            bytes_max: 64 << 30,
            file_bytes_max: 64 << 30,
            entries_max: 4_000_000,
            links_max: 1_000_000,
            path_bytes_max: 4095,
            depth_max: 2048,
            extension_bytes_max: 1 << 20,
            extensions_max: 16,
            xattr_bytes_max: 65536,
            xattrs_bytes_max: 256 << 20,
            removals_max: 8_000_000,
            ratio_max: 200,
            zstd_window_log_max: 27,
            time_max: Duration::from_secs(3600),
            devices: Devices::Standard,
            xattrs_strict: false,
            compression: None,
            blob_digest: None,
            diff_id: None,
            digests: true,
            reader_verifies: false,
            place_min: 1 << 20,
            sync: false,
            fences_required: false,
        }
    }
}
