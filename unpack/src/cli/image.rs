//! Images and devices: made empty, made larger, or given a layer.

use std::error;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use anyhow::{Context, anyhow};
use unpack::{Before, Geometry, ImageError, Limits, Stop, Unfit, Walls};

use crate::cli::chunks::Kept;
use crate::cli::flags::{Flags, Usage};
use crate::cli::said::say;

/// The layer is in the image, but something that comes after it failed.
#[derive(Debug, thiserror::Error)]
#[error("the layer is in the image, which is sealed, so do not give it again; {what}")]
pub(crate) struct Sealed {
    /// What was not done, as a clause.
    what: &'static str,
    source: Box<dyn error::Error + Send + Sync>,
}

impl Sealed {
    fn result(source: io::Error) -> Sealed {
        let what = "only the result could not be written to standard output";
        Sealed { what, source: source.into() }
    }

    fn chunks(source: anyhow::Error) -> Sealed {
        let what = "only the list of its chunks could not be written";
        Sealed { what, source: source.into() }
    }
}

/// Does what `--image` or `--device` asks for. The answer is always yes.
pub(crate) fn perform(
    flags: &Flags,
    limits: &Limits,
    layer: impl io::Read + Send,
) -> anyhow::Result<bool> {
    let usage = |text: &str| Err(anyhow!(Usage(text.into())));
    let (path, is_device) = match (&flags.image, &flags.device) {
        (Some(image), None) => (image, false),
        (None, Some(device)) => (device, true),
        (Some(_), Some(_)) | (None, None) => return usage("--image and --device: one of them"),
    };
    if flags.root()?.is_some() || flags.list || flags.verify {
        return usage("--image and --device go with none of --root, --list and --verify");
    }
    let what = if is_device { "--device" } else { "--image" };
    let named = || format!("{what} {path:?}");
    if flags.grow && (flags.blank.is_some() || flags.manifest.is_some()) {
        return usage("--grow goes with neither --blank nor --manifest");
    }
    if flags.blank.is_some() {
        return blank(flags, path, is_device).with_context(named);
    }
    let file = open(path, is_device).with_context(named)?;
    if is_device {
        sealed(flags, &file).with_context(named)?;
    }
    if flags.grow {
        return grow(flags, &file, is_device).with_context(named);
    }
    apply(flags, limits, layer, &file).with_context(named)
}

fn open(path: &Path, is_device: bool) -> anyhow::Result<File> {
    let mut options = OpenOptions::new();
    // Not beside a mount of it (open(2): O_EXCL on a block device).
    let flags = libc::O_CLOEXEC | if is_device { libc::O_EXCL } else { 0 };
    let file = options.read(true).write(true).custom_flags(flags).open(path)?;
    let kind = file.metadata()?.file_type();
    match (is_device, kind.is_block_device(), kind.is_file()) {
        (true, true, _) => Ok(file),
        (false, _, true) => alone(file),
        (true, false, true) => {
            Err(anyhow!(Usage("it is a file and no block device: name it by --image".into())))
        }
        (true, false, false) => Err(anyhow!(Usage("it is no block device".into()))),
        (false, true, _) => Err(block_device()),
        (false, false, false) => Err(anyhow!(Usage("it is no regular file".into()))),
    }
}

fn block_device() -> anyhow::Error {
    anyhow!(Usage("it is a block device and no file: name it by --device".into()))
}

/// Takes a file for ourselves: no other of us writes it, and no loop device has it.
fn alone(file: File) -> anyhow::Result<File> {
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(anyhow!("another process is writing it; wait until that has ended"));
        }
        Err(TryLockError::Error(source)) => return Err(source.into()),
    }
    if let Some(device) = attached(&file)? {
        let text = format!("it is attached to {device}, so it may be mounted; detach that first");
        return Err(anyhow!(Usage(text)));
    }
    Ok(file)
}

/// The loop device that has this file, if there is one and we may see it.
fn attached(file: &File) -> io::Result<Option<String>> {
    let ours = file.metadata()?;
    let Ok(devices) = std::fs::read_dir("/sys/block") else { return Ok(None) };
    for device in devices.flatten() {
        let backing = device.path().join("loop/backing_file");
        let Ok(text) = std::fs::read_to_string(backing) else { continue };
        let same = std::fs::metadata(text.trim_end_matches('\n'))
            .is_ok_and(|theirs| (theirs.dev(), theirs.ino()) == (ours.dev(), ours.ino()));
        if same {
            return Ok(Some(format!("/dev/{}", device.file_name().to_string_lossy())));
        }
    }
    Ok(None)
}

/// Makes the file for a manifest, which must not be the image itself.
pub(crate) fn manifest(path: &Path, image: &File) -> anyhow::Result<File> {
    let named = || format!("unable to create {path:?}");
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(path);
    let file = file.with_context(named)?;
    let (ours, its) = (image.metadata()?, file.metadata()?);
    if (ours.dev(), ours.ino()) == (its.dev(), its.ino()) {
        return Err(anyhow!(Usage("--manifest names the image itself".into())));
    }
    if its.is_file() {
        file.set_len(0).with_context(named)?;
    }
    Ok(file)
}

