//! One call of the program: from its arguments to an exit code.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::AsFd as _;
use std::process::ExitCode;

use anyhow::{Context, anyhow};
use argh::FromArgs;
use unpack::{Difference, Entry, Error, Kind, Root, Timed, Unfit, Walls, escaped};

use crate::cli::chunks;
use crate::cli::diff;
use crate::cli::digest;
use crate::cli::flags::{self, Flags, SHOWN_MAX};
use crate::cli::image::{self, Sealed};
use crate::cli::misplaced::misplaced;
use crate::cli::said::{DIGESTS, say, sha256, summary};

const NO: u8 = 1;
const NEVER: u8 = 100;
const LATER: u8 = 111;

/// Does what the arguments ask for.
pub(crate) fn run() -> ExitCode {
    let args: Vec<String> = match std::env::args_os().map(|a| a.into_string()).collect() {
        Ok(args) => args,
        Err(bad) => {
            let bad = escaped(bad.as_encoded_bytes()).to_string();
            note!("unpack: fatal: argument \"{bad}\" is not UTF-8");
            return NEVER.into();
        }
    };
    let args = args.iter().map(|word| if word == "-h" { "--help" } else { word.as_str() });
    let args: Vec<&str> = args.collect();
    let flags = match Flags::from_args(&["unpack"], args.get(1..).unwrap_or_default()) {
        Ok(flags) => flags,
        Err(early) => {
            return match early.status {
                Ok(()) => match io::stdout().write_all(early.output.as_bytes()) {
                    Ok(()) | Err(_) => ExitCode::SUCCESS,
                },
                Err(()) => {
                    // argh quotes whole what it was given.
                    let cut =
                        |word: &str| word.chars().take(SHOWN_MAX).map(visible).collect::<String>();
                    let words = early.output.split(' ').map(cut).collect::<Vec<_>>();
                    note!("unpack: fatal: {}", words.join(" ").trim_end());
                    NEVER.into()
                }
            };
        }
    };
    if flags.version {
        let line = concat!("unpack ", env!("CARGO_PKG_VERSION"), "\n");
        return match io::stdout().write_all(line.as_bytes()) {
            Ok(()) | Err(_) => ExitCode::SUCCESS,
        };
    }
    match perform(&flags) {
        Ok(yes) => ExitCode::from(if yes { 0 } else { NO }),
        Err(error) => fail(&flags, &error),
    }
}

fn fail(flags: &Flags, error: &anyhow::Error) -> ExitCode {
    let sealed = error.downcast_ref::<Sealed>().is_some();
    if let Some(io) = error.chain().find_map(|e| e.downcast_ref::<io::Error>())
        && io.kind() == io::ErrorKind::BrokenPipe
        && error.downcast_ref::<Error>().is_none()
        && !sealed
    {
        return LATER.into();
    }
    let ours = error.downcast_ref::<Error>();
    let code = match ours.map(Error::kind) {
        Some(Kind::Refused | Kind::Limit | Kind::Denied | Kind::Sandbox) => NEVER,
        Some(Kind::NoSpace | Kind::TimedOut | Kind::Stream | Kind::Io | Kind::Died) => LATER,
        None => match (error.downcast_ref::<flags::Usage>(), error.downcast_ref::<Unfit>()) {
            (Some(_), _) => NEVER,
            (None, Some(unfit)) if unfit.is_final() => NEVER,
            (None, Some(_) | None) => LATER,
        },
    };
    // The work is done, and would be done twice.
    let code = if sealed { NEVER } else { code };
    // A path that is not there, or not ours, will not be there next time.
    let missing = error.chain().find_map(|e| e.downcast_ref::<io::Error>()).is_some_and(|e| {
        matches!(
            e.kind(),
            io::ErrorKind::NotFound
                | io::ErrorKind::NotADirectory
                | io::ErrorKind::IsADirectory
                | io::ErrorKind::PermissionDenied
                | io::ErrorKind::ReadOnlyFilesystem
        )
    });
    let code = if missing { NEVER } else { code };
    note!("unpack: fatal: {error:#}");
    if flags.json {
        let place = ours.and_then(Error::place);
        let value = serde_json::json!({
            "error": format!("{error:#}"),
            "class": ours.and_then(Error::class).map(unpack::Class::name),
            "entry": place.map(|p| p.index),
            "offset": place.map(|p| p.offset),
            "name": place.map(|p| escaped(&p.name).to_string()),
            "exit": code,
        });
        let text = harmless(&value.to_string());
        // Where a layer goes to standard output, nothing else does.
        if flags.diff {
            note!("{text}");
        } else {
            match writeln!(io::stdout(), "{text}") {
                Ok(()) | Err(_) => {}
            }
        }
    }
    code.into()
}

