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

/// The kept text with this run's figures: of each row with a ratio to peers a line, the job, a tab, ours to the
/// best peer; and of each count. What was not run keeps the line it has.
///
/// # Errors
/// The kept text has another form.
pub fn write(kept: &str, rows: &[Row], counts: &[Count]) -> Result<String> {
    let ratio = |row: &Row| Some((row.job.clone(), format!("{:.3}", row.ratio?)));
    let count = |count: &Count| (count.what.to_owned(), count.instructions.to_string());
    let compared = rows.iter().filter(|row| row.compares());
    let now: Vec<_> = compared.filter_map(ratio).chain(counts.iter().map(count)).collect();
    let mut lines = Vec::new();
    for (job, figure, _) in figures(kept)? {
        lines.push((job.to_owned(), figure.to_owned()));
    }
    for (job, figure) in now {
        match lines.iter_mut().find(|line| line.0 == job) {
            Some(line) => line.1 = figure,
            None => lines.push((job, figure)),
        }
    }
    let mut text = String::from("# job\tours to the best peer, or instructions\n");
    for (job, figure) in lines {
        // Writing to a string does not fail.
        writeln!(text, "{job}\t{figure}").ok();
    }
    Ok(text)
}

/// Job, figure as it is written, and figure.
fn figures(kept: &str) -> Result<Vec<(&str, &str, f64)>> {
    let mut figures = Vec::new();
    for (n, line) in kept.lines().enumerate().filter(|(_, line)| !line.starts_with('#')) {
        let place = || format!("line {} of the kept figures, {line:?}", n + 1);
        let (job, figure) = line.split_once('\t').with_context(place)?;
        figures.push((job, figure, figure.trim().parse().with_context(place)?));
    }
    Ok(figures)
}

/// What got worse, a line each; empty when nothing did.
///
/// # Errors
/// The kept text has another form.
pub fn worse(kept: &str, rows: &[Row], counts: &[Count]) -> Result<Vec<String>> {
    let mut worse = Vec::new();
    for (job, _, before) in figures(kept)? {
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
            "",
            &[row("a", 1.0), row("b", 1.0), row("gone", 0.1)],
            &[count("c", 1000), count("d", 1000)],
        );
        let kept = kept.unwrap();
        let now = [row("a", 1.1), row("b", 1.2), row("new", 9.0)];
        let worse = worse(&kept, &now, &[count("c", 1020), count("d", 1040)]).unwrap();
        assert_eq!(
            worse,
            ["b: 1.20 of the best peer's time, it was 1.00", "d: 1040 instructions, it was 1000"]
        );
    }

    #[test]
    fn what_was_not_run_keeps_its_line() {
        let kept = "# job\tfigure\na\t1.000\nb\t2.000\nc\t7\n";
        let now = write(kept, &[row("b", 1.5), row("new", 3.0)], &[]).unwrap();
        let lines: Vec<&str> = now.lines().skip(1).collect();
        assert_eq!(lines, ["a\t1.000", "b\t1.500", "c\t7", "new\t3.000"]);
    }

    #[test]
    fn another_form_is_named() {
        assert!(worse("a 1.0", &[], &[]).unwrap_err().to_string().contains("line 1"));
    }
}
