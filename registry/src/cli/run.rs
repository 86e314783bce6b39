//! One call of the program: from its arguments to an exit code.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use argh::FromArgs;
use registry::{Error, Facts, Kind, Registry, VolumeState};
use serde::Serialize;
use serde_json::json;

use crate::cli::args::{Args, Backup, Command, Export, KEEP_MAX, Ls, Rebuild, Show, hoist};

/// Does what the arguments ask for.
pub(crate) fn run() -> ExitCode {
    let words: Option<Vec<String>> =
        std::env::args_os().skip(1).map(|word| word.into_string().ok()).collect();
    let Some(words) = words else {
        eprintln!("registry: fatal: an argument is not UTF-8");
        return ExitCode::from(100);
    };
    let words = words.iter().map(|word| if word == "-h" { "--help" } else { word.as_str() });
    let words: Vec<&str> = words.collect();
    let args = match Args::from_args(&["registry"], &hoist(&words)) {
        Ok(args) => args,
        Err(exit) if exit.status.is_ok() => return finish(say(&exit.output).map(|()| true)),
        Err(exit) => {
            eprintln!("registry: fatal: {}; see registry --help", one_line(&exit.output));
            return ExitCode::from(100);
        }
    };
    finish(perform(args))
}

fn finish(outcome: anyhow::Result<bool>) -> ExitCode {
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // Our own errors name their source in their text; what anyhow wrapped does not.
            let text = error.downcast_ref::<Error>().map(|error| error.to_string());
            eprintln!("registry: fatal: {}", text.unwrap_or_else(|| format!("{error:#}")));
            ExitCode::from(exit_code(&error))
        }
    }
}

fn exit_code(error: &anyhow::Error) -> u8 {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    let full = |error: &io::Error| matches!(error.kind(), StorageFull | QuotaExceeded);
    if error.downcast_ref::<io::Error>().is_some_and(full) {
        return 111;
    }
    match error.downcast_ref::<Error>().map(Error::kind) {
        Some(Kind::Busy | Kind::NoSpace | Kind::Io | Kind::Conflict) => 111,
        Some(Kind::Denied | Kind::Refused | Kind::Bug) | None => 100,
    }
}

/// Ok(false) is "no".
fn perform(args: Args) -> anyhow::Result<bool> {
    if args.version {
        say(concat!("registry ", env!("CARGO_PKG_VERSION"), "\n"))?;
        return Ok(true);
    }
    let Some(command) = args.command else {
        bail!("which of ls, show, check, backup, export, rebuild? see registry --help");
    };
    let dir = args
        .state
        .or_else(|| std::env::var_os("VENEER_STATE").map(PathBuf::from))
        .unwrap_or_else(|| PathBuf::from("/var/lib/veneer"));
    let path = dir.join("registry.db");
    if let Command::Rebuild(Rebuild {}) = command {
        return rebuild(&dir, &path);
    }
    if !path.exists() {
        bail!(
            "no registry at {}: nothing was ever activated with this --state directory",
            path.display()
        );
    }
    let registry = Registry::open_existing(&path)?;
    match command {
        Command::Ls(ls) => list(&registry, &ls),
        Command::Show(show) => show_one(&registry, &show),
        Command::Check(check) => check_all(&registry, check.json),
        Command::Backup(Backup { keep, .. }) if keep > KEEP_MAX => {
            bail!("--keep {keep}: at most {KEEP_MAX} older backups are kept")
        }
        Command::Backup(backup) => {
            if let Some(older) = registry.backup(&backup.file, backup.keep)? {
                eprintln!("registry: the backup that was there is {}", older.display());
            }
            Ok(true)
        }
        Command::Export(Export {}) => export(&registry),
        Command::Rebuild(Rebuild {}) => unreachable!("done above, without a registry"),
    }
}

fn list(registry: &Registry, ls: &Ls) -> anyhow::Result<bool> {
    let rows: Vec<serde_json::Value> = match ls.what.as_deref().unwrap_or("volumes") {
        "volumes" => registry.volumes()?.iter().map(volume_json).collect(),
        "images" => to_json(&registry.images()?)?,
        "activations" => registry.activations()?.iter().map(activation_json).collect(),
        "runs" => to_json(&registry.runs(true)?)?,
        "quarantine" => to_json(&registry.quarantine()?)?,
        "events" => to_json(&registry.events(None, 0, u32::MAX)?)?,
        other => bail!(
            "cannot list {:?}: one of volumes, images, activations, runs, \
                       quarantine, events",
            other.chars().take(WORD_MAX).collect::<String>()
        ),
    };
    for row in rows {
        say(&if ls.json { format!("{row}\n") } else { plain(&row) })?;
    }
    Ok(true)
}

