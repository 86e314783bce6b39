//! Who does the work of a command: a daemon that runs with the same settings, or this process.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use orchestrate::config::Config;
use orchestrate::log::{self, Level};
use orchestrate::serve::{self, Client};
use orchestrate::{Cancel, Error, Settings, health};

use crate::commands::Command;
use crate::{output, print};

/// How long to wait for a place among the daemon's connections.
const PATIENCE: Duration = Duration::from_secs(600);

/// Whether a daemon can do this command.
pub(crate) fn may_be_asked(command: &Command) -> bool {
    match command {
        Command::Ensure(_)
        | Command::Activate(_)
        | Command::Deactivate(_)
        | Command::Ls(_)
        | Command::Show(_)
        | Command::Rm(_)
        | Command::Gc(_)
        | Command::Df(_)
        | Command::Pin(_)
        | Command::Unpin(_)
        | Command::Runs(_)
        | Command::Events(_)
        | Command::Cancel(_) => true,
        Command::Recover(_)
        | Command::Verify(_)
        | Command::Scan(_)
        | Command::Catalog(_)
        | Command::Quarantine(_)
        | Command::Rebuild(_)
        | Command::Config(_)
        | Command::Metrics(_)
        | Command::Serve(_)
        | Command::Health(_)
        | Command::Top(_) => false,
    }
}

fn client(config: &Config, settings: &Settings, cancel: Cancel) -> Option<Client> {
    let own = serve::socket(&settings.state);
    let path = config.text("serve.socket").map_or(own.as_path(), Path::new);
    Client::find(path, settings.wait.min(PATIENCE), cancel, settings.talk)
}

/// The daemon, where there is one that would do the same as this process.
pub(crate) fn daemon(config: &Config, settings: &Settings) -> Option<Client> {
    let client = client(config, settings, settings.cancel.clone())?;
    let other =
        config.deciding().find(|(key, value, own)| *own && client.setting(key) != Some(value));
    match other {
        None => Some(client),
        Some((key, ..)) => {
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
    again: impl Fn() -> Result<Config, Error> + Send + 'static,
) -> anyhow::Result<ExitCode> {
    let reload = move || again().map(|config| config.serve_limits());
    serve::serve(config.settings()?, config.serve()?, reload)?;
    Ok(ExitCode::SUCCESS)
}

/// Tells whether this host can do its work: 0, or 1.
pub(crate) fn health(config: &Config, settings: &Settings, json: bool) -> anyhow::Result<ExitCode> {
    let asked = client(config, settings, Cancel::default()).map(|client| client.readiness());
    let found = match asked {
        Some(Ok(found)) => found,
        Some(Err(_)) | None => health::readiness(settings),
    };
    output(json, &found, print::readiness)?;
    Ok(if found.ready { ExitCode::SUCCESS } else { ExitCode::from(1) })
}
