//! Questions about this host as one of many: what the fleet's document asks of it, and what a placer needs to know.

use serde_json::json;

use crate::error::Error;
use crate::serve::daemon::Daemon;
use crate::serve::http::response::Response;
use crate::view::metrics::life::LIFE;

/// The document in force and this host's place in it.
pub(super) fn fleet() -> Result<Response, Error> {
    match LIFE.of_fleet() {
        Some(status) => Ok(Response::json(200, &status)),
        None => Err(Error::Unknown {
            what: "fleet",
            name: "this host is in none: fleet.url is not set".into(),
        }),
    }
}

/// What changes all the time, apart from the inventory, which has an ETag.
pub(super) fn this_host(daemon: &Daemon) -> Result<Response, Error> {
    let space = daemon.with_host(|host| host.store().space())?;
    let (queued, working) = daemon.load();
    let fleet = LIFE.of_fleet();
    let value = json!({
        "id": fleet.as_ref().map(|fleet| fleet.host.clone()),
        "site": fleet.as_ref().and_then(|fleet| fleet.site.clone()),
        "mode": daemon.mode().word(),
        "total_bytes": space.total,
        "free_bytes": space.free(),
        "queued": queued,
        "working": working,
        "fleet_serial": fleet.and_then(|fleet| fleet.serial),
    });
    Ok(Response::json(200, &value))
}
