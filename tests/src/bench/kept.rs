//! Figures kept from an earlier run, as text: `docs/performance.tsv`. `just bench --check` names what got
//! worse since then.

use std::fmt::Write as _;

use anyhow::{Context, Result};

use super::Row;
use super::counts::Count;

/// Ours may take so much more than when the figure was kept: rounds of one run differ by less than that
/// on a quiet machine.
const SLACK: f64 = 1.15;

/// The same for instructions, which repeat but for the seeds of hash tables.
const COUNT_SLACK: f64 = 1.03;

/// The rows with a ratio to peers, a line each: the job, a tab, ours to the best peer. Then the counts.
#[must_use]
pub fn write(rows: &[Row], counts: &[Count]) -> String {
    let mut text = String::from("# job\tours to the best peer, or instructions\n");
    for row in rows.iter().filter(|row| row.compares()) {
        if let Some(ratio) = row.ratio {
            // Writing to a string does not fail.
            writeln!(text, "{}\t{ratio:.3}", row.job).ok();
        }
    }
    for count in counts {
        writeln!(text, "{}\t{}", count.what, count.instructions).ok();
    }
    text
}

/// What got worse, a line each; empty when nothing did.
///
/// # Errors
/// The kept text has another form.
pub fn worse(kept: &str, rows: &[Row], counts: &[Count]) -> Result<Vec<String>> {
    let mut worse = Vec::new();
    for (n, line) in kept.lines().enumerate().filter(|(_, line)| !line.starts_with('#')) {
        let place = || format!("line {} of the kept figures, {line:?}", n + 1);
        let (job, ratio) = line.split_once('\t').with_context(place)?;
        let before: f64 = ratio.trim().parse().with_context(place)?;
        let now = rows.iter().find(|row| row.job == job).and_then(|row| row.ratio);
        if let Some(now) = now.filter(|now| *now > before * SLACK) {
            worse.push(format!("{job}: {now:.2} of the best peer's time, it was {before:.2}"));
        }
        let now = counts.iter().find(|count| count.what == job).map(|count| count.instructions);
        if let Some(now) = now.filter(|now| *now as f64 > before * COUNT_SLACK) {
            worse.push(format!("{job}: {now} instructions, it was {before}"));
        }
    }
    Ok(worse)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(job: &str, ratio: f64) -> Row {
        Row {
            job: job.into(),
            what: String::new(),
            aim: Some(1.0),
            ratio: Some(ratio),
            spread: None,
            results: Vec::new(),
            missing: Vec::new(),
        }
    }

    #[test]
    fn what_got_worse_is_named_and_nothing_else() {
        let count = |what, instructions| Count { what, instructions };
        let kept = write(
            &[row("a", 1.0), row("b", 1.0), row("gone", 0.1)],
            &[count("c", 1000), count("d", 1000)],
        );
        let now = [row("a", 1.1), row("b", 1.2), row("new", 9.0)];
        let worse = worse(&kept, &now, &[count("c", 1020), count("d", 1040)]).unwrap();
        assert_eq!(
            worse,
            ["b: 1.20 of the best peer's time, it was 1.00", "d: 1040 instructions, it was 1000"]
        );
    }

    #[test]
    fn another_form_is_named() {
        assert!(worse("a 1.0", &[], &[]).unwrap_err().to_string().contains("line 1"));
    }
}
