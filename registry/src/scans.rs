//! What an outside scanner found in a stack of layers. Kept by chain id, so that it holds for every
//! image of the same stack; what follows from it is the caller's business.

use rusqlite::Row;
use serde::{Deserialize, Serialize};

use crate::rows::{digest, get};
use crate::write::now_ms;
use crate::{Digest, Error, Registry, Write};

/// How bad a finding is, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The worst.
    Critical,
    /// Bad.
    High,
    /// Not so bad.
    Medium,
    /// Hardly.
    Low,
    /// The scanner does not say.
    Unknown,
}

impl Severity {
    /// Each, the worst first.
    pub const ALL: [Severity; 5] =
        [Severity::Critical, Severity::High, Severity::Medium, Severity::Low, Severity::Unknown];

    /// The word in the table and in settings.
    pub fn word(self) -> &'static str {
        match self {
            Severity::Critical => "critical",
            Severity::High => "high",
            Severity::Medium => "medium",
            Severity::Low => "low",
            Severity::Unknown => "unknown",
        }
    }

    /// The severity of a word, in any case; none for a word that is none.
    pub fn from_word(word: &str) -> Option<Severity> {
        Severity::ALL.into_iter().find(|severity| word.eq_ignore_ascii_case(severity.word()))
    }
}

/// One scan of one stack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Scan {
    /// The stack.
    pub chain: Digest,
    /// Who scanned.
    pub scanner: String,
    /// `trivy` or `sarif`.
    pub format: String,
    /// How many findings of each severity, the worst first.
    pub counts: [u64; 5],
    /// Wall clock, milliseconds since 1970 UTC; for people.
    pub at_ms: i64,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ScanFinding {
    /// Its name: `CVE-2024-1`.
    pub id: String,
    /// How bad it is.
    pub severity: Severity,
    /// In what: a package, or a file.
    pub package: String,
    /// Its version; empty: not said.
    pub installed: String,
    /// The version without it; empty: none, or not said.
    pub fixed: String,
    /// One line about it.
    pub title: String,
}

impl Registry {
    /// The last scan of this stack.
    pub fn scan(&self, chain: Digest) -> Result<Option<Scan>, Error> {
        self.one(
            "SELECT chain, scanner, format, critical, high, medium, low, unknown, at_ms FROM scans
             WHERE chain = ?1",
            [chain.hex()],
            scan,
        )
    }

    /// What it found, the worst first, as far as it is kept.
    pub fn scan_findings(&self, chain: Digest) -> Result<Vec<ScanFinding>, Error> {
        self.all(
            "SELECT id, severity, package, installed, fixed, title FROM findings WHERE chain = ?1
             ORDER BY pos",
            [chain.hex()],
            finding,
        )
    }

    /// Findings of each severity in the images that are here, the worst first.
    pub fn findings_here(&self) -> Result<[u64; 5], Error> {
        let counts = self.one(
            "SELECT ifnull(sum(critical), 0), ifnull(sum(high), 0), ifnull(sum(medium), 0),
               ifnull(sum(low), 0), ifnull(sum(unknown), 0) FROM scans WHERE chain IN (SELECT chain FROM images)",
            [],
            |row| {
                let mut counts = [0; 5];
                for (place, count) in counts.iter_mut().enumerate() {
                    *count = get(row, place, "scans")?;
                }
                Ok(counts)
            },
        )?;
        Ok(counts.unwrap_or_default())
    }
}

impl Write<'_> {
    /// Keeps a scan and what it found, in place of an earlier one of the same stack.
    pub fn put_scan(&self, scan: &Scan, findings: &[ScanFinding]) -> Result<(), Error> {
        let chain = scan.chain.hex();
        self.run("DELETE FROM scans WHERE chain = ?1", [&chain])?;
        let [critical, high, medium, low, unknown] = scan.counts;
        self.run(
            "INSERT INTO scans(chain, scanner, format, critical, high, medium, low, unknown, at_ms)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            (&chain, &scan.scanner, &scan.format, critical, high, medium, low, unknown, now_ms()),
        )?;
        for (pos, of) in findings.iter().enumerate() {
            self.run(
                "INSERT INTO findings(chain, pos, id, severity, package, installed, fixed, title)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                (
                    &chain,
                    u32::try_from(pos).unwrap_or(u32::MAX),
                    &of.id,
                    of.severity.word(),
                    &of.package,
                    &of.installed,
                    &of.fixed,
                    &of.title,
                ),
            )?;
        }
        let detail = format!("{critical} critical, {high} high, {medium} medium, {low} low");
        self.event(&format!("scan {}", scan.chain.short()), None, Some("scanned"), &detail)
    }
}

fn scan(row: &Row<'_>) -> Result<Scan, Error> {
    let chain = digest(row, 0, "scan")?;
    let mut counts = [0; 5];
    for (place, count) in counts.iter_mut().enumerate() {
        *count = get(row, 3 + place, "scan")?;
    }
    Ok(Scan {
        chain: chain.ok_or_else(|| corrupt("scan", "no chain id"))?,
        scanner: get(row, 1, "scan")?,
        format: get(row, 2, "scan")?,
        counts,
        at_ms: get(row, 8, "scan")?,
    })
}

fn finding(row: &Row<'_>) -> Result<ScanFinding, Error> {
    let word: String = get(row, 1, "finding")?;
    let severity = Severity::from_word(&word);
    Ok(ScanFinding {
        id: get(row, 0, "finding")?,
        severity: severity.ok_or_else(|| corrupt("finding", &word))?,
        package: get(row, 2, "finding")?,
        installed: get(row, 3, "finding")?,
        fixed: get(row, 4, "finding")?,
        title: get(row, 5, "finding")?,
    })
}

fn corrupt(subject: &str, what: &str) -> Error {
    Error::Corrupt { subject: subject.into(), what: what.into() }
}
