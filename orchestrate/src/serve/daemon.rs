//! What all threads of the daemon share: what waits and who is at work, the mode, connections to
//! registry and store, and the news by which those who wait are woken.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use registry::{NewRun, Registry, RunState};

use super::mode::{Mode, Modes};
use super::queue::{self, Hands, Item};
use super::{Limits, Options};
use crate::error::{Class, class};
use crate::health::{self, Readiness};
use crate::lock::Locks;
use crate::log::{self, Level};
use crate::metrics::LIFE;
use crate::runs;
use crate::{Cancel, Error, Host, RunLine, Settings};

/// How old the answer to a question after readiness may be: each costs a commit.
const READINESS_AGE: Duration = Duration::from_secs(2);

/// Hosts and registries that are kept open for the next question.
const KEPT_OPEN: usize = 2;

/// How long a question may wait for a lock.
const QUESTION_WAIT: Duration = Duration::from_secs(5);

/// How often who waits looks by itself: others than this process write, too.
const LOOK: Duration = Duration::from_millis(250);

/// After a host that could not be opened, nothing is begun for so long.
const REST: Duration = Duration::from_secs(5);

/// The daemon.
#[derive(Debug)]
pub(super) struct Daemon {
    pub(super) settings: Settings,
    pub(super) options: Options,
    pub(super) limits: Mutex<Limits>,
    pub(super) started_ms: i64,
    work: Mutex<Work>,
    changed: Condvar,
    news: (Mutex<u64>, Condvar),
    modes: Mutex<Modes>,
    stopping: AtomicBool,
    ticked: Mutex<Instant>,
    waiting: AtomicUsize,
    readiness: Mutex<Option<(Instant, Readiness)>>,
    hosts: Mutex<Vec<Host>>,
    registries: Mutex<Vec<Registry>>,
}

#[derive(Debug, Default)]
struct Work {
    waiting: Vec<Item>,
    working: Vec<(Item, Cancel)>,
    turns: HashMap<String, u64>,
    turn: u64,
    rest_until: Option<Instant>,
}

