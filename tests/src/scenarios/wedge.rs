//! The wedge search on a pool: a tired operator, at random from a seed, does to a host what operators do.
//! After each step every activation that has nothing to do with the damage can be made, used and removed
//! without waiting for what is damaged, nothing foreign has changed, and `health` or `ls` names what is
//! damaged. The long form is `just soak-wedge-pool`: a hundred steps of one seed after the other.

use anyhow::{Context, Result, ensure};

use super::wedge_harm::{Harm, KINDS, Kind, free_name};
use super::wedge_host::{Kept, REFERENCES, Wedge};
use super::wedge_stop::{STOPS, Stop};
use crate::guest::Guest;
use crate::scenario::{Needs, Report, Scenario};

/// See the module.
pub const SCENARIO: Scenario = Scenario {
    name: "wedge",
    needs: Needs { timeout_s: 600, soak_timeout_s: Some(900), ..Needs::DEFAULT },
    run,
};

/// Damages that stand at once, at most.
const STANDING_MAX: usize = 3;

/// What may happen once in a deck.
#[derive(Clone, Copy, Debug)]
enum Card {
    Harm(Kind),
    Stop(Stop),
}

fn run(guest: &mut Guest) -> Result<Report> {
    let steps = if guest.long() { 100 } else { 12 };
    let seed = guest.seed();
    let mut wedge = Wedge::new(guest)?;
    let mut deck = Vec::new();
    for number in 1..=steps {
        eprintln!("--- seed {seed}, step {number}");
        let place = |what: &str, wedge: &Wedge<'_>| {
            let standing: Vec<_> = wedge.standing.iter().map(ToString::to_string).collect();
            format!("seed {seed}, step {number}, {what}, standing: {standing:?}")
        };
        step(&mut wedge, &mut deck).with_context(|| place("in it", &wedge))?;
        check(&mut wedge).with_context(|| place("after it", &wedge))?;
    }
    // And when all is mended, nothing is left of it.
    while let Some(harm) = wedge.standing.pop() {
        harm.mend(&mut wedge)?;
    }
    check(&mut wedge)?;
    let (commands, probes) = (wedge.commands, wedge.probes);
    close(wedge)?;
    let report = Report::new().figure("seed", seed).figure("steps", steps);
    Ok(report.figure("commands", commands).figure("probes", probes))
}

fn step(wedge: &mut Wedge<'_>, deck: &mut Vec<Card>) -> Result<()> {
    match wedge.dice.roll(20) {
        0..=2 => operate(wedge)?,
        3..=6 if !wedge.standing.is_empty() => {
            let at = usize::try_from(wedge.dice.roll(wedge.standing.len() as u64))?;
            let harm = wedge.standing.remove(at);
            harm.mend(wedge)?;
        }
        _ => {
            if deck.is_empty() {
                deck.extend(KINDS.iter().copied().map(Card::Harm));
                deck.extend(STOPS.iter().copied().map(Card::Stop));
            }
            let at = usize::try_from(wedge.dice.roll(deck.len() as u64))?;
            match deck.swap_remove(at) {
                Card::Harm(_) if wedge.standing.len() >= STANDING_MAX => operate(wedge)?,
                Card::Harm(kind) => {
                    if let Some(harm) = Harm::inflict(kind, wedge)? {
                        eprintln!("harm: {harm}");
                        wedge.standing.push(harm);
                    }
                }
                Card::Stop(stop) => {
                    eprintln!("{stop:?}");
                    stop.happens(wedge).with_context(|| format!("{stop:?}"))?;
                }
            }
        }
    }
    wedge.settle()
}