/// JSON in which nothing outside of ASCII acts on a terminal or turns text around: controls (C1) and what sets
/// a direction are written as `\uXXXX`. They stand only in texts, so it says the same.
fn harmless(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '\u{7f}'..='\u{9f}'
            | '\u{61c}'
            | '\u{200e}'
            | '\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}' => text.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => text.push(c),
        }
    }
    text
}

/// A character that somebody typed: a terminal shall not obey it.
fn visible(c: char) -> String {
    match c.is_control() && c != '\n' {
        true => c.escape_default().to_string(),
        false => c.to_string(),
    }
}

/// `false` is the answer no.
fn perform(flags: &Flags) -> anyhow::Result<bool> {
    let limits = flags.limits()?;
    misplaced(flags)?;
    if flags.list && flags.verify {
        return Err(anyhow!(flags::Usage("--list and --verify: one of them".into())));
    }
    if flags.diff {
        return diff::diff(flags, &limits);
    }
    if flags.tree_digest {
        return digest::tree_digest(flags, &limits);
    }
    let image = flags.image.is_some() || flags.device.is_some();
    match &flags.chunks {
        Some(_) if flags.list || !image || flags.blank.is_some() => {
            let text = "--chunks goes with --image or --device, and not with --list or --blank";
            return Err(anyhow!(flags::Usage(text.into())));
        }
        _ if flags.block_digest && (flags.list || flags.verify) => {
            let text = "--block-digest reads no layer: not with --list or --verify";
            return Err(anyhow!(flags::Usage(text.into())));
        }
        _ if flags.block_digest => return chunks::block_digest(flags),
        Some(list) if flags.verify => return chunks::verify(flags, list),
        Some(_) | None => {}
    }
    if flags.replay {
        return Err(anyhow!(flags::Usage("--replay is for --tree-digest and --diff".into())));
    }
    let asked = [
        (limits.blob_digest.is_some(), "--digest"),
        (limits.diff_id.is_some(), "--diff-id"),
        (flags.manifest.is_some(), "--manifest"),
        (flags.verify, "--verify"),
    ];
    if let Some((_, flag)) = asked.iter().find(|(asked, _)| *asked && !limits.digests) {
        return Err(anyhow!(flags::Usage(format!(
            "{flag} needs digests: not with --digests none"
        ))));
    }
    // Without std's buffer, which nobody could look into.
    let layer = io::stdin().as_fd().try_clone_to_owned().context("unable to use standard input")?;
    let layer = Timed::new(File::from(layer), &limits);
    if flags.list {
        return list(flags, &limits, layer);
    }
    if flags.image.is_some() || flags.device.is_some() {
        return image::perform(flags, &limits, layer);
    }
    let Some(path) = flags.root()? else {
        let rule = "--root, --image or --device is missing: say where the layer goes";
        return Err(anyhow!(flags::Usage(rule.into())));
    };
    let root = Root::open(&path)?;
    if flags.verify {
        return verify(flags, &limits, layer, &root);
    }
    let manifest = match &flags.manifest {
        None => None,
        Some(path) => {
            Some(File::create(path).with_context(|| format!("unable to create {path:?}"))?)
        }
    };
    let applied = match (limits.walls, manifest) {
        (Walls::Off, None) => unpack::apply(layer, &root, &limits)?,
        (Walls::Off, Some(file)) => {
            let mut manifest = BufWriter::new(file);
            let applied = unpack::apply_with(layer, &root, &limits, Some(&mut manifest))?;
            manifest.flush().context("unable to write the manifest")?;
            applied
        }
        (Walls::On | Walls::Require, manifest) => {
            let never = unpack::Stop::default();
            unpack::sandbox::apply_with(layer, &root, &limits, manifest.as_ref(), &never)?
        }
    };
    say(flags, limits.digests, &applied, None)?;
    Ok(true)
}

