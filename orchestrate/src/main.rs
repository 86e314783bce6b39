//! The `orchestrate` program: reads flags, calls the library, prints. No decision is made here.

mod args;
mod print;

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use argh::FromArgs as _;
use args::{Args, Command};
use orchestrate::{Error, Host, Settings, class};
use serde::Serialize;
use serde_json::json;

/// One ext4 flex group of 2 KiB blocks; little of it is ever written: see docs/space.md.
const VOLUME_BYTES: u64 = 4 << 30;

fn main() -> ExitCode {
    // Layers are applied by this very program, run again behind fences.
    unpack::sandbox::child_entry();
    let words: Option<Vec<String>> =
        std::env::args_os().skip(1).map(|word| word.into_string().ok()).collect();
    let Some(words) = words else {
        eprintln!("orchestrate: fatal: an argument is not UTF-8");
        return ExitCode::from(100);
    };
    let args = match Args::from_args(&["orchestrate"], &args::hoist(&words)) {
        Ok(args) => args,
        Err(exit) if exit.status.is_ok() => return finish(say(&exit.output), false),
        Err(exit) => {
            let said = exit.output.split_whitespace().collect::<Vec<_>>().join(" ");
            eprintln!("orchestrate: fatal: {said}; see orchestrate --help");
            return ExitCode::from(100);
        }
    };
    let json = args.json;
    finish(run(args), json)
}

fn finish(outcome: anyhow::Result<()>, json: bool) -> ExitCode {
    let Err(error) = outcome else { return ExitCode::SUCCESS };
    let broken_pipe = |e: &io::Error| e.kind() == io::ErrorKind::BrokenPipe;
    if error.downcast_ref::<io::Error>().is_some_and(broken_pipe) {
        return ExitCode::SUCCESS;
    }
    let class = error.downcast_ref::<Error>().map(class);
    let message = whole(&error);
    eprintln!("orchestrate: fatal: {message}");
    if json {
        let word = class.map_or("usage", |class| class.word());
        let line = json!({"error": {"class": word, "message": message}});
        // The exit code says it as well; a closed stdout changes nothing.
        drop(say(&format!("{line}\n")));
    }
    ExitCode::from(class.map_or(100, |class| class.exit_code()))
}

/// The error and its causes; a cause that the text before it names already is not said twice.
fn whole(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |text, cause| {
        match text.is_empty() {
            true => cause,
            false if text.contains(&cause) => text,
            false => format!("{text}: {cause}"),
        }
    })
}

fn run(args: Args) -> anyhow::Result<()> {
    if args.version {
        return say(concat!("orchestrate ", env!("CARGO_PKG_VERSION"), "\n"));
    }
    let (settings, json) = (settings(&args)?, args.json);
    let Some(command) = args.command else {
        return Err(anyhow!(
            "which of ensure, activate, deactivate, ls, show, rm, recover? see orchestrate --help"
        ));
    };
    // References and names are judged before anything is opened or made.
    match &command {
        Command::Ensure(ensure) => drop(image(&ensure.image)?),
        Command::Activate(activate) => {
            image(&activate.image)?;
            orchestrate::check_name(&activate.name)?;
        }
        Command::Deactivate(_)
        | Command::Ls(_)
        | Command::Show(_)
        | Command::Rm(_)
        | Command::Recover(_) => {}
    }
    let mut host = Host::open(settings)?;
    let dry = matches!(
        &command,
        Command::Ensure(args::Ensure { dry_run: true, .. })
            | Command::Activate(args::Activate { dry_run: true, .. })
            | Command::Deactivate(args::Deactivate { dry_run: true, .. })
            | Command::Rm(args::Rm { dry_run: true, .. })
            | Command::Ls(_)
            | Command::Show(_)
            | Command::Recover(_)
    );
    if !dry {
        host.recover(false)?;
    }
    perform(&mut host, command, json)
}

