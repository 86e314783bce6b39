//! What the run has found: a line per scenario for people, JSON lines for programs, and the count.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::protocol::{Figures, printable};

/// One scenario's result over all its phases.
#[derive(Debug, Clone, Serialize)]
pub struct Finished {
    /// The scenario.
    pub scenario: String,
    /// The release of the kernel that it ran on.
    pub kernel: Option<String>,
    /// Whether all its phases passed.
    pub passed: bool,
    /// Why not.
    pub why: Option<String>,
    /// Wall time in the guest, without the boots.
    pub seconds: f64,
    /// What it measured.
    pub figures: Figures,
    /// The last part of its output.
    pub output: String,
    /// The guest's kernel log while it ran.
    pub kernel_log: Vec<String>,
}

/// The file of JSON lines, and the counts. Several lanes add to it, and each result is shown as a whole.
#[derive(Debug)]
pub struct Results(Mutex<Found>);

#[derive(Debug)]
struct Found {
    file: File,
    passed: usize,
    failed: usize,
}

impl Results {
    /// Starts an empty file.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn create(path: &Path) -> Result<Results> {
        let file = File::create(path).with_context(|| path.display().to_string())?;
        Ok(Results(Mutex::new(Found { file, passed: 0, failed: 0 })))
    }

    /// Writes one result, and shows it: briefly if it passed, wholly if it failed.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn add(&self, finished: &Finished) -> Result<()> {
        let mut line = serde_json::to_vec(finished)?;
        line.push(b'\n');
        let mut found = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        found.file.write_all(&line)?;
        let Finished { scenario, seconds, .. } = finished;
        if finished.passed {
            found.passed += 1;
            println!("ok    {scenario}  {seconds:.1} s  {}", figures(&finished.figures));
            for table in finished.figures.values().filter_map(table) {
                println!("\n{table}");
            }
            return Ok(());
        }
        found.failed += 1;
        println!("FAIL  {scenario}  {seconds:.1} s");
        println!("      why: {}", finished.why.as_deref().unwrap_or("unknown"));
        show("output", finished.output.lines());
        let extra = finished.kernel_log.len().saturating_sub(40);
        show("kernel", finished.kernel_log.iter().skip(extra).map(String::as_str));
        Ok(())
    }

    /// The closing line; true if nothing failed.
    #[must_use]
    pub fn close(self) -> bool {
        let Found { passed, failed, .. } =
            self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        println!("{passed} passed, {failed} failed");
        failed == 0
    }
}

fn show<'a>(name: &str, lines: impl Iterator<Item = &'a str>) {
    for line in lines {
        println!("      {name}: {}", printable(line));
    }
}

fn figures(figures: &Figures) -> String {
    let short = figures.iter().filter(|(_, value)| table(value).is_none());
    let all: Vec<String> = short.map(|(name, value)| format!("{name}={value}")).collect();
    all.join(" ")
}

/// A figure of several lines is a table for people.
fn table(value: &serde_json::Value) -> Option<&str> {
    value.as_str().filter(|text| text.contains('\n'))
}
