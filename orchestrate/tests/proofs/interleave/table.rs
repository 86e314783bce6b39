//! One round: who takes part, whose step is next, and what is looked at after each.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::unistd::Pid;
use tests::dice::Dice;
use tests::trace::actor::{Actor, Point, Stood, Watchdog};

use super::acts::{Act, Answer, THEMES, Theme, Via, answer, http_answer, run_answer};
use super::daemon::Daemon;
use super::judge;
use super::seat::{At, Fault, Round, Seat};
use super::view::{Row, View};
use super::yard::Yard;
use crate::bench::Host;

/// How the next one is chosen.
enum Choice {
    /// By chance, at most so many steps at a stretch.
    Stretches(u64),
    /// The one of the highest rank, with a change of ranks in one of so many steps.
    Ranks(Vec<u64>, u64),
}

struct Table<'y, 'b> {
    host: &'y Host<'b>,
    yard: &'y Yard<'b>,
    daemon: Option<Daemon>,
    dice: Dice,
    round: Round,
    choice: Choice,
    /// Whose turn it is, and for how many steps more.
    turn: (usize, u64),
    now: u64,
    /// The last step at which somebody came forward.
    moved: u64,
    /// The one to whom the server is silent.
    held: Option<usize>,
    may_hold: bool,
    /// After so many requests more.
    hold_after: u64,
    /// Whether what changes at the server changes between two listings.
    late: bool,
    /// Whether all begin before anybody goes on.
    at_once: bool,
    /// How often nobody could move, one after the other.
    vain: u32,
    pids: Arc<Mutex<Vec<Pid>>>,
}

/// Longer than any round takes, on a loaded machine too.
const BOUND: Duration = Duration::from_secs(600);

/// The daemon looks round every five seconds; who then still waits for it waits in vain.
const VAIN: u32 = 6000;

/// Waits for a server until the upper layer of an image is there: for the list, for what each layer is, and
/// for that layer.
const LISTING: u64 = 4;

/// After so many looks in vain a lock that somebody has is tried all the same.
const DOUBT: u32 = 20;

pub(crate) fn play(yard: &Yard<'_>, seed: u64) -> Result<Round> {
    let mut dice = Dice::new(seed);
    let theme = THEMES[usize::try_from(seed)? % THEMES.len()];
    let (scene, host) = yard.set_up(theme, seed, &mut dice);
    // What comes late from a server that was silent is about an image that was.
    let slow = match theme {
        Theme::Slow | Theme::SlowDaemon => true,
        Theme::Push => dice.roll(3) > 0,
        Theme::Names | Theme::Images | Theme::Rebuild | Theme::Killed | Theme::Daemon => false,
    };
    let hold_after = if theme == Theme::Push { LISTING } else { 1 + dice.roll(4) };
    let acts = theme.acts(&mut dice);
    let mut seats: Vec<Seat> = Vec::new();
    for (act, via) in acts {
        let mut seat = Seat::new(format!("{} {act:?}", seats.len()), via);
        if via == Via::Daemon && matches!(act, Act::Activate { .. } | Act::Ensure(_)) {
            seat.hook = (dice.roll(3) > 0).then(|| yard.hook(seed, seats.len()));
        }
        if theme == Theme::Killed && (seats.is_empty() || dice.roll(4) == 0) {
            seat.killed_at = Some(dice.roll(60));
        }
        seat.act = Some(act);
        seats.push(seat);
    }
    let choice = match dice.roll(2) {
        0 => Choice::Stretches(dice.of(&[1, 2, 5, 15, 60])),
        _ => Choice::Ranks(ranks(&mut dice), dice.of(&[5, 20, 60])),
    };
    let at_once = dice.roll(2) == 0;
    let round = Round {
        seed,
        theme,
        scene,
        steps: Vec::new(),
        faults: Vec::new(),
        seats,
        views: Vec::new(),
        waited: 0,
    };
    let mut table = Table {
        host: &host,
        yard,
        daemon: None,
        dice,
        round,
        choice,
        turn: (0, 0),
        now: 0,
        moved: 0,
        held: None,
        may_hold: slow,
        hold_after,
        late: slow,
        at_once,
        vain: 0,
        pids: Arc::default(),
    };
    let _watchdog = Watchdog::over(table.pids.clone(), BOUND);
    table.open()?;
    table.go().with_context(|| table.round.story())?;
    table.close()?;
    let mut round = table.round;
    judge::at_the_end(&host, &mut round);
    host.wipe();
    Ok(round)
}