fn perform(host: &mut Host, command: Command, json: bool) -> anyhow::Result<()> {
    match command {
        Command::Ensure(args) => {
            let done = host.ensure(&image(&args.image)?, args.dry_run)?;
            output(json, &done, print::ensured)
        }
        Command::Activate(args) => {
            let done = host.activate(&image(&args.image)?, &args.name, args.size, args.dry_run)?;
            output(json, &done, print::activated)
        }
        Command::Deactivate(args) => {
            let changed = host.deactivate(&args.name, args.dry_run)?;
            let done = json!({"name": args.name, "changed": changed, "dry_run": args.dry_run});
            output(json, &done, |_| print::deactivated(&args.name, changed, args.dry_run))
        }
        Command::Ls(_) => output(json, &host.list()?, print::listing),
        Command::Show(args) => show(host, &args.subject, json),
        Command::Rm(args) => {
            let done = host.remove(&args.subject, args.dry_run)?;
            output(json, &done, print::removed)
        }
        Command::Recover(args) => {
            if args.retry && !args.dry_run {
                host.allow_retries()?;
            }
            let repairs = host.recover(args.dry_run)?;
            let done = json!({"repairs": repairs, "dry_run": args.dry_run});
            output(json, &done, |_| print::repairs(&repairs, args.dry_run))
        }
    }
}

fn show(host: &Host, subject: &str, json: bool) -> anyhow::Result<()> {
    let listing = host.list()?;
    let events = |subject: String| host.registry().events(Some(&subject), 0, 1000);
    if let Some(line) = listing.images.iter().find(|line| line.image == subject) {
        let history = events(format!("image {subject}")).map_err(Error::from)?;
        let value = json!({"image": line, "events": history});
        return output(json, &value, |_| print::image(line));
    }
    if let Some(line) = listing.activations.iter().find(|line| line.name == subject) {
        let history = events(format!("activation {subject}")).map_err(Error::from)?;
        let value = json!({"activation": line, "events": history});
        return output(json, &value, |_| print::activation(line, &history));
    }
    Err(Error::Unknown { what: "activation or image", name: subject.into() }.into())
}

fn image(text: &str) -> Result<fetch::ImageRef, Error> {
    text.parse().map_err(Error::Fetch)
}

fn settings(args: &Args) -> anyhow::Result<Settings> {
    let env = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let number = |flag: Option<u64>, name: &str| match (flag, env(name)) {
        (Some(value), _) => Ok(Some(value)),
        (None, Some(text)) => {
            text.parse().map(Some).with_context(|| format!("{name}={text:?}: not a whole number"))
        }
        (None, None) => Ok(None),
    };
    let state = args.state.clone().or_else(|| env("VENEER_STATE").map(PathBuf::from));
    let store = args
        .store
        .clone()
        .or_else(|| env("VENEER_STORE"))
        .or_else(|| env("VENEER_POOL").map(|pool| format!("thin:{pool}")));
    let mut fetch = fetch::Options::from_env()?;
    if let Some(endpoint) = &args.endpoint {
        fetch.endpoint = Some(endpoint.clone());
    }
    if let Some(region) = &args.region {
        fetch.region = region.clone();
    }
    if args.anonymous {
        fetch.credentials = fetch::CredentialsFrom::Anonymous;
    }
    // Two layers are on their way at a time, each with buffers of its own.
    fetch.jobs = fetch.jobs.or(Some(2));
    let mut limits = unpack::Limits::default();
    if let Some(bytes) = number(args.bytes_max, "VENEER_BYTES_MAX")? {
        limits.bytes_max = bytes;
    }
    Ok(Settings {
        state: state.unwrap_or_else(|| PathBuf::from("/var/lib/veneer")),
        store: store.as_deref().unwrap_or("thin:veneer").parse()?,
        fetch,
        limits,
        volume_bytes: number(args.volume_bytes, "VENEER_VOLUME_BYTES")?.unwrap_or(VOLUME_BYTES),
        wait: Duration::from_secs(args.wait.unwrap_or(3600)),
        spool_age: Duration::from_secs(
            number(args.spool_age, "VENEER_SPOOL_AGE")?.unwrap_or(86_400),
        ),
        etag_dedup: !args.no_etag_dedup,
        talk: match (args.quiet, args.verbose) {
            (true, _) => 0,
            (false, false) => 1,
            (false, true) => 2,
        },
    })
}

fn output<T: Serialize>(
    json: bool,
    value: &T,
    text: impl FnOnce(&T) -> String,
) -> anyhow::Result<()> {
    if json { say(&format!("{}\n", serde_json::to_string(value)?)) } else { say(&text(value)) }
}

fn say(text: &str) -> anyhow::Result<()> {
    Ok(io::stdout().write_all(text.as_bytes())?)
}