fn blank(flags: &Flags, path: &Path, is_device: bool) -> anyhow::Result<bool> {
    let shape = flags.shape()?;
    let size = flags.blank()?;
    let make = |bytes| {
        Geometry::new(bytes, shape.block, shape.inodes, shape.align)
            .map_err(|refusal| anyhow!(Unfit::Geometry(Box::new(refusal))))
    };
    let (file, geometry) = if is_device {
        if size.is_some() {
            return Err(anyhow!(Usage("with --device it is --blank whole".into())));
        }
        let file = open(path, true)?;
        let geometry = make(io::Seek::seek(&mut &file, io::SeekFrom::End(0))?)?;
        (file, geometry)
    } else {
        let Some(size) = size else {
            return Err(anyhow!(Usage("--blank needs a size, such as 4G".into())));
        };
        let geometry = make(size)?;
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        match file.metadata()?.file_type() {
            kind if kind.is_file() => {}
            kind if kind.is_block_device() => return Err(block_device()),
            _ => return Err(anyhow!(Usage("it is no regular file".into()))),
        }
        let file = alone(file)?;
        // What is there may be somebody's.
        if file.metadata()?.len() > 0 {
            return Err(anyhow!(Usage("the file is there and not empty".into())));
        }
        (file, geometry)
    };
    let made = fill(flags, &file, geometry, is_device);
    if made.is_err() && !is_device {
        // As it was: empty, so that the same command can be given again.
        file.set_len(0).context("unable to empty it again")?;
    }
    made?;
    told(flags, "an empty file system", geometry);
    Ok(true)
}

fn told(flags: &Flags, what: &str, geometry: Geometry) {
    if !flags.quiet {
        note!(
            "unpack: {what}: {} blocks of {} bytes, {} inodes for each of {} groups",
            geometry.blocks,
            geometry.block,
            geometry.inodes_per_group,
            geometry.blocks.div_ceil(u64::from(geometry.block) * 8),
        );
    }
}

/// Doubles the file system, and before that the file, which gets a hole at its end.
fn grow(flags: &Flags, file: &File, is_device: bool) -> anyhow::Result<bool> {
    let doubled = unpack::geometry(file)?.doubled();
    let bytes = doubled.map_err(|refusal| Unfit::Geometry(Box::new(refusal)))?.bytes();
    let was = unpack::geometry(file)?;
    let before = file.metadata()?.len();
    let is_short = !is_device && before < bytes;
    if is_short {
        file.set_len(bytes)?;
    }
    let grown = match unpack::grow_image(file) {
        Ok(grown) => grown,
        // Nothing of the larger file system is there.
        Err(error) if unpack::geometry(file).is_ok_and(|now| now == was) => {
            if is_short {
                file.set_len(before).context("unable to make it as short as it was")?;
            }
            return Err(error.into());
        }
        Err(error) => {
            let text = format!(
                "a growth was begun and has not ended, so throw the image away and take a copy of what it was, or \
                 create it again: {error}"
            );
            return Err(anyhow!(Usage(text)));
        }
    };
    told(flags, "a larger file system", grown);
    Ok(true)
}

/// A guest that has a device can write to it whatever the writer would, its mark as well.
fn sealed(flags: &Flags, file: &File) -> anyhow::Result<()> {
    if flags.parent_sealed || unpack::layers(file)? == 0 {
        return Ok(());
    }
    let text = "there are layers on the device, and whoever had it may have changed them: \
                --parent-sealed says that nobody has had it since it was sealed";
    Err(anyhow!(Usage(text.into())))
}

fn fill(flags: &Flags, file: &File, geometry: Geometry, is_device: bool) -> anyhow::Result<()> {
    if !is_device {
        file.set_len(geometry.blocks * u64::from(geometry.block))?;
    }
    let before = match (is_device, flags.force) {
        // It was empty, and has just been given its length.
        (false, _) => Before::Zeros,
        (true, false) => Before::Unknown,
        (true, true) => Before::Image,
    };
    unpack::make_blank(file, geometry, before)?;
    if flags.sync {
        file.sync_all()?;
    }
    Ok(())
}

fn apply(
    flags: &Flags,
    limits: &Limits,
    layer: impl io::Read + Send,
    file: &File,
) -> anyhow::Result<bool> {
    // What is refused is refused before the manifest's file is emptied.
    unpack::layers(file)?;
    let manifest = match &flags.manifest {
        None => None,
        Some(path) => Some(manifest(path, file)?),
    };
    let kept = flags.chunks.as_ref().map(|path| Kept::open(path, file)).transpose()?;
    let applied = match (limits.walls, manifest) {
        (Walls::Off, None) => unpack::apply_image(layer, file, limits, None),
        (Walls::Off, Some(manifest)) => {
            let mut out = BufWriter::new(manifest);
            let applied = unpack::apply_image(layer, file, limits, Some(&mut out));
            out.flush().context("unable to write the manifest")?;
            applied
        }
        (Walls::On | Walls::Require, manifest) => {
            let never = Stop::default();
            unpack::sandbox::apply_image(layer, file, limits, manifest.as_ref(), &never)
        }
    };
    match applied {
        Ok(applied) => {
            let blocks = kept.map(|kept| kept.replace(file, &applied)).transpose();
            let blocks = blocks.map_err(Sealed::chunks)?;
            say(flags, limits.digests, &applied, blocks).map_err(Sealed::result)?;
        }
        Err(ImageError::Layer(error)) => return Err(error.into()),
        Err(ImageError::Unfit(unfit)) => return Err(unfit.into()),
    }
    Ok(true)
}
