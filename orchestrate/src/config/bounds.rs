//! That docs/security.md has every bound with its default: all settings that are numbers or times.

use crate::config::table::{Kind, SETTINGS};

/// One line for each: its key, its default, what it is.
fn table() -> String {
    let limits = serde_json::to_value(unpack::Limits::default()).expect("numbers");
    let mut table = String::from("| setting | default | what it bounds |\n|---|---|---|\n");
    for setting in SETTINGS {
        match setting.kind {
            Kind::Number { .. } | Kind::Bytes { .. } | Kind::Seconds => {}
            Kind::Text | Kind::Word(_) | Kind::Switch | Kind::List => continue,
        }
        let of_unpack = &limits[setting.key.rsplit('.').next().unwrap_or_default()];
        let default = match (setting.default, of_unpack) {
            ("", serde_json::Value::Number(number)) => number.to_string(),
            ("", serde_json::Value::Object(time)) => time["secs"].to_string(),
            ("", _) => "none".into(),
            (default, _) => default.into(),
        };
        let doc = setting.doc.trim_end_matches("; none: that of unpack");
        let doc = doc.trim_end_matches("; none: the limit of unpack");
        table.push_str(&format!("| `{}` | {default} | {doc} |\n", setting.key));
    }
    table
}

#[test]
fn the_documentation_has_every_bound() {
    let docs = include_str!("../../../docs/security.md");
    assert!(docs.contains(&table()), "docs/security.md wants this table:\n{}", table());
}
