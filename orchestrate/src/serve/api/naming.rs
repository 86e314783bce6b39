//! Wishes about one activation that take no time: labels, its time, its name; and who uses it.

use serde::Deserialize;
use serde_json::Number;

use crate::error::Error;
use crate::serve::api::params::body;
use crate::serve::api::whole;
use crate::serve::daemon::Daemon;
use crate::serve::http::request::Request;
use crate::serve::http::response::Response;
use crate::verbs::label::LabelChanges;
use crate::verbs::named::check_name;
use crate::verbs::ttl::TTL_MAX;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LabelBody {
    labels: LabelChanges,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TtlBody {
    // To leave it out is no way to say `null`.
    #[serde(deserialize_with = "Option::deserialize")]
    ttl_s: Option<Number>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RenameBody {
    to: String,
}

/// The seconds of a time in a body.
pub(super) fn seconds(number: Option<&Number>) -> Result<Option<u64>, Error> {
    let most = i64::try_from(TTL_MAX).unwrap_or(i64::MAX);
    let found = number.map(|number| whole("ttl_s", number, 1, most)).transpose()?;
    Ok(found.map(i64::unsigned_abs))
}

pub(super) fn label(daemon: &Daemon, request: &Request, name: &str) -> Result<Response, Error> {
    check_name(name)?;
    let body: LabelBody = body(request)?;
    Ok(Response::json(200, &daemon.with_host(|host| host.label(name, &body.labels))?))
}

pub(super) fn ttl(daemon: &Daemon, request: &Request, name: &str) -> Result<Response, Error> {
    check_name(name)?;
    let body: TtlBody = body(request)?;
    let seconds = seconds(body.ttl_s.as_ref())?;
    Ok(Response::json(200, &daemon.with_host(|host| host.set_ttl(name, seconds))?))
}

pub(super) fn rename(daemon: &Daemon, request: &Request, name: &str) -> Result<Response, Error> {
    check_name(name)?;
    let body: RenameBody = body(request)?;
    let done = daemon.with_host(|host| host.rename(name, &body.to))?;
    daemon.tell();
    Ok(Response::json(200, &done))
}

/// What the daemon sees: it may see more than its client, and has a mount namespace of its own.
pub(super) fn who(daemon: &Daemon, name: &str) -> Result<Response, Error> {
    check_name(name)?;
    Ok(Response::json(200, &daemon.with_host(|host| host.who(name))?))
}