fn ranks(dice: &mut Dice) -> Vec<u64> {
    (0..12).map(|_| dice.roll(1000)).collect()
}

impl Table<'_, '_> {
    fn open(&mut self) -> Result<()> {
        if self.round.theme.has_daemon() {
            let (daemon, workers) = Daemon::start(self.host)?;
            self.pids.lock().expect("pids").push(daemon.pid()?);
            self.daemon = Some(daemon);
            for (at, worker) in workers.into_iter().enumerate() {
                let mut seat = Seat::new(format!("worker {at}"), Via::Daemon);
                (seat.at, seat.actor) = (At::Idle, Some(worker));
                self.round.seats.push(seat);
            }
        }
        self.look();
        Ok(())
    }

    /// Steps until all have been answered.
    fn go(&mut self) -> Result<()> {
        while !self.round.seats.iter().all(Seat::is_over) {
            let Some(next) = self.next() else {
                if self.stuck() {
                    continue;
                }
                self.vain += 1;
                if self.vain > VAIN {
                    let at: Vec<String> = self.round.seats.iter().map(Seat::told).collect();
                    self.fault("all stand", at.join("; "));
                    return Ok(());
                }
                // Somebody who takes no turns has what they wait for: the daemon, looking round.
                std::thread::sleep(Duration::from_millis(5));
                self.moved += 1;
                self.look();
                continue;
            };
            self.vain = 0;
            self.step(next)?;
        }
        Ok(())
    }

    fn next(&mut self) -> Option<usize> {
        let ready: Vec<usize> =
            (0..self.round.seats.len()).filter(|at| self.may_step(*at)).collect();
        if ready.is_empty() {
            return None;
        }
        let unborn = |at: &usize| self.round.seats[*at].at == At::Unborn;
        let unborn: Vec<usize> = ready.iter().copied().filter(unborn).collect();
        let chosen = match &mut self.choice {
            _ if self.at_once && !unborn.is_empty() => self.dice.of(&unborn),
            Choice::Stretches(_) if self.turn.1 > 0 && ready.contains(&self.turn.0) => {
                self.turn.1 -= 1;
                self.turn.0
            }
            Choice::Stretches(longest) => {
                self.turn.1 = self.dice.roll(*longest);
                self.dice.of(&ready)
            }
            Choice::Ranks(ranks, change) => {
                if self.dice.roll(*change) == 0 {
                    *ranks = self::ranks(&mut self.dice);
                }
                let rank = |at: &&usize| ranks.get(**at % ranks.len()).copied();
                *ready.iter().max_by_key(rank).expect("somebody is ready")
            }
        };
        self.turn.0 = chosen;
        Some(chosen)
    }

    fn may_step(&self, at: usize) -> bool {
        let seat = &self.round.seats[at];
        match &seat.at {
            At::Over | At::Asked(_) => false,
            _ if self.held == Some(at) => false,
            At::Unborn => !self.is_late(at) && !self.would_stand(at),
            At::Before(_) => true,
            // It looks again only when others have come forward since, and it might find it free.
            At::Waits(lock) if self.vain < DOUBT && self.is_held(lock) => false,
            At::Waits(_) | At::Idle => seat.looked.is_none_or(|looked| looked < self.moved),
        }
    }

    /// Of an image that becomes another one while a server is silent: first somebody has listed what it
    /// was, then it changes, then the others come.
    fn is_late(&self, at: usize) -> bool {
        let seats = &self.round.seats;
        if self.round.theme != Theme::Push || !self.late {
            return false;
        }
        let pushed = seats.iter().any(|seat| seat.act == Some(Act::Push) && seat.at == At::Over);
        match (&seats[at].act, at) {
            (Some(Act::Push), _) => self.held.is_none() && seats[1].at != At::Over,
            (_, 1) => false,
            _ => !pushed,
        }
    }

