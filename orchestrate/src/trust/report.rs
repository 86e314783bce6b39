//! Reads what scanners print: Trivy's JSON (schema 2) and SARIF 2.1.0 (OASIS). Pure. What is neither, or
//! says that the scan did not work, is refused: silence is no clean bill.

use registry::{ScanFinding, Severity};
use serde::Deserialize;
use serde_json::Value;

use crate::trust::sarif::{self, Sarif};
use crate::trust::strict::{self, beginning};

/// More findings than this are counted and not kept.
const FINDINGS_MAX: usize = 10_000;

/// Bytes of one text that are kept.
const TEXT_BYTES_MAX: usize = 400;

/// What a report says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Who scanned, where it says so.
    pub scanner: Option<String>,
    /// Its version, where it says so.
    pub version: Option<String>,
    /// What it knew of: its database, where it says so.
    pub database: Option<String>,
    /// `trivy` or `sarif`.
    pub format: &'static str,
    /// How many findings of each severity, the worst first.
    pub counts: [u64; 5],
    /// Findings, the worst first, as far as they are kept.
    pub findings: Vec<ScanFinding>,
}

/// Reads a report.
///
/// # Errors
/// Why these bytes are none.
pub fn parse(bytes: &[u8]) -> Result<Report, String> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err("it printed nothing".into());
    }
    let value = strict::parse(bytes).map_err(|error| match error.is_data() {
        true => format!("its report is not to be relied on: {error}"),
        false => format!("it did not print JSON: {error}"),
    })?;
    if value.get("SchemaVersion").is_some() {
        return trivy(value);
    }
    match value.get("version").and_then(Value::as_str) {
        Some("2.1.0") if value.get("runs").is_some() => {
            let Sarif { scanner, version, findings } = sarif::read(&value)?;
            let version = version.map(|text| cut(&text));
            Ok(Report { version, ..report_of("sarif", scanner, findings) })
        }
        Some(version) if value.get("runs").is_some() => {
            Err(format!("it printed SARIF {:?}, and 2.1.0 is what is read", beginning(version)))
        }
        Some(_) | None => Err("it printed neither Trivy's JSON nor SARIF 2.1.0".into()),
    }
}

/// What a scanner says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct About {
    pub(crate) version: Option<String>,
    pub(crate) database: Option<String>,
}

/// Reads what `scan.about` printed: JSON as `trivy version --format json` and `grype version`, `grype db status`
/// have it, or a line for people.
pub(crate) fn about(bytes: &[u8]) -> About {
    let text = String::from_utf8_lossy(bytes);
    let Ok(value) = serde_json::from_str::<Value>(&text) else {
        let line = text.lines().map(str::trim).find(|line| !line.is_empty());
        return About { version: line.map(cut), database: None };
    };
    let said =
        |pointers: &[&str]| pointers.iter().find_map(|at| value.pointer(at)?.as_str()).map(cut);
    About {
        version: said(&["/Version", "/version", "/application/version"]),
        database: said(&["/VulnerabilityDB/UpdatedAt", "/database", "/db/built", "/built"]),
    }
}

fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(TEXT_BYTES_MAX)].to_owned()
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Trivy {
    schema_version: u64,
    #[serde(default)]
    artifact_name: String,
    #[serde(default)]
    artifact_type: String,
    #[serde(default)]
    results: Option<Vec<TrivyResult>>,
    #[serde(default)]
    trivy: Option<TrivySelf>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TrivySelf {
    #[serde(default)]
    version: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TrivyResult {
    #[serde(default)]
    target: String,
    #[serde(default)]
    vulnerabilities: Option<Vec<Vulnerability>>,
    #[serde(default)]
    misconfigurations: Option<Vec<Misconfiguration>>,
    #[serde(default)]
    secrets: Option<Vec<Secret>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Vulnerability {
    #[serde(rename = "VulnerabilityID")]
    id: String,
    #[serde(default)]
    pkg_name: String,
    #[serde(default)]
    installed_version: String,
    #[serde(default)]
    fixed_version: String,
    #[serde(default)]
    severity: String,
    #[serde(default)]
    title: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Misconfiguration {
    #[serde(rename = "ID")]
    id: String,
    #[serde(default)]
    severity: String,
    #[serde(default)]
    title: String,
    #[serde(default)]
    status: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Secret {
    #[serde(rename = "RuleID")]
    id: String,
    #[serde(default)]
    severity: String,
    #[serde(default)]
    title: String,
}

fn trivy(value: Value) -> Result<Report, String> {
    // serde quotes whole what it met.
    let wrong = |error: serde_json::Error| {
        format!("its report is not as Trivy has it: {}", beginning(&error.to_string()))
    };
    let report = Trivy::deserialize(value).map_err(wrong)?;
    if report.schema_version != 2 {
        let version = report.schema_version;
        return Err(format!("it printed Trivy's schema {version}, and 2 is what is read"));
    }
    // Trivy leaves out results that are empty, and never what it has looked at.
    if report.results.is_none()
        && (report.artifact_name.is_empty() || report.artifact_type.is_empty())
    {
        return Err("its report has no Results, and does not say what was scanned (ArtifactName and \
                    ArtifactType), as Trivy's has it where nothing was found: a scanner of your own \
                    prints \"Results\": [] then"
            .into());
    }
    let mut findings = Vec::new();
    for result in report.results.unwrap_or_default() {
        let target = result.target;
        for of in result.vulnerabilities.unwrap_or_default() {
            findings.push(ScanFinding {
                id: of.id,
                severity: severity(&of.severity)?,
                package: of.pkg_name,
                installed: of.installed_version,
                fixed: of.fixed_version,
                title: of.title,
            });
        }
        let misconfigured = result.misconfigurations.unwrap_or_default().into_iter();
        let misconfigured = misconfigured.filter(|of| of.status != "PASS");
        let secrets = result.secrets.unwrap_or_default().into_iter();
        let rest = misconfigured
            .map(|of| (of.id, of.severity, of.title))
            .chain(secrets.map(|of| (of.id, of.severity, of.title)));
        for (id, word, title) in rest {
            findings.push(ScanFinding {
                id,
                severity: severity(&word)?,
                package: target.clone(),
                installed: String::new(),
                fixed: String::new(),
                title,
            });
        }
    }
    // Newer ones name themselves.
    let version = report.trivy.and_then(|of| of.version).map(|text| cut(&text));
    Ok(Report { version, ..report_of("trivy", Some("Trivy".into()), findings) })
}

/// The severity of a finding; unknown where the scanner gives none. One that nobody knows may stand for the worst,
/// and is not passed over.
fn severity(word: &str) -> Result<Severity, String> {
    if word.is_empty() {
        return Ok(Severity::Unknown);
    }
    Severity::from_word(word.trim()).ok_or_else(|| {
        let known = Severity::ALL.map(Severity::word).join(", ");
        format!("its report has a finding of severity {:?}: expected {known}", beginning(word))
    })
}

fn report_of(
    format: &'static str,
    scanner: Option<String>,
    mut findings: Vec<ScanFinding>,
) -> Report {
    let mut counts = [0; 5];
    for finding in &findings {
        counts[finding.severity as usize] += 1;
    }
    findings.sort_by(|a, b| (a.severity, &a.id, &a.package).cmp(&(b.severity, &b.id, &b.package)));
    findings.truncate(FINDINGS_MAX);
    for finding in &mut findings {
        let ScanFinding { id, severity: _, package, installed, fixed, title } = finding;
        for text in [id, package, installed, fixed, title] {
            text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
        }
    }
    let scanner = scanner.map(|mut name| {
        name.truncate(name.floor_char_boundary(TEXT_BYTES_MAX));
        name
    });
    Report { scanner, version: None, database: None, format, counts, findings }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(name: &str) -> Report {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/reports/");
        parse(&std::fs::read(format!("{folder}{name}")).unwrap()).unwrap()
    }

    #[test]
    fn trivys_vulnerabilities_secrets_and_failed_checks_are_found_and_what_passed_is_not() {
        let report = report("trivy.json");
        assert_eq!((report.format, report.counts), ("trivy", [2, 1, 0, 1, 1]));
        let ids: Vec<&str> = report.findings.iter().map(|finding| finding.id.as_str()).collect();
        assert_eq!(
            ids,
            ["CVE-2024-0001", "aws-access-key-id", "CVE-2024-0002", "DS002", "CVE-2024-0003"]
        );
        assert_eq!(report.findings[2].fixed, "3.0.13-1~deb12u1");
        assert_eq!(report.findings[1].package, "etc/app.conf");
    }

    #[test]
    fn sarif_is_judged_by_score_then_level_then_rule() {
        let report = report("other.sarif");
        assert_eq!((report.scanner.as_deref(), report.format), (Some("Example"), "sarif"));
        assert_eq!(report.counts, [1, 1, 1, 1, 0]);
        assert_eq!(report.findings[0].id, "CVE-2024-0009");
        assert_eq!(report.findings[0].package, "usr/lib/libz.so");
        assert_eq!(report.findings[0].title, "Package: zlib");
        assert_eq!(report.findings[1].id, "R2");
    }

    #[test]
    fn a_real_scanners_sarif_is_read() {
        let report = report("bandit.sarif");
        assert_eq!(report.scanner.as_deref(), Some("Bandit"));
        assert!(report.counts.iter().sum::<u64>() >= 3, "{report:?}");
    }

    #[test]
    fn what_is_no_report_is_refused_and_silence_is_no_clean_bill() {
        for (text, wanted) in [
            ("", "nothing"),
            (" \n", "nothing"),
            ("all good", "not print JSON"),
            ("{\"SchemaVersion\": 2", "not print JSON"),
            ("{\"SchemaVersion\": 2, \"Results\": [7], \"Results\": []}", "\"Results\" is there twice"),
            (
                "{\"version\": \"2.1.0\", \"runs\": [{\"tool\": {\"driver\": {\"name\": \"x\"}}, \"results\": [{}],
                 \"results\": []}]}",
                "\"results\" is there twice",
            ),
            ("{}", "neither"),
            ("[]", "neither"),
            ("{\"version\": \"2.1.0\"}", "neither"),
            ("{\"SchemaVersion\": 1, \"Results\": []}", "schema 1"),
            ("{\"SchemaVersion\": 2, \"Results\": 7}", "not as Trivy has it"),
            ("{\"SchemaVersion\": 2}", "ArtifactName"),
            ("{\"SchemaVersion\": 2, \"ArtifactName\": \"/x\", \"ArtifactType\": \"\"}", "ArtifactType"),
            ("{\"SchemaVersion\": 2, \"Results\": null}", "ArtifactName"),
            ("{\"version\": \"2.0.0\", \"runs\": []}", "SARIF \"2.0.0\""),
            ("{\"version\": \"2.1.0\", \"runs\": []}", "no run"),
            ("{\"version\": \"2.1.0\", \"runs\": [{}]}", "name its tool"),
            ("{\"version\": \"2.1.0\", \"runs\": [{\"tool\": {\"driver\": {\"name\": \"x\"}}}]}", "no results"),
            (
                "{\"version\": \"2.1.0\", \"runs\": [{\"tool\": {\"driver\": {\"name\": \"x\"}}, \"results\": [],
                 \"invocations\": [{\"executionSuccessful\": false}]}]}",
                "did not succeed",
            ),
        ] {
            let why = parse(text.as_bytes()).expect_err(text);
            assert!(why.contains(wanted), "{text:?}: {why}");
        }
        let deep = "[".repeat(1 << 20);
        assert!(parse(deep.as_bytes()).is_err());
        // Of an empty tree Trivy says no more than what it was.
        let empty = r#"{"SchemaVersion": 2, "ArtifactName": "/x", "ArtifactType": "filesystem", "Metadata": {}}"#;
        for clean in [empty, r#"{"SchemaVersion": 2, "Results": []}"#] {
            assert_eq!(parse(clean.as_bytes()).unwrap().counts, [0; 5]);
        }
    }

    /// What was passed over would count as nothing found, where the policy does not name `unknown`.
    #[test]
    fn a_severity_that_nobody_knows_is_never_passed_over() {
        let trivy = |part: &str, id: &str, severity: &str| {
            let text = format!(
                r#"{{"SchemaVersion": 2, "Results": [{{"{part}": [{{"{id}": "X", "Severity": {severity}}}]}}]}}"#
            );
            parse(text.as_bytes()).map(|report| report.counts)
        };
        let parts = [
            ("Vulnerabilities", "VulnerabilityID"),
            ("Misconfigurations", "ID"),
            ("Secrets", "RuleID"),
        ];
        for (part, id) in parts {
            assert_eq!(trivy(part, id, r#"" HIGH ""#), Ok([0, 1, 0, 0, 0]), "{part}");
            assert_eq!(trivy(part, id, r#""""#), Ok([0, 0, 0, 0, 1]), "{part}");
            for bad in [r#""SEVERE""#, r#"" ""#, r#""HI GH""#, "9", "null", "[]"] {
                let why = trivy(part, id, bad).expect_err(bad);
                assert!(why.contains("severity") || why.contains("not as Trivy"), "{bad}: {why}");
            }
        }
        let sarif = |result: &str| {
            let text = format!(
                r#"{{"version": "2.1.0", "runs": [{{"tool": {{"driver": {{"name": "x"}}}}, "results": [{result}]}}]}}"#
            );
            parse(text.as_bytes()).map(|report| report.counts)
        };
        for (result, counts) in [
            (r#"{"ruleId": "a", "level": "Error "}"#, [0, 1, 0, 0, 0]),
            (r#"{"ruleId": "a", "level": "none"}"#, [0, 0, 0, 0, 1]),
            (r#"{"ruleId": "a", "properties": {"security-severity": " 9.8 "}}"#, [1, 0, 0, 0, 0]),
            (r#"{"ruleId": "a", "kind": "notApplicable"}"#, [0; 5]),
            (r#"{"ruleId": "a", "kind": "FAIL "}"#, [0, 0, 1, 0, 0]),
        ] {
            assert_eq!(sarif(result), Ok(counts), "{result}");
        }
        for (result, wanted) in [
            (r#"{"level": "severe"}"#, "level \"severe\""),
            (r#"{"level": 7}"#, "level 7"),
            (r#"{"kind": "failed"}"#, "kind \"failed\""),
            (r#"{"kind": true}"#, "kind true"),
            (
                r#"{"level": "note", "properties": {"security-severity": "critical"}}"#,
                "0.0 to 10.0",
            ),
            (r#"{"level": "note", "properties": {"security-severity": "NaN"}}"#, "0.0 to 10.0"),
            (r#"{"level": "note", "properties": {"security-severity": 98}}"#, "0.0 to 10.0"),
            (r#"{"level": "note", "properties": {"security-severity": []}}"#, "0.0 to 10.0"),
        ] {
            let why = sarif(result).expect_err(result);
            assert!(why.contains(wanted), "{result}: {why}");
        }
    }

    #[test]
    fn many_and_long_findings_are_counted_and_cut() {
        let one =
            format!("{{\"VulnerabilityID\": \"{}\", \"Severity\": \"low\"}}", "é".repeat(5000));
        let all = vec![one.as_str(); FINDINGS_MAX + 5].join(",");
        let text =
            format!("{{\"SchemaVersion\": 2, \"Results\": [{{\"Vulnerabilities\": [{all}]}}]}}");
        let report = parse(text.as_bytes()).unwrap();
        assert_eq!(report.counts[3], FINDINGS_MAX as u64 + 5);
        assert_eq!(report.findings.len(), FINDINGS_MAX);
        assert!(report.findings[0].id.len() <= TEXT_BYTES_MAX);
    }
}
