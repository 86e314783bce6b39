//! Reads what scanners print: Trivy's JSON (schema 2) and SARIF 2.1.0 (OASIS). Pure. What is neither, or
//! says that the scan did not work, is refused: silence is no clean bill.

use registry::{ScanFinding, Severity};
use serde::Deserialize;
use serde_json::Value;

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
        Some("2.1.0") if value.get("runs").is_some() => sarif(value),
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
    let severity = |word: &str| Severity::from_word(word).unwrap_or(Severity::Unknown);
    let mut findings = Vec::new();
    for result in report.results.unwrap_or_default() {
        let target = result.target;
        for of in result.vulnerabilities.unwrap_or_default() {
            findings.push(ScanFinding {
                id: of.id,
                severity: severity(&of.severity),
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
        findings.extend(rest.map(|(id, word, title)| ScanFinding {
            id,
            severity: severity(&word),
            package: target.clone(),
            installed: String::new(),
            fixed: String::new(),
            title,
        }));
    }
    // Newer ones name themselves.
    let version = report.trivy.and_then(|of| of.version).map(|text| cut(&text));
    Ok(Report { version, ..report_of("trivy", Some("Trivy".into()), findings) })
}

fn sarif(value: Value) -> Result<Report, String> {
    let runs = value["runs"].as_array().ok_or("its report has no list of runs")?;
    if runs.is_empty() {
        return Err("its report has no run: nothing was scanned".into());
    }
    let mut findings = Vec::new();
    let (mut scanner, mut version) = (None, None);
    for run in runs {
        let driver = &run["tool"]["driver"];
        let name = driver["name"].as_str().ok_or("its report does not name its tool")?;
        scanner.get_or_insert_with(|| name.to_owned());
        let said = driver["semanticVersion"].as_str().or_else(|| driver["version"].as_str());
        version = version.or_else(|| said.map(cut));
        let invocations = run["invocations"].as_array().into_iter().flatten();
        if invocations.into_iter().any(|of| of["executionSuccessful"] == Value::Bool(false)) {
            return Err("its report says that the scan did not succeed".into());
        }
        // SARIF 3.14.23: no results is what a run says that did not look.
        let results =
            run["results"].as_array().ok_or("its report has no results: nothing was scanned")?;
        for result in results {
            // 3.27.9: of the kinds, only these are findings; "fail" is the default.
            let finds = matches!(result["kind"].as_str(), None | Some("fail" | "open" | "review"));
            if finds {
                findings.push(sarif_finding(driver, result));
            }
        }
    }
    Ok(Report { version, ..report_of("sarif", scanner, findings) })
}

fn sarif_finding(driver: &Value, result: &Value) -> ScanFinding {
    let by_index = || {
        let index = result["ruleIndex"].as_u64().or_else(|| result["rule"]["index"].as_u64());
        driver["rules"].get(usize::try_from(index?).ok()?)
    };
    let id = result["ruleId"]
        .as_str()
        .or_else(|| result["rule"]["id"].as_str())
        .or_else(|| by_index()?["id"].as_str())
        .unwrap_or("unnamed");
    let rules = driver["rules"].as_array();
    let by_id = || rules?.iter().find(|rule| rule["id"] == id);
    let rule = by_index().or_else(by_id).unwrap_or(&Value::Null);
    let score = |of: &Value| {
        let score = &of["properties"]["security-severity"];
        score.as_f64().or_else(|| score.as_str()?.parse().ok())
    };
    let level = result["level"].as_str().or_else(|| rule["defaultConfiguration"]["level"].as_str());
    let severity = match (score(result).or_else(|| score(rule)), level) {
        // The steps of CVSS 3.
        (Some(score), _) if score >= 9.0 => Severity::Critical,
        (Some(score), _) if score >= 7.0 => Severity::High,
        (Some(score), _) if score >= 4.0 => Severity::Medium,
        (Some(score), _) if score > 0.0 => Severity::Low,
        // 3.27.10: without a word it is a warning.
        (_, Some("error")) => Severity::High,
        (_, Some("warning") | None) => Severity::Medium,
        (_, Some("note")) => Severity::Low,
        (_, Some(_)) => Severity::Unknown,
    };
    let place = &result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"];
    let title =
        result["message"]["text"].as_str().or_else(|| rule["shortDescription"]["text"].as_str());
    ScanFinding {
        id: id.to_owned(),
        severity,
        package: place.as_str().unwrap_or_default().to_owned(),
        installed: String::new(),
        fixed: String::new(),
        title: title.unwrap_or_default().lines().next().unwrap_or_default().to_owned(),
    }
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
        assert_eq!(parse(b"{\"SchemaVersion\": 2}").unwrap().counts, [0; 5]);
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
