//! The flags of the `unpack` program and their environment variables.

use std::path::PathBuf;
use std::time::Duration;

use argh::FromArgs;
use unpack::{Compression, Devices, Limits, Walls};

/// Apply one layer, read from stdin, to a directory. The layer is plain, gzip or zstd, as its content shows.
/// What is in the directory already is taken to be the layers below. If unpack fails, discard the
/// directory: it holds part of the layer.
#[derive(FromArgs, Debug)]
#[argh(
    note = "Every --X-max and --devices has an environment variable VENEER_UNPACK_X_MAX,
VENEER_UNPACK_DEVICES and so on; a flag beats it.",
    error_code(0, "done; --verify: equal"),
    error_code(1, "--verify: not equal"),
    error_code(
        100,
        "never retry: wrong usage, a layer that is refused or over a limit, no permission, no such directory"
    ),
    error_code(111, "try again later: reading the layer, input/output, no space, --time-max"),
    example = "fetch s3://bucket/images/golang/1.tar | {command_name} --root /mnt/layer --json",
    example = "{command_name} --tree-digest --image layer.img",
    example = "{command_name} --diff --image disk.img --replay --base layer.img > 2.tar",
    example = "{command_name} --verify --image layer.img --chunks layer.chunks",
    example = "{command_name} --list < layer.tar.gz"
)]
pub(crate) struct Flags {
    /// directory to apply to, or to verify (VENEER_UNPACK_ROOT)
    #[argh(option)]
    root: Option<PathBuf>,
    /// file with a file system that this program has made: the layer goes into it without a mount and without
    /// root; with --tree-digest any ext4
    #[argh(option)]
    pub(crate) image: Option<PathBuf>,
    /// the same on a block device
    #[argh(option)]
    pub(crate) device: Option<PathBuf>,
    /// make the empty file system: with --image a new file of this size, such as 4G, with --device the word
    /// "whole"; no layer is read
    #[argh(option)]
    pub(crate) blank: Option<String>,
    /// with --blank: inodes, default one for 8 KiB
    #[argh(option)]
    pub(crate) inodes: Option<String>,
    /// with --blank: bytes of a file system block, 4K (default) or 2K
    #[argh(option)]
    pub(crate) block: Option<String>,
    /// with --blank: data begins at multiples of this many bytes, the block size of a thin pool; default 1M
    #[argh(option)]
    pub(crate) align: Option<String>,
    /// make the file system twice as large, without a mount: the file becomes longer, a device has to be long enough; no
    /// layer is read
    #[argh(switch)]
    pub(crate) grow: bool,
    /// with --device: promises that nobody has written to the device since it was sealed
    #[argh(switch)]
    pub(crate) parent_sealed: bool,
    /// with --device --blank: also over a file system that this program has made
    #[argh(switch)]
    pub(crate) force: bool,
    /// print the version
    #[argh(switch)]
    pub(crate) version: bool,
    /// list the layer's entries, and write nothing
    #[argh(switch)]
    pub(crate) list: bool,
    /// check whether the directory equals this layer; differences go to stderr
    #[argh(switch)]
    pub(crate) verify: bool,
    /// print the digest of the whole tree below --root, or in --image
    #[argh(switch)]
    pub(crate) tree_digest: bool,
    /// write to standard output a layer that turns the tree in --base into the tree below --root, or in --image
    #[argh(switch)]
    pub(crate) diff: bool,
    /// with --diff: the tree that the layer will be applied to, a directory or an image as the other one
    #[argh(option)]
    pub(crate) base: Option<PathBuf>,
    /// file with the digests of the chunks of an --image or a --device. With a layer it is created or updated;
    /// with --verify, which reads no layer then, the image is compared with it
    #[argh(option)]
    pub(crate) chunks: Option<PathBuf>,
    /// print the digest of all chunks of an --image or a --device of this program: equal layers and geometry have
    /// equal ones
    #[argh(switch)]
    pub(crate) block_digest: bool,
    /// with --tree-digest or --diff and --image: what is in a journal that was not replayed counts, as the next mount would show it
    #[argh(switch)]
    pub(crate) replay: bool,
    /// with --verify: the directory also holds lower layers
    #[argh(switch)]
    pub(crate) upper: bool,
    /// with --verify: differences shown, default 100
    #[argh(option)]
    pub(crate) shown_max: Option<u64>,
    /// one JSON object on stdout (with --list one per line, the last one a summary)
    #[argh(switch)]
    pub(crate) json: bool,
    /// write one JSON line per node to this file; its sha256 is the tree digest
    #[argh(option)]
    pub(crate) manifest: Option<PathBuf>,
    /// print only errors
    #[argh(switch, short = 'q')]
    pub(crate) quiet: bool,
    /// devices a layer may make: standard (char 1:3,5,7,8,9 and 5:0,1,2, the default), keep (all),
    /// refuse
    #[argh(option)]
    devices: Option<String>,
    /// apply in a child process behind walls: on (default; missing walls are reported), require (all of them
    /// or nothing, exit 100), off
    #[argh(option)]
    sandbox: Option<String>,
    /// compression the layer must have: any (default), plain, gzip or zstd
    #[argh(option)]
    pub(crate) compression: Option<String>,
    /// required sha256 of the layer as read
    #[argh(option)]
    pub(crate) digest: Option<String>,
    /// required sha256 of the uncompressed tar
    #[argh(option)]
    pub(crate) diff_id: Option<String>,
    /// digests to compute: all (default), or none for a layer that was checked before, which is faster
    #[argh(option)]
    digests: Option<String>,
    /// bytes of the layer as read, default 64G (suffixes K, M, G, T)
    #[argh(option)]
    blob_bytes_max: Option<String>,
    /// bytes of the uncompressed tar, default 64G
    #[argh(option)]
    bytes_max: Option<String>,
    /// bytes of one file, default 64G
    #[argh(option)]
    file_bytes_max: Option<String>,
    /// entries, and directories made for missing parents, default 4000000
    #[argh(option)]
    entries_max: Option<String>,
    /// hard links, default 1000000
    #[argh(option)]
    links_max: Option<String>,
    /// bytes of a path or link target, such as 1K, default 4095
    #[argh(option)]
    path_bytes_max: Option<String>,
    /// components of a path, default 256
    #[argh(option)]
    depth_max: Option<String>,
    /// bytes of all extension headers of one entry, default 1M
    #[argh(option)]
    extension_bytes_max: Option<String>,
    /// extension headers of one entry, default 16
    #[argh(option)]
    extensions_max: Option<String>,
    /// bytes of one extended attribute, default 64K
    #[argh(option)]
    xattr_bytes_max: Option<String>,
    /// bytes of all extended attributes, default 256M
    #[argh(option)]
    xattrs_bytes_max: Option<String>,
    /// extended attributes of one entry, default 1024
    #[argh(option)]
    xattrs_max: Option<String>,
    /// nodes that may be removed, each multiplied by its depth, default 64000000
    #[argh(option)]
    removals_max: Option<String>,
    /// steps for an entry, on average, from 32768 steps on; default 12. A step is a path component
    /// behind a symbolic link; a directory made for a missing parent is 16, an attribute 3
    #[argh(option)]
    walk_max: Option<String>,
    /// bytes of temporary records on disk, default 4G
    #[argh(option)]
    spill_bytes_max: Option<String>,
    /// directory for temporary records (VENEER_UNPACK_SPILL_DIR); default TMPDIR, /var/tmp or /tmp
    #[argh(option)]
    spill_dir: Option<PathBuf>,
    /// uncompressed bytes per compressed byte, from 256M on, default 200
    #[argh(option)]
    ratio_max: Option<String>,
    /// base-2 logarithm of the largest zstd window, default 25 (32 MiB)
    #[argh(option)]
    zstd_window_log_max: Option<String>,
    /// seconds, default 3600; beyond it exit 111, since the host may just be busy
    #[argh(option)]
    time_max: Option<String>,
    /// seconds of the processor, of all threads in a sandbox, default 3600
    #[argh(option)]
    processor_max: Option<String>,
    /// files of at least this many bytes are allocated and written out at once, default 1M; with "never"
    /// the file system places all files at the end, closer together
    #[argh(option)]
    pub(crate) place_min: Option<String>,
    /// refuse extended attributes that would be dropped
    #[argh(switch)]
    pub(crate) xattrs_strict: bool,
    /// write everything out before exiting (syncfs)
    #[argh(switch)]
    pub(crate) sync: bool,
}