    /// A question to the daemon is asked in one go: one that waits for the store's lock would do so for as long
    /// as the daemon has patience, since who has that lock takes no step meanwhile.
    fn would_stand(&self, at: usize) -> bool {
        let seat = &self.round.seats[at];
        let waits = seat.via == Via::Daemon && matches!(seat.act, Some(Act::Pin(_)));
        waits && self.is_held("store.lock")
    }

    fn is_held(&self, lock: &str) -> bool {
        let actors = self.round.seats.iter().filter_map(|seat| seat.actor.as_ref());
        actors.flat_map(Actor::held).any(|held| held == lock)
    }

    /// Nobody can move. Those whom a silent server holds up need it; then it answers.
    fn stuck(&mut self) -> bool {
        let Some(held) = self.held.take() else { return false };
        judge::while_silent(&mut self.round, held);
        self.round.steps.push(format!("{}: the server answers", self.round.seats[held].who));
        self.may_hold = false;
        self.moved += 1;
        true
    }

    fn step(&mut self, at: usize) -> Result<()> {
        self.now += 1;
        let before = self.round.seats[at].at.clone();
        let who = self.round.seats[at].who.clone();
        if before == At::Unborn {
            self.begin(at)?;
        } else {
            let seat = &mut self.round.seats[at];
            let actor = seat.actor.as_mut().context("an actor")?;
            seat.steps += 1;
            let stood = match seat.killed_at {
                Some(killed) if seat.steps > killed => actor.kill()?,
                _ => actor.go_on()?,
            };
            self.stood(at, stood);
        }
        let seat = &self.round.seats[at];
        if matches!((&before, &seat.at), (At::Waits(_), At::Waits(_)) | (At::Idle, At::Idle)) {
            self.now -= 1;
            // It may have done something in one go.
            self.look_after(at);
            return Ok(());
        }
        self.moved += 1;
        let told = match &seat.at {
            At::Over => format!("{:?}", seat.answer),
            place => format!("{place:?}"),
        };
        self.round.steps.push(format!("{} {who}: {told}", self.now));
        self.look_after(at);
        Ok(())
    }

    fn begin(&mut self, at: usize) -> Result<()> {
        let seat = &mut self.round.seats[at];
        seat.began = self.now;
        let act = seat.act.context("an act")?;
        if act == Act::Push {
            self.yard.push(&mut self.dice);
            (seat.at, seat.ended, seat.answer) = (At::Over, Some(self.now), Some(Answer::No));
            return Ok(());
        }
        if seat.via == Via::Daemon {
            return self.ask(at, &act);
        }
        let mut words = act.words();
        if self.daemon.is_some() {
            words.insert(0, "--no-daemon".into());
        }
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let command = self.yard.command(self.host, &words);
        let mut actor = Actor::start(&command, &self.host.state(), &self.host.store())?;
        self.pids.lock().expect("pids").push(actor.pid());
        let stood = actor.go_on()?;
        self.round.seats[at].actor = Some(actor);
        self.stood(at, stood);
        Ok(())
    }

    fn ask(&mut self, at: usize, act: &Act) -> Result<()> {
        let rows = View::of(self.host).unwrap_or_default().runs;
        let daemon = self.daemon.as_ref().context("a daemon")?;
        let seat = &mut self.round.seats[at];
        let priority = if seat.hook.is_some() { 7 } else { 0 };
        let (method, target, body) = act.request(seat.hook.as_deref(), priority);
        let (status, said) = daemon.ask(method, &target, &body)?;
        match http_answer(status, &said) {
            // Its answer is that of the run that it wants to stop, whose end is looked at.
            Ok(_) if matches!(act, Act::Cancel(_)) => {
                (seat.at, seat.ended, seat.answer) = (At::Over, Some(self.now), Some(Answer::No));
            }
            Ok(run) => (seat.at, seat.accepted) = (At::Asked(run), Some(self.now)),
            Err(answer) => {
                (seat.at, seat.ended) = (At::Over, Some(self.now));
                seat.hook = None;
                let refused = answer == Answer::Conflict;
                seat.answer = Some(answer);
                let after = View::of(self.host).unwrap_or_default().runs;
                // A worker may have begun it meanwhile: that is no doing of the request's.
                let wish = |row: &Row| (row.priority, row.asked.clone());
                let moved = |(id, row): &(&u64, &Row)| {
                    rows.get(id).is_some_and(|old| wish(old) != wish(row))
                };
                if refused && let Some((id, row)) = after.iter().find(moved) {
                    let what = format!("run {id} was {:?} and is {row:?}", rows.get(id));
                    self.fault("a refused request changed another's run", what);
                }
            }
        }
        Ok(())
    }