fn show_one(registry: &Registry, show: &Show) -> anyhow::Result<bool> {
    let name = &show.subject;
    let (subject, what) = if let Some(image) = registry.image(name)? {
        (format!("image {name}"), serde_json::to_value(image)?)
    } else if let Some(activation) = registry.activation(name)? {
        (format!("activation {name}"), activation_json(&activation))
    } else if let Some(volume) =
        name.parse().ok().map(|id| registry.volume(id)).transpose()?.flatten()
    {
        (format!("volume {name}"), volume_json(&volume))
    } else {
        eprintln!("registry: no image, activation or volume {name:?}");
        return Ok(false);
    };
    let events = registry.events(Some(&subject), 0, u32::MAX)?;
    if show.json {
        say(&format!("{}\n", json!({"subject": subject, "row": what, "events": events})))?;
        return Ok(true);
    }
    say(&plain(&what))?;
    for event in events {
        say(&plain(&serde_json::to_value(event)?))?;
    }
    Ok(true)
}

fn rebuild(dir: &Path, path: &Path) -> anyhow::Result<bool> {
    let facts: Facts = serde_json::from_reader(io::stdin().lock()).context(
        "no facts on stdin: `orchestrate rebuild --facts | registry rebuild --state DIR`",
    )?;
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let registry = Registry::rebuild(path, &facts)?;
    let totals = registry.totals()?;
    say(&format!(
        "{} layers, {} images, {} activations\n",
        totals.layers, totals.images, totals.activations
    ))?;
    Ok(true)
}

/// A reader that goes away ends it quietly, as everywhere.
fn export(registry: &Registry) -> anyhow::Result<bool> {
    let mut written = Ok(());
    registry.export(|row| {
        if written.is_ok() {
            written = say(&format!("{row}\n"));
        }
        Ok(())
    })?;
    written.map(|()| true)
}

fn check_all(registry: &Registry, json: bool) -> anyhow::Result<bool> {
    let findings = registry.check()?;
    if json {
        let totals = registry.totals()?;
        say(&format!(
            "{}\n",
            json!({"sound": findings.is_empty(), "findings": findings, "totals": totals})
        ))?;
    } else {
        for finding in &findings {
            say(&format!("{}: {}\n", finding.check, finding.message.escape_debug()))?;
        }
        if findings.is_empty() {
            say("sound\n")?;
        }
    }
    Ok(findings.is_empty())
}

fn volume_json(volume: &registry::Volume) -> serde_json::Value {
    let seal = match &volume.state {
        VolumeState::Sealed(seal) => serde_json::to_value(seal).unwrap_or_default(),
        VolumeState::Building | VolumeState::Deleting => serde_json::Value::Null,
    };
    json!({"id": volume.id, "role": volume.role, "parent": volume.parent, "build": volume.build,
           "bytes": volume.bytes, "state": volume.state.word(), "seal": seal,
           "condemned": volume.condemned})
}

fn activation_json(activation: &registry::Activation) -> serde_json::Value {
    json!({"name": activation.name, "reference": activation.reference,
           "origin": activation.origin, "id": activation.id, "bytes": activation.bytes,
           "state": activation.state.word(), "endpoint": activation.endpoint})
}

fn to_json(rows: &[impl Serialize]) -> anyhow::Result<Vec<serde_json::Value>> {
    rows.iter().map(|row| serde_json::to_value(row).context("encode a row")).collect()
}

/// `key=value` pairs on one line; nested values stay JSON, so nothing raw reaches a terminal.
fn plain(row: &serde_json::Value) -> String {
    let fields = row.as_object().into_iter().flatten();
    let line: Vec<String> = fields.map(|(key, value)| format!("{key}={value}")).collect();
    line.join(" ") + "\n"
}

fn say(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout();
    let written = out.write_all(harmless(text).as_bytes()).and_then(|()| out.flush());
    written.context("cannot write to standard output")
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

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

/// Characters of a word from outside that are shown.
const WORD_MAX: usize = 200;

/// A character that somebody typed: a terminal shall not obey it.
fn visible(c: char) -> String {
    match c.is_control() && c != '\n' {
        true => c.escape_default().to_string(),
        false => c.to_string(),
    }
}

fn one_line(text: &str) -> String {
    // argh quotes whole what it was given.
    let cut = |word: &str| word.chars().take(WORD_MAX).map(visible).collect::<String>();
    text.split_whitespace().map(cut).collect::<Vec<_>>().join(" ")
}
