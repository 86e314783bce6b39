//! The empty ext4 every first layer starts from: the only call of an outside program in this
//! crate, once per pool. All `mke2fs` options are in one table here.

use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::Error;
use crate::kernel::{mount, node};

/// The options, each for one reason. Measured on 1 MiB pool blocks; what is touched costs a
/// whole pool block, so the aim is few and neighbouring metadata blocks.
///
/// The block size is not here: see [`BLOCK_BYTES`].
pub const DEFAULT_OPTIONS: &[(&str, &str)] = &[
    // A journal would be copied into every snapshot that writes; a layer is sealed by sync and
    // unmount or thrown away, so it protects nothing here.
    ("-O", "^has_journal,^resize_inode"),
    // Few, large inode tables: one inode per 32 KiB is still three times what images need.
    ("-i", "32768"),
    // One flex group for the whole volume: inodes and directories stay together at the front, file
    // contents follow in the order they were written, so a layer copies few of its parent's blocks
    // (measured with mb_optimize_scan=0, 2 KiB blocks: 1.09 pool bytes per tar byte, with the default
    // of 16 groups 1.16). Growth on 6.1 works with it.
    ("-G", "256"),
    ("-m", "0"),
];

/// File system block, bytes, where the device's logical block allows it: half of a small file's last
/// block is not wasted then (1.07 pool bytes per tar byte, with 4096 1.13).
pub const BLOCK_BYTES: u32 = 2048;

/// Extended (`-E`) options.
pub const EXTENDED_OPTIONS: &[&str] = &[
    // Bitmaps and inode tables side by side at the front.
    "packed_meta_blocks=1",
    "nodiscard",
    // A fresh thin reads as zeros, so tables need no writing, now or at any mount.
    "assume_storage_prezeroed=1",
    "lazy_itable_init=0",
    // Given, so that mke2fs does not take the pool's optimal I/O size: an allocator that aligns
    // to 1 MiB spreads small files over many blocks. Linux takes a width of 1 as none.
    "stride=1",
    "stripe_width=1",
    "root_owner=0:0",
];

/// What may differ from one template to another.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FormatOptions {
    /// File system UUID, so that two hosts make the same bytes.
    pub uuid: Option<String>,
    /// Seed of the directory hashes, for the same reason.
    pub hash_seed: Option<String>,
    /// Label, at most 16 bytes.
    pub label: Option<String>,
    /// Bytes per inode in place of the table's.
    pub bytes_per_inode: Option<u64>,
    /// Size in KiB, if not the whole device.
    pub kib: Option<u64>,
    /// Further words for mke2fs, last, so that they win.
    pub extra: Vec<String>,
    /// The program; else `$VENEER_MKFS`, else `mkfs.ext4` in PATH, `/sbin` or `/usr/sbin`.
    pub program: Option<PathBuf>,
}

/// The words that follow the program.
fn arguments(device: &Path, options: &FormatOptions, block: u32) -> Vec<std::ffi::OsString> {
    let mut words: Vec<std::ffi::OsString> =
        vec!["-q".into(), "-F".into(), "-b".into(), block.to_string().into()];
    let bytes_per_inode = options.bytes_per_inode.map(|bytes| bytes.to_string());
    for (flag, value) in DEFAULT_OPTIONS {
        words.push(flag.into());
        match (&bytes_per_inode, *flag) {
            (Some(bytes), "-i") => words.push(bytes.into()),
            _ => words.push(value.into()),
        }
    }
    let mut extended: Vec<String> = EXTENDED_OPTIONS.iter().map(|&o| o.to_owned()).collect();
    if let Some(seed) = &options.hash_seed {
        extended.push(format!("hash_seed={seed}"));
    }
    words.push("-E".into());
    words.push(extended.join(",").into());
    for (flag, value) in [("-U", &options.uuid), ("-L", &options.label)] {
        if let Some(value) = value {
            words.push(flag.into());
            words.push(value.into());
        }
    }
    words.extend(options.extra.iter().map(Into::into));
    words.push(device.into());
    words.extend(options.kib.map(|kib| format!("{kib}k").into()));
    words
}

