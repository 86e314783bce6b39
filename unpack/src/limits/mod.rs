//! What a layer is held to: budgets, each checked before its effect, and walls (`wall.rs`).

pub(crate) mod wall;

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Zeros after a tar's end marker, or after the last gzip member. GNU tar fills records of 10 KiB, and nobody's are
/// longer than some MiB.
pub(crate) const ZEROS_MAX: u64 = 64 << 20;

/// What becomes of work whose walls ([`crate::limits::wall::Wall`]) cannot all be put up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Walls {
    /// It is not begun.
    Require,
    /// It is done behind those that stand, and the result says which do not.
    #[default]
    On,
    /// None is put up.
    Off,
}

impl Walls {
    /// Every value, in the order of declaration.
    pub const ALL: [Walls; 3] = [Walls::Require, Walls::On, Walls::Off];

    /// The word of the flag and the setting.
    pub fn word(self) -> &'static str {
        match self {
            Walls::Require => "require",
            Walls::On => "on",
            Walls::Off => "off",
        }
    }

    /// The value of a word.
    pub fn from_word(word: &str) -> Option<Walls> {
        Walls::ALL.into_iter().find(|walls| walls.word() == word)
    }
}

/// Which device nodes a layer may make. FIFOs are always kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Devices {
    /// The character devices that every container has: null, zero, full, random, urandom (1:3, 5, 7,
    /// 8, 9), tty, console and ptmx (5:0, 1, 2). All else is refused: 1:1 is the host's memory, 1:11
    /// its kernel's log.
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
    /// Entries, whiteouts included, and the directories made for missing parents.
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
    /// Nodes that whiteouts and replacements may look at or remove, each counted as often as it lies
    /// levels below where that began.
    pub removals_max: u64,
    /// Steps for each entry on average, held from 32,768 on. A step is a path component walked behind a
    /// symbolic link or to a parent that has to be marked; a directory that is made for a missing parent
    /// is 16, both once more for every 64 levels; an attribute that is set or removed is 3.
    pub walk_max: u64,
    /// Extended attributes of one entry.
    pub xattrs_max: u64,
    /// Bytes of a temporary file that the records of the layer may take at a time.
    pub spill_bytes_max: u64,
    /// Uncompressed bytes per compressed byte, held once more than 256 MiB has come out.
    pub ratio_max: u64,
    /// Base-2 logarithm of the largest zstd window, in bytes (27 is 128 MiB).
    pub zstd_window_log_max: u32,
    /// Wall time of the whole layer. A reader that blocks for ever has to bring its own bound.
    pub time_max: Duration,
    /// Processor time of the whole layer, with all threads of the process that applies it; held in
    /// a sandbox alone, where that process does nothing else.
    pub processor_max: Duration,
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
    /// The directory for temporary files without a name; without one `TMPDIR`, `/var/tmp` or `/tmp`.
    pub spill_dir: Option<PathBuf>,
    /// What becomes of a sandbox that lacks a wall.
    #[serde(default)]
    pub walls: Walls,
}

