//! What a request carries, read.

use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::Error;
use crate::error::quote::quoted;
use crate::serve::http::request::Request;
use crate::serve::routes::Route;
use crate::trust::strict;

/// The parameters that a route takes: a wrong one would be overlooked in silence.
pub(crate) fn params(route: &Route) -> &'static [&'static str] {
    match route {
        Route::Page
        | Route::Healthz
        | Route::Readyz
        | Route::Metrics
        | Route::OpenApi
        | Route::Status
        | Route::SetMode
        | Route::Pin
        | Route::Activation(_)
        | Route::Label(_)
        | Route::Ttl(_)
        | Route::Rename(_)
        | Route::Who(_)
        | Route::Resize(_)
        | Route::Fork(_)
        | Route::Points(_)
        | Route::Snapshot(_)
        | Route::Restore(_)
        | Route::Listing
        | Route::Usage
        | Route::Pool
        | Route::Inventory
        | Route::Fleet
        | Route::ThisHost => &[],
        Route::Images => &["image"],
        Route::Activations => &["label"],
        Route::Run(_) => &["seen", "wait"],
        Route::EnsureImage | Route::Activate | Route::RetryRun(_) => &["patience", "wait"],
        Route::RemoveImage => &["image", "dry_run", "patience", "wait"],
        Route::RemoveActivation(_) | Route::Deactivate(_) => {
            &["when_closed", "dry_run", "patience", "wait"]
        }
        Route::RemovePoint(_) => &["point", "dry_run"],
        Route::Gc => &["dry_run", "patience", "wait"],
        Route::CancelRun(_) => &["unless_joined", "wait"],
        Route::Runs => &["status", "after", "limit"],
        Route::Events => &["after", "limit", "subject", "wait"],
    }
}

/// The `wait` parameter: seconds, with or without an `s`, at most a minute.
pub(crate) fn wait(request: &Request) -> Result<Duration, Error> {
    let Some(text) = request.param("wait") else { return Ok(Duration::ZERO) };
    let digits = text.strip_suffix('s').unwrap_or(text);
    let whole = digits.bytes().all(|byte| byte.is_ascii_digit()) && digits.len() < 10;
    match digits.parse().ok().filter(|_| whole) {
        Some(seconds) => Ok(Duration::from_secs(seconds).min(WAIT_MAX)),
        None => Err(Error::Usage(format!(
            "wait={}: expected whole seconds, as in wait=30s; more than {} count as {1}",
            quoted(text),
            WAIT_MAX.as_secs()
        ))),
    }
}

pub(crate) fn number(request: &Request, name: &str, default: u64, most: u64) -> Result<u64, Error> {
    let Some(text) = request.param(name) else { return Ok(default) };
    let parsed = text.parse().ok().filter(|number| *number <= most && !text.starts_with('+'));
    parsed.ok_or_else(|| Error::Usage(format!("{name}={}: expected 0 to {most}", quoted(text))))
}

pub(crate) fn switch(request: &Request, name: &str) -> Result<bool, Error> {
    match request.param(name) {
        None | Some("0" | "false") => Ok(false),
        Some("" | "1" | "true") => Ok(true),
        Some(text) => Err(Error::Usage(format!("{name}={}: expected 1 or 0", quoted(text)))),
    }
}

/// A name or reference that is not absurdly long.
pub(crate) fn short(text: &str) -> Result<&str, Error> {
    match text.len() {
        1..=NAME_MAX => Ok(text),
        length => Err(Error::Usage(format!("a name of {length} bytes: expected 1 to {NAME_MAX}"))),
    }
}

/// Characters of what is said of a body: it may quote much of it.
const WHY_MAX: usize = 400;

/// The body as JSON of a known form.
pub(crate) fn body<T: DeserializeOwned>(request: &Request) -> Result<T, Error> {
    let bad = |error: serde_json::Error| {
        let why: String = error.to_string().chars().take(WHY_MAX).collect();
        Error::Usage(format!("the body is not what is expected here: {why}"))
    };
    // What is derived would also take a list of the values. Of a key that stands twice the last would count.
    match strict::parse(&request.body).map_err(bad)? {
        object @ Value::Object(_) => serde_json::from_value(object).map_err(bad),
        _ => {
            Err(Error::Usage("the body is not what is expected here: it is no JSON object".into()))
        }
    }
}

/// As [`body`]; none at all is an empty object.
pub(crate) fn body_or_empty<T: DeserializeOwned>(request: &Request) -> Result<T, Error> {
    match request.body.is_empty() {
        true => body(&Request { body: b"{}".into(), ..request.clone() }),
        false => body(request),
    }
}

/// The longest that one question may wait.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(60);

/// Bytes of a name or reference that comes in a request.
pub(crate) const NAME_MAX: usize = 2048;
