//! `cancel` of a run that is at work, killed before each of its own changes: the wish is there or it is
//! not. The run that stands somewhere meanwhile goes on and ends as that has it, and nothing is half
//! done. (Of a run that was killed, `cancel` is a case of the matrix and of the sweep.)

use std::sync::mpsc::channel;
use std::time::Duration;

use tests::trace::{self, Act, Call, Effect, Side, Whose};

use crate::bench::{Bench, Host};

const ACTIVATE: &[&str] = &["activate", "s3://bucket/a/", "--name", "a-1"];

/// What the run is about to make when it is made to wait.
const PLACES: &[&str] = &["store/volumes/2", "store/volumes/4", "store/active/a-1"];

/// How a round went.
struct Round {
    /// Whether the canceller was killed.
    killed: bool,
    /// Whether its wish had been committed.
    wished: bool,
    cancelled: bool,
}

/// The run stands before `place`, and who cancels it is killed before its change `at`.
fn round(host: &Host<'_>, place: &str, at: usize) -> Round {
    let (stands, standing) = channel();
    let (let_go, goes_on) = channel::<()>();
    let mut killed = false;
    let wish = std::thread::scope(|scope| {
        let run = scope.spawn(move || {
            let mut stood = false;
            let each = |call: &Call, side: Side| {
                let here = call.effect == Effect::Changes && call.on.ends_with(place);
                if here && side == Side::Before && !stood {
                    stood = true;
                    stands.send(()).unwrap();
                    goes_on.recv().unwrap();
                }
                Act::Go
            };
            trace::run(&host.command(ACTIVATE), &[&host.dir], Whose::Main, each).unwrap()
        });
        standing.recv_timeout(Duration::from_secs(60)).expect("the run comes there");
        let (mut seen, mut waits) = (0, false);
        let each = |call: &Call, side: Side| {
            if side == Side::After {
                return Act::Go;
            }
            match call.effect {
                Effect::Looks => return Act::Go,
                // For the run's end: the wish is there.
                Effect::Waits => {
                    if !waits {
                        waits = true;
                        let_go.send(()).unwrap();
                    }
                    return Act::Go;
                }
                Effect::Changes => seen += 1,
            }
            killed |= seen > at;
            if seen > at { Act::Kill } else { Act::Go }
        };
        let words = ["cancel", "1"];
        let ended = trace::run(&host.command(&words), &[&host.dir], Whose::Main, each).unwrap();
        assert!(killed || matches!(ended.code, Some(0 | 1)), "cancel: {}", ended.stderr);
        let wish = host.rows("SELECT cancel FROM runs WHERE id = 1 AND cancel NOT NULL");
        if !waits {
            // It looks for a wish every tenth of a second.
            std::thread::sleep(Duration::from_millis(if wish.is_empty() { 0 } else { 300 }));
            let_go.send(()).unwrap();
        }
        let ended = run.join().unwrap();
        let state = host.rows("SELECT state FROM runs WHERE id = 1");
        let as_told = match ended.code {
            Some(0) => state == ["done"],
            _ => {
                state == ["cancelled"] && !wish.is_empty() && ended.stdout.contains("\"cancelled\"")
            }
        };
        assert!(as_told, "the run is {state:?}, wish {wish:?}: {ended:?}");
        wish
    });
    Round {
        killed,
        wished: !wish.is_empty(),
        cancelled: host.rows("SELECT state FROM runs WHERE id = 1") == ["cancelled"],
    }
}