impl Work {
    fn knows(&self, id: u64) -> bool {
        self.waiting.iter().chain(self.working.iter().map(|(item, _)| item)).any(|i| i.id == id)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Daemon {
    pub(super) fn new(settings: Settings, options: Options) -> Daemon {
        Daemon {
            limits: Mutex::new(options.limits),
            settings,
            options,
            started_ms: now_ms(),
            work: Mutex::default(),
            changed: Condvar::new(),
            news: (Mutex::new(0), Condvar::new()),
            modes: Mutex::default(),
            stopping: AtomicBool::new(false),
            ticked: Mutex::new(Instant::now()),
            waiting: AtomicUsize::new(0),
            readiness: Mutex::default(),
            hosts: Mutex::default(),
            registries: Mutex::default(),
        }
    }

    pub(super) fn limits(&self) -> Limits {
        *lock(&self.limits)
    }

    /// From now on these limits hold.
    pub(super) fn set_limits(&self, limits: Limits) {
        *lock(&self.limits) = limits;
        self.changed.notify_all();
    }

    // ---- questions -----------------------------------------------------------------------------

    /// Asks a host that is open, or opens one. One that turns out broken is not kept.
    pub(super) fn with_host<T>(
        &self,
        ask: impl FnOnce(&mut Host) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let kept = lock(&self.hosts).pop();
        let mut host = match kept {
            Some(host) => host,
            None => Host::open(Settings { wait: QUESTION_WAIT, talk: 0, ..self.settings.clone() })?,
        };
        let answer = ask(&mut host);
        let broken = answer.as_ref().is_err_and(|error| class(error) == Class::HostBroken);
        let mut hosts = lock(&self.hosts);
        if !broken && hosts.len() < KEPT_OPEN {
            hosts.push(host);
        }
        answer
    }

    /// Asks the registry alone: it may answer when the store does not.
    pub(super) fn with_registry<T>(
        &self,
        ask: impl FnOnce(&mut Registry) -> Result<T, registry::Error>,
    ) -> Result<T, Error> {
        let kept = lock(&self.registries).pop();
        let mut registry = match kept {
            Some(registry) => registry,
            None => Registry::open(&self.settings.state.join("registry.db"))?,
        };
        let answer = ask(&mut registry).map_err(Error::Registry);
        let broken = answer.as_ref().is_err_and(|error| class(error) == Class::HostBroken);
        let mut registries = lock(&self.registries);
        if !broken && registries.len() < KEPT_OPEN {
            registries.push(registry);
        }
        answer
    }

    /// Locks of its own, for one question.
    pub(super) fn locks(&self) -> Result<Locks, Error> {
        Locks::new(&self.settings.state, QUESTION_WAIT, Cancel::default())
    }

    /// The run of this number.
    pub(super) fn run(&self, id: u64) -> Result<RunLine, Error> {
        let run = self.with_registry(|registry| registry.run(id))?;
        let run = run.ok_or_else(|| Error::Unknown { what: "run", name: id.to_string() })?;
        runs::line(&self.locks()?, run)
    }

    /// Asks until there is an answer or the time has passed; wakes at news. Only so many may wait at
    /// once: who is one too many gets the answer of now.
    pub(super) fn wait_for<T>(
        &self,
        time: Duration,
        mut ask: impl FnMut() -> Result<Option<T>, Error>,
    ) -> Result<Option<T>, Error> {
        let deadline = Instant::now() + time;
        let seat = Seat::take(&self.waiting, self.limits().waits);
        loop {
            let seen = *lock(&self.news.0);
            if let Some(answer) = ask()? {
                return Ok(Some(answer));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || seat.is_none() || self.is_stopping() {
                return Ok(None);
            }
            let news = lock(&self.news.0);
            if *news == seen {
                // Who is woken for nothing asks again.
                drop(self.news.1.wait_timeout(news, left.min(LOOK)));
            }
        }
    }

    /// Wakes all who wait.
    pub(super) fn tell(&self) {
        *lock(&self.news.0) += 1;
        self.news.1.notify_all();
    }

    /// How much has been told so far.
    pub(super) fn news(&self) -> u64 {
        *lock(&self.news.0)
    }

    /// Waits for more than `seen` was told, or for so long.
    pub(super) fn wait_for_news(&self, seen: u64, time: Option<Duration>) {
        let news = lock(&self.news.0);
        if *news != seen || self.is_stopping() {
            return;
        }
        match time {
            Some(time) => drop(self.news.1.wait_timeout(news, time)),
            None => drop(self.news.1.wait(news)),
        }
    }

    /// The loop's pause; ends early when the daemon stops.
    pub(super) fn pause(&self, time: Duration) {
        let deadline = Instant::now() + time;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.is_stopping() {
                return;
            }
            let seen = self.news();
            self.wait_for_news(seen, Some(left));
        }
    }

    /// Seconds since 1970.
    pub(super) fn now_s(&self) -> i64 {
        now_ms() / 1000
    }

    /// Says what went wrong, once in rescue mode.
    pub(super) fn complain(&self, error: &Error) {
        if self.mode() != Mode::Rescue {
            log::line(Level::Warning, &crate::whole(error), &[]);
        }
    }

    // ---- the mode ------------------------------------------------------------------------------

    pub(super) fn modes(&self) -> Modes {
        lock(&self.modes).clone()
    }

    pub(super) fn mode(&self) -> Mode {
        lock(&self.modes).now()
    }

    pub(super) fn ask_mode(&self, mode: Mode) {
        lock(&self.modes).asked = mode;
        self.changed.notify_all();
        self.tell();
    }

    /// Looks whether the host can do its work.
    pub(super) fn examine(&self) {
        let sick = health::sick(&health::look(&self.settings, false));
        let mut modes = lock(&self.modes);
        if modes.sick == sick {
            return;
        }
        match &sick {
            Some(why) => log::line(Level::Error, "rescue mode", &[("why", why.as_str().into())]),
            None => log::line(Level::Info, "the host is well again", &[]),
        }
        modes.sick = sick;
        drop(modes);
        self.changed.notify_all();
        self.tell();
    }

    pub(super) fn readiness(&self) -> Readiness {
        let mut kept = lock(&self.readiness);
        if let Some((when, readiness)) = kept.as_ref()
            && when.elapsed() < READINESS_AGE
            && readiness.mode.as_deref() == Some(self.mode().word())
        {
            return readiness.clone();
        }
        let checks = health::judge(&health::look(&self.settings, true));
        let modes = self.modes();
        let readiness = Readiness {
            ready: checks.iter().all(|check| check.ok) && modes.now() == Mode::Normal,
            mode: Some(modes.now().word().into()),
            why: modes.why(),
            checks,
        };
        *kept = Some((Instant::now(), readiness.clone()));
        readiness
    }

    /// The loop that everything depends on has come round.
    pub(super) fn tick(&self) {
        *lock(&self.ticked) = Instant::now();
        LIFE.ticked_ms.store(u64::try_from(now_ms()).unwrap_or(0), Ordering::Relaxed);
    }

    /// How long ago it came round.
    pub(super) fn ticked(&self) -> Duration {
        lock(&self.ticked).elapsed()
    }

    // ---- work ----------------------------------------------------------------------------------

    /// Commits what is asked for, and gives the run that does it.
    ///
    /// # Errors
    /// [`Error::Told`] when nothing is taken now.
    pub(super) fn enqueue(&self, new: &NewRun<'_>) -> Result<(u64, bool), Error> {
        let no = |class, message: String| Err(Error::Told { class, message });
        let modes = self.modes();
        let why = || modes.why().unwrap_or_default();
        match modes.now() {
            Mode::Normal => {}
            Mode::Drain => return no(Class::Temporary, format!("draining: {}", why())),
            Mode::Rescue => return no(Class::HostBroken, format!("rescue mode: {}", why())),
        }
        if self.is_stopping() {
            return no(Class::Temporary, "the daemon is stopping".into());
        }
        let (waiting, most) = (lock(&self.work).waiting.len(), self.limits().backlog);
        if waiting >= most {
            return no(
                Class::Temporary,
                format!("{waiting} runs wait already, at most {most} may"),
            );
        }
        let enqueued = self.with_registry(|registry| registry.write(|w| w.enqueue_run(new)))?;
        if let Some(run) = self.with_registry(|registry| registry.run(enqueued.id))? {
            match run.state {
                RunState::Queued => self.push(Item::of(&run)),
                // The next tick finds out whether anybody is at work on it.
                RunState::Running => {}
                RunState::Done | RunState::Failed { .. } | RunState::Cancelled => {}
            }
        }
        self.tell();
        Ok((enqueued.id, enqueued.fresh))
    }

    fn push(&self, item: Item) {
        let mut work = lock(&self.work);
        if let Some(known) = work.waiting.iter_mut().find(|known| known.id == item.id) {
            known.priority = item.priority;
        } else if !work.knows(item.id) {
            work.waiting.push(item);
        }
        drop(work);
        self.changed.notify_all();
    }

    /// Finds what waits in the registry, and what somebody died over.
    pub(super) fn gather(&self) -> Result<(), Error> {
        let locks = self.locks()?;
        for run in self.with_registry(|registry| registry.runs(false))? {
            if lock(&self.work).knows(run.id) {
                continue;
            }
            let queued = run.state == RunState::Queued;
            let line = runs::line(&locks, run)?;
            if queued || line.interrupted {
                self.push(Item::of(&line.run));
            }
        }
        Ok(())
    }

    /// The next run for these hands; waits for one. None when this worker is one too many, or the
    /// daemon stops.
    pub(super) fn claim(&self, hands: Hands, worker: usize) -> Option<(Item, Cancel)> {
        let mut work = lock(&self.work);
        loop {
            if self.is_stopping() || worker >= self.limits().workers(hands) {
                return None;
            }
            let rest = work.rest_until.map(|until| until.saturating_duration_since(Instant::now()));
            let rest = rest.filter(|rest| !rest.is_zero());
            let free = rest.is_none() && self.mode() != Mode::Rescue;
            let working: Vec<Item> = work.working.iter().map(|(item, _)| item.clone()).collect();
            let next = queue::next(&work.waiting, &working, &work.turns, hands);
            if let Some(at) = next.filter(|_| free) {
                let item = work.waiting.remove(at);
                work.turn += 1;
                let turn = work.turn;
                work.turns.insert(item.share.clone(), turn);
                if work.waiting.is_empty() {
                    work.turns.clear();
                }
                let cancel = Cancel::default();
                work.working.push((item.clone(), cancel.clone()));
                return Some((item, cancel));
            }
            work = match rest {
                Some(rest) => {
                    let woken = self.changed.wait_timeout(work, rest);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.changed.wait(work).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// A claimed run is out of hand. With `again` it was not begun: it waits on, and all rest a while.
    pub(super) fn release(&self, item: Item, again: bool) {
        let mut work = lock(&self.work);
        work.working.retain(|(other, _)| other.id != item.id);
        if again {
            work.rest_until = Some(Instant::now() + REST);
            work.waiting.push(item);
        }
        drop(work);
        self.changed.notify_all();
        self.tell();
    }

    /// Asks a run to stop. Its row has the wish; who is at work on it here hears of it at once.
    pub(super) fn cancel(&self, id: u64, why: &str) -> Result<(), Error> {
        self.with_registry(|registry| registry.write(|write| write.cancel_run(id, why)))?;
        let mut work = lock(&self.work);
        for (_, cancel) in work.working.iter().filter(|(item, _)| item.id == id) {
            cancel.request(why);
        }
        work.waiting.retain(|item| item.id != id);
        drop(work);
        self.tell();
        Ok(())
    }

    /// How many wait, and how many are at work.
    pub(super) fn load(&self) -> (usize, usize) {
        let work = lock(&self.work);
        (work.waiting.len(), work.working.len())
    }

    // ---- the end -------------------------------------------------------------------------------

    /// Nothing more is begun, and what is under way is put by at its next safe point.
    pub(super) fn stop(&self, why: &str) {
        self.stopping.store(true, Ordering::Release);
        for (_, cancel) in &lock(&self.work).working {
            cancel.suspend(why);
        }
        self.changed.notify_all();
        self.tell();
    }

    /// Waits until all that was under way is put by or at its end, but no longer than that; gives how
    /// many runs are not.
    pub(super) fn wait_until_idle(&self, longest: Duration) -> usize {
        let begun = Instant::now();
        let mut work = lock(&self.work);
        while !work.working.is_empty() {
            let left = longest.saturating_sub(begun.elapsed());
            if left.is_zero() {
                break;
            }
            let woken = self.changed.wait_timeout(work, left);
            work = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        work.working.len()
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }
}

/// One of the places of those who wait.
struct Seat<'a>(&'a AtomicUsize);

impl<'a> Seat<'a> {
    fn take(taken: &'a AtomicUsize, most: usize) -> Option<Seat<'a>> {
        let more = |n: usize| (n < most).then_some(n + 1);
        taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).ok().map(|_| Seat(taken))
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Wall clock, milliseconds since 1970.
pub(super) fn now_ms() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    i64::try_from(now.unwrap_or_default().as_millis()).unwrap_or(i64::MAX)
}