/// Makes an empty ext4 on `device`.
///
/// # Errors
/// [`Error::NoProgram`] when mkfs.ext4 is not found; [`Error::Program`] with its stderr.
pub fn format(device: &Path, options: &FormatOptions) -> Result<(), Error> {
    let program =
        options.program.clone().unwrap_or_else(|| find_program("VENEER_MKFS", "mkfs.ext4"));
    let block = BLOCK_BYTES.max(logical_block(device)?);
    run(&program, &arguments(device, options, block), device)?;
    set_root_time(device)
}

/// What the device reads and writes at least, bytes; ext4 cannot have smaller blocks. A plain file,
/// or a kernel that does not say, has no such bound.
fn logical_block(device: &Path) -> Result<u32, Error> {
    let Some(dev) = node::block_dev(device).map_err(|err| Error::io("look at", device, err))?
    else {
        return Ok(0);
    };
    let told = format!("/sys/dev/block/{}:{}/queue/logical_block_size", dev.major, dev.minor);
    let text = std::fs::read_to_string(told).unwrap_or_default();
    Ok(text.trim().parse().unwrap_or(0))
}

/// A root directory that no layer names is of time 0, like every other directory that none names;
/// mke2fs gives it the hour.
fn set_root_time(device: &Path) -> Result<(), Error> {
    let mounted = mount::detached(device, "ext4", &[("noinit_itable", None)], false)?;
    let root = mount::open_root(mounted.as_fd())?;
    let epoch = nix::sys::time::TimeSpec::new(0, 0);
    nix::sys::stat::futimens(&root, &epoch, &epoch)
        .map_err(|errno| Error::errno("set the root's time on", device, errno))?;
    mount::sync(mounted.as_fd())
}

/// Runs an outside program to its end; gives its stdout.
pub(crate) fn run(
    program: &Path,
    arguments: &[std::ffi::OsString],
    device: &Path,
) -> Result<String, Error> {
    let name = program.display().to_string();
    let output = Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .map_err(|source| Error::NoProgram { program: name.clone(), source })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    // Some tools complain on stdout.
    let said = if output.stderr.is_empty() { &output.stdout } else { &output.stderr };
    let tail = &said[said.len().saturating_sub(2048)..];
    Err(Error::Program {
        program: name,
        device: device.to_owned(),
        status: output.status.to_string(),
        stderr: String::from_utf8_lossy(tail).into_owned(),
    })
}

/// `$variable`, or `name` in PATH, or in the directories root's PATH may lack.
pub(crate) fn find_program(variable: &str, name: &str) -> PathBuf {
    if let Some(given) = std::env::var_os(variable).filter(|given| !given.is_empty()) {
        return given.into();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(more)
        .map(|dir| dir.join(name))
        .find(|candidate| candidate.is_file())
        .unwrap_or_else(|| PathBuf::from(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_choice_reaches_the_command_line() {
        let options = FormatOptions {
            uuid: Some("U".to_owned()),
            hash_seed: Some("H".to_owned()),
            bytes_per_inode: Some(65536),
            kib: Some(1024),
            extra: vec!["-x".to_owned()],
            ..FormatOptions::default()
        };
        let words: Vec<String> = arguments(Path::new("/dev/dm-1"), &options, 2048)
            .into_iter()
            .map(|w| w.into_string().unwrap())
            .collect();
        let text = words.join(" ");
        assert!(text.starts_with("-q -F -b 2048 "), "{text}");
        assert!(text.contains("-i 65536"), "{text}");
        assert!(text.contains(",hash_seed=H -U U -x /dev/dm-1 1024k"), "{text}");
        assert!(!text.contains("32768"), "{text}");
    }
}