#[test]
fn who_cancels_is_killed_before_each_of_its_changes() {
    let bench = Bench::small();
    let (mut rounds, mut wished, mut cancelled) = (0, 0, 0);
    for place in PLACES {
        for at in 0.. {
            let host = bench.host("host");
            host.wipe();
            let round = round(&host, place, at);
            let told = format!("{place}, killed before change {at}");
            // Once more, undisturbed: it has ended.
            let again = host.command(&["cancel", "1"]).output().unwrap();
            let code = if round.cancelled { 0 } else { 1 };
            assert_eq!(again.status.code(), Some(code), "{told}: {again:?}");
            let resumed = host.ok(&["recover"]);
            assert_eq!(resumed["resumed"], serde_json::json!([]), "{told}");
            host.check();
            let active = host.rows("SELECT name FROM activations");
            if round.cancelled {
                assert_eq!(active, Vec::<String>::new(), "{told}");
            } else {
                assert_eq!(active, ["a-1"], "{told}");
                host.check_tree("a-1", 3);
            }
            rounds += 1;
            wished += usize::from(round.wished);
            cancelled += usize::from(round.cancelled);
            if !round.killed {
                break;
            }
        }
    }
    assert!(cancelled > 0 && wished < rounds, "{rounds} rounds, {wished} wishes");
    eprintln!("{rounds} cancellers killed, {wished} had their wish in, {cancelled} runs cancelled");
}

/// A run stands before one of its changes while somebody wishes that it stop; its own watch sees that.
/// Gives whether the wish was in, and whether it was heeded; none past the last change.
fn wished_at(host: &Host<'_>, at: usize) -> Option<(bool, bool)> {
    let (mut seen, mut stood, mut wished) = (0, false, false);
    let each = |call: &Call, side: Side| {
        if call.effect != Effect::Changes || side == Side::After || stood {
            return Act::Go;
        }
        seen += 1;
        if seen <= at {
            return Act::Go;
        }
        stood = true;
        // Of a run that stands in the middle of a transaction, or has none yet, nobody can wish anything.
        let path = host.state().join("registry.db");
        wished = rusqlite::Connection::open(&path).is_ok_and(|conn| {
            let sql = "UPDATE runs SET cancel = 'not wanted' WHERE id = 1 AND state = 'running'";
            conn.busy_timeout(Duration::ZERO).is_ok() && conn.execute(sql, []) == Ok(1)
        });
        if wished {
            std::thread::sleep(Duration::from_millis(300));
        }
        Act::Go
    };
    let ended = trace::run(&host.command(ACTIVATE), &[&host.dir], Whose::Main, each).unwrap();
    let state = host.rows("SELECT state FROM runs WHERE id = 1");
    match ended.code {
        Some(0) => assert_eq!(state, ["done"], "{}", ended.stderr),
        code => {
            assert!(wished && code == Some(111), "wished {wished}: {code:?} {}", ended.stderr);
            assert!(ended.stdout.contains("\"cancelled\""), "{}", ended.stdout);
            assert_eq!(state, ["cancelled"], "{}", ended.stderr);
        }
    }
    stood.then(|| (wished, ended.code != Some(0)))
}

#[test]
fn a_run_is_cancelled_wherever_it_stands_and_all_it_held_is_free() {
    let step = std::env::var("VENEER_CANCEL_STEP").map_or(61, |text| text.parse().unwrap());
    let bench = Bench::small();
    let whole = bench.host("whole");
    whole.ok(ACTIVATE);
    let end = whole.end_text();
    let (mut places, mut wishes, mut heeded) = (0, 0, 0);
    for at in (0..).step_by(step) {
        let host = bench.host("host");
        host.wipe();
        let Some((wished, cancelled)) = wished_at(&host, at) else { break };
        (places, wishes) = (places + 1, wishes + usize::from(wished));
        heeded += usize::from(cancelled);
        host.check();
        let active = host.rows("SELECT name FROM activations");
        assert_eq!(active.is_empty(), cancelled, "before change {at}: {active:?}");
        let (finished, before) = (host.finished(), bench.gets().len());
        host.ok(ACTIVATE);
        let again = bench.fetched_again(before, &finished);
        assert!(again.is_empty(), "before change {at}: sealed and fetched again: {again:?}");
        host.check();
        assert_eq!(host.end_text(), end, "before change {at}");
    }
    assert!(heeded > 2, "{places} places, {wishes} wishes, {heeded} heeded");
    eprintln!("cancelled before {places} changes: {wishes} wishes were in, {heeded} heeded");
}
