//! A failure as an answer: problem JSON (RFC 9457) with our class and what to do next. Pure.

use registry::RunId;
use serde::Serialize;

use crate::error::Error;
use crate::error::amiss::Amiss;
use crate::error::class::Class;
use crate::error::leaves::whole;
use crate::plan::class::class;
use crate::serve::http::request::Reject;
use crate::serve::http::response::{PROBLEM, Response, reason};

/// Seconds after which somebody who was turned away may ask again.
const RETRY_AFTER_S: u32 = 1;

/// What who stands against a run may do.
const BY_A_RUN: &str = "wait for the run's end, or cancel it";

/// The body of an answer that is a failure.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Problem<'a> {
    #[serde(rename = "type")]
    kind: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    class: &'a str,
    hint: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    run: Option<RunId>,
}

/// The status of a class.
fn status(class: Class) -> u16 {
    match class {
        Class::Usage => 400,
        Class::NotFound => 404,
        Class::Refused => 422,
        Class::Denied => 403,
        Class::Cancelled => 409,
        Class::NoSpace => 507,
        Class::Temporary | Class::Throttled | Class::HostBroken => 503,
        Class::Bug => 500,
    }
}

fn hint(class: Class) -> &'static str {
    match class {
        Class::Usage => "change the request; /v1/openapi.json has its form",
        Class::NotFound => "GET /v1/listing tells what there is",
        Class::Refused => "the same bytes will be refused again",
        Class::Denied => "this is not for you, or not for this host",
        Class::Cancelled => "ask again when it is wanted again",
        Class::NoSpace => "POST /v1/gc, or grow the pool",
        Class::Temporary | Class::Throttled => "ask again later",
        Class::HostBroken => "GET /readyz tells what is wrong with this host",
        Class::Bug => "report it with the log of this time",
    }
}

/// A failure of our own.
pub(crate) fn of(error: &Error) -> Response {
    let class = class(error);
    let detail = whole(error);
    // The name of another, or a run of another wish, stands in the way: not a mistake in the words.
    let (status, run) = match error {
        Error::Taken { .. } | Error::Amiss(Amiss::InUse { .. } | Amiss::HasNode { .. }) => {
            (409, None)
        }
        Error::Making(making) => (409, Some(making.run)),
        _ => (status(class), None),
    };
    let hint = if run.is_some() { BY_A_RUN } else { hint(class) };
    problem(status, class, &detail, hint, run)
}

/// A request that stands against a run.
pub(crate) fn conflict(run: RunId, detail: &str) -> Response {
    problem(409, Class::Usage, detail, BY_A_RUN, Some(run))
}

/// A request that breaks a rule of the wire.
pub(crate) fn rejected(reject: &Reject) -> Response {
    let class = if reject.status == 408 { Class::Temporary } else { Class::Usage };
    problem(reject.status, class, reject.why, hint(class), None)
}

/// No right to be here.
pub(crate) fn unauthorized(detail: &str) -> Response {
    let hint = "Authorization: Bearer, with the token of the daemon's token file";
    problem(401, Class::Denied, detail, hint, None).with("WWW-Authenticate", "Bearer")
}

/// A user who may not use the socket.
pub(crate) fn forbidden() -> Response {
    let hint = "`orchestrate serve --allow user:NAME` or `group:NAME` lets others in";
    problem(403, Class::Denied, "your user may not use this socket", hint, None)
}

/// A token for clients that only read.
pub(crate) fn only_reads() -> Response {
    let hint = "the token of serve.token_file may do everything, that of serve.read_token_file GET and HEAD";
    problem(403, Class::Denied, "this token may only read", hint, None)
}

/// No such path, or no such method of it.
pub(crate) fn missing(methods: Option<&str>) -> Response {
    match methods {
        None => {
            problem(404, Class::NotFound, "no such path", "/v1/openapi.json has them all", None)
        }
        Some(allow) => {
            let detail = format!("this path takes {allow}");
            problem(405, Class::Usage, &detail, hint(Class::Usage), None).with("Allow", allow)
        }
    }
}

/// All workers are full.
pub(crate) fn busy(detail: &str) -> Response {
    problem(503, Class::Throttled, detail, hint(Class::Throttled), None)
}

fn problem(status: u16, class: Class, detail: &str, hint: &str, run: Option<RunId>) -> Response {
    let kind = format!("urn:veneer:{}", class.word());
    let (title, class) = (reason(status), class.word());
    let problem = Problem { kind, title, status, detail, class, hint, run };
    let body = Response::json(status, &problem).body;
    let response = Response::new(status, PROBLEM, body);
    match status {
        503 => response.with("Retry-After", RETRY_AFTER_S),
        _ => response,
    }
}
