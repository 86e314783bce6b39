//! Who does the work of a command: a daemon that runs with the same settings, or this process.

use std::path::Path;
use std::process::ExitCode;

use fetch::Place;
use orchestrate::config::Config;
use orchestrate::health::{self, Readiness};
use orchestrate::log::{self, Level};
use orchestrate::serve::{self, Client};
use orchestrate::{Cancel, Error, Settings, walls};

use crate::cli::commands::Command;
use crate::cli::diagnosis::Diagnosis;
use crate::cli::print;
use crate::cli::say::output;

/// Whether this process has to open files for the command, since the daemon opens no path for a client.
fn opens_files(command: &Command) -> bool {
    match command {
        Command::Ensure(args) => is_local(&args.image),
        Command::Activate(args) => is_local(&args.image) || !args.copy.is_empty(),
        _ => false,
    }
}

/// Whether an image is a file of this host, or comes through a pipe.
fn is_local(image: &str) -> bool {
    let found = orchestrate::reference(image);
    found.is_ok_and(|image| match image.place {
        Place::Layout { .. } | Place::Archive { .. } | Place::DockerArchive { .. } => true,
        Place::Numbered(_) | Place::Bucket { .. } | Place::Registry(_) | Place::Here(_) => false,
    })
}

fn client(config: &Config, settings: &Settings, cancel: Cancel) -> Option<Client> {
    let own = serve::socket::socket(&settings.state);
    let path = config.text("serve.socket").map_or(own.as_path(), Path::new);
    Client::find(path, settings.wait, cancel, settings.talk)
}

/// The daemon, where there is one that would do the same as this process.
pub(crate) fn daemon(config: &Config, settings: &Settings, command: &Command) -> Option<Client> {
    let client = any(config, settings)?;
    if opens_files(command) && !client.takes_files() {
        if settings.talk > 0 {
            let line =
                "the daemon is an older one, which takes no open files; the work is done here";
            log::line(Level::Info, line, &[]);
        }
        return None;
    }
    Some(client)
}

/// As [`daemon`], for what no file has to be opened for.
pub(crate) fn any(config: &Config, settings: &Settings) -> Option<Client> {
    let client = client(config, settings, settings.cancel.clone())?;
    match orchestrate::serve::settings::differs(config, client.settings()?) {
        None => Some(client),
        Some(key) => {
            if settings.talk > 0 {
                let line = format!("the daemon has another {key}; the work is done here");
                log::line(Level::Info, &line, &[]);
            }
            None
        }
    }
}

/// Serves until a signal.
pub(crate) fn serve(
    config: &Config,
    new: bool,
    again: impl Fn() -> Result<Config, Error> + Send + 'static,
) -> anyhow::Result<ExitCode> {
    let reload = move || again().and_then(|config| Ok((config.settings()?, config.serve()?)));
    serve::serve(Settings { new, ..config.settings()? }, config.serve()?, reload)?;
    Ok(ExitCode::SUCCESS)
}

/// What the daemon finds of this host, or this process where there is none.
fn found(config: &Config, settings: &Settings) -> Readiness {
    let asked = client(config, settings, Cancel::default()).map(|client| client.readiness());
    match asked {
        Some(Ok(found)) => found,
        Some(Err(_)) | None => health::readiness(settings),
    }
}

/// Tells whether this host can do its work: 0, or 1.
pub(crate) fn health(config: &Config, settings: &Settings, json: bool) -> anyhow::Result<ExitCode> {
    let found = found(config, settings);
    output(json, &found, print::readiness)?;
    Ok(if found.ready { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// Tells what is wrong: 0 where nothing is, or 1.
pub(crate) fn doctor(config: &Config, settings: &Settings, json: bool) -> anyhow::Result<ExitCode> {
    let found = found(config, settings);
    let sandbox = settings.limits.walls.word();
    let walls = walls::standing(settings).map_err(anyhow::Error::msg)?;
    let wrong = found.checks.into_iter().filter(|check| !check.ok).collect();
    let diagnosis = Diagnosis { ready: found.ready, sandbox, walls, wrong };
    output(json, &diagnosis, print::diagnosis)?;
    Ok(if diagnosis.ready { ExitCode::SUCCESS } else { ExitCode::from(1) })
}
