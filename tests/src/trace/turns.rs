//! Several programs that take turns: each stands before every call that changes something until it is
//! its turn, so that one seed gives one interleaving of them, and gives it again. (What a program does
//! for having waited long by the clock, such as saying so, it does by the clock.)
//!
//! Whose calls these are and how they are stopped is in [`super`].

use std::path::Path;
use std::process::Command;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};

use super::{Act, Call, Effect, Ended, Side, Whose};
use crate::dice::Dice;

/// A program that takes part.
#[derive(Debug)]
pub struct Player {
    /// What is run.
    pub command: Command,
    /// `kill -9` before this one of its moves, from 1.
    pub killed_at: Option<usize>,
}

/// How it went.
#[derive(Debug)]
pub struct Played {
    /// How each player ended.
    pub ended: Vec<Ended>,
    /// Moves of all of them.
    pub moves: usize,
    /// How often the turn passed to another player.
    pub passed: usize,
}

/// How many moves a player has at a stretch, at most: one of these for the whole play.
const STRETCHES: &[u64] = &[1, 2, 5, 15, 60];

/// One in so many turns goes to who sleeps, while there is somebody awake: that costs real time.
const SLEEPERS: u64 = 40;

/// Runs them all to their ends. A player takes turns from its first call on a path with `begins` in
/// it; up to there it moves in one go, since an opening may hold a lock for which others block.
///
/// # Errors
/// As [`super::run`], of any of them.
pub fn play(players: Vec<Player>, within: &[&Path], begins: &str, dice: Dice) -> Result<Played> {
    let table = Table::new(players.len(), dice);
    let ended: Vec<Result<Ended>> = std::thread::scope(|scope| {
        let seats: Vec<_> = players
            .iter()
            .enumerate()
            .map(|(me, player)| {
                let table = &table;
                scope.spawn(move || sit(table, me, player, within, begins))
            })
            .collect();
        seats.into_iter().map(|seat| seat.join().expect("a player's thread")).collect()
    });
    let state = table.state.into_inner().unwrap_or_else(PoisonError::into_inner);
    let ended = ended.into_iter().collect::<Result<_>>()?;
    Ok(Played { ended, moves: state.moves, passed: state.passed })
}

fn sit(table: &Table, me: usize, player: &Player, within: &[&Path], begins: &str) -> Result<Ended> {
    table.wait(me);
    // Also when it fails: the others wait for their turns.
    let _leaves = Leaves { table, me };
    let (mut begun, mut moves) = (false, 0);
    let each = |call: &Call, side: Side| {
        begun |= call.on.contains(begins);
        if !begun || side == Side::After {
            return Act::Go;
        }
        match call.effect {
            Effect::Looks => return Act::Go,
            Effect::Waits => table.pass(me, Seat::Asleep),
            Effect::Changes => {
                moves += 1;
                table.pass(me, Seat::Awake);
            }
        }
        let killed = call.effect == Effect::Changes && player.killed_at == Some(moves);
        if killed { Act::Kill } else { Act::Go }
    };
    super::run(&player.command, within, Whose::Main, each)
        .with_context(|| format!("player {me}: {:?}", player.command))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seat {
    Awake,
    Asleep,
    Left,
}

/// Exactly one player moves at a time: the one whose turn it is.
struct Table {
    state: Mutex<State>,
    passed: Condvar,
}

struct State {
    dice: Dice,
    /// No stretch is longer.
    longest: u64,
    turn: usize,
    /// Moves that are left of this stretch.
    stretch: u64,
    seats: Vec<Seat>,
    moves: usize,
    passed: usize,
}

impl State {
    /// Whose turn it is now.
    fn next(&mut self) {
        if self.stretch > 0 && self.seats[self.turn] == Seat::Awake {
            self.stretch -= 1;
            return;
        }
        let of = |seat: Seat| -> Vec<usize> {
            (0..self.seats.len()).filter(|at| self.seats[*at] == seat).collect()
        };
        let (awake, asleep) = (of(Seat::Awake), of(Seat::Asleep));
        let sleepers = awake.is_empty() || !asleep.is_empty() && self.dice.roll(SLEEPERS) == 0;
        let choices = if sleepers { asleep } else { awake };
        if choices.is_empty() {
            return;
        }
        let chosen = self.dice.of(&choices);
        self.passed += usize::from(chosen != self.turn);
        self.turn = chosen;
        self.stretch = self.dice.roll(self.longest);
    }
}

impl Table {
    fn new(players: usize, mut dice: Dice) -> Table {
        let seats = vec![Seat::Awake; players];
        let (longest, moves) = (dice.of(STRETCHES), 0);
        let mut state = State { dice, longest, turn: 0, stretch: 0, seats, moves, passed: 0 };
        state.next();
        Table { state: Mutex::new(state), passed: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(&self, me: usize) {
        let mut state = self.state();
        while state.turn != me {
            state = self.passed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn pass(&self, me: usize, seat: Seat) {
        {
            let mut state = self.state();
            state.moves += 1;
            state.seats[me] = seat;
            state.next();
        }
        self.passed.notify_all();
        self.wait(me);
    }
}

struct Leaves<'t> {
    table: &'t Table,
    me: usize,
}

impl Drop for Leaves<'_> {
    fn drop(&mut self) {
        {
            let mut state = self.table.state();
            state.seats[self.me] = Seat::Left;
            state.next();
        }
        self.table.passed.notify_all();
    }
}
