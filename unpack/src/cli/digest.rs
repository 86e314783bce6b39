//! `--tree-digest`: the digest of a whole tree, in a directory or in an image that is not mounted.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use anyhow::{Context, anyhow};
use unpack::{Limits, Root, Stop, Unfit, Walls};

use crate::cli::flags::{Flags, Usage};
use crate::cli::image;
use crate::cli::open::readable;
use crate::cli::said::sha256;

/// Always the answer yes.
pub(crate) fn tree_digest(flags: &Flags, limits: &Limits) -> anyhow::Result<bool> {
    if flags.list || flags.verify {
        return Err(anyhow!(Usage(
            "--tree-digest reads no layer: not with --list or --verify".into()
        )));
    }
    if !limits.digests {
        return Err(anyhow!(Usage("--tree-digest needs digests: not with --digests none".into())));
    }
    let create =
        |path: &PathBuf| File::create(path).with_context(|| format!("unable to create {path:?}"));
    let digest = match (&flags.image, flags.root()?) {
        (Some(_), Some(_)) => {
            return Err(anyhow!(Usage("--root and --image: one of them".into())));
        }
        (None, None) => {
            return Err(anyhow!(Usage("--tree-digest: say which, by --root or --image".into())));
        }
        (Some(path), None) => {
            let image = readable(path)?;
            if let Err(unfit @ Unfit::Unsealed) = unpack::layers(&image) {
                return Err(unfit).with_context(|| format!("--image {path:?}"));
            }
            let out = flags.manifest.as_ref().map(|path| image::manifest(path, &image));
            of_image(&image, out.transpose()?, flags.replay, limits)?
        }
        (None, Some(path)) => {
            let root = Root::open(&path)?;
            of_root(&root, flags.manifest.as_ref().map(create).transpose()?, limits)?
        }
    };
    let digest = sha256(digest);
    match flags.json {
        true => {
            writeln!(io::stdout(), "{}", serde_json::json!({ "tree_digest": digest }))?;
        }
        false => writeln!(io::stdout(), "{digest}")?,
    }
    Ok(true)
}

fn of_image(
    image: &File,
    out: Option<File>,
    replay: bool,
    limits: &Limits,
) -> anyhow::Result<[u8; 32]> {
    let manifest = if replay { unpack::image_manifest_replayed } else { unpack::image_manifest };
    match (limits.walls, out) {
        (Walls::Off, None) => Ok(manifest(image, &mut io::sink(), limits)?),
        (Walls::Off, Some(out)) => {
            let mut out = BufWriter::new(out);
            let digest = manifest(image, &mut out, limits)?;
            out.flush().context("unable to write the manifest")?;
            Ok(digest)
        }
        (Walls::On | Walls::Require, out) => {
            let never = Stop::default();
            whole(
                unpack::sandbox::image_manifest(image, replay, &[], out.as_ref(), limits, &never)?,
                &out,
            )
        }
    }
}

fn of_root(root: &Root, out: Option<File>, limits: &Limits) -> anyhow::Result<[u8; 32]> {
    match (limits.walls, out) {
        (Walls::Off, None) => Ok(unpack::tree_digest(root)?),
        (Walls::Off, Some(out)) => {
            let mut out = BufWriter::new(out);
            let digest = unpack::tree_manifest(root, &mut [], &mut out)?;
            out.flush().context("unable to write the manifest")?;
            Ok(digest)
        }
        (Walls::On | Walls::Require, out) => {
            let never = Stop::default();
            whole(unpack::sandbox::tree_manifest(root, &[], out.as_ref(), limits, &never)?, &out)
        }
    }
}

/// The digest, where the manifest was written if it was asked for.
fn whole((digest, written): ([u8; 32], bool), out: &Option<File>) -> anyhow::Result<[u8; 32]> {
    match (out, written) {
        (Some(_), false) => Err(anyhow!("unable to write the manifest")),
        (Some(_), true) | (None, _) => Ok(digest),
    }
}