/// Wrong flags.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(pub(crate) String);

/// The flag's text, or that of its environment variable, with the name to blame.
fn text(flag: Option<&String>, name: &'static str) -> Result<Option<(String, String)>, Usage> {
    if let Some(text) = flag {
        return Ok(Some((format!("--{name}"), text.clone())));
    }
    let variable = format!("VENEER_UNPACK_{}", name.replace('-', "_").to_uppercase());
    match std::env::var(&variable) {
        Ok(text) => Ok(Some((variable, text))),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => Err(Usage(format!("{variable} is not UTF-8"))),
    }
}

/// The beginning of a text from outside, for a message.
fn beginning(text: &str) -> &str {
    text.char_indices().nth(SHOWN_MAX).map_or(text, |(end, _)| &text[..end])
}

/// At most this many characters of it are shown.
pub(crate) const SHOWN_MAX: usize = 200;

fn number(flag: Option<&String>, name: &'static str, default: u64) -> Result<u64, Usage> {
    let Some((name, text)) = text(flag, name)? else { return Ok(default) };
    let bad = || {
        let text = beginning(&text);
        Usage(format!("{name} {text:?} is not a number (suffixes K, M, G, T, as capitals)"))
    };
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'K') => (&text[..text.len() - 1], 10),
        Some(b'M') => (&text[..text.len() - 1], 20),
        Some(b'G') => (&text[..text.len() - 1], 30),
        Some(b'T') => (&text[..text.len() - 1], 40),
        _ => (text.as_str(), 0),
    };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(bad());
    }
    let number: u64 = digits.parse().map_err(|_| bad())?;
    number.checked_mul(1 << shift).ok_or_else(bad)
}

