//! Questions about this host as one of many: what the fleet's document asks of it, and what a placer needs to know.

use serde_json::json;

use crate::error::Error;
use crate::error::class::Class;
use crate::fleet::Status;
use crate::serve::daemon::Daemon;
use crate::serve::http::response::Response;
use crate::view::metrics::life::LIFE;

/// The document in force and this host's place in it.
pub(super) fn fleet(daemon: &Daemon) -> Result<Response, Error> {
    match status(daemon) {
        Some(status) => Ok(Response::json(200, &status)),
        None => {
            let message = "this host is in no fleet: fleet.url is not set".into();
            Err(Error::Told { class: Class::NotFound, message })
        }
    }
}

/// As the thread that follows it has it; before its first look, what is set.
fn status(daemon: &Daemon) -> Option<Status> {
    let member = daemon.settings().fleet?;
    Some(LIFE.of_fleet().unwrap_or_else(|| Status::of(&member)))
}

/// What changes all the time, apart from the inventory, which has an ETag.
pub(super) fn this_host(daemon: &Daemon) -> Result<Response, Error> {
    let space = daemon.with_host(|host| host.store().space())?;
    let (queued, working) = daemon.load();
    let fleet = status(daemon);
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
