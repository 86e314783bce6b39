//! What SARIF 2.1.0 (OASIS) says of a scan. Pure. What it does not know is refused: what is passed over would count as
//! nothing found.

use registry::{ScanFinding, Severity};
use serde_json::Value;

use crate::trust::strict::beginning;

/// What the runs of a report say.
pub(crate) struct Sarif {
    pub(crate) scanner: Option<String>,
    pub(crate) version: Option<String>,
    pub(crate) findings: Vec<ScanFinding>,
}

/// Reads its runs.
///
/// # Errors
/// Why they are no report of a scan that worked.
pub(crate) fn read(value: &Value) -> Result<Sarif, String> {
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
        version = version.or_else(|| said.map(str::to_owned));
        let invocations = run["invocations"].as_array().into_iter().flatten();
        if invocations.into_iter().any(|of| of["executionSuccessful"] == Value::Bool(false)) {
            return Err("its report says that the scan did not succeed".into());
        }
        // SARIF 3.14.23: no results is what a run says that did not look.
        let results =
            run["results"].as_array().ok_or("its report has no results: nothing was scanned")?;
        for result in results {
            // 3.27.9: of the kinds, only these are findings; "fail" is the default.
            match word(&result["kind"], "kind")?.as_deref() {
                None | Some("fail" | "open" | "review") => {
                    findings.push(finding(driver, result)?);
                }
                Some("pass" | "informational" | "notapplicable") => {}
                Some(other) => return Err(unread("kind", &format!("{:?}", beginning(other)))),
            }
        }
    }
    Ok(Sarif { scanner, version, findings })
}

/// A word of SARIF, in lower case; none where there is none.
fn word(of: &Value, what: &str) -> Result<Option<String>, String> {
    match of {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text.trim().to_lowercase())),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            Err(unread(what, beginning(&of.to_string())))
        }
    }
}

fn unread(what: &str, found: &str) -> String {
    format!("its report has a result of the {what} {found}, which SARIF 2.1.0 does not know")
}

/// A score from 0 to 10; none where there is none.
fn score(of: &Value) -> Result<Option<f64>, String> {
    let score = &of["properties"]["security-severity"];
    if score.is_null() {
        return Ok(None);
    }
    let number = score.as_f64().or_else(|| score.as_str()?.trim().parse().ok());
    let number = number.filter(|number| (0.0..=10.0).contains(number));
    number.map(Some).ok_or_else(|| {
        let found = score.to_string();
        format!("its report has a security-severity of {}: expected 0.0 to 10.0", beginning(&found))
    })
}

fn finding(driver: &Value, result: &Value) -> Result<ScanFinding, String> {
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
    let level = word(&result["level"], "level")?.map_or_else(
        || word(&rule["defaultConfiguration"]["level"], "level"),
        |own| Ok(Some(own)),
    )?;
    let scored = score(result)?.map_or_else(|| score(rule), |own| Ok(Some(own)))?;
    let severity = match (scored, level.as_deref()) {
        // The steps of CVSS 3.
        (Some(score), _) if score >= 9.0 => Severity::Critical,
        (Some(score), _) if score >= 7.0 => Severity::High,
        (Some(score), _) if score >= 4.0 => Severity::Medium,
        (Some(score), _) if score > 0.0 => Severity::Low,
        // 3.27.10: without a word it is a warning.
        (_, Some("error")) => Severity::High,
        (_, Some("warning") | None) => Severity::Medium,
        (_, Some("note")) => Severity::Low,
        (_, Some("none")) => Severity::Unknown,
        (_, Some(other)) => return Err(unread("level", &format!("{:?}", beginning(other)))),
    };
    let place = &result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"];
    let title =
        result["message"]["text"].as_str().or_else(|| rule["shortDescription"]["text"].as_str());
    Ok(ScanFinding {
        id: id.to_owned(),
        severity,
        package: place.as_str().unwrap_or_default().to_owned(),
        installed: String::new(),
        fixed: String::new(),
        title: title.unwrap_or_default().lines().next().unwrap_or_default().to_owned(),
    })
}