    fn stood(&mut self, at: usize, stood: Stood) {
        let now = self.now;
        let seat = &mut self.round.seats[at];
        if matches!(seat.at, At::Waits(_)) {
            self.round.waited = self.round.waited.max(now - seat.since);
        }
        match stood {
            Stood::At(point) => {
                seat.looked = None;
                let net = matches!(point, Point::Net(_));
                seat.at = At::Before(point);
                let long = self.held.is_none() && seat.act.as_ref().is_none_or(is_long);
                let held = seat.actor.as_ref().map(Actor::held).unwrap_or_default();
                if long && net {
                    self.hold_after = self.hold_after.saturating_sub(1);
                }
                // Of what becomes another, the listing is whole, and what comes of it is late.
                let here = net != (self.round.theme == Theme::Push);
                if long && here && self.may_hold && self.hold_after == 0 {
                    self.held = Some(at);
                }
                if net {
                    judge::over_the_network(&mut self.round, at, &held);
                }
            }
            Stood::Waits(lock) => {
                let first = !matches!(seat.at, At::Waits(_));
                if first {
                    seat.since = now;
                }
                seat.looked = Some(self.moved + u64::from(first));
                seat.at = At::Waits(lock);
            }
            Stood::Idle => {
                seat.looked = Some(self.moved);
                seat.at = At::Idle;
            }
            Stood::Ended(ended) => {
                let told = seat.act.as_ref().map(|act| answer(act, &ended));
                let over = !matches!(told, Some(Answer::None) | None);
                (seat.at, seat.actor, seat.answer) = (At::Over, None, told);
                seat.ended = over.then_some(now);
            }
        }
    }

    fn look_after(&mut self, at: usize) {
        let changed = self.round.seats[at].actor.as_mut().is_none_or(Actor::has_changed);
        if changed {
            self.look();
        }
    }

    /// What is there now, and whether it may be.
    fn look(&mut self) {
        let Some(view) = View::of(self.host) else { return };
        for seat in &mut self.round.seats {
            let At::Asked(run) = seat.at else { continue };
            if let Some(row) = view.runs.get(&run).filter(|row| row.is_over()) {
                (seat.at, seat.ended, seat.answer) =
                    (At::Over, Some(self.now), Some(run_answer(row)));
                self.round.steps.push(format!("{} {}: {:?}", self.now, seat.who, seat.answer));
                self.moved += 1;
            }
        }
        if self.round.views.last().is_some_and(|(_, last)| *last == view) {
            return;
        }
        judge::after_a_step(&mut self.round, &view);
        self.round.views.push((self.now, view));
    }

    /// All threads of the daemon end before it does.
    fn close(&mut self) -> Result<()> {
        let workers = self.round.seats.iter_mut().filter(|seat| seat.act.is_none());
        let mut hooks: BTreeMap<String, String> = BTreeMap::new();
        if self.daemon.is_some() {
            for seat in workers {
                if let Some(actor) = seat.actor.as_mut() {
                    // Left to itself, it finishes what was joined or is nobody's.
                    actor.let_go()?;
                }
            }
            for seat in &self.round.seats {
                if let (Some(hook), Some(_)) = (&seat.hook, seat.accepted) {
                    hooks.insert(hook.clone(), seat.who.clone());
                }
            }
            for untold in self.yard.untold(&hooks) {
                self.fault("nobody was told of a run's end", untold);
            }
        }
        for seat in &mut self.round.seats {
            seat.actor = None;
        }
        self.daemon = None;
        Ok(())
    }

    fn fault(&mut self, kind: &'static str, what: String) {
        self.round.faults.push(Fault { kind, what });
    }
}

/// Whether it may take as long as a server likes.
fn is_long(act: &Act) -> bool {
    matches!(act, Act::Ensure(_) | Act::Activate { .. } | Act::Scan(_))
}
