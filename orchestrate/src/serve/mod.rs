//! `serve`: the verbs over HTTP, a durable queue, and the workers that work it off. Threads only.
//!
//! What each thread does: this one ticks; one waits for signals; one for each socket accepts; each
//! connection has its own, of which there are so many; workers (`workers`); one sends who tells of ends
//! (`deliveries`); one makes the pool larger (`grow`), one says how full it is (`room`), one copies its metadata (`copies`); one follows the fleet's document (`fleet`). What they share is in `daemon`.

pub(crate) mod api;
pub(crate) mod auth;
pub(crate) mod client;
pub(crate) mod connections;
pub(crate) mod copies;
pub(crate) mod daemon;
pub(crate) mod deliveries;
mod ear;
pub(crate) mod files;
pub(crate) mod fleet;
pub(crate) mod force;
pub(crate) mod gather;
pub(crate) mod grow;
pub(crate) mod held;
pub(crate) mod http;
pub(crate) mod in_force;
pub(crate) mod listen;
pub(crate) mod mode;
pub(crate) mod notify;
pub(crate) mod obstacle;
pub(crate) mod options;
pub(crate) mod page;
pub(crate) mod problem;
pub(crate) mod queue;
pub(crate) mod reach;
pub(crate) mod refresh;
pub(crate) mod room;
pub(crate) mod routes;
pub mod settings;
pub(crate) mod slot;
pub mod socket;
pub(crate) mod status;
pub(crate) mod stop;
pub(crate) mod unbegun;
pub(crate) mod upkeep;
pub(crate) mod verbs;
pub(crate) mod webhook;
pub(crate) mod workers;

use std::fs;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::serve::options::Options;

pub use crate::serve::auth::Allow;
pub use crate::serve::client::Client;
pub use crate::serve::mode::Mode;

use crate::error::Error;
use crate::host::settings::Settings;
use crate::host::{Host, walls};
use crate::process::cancel::Cancel;
use crate::process::lock::Locks;
use crate::process::log::{self, Level};
use crate::process::place;
use crate::process::{reserve, sys};
use crate::serve::auth::Tokens;
use crate::serve::daemon::Daemon;
use crate::serve::listen::Gate;
use crate::serve::queue::Workers;
use crate::view::metrics;

/// How often the loop comes round: it finds what others have queued, and looks after the host.
const TICK: Duration = Duration::from_secs(5);

/// How often it looks whether other processes are still at what somebody here has to come after.
const LOOK_ELSEWHERE: Duration = Duration::from_millis(250);

/// How often what is beyond the age and number of the settings is forgotten.
const PRUNE: Duration = Duration::from_secs(60);
const PRUNE_ON: Duration = Duration::from_secs(1);

/// How long to wait for a daemon that is on its way out.
const SECOND_DAEMON_WAIT: Duration = Duration::from_secs(3);

/// How long a daemon that stops waits for safe points; less than a supervisor's patience (90 s of
/// systemd's). A request to a dead server can take longer, as can a large layer.
const LAST_WAIT: Duration = Duration::from_secs(60);