/// What an operator does on a good day.
fn operate(wedge: &mut Wedge<'_>) -> Result<()> {
    let (name, images) = (free_name(wedge), wedge.well_images());
    let kept = wedge.acts.get(name).cloned();
    match (wedge.dice.roll(6), kept) {
        (0, _) => drop(wedge.must(&["gc"])?),
        (1 | 2, Some(kept)) if kept.up => {
            wedge.must(&["deactivate", name])?;
            wedge.acts.insert(name.into(), Kept { up: false, ..kept });
        }
        (3, Some(_)) if wedge.well().len() > 2 => {
            wedge.must(&["rm", name])?;
            wedge.acts.remove(name);
        }
        (_, Some(kept)) => {
            wedge.must(&["activate", REFERENCES[kept.image], "--name", name])?;
            wedge.acts.insert(name.into(), Kept { up: true, ..kept });
        }
        (_, None) => {
            if let Some(image) = wedge.one_of(&images) {
                wedge.must(&["activate", REFERENCES[image], "--name", name])?;
                wedge.adopt_new(name, image)?;
            }
        }
    }
    Ok(())
}

/// A fresh activation of an image that is well: made, written to, taken down and up again, removed.
pub(crate) fn probe(wedge: &mut Wedge<'_>) -> Result<()> {
    let images = wedge.well_images();
    let image = wedge.one_of(&images).context("no image is well")?;
    let name = wedge.fresh("p");
    let mut words = vec!["activate", REFERENCES[image], "--name", &name];
    if wedge.dice.roll(2) == 0 {
        words.push("--no-fetch");
    }
    wedge.at_once(&words)?;
    wedge.adopt_new(&name, image)?;
    wedge.at_once(&["deactivate", &name])?;
    let volume = wedge.acts[&name].volume;
    ensure!(!wedge.is_up(&name, volume)?, "{name} was taken down, and is up");
    wedge.at_once(&["activate", REFERENCES[image], "--name", &name])?;
    wedge.reads_right(&name)?;
    wedge.at_once(&["rm", &name])?;
    wedge.acts.remove(&name);
    ensure!(!wedge.ids()?.contains(&volume), "{name} was removed, and thin {volume} is there");
    wedge.probes += 1;
    Ok(())
}

/// Everything that must hold after a step.
fn check(wedge: &mut Wedge<'_>) -> Result<()> {
    for at in 0..wedge.standing.len() {
        let harm = &wedge.standing[at];
        let (line, about, foreign) = (harm.to_string(), harm.about(wedge), harm.foreign_id());
        let taken = harm.taken_name().map(str::to_owned);
        if let Some(about) = about {
            ensure!(wedge.told(&about)?, "neither health nor ls tells of {line}");
        }
        if let Some(id) = foreign {
            let usage = wedge.must(&["df"])?;
            let all = usage["foreign"].as_array().cloned().unwrap_or_default();
            ensure!(all.contains(&id.into()), "df does not tell of {line}: {usage}");
        }
        if let Some(taken) = taken {
            let before = wedge.ids()?;
            let ran = wedge.run(&["activate", REFERENCES[2], "--name", &taken])?;
            let named = ran.code == Some(100) && ran.stderr.contains(taken.as_str());
            ensure!(named, "the name is somebody else's: {ran}");
            ensure!(before == wedge.ids()?, "refused, and made: {ran}");
        }
    }
    wedge.untouched()?;
    let listing = wedge.must(&["ls"])?;
    let lines = listing["activations"].as_array().cloned().unwrap_or_default();
    let mut listed: Vec<&str> = lines.iter().filter_map(|line| line["name"].as_str()).collect();
    listed.sort_unstable();
    let kept: Vec<&str> = wedge.acts.keys().map(String::as_str).collect();
    ensure!(listed == kept, "ls has {listed:?}, there should be {kept:?}");
    probe(wedge)?;
    wedge.settle()?;
    wedge.untouched()?;
    if wedge.standing.iter().all(|harm| harm.about(wedge).is_none()) {
        wedge.is_well()?;
    }
    Ok(())
}

/// Everything goes, and nothing is left in the pool.
fn close(mut wedge: Wedge<'_>) -> Result<()> {
    wedge.kill_daemon()?;
    let names: Vec<String> = wedge.acts.keys().cloned().collect();
    for name in names {
        wedge.must(&["rm", &name])?;
    }
    for reference in REFERENCES {
        wedge.must(&["rm", reference])?;
    }
    let ids = wedge.ids()?;
    ensure!(ids.len() == 1, "besides the template there are {ids:?}");
    let dir = wedge.dir_text();
    wedge.thin(&["pool", "down", &dir])?.expect(0)?;
    Ok(())
}
