//! `corpus`: holds `unpack` against GNU tar on real packages. The work is in `tests::corpus`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use argh::FromArgs;
use tests::corpus::{Outcome, compare, files, get};

/// Applies real packages (crates, npm, PyPI, Debian sources) by unpack and by GNU tar, and compares the trees.
#[derive(FromArgs)]
struct Args {
    /// the program (default: beside this one)
    #[argh(option)]
    unpack: Option<PathBuf>,
    /// only packages of this kind: crate, npm, pypi or debian
    #[argh(option)]
    kind: Option<String>,
    /// every archive in this folder, and none of the list
    #[argh(option)]
    dir: Option<PathBuf>,
}

fn main() -> Result<()> {
    let args: Args = argh::from_env();
    let here = std::env::current_exe()?;
    let beside = here.parent().context("this program is in a folder")?.join("unpack");
    let unpack = args.unpack.unwrap_or(beside);
    let mut archives: Vec<(String, Result<PathBuf>)> = Vec::new();
    if let Some(dir) = &args.dir {
        let kind = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        archives.extend(files(dir)?.into_iter().map(|file| (kind.clone(), Ok(file))));
    } else {
        let cache = get::cache()?;
        for wanted in get::wanted()? {
            if args.kind.as_ref().is_none_or(|kind| *kind == wanted.kind) {
                archives.push((wanted.kind.clone(), get::get(&wanted, &cache)));
            }
        }
    }
    let scratch = tempfile::tempdir()?;
    let mut counts: BTreeMap<(String, String), (u64, usize)> = BTreeMap::new();
    let mut bad = 0;
    for (kind, archive) in archives {
        let (outcome, paths, name) = match archive {
            Err(error) => ("not to be had".to_owned(), 0, format!("{error:#}")),
            Ok(archive) => {
                let outcome = compare(&unpack, &archive, scratch.path())
                    .with_context(|| archive.display().to_string())?;
                bad += u32::from(!outcome.is_good());
                let paths = if let Outcome::Equal(paths) = outcome { paths } else { 0 };
                let name = archive.display().to_string();
                (outcome.kind(), paths, format!("{name}: {}", outcome.detail()))
            }
        };
        if outcome != "equal" {
            println!("{kind}: {outcome}: {name}");
        }
        let count = counts.entry((kind, outcome)).or_default();
        *count = (count.0 + 1, count.1 + paths);
    }
    println!("\n| kind | outcome | archives | paths |\n|---|---|---|---|");
    for ((kind, outcome), (archives, paths)) in counts {
        println!("| {kind} | {outcome} | {archives} | {paths} |");
    }
    ensure!(bad == 0, "{bad} archives are not as GNU tar has them, and are not refused");
    Ok(())
}
