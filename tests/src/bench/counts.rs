//! Instructions of work that is the same each time, counted by valgrind's callgrind: they repeat, where
//! times do not, so a few percent more is a change of ours.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use super::jobs::{self, Store};
use super::{Setup, layers, peers};

/// One count.
#[derive(Debug, Clone, Serialize)]
pub struct Count {
    /// What was done, the same from run to run.
    pub what: &'static str,
    /// Instructions.
    pub instructions: u64,
}

/// Parsing an entry of a layer, and `orchestrate` finding that nothing is to be done. `None` without
/// valgrind.
///
/// # Errors
/// A program fails, or valgrind does not say.
pub fn run(setup: &Setup, store: &Store) -> Result<Option<Vec<Count>>> {
    let Some(valgrind) = peers::find(&setup.peers, "valgrind") else { return Ok(None) };
    let count = |line: &str| counted(&format!("{} {CALLGRIND} {line}", valgrind.display()));
    let layer = setup.scratch.join("counts.tar");
    let list = format!(
        "{} --list --digests none < {}",
        setup.programs.join("unpack").display(),
        layer.display()
    );
    let mut listed = [0; 2];
    for (entries, listed) in [FEW, MANY].into_iter().zip(&mut listed) {
        layers::made(&layer, entries, 1)?;
        *listed = count(&list)?;
    }
    std::fs::remove_file(&layer)?;
    let line = jobs::no_op_line(setup, store)?;
    Ok(Some(vec![
        Count {
            what: "unpack --list, for each entry",
            instructions: listed[1].saturating_sub(listed[0]) / (MANY - FEW),
        },
        Count { what: "activate of what is active", instructions: count(&line)? },
    ]))
}

const FEW: u64 = 100;
const MANY: u64 = 5_100;

const CALLGRIND: &str = "--tool=callgrind --callgrind-out-file=/dev/null";

fn counted(line: &str) -> Result<u64> {
    let run = Command::new("bash").args(["-c", line]).stdin(Stdio::null()).output();
    let run = run.context("start bash")?;
    let said = String::from_utf8_lossy(&run.stderr);
    ensure!(run.status.success(), "{}: {}; the line was: {line}", run.status, said.trim());
    read(&said).with_context(|| format!("no count in {:?}; the line was: {line}", said.trim()))
}

/// The number after "Collected : ".
fn read(said: &str) -> Option<u64> {
    let (_, after) = said.rsplit_once("Collected :")?;
    after.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_read() {
        let said = "==7== \n==7== Events    : Ir\n==7== Collected : 216083\n==7== \n";
        assert_eq!(read(said), Some(216_083));
        assert_eq!(read("Collected : all"), None);
        assert_eq!(read(""), None);
    }
}