impl Limits {
    /// Whether nothing is let through that `other` would not let through: every budget is at most as
    /// large, and what else decides is the same.
    #[must_use]
    pub fn are_within(&self, other: &Limits) -> bool {
        // Each field by its name, so that a new one is not forgotten.
        let Limits {
            blob_bytes_max,
            bytes_max,
            file_bytes_max,
            entries_max,
            links_max,
            path_bytes_max,
            depth_max,
            extension_bytes_max,
            extensions_max,
            xattr_bytes_max,
            xattrs_bytes_max,
            removals_max,
            walk_max,
            xattrs_max,
            spill_bytes_max,
            ratio_max,
            zstd_window_log_max,
            time_max,
            processor_max,
            devices,
            xattrs_strict,
            compression,
            blob_digest,
            diff_id,
            reader_verifies,
            // How the work is done, not what comes of it.
            digests: _,
            place_min: _,
            sync: _,
            spill_dir: _,
            walls: _,
        } = self;
        *blob_bytes_max <= other.blob_bytes_max
            && *bytes_max <= other.bytes_max
            && *file_bytes_max <= other.file_bytes_max
            && *entries_max <= other.entries_max
            && *links_max <= other.links_max
            && *path_bytes_max <= other.path_bytes_max
            && *depth_max <= other.depth_max
            && *extension_bytes_max <= other.extension_bytes_max
            && *extensions_max <= other.extensions_max
            && *xattr_bytes_max <= other.xattr_bytes_max
            && *xattrs_bytes_max <= other.xattrs_bytes_max
            && *removals_max <= other.removals_max
            && *walk_max <= other.walk_max
            && *xattrs_max <= other.xattrs_max
            && *spill_bytes_max <= other.spill_bytes_max
            && *ratio_max <= other.ratio_max
            && *zstd_window_log_max <= other.zstd_window_log_max
            && *time_max <= other.time_max
            && *processor_max <= other.processor_max
            && *devices == other.devices
            && *xattrs_strict == other.xattrs_strict
            && *compression == other.compression
            && *blob_digest == other.blob_digest
            && *diff_id == other.diff_id
            && *reader_verifies == other.reader_verifies
    }
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
            depth_max: 256,
            extension_bytes_max: 1 << 20,
            extensions_max: 16,
            xattr_bytes_max: 65536,
            xattrs_bytes_max: 256 << 20,
            removals_max: 64_000_000,
            walk_max: 12,
            xattrs_max: 1024,
            spill_bytes_max: 4 << 30,
            ratio_max: 200,
            zstd_window_log_max: 25,
            time_max: Duration::from_secs(3600),
            processor_max: Duration::from_secs(3600),
            devices: Devices::Standard,
            xattrs_strict: false,
            compression: None,
            blob_digest: None,
            diff_id: None,
            digests: true,
            reader_verifies: false,
            place_min: 1 << 20,
            sync: false,
            spill_dir: None,
            walls: Walls::On,
        }
    }
}

/// How a layer is wrapped (OCI image spec, layer.md, media types).
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Not at all.
    Plain,
    /// One or more gzip members (RFC 1952).
    Gzip,
    /// One or more zstd frames (RFC 8878), skippable ones among them.
    Zstd,
}

impl Compression {
    /// The stable name, as in JSON output.
    pub fn name(self) -> &'static str {
        match self {
            Compression::Plain => "plain",
            Compression::Gzip => "gzip",
            Compression::Zstd => "zstd",
        }
    }

    /// By the first bytes of a blob; `None` if they are those of another compression.
    pub fn sniff(start: &[u8]) -> Option<Compression> {
        match start {
            [0x1f, 0x8b, ..] => Some(Compression::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Compression::Zstd),
            [low, 0x2a, 0x4d, 0x18, ..] if low & 0xf0 == 0x50 => Some(Compression::Zstd),
            // xz, bzip2, lz4, compress
            [0xfd, b'7', b'z', b'X', ..] | [b'B', b'Z', b'h', ..] => None,
            [0x04, 0x22, 0x4d, 0x18, ..] | [0x1f, 0x9d, ..] => None,
            _ => Some(Compression::Plain),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_within_others_when_none_is_larger() {
        let all = Limits::default();
        assert!(all.are_within(&all));
        let smaller = Limits { bytes_max: 1, depth_max: 1, ..all.clone() };
        assert!(smaller.are_within(&all) && !all.are_within(&smaller));
        let mixed = Limits { bytes_max: 1, depth_max: all.depth_max + 1, ..all.clone() };
        assert!(!mixed.are_within(&all) && !all.are_within(&mixed));
        let other = Limits { devices: Devices::Refuse, ..all.clone() };
        assert!(!other.are_within(&all) && !all.are_within(&other));
    }
}
