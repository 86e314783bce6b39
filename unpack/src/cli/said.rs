//! What is said of a layer that was applied.

use std::io::{self, Write};

use unpack::Applied;

use crate::cli::flags::Flags;

pub(crate) fn say(
    flags: &Flags,
    digests: bool,
    applied: &Applied,
    blocks: Option<[u8; 32]>,
) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for wall in applied.sandbox.iter().filter(|wall| !wall.stands && !flags.quiet) {
        note!("unpack: without the wall {}: {}", wall.wall.name(), wall.note);
    }
    if flags.json {
        let mut summary = summary(applied, if digests { &[] } else { &DIGESTS })?;
        if let (Some(fields), Some(blocks)) = (summary.as_object_mut(), blocks) {
            fields.insert("block_digest".into(), sha256(blocks).into());
        }
        writeln!(out, "{summary}")?;
    } else if !flags.quiet {
        let layer = if digests { sha256(applied.diff_id) } else { "a layer".into() };
        note!(
            "unpack: applied {layer}: {} entries, {} bytes of files, {} whiteouts",
            applied.entries,
            applied.content_bytes,
            applied.whiteouts + applied.opaques
        );
    }
    Ok(())
}

pub(crate) const DIGESTS: [&str; 3] = ["blob_digest", "diff_id", "tree_digest"];

/// All but the fields that are void.
pub(crate) fn summary(applied: &Applied, void: &[&str]) -> serde_json::Result<serde_json::Value> {
    let mut summary = serde_json::to_value(applied)?;
    if let Some(fields) = summary.as_object_mut() {
        fields.retain(|name, _| !void.contains(&name.as_str()));
    }
    Ok(summary)
}

/// A digest in words.
pub(crate) fn sha256(digest: [u8; 32]) -> String {
    format!("sha256:{}", hex::encode(digest))
}
