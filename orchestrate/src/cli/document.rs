//! `fleet`: the document of this host's fleet, judged, tried and shown.

use std::path::Path;
use std::process::ExitCode;

use orchestrate::config::Config;
use orchestrate::{Error, Host, Settings, document_of};
use serde_json::json;

use crate::cli::fleet::Fleet;
use crate::cli::say::output;
use crate::cli::{print, route};

pub(crate) fn fleet(
    config: &Config,
    settings: Settings,
    args: &Fleet,
    no_daemon: bool,
    json: bool,
) -> anyhow::Result<ExitCode> {
    match (&args.check, &args.plan) {
        (Some(_), Some(_)) => {
            Err(Error::Usage("--check and --plan: one or the other".into()).into())
        }
        (Some(file), None) => check(file, json),
        (None, Some(file)) => {
            let planned = Host::open(settings)?.fleet_plan(file)?;
            output(json, &planned, print::fleet::planned)
        }
        (None, None) => {
            let daemon = if no_daemon { None } else { route::any(config, &settings) };
            match daemon {
                Some(daemon) => {
                    let status = daemon.fleet()?;
                    output(json, &status, |status| print::fleet::status(status, true))
                }
                None => {
                    let status = Host::open(settings)?.fleet_status()?;
                    output(json, &status, |status| print::fleet::status(status, false))
                }
            }
        }
    }
}

fn check(file: &Path, json: bool) -> anyhow::Result<ExitCode> {
    let faults = document_of(file)?.err().unwrap_or_default();
    let good = faults.is_empty();
    let found = json!({"good": good, "faults": faults.faults, "more": faults.more});
    output(json, &found, |_| print::fleet::checked(&faults))?;
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::from(1) })
}
