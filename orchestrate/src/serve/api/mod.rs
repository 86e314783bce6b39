//! What each route does. Questions are in `reads`, wishes in `asks`.

pub(crate) mod asks;
pub(crate) mod disks;
pub(crate) mod files;
pub(crate) mod fleet;
pub(crate) mod naming;
pub(crate) mod params;
pub(crate) mod reads;

use serde_json::Number;

use crate::config::table::BYTES_MAX;
use crate::error::Error;
use crate::serve::api::params::params;
use crate::serve::daemon::Daemon;
use crate::serve::http::request::{Method, Request};
use crate::serve::http::response::Response;
use crate::serve::routes::{Miss, Route, route};
use crate::serve::{page, problem};

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
    if !request.files.is_empty() && !matches!(route, Route::EnsureImage | Route::Activate) {
        return problem::of(&Error::Usage("this request takes no open files".into()));
    }
    let answered = match &route {
        Route::Page => Ok(page::page()),
        Route::Healthz => reads::healthz(daemon),
        Route::Readyz => Ok(reads::readyz(daemon)),
        Route::Metrics => Ok(reads::metrics(daemon)),
        Route::OpenApi => Ok(reads::openapi()),
        Route::Status => Ok(reads::status(daemon)),
        Route::Images => reads::images(daemon, request),
        Route::Activations => reads::activations(daemon, request),
        Route::Activation(name) => reads::activation(daemon, name),
        Route::Runs => reads::runs(daemon, request),
        Route::Run(id) => reads::run(daemon, request, *id),
        Route::Events => reads::events(daemon, request),
        Route::Listing => reads::listing(daemon),
        Route::Usage => reads::usage(daemon),
        Route::Pool => reads::pool(daemon),
        Route::Inventory => reads::inventory(daemon, request),
        Route::Fleet => fleet::fleet(daemon),
        Route::ThisHost => fleet::this_host(daemon),
        Route::SetMode => asks::mode(daemon, request),
        Route::EnsureImage => asks::ensure(daemon, request),
        Route::RemoveImage => asks::remove_image(daemon, request),
        Route::Pin => asks::pin(daemon, request),
        Route::Activate => asks::activate(daemon, request),
        Route::RemoveActivation(name) => asks::remove_activation(daemon, request, name),
        Route::Deactivate(name) => asks::deactivate(daemon, request, name),
        Route::Label(name) => naming::label(daemon, request, name),
        Route::Ttl(name) => naming::ttl(daemon, request, name),
        Route::Rename(name) => naming::rename(daemon, request, name),
        Route::Who(name) => naming::who(daemon, name),
        Route::Resize(name) => disks::resize(daemon, request, name),
        Route::Fork(name) => disks::fork(daemon, request, name),
        Route::Points(name) => disks::points(daemon, name),
        Route::Snapshot(name) => disks::snapshot(daemon, request, name),
        Route::RemovePoint(name) => disks::remove_point(daemon, request, name),
        Route::Restore(name) => disks::restore(daemon, request, name),
        Route::CancelRun(id) => asks::cancel(daemon, request, *id),
        Route::RetryRun(id) => asks::retry(daemon, request, *id),
        Route::Gc => asks::gc(daemon, request),
    };
    answered.unwrap_or_else(|error| problem::of(&error))
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
