//! Questions: they change nothing. Those about runs and history need the registry alone.

use std::time::Duration;

use registry::{Event, Run, RunId};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::error::Error;
use crate::error::class::Class;
use crate::error::quote::quoted;
use crate::host::run;
use crate::serve::api::params::{number, short, wait};
use crate::serve::daemon::Daemon;
use crate::serve::http::files::FILES_MAX;
use crate::serve::http::request::Request;
use crate::serve::http::response::Response;
use crate::serve::status::Status;
use crate::verbs::label::LabelFilter;
use crate::view::inventory::layers;
use crate::view::metrics::facts::Facts;

/// The loop comes round each five seconds; late by this much, it hangs.
const TICK_LATE: Duration = Duration::from_secs(15);

/// Lines of one answer.
const LINES: u64 = 1000;

pub(super) fn healthz(daemon: &Daemon) -> Result<Response, Error> {
    let age = daemon.ticked();
    if age > TICK_LATE {
        let message = format!("the daemon's loop has not come round for {} s", age.as_secs());
        return Err(Error::Told { class: Class::Temporary, message });
    }
    let age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
    Ok(Response::json(200, &json!({"ok": true, "age_ms": age_ms})))
}

pub(super) fn readyz(daemon: &Daemon) -> Response {
    let readiness = daemon.readiness();
    Response::json(if readiness.ready { 200 } else { 503 }, &readiness)
}

pub(super) fn metrics(daemon: &Daemon) -> Response {
    let facts = daemon.with_host(|host| Ok(host.metrics()));
    let mut facts = facts.unwrap_or_else(|_| Facts::of_sick(daemon.settings()));
    facts.mode = Some(daemon.mode().word().into());
    let text = crate::view::metrics::text(&facts);
    Response::new(200, "text/plain; version=0.0.4; charset=utf-8", text.into_bytes())
}

pub(super) fn openapi() -> Response {
    let text = include_str!("../../../../docs/openapi.json");
    Response::new(200, "application/json", text.into())
}

pub(super) fn status(daemon: &Daemon) -> Response {
    let modes = daemon.modes();
    let (queued, working) = daemon.load();
    Response::json(
        200,
        &Status {
            version: env!("CARGO_PKG_VERSION").into(),
            mode: modes.now().word().into(),
            why: modes.why(),
            pid: std::process::id(),
            started_ms: daemon.started_ms,
            stopping: daemon.is_stopping(),
            queued,
            working,
            restart: daemon.needs_restart(),
            wait_s: Some(daemon.settings().wait.as_secs()),
            descriptors: Some(FILES_MAX),
            settings: daemon.deciding(),
        },
    )
}

pub(super) fn images(daemon: &Daemon, request: &Request) -> Result<Response, Error> {
    let listing = daemon.with_host(|host| host.list())?;
    let Some(name) = request.param("image") else {
        return Ok(Response::json(200, &json!({"images": listing.images})));
    };
    let name = short(name)?;
    let line = listing.images.into_iter().find(|line| line.image == name);
    let line = line.ok_or_else(|| Error::Unknown { what: "image", name: name.into() })?;
    Ok(Response::json(200, &line))
}

/// With `label`, which may be there more than once, those that all of them fit.
pub(super) fn activations(daemon: &Daemon, request: &Request) -> Result<Response, Error> {
    let filters = request.query.iter().filter(|(name, _)| name == "label");
    let filters: Vec<LabelFilter> =
        filters.map(|(_, text)| text.parse().map_err(Error::Usage)).collect::<Result<_, _>>()?;
    let mut listing = daemon.with_host(|host| host.list())?;
    listing.only(&filters);
    Ok(Response::json(200, &json!({"activations": listing.activations})))
}

pub(super) fn activation(daemon: &Daemon, name: &str) -> Result<Response, Error> {
    crate::verbs::named::check_name(name)?;
    let listing = daemon.with_host(|host| host.list())?;
    let line = listing.activations.into_iter().find(|line| line.name == name);
    let line = line.ok_or_else(|| Error::Unknown { what: "activation", name: name.into() })?;
    Ok(Response::json(200, &line))
}

pub(super) fn listing(daemon: &Daemon) -> Result<Response, Error> {
    Ok(Response::json(200, &daemon.with_host(|host| host.list())?))
}

pub(super) fn usage(daemon: &Daemon) -> Result<Response, Error> {
    Ok(Response::json(200, &daemon.with_host(|host| host.usage())?))
}

