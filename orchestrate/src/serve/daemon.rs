//! What all threads of the daemon share: what waits and who is at work, the mode, connections to
//! registry and store, and the changes by which those who wait are woken.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use registry::{Enqueued, NewRun, Registry, Run, RunId, RunState};
use serde_json::Value;

use crate::error::Error;
use crate::error::class::Class;
use crate::host::run::{self, RunLine};
use crate::host::settings::Settings;
use crate::host::{Host, asked};
use crate::process::cancel::Cancel;
use crate::process::clock::now_ms;
use crate::process::lock::Locks;
use crate::process::log::{self, Level};
use crate::process::reserve;
use crate::serve::held::Held;
use crate::serve::http::request::Peer;
use crate::serve::in_force::InForce;
use crate::serve::mode::{Mode, Modes};
use crate::serve::obstacle::InTheWay;
use crate::serve::options::{Limits, Options, QUESTION_WAIT};
use crate::serve::queue::{self, Item, Workers};
use crate::serve::slot::Slot;
use crate::view::health;
use crate::view::health::judge::Readiness;
use crate::view::metrics::life::LIFE;

/// How old the answer to a question after readiness may be: each costs a commit.
const READINESS_AGE: Duration = Duration::from_secs(2);

/// How often who waits looks by itself: others than this process write, too.
const LOOK: Duration = Duration::from_millis(250);

/// After a host that could not be opened, nothing is begun for so long.
const REST: Duration = Duration::from_secs(5);

/// The daemon.
#[derive(Debug)]
pub(super) struct Daemon {
    pub(super) in_force: Mutex<InForce>,
    pub(super) options: Options,
    pub(super) limits: Mutex<Limits>,
    pub(super) started_ms: i64,
    pub(super) work: Mutex<Work>,
    pub(super) changed: Condvar,
    changes: (Mutex<u64>, Condvar),
    modes: Mutex<Modes>,
    stopping: AtomicBool,
    ticked: Mutex<Instant>,
    waiting: AtomicUsize,
    readiness: Mutex<Option<(Instant, Readiness)>>,
    pub(super) growth: InTheWay,
    pub(super) held: Held,
    pub(super) hosts: Mutex<Vec<Host>>,
    pub(super) registries: Mutex<Vec<Registry>>,
    /// Whether the thread of the fleet runs.
    pub(super) follows: Mutex<bool>,
}

#[derive(Debug, Default)]
pub(super) struct Work {
    pub(super) waiting: Vec<Item>,
    pub(super) working: Vec<(Item, Cancel)>,
    /// What other processes are at work on and somebody here has to come after.
    pub(super) elsewhere: Vec<Item>,
    /// Live runs that a second request has joined.
    joined: HashSet<RunId>,
    turns: HashMap<String, u64>,
    turn: u64,
    rest_until: Option<Instant>,
    /// Why a run could not be begun for want of room, by its number.
    pub(super) unbegun: HashMap<RunId, String>,
    /// Workers that live, each with its place among those of its kind.
    workers: HashSet<(Workers, usize)>,
}

/// What becomes of a claimed run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Released {
    /// Nothing more: how it ended is in its row.
    Over,
    /// It could not be begun: it waits on, and all rest a while.
    NotBegun,
    /// It waits on, for other workers.
    PutBy,
}

