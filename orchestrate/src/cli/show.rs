//! Commands that only look: one subject, runs, history, refused blobs.

use std::process::ExitCode;
use std::time::Duration;

use orchestrate::config::Config;
use orchestrate::log::{self, Level};
use orchestrate::metrics::Facts;
use orchestrate::{Error, Host, RunLine, Settings, Verbs, catalog, quoted};
use registry::RunId;
use serde_json::json;

use crate::cli::commands::{Catalog, Events};
use crate::cli::print;
use crate::cli::say::{output, say};

/// Runs that `show` has of one subject.
const RUNS_SHOWN: usize = 5;

/// How often `events --follow` looks.
const LOOK: Duration = Duration::from_secs(30);

/// An image, an activation, or a run; and what is under way for it.
pub(crate) fn subject(host: &mut dyn Verbs, subject: &str, json: bool) -> anyhow::Result<ExitCode> {
    let history =
        |host: &mut dyn Verbs, subject: String| host.events(Some(&subject), 0, Duration::ZERO);
    let mut runs: Vec<RunLine> = host.runs(true)?;
    let listing = host.list()?;
    // A name that is a number is a name first: `runs` shows the run.
    let run =
        subject.parse().ok().filter(|_| !listing.activations.iter().any(|a| a.name == subject));
    if let Some(at) = run.and_then(|id: RunId| runs.iter().position(|line| line.run.id == id)) {
        let line = runs.swap_remove(at);
        let events = history(host, format!("run {subject}"))?;
        let value = json!({"run": line, "events": events});
        return output(json, &value, |_| print::run_line(&line) + &print::history(&events));
    }
    runs.retain(|line| line.run.subject == subject);
    runs.drain(..runs.len().saturating_sub(RUNS_SHOWN));
    let under_way: String = runs.iter().map(print::run_line).collect();
    if let Some(line) = listing.images.iter().find(|line| line.is_called(subject)) {
        let events = history(host, format!("image {}", line.image))?;
        let value = json!({"image": line, "runs": runs, "events": events});
        return output(json, &value, |_| print::image(line) + &print::documents(line) + &under_way);
    }
    if let Some(line) = listing.activations.iter().find(|line| line.name == subject) {
        let events = history(host, format!("activation {subject}"))?;
        let value = json!({"activation": line, "runs": runs, "events": events});
        return output(json, &value, |_| print::activation(line, &events) + &under_way);
    }
    if !runs.is_empty() {
        let value = json!({"runs": runs});
        return output(json, &value, |_| under_way);
    }
    Err(Error::Unknown { what: "activation, image or run", name: subject.into() }.into())
}

/// Runs, one object or line each.
pub(crate) fn runs(host: &mut dyn Verbs, all: bool, json: bool) -> anyhow::Result<ExitCode> {
    for line in host.runs(all)? {
        output(json, &line, print::run_line)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Refused blobs, one object or line each.
pub(crate) fn quarantine(host: &Host, json: bool) -> anyhow::Result<ExitCode> {
    for blob in host.registry().quarantine().map_err(Error::from)? {
        output(json, &blob, print::quarantined)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The history; with `follow` until a signal.
pub(crate) fn events(host: &mut dyn Verbs, args: &Events, json: bool) -> anyhow::Result<ExitCode> {
    let mut seq = args.since.map_or(0, |since| since.0);
    // A page that is full may have more behind it, so only an empty one is the last.
    let time = if args.follow { LOOK } else { Duration::ZERO };
    loop {
        let page = match host.events(args.subject.as_deref(), seq, time) {
            // A signal is how it ends.
            Err(Error::Cancelled { .. }) if args.follow => return Ok(ExitCode::SUCCESS),
            page => page?,
        };
        for event in &page {
            let line = match json {
                true => log::harmless(serde_json::to_string(event)? + "\n"),
                false => print::event(event),
            };
            say(&line)?;
            seq = event.seq;
        }
        if page.is_empty() && !args.follow {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

/// Every setting, one object or line each: a line is what the file would have, and where it is from.
pub(crate) fn config(config: &Config, json: bool) -> anyhow::Result<ExitCode> {
    for (setting, value, origin) in config.iter() {
        let line = json!({
            "key": setting.key, "value": value, "origin": origin, "flag": setting.flag,
            "environment": setting.env, "default": setting.default, "doc": setting.doc,
        });
        output(json, &line, |_| print::setting(setting, value, origin))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Metrics; `again` are the same settings, for when the host cannot be opened with the first.
pub(crate) fn metrics(settings: Settings, again: Settings) -> anyhow::Result<ExitCode> {
    let facts = match Host::open(settings) {
        Ok(host) => host.metrics(),
        Err(error) => {
            log::line(Level::Warning, &error.to_string(), &[]);
            Facts::of_sick(again)
        }
    };
    say(&orchestrate::metrics::text(&facts)).map(|()| ExitCode::SUCCESS)
}

/// The catalog that is believed, or one that may be signed.
pub(crate) fn catalog(host: &mut Host, args: &Catalog, json: bool) -> anyhow::Result<ExitCode> {
    let usage = |text: &str| Err(Error::Usage(text.into()).into());
    match (args.act.as_deref(), &args.to, args.make.is_some() || args.expires.is_some()) {
        (None, None, _) => {}
        (Some("reset"), Some(file), false) => {
            let done = host.reset_catalog(file)?;
            return output(json, &done, print::reset);
        }
        (Some("reset"), None, _) => {
            return usage("catalog reset: --to FILE, and FILE.minisig beside it");
        }
        (Some("reset") | None, Some(_), _) => return usage("--to is for `catalog reset` alone"),
        (Some(other), ..) => {
            return usage(&format!("catalog {}: `reset`, or nothing", quoted(other)));
        }
    }
    let expires_s = match args.expires.as_deref().map(|text| (text, catalog::seconds(text))) {
        Some((text, None)) => {
            return usage(&format!(
                "--expires {}: expected a time: 2027-01-01T00:00:00Z",
                quoted(text)
            ));
        }
        Some((_, seconds)) => seconds,
        None => None,
    };
    let catalog = match args.make {
        None if expires_s.is_some() => return usage("--expires goes with --make"),
        Some(serial) => host.make_catalog(serial.0, expires_s)?,
        None if !host.trusts() => {
            return Err(Error::Usage("set catalog.url and catalog.keys first".into()).into());
        }
        None => host.trusted_catalog()?,
    };
    say(&log::harmless(serde_json::to_string_pretty(&catalog)? + "\n")).map(|()| ExitCode::SUCCESS)
}
