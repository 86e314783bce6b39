//! A flag that means nothing beside the others is refused by its name, and not passed over.

use crate::cli::flags::{Flags, Usage};

/// Refuses the first flag that does not belong to what is asked for.
pub(crate) fn misplaced(flags: &Flags) -> Result<(), Usage> {
    let (blank, device) = (flags.blank.is_some(), flags.device.is_some());
    let image = device || flags.image.is_some();
    // Given, its name, where it belongs, and whether that is here.
    let mut all = vec![
        (blank, "--blank", "--image and --device", image && !flags.tree_digest),
        (flags.inodes.is_some(), "--inodes", "--blank", blank),
        (flags.block.is_some(), "--block", "--blank", blank),
        (flags.align.is_some(), "--align", "--blank", blank),
        (flags.force, "--force", "--device with --blank", device && blank),
        (flags.parent_sealed, "--parent-sealed", "--device and a layer", device && !blank),
        (flags.base.is_some(), "--base", "--diff", flags.diff),
        (flags.upper, "--upper", "--verify", flags.verify),
        (flags.shown_max.is_some(), "--shown-max", "--verify", flags.verify),
        (flags.place_min.is_some(), "--place-min", "--root", !image),
    ];
    // What says something of a layer, where none is read.
    let layer = [
        (flags.digest.is_some(), "--digest"),
        (flags.diff_id.is_some(), "--diff-id"),
        (flags.compression.is_some(), "--compression"),
        (flags.xattrs_strict, "--xattrs-strict"),
    ];
    let reads = !blank && !flags.tree_digest && !flags.grow && !flags.block_digest && !flags.diff;
    let needs = "a layer, and none is read here";
    all.extend(layer.map(|(given, name)| (given, name, needs, reads)));
    all.push((flags.manifest.is_some(), "--manifest", needs, !blank && !flags.diff));
    all.push((flags.json, "--json", needs, !blank));
    match all.into_iter().find(|&(given, _, _, belongs)| given && !belongs) {
        Some((_, name, place, _)) => Err(Usage(format!("{name} is for {place}"))),
        None => Ok(()),
    }
}