impl Work {
    pub(super) fn knows(&self, id: RunId) -> bool {
        self.waiting.iter().chain(self.working.iter().map(|(item, _)| item)).any(|i| i.id == id)
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Daemon {
    pub(super) fn new(settings: Settings, options: Options) -> Daemon {
        Daemon {
            limits: Mutex::new(options.limits),
            in_force: Mutex::new(InForce::new(settings, &options)),
            options,
            started_ms: now_ms(),
            work: Mutex::default(),
            changed: Condvar::new(),
            changes: (Mutex::new(0), Condvar::new()),
            modes: Mutex::default(),
            stopping: AtomicBool::new(false),
            ticked: Mutex::new(Instant::now()),
            waiting: AtomicUsize::new(0),
            readiness: Mutex::default(),
            growth: InTheWay::default(),
            held: Held::default(),
            hosts: Mutex::default(),
            registries: Mutex::default(),
            follows: Mutex::default(),
        }
    }

    pub(super) fn limits(&self) -> Limits {
        *lock(&self.limits)
    }

    /// From now on these limits hold.
    pub(super) fn set_limits(&self, limits: Limits) {
        *lock(&self.limits) = limits;
        self.wake();
    }

    /// Has every worker look again. None is between its look and its wait while work is locked.
    fn wake(&self) {
        let _work = lock(&self.work);
        self.changed.notify_all();
    }

    // ---- questions -----------------------------------------------------------------------------

    /// Locks of its own, for one question.
    pub(super) fn locks(&self) -> Result<Locks, Error> {
        Locks::new(&self.settings().state, QUESTION_WAIT, Cancel::default())
    }

    /// The run of this number.
    pub(super) fn run(&self, id: RunId) -> Result<RunLine, Error> {
        let run = self.with_registry(|registry| registry.run(id))?;
        let Some(run) = run else { return Err(self.with_host(|host| Ok(host.no_run(id)))?) };
        run::line(&self.locks()?, run)
    }

    /// Asks until there is an answer or the time has passed; wakes at changes. Only so many may wait at
    /// once: who is one too many gets the answer of now. Who hangs up gives the place back.
    pub(super) fn wait_for<T>(
        &self,
        time: Duration,
        peer: Option<&Peer>,
        mut ask: impl FnMut() -> Result<Option<T>, Error>,
    ) -> Result<Option<T>, Error> {
        let deadline = Instant::now() + time;
        let slot = Slot::take(&self.waiting, self.limits().waits);
        loop {
            let seen = *lock(&self.changes.0);
            if let Some(answer) = ask()? {
                return Ok(Some(answer));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let gone = || peer.is_some_and(Peer::is_gone);
            if left.is_zero() || slot.is_none() || self.is_stopping() || gone() {
                return Ok(None);
            }
            let changes = lock(&self.changes.0);
            if *changes == seen {
                // Who is woken for nothing asks again.
                drop(self.changes.1.wait_timeout(changes, left.min(LOOK)));
            }
        }
    }

    /// Wakes all who wait.
    pub(super) fn tell(&self) {
        *lock(&self.changes.0) += 1;
        self.changes.1.notify_all();
    }

    /// How much has been told so far.
    pub(super) fn changes(&self) -> u64 {
        *lock(&self.changes.0)
    }

    /// Waits for more than `seen` was told, or for so long.
    pub(super) fn wait_for_changes(&self, seen: u64, time: Option<Duration>) {
        let changes = lock(&self.changes.0);
        if *changes != seen || self.is_stopping() {
            return;
        }
        match time {
            Some(time) => drop(self.changes.1.wait_timeout(changes, time)),
            None => drop(self.changes.1.wait(changes)),
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
            let seen = self.changes();
            self.wait_for_changes(seen, Some(left));
        }
    }

    /// Seconds since 1970.
    pub(super) fn now_s(&self) -> i64 {
        now_ms() / 1000
    }

    /// Says what went wrong, once in rescue mode.
    pub(super) fn complain(&self, error: &Error) {
        if self.mode() != Mode::Rescue {
            log::line(Level::Warning, &crate::error::leaves::whole(error), &[]);
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
        self.wake();
        self.tell();
    }

    /// Looks whether the host can do its work.
    pub(super) fn examine(&self) {
        self.look_for_registry();
        let sick = health::sick(&health::look(&self.settings(), false));
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
        self.wake();
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
        let mut facts = health::look(&self.settings(), true);
        self.growth.tell(&mut facts);
        let checks = health::judge(&facts);
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

    /// Commits what is asked for, and gives the run that does it, or that stands in the way.
    ///
    /// # Errors
    /// [`Error::Told`] when nothing is taken now.
    pub(super) fn enqueue(&self, new: &NewRun<'_>, asked: &Value) -> Result<Enqueued, Error> {
        let no = |class, message: String| Err(Error::Told { class, message });
        self.takes_work()?;
        let (waiting, most) = (lock(&self.work).waiting.len(), self.limits().backlog);
        if waiting >= most {
            return no(
                Class::Temporary,
                format!("{waiting} runs wait already, at most {most} may"),
            );
        }
        let _room = reserve::of(new.verb, &self.settings().state)?;
        let cancelled = Cell::new(None);
        let objection = |live: &Run| {
            // To join what is about to be cancelled is to be cancelled with it.
            cancelled.set(live.cancel.as_ref().map(|_| live.id));
            asked::objection(live, asked).or_else(|| cancelled.get().map(|_| String::new()))
        };
        let enqueued = self
            .with_host(|host| host.commit_told_soon(|write| write.enqueue_run(new, objection)))?;
        if let Some(id) = cancelled.get() {
            let message =
                format!("run {id} of that name is being cancelled; ask again when it has");
            return no(Class::Temporary, message);
        }
        if let Enqueued::Joined(id) = &enqueued {
            lock(&self.work).joined.insert(*id);
        }
        let id = match &enqueued {
            Enqueued::Fresh(id) | Enqueued::Joined(id) => *id,
            Enqueued::Refused { .. } => return Ok(enqueued),
        };
        if let Some(run) = self.with_registry(|registry| registry.run(id))? {
            match run.state {
                RunState::Queued => {
                    self.gather_before(&run)?;
                    self.push(self.item(&run));
                }
                // The next tick finds out whether anybody is at work on one that runs.
                RunState::Running
                | RunState::Done
                | RunState::Failed { .. }
                | RunState::Cancelled => {}
            }
        }
        self.tell();
        Ok(enqueued)
    }

    pub(super) fn push(&self, item: Item) {
        let mut work = lock(&self.work);
        if let Some(known) = work.waiting.iter_mut().find(|known| known.id == item.id) {
            known.priority = item.priority;
        } else if !work.knows(item.id) {
            work.waiting.push(item);
        }
        drop(work);
        self.changed.notify_all();
    }

    /// The next run for these workers; waits for one. None when this worker is one too many, or the
    /// daemon stops.
    pub(super) fn claim(&self, workers: Workers, worker: usize) -> Option<(Item, Cancel)> {
        let mut work = lock(&self.work);
        loop {
            let most = self.limits().workers(workers);
            if self.is_stopping() || worker >= most {
                // Its place is free in the same moment, and never taken twice.
                work.workers.remove(&(workers, worker));
                return None;
            }
            // Those beyond the limit that are still at work count, too.
            let busy = work.working.iter().filter(|(item, _)| item.workers == workers).count();
            let rest = work.rest_until.map(|until| until.saturating_duration_since(Instant::now()));
            let rest = rest.filter(|rest| !rest.is_zero());
            let free = rest.is_none() && busy < most && self.mode() != Mode::Rescue;
            let working: Vec<Item> = work.working.iter().map(|(item, _)| item.clone()).collect();
            let others = (&working[..], &work.elsewhere[..]);
            let next = queue::next(&work.waiting, others, &work.turns, workers);
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

    /// Takes a worker's place; false where one lives that has it.
    pub(super) fn take_place(&self, workers: Workers, worker: usize) -> bool {
        lock(&self.work).workers.insert((workers, worker))
    }

    /// The place of a worker that could not be started.
    pub(super) fn give_place_back(&self, workers: Workers, worker: usize) {
        lock(&self.work).workers.remove(&(workers, worker));
    }

    /// A claimed run is out of hand.
    pub(super) fn release(&self, item: Item, end: Released) {
        let mut work = lock(&self.work);
        work.working.retain(|(other, _)| other.id != item.id);
        match end {
            Released::Over => drop(work.joined.remove(&item.id)),
            Released::NotBegun => {
                work.rest_until = Some(Instant::now() + REST);
                work.waiting.push(item);
            }
            Released::PutBy => work.waiting.push(item),
        }
        drop(work);
        self.changed.notify_all();
        self.tell();
    }

    /// Asks a run to stop. Its row has the wish; who is at work on it here hears of it at once.
    pub(super) fn cancel(&self, id: RunId, why: &str) -> Result<(), Error> {
        self.with_host(|host| host.commit_told_soon(|write| write.cancel_run(id, why)))?;
        let mut work = lock(&self.work);
        for (_, cancel) in work.working.iter().filter(|(item, _)| item.id == id) {
            cancel.request(why);
        }
        work.waiting.retain(|item| item.id != id);
        work.joined.remove(&id);
        drop(work);
        self.tell();
        Ok(())
    }

    /// Whether somebody else than who began it has asked for this run.
    pub(super) fn is_joined(&self, id: RunId) -> bool {
        lock(&self.work).joined.contains(&id)
    }

    /// Has what is under way put by at its next safe point; the loop takes it up again.
    pub(super) fn put_by(&self, why: &str) {
        for (_, cancel) in &lock(&self.work).working {
            cancel.suspend(why);
        }
    }

    /// How many wait, and how many are at work.
    pub(super) fn load(&self) -> (usize, usize) {
        let work = lock(&self.work);
        (work.waiting.len(), work.working.len())
    }

    /// Nothing more is begun, and what is under way is put by at its next safe point.
    pub(super) fn stop(&self, why: &str) {
        self.stopping.store(true, Ordering::Release);
        self.put_by(why);
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