fn list(flags: &Flags, limits: &unpack::Limits, layer: impl io::Read) -> anyhow::Result<bool> {
    let mut out = BufWriter::new(io::stdout());
    let mut written = Ok(());
    let applied = unpack::list(layer, limits, |entry| {
        if written.is_ok() {
            written = row(&mut out, flags.json, entry);
        }
    })?;
    written.and_then(|()| out.flush())?;
    if flags.json {
        // One of them is void without a tree in any case.
        let void = if limits.digests { &DIGESTS[2..] } else { &DIGESTS };
        let summary = summary(&applied, void)?;
        writeln!(out, "{}", serde_json::json!({ "summary": summary }))?;
        out.flush()?;
    }
    Ok(true)
}

fn row(out: &mut impl Write, json: bool, entry: &Entry) -> io::Result<()> {
    use unpack::Node;
    let (size, link, device) = match &entry.node {
        Node::File { size } | Node::Pseudo { size } => (Some(*size), None, None),
        Node::Symlink { target } | Node::Hardlink { target } => (None, Some(target), None),
        Node::Char { major, minor } | Node::Block { major, minor } => {
            (None, None, Some(format!("{major}:{minor}")))
        }
        Node::Dir | Node::Fifo | Node::Whiteout | Node::Opaque | Node::Aufs => (None, None, None),
    };
    let path: &[u8] = if entry.path.is_empty() { b"." } else { &entry.path };
    if json {
        let value = serde_json::json!({
            "entry": entry.index,
            "offset": entry.offset,
            "type": entry.node.name(),
            "path": unpack::escaped_whole(path).to_string(),
            "mode": format!("{:04o}", entry.mode),
            "uid": entry.uid,
            "gid": entry.gid,
            "mtime": entry.mtime.sec,
            "nsec": entry.mtime.nsec,
            "size": size,
            "link": link.map(|link| unpack::escaped_whole(link).to_string()),
            "rdev": device,
            "xattrs": entry.xattrs.iter().map(|(k, _)| escaped(k).to_string()).collect::<Vec<_>>(),
        });
        return writeln!(out, "{value}");
    }
    let arrow = link.map(|link| format!(" -> {}", unpack::escaped_whole(link)));
    writeln!(
        out,
        "{:<8} {:04o} {:>5} {:>5} {:>12} {}{}",
        entry.node.name(),
        entry.mode,
        entry.uid,
        entry.gid,
        device.or(size.map(|size| size.to_string())).unwrap_or_default(),
        unpack::escaped_whole(path),
        arrow.unwrap_or_default()
    )
}

fn verify(
    flags: &Flags,
    limits: &unpack::Limits,
    layer: impl io::Read,
    root: &Root,
) -> anyhow::Result<bool> {
    let (mut shown, shown_max) = (0u64, flags.shown_max.unwrap_or(100));
    let verified = unpack::verify(layer, root, limits, !flags.upper, |difference| {
        shown += 1;
        if flags.quiet || shown > shown_max {
            return;
        }
        match difference {
            Difference::Missing { expected } => note!("unpack: missing {expected}"),
            Difference::Changed { expected, found } => {
                note!("unpack: expected {expected}\nunpack: found    {found}");
            }
            Difference::Extra { path } => note!("unpack: extra \"{}\"", escaped(&path)),
            Difference::Hidden { path } => {
                note!("unpack: not hidden \"{}\"", escaped(&path));
            }
        }
    })?;
    if shown > shown_max && !flags.quiet {
        note!("unpack: and {} more", shown - shown_max);
    }
    let yes = verified.differences == 0 && verified.extra == 0;
    if flags.json {
        let value = serde_json::json!({
            "equal": yes,
            "differences": verified.differences,
            "extra": verified.extra,
            "found_digest": sha256(verified.found_digest),
            "layer": verified.layer,
        });
        writeln!(io::stdout(), "{value}")?;
    } else if !flags.quiet {
        let answer = if yes { "equal" } else { "not equal" };
        note!("unpack: {answer}: {} differences, {} extra", verified.differences, verified.extra);
    }
    Ok(yes)
}
