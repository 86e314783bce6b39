//! Wishes about the disks of activations. Each takes a moment and is done at once; asked again, it finds what it did.

use serde::{Deserialize, Serialize};
use serde_json::Number;

use crate::error::Error;
use crate::host::Host;
use crate::process::reserve;
use crate::serve::api::bytes;
use crate::serve::api::params::{body, switch};
use crate::serve::daemon::Daemon;
use crate::serve::http::request::Request;
use crate::serve::http::response::Response;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ResizeBody {
    bytes: Number,
    #[serde(default)]
    dry_run: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ForkBody {
    id: String,
    bytes: Option<Number>,
    #[serde(default)]
    dry_run: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PointBody {
    point: String,
    #[serde(default)]
    dry_run: bool,
}

/// Does it, if the daemon takes anything on now.
fn at_once<T: Serialize>(
    daemon: &Daemon,
    dry_run: bool,
    work: impl FnOnce(&mut Host) -> Result<T, Error>,
) -> Result<Response, Error> {
    if !dry_run {
        daemon.takes_work()?;
        reserve::spare(&daemon.settings().state)?;
    }
    let done = daemon.with_host(|host| {
        if !dry_run {
            host.recover(false)?;
        }
        work(host)
    });
    if !dry_run {
        daemon.tell();
    }
    Ok(Response::json(200, &done?))
}

pub(super) fn resize(daemon: &Daemon, request: &Request, name: &str) -> Result<Response, Error> {
    let body: ResizeBody = body(request)?;
    let Some(bytes) = bytes("bytes", Some(&body.bytes), 1)? else {
        return Err(Error::Usage("which size? {\"bytes\": N}".into()));
    };
    at_once(daemon, body.dry_run, |host| host.resize(name, bytes, body.dry_run))
}

pub(super) fn fork(daemon: &Daemon, request: &Request, name: &str) -> Result<Response, Error> {
    let body: ForkBody = body(request)?;
    let bytes = bytes("bytes", body.bytes.as_ref(), 1)?;
    at_once(daemon, body.dry_run, |host| host.fork(name, &body.id, bytes, body.dry_run))
}

pub(super) fn points(daemon: &Daemon, name: &str) -> Result<Response, Error> {
    Ok(Response::json(200, &daemon.with_host(|host| host.points(name))?))
}

pub(super) fn snapshot(daemon: &Daemon, request: &Request, name: &str) -> Result<Response, Error> {
    let body: PointBody = body(request)?;
    at_once(daemon, body.dry_run, |host| host.snapshot(name, &body.point, body.dry_run))
}

pub(super) fn restore(daemon: &Daemon, request: &Request, name: &str) -> Result<Response, Error> {
    let body: PointBody = body(request)?;
    // The daemon does not see a node that is elsewhere.
    daemon.with_host(|host| host.leaves_no_node(name))?;
    at_once(daemon, body.dry_run, |host| host.restore(name, &body.point, body.dry_run))
}

pub(super) fn remove_point(
    daemon: &Daemon,
    request: &Request,
    name: &str,
) -> Result<Response, Error> {
    let Some(point) = request.param("point") else {
        return Err(Error::Usage("which point? ?point=NAME".into()));
    };
    let dry_run = switch(request, "dry_run")?;
    at_once(daemon, dry_run, |host| host.remove_point(name, point, dry_run))
}
