//! The daemon follows its fleet's document: one thread asks for it, believes it or not, and puts what follows from it
//! into the queue behind people's requests. What follows is decided in the wing `fleet`.
//!
//! Hosts ask at moments of their own within a period. A server that does not answer is asked later and later, up to
//! ten minutes, each host after a pause of its own; meanwhile the document that is in force stays so.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use registry::{Asker, Enqueued, NewRun, Verb};
use serde_json::{Value, json};

use crate::error::Error;
use crate::error::leaves::whole;
use crate::fleet::converge::{Act, Outlook, look};
use crate::fleet::{Dice, Member, Refused, Status, phase};
use crate::host::asked;
use crate::host::settings::Settings;
use crate::process::clock::now_ms;
use crate::process::log::{self, Level};
use crate::serve::daemon::{Daemon, lock};
use crate::serve::ear::{Ear, Heard};
use crate::serve::mode::Mode;
use crate::verbs::fleet::{ASKED_OK, InForce, Memory};
use crate::view::metrics::life::LIFE;

/// How soon the settings are looked at again, and what is here without a change that was told.
const LOOK: Duration = Duration::from_secs(5);

/// Between two looks, however much changes.
const REST: Duration = Duration::from_millis(250);

/// The longest pause between two questions to a server that does not answer.
const AGAIN_MAX: Duration = Duration::from_secs(600);

/// Behind everything that a person asks for.
const PRIORITY: i32 = -10;

/// Starts the thread where the settings in force name a fleet and it does not run; it ends when they name none any
/// more. To be called after the settings were put in force.
pub(super) fn start(daemon: &Arc<Daemon>) {
    let mut follows = lock(&daemon.follows);
    if *follows || daemon.settings().fleet.is_none() {
        return;
    }
    let shared = daemon.clone();
    let started = thread::Builder::new().name("fleet".into()).spawn(move || {
        let mut follower: Option<Follower> = None;
        while !shared.is_stopping() {
            let settings = shared.settings();
            match &settings.fleet {
                None => {
                    follower = None;
                    show(None);
                    if ends(&shared) {
                        return;
                    }
                }
                Some(member) => {
                    let other = follower.as_ref().is_none_or(|follower| follower.member != *member);
                    if other {
                        follower = Some(Follower::new(member, follower.take()));
                    }
                    if let Some(follower) = &mut follower {
                        follower.round(&shared, &settings);
                    }
                }
            }
            let pause = follower.as_ref().map_or(LOOK, Follower::pause);
            let seen = shared.changes();
            shared.pause(pause.min(REST));
            shared.wait_for_changes(seen, Some(pause.saturating_sub(REST)));
        }
    });
    *follows = started.is_ok();
    if let Err(error) = started {
        let why = error.to_string().into();
        log::line(Level::Error, "the fleet's document is not asked for", &[("why", why)]);
    }
}

/// Whether there is still no fleet, so that the thread ends: looked at under the lock under which it is started.
fn ends(daemon: &Daemon) -> bool {
    let mut follows = lock(&daemon.follows);
    *follows = daemon.settings().fleet.is_some();
    !*follows
}

fn show(status: Option<Status>) {
    *LIFE.fleet.lock().unwrap_or_else(PoisonError::into_inner) = status;
}

/// One membership, from the first look on.
struct Follower {
    member: Member,
    started: Instant,
    dice: Dice,
    ear: Ear,
    in_force: Option<InForce>,
    memory: Memory,
    /// When the document is asked for next, since the start.
    next: Duration,
    /// Questions in a row without an answer.
    unheard: u32,
    /// Whether the document that was kept has been looked at.
    looked: bool,
    refused: Option<String>,
    /// When the next thing waits for its moment.
    until: Option<Duration>,
    said: String,
}