pub(super) fn pool(daemon: &Daemon) -> Result<Response, Error> {
    let (condition, binding) = daemon.with_host(|host| {
        let store = host.store();
        Ok((store.condition()?, store.binding()))
    })?;
    let (transaction, totals) =
        daemon.with_registry(|registry| Ok((registry.transaction_id()?, registry.totals()?)))?;
    let value = json!({
        "store": binding,
        "condition": condition,
        "registry_transaction_id": transaction,
        "totals": totals,
    });
    Ok(Response::json(200, &value))
}

/// What may be fetched or placed elsewhere by what is here: changes only when layers or images do.
pub(super) fn inventory(daemon: &Daemon, request: &Request) -> Result<Response, Error> {
    let (volumes, images) =
        daemon.with_registry(|registry| Ok((registry.volumes()?, registry.images()?)))?;
    let layers = layers(volumes.iter());
    let images: Vec<_> = images
        .iter()
        .map(|image| {
            let digests: Vec<_> = image.layers.iter().map(|layer| layer.digest).collect();
            json!({"image": image.reference, "chain": image.chain, "digests": digests})
        })
        .collect();
    let response = Response::json(200, &json!({"layers": layers, "images": images}));
    let tag = format!("\"{}\"", registry::Digest(Sha256::digest(&response.body).into()).hex());
    let known = request.if_none_match.as_deref().is_some_and(|known| {
        let mut tags = known.split(',').map(|tag| tag.trim().trim_start_matches("W/"));
        tags.any(|known| known == tag || known == "*")
    });
    match known {
        true => Ok(Response::new(304, "application/json", Vec::new()).with("ETag", tag)),
        false => Ok(response.with("ETag", tag)),
    }
}

pub(super) fn runs(daemon: &Daemon, request: &Request) -> Result<Response, Error> {
    let after = RunId::new(number(request, "after", 0, i64::MAX.unsigned_abs())?);
    let limit = number(request, "limit", 100, LINES)?;
    let limit = u32::try_from(limit).unwrap_or(u32::MAX);
    let status = request.param("status");
    let words = ["queued", "running", "done", "failed", "cancelled"];
    let found: Vec<Run> = match status {
        None | Some("all") => daemon.with_registry(|r| r.runs_after(None, after, limit))?,
        Some("live") => {
            let live = daemon.with_registry(|registry| registry.runs(false))?;
            let after = live.into_iter().filter(|run| run.id > after);
            after.take(usize::try_from(limit).unwrap_or(usize::MAX)).collect()
        }
        Some(word) if words.contains(&word) => {
            daemon.with_registry(|registry| registry.runs_after(Some(word), after, limit))?
        }
        Some(other) => {
            return Err(Error::Usage(format!(
                "status={}: expected all, live, or one of {}",
                quoted(other),
                words.join(", ")
            )));
        }
    };
    let locks = daemon.locks()?;
    let lines = found.into_iter().map(|run| run::line(&locks, run));
    let lines = lines.collect::<Result<Vec<_>, _>>()?;
    Ok(Response::json(200, &json!({"runs": lines})))
}

/// One run; with `wait`, when it has ended, was changed since `seen`, or the time has passed.
pub(super) fn run(daemon: &Daemon, request: &Request, id: RunId) -> Result<Response, Error> {
    let most = i64::MAX.unsigned_abs();
    let seen = request.param("seen").map(|_| number(request, "seen", 0, most)).transpose()?;
    let time = wait(request)?;
    let ended = daemon.wait_for(time, request.peer.as_ref(), || {
        let line = daemon.run(id)?;
        let over = line.run.state.is_end();
        if over || !time.is_zero() {
            daemon.is_over(&line)?;
        }
        let changes = seen.is_some_and(|seen| u64::try_from(line.run.updated_ms) != Ok(seen));
        Ok((over || changes).then_some(line))
    })?;
    match ended {
        Some(line) => Ok(Response::json(200, &line)),
        None => Ok(Response::json(200, &daemon.run(id)?)),
    }
}

/// History, one line an event; with `wait`, when there is any or the time has passed.
pub(super) fn events(daemon: &Daemon, request: &Request) -> Result<Response, Error> {
    let after = number(request, "after", 0, i64::MAX.unsigned_abs())?;
    let limit = u32::try_from(number(request, "limit", LINES, LINES)?).unwrap_or(u32::MAX);
    let subject = request.param("subject").map(short).transpose()?;
    let found: Option<Vec<Event>> =
        daemon.wait_for(wait(request)?, request.peer.as_ref(), || {
            let events = daemon.with_registry(|registry| registry.events(subject, after, limit))?;
            Ok((!events.is_empty()).then_some(events))
        })?;
    Ok(Response::lines(&found.unwrap_or_default()))
}
