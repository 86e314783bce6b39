//! The daemon asks for the signed catalog by itself, looks for signatures of what should be up and is not known to be
//! signed, and has what was not scanned be scanned: so a revocation is heard of where nobody asks for an image, and no start waits for a scan.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::error::leaves::whole;
use crate::host::Host;
use crate::host::settings::Settings;
use crate::process::log::{self, Level};
use crate::serve::daemon::Daemon;
use crate::serve::mode::Mode;
use crate::trust::scan;

/// How soon the settings are looked at again, and what was not scanned is looked for.
const LOOK: Duration = Duration::from_secs(60);

/// How soon signatures are looked for again, of what should be up and is not known to be signed.
const SIGN: Duration = Duration::from_secs(600);

/// What the settings in force ask for, and how soon again.
struct Wanted {
    ask: Option<Duration>,
    scan: bool,
    signatures: bool,
}

impl Wanted {
    fn of(settings: &Settings) -> Wanted {
        let every = Duration::from_secs(settings.trust.refresh_s);
        let ask = settings.trust.url.is_some() && !every.is_zero();
        Wanted {
            ask: ask.then_some(every),
            scan: settings.scan.mode == scan::Mode::Required,
            signatures: !settings.trust.cosign.required.is_empty(),
        }
    }
}

/// Starts the thread. What it does is decided anew each time, by what is set then.
pub(super) fn start(daemon: &Arc<Daemon>) {
    let shared = daemon.clone();
    let started = thread::Builder::new().name("refresh".into()).spawn(move || {
        let mut said = String::new();
        let (mut asked, mut signed): (Option<Instant>, Option<Instant>) = (None, None);
        while !shared.is_stopping() {
            let wanted = Wanted::of(&shared.settings());
            let due = wanted.ask.is_some_and(|every| asked.is_none_or(|at| at.elapsed() >= every));
            let sign = wanted.signatures && signed.is_none_or(|at| at.elapsed() >= SIGN);
            if shared.mode() != Mode::Rescue && (due || wanted.scan || sign) {
                let now = Some(Instant::now());
                asked = if due { now } else { asked };
                signed = if sign { now } else { signed };
                let why =
                    once(&shared, due, sign).err().map(|error| whole(&error)).unwrap_or_default();
                // The same words every time would tell nobody anything.
                if !why.is_empty() && why != said {
                    let line = format!("the catalog, a signature or a scan is put off: {why}");
                    log::line(Level::Warning, &line, &[]);
                }
                said = why;
            }
            shared.pause(wanted.ask.map_or(LOOK, |every| every.min(LOOK)));
        }
    });
    if let Err(error) = started {
        let why = error.to_string().into();
        log::line(Level::Error, "the catalog is not asked for", &[("why", why)]);
    }
}

fn once(daemon: &Daemon, ask: bool, sign: bool) -> Result<(), Error> {
    let mut host = Host::open(Settings { talk: 1, ..daemon.settings() })?;
    let asked = if ask { host.trusted_catalog().map(drop) } else { Ok(()) };
    let signed = match sign {
        true => {
            host.sign_unsigned().and_then(|failed| failed.into_iter().next().map_or(Ok(()), Err))
        }
        false => Ok(()),
    };
    let scanned = host.scan_unscanned();
    // What any of them has changed.
    host.recover(false)?;
    asked.and(signed).and(scanned.map(drop))
}
