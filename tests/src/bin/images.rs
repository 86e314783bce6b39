//! `images`: builds the image families for tests and demos. The work is in `tests::images`.

use std::path::PathBuf;

use anyhow::{Result, bail};
use argh::FromArgs;
use tests::images::{Set, build, check};

/// Builds the image families (golang, node, python; five layers each) out of Debian packages, under target/images.
#[derive(FromArgs)]
struct Args {
    /// small (40-60 MiB distinct) or full (1.3 GiB and more)
    #[argh(positional, default = "String::from(\"small\")")]
    kind: String,
    /// where the sets go (default: target/images)
    #[argh(option, default = "PathBuf::from(\"target/images\")")]
    out: PathBuf,
    /// build a second time and compare every digest
    #[argh(switch)]
    check: bool,
    /// ask apt for the newest versions instead of those of the last build
    #[argh(switch)]
    refresh: bool,
}

fn main() -> Result<()> {
    let args: Args = argh::from_env();
    let set = match args.kind.as_str() {
        "small" => Set::Small,
        "full" => Set::Full,
        other => bail!("\"{other}\" is not a set of images: small or full"),
    };
    let manifest =
        if args.check { check(set, &args.out)? } else { build(set, &args.out, args.refresh)? };
    println!(
        "{}: {} layers, {} MiB distinct, {} MiB stored whole",
        args.out.join(set.name()).display(),
        manifest.layers.len(),
        manifest.distinct_bytes >> 20,
        manifest.total_bytes >> 20
    );
    Ok(())
}
