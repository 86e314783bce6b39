//! `--diff`: what a tree has that another has not, as a layer on standard output.

use std::io::{self, IsTerminal, Write};

use anyhow::{Context, anyhow};
use unpack::{Diffed, Limits, Root, Stop, Walls};

use crate::cli::flags::{Flags, Usage};
use crate::cli::open::readable;
use crate::cli::said::sha256;

/// Always the answer yes.
pub(crate) fn diff(flags: &Flags, limits: &Limits) -> anyhow::Result<bool> {
    let usage = |text: &str| Err(anyhow!(Usage(text.into())));
    if flags.list || flags.verify || flags.tree_digest || flags.block_digest || flags.grow {
        return usage(
            "--diff writes a layer: with none of --list, --verify, --tree-digest, --block-digest and --grow",
        );
    }
    if flags.device.is_some() || flags.chunks.is_some() {
        return usage("--diff takes a device as --image DEVICE, and no --chunks");
    }
    let Some(base) = &flags.base else {
        return usage("--diff: say what it is compared with, by --base");
    };
    let mut out = io::stdout().lock();
    if out.is_terminal() {
        return usage(
            "a layer is no text for a terminal: send standard output into a file or a pipe",
        );
    }
    let never = Stop::default();
    let diffed = match (&flags.image, flags.root()?) {
        (Some(_), Some(_)) => return usage("--root and --image: one of them"),
        (None, None) => return usage("--diff: say which tree, by --root or --image"),
        (Some(path), None) => {
            let upper = readable(path)?;
            let lower = readable(base)?;
            for (image, name, path) in [(&upper, "--image", path), (&lower, "--base", base)] {
                if let Err(unfit @ unpack::Unfit::Unsealed) = unpack::layers(image) {
                    return Err(unfit).with_context(|| format!("{name} {path:?}"));
                }
            }
            match limits.walls {
                Walls::Off => unpack::diff_images(&upper, &lower, flags.replay, &mut out, limits)?,
                Walls::On | Walls::Require => {
                    let replay = flags.replay;
                    unpack::sandbox::diff_images(&upper, &lower, replay, &mut out, limits, &never)?
                }
            }
        }
        (None, Some(path)) => {
            if flags.replay {
                return usage("--replay is for --image: a directory has no journal");
            }
            let (upper, lower) = (Root::open(&path)?, Root::open(base)?);
            match limits.walls {
                Walls::Off => unpack::diff_trees(&upper, &lower, &mut out, limits)?,
                Walls::On | Walls::Require => {
                    unpack::sandbox::diff_trees(&upper, &lower, &mut out, limits, &never)?
                }
            }
        }
    };
    out.flush().context("unable to write the layer")?;
    say(flags, &diffed)?;
    Ok(true)
}

/// The layer is on standard output, so this is on the other one.
fn say(flags: &Flags, diffed: &Diffed) -> anyhow::Result<()> {
    let diff_id = sha256(diffed.diff_id);
    if flags.json {
        let mut value = serde_json::to_value(diffed)?;
        if let Some(fields) = value.as_object_mut() {
            fields.insert("diff_id".into(), diff_id.into());
        }
        note!("{value}");
        return Ok(());
    }
    if flags.quiet {
        return Ok(());
    }
    note!(
        "unpack: wrote {diff_id}: {} bytes, {} added, {} changed, {} removed",
        diffed.bytes,
        diffed.added,
        diffed.changed,
        diffed.removed
    );
    if diffed.sockets > 0 {
        note!("unpack: {} sockets are left out: a layer has none", diffed.sockets);
    }
    if diffed.attributes > 0 {
        note!(
            "unpack: {} extended attributes that no layer can hold are left out",
            diffed.attributes
        );
    }
    Ok(())
}
