//! A job's contenders in turn, round after round, and what follows from the figures.

use anyhow::Result;

use super::measure::{self, Measured};
use super::out::Out;
use super::{Against, Job, Outcome, Row, Setup};

/// Runs a job. A contender that fails is named and left out; ours fails the job.
///
/// # Errors
/// Ours does not do its work, or the scratch directory cannot be written.
pub fn run(setup: &Setup, job: &Job) -> Result<Row> {
    let mut missing: Vec<String> = job.missing.iter().map(ToString::to_string).collect();
    let mut rounds: Vec<Vec<Measured>> = vec![Vec::new(); job.contenders.len()];
    let mut out_of_it = vec![false; job.contenders.len()];
    let mut space = vec![0; job.contenders.len()];
    for round in 0..=setup.rounds {
        for (n, contender) in job.contenders.iter().enumerate() {
            if out_of_it[n] {
                continue;
            }
            let out = Out::new(&setup.scratch, job.on)?;
            let measured = measure::run(&contender.line, out.path(), round == 0);
            if round == 0 {
                space[n] = out.space_kib()?;
            }
            out.close()?;
            match measured {
                Ok(measured) => rounds[n].push(measured),
                Err(error) if n == 0 => return Err(error.context(format!("{}: ours", job.name))),
                Err(error) => {
                    eprintln!("bench: {}: {} is left out: {error:#}", job.name, contender.name);
                    missing.push(format!("{} (failed)", contender.name));
                    out_of_it[n] = true;
                }
            }
        }
    }
    let mut results = Vec::new();
    let mut walls = Vec::new();
    for (n, contender) in job.contenders.iter().enumerate() {
        let Some((first, counted)) = rounds[n].split_first() else { continue };
        if out_of_it[n] {
            continue;
        }
        let wall: Vec<f64> = counted.iter().map(|round| round.wall).collect();
        let processor: Vec<f64> = counted.iter().map(|round| round.processor).collect();
        results.push(Outcome {
            name: contender.name.into(),
            line: contender.line.clone(),
            wall: median(&wall) / f64::from(job.times),
            processor: median(&processor) / f64::from(job.times),
            peak_kib: first.peak_kib,
            space_kib: space[n],
        });
        walls.push(wall);
    }
    let ratios = ratios(&walls, job.against);
    Ok(Row {
        job: job.name.into(),
        what: job.what.clone(),
        aim: job.aim,
        ratio: (!ratios.is_empty()).then(|| median(&ratios)),
        spread: ratios
            .iter()
            .copied()
            .reduce(f64::min)
            .zip(ratios.iter().copied().reduce(f64::max)),
        results,
        missing,
    })
}

/// Ours to one of the others, round by round. The best is the one with the lowest median, so that ours
/// is not held against the luckiest of many in each round.
fn ratios(walls: &[Vec<f64>], against: Against) -> Vec<f64> {
    let Some((ours, peers)) = walls.split_first() else { return Vec::new() };
    let order = |a: &&Vec<f64>, b: &&Vec<f64>| median(a).total_cmp(&median(b));
    let one = match against {
        Against::Best => peers.iter().min_by(order),
        Against::Slowest => peers.iter().max_by(order),
    };
    one.map_or_else(Vec::new, |one| ours.iter().zip(one).map(|(a, b)| a / b).collect())
}

/// The middle one; of an even number the lower of the two.
#[must_use]
pub fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len().saturating_sub(1) / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_is_held_against_one_of_the_others() {
        let walls = [vec![1.0, 2.0, 3.0], vec![9.0, 9.0, 9.0], vec![2.0, 2.0, 2.0]];
        assert_eq!(ratios(&walls, Against::Best), [0.5, 1.0, 1.5]);
        assert_eq!(median(&ratios(&walls, Against::Best)), 1.0);
        assert_eq!(ratios(&walls, Against::Slowest), [1.0 / 9.0, 2.0 / 9.0, 3.0 / 9.0]);
    }

    #[test]
    fn alone_there_is_no_ratio() {
        assert!(ratios(&[vec![1.0]], Against::Best).is_empty());
        assert!(median(&[]).is_nan());
    }
}