/// Serves until a signal, and gives back when everything is put by. `reload` gives what is set now.
///
/// A broken store or registry is no reason not to start: questions are answered and nothing is begun.
///
/// # Errors
/// What keeps it from listening; [`Error::Locked`] when there is a daemon already.
pub fn serve(
    settings: Settings,
    options: Options,
    reload: impl Fn() -> Result<(Settings, Options), Error> + Send + 'static,
) -> Result<(), Error> {
    // Before any other thread: all inherit what is blocked.
    let signals = stop::block()?;
    sys::share_one_heap();
    walls::warn_at_start(&settings);
    let tokens = Tokens::read(options.token_file.as_deref(), options.read_token_file.as_deref())?;
    if options.listen.is_some() && tokens.is_empty() {
        return Err(Error::Usage(
            "--listen needs --token-file: clients identify themselves with it".into(),
        ));
    }
    if let Some(address) = &options.webhook {
        webhook::check(address)?;
    }
    place::make(&settings.state, place::STATE)?;
    // To listen and to open the registry takes some, and by that it can make more.
    let room = reserve::give_up(&settings.state);
    let _only = only_daemon(&settings)?;
    let daemon = Arc::new(Daemon::new(settings, options));
    // The registry is looked at by one thread before others have connections of their own.
    if let Err(error) = open_once(&daemon) {
        log::line(Level::Error, &crate::error::leaves::whole(&error), &[]);
    }
    daemon.examine();
    let gate = Arc::new(Gate::new(daemon.clone(), tokens));
    let (listeners, socket) = listen::open(&daemon)?;
    stop::watch(&daemon, signals, gate.clone(), reload);
    for workers in Workers::ALL {
        workers::start(&daemon, workers);
    }
    deliveries::start(&daemon);
    grow::start(&daemon);
    room::start(&daemon);
    copies::start(&daemon);
    refresh::start(&daemon);
    fleet::start(&daemon);
    // It is there again before anybody is answered.
    drop(room);
    for listener in listeners {
        listen::start(&gate, listener)?;
    }
    notify::tell("READY=1");
    tick(&daemon);
    notify::tell("STOPPING=1");
    let left = daemon.wait_until_idle(LAST_WAIT);
    if left > 0 {
        let msg = format!("{left} runs reach no safe point: left as by a kill, to the next daemon");
        log::line(Level::Warning, &msg, &[]);
    }
    // Clients need not find out that nobody answers. One that was handed over stays: by it systemd starts
    // the next daemon.
    if let Some(socket) = socket {
        drop(fs::remove_file(socket));
    }
    Ok(())
}

fn open_once(daemon: &Daemon) -> Result<(), Error> {
    let mut host = Host::open(daemon.settings())?;
    let counters = host.registry().counters()?;
    if let Some(kept) = counters.iter().find(|kept| kept.name == workers::S3_OK) {
        metrics::LIFE.s3_ok_ms.store(kept.value, Ordering::Relaxed);
    }
    // After a boot: for a few seconds at most, and only where something is to come up.
    host.ask_catalog(false);
    host.recover(false).map(drop)
}

/// The lock of the only daemon of this state directory. Somebody who looks whether there is one holds
/// it for a moment, too.
fn only_daemon(settings: &Settings) -> Result<crate::process::lock::Lock, Error> {
    let locks = Locks::new(&settings.state, SECOND_DAEMON_WAIT, Cancel::default())?;
    locks.serve()
}

/// Comes round until the daemon stops.
fn tick(daemon: &Daemon) {
    let period = notify::watchdog().map_or(TICK, |watchdog| (watchdog / 2).min(TICK));
    let mut next_look = std::time::Instant::now();
    let mut next_prune = next_look;
    while !daemon.is_stopping() {
        if next_look <= std::time::Instant::now() {
            daemon.examine();
            if let Err(error) = daemon
                .gather()
                .and_then(|()| daemon.settle())
                .and_then(|()| daemon.end_ttls())
                .and_then(|()| daemon.let_ended_go())
            {
                daemon.complain(&error);
            }
            next_look = std::time::Instant::now() + TICK;
        }
        if next_prune <= std::time::Instant::now() {
            let more = daemon.prune().unwrap_or_else(|error| {
                daemon.complain(&error);
                false
            });
            next_prune = std::time::Instant::now() + if more { PRUNE_ON } else { PRUNE };
        }
        daemon.tick();
        if notify::watchdog().is_some() {
            notify::tell("WATCHDOG=1");
        }
        let mut pause = period;
        match daemon.look_elsewhere() {
            Ok(true) => pause = pause.min(LOOK_ELSEWHERE),
            Ok(false) => {}
            Err(error) => daemon.complain(&error),
        }
        daemon.pause(pause.min(next_prune.saturating_duration_since(std::time::Instant::now())));
    }
}
