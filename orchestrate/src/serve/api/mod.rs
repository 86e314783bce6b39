//! What each route does. Questions are in `reads`, wishes in `asks`.

pub(crate) mod asks;
pub(crate) mod reads;

use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::{Map, Number, Value};

use crate::config::table::BYTES_MAX;
use crate::error::Error;
use crate::serve::daemon::Daemon;
use crate::serve::http::request::{Method, Request};
use crate::serve::http::response::Response;
use crate::serve::routes::{Miss, Route, route};
use crate::serve::{page, problem};

/// The longest that one question may wait.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Bytes of a name or reference that comes in a request.
const NAME_MAX: usize = 2048;

/// Whether anybody may ask this: the page holds no data, and a browser that opens it has no token yet.
pub(super) fn is_for_all(request: &Request) -> bool {
    request.body.is_empty()
        && request.query.is_empty()
        && matches!(route(request.method, &request.path), Ok(Route::Page))
}

/// The answer to a request.
pub(super) fn answer(daemon: &Daemon, request: &Request) -> Response {
    let route = match route(request.method, &request.path) {
        Ok(route) => route,
        Err(Miss::NotFound) => return problem::missing(None),
        Err(Miss::Method(methods)) => return problem::missing(Some(methods)),
    };
    let known = params(&route);
    if let Some((name, _)) = request.query.iter().find(|(name, _)| !known.contains(&&**name)) {
        let shown = name.chars().take(64).collect::<String>();
        let error = Error::Usage(format!("no parameter {shown:?} here; there are {known:?}"));
        return problem::of(&error);
    }
    if !request.body.is_empty() && !matches!(request.method, Some(Method::Put | Method::Post)) {
        return problem::of(&Error::Usage("this request takes no body".into()));
    }
    let answered = match &route {
        Route::Page => Ok(page::page()),
        Route::Healthz => reads::healthz(daemon),
        Route::Readyz => Ok(reads::readyz(daemon)),
        Route::Metrics => Ok(reads::metrics(daemon)),
        Route::OpenApi => Ok(reads::openapi()),
        Route::Status => Ok(reads::status(daemon)),
        Route::Images => reads::images(daemon, request),
        Route::Activations => reads::activations(daemon),
        Route::Activation(name) => reads::activation(daemon, name),
        Route::Runs => reads::runs(daemon, request),
        Route::Run(id) => reads::run(daemon, request, *id),
        Route::Events => reads::events(daemon, request),
        Route::Listing => reads::listing(daemon),
        Route::Usage => reads::usage(daemon),
        Route::Pool => reads::pool(daemon),
        Route::Inventory => reads::inventory(daemon, request),
        Route::SetMode => asks::mode(daemon, request),
        Route::EnsureImage => asks::ensure(daemon, request),
        Route::RemoveImage => asks::remove_image(daemon, request),
        Route::Pin => asks::pin(daemon, request),
        Route::Activate => asks::activate(daemon, request),
        Route::RemoveActivation(name) => asks::remove_activation(daemon, request, name),
        Route::Deactivate(name) => asks::deactivate(daemon, request, name),
        Route::CancelRun(id) => asks::cancel(daemon, request, *id),
        Route::RetryRun(id) => asks::retry(daemon, request, *id),
        Route::Gc => asks::gc(daemon, request),
    };
    answered.unwrap_or_else(|error| problem::of(&error))
}

/// The parameters that a route takes: a wrong one would be overlooked in silence.
fn params(route: &Route) -> &'static [&'static str] {
    match route {
        Route::Page
        | Route::Healthz
        | Route::Readyz
        | Route::Metrics
        | Route::OpenApi
        | Route::Status
        | Route::SetMode
        | Route::Pin
        | Route::Activations
        | Route::Activation(_)
        | Route::Listing
        | Route::Usage
        | Route::Pool
        | Route::Inventory => &[],
        Route::Images => &["image"],
        Route::Run(_) => &["seen", "wait"],
        Route::EnsureImage | Route::Activate | Route::RetryRun(_) => &["patience", "wait"],
        Route::RemoveImage => &["image", "dry_run", "patience", "wait"],
        Route::RemoveActivation(_) | Route::Deactivate(_) => {
            &["when_closed", "dry_run", "patience", "wait"]
        }
        Route::Gc => &["dry_run", "patience", "wait"],
        Route::CancelRun(_) => &["unless_joined", "wait"],
        Route::Runs => &["status", "after", "limit"],
        Route::Events => &["after", "limit", "subject", "wait"],
    }
}

/// The `wait` parameter: seconds, with or without an `s`, at most a minute.
fn wait(request: &Request) -> Result<Duration, Error> {
    let Some(text) = request.param("wait") else { return Ok(Duration::ZERO) };
    let digits = text.strip_suffix('s').unwrap_or(text);
    let whole = digits.bytes().all(|byte| byte.is_ascii_digit()) && digits.len() < 10;
    match digits.parse().ok().filter(|_| whole) {
        Some(seconds) => Ok(Duration::from_secs(seconds).min(WAIT_MAX)),
        None => Err(Error::Usage(format!(
            "wait={text:?}: expected whole seconds, as in wait=30s; more than {} count as {0}",
            WAIT_MAX.as_secs()
        ))),
    }
}

fn number(request: &Request, name: &str, default: u64, most: u64) -> Result<u64, Error> {
    let Some(text) = request.param(name) else { return Ok(default) };
    let parsed = text.parse().ok().filter(|number| *number <= most && !text.starts_with('+'));
    parsed.ok_or_else(|| Error::Usage(format!("{name}={text:?}: expected 0 to {most}")))
}

/// A number of a body that has to be whole and in this range.
fn whole(name: &str, number: &Number, least: i64, most: i64) -> Result<i64, Error> {
    let found = number.as_i64().filter(|found| (least..=most).contains(found));
    found.ok_or_else(|| {
        Error::Usage(format!("{name} {number}: expected a whole number from {least} to {most}"))
    })
}

/// As [`whole`], of what is counted in bytes; none where there is none.
fn bytes(name: &str, number: Option<&Number>, least: i64) -> Result<Option<u64>, Error> {
    let found = number.map(|number| whole(name, number, least, BYTES_MAX as i64)).transpose()?;
    Ok(found.map(i64::unsigned_abs))
}

fn switch(request: &Request, name: &str) -> Result<bool, Error> {
    match request.param(name) {
        None | Some("0" | "false") => Ok(false),
        Some("" | "1" | "true") => Ok(true),
        Some(text) => Err(Error::Usage(format!("{name}={text:?}: expected 1 or 0"))),
    }
}

/// A name or reference that is not absurdly long.
fn short(text: &str) -> Result<&str, Error> {
    match text.len() {
        1..=NAME_MAX => Ok(text),
        length => Err(Error::Usage(format!("a name of {length} bytes: expected 1 to {NAME_MAX}"))),
    }
}

/// The body as JSON of a known form.
fn body<T: DeserializeOwned>(request: &Request) -> Result<T, Error> {
    let bad = |error| Error::Usage(format!("the body is not what is expected here: {error}"));
    // What is derived would also take a list of the values.
    let object: Map<String, Value> = serde_json::from_slice(&request.body).map_err(bad)?;
    serde_json::from_value(Value::Object(object)).map_err(bad)
}

/// As [`body`]; none at all is an empty object.
fn body_or_empty<T: DeserializeOwned>(request: &Request) -> Result<T, Error> {
    match request.body.is_empty() {
        true => body(&Request { body: b"{}".into(), ..request.clone() }),
        false => body(request),
    }
}