fn sha256(flag: Option<&String>, name: &'static str) -> Result<Option<[u8; 32]>, Usage> {
    let Some((name, text)) = text(flag, name)? else { return Ok(None) };
    let bad = || {
        Usage(format!("{name} {:?} is not a digest: sha256: and 64 hex digits", beginning(&text)))
    };
    let digits = text.strip_prefix("sha256:").unwrap_or(&text);
    let mut digest = [0; 32];
    hex::decode_to_slice(digits, &mut digest).map_err(|_| bad())?;
    Ok(Some(digest))
}

/// The shape of a new file system: sizes in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) block: u32,
    pub(crate) inodes: u64,
    pub(crate) align: u32,
}

impl Flags {
    /// The size that `--blank` names; none where it is the whole device.
    pub(crate) fn blank(&self) -> Result<Option<u64>, Usage> {
        match self.blank.as_deref() {
            None | Some("whole") => Ok(None),
            Some(_) => number(self.blank.as_ref(), "blank", 0).map(Some),
        }
    }

    pub(crate) fn shape(&self) -> Result<Shape, Usage> {
        let small = |flag: &Option<String>, name, default: u32, which| {
            let number = number(flag.as_ref(), name, default.into())?;
            u32::try_from(number).map_err(|_| Usage(format!("--{name} {number}: it is {which}")))
        };
        Ok(Shape {
            block: small(&self.block, "block", 4096, "2K or 4K")?,
            inodes: number(self.inodes.as_ref(), "inodes", 0)?,
            align: small(&self.align, "align", 1 << 20, "a power of two from 64K to 1G")?,
        })
    }

    pub(crate) fn root(&self) -> Result<Option<PathBuf>, Usage> {
        match &self.root {
            Some(root) => Ok(Some(root.clone())),
            None => Ok(text(None, "root")?.map(|(_, root)| root.into())),
        }
    }

    fn walls(&self) -> Result<Walls, Usage> {
        let Some((name, text)) = text(self.sandbox.as_ref(), "sandbox")? else {
            return Ok(Walls::On);
        };
        Walls::from_word(&text)
            .ok_or_else(|| Usage(format!("{name} {:?}: on, require or off", beginning(&text))))
    }