impl Follower {
    /// Another membership in the place of `before`: what was lost by that one counts for this one, too.
    fn new(member: &Member, before: Option<Follower>) -> Follower {
        let (started, lost) = match before {
            Some(before) => (before.started, before.memory.lost),
            None => (Instant::now(), Duration::ZERO),
        };
        let next = started.elapsed() + phase(&member.me.host, member.poll);
        Follower {
            next,
            member: member.clone(),
            started,
            dice: Dice(RandomState::new().build_hasher().finish()),
            ear: Ear::default(),
            in_force: None,
            // After a black-out, too, hosts begin apart, whatever the document's spread is.
            memory: Memory::new(next, lost),
            unheard: 0,
            looked: false,
            refused: None,
            until: None,
            said: String::new(),
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Until there is something to do.
    fn pause(&self) -> Duration {
        let moments = [Some(self.next), self.until].into_iter().flatten();
        let next = moments.min().unwrap_or(self.next);
        next.saturating_sub(self.now()).clamp(Duration::from_millis(1), LOOK)
    }

    fn round(&mut self, daemon: &Daemon, settings: &Settings) {
        if daemon.mode() == Mode::Rescue {
            return;
        }
        if !self.looked {
            self.looked = true;
            let kept = daemon.with_host(|host| host.kept_document(&self.member));
            match kept {
                Ok(Some(Ok(in_force))) => self.in_force = Some(in_force),
                Ok(Some(Err(refused))) => self.is_refused(&refused),
                Ok(None) => {}
                Err(error) => self.say(&whole(&error)),
            }
        }
        if self.now() >= self.next {
            self.ask(daemon, settings);
        }
        if let Err(error) = self.follow(daemon, settings) {
            self.say(&whole(&error));
        }
    }

    /// The same words every time would tell nobody anything.
    fn say(&mut self, why: &str) {
        if why != self.said {
            let line = format!("the fleet's document: {why}");
            log::line(Level::Warning, &line, &[]);
            self.said = why.into();
        }
    }

    fn is_refused(&mut self, refused: &Refused) {
        LIFE.document_refused(refused.word());
        let why = refused.to_string();
        self.say(&why);
        self.refused = Some(why);
    }

    fn ask(&mut self, daemon: &Daemon, settings: &Settings) {
        let period = self.member.poll;
        let (now, unheard) = (self.now(), std::mem::take(&mut self.unheard));
        // At the host's own moment of the next period.
        self.next += period;
        if self.next <= now {
            self.next = now + period;
        }
        let known = self.in_force.as_ref().map(|known| known.digest);
        match self.ear.hear(daemon, settings, &self.member, known) {
            Ok(Heard::Same) => self.is_newest(daemon),
            Ok(Heard::New(in_force)) => {
                let serial = in_force.document.serial;
                log::line(
                    Level::Info,
                    "a document of the fleet is in force",
                    &[("serial", serial.into())],
                );
                (self.in_force, self.memory.since) = (Some(in_force), self.now());
                self.is_newest(daemon);
            }
            Ok(Heard::Refused(refused)) => self.is_refused(&refused),
            // That a thing is absent is no wish to remove it.
            Ok(Heard::Absent(error)) => {
                LIFE.document_refused("absent");
                let why = whole(&error);
                self.say(&why);
                self.refused = Some(why);
            }
            Err(error) => {
                LIFE.document_refused("unreachable");
                self.unheard = unheard.saturating_add(1);
                let longest =
                    period.saturating_mul(1 << self.unheard.min(16)).min(AGAIN_MAX.max(period));
                let words = [self.member.me.host.as_str(), "unheard", &now.as_nanos().to_string()];
                // Not before the time that a server asks for, and not all at that moment.
                let asked = match &error {
                    Error::Fetch(error) => error.retry_after().unwrap_or_default().min(AGAIN_MAX),
                    _ => Duration::ZERO,
                };
                self.next =
                    now + asked + period.min(LOOK) + longest.mul_f64(self.dice.share(&words));
                let why = whole(&error);
                self.say(&why);
                self.refused = Some(why);
            }
        }
    }

    fn is_newest(&mut self, daemon: &Daemon) {
        (self.refused, self.said) = (None, String::new());
        let now = u64::try_from(now_ms()).unwrap_or(0);
        // For people and metrics only; the document is in force without.
        drop(
            daemon.with_host(|host| {
                Ok(host.registry.write(|write| write.keep_moment(ASKED_OK, now))?)
            }),
        );
    }

    /// Does what follows from the document in force.
    fn follow(&mut self, daemon: &Daemon, settings: &Settings) -> Result<(), Error> {
        let mut status = Status::of(&self.member);
        status.refused.clone_from(&self.refused);
        let Some(in_force) = self.in_force.clone() else {
            show(Some(status));
            return Ok(());
        };
        let (document, now) = (&in_force.document, self.now());
        let memory = &mut self.memory;
        let (outlook, age_s) = daemon.with_host(|host| {
            let facts = host.fleet_facts(document, memory, now)?;
            let outlook = look(document, &facts, &self.member.me, now, self.dice);
            Ok((outlook, host.document_age_s()?))
        })?;
        status.seen(document, &outlook, now);
        status.age_s = age_s;
        show(Some(status));
        self.until = None;
        if daemon.mode() != Mode::Normal {
            return Ok(());
        }
        self.act(daemon, settings, document.serial, outlook)
    }

    fn act(
        &mut self,
        daemon: &Daemon,
        settings: &Settings,
        serial: u64,
        outlook: Outlook,
    ) -> Result<(), Error> {
        for act in outlook.acts {
            let (verb, subject, mut input) = match act {
                Act::Ensure { image } => (Verb::Ensure, image.clone(), json!({"image": image})),
                Act::Activate { name, image } => {
                    // It is here: without a catalog nobody has to be asked for it.
                    let no_fetch = settings.trust.url.is_none();
                    (Verb::Activate, name, json!({"image": image, "no_fetch": no_fetch}))
                }
                Act::Replace { name } => (Verb::Rm, name, json!({"when_closed": false})),
                Act::Remove { image } => {
                    // Before it is asked for: whatever becomes of the run, the next hour begins.
                    self.memory.lost = self.now();
                    (Verb::Rm, image, json!({"when_closed": false}))
                }
                Act::Wait { until } => {
                    self.until = Some(until);
                    continue;
                }
            };
            input["by"] = Asker::DOCUMENT.into();
            input["document"] = serial.into();
            put(daemon, settings, verb, &subject, input)?;
        }
        Ok(())
    }
}

/// Puts a run into the queue. Who is in the way comes first; the next look finds out.
fn put(
    daemon: &Daemon,
    settings: &Settings,
    verb: Verb,
    subject: &str,
    mut input: Value,
) -> Result<(), Error> {
    input["s3"] = asked::s3(settings);
    let text = input.to_string();
    let webhook = daemon.options.webhook.as_deref();
    let new = NewRun { verb, subject, input: &text, priority: PRIORITY, webhook };
    match daemon.enqueue(&new, &input)? {
        Enqueued::Fresh(_) | Enqueued::Joined(_) | Enqueued::Refused { .. } => Ok(()),
    }
}
