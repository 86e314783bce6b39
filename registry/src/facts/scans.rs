//! What an outside scanner found in a stack of layers. Kept by chain id, so that it holds for every
//! image of the same stack, and by scanner, so that none speaks for another; what follows from it is the
//! caller's business.

use rusqlite::Row;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::Error;
use crate::file::schema::Registry;
use crate::rows::{digest, get};
use crate::write::{Write, now_ms};

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
    /// The scanner's words as they were set; empty where an older program kept it.
    pub command: String,
    /// Who scanned, as the report says.
    pub scanner: String,
    /// The scanner's version, where it says so.
    pub version: Option<String>,
    /// What it knew of: its database, where it says so.
    pub database: Option<String>,
    /// The policy under which it scanned: `off`, `report`, `required`; `unknown` of an older program.
    pub policy: String,
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

const SCAN: &str =
    "chain, command, scanner, version, database, policy, format, critical, high, medium, low,
    unknown, at_ms";

impl Registry {
    /// The last scan of this stack, by whichever scanner.
    pub fn scan(&self, chain: Digest) -> Result<Option<Scan>, Error> {
        let sql = format!("SELECT {SCAN} FROM scans WHERE chain = ?1 ORDER BY seq DESC LIMIT 1");
        self.one(&sql, [chain.hex()], scan)
    }

    /// The last scan of this stack by the scanner of this command.
    pub fn scan_by(&self, chain: Digest, command: &str) -> Result<Option<Scan>, Error> {
        let sql = format!("SELECT {SCAN} FROM scans WHERE chain = ?1 AND command = ?2");
        self.one(&sql, (chain.hex(), command), scan)
    }

    /// What a scan found, the worst first, as far as it is kept.
    pub fn scan_findings(&self, of: &Scan) -> Result<Vec<ScanFinding>, Error> {
        self.all(
            "SELECT id, severity, package, installed, fixed, title FROM findings
             WHERE chain = ?1 AND command = ?2 ORDER BY pos",
            (of.chain.hex(), &of.command),
            finding,
        )
    }

    /// Findings of each severity in the images that are here, the worst first.
    pub fn findings_here(&self) -> Result<[u64; 5], Error> {
        let counts = self.one(
            "SELECT ifnull(sum(critical), 0), ifnull(sum(high), 0), ifnull(sum(medium), 0),
               ifnull(sum(low), 0), ifnull(sum(unknown), 0) FROM scans AS s
             WHERE chain IN (SELECT chain FROM images)
               AND seq = (SELECT max(seq) FROM scans AS last WHERE last.chain = s.chain)",
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
    /// Keeps a scan and what it found, in place of an earlier one of the same stack by the same scanner.
    pub fn put_scan(&self, scan: &Scan, findings: &[ScanFinding]) -> Result<(), Error> {
        let chain = scan.chain.hex();
        let [critical, high, medium, low, unknown] = scan.counts;
        let detail = format!("{critical} critical, {high} high, {medium} medium, {low} low");
        self.event(&format!("scan {}", scan.chain.short()), None, Some("scanned"), &detail)?;
        self.run("DELETE FROM scans WHERE chain = ?1 AND command = ?2", (&chain, &scan.command))?;
        self.run(
            "INSERT INTO scans(chain, command, scanner, version, database, policy, format, critical,
               high, medium, low, unknown, at_ms, seq)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, last_insert_rowid())",
            rusqlite::params![
                chain,
                scan.command,
                scan.scanner,
                scan.version,
                scan.database,
                scan.policy,
                scan.format,
                critical,
                high,
                medium,
                low,
                unknown,
                now_ms(),
            ],
        )?;
        for (pos, of) in findings.iter().enumerate() {
            self.run(
                "INSERT INTO findings(chain, command, pos, id, severity, package, installed, fixed, title)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
                (
                    &chain,
                    &scan.command,
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
        Ok(())
    }
}

fn scan(row: &Row<'_>) -> Result<Scan, Error> {
    let chain = digest(row, 0, "scan")?;
    let mut counts = [0; 5];
    for (place, count) in counts.iter_mut().enumerate() {
        *count = get(row, 7 + place, "scan")?;
    }
    Ok(Scan {
        chain: chain.ok_or_else(|| corrupt("scan", "no chain id"))?,
        command: get(row, 1, "scan")?,
        scanner: get(row, 2, "scan")?,
        version: get(row, 3, "scan")?,
        database: get(row, 4, "scan")?,
        policy: get(row, 5, "scan")?,
        format: get(row, 6, "scan")?,
        counts,
        at_ms: get(row, 12, "scan")?,
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
