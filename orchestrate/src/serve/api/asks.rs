//! Wishes: each becomes a run that outlives the request, or is done at once where it takes no time.

use fetch::ImageRef;
use registry::{NewRun, RunState, Verb};
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::daemon::Daemon;
use super::super::http::{Request, Response};
use super::super::mode::Mode;
use super::super::{problem, webhook};
use super::{body, body_or_empty, short, switch, wait};
use crate::gc::Bound;
use crate::{ActivateOptions, Error, check_name};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct EnsureBody {
    image: String,
    #[serde(default)]
    priority: i32,
    webhook: Option<String>,
    #[serde(default)]
    dry_run: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ActivateBody {
    id: String,
    image: String,
    bytes: Option<u64>,
    #[serde(default)]
    no_fetch: bool,
    #[serde(default)]
    priority: i32,
    webhook: Option<String>,
    #[serde(default)]
    dry_run: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct GcBody {
    keep_bytes: Option<u64>,
    max_used: Option<u8>,
    #[serde(default)]
    purge_foreign: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PinBody {
    image: String,
    pinned: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ModeBody {
    mode: Mode,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CancelBody {
    why: Option<String>,
}

fn image(text: &str) -> Result<ImageRef, Error> {
    short(text)?.parse().map_err(Error::Fetch)
}

fn priority(priority: i32) -> Result<i32, Error> {
    match priority {
        -100..=100 => Ok(priority),
        other => Err(Error::Usage(format!("priority {other}: expected -100 to 100"))),
    }
}

/// What is to become a run.
struct Wish<'a> {
    verb: Verb,
    subject: &'a str,
    input: Value,
    priority: i32,
    webhook: Option<&'a str>,
}

/// The run of a wish, when it has ended or the client waits no longer: 200 when it has ended.
fn enqueue(daemon: &Daemon, request: &Request, wish: &Wish<'_>) -> Result<Response, Error> {
    let time = wait(request)?;
    let input = wish.input.to_string();
    let notify = match wish.webhook {
        Some(address) => Some(webhook::check(address)?),
        None => daemon.options.webhook.as_deref(),
    };
    let priority = priority(wish.priority)?;
    let (verb, subject) = (wish.verb, wish.subject);
    let new = NewRun { verb, subject, input: &input, priority, notify };
    let (id, fresh) = daemon.enqueue(&new)?;
    if !fresh {
        let kept = daemon.run(id)?.run.input;
        let kept: Value = serde_json::from_str(&kept).unwrap_or_default();
        for key in ["image", "bytes", "bound", "purge_foreign"] {
            if kept[key] != wish.input[key] {
                let verb = verb.word();
                let detail = format!("run {id} is a {verb} of that name with another {key}");
                return Ok(problem::conflict(id, &detail));
            }
        }
    }
    let response = ended(daemon, id, time)?;
    Ok(response.with("Veneer-Joined", if fresh { "no" } else { "yes" }))
}

fn ended(daemon: &Daemon, id: u64, time: std::time::Duration) -> Result<Response, Error> {
    let done = daemon.wait_for(time, || {
        let line = daemon.run(id)?;
        Ok(line.run.state.is_end().then_some(line))
    })?;
    let (status, line) = match done {
        Some(line) => (200, line),
        None => (202, daemon.run(id)?),
    };
    Ok(Response::json(status, &line).with("Location", format!("/v1/runs/{id}")))
}

pub(super) fn ensure(daemon: &Daemon, request: &Request) -> Result<Response, Error> {
    let body: EnsureBody = body(request)?;
    let image = image(&body.image)?;
    if body.dry_run {
        return Ok(Response::json(200, &daemon.with_host(|host| host.ensure(&image, true))?));
    }
    let reference = image.to_string();
    let wish = Wish {
        verb: Verb::Ensure,
        subject: &reference,
        input: json!({"image": reference}),
        priority: body.priority,
        webhook: body.webhook.as_deref(),
    };
    enqueue(daemon, request, &wish)
}

/// The name is the key by which asking twice is asking once.
pub(super) fn activate(daemon: &Daemon, request: &Request) -> Result<Response, Error> {
    let body: ActivateBody = body(request)?;
    let image = image(&body.image)?;
    check_name(&body.id)?;
    let (name, reference) = (body.id.as_str(), image.to_string());
    let ActivateBody { bytes, no_fetch, dry_run, .. } = body;
    let options = ActivateOptions { bytes, no_fetch, dry_run };
    let already = daemon.with_host(|host| {
        if let Some(row) = host.registry().activation(name)?
            && row.reference != reference
        {
            let by = format!("an activation of {}", row.reference);
            return Err(Error::Taken { name: name.into(), by });
        }
        // What is up takes no run and no network; nor does a look at what would be done.
        match dry_run || host.is_up(name, &reference)? {
            true => host.activate(&image, name, options).map(Some),
            false => Ok(None),
        }
    });
    if let Some(done) = already? {
        return Ok(Response::json(200, &done));
    }
    let wish = Wish {
        verb: Verb::Activate,
        subject: name,
        input: json!({"image": reference, "bytes": bytes, "no_fetch": no_fetch}),
        priority: body.priority,
        webhook: body.webhook.as_deref(),
    };
    enqueue(daemon, request, &wish)
}

fn remove(daemon: &Daemon, request: &Request, subject: &str) -> Result<Response, Error> {
    if switch(request, "dry_run")? {
        return Ok(Response::json(200, &daemon.with_host(|host| host.remove(subject, true))?));
    }
    let (verb, input) = (Verb::Rm, json!({}));
    enqueue(daemon, request, &Wish { verb, subject, input, priority: 0, webhook: None })
}

pub(super) fn remove_image(daemon: &Daemon, request: &Request) -> Result<Response, Error> {
    let Some(name) = request.param("image") else {
        return Err(Error::Usage("which image? ?image=s3://bucket/prefix/".into()));
    };
    let reference = image(name)?.to_string();
    let known = daemon.with_host(|host| Ok(host.registry().image(&reference)?.is_some()))?;
    match known {
        true => remove(daemon, request, &reference),
        false => Err(Error::Unknown { what: "image", name: reference }),
    }
}

pub(super) fn remove_activation(
    daemon: &Daemon,
    request: &Request,
    name: &str,
) -> Result<Response, Error> {
    known(daemon, name)?;
    remove(daemon, request, name)
}

pub(super) fn deactivate(
    daemon: &Daemon,
    request: &Request,
    name: &str,
) -> Result<Response, Error> {
    known(daemon, name)?;
    if switch(request, "dry_run")? {
        return Ok(Response::json(200, &daemon.with_host(|host| host.deactivate(name, true))?));
    }
    let (verb, input) = (Verb::Deactivate, json!({}));
    enqueue(daemon, request, &Wish { verb, subject: name, input, priority: 0, webhook: None })
}

fn known(daemon: &Daemon, name: &str) -> Result<(), Error> {
    check_name(name)?;
    match daemon.with_host(|host| Ok(host.registry().activation(name)?.is_some()))? {
        true => Ok(()),
        false => Err(Error::Unknown { what: "activation", name: name.into() }),
    }
}

pub(super) fn gc(daemon: &Daemon, request: &Request) -> Result<Response, Error> {
    let body: GcBody = body_or_empty(request)?;
    let bound = Bound { keep_bytes: body.keep_bytes, max_used: body.max_used };
    if let Some(part) = bound.max_used.filter(|part| *part > 100) {
        return Err(Error::Usage(format!("max_used {part}: expected 0 to 100")));
    }
    if switch(request, "dry_run")? {
        let done = daemon.with_host(|host| host.gc(bound, body.purge_foreign, true))?;
        return Ok(Response::json(200, &done));
    }
    let input = json!({"bound": bound.to_json(), "purge_foreign": body.purge_foreign});
    let wish = Wish { verb: Verb::Gc, subject: "store", input, priority: 0, webhook: None };
    enqueue(daemon, request, &wish)
}

pub(super) fn pin(daemon: &Daemon, request: &Request) -> Result<Response, Error> {
    let body: PinBody = body(request)?;
    let reference = image(&body.image)?.to_string();
    daemon.with_host(|host| host.pin(&reference, body.pinned))?;
    Ok(Response::json(200, &json!({"image": reference, "pinned": body.pinned})))
}

pub(super) fn mode(daemon: &Daemon, request: &Request) -> Result<Response, Error> {
    let body: ModeBody = body(request)?;
    daemon.ask_mode(body.mode);
    Ok(super::reads::status(daemon))
}

pub(super) fn cancel(daemon: &Daemon, request: &Request, id: u64) -> Result<Response, Error> {
    let body: CancelBody = body_or_empty(request)?;
    let why = body.why.unwrap_or_else(|| "somebody asked for it".into());
    let why = short(&why)?;
    let time = wait(request)?;
    // Known or not, before anything is changed.
    daemon.run(id)?;
    daemon.cancel(id, why)?;
    ended(daemon, id, time)
}

/// The same wish again, as a new run.
pub(super) fn retry(daemon: &Daemon, request: &Request, id: u64) -> Result<Response, Error> {
    let run = daemon.run(id)?.run;
    match run.state {
        RunState::Queued | RunState::Running => {
            return Ok(problem::conflict(id, &format!("run {id} has not ended")));
        }
        RunState::Done => {
            return Ok(problem::conflict(id, &format!("run {id} is done; ask anew")));
        }
        RunState::Failed { .. } | RunState::Cancelled => {}
    }
    let input: Value = serde_json::from_str(&run.input).unwrap_or_default();
    let (verb, subject, priority) = (run.verb, run.subject.as_str(), run.priority);
    enqueue(daemon, request, &Wish { verb, subject, input, priority, webhook: None })
}
