//! What one writes in an afternoon: dmsetup, mkfs, wget and GNU tar in a chain of snapshots. No digest, no
//! registry, no recovery, and whiteouts are files like any other.

use std::time::Instant;

use anyhow::{Context, Result};

use super::Took;
use crate::guest::{Cmd, Guest, ScratchExt4};

/// Arguments: pool, size in sectors, mount point, then the URLs of the layers.
const LAYERS: &str = r#"
set -eu
pool=$1 sectors=$2 at=$3; shift 3
dm="dmsetup --noudevsync --verifyudev"
$dm message "$pool" 0 "create_thin 1"
$dm create work --table "0 $sectors thin /dev/mapper/$pool 1"
mkfs.ext4 -q -O ^has_journal -E packed_meta_blocks=1,nodiscard /dev/mapper/work
id=1
mkdir -p "$at"
for url; do
    mount -t ext4 -o noatime /dev/mapper/work "$at"
    # Where a file takes the place of a directory, tar goes on and ends with 2.
    wget -q -O - "$url" | { tar -x -p --numeric-owner --xattrs '--xattrs-include=*' -C "$at" || [ $? = 2 ]; }
    umount "$at"
    $dm remove work
    next=$((id + 1))
    $dm message "$pool" 0 "create_snap $next $id"
    id=$next
    $dm create work --table "0 $sectors thin /dev/mapper/$pool $id"
done
"#;

/// Arguments: pool, size in sectors, the snapshot's id, its name, the origin's id.
const SNAPSHOT: &str = r#"
set -eu
dm="dmsetup --noudevsync --verifyudev"
$dm message "$1" 0 "create_snap $3 $5"
$dm create "$4" --table "0 $2 thin /dev/mapper/$1 $3"
"#;

/// An image onto an empty pool, then activations.
///
/// # Errors
/// The script fails.
pub(super) fn run(guest: &Guest, disk: &ScratchExt4, family: &str, count: usize) -> Result<Took> {
    const SECTORS: &str = "8388608";
    let pool = super::fresh(disk, "script")?;
    let s3 = guest.s3()?;
    let at = guest.scratch().join("script");
    let urls: Vec<String> = (1..=5)
        .map(|number| format!("{}/{}/images/{family}/{number}.tar", s3.url(), crate::s3::BUCKET))
        .collect();
    let begun = Instant::now();
    let layers = Cmd::new("sh").args(["-c", LAYERS, "layers", "script", SECTORS]);
    layers.arg(&at).args(&urls).run()?.expect(0)?;
    let image_s = begun.elapsed().as_secs_f64();
    let status = pool.pool().status()?;
    let blocks = status.working().context("the pool has failed")?.used_data.0;
    let mut activation_s = Vec::new();
    // The last snapshot is the activation; more are made of the layer below it.
    for n in 0..count {
        let (id, name) = ((100 + n).to_string(), format!("a{n}"));
        let words = ["-c", SNAPSHOT, "snapshot", "script", SECTORS, &id, &name, "5"];
        let begun = Instant::now();
        Cmd::new("sh").args(words).run()?.expect(0)?;
        activation_s.push(begun.elapsed().as_secs_f64());
    }
    for name in (0..count).map(|n| format!("a{n}")).chain(["work".to_owned()]) {
        Cmd::new("dmsetup").args(["remove", "--noudevsync", &name]).run()?.expect(0)?;
    }
    super::gone(disk, "script", pool)?;
    Ok(Took { image_s, activation_s, blocks })
}
