//! The jobs that need device-mapper: the scenario `bench` in the VM, and its figures as rows.

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::growth::Growth;
use super::{Outcome, Row, contest};
use crate::host::kernel::Kernel;
use crate::host::places::Places;
use crate::host::{qemu, run};
use crate::scenarios;

/// Runs it, on the full images where they have been built and `full` asks for them.
///
/// # Errors
/// The VM does not do its work.
pub fn rows(
    places: &Places,
    full: bool,
    growth: &mut Vec<Growth>,
    notes: &mut Vec<String>,
) -> Result<Vec<Row>> {
    let name = if full { "bench_full" } else { "bench" };
    let scenario = scenarios::find(name).context("the scenario")?;
    let machine = qemu::machine(places, Kernel::find(places, None)?)?;
    if !run::run(places, &machine, &[scenario], true, 1)? {
        bail!("the scenario {name} failed: see above");
    }
    let text = std::fs::read_to_string(places.work.join("results.jsonl"))?;
    let result: Value = serde_json::from_str(text.lines().next().context("no result")?)?;
    let figures = &result["figures"];
    if figures["containerd"] == false {
        notes.push("containerd is not there: `./bootstrap --peers` gets it".into());
    }
    let tars = figures["tar_bytes"].as_f64().context("tar_bytes")?;
    let what = format!("an image of five layers, {:.0} MB of tars", tars / 1e6);
    let jobs = &figures["jobs"];
    let mut rows = Vec::new();
    for (job, what, aims) in [
        ("image", format!("VM: {what}, empty pool to activated"), [0.8, 0.35]),
        (
            "activation",
            "VM: one more activation of it as it is here, asked of a daemon".into(),
            [0.8, 0.1],
        ),
    ] {
        let programs = programs(&jobs[job])?;
        for (peer, aim) in ["dmsetup and GNU tar", "containerd devmapper"].iter().zip(aims) {
            let Some(peer) = programs.iter().find(|program| program.name == *peer) else {
                continue;
            };
            let ours = &programs[0];
            let ratios: Vec<f64> =
                ours.rounds.iter().zip(&peer.rounds).map(|(a, b)| a / b).collect();
            let spread = ratios.iter().copied().reduce(f64::min);
            rows.push(Row {
                job: format!("{job}, to {}", peer.name),
                what: what.clone(),
                aim: Some(aim),
                ratio: Some(contest::median(&ratios)),
                spread: spread.zip(ratios.iter().copied().reduce(f64::max)),
                results: vec![ours.outcome(), peer.outcome()],
                missing: Vec::new(),
            });
        }
    }
    for program in programs(&jobs["blocks"])? {
        let blocks = contest::median(&program.rounds);
        let ratio = blocks * 1_048_576.0 / tars;
        notes.push(format!(
            "pool space for {what}, by {}: {blocks:.0} blocks of 1 MiB, {ratio:.2} of the tars",
            program.name
        ));
    }
    for (job, way) in [
        ("activation_alone", "by a process of its own, `--no-fetch`"),
        ("activation_asking", "by a process of its own, asking S3 what the image is"),
    ] {
        for program in programs(&jobs[job])? {
            let wall = contest::median(&program.rounds);
            notes.push(format!("VM: one more activation {way}: {wall:.2} s"));
        }
    }
    if let Some(points) = figures["thousand"].as_array() {
        let pair = |point: &Value| Some((point[0].as_u64()?, point[1].as_f64()?));
        growth.push(Growth {
            of: "activations on a thin pool".into(),
            what: "VM: activate, median of a hundred".into(),
            unit: "ms",
            points: points.iter().filter_map(pair).collect(),
        });
    }
    Ok(rows)
}

/// One program's medians, a figure for each round.
struct Program {
    name: String,
    rounds: Vec<f64>,
}

impl Program {
    fn outcome(&self) -> Outcome {
        Outcome {
            name: self.name.clone(),
            line: String::new(),
            wall: contest::median(&self.rounds),
            processor: f64::NAN,
            peak_kib: 0,
            space_kib: 0,
        }
    }
}

fn programs(job: &Value) -> Result<Vec<Program>> {
    let mut programs = Vec::new();
    for program in job.as_array().context("programs")? {
        let rounds = program["rounds"].as_array().context("rounds")?;
        let figures = |round: &Value| -> Vec<f64> {
            round.as_array().into_iter().flatten().filter_map(Value::as_f64).collect()
        };
        programs.push(Program {
            name: program["name"].as_str().context("a name")?.to_owned(),
            rounds: rounds.iter().map(|round| contest::median(&figures(round))).collect(),
        });
    }
    Ok(programs)
}
