//! Wishes: each becomes a run that outlives the request, or is done at once where it takes no time.

use registry::{Enqueued, NewRun, RunId, RunState, Verb, VolumeId};
use serde::Deserialize;
use serde_json::{Number, Value, json};

use crate::config::table::SECONDS_MAX;
use crate::error::Error;
use crate::host::{Host, asked};
use crate::local::way::Given;
use crate::serve::api::files::{self, Asked, CopyBody};
use crate::serve::api::params::{body, body_or_empty, number, short, switch, wait};
use crate::serve::api::{bytes, naming, whole};
use crate::serve::daemon::Daemon;
use crate::serve::http::request::Request;
use crate::serve::http::response::Response;
use crate::serve::mode::Mode;
use crate::serve::{problem, webhook};
use crate::verbs::activate::ActivateOptions;
use crate::verbs::deactivate::Going;
use crate::verbs::gc::Bound;
use crate::verbs::label::Labels;
use crate::verbs::named::{check_name, reference};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct EnsureBody {
    image: String,
    descriptor: Option<Number>,
    priority: Option<Number>,
    webhook: Option<String>,
    #[serde(default)]
    dry_run: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ActivateBody {
    id: String,
    image: String,
    descriptor: Option<Number>,
    #[serde(default)]
    copies: Vec<CopyBody>,
    bytes: Option<Number>,
    #[serde(default)]
    no_fetch: bool,
    #[serde(default)]
    labels: Labels,
    ttl_s: Option<Number>,
    #[serde(default)]
    read_only: bool,
    #[serde(default)]
    no_journal: bool,
    priority: Option<Number>,
    webhook: Option<String>,
    #[serde(default)]
    dry_run: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct GcBody {
    keep_bytes: Option<Number>,
    max_used: Option<Number>,
    #[serde(default)]
    purge_foreign: Vec<Number>,
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

/// The name of an image that is here, as it may be removed or pinned: nothing is opened for it.
fn image_name(text: &str) -> Result<String, Error> {
    Ok(reference(short(text)?)?.to_string())
}

fn priority(number: Option<&Number>) -> Result<i32, Error> {
    let Some(number) = number else { return Ok(0) };
    let found = number.as_i64().and_then(|found| i32::try_from(found).ok());
    found.filter(|found| (-100..=100).contains(found)).ok_or_else(|| {
        Error::Usage(format!("priority {number}: expected a whole number from -100 to 100"))
    })
}

/// What is to become a run.
struct Wish<'a> {
    verb: Verb,
    subject: &'a str,
    input: Value,
    priority: i32,
    webhook: Option<&'a str>,
    /// Open files that are held for it.
    given: Given,
}

impl<'a> Wish<'a> {
    fn new(verb: Verb, subject: &'a str, input: Value) -> Wish<'a> {
        Wish { verb, subject, input, priority: 0, webhook: None, given: Given::default() }
    }
}

/// The run of a wish, when it has ended or the client waits no longer: 200 when it has ended. One that
/// stands in the way is left as it is.
fn enqueue(daemon: &Daemon, request: &Request, mut wish: Wish<'_>) -> Result<Response, Error> {
    let time = wait(request)?;
    let webhook = match wish.webhook {
        Some(address) => Some(webhook::check(address)?),
        None => daemon.options.webhook.as_deref(),
    };
    if wish.input["s3"].is_null() {
        wish.input["s3"] = asked::s3(&daemon.settings());
    }
    if request.param("patience").is_some() {
        // As long as who asked would wait by itself.
        wish.input["s3"]["wait_s"] = number(request, "patience", 0, SECONDS_MAX)?.into();
    }
    let input = wish.input.to_string();
    let (verb, subject, priority) = (wish.verb, wish.subject, wish.priority);
    let new = NewRun { verb, subject, input: &input, priority, webhook };
    let (id, joined) = match daemon.enqueue_with(&new, &wish.input, wish.given)? {
        Enqueued::Fresh(id) => (id, "no"),
        Enqueued::Joined(id) => (id, "yes"),
        Enqueued::Refused { id, why } => return Ok(problem::conflict(id, &why)),
    };
    Ok(ended(daemon, request, id, time)?.with("Veneer-Joined", joined))
}

fn ended(
    daemon: &Daemon,
    request: &Request,
    id: RunId,
    time: std::time::Duration,
) -> Result<Response, Error> {
    let done = daemon.wait_for(time, request.peer.as_ref(), || {
        let line = daemon.run(id)?;
        Ok(daemon.is_over(&line)?.then_some(line))
    })?;
    let (status, line) = match done {
        Some(line) => (200, line),
        None => {
            let line = daemon.run(id)?;
            daemon.is_over(&line)?;
            (202, line)
        }
    };
    Ok(Response::json(status, &line).with("Location", format!("/v1/runs/{id}")))
}

pub(super) fn ensure(daemon: &Daemon, request: &Request) -> Result<Response, Error> {
    let body: EnsureBody = body(request)?;
    let mut asked = Asked::image(daemon, request, &body.image, body.descriptor.as_ref())?;
    if body.dry_run {
        asked.may_open()?;
        let ensure = |host: &mut Host| {
            host.way = asked.way();
            host.ensure(&asked.image, true)
        };
        return Ok(Response::json(200, &daemon.with_host(ensure)?));
    }
    let reference = asked.image.to_string();
    let mut input = json!({"image": reference});
    let given = asked.run_input(&mut input)?;
    let wish = Wish {
        verb: Verb::Ensure,
        subject: &reference,
        input,
        priority: priority(body.priority.as_ref())?,
        webhook: body.webhook.as_deref(),
        given,
    };
    enqueue(daemon, request, wish)
}

/// The name is the key by which asking twice is asking once.
pub(super) fn activate(daemon: &Daemon, request: &Request) -> Result<Response, Error> {
    let body: ActivateBody = body(request)?;
    check_name(&body.id)?;
    let priority = priority(body.priority.as_ref())?;
    let asked = Asked::image(daemon, request, &body.image, body.descriptor.as_ref())?;
    let mut asked = asked.with_copies(request, &body.copies)?;
    let (name, reference) = (body.id.as_str(), asked.image.to_string());
    let ActivateBody { no_fetch, dry_run, read_only, no_journal, .. } = body;
    let bytes = bytes("bytes", body.bytes.as_ref(), 1)?;
    let (labels, ttl_s) = (body.labels.clone(), naming::seconds(body.ttl_s.as_ref())?);
    let copies = asked.copies.clone();
    let options =
        ActivateOptions { bytes, no_fetch, dry_run, copies, labels, ttl_s, read_only, no_journal };
    options.check()?;
    let already = daemon.with_host(|host| {
        host.way = asked.way();
        // What was asked to take it away before is done first, in its turn.
        if !dry_run && host.is_to_go(name)? {
            return Ok(None);
        }
        host.agrees(name, &reference, &options)?;
        // What is up takes no run and no network; nor does a look at what would be done.
        match dry_run || host.is_up(name, &reference)? {
            true => host.activate(&asked.image, name, options.clone()).map(Some),
            false => Ok(None),
        }
    });
    if let Some(done) = already? {
        return Ok(Response::json(200, &done));
    }
    // Its files are told by whoever came with them.
    let mut input = ActivateOptions { copies: Vec::new(), ..options }.to_json(&reference);
    let given = asked.run_input(&mut input)?;
    let webhook = body.webhook.as_deref();
    let wish = Wish { verb: Verb::Activate, subject: name, input, priority, webhook, given };
    enqueue(daemon, request, wish)
}

fn remove(daemon: &Daemon, request: &Request, subject: &str) -> Result<Response, Error> {
    let how = going(request)?;
    if how.dry_run {
        return Ok(Response::json(200, &daemon.with_host(|host| host.remove(subject, how))?));
    }
    enqueue(daemon, request, Wish::new(Verb::Rm, subject, how.to_json()))
}

pub(super) fn remove_image(daemon: &Daemon, request: &Request) -> Result<Response, Error> {
    let Some(name) = request.param("image") else {
        return Err(Error::Usage("which image? ?image=s3://bucket/prefix/".into()));
    };
    let reference = image_name(name)?;
    let known = daemon.with_host(|host| {
        let own = host.only_name(&reference)?;
        Ok(host.registry().image(&own)?.is_some() || host.is_being_made(&reference)?)
    })?;
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
    daemon.with_host(|host| host.leaves_no_node(name))?;
    remove(daemon, request, name)
}

pub(super) fn deactivate(
    daemon: &Daemon,
    request: &Request,
    name: &str,
) -> Result<Response, Error> {
    known(daemon, name)?;
    daemon.with_host(|host| host.leaves_no_node(name))?;
    let how = going(request)?;
    if how.dry_run {
        return Ok(Response::json(200, &daemon.with_host(|host| host.deactivate(name, how))?));
    }
    enqueue(daemon, request, Wish::new(Verb::Deactivate, name, how.to_json()))
}

fn going(request: &Request) -> Result<Going, Error> {
    let (when_closed, dry_run) = (switch(request, "when_closed")?, switch(request, "dry_run")?);
    Ok(Going { when_closed, dry_run })
}

fn known(daemon: &Daemon, name: &str) -> Result<(), Error> {
    check_name(name)?;
    // What a run is making is taken away after that.
    let known = |host: &mut Host| {
        Ok(host.registry().activation(name)?.is_some() || host.is_being_made(name)?)
    };
    match daemon.with_host(known)? {
        true => Ok(()),
        false => Err(Error::Unknown { what: "activation", name: name.into() }),
    }
}

pub(super) fn gc(daemon: &Daemon, request: &Request) -> Result<Response, Error> {
    let body: GcBody = body_or_empty(request)?;
    let part = body.max_used.as_ref().map(|part| whole("max_used", part, 0, 100)).transpose()?;
    let bound = Bound {
        keep_bytes: bytes("keep_bytes", body.keep_bytes.as_ref(), 0)?,
        max_used: part.and_then(|part| u8::try_from(part).ok()),
    };
    let purge = body.purge_foreign.iter().map(|id| {
        let id = whole("purge_foreign", id, 0, VolumeId::MAX.get().into())?;
        let no_id = |_| Error::Usage(format!("purge_foreign {id}: no id"));
        u32::try_from(id).map(VolumeId::new).map_err(no_id)
    });
    let purge: Vec<VolumeId> = purge.collect::<Result<_, _>>()?;
    if switch(request, "dry_run")? {
        let done = daemon.with_host(|host| host.gc(bound, &purge, true))?;
        return Ok(Response::json(200, &done));
    }
    let input = json!({"bound": bound.to_json(), "purge_foreign": purge});
    enqueue(daemon, request, Wish::new(Verb::Gc, "store", input))
}

pub(super) fn pin(daemon: &Daemon, request: &Request) -> Result<Response, Error> {
    let body: PinBody = body(request)?;
    let reference = image_name(&body.image)?;
    daemon.with_host(|host| host.pin(&reference, body.pinned))?;
    Ok(Response::json(200, &json!({"image": reference, "pinned": body.pinned})))
}

pub(super) fn mode(daemon: &Daemon, request: &Request) -> Result<Response, Error> {
    let body: ModeBody = body(request)?;
    daemon.ask_mode(body.mode);
    Ok(crate::serve::api::reads::status(daemon))
}

pub(super) fn cancel(daemon: &Daemon, request: &Request, id: RunId) -> Result<Response, Error> {
    let body: CancelBody = body_or_empty(request)?;
    let why = body.why.unwrap_or_else(|| "somebody asked for it".into());
    let why = short(&why)?;
    let time = wait(request)?;
    // Known or not, before anything is changed.
    let line = daemon.run(id)?;
    if switch(request, "unless_joined")? && daemon.is_joined(id) {
        return Ok(Response::json(200, &line));
    }
    daemon.cancel(id, why)?;
    ended(daemon, request, id, time)
}

/// The same wish again, as a new run.
pub(super) fn retry(daemon: &Daemon, request: &Request, id: RunId) -> Result<Response, Error> {
    let run = daemon.run(id)?.run;
    match run.state {
        RunState::Queued | RunState::Running => {
            return Ok(problem::conflict(id, &format!("run {id} has not ended")));
        }
        RunState::Done => {
            return Ok(problem::conflict(id, &format!("run {id} is done; send the request again")));
        }
        RunState::Failed { .. } | RunState::Cancelled => {}
    }
    let input: Value = serde_json::from_str(&run.input).unwrap_or_default();
    if let Some(why) = files::objection(&input) {
        return Ok(problem::conflict(id, &format!("run {id} {why}; send the request again")));
    }
    let (verb, subject, priority) = (run.verb, run.subject.as_str(), run.priority);
    enqueue(daemon, request, Wish { priority, ..Wish::new(verb, subject, input) })
}
