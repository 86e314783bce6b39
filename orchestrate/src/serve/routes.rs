//! Which path means what. Pure; the table in `docs/openapi.json` is held against it by a test.

use registry::RunId;

use crate::serve::http::request::Method;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    Page,
    Healthz,
    Readyz,
    Metrics,
    OpenApi,
    Status,
    SetMode,
    Images,
    EnsureImage,
    RemoveImage,
    Pin,
    Activations,
    Activate,
    Activation(String),
    RemoveActivation(String),
    Deactivate(String),
    Label(String),
    Ttl(String),
    Rename(String),
    Who(String),
    Resize(String),
    Fork(String),
    Points(String),
    Snapshot(String),
    RemovePoint(String),
    Restore(String),
    Runs,
    Run(RunId),
    CancelRun(RunId),
    RetryRun(RunId),
    Events,
    Listing,
    Usage,
    Pool,
    Inventory,
    Fleet,
    ThisHost,
    Gc,
}

/// Why no path answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Miss {
    /// Nobody knows the path.
    NotFound,
    /// The path has these methods and not that one.
    Method(&'static str),
}

/// The route of a method and a path's parts.
pub(crate) fn route(method: Option<Method>, path: &[String]) -> Result<Route, Miss> {
    use Method::{Delete, Get, Head, Post, Put};
    let parts: Vec<&str> = path.iter().map(String::as_str).collect();
    // A HEAD is a GET whose body is left out.
    let method = match method {
        Some(Head) => Some(Get),
        method => method,
    };
    // What the registry cannot count to is no run either.
    let number = |text: &str| match text.parse::<i64>().map(u64::try_from) {
        Ok(Ok(id)) if !text.starts_with(['+', '-']) => Ok(RunId::new(id)),
        Ok(_) | Err(_) => Err(Miss::NotFound),
    };
    let get = |route: Route| match method {
        Some(Get) => Ok(route),
        _ => Err(Miss::Method("GET, HEAD")),
    };
    let post = |route: Route| match method {
        Some(Post) => Ok(route),
        _ => Err(Miss::Method("POST")),
    };
    match parts.as_slice() {
        [""] => get(Route::Page),
        ["healthz"] => get(Route::Healthz),
        ["readyz"] => get(Route::Readyz),
        ["metrics"] => get(Route::Metrics),
        ["v1", "openapi.json"] => get(Route::OpenApi),
        ["v1", "status"] => get(Route::Status),
        ["v1", "mode"] => post(Route::SetMode),
        ["v1", "images"] => match method {
            Some(Get) => Ok(Route::Images),
            Some(Put) => Ok(Route::EnsureImage),
            Some(Delete) => Ok(Route::RemoveImage),
            _ => Err(Miss::Method("GET, HEAD, PUT, DELETE")),
        },
        ["v1", "images", "pin"] => post(Route::Pin),
        ["v1", "activations"] => match method {
            Some(Get) => Ok(Route::Activations),
            Some(Post) => Ok(Route::Activate),
            _ => Err(Miss::Method("GET, HEAD, POST")),
        },
        ["v1", "activations", id] => match method {
            Some(Get) => Ok(Route::Activation((*id).into())),
            Some(Delete) => Ok(Route::RemoveActivation((*id).into())),
            _ => Err(Miss::Method("GET, HEAD, DELETE")),
        },
        ["v1", "activations", id, "deactivate"] => post(Route::Deactivate((*id).into())),
        ["v1", "activations", id, "labels"] => post(Route::Label((*id).into())),
        ["v1", "activations", id, "ttl"] => post(Route::Ttl((*id).into())),
        ["v1", "activations", id, "rename"] => post(Route::Rename((*id).into())),
        ["v1", "activations", id, "who"] => get(Route::Who((*id).into())),
        ["v1", "activations", id, "resize"] => post(Route::Resize((*id).into())),
        ["v1", "activations", id, "fork"] => post(Route::Fork((*id).into())),
        ["v1", "activations", id, "points"] => match method {
            Some(Get) => Ok(Route::Points((*id).into())),
            Some(Post) => Ok(Route::Snapshot((*id).into())),
            Some(Delete) => Ok(Route::RemovePoint((*id).into())),
            _ => Err(Miss::Method("GET, HEAD, POST, DELETE")),
        },
        ["v1", "activations", id, "restore"] => post(Route::Restore((*id).into())),
        ["v1", "runs"] => get(Route::Runs),
        ["v1", "runs", id] => number(id).and_then(|id| get(Route::Run(id))),
        ["v1", "runs", id, "cancel"] => number(id).and_then(|id| post(Route::CancelRun(id))),
        ["v1", "runs", id, "retry"] => number(id).and_then(|id| post(Route::RetryRun(id))),
        ["v1", "events"] => get(Route::Events),
        ["v1", "listing"] => get(Route::Listing),
        ["v1", "usage"] => get(Route::Usage),
        ["v1", "pool"] => get(Route::Pool),
        ["v1", "inventory"] => get(Route::Inventory),
        ["v1", "fleet"] => get(Route::Fleet),
        ["v1", "host"] => get(Route::ThisHost),
        ["v1", "gc"] => post(Route::Gc),
        _ => Err(Miss::NotFound),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(method: Method, path: &str) -> Result<Route, Miss> {
        let parts: Vec<String> = path.split('/').map(str::to_owned).collect();
        route(Some(method), &parts)
    }

    #[test]
    fn a_path_is_known_or_not_and_says_its_methods() {
        assert_eq!(of(Method::Head, "v1/runs/7"), Ok(Route::Run(RunId::new(7))));
        assert_eq!(of(Method::Post, "v1/runs/7/cancel"), Ok(Route::CancelRun(RunId::new(7))));
        assert_eq!(of(Method::Put, "v1/images"), Ok(Route::EnsureImage));
        assert_eq!(of(Method::Put, "v1/runs/7"), Err(Miss::Method("GET, HEAD")));
        assert_eq!(of(Method::Get, ""), Ok(Route::Page));
        assert_eq!(of(Method::Post, ""), Err(Miss::Method("GET, HEAD")));
        for path in [
            "/",
            "v1",
            "v1/",
            "v1/runs/",
            "v1/runs/x",
            "v1/runs/+7",
            "v1/runs/-1",
            "v2/runs",
            "v1/runs/9223372036854775808",
            "v1/runs/7/8",
            "healthz/",
        ] {
            assert_eq!(of(Method::Get, path), Err(Miss::NotFound), "{path}");
        }
        assert_eq!(route(None, &["healthz".into()]), Err(Miss::Method("GET, HEAD")));
    }
}