    pub(crate) fn limits(&self) -> Result<Limits, Usage> {
        let base = Limits::default();
        let n = |flag: &Option<String>, name, default| number(flag.as_ref(), name, default);
        let devices = match text(self.devices.as_ref(), "devices")? {
            None => base.devices,
            Some((name, text)) => match text.as_str() {
                "standard" => Devices::Standard,
                "keep" => Devices::Keep,
                "refuse" => Devices::Refuse,
                _ => {
                    return Err(Usage(format!(
                        "{name} {:?}: standard, keep or refuse",
                        beginning(&text)
                    )));
                }
            },
        };
        let compression = match text(self.compression.as_ref(), "compression")? {
            None => None,
            Some((name, text)) => match text.as_str() {
                "any" => None,
                "plain" => Some(Compression::Plain),
                "gzip" => Some(Compression::Gzip),
                "zstd" => Some(Compression::Zstd),
                _ => {
                    return Err(Usage(format!(
                        "{name} {:?}: any, plain, gzip or zstd",
                        beginning(&text)
                    )));
                }
            },
        };
        let digests = match text(self.digests.as_ref(), "digests")? {
            None => true,
            Some((name, text)) => match text.as_str() {
                "all" => true,
                "none" => false,
                _ => return Err(Usage(format!("{name} {:?}: all or none", beginning(&text)))),
            },
        };
        let place_min = match text(self.place_min.as_ref(), "place-min")? {
            Some((_, text)) if text == "never" => u64::MAX,
            _ => n(&self.place_min, "place-min", base.place_min)?,
        };
        // Far enough for anyone, and near enough for a clock to add.
        let seconds = |flag: &Option<String>, name, default: Duration| {
            Ok(Duration::from_secs(n(flag, name, default.as_secs())?.min(1 << 31)))
        };
        let window =
            n(&self.zstd_window_log_max, "zstd-window-log-max", base.zstd_window_log_max.into())?;
        let spill_dir = match &self.spill_dir {
            Some(dir) => Some(dir.clone()),
            None => text(None, "spill-dir")?.map(|(_, dir)| dir.into()),
        };
        Ok(Limits {
            blob_bytes_max: n(&self.blob_bytes_max, "blob-bytes-max", base.blob_bytes_max)?,
            bytes_max: n(&self.bytes_max, "bytes-max", base.bytes_max)?,
            file_bytes_max: n(&self.file_bytes_max, "file-bytes-max", base.file_bytes_max)?,
            entries_max: n(&self.entries_max, "entries-max", base.entries_max)?,
            links_max: n(&self.links_max, "links-max", base.links_max)?,
            path_bytes_max: n(&self.path_bytes_max, "path-bytes-max", base.path_bytes_max)?
                .min(base.path_bytes_max),
            depth_max: n(&self.depth_max, "depth-max", base.depth_max)?,
            extension_bytes_max: n(
                &self.extension_bytes_max,
                "extension-bytes-max",
                base.extension_bytes_max,
            )?,
            extensions_max: n(&self.extensions_max, "extensions-max", base.extensions_max)?,
            xattr_bytes_max: n(&self.xattr_bytes_max, "xattr-bytes-max", base.xattr_bytes_max)?,
            xattrs_bytes_max: n(&self.xattrs_bytes_max, "xattrs-bytes-max", base.xattrs_bytes_max)?,
            removals_max: n(&self.removals_max, "removals-max", base.removals_max)?,
            ratio_max: n(&self.ratio_max, "ratio-max", base.ratio_max)?,
            walk_max: n(&self.walk_max, "walk-max", base.walk_max)?,
            xattrs_max: n(&self.xattrs_max, "xattrs-max", base.xattrs_max)?,
            spill_bytes_max: n(&self.spill_bytes_max, "spill-bytes-max", base.spill_bytes_max)?,
            spill_dir,
            zstd_window_log_max: match u32::try_from(window) {
                Ok(log @ 10..=31) => log,
                Ok(_) | Err(_) => {
                    return Err(Usage(format!("zstd-window-log-max {window}: from 10 to 31")));
                }
            },
            time_max: seconds(&self.time_max, "time-max", base.time_max)?,
            processor_max: seconds(&self.processor_max, "processor-max", base.processor_max)?,
            devices,
            xattrs_strict: self.xattrs_strict,
            compression,
            blob_digest: sha256(self.digest.as_ref(), "digest")?,
            diff_id: sha256(self.diff_id.as_ref(), "diff-id")?,
            digests,
            place_min,
            sync: self.sync,
            walls: self.walls()?,
            ..base
        })
    }
}
