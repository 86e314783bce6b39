//! Figures kept from an earlier run, as text: `docs/performance.tsv`. `just bench --check` names what got
//! worse since then.

use std::fmt::Write as _;

use anyhow::{Context, Result};

use super::Row;

/// Ours may take so much more than when the figure was kept: rounds of one run differ by less than that
/// on a quiet machine.
const SLACK: f64 = 1.15;

/// The rows with a ratio to peers, a line each: the job, a tab, ours to the best peer.
#[must_use]
pub fn write(rows: &[Row]) -> String {
    let mut text = String::from("# job\tours to the best peer\n");
    for row in rows.iter().filter(|row| row.compares()) {
        if let Some(ratio) = row.ratio {
            // Writing to a string does not fail.
            writeln!(text, "{}\t{ratio:.3}", row.job).ok();
        }
    }
    text
}

/// What got worse, a line each; empty when nothing did.
///
/// # Errors
/// The kept text has another form.
pub fn worse(kept: &str, rows: &[Row]) -> Result<Vec<String>> {
    let mut worse = Vec::new();
    for (n, line) in kept.lines().enumerate().filter(|(_, line)| !line.starts_with('#')) {
        let place = || format!("line {} of the kept figures, {line:?}", n + 1);
        let (job, ratio) = line.split_once('\t').with_context(place)?;
        let before: f64 = ratio.trim().parse().with_context(place)?;
        let now = rows.iter().find(|row| row.job == job).and_then(|row| row.ratio);
        if let Some(now) = now.filter(|now| *now > before * SLACK) {
            worse.push(format!("{job}: {now:.2} of the best peer's time, it was {before:.2}"));
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
        let kept = write(&[row("a", 1.0), row("b", 1.0), row("gone", 0.1)]);
        let worse = worse(&kept, &[row("a", 1.1), row("b", 1.2), row("new", 9.0)]).unwrap();
        assert_eq!(worse, ["b: 1.20 of the best peer's time, it was 1.00"]);
    }

    #[test]
    fn another_form_is_named() {
        assert!(worse("a 1.0", &[]).unwrap_err().to_string().contains("line 1"));
    }
}
