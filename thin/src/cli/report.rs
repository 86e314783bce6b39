//! What a verb found, for people and for programs.

use serde::Serialize;
use serde_json::Value;

/// A result: one object, or rows.
#[derive(Debug)]
pub(crate) enum Report {
    /// One object.
    One(Value),
    /// NDJSON, or a table under these columns.
    Rows(&'static [&'static str], Vec<Value>),
    /// A table of its own for people; the rows as they are for programs.
    Listing(&'static [&'static str], Vec<Value>, Vec<Value>),
    /// Yes or no, with rows.
    Verdict(bool, &'static [&'static str], Vec<Value>),
    /// Yes or no, with an object.
    Answer(bool, Value),
    /// The object, with a last word for people.
    Spoken(Value, String),
}

impl Report {
    pub(crate) fn one(value: impl Serialize) -> Report {
        Report::One(to_value(value))
    }

    pub(crate) fn rows<T: Serialize>(columns: &'static [&'static str], rows: Vec<T>) -> Report {
        Report::Rows(columns, rows.into_iter().map(to_value).collect())
    }

    pub(crate) fn exit(&self) -> u8 {
        match self {
            Report::Answer(false, _) | Report::Verdict(false, ..) => 1,
            Report::Answer(true, _)
            | Report::Verdict(true, ..)
            | Report::One(_)
            | Report::Rows(..)
            | Report::Listing(..)
            | Report::Spoken(..) => 0,
        }
    }

    pub(crate) fn json(&self) -> String {
        let text = match self {
            Report::One(value) | Report::Answer(_, value) | Report::Spoken(value, _) => {
                format!("{value}\n")
            }
            Report::Rows(_, rows) | Report::Listing(_, _, rows) | Report::Verdict(_, _, rows) => {
                rows.iter().map(|row| format!("{row}\n")).collect()
            }
        };
        harmless(&text)
    }

    pub(crate) fn text(&self) -> String {
        match self {
            Report::One(value) | Report::Answer(_, value) => lines(value),
            Report::Spoken(_, text) => format!("{text}\n"),
            Report::Rows(columns, rows)
            | Report::Listing(columns, rows, _)
            | Report::Verdict(_, columns, rows) => table(columns, rows),
        }
    }
}

/// JSON in which nothing outside of ASCII acts on a terminal or turns text around: controls (C1) and what sets
/// a direction are written as `\uXXXX`. They stand only in texts, so it says the same.
fn harmless(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '\u{7f}'..='\u{9f}'
            | '\u{61c}'
            | '\u{200e}'
            | '\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}' => text.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => text.push(c),
        }
    }
    text
}

fn to_value(value: impl Serialize) -> Value {
    // Our own types hold only numbers, text and enums, which always have a JSON form.
    serde_json::to_value(value).unwrap_or(Value::Null)
}

fn word(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text
            .chars()
            .map(|c| match c {
                '\'' | '"' => c.to_string(),
                other => other.escape_debug().to_string(),
            })
            .collect(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

fn lines(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let width = fields.keys().map(String::len).max().unwrap_or(0);
            fields.iter().map(|(key, v)| format!("{key:width$}  {}\n", word(v))).collect()
        }
        other => format!("{}\n", word(other)),
    }
}

fn table(columns: &[&str], rows: &[Value]) -> String {
    if columns.is_empty() {
        return String::new();
    }
    let mut grid: Vec<Vec<String>> =
        vec![columns.iter().map(|c| c.to_uppercase().replace('_', " ")).collect()];
    for row in rows {
        grid.push(columns.iter().map(|c| row.get(*c).map_or("-".to_owned(), word)).collect());
    }
    let width =
        |at: usize| grid.iter().map(|row| row[at].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    grid.iter()
        .map(|row| {
            let cells: Vec<String> =
                row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            format!("{}\n", cells.join("  ").trim_end())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn tables_line_up_and_escape() {
        let rows = vec![json!({"id": 7, "name": "a\u{1b}[2J"}), json!({"id": 123})];
        let report = Report::rows(&["id", "name"], rows);
        assert_eq!(report.text(), "ID   NAME\n7    a\\u{1b}[2J\n123  -\n");
        assert_eq!(report.json().lines().count(), 2);
    }

    #[test]
    fn json_turns_no_terminal_and_no_text_around() {
        let hostile: String = ('\u{7f}'..='\u{9f}')
            .chain("\u{61c}\u{200e}\u{200f}\u{202a}\u{202e}\u{2066}\u{2069}aä\u{1b}\n".chars())
            .collect();
        let json = serde_json::json!({ "key": hostile.clone(), hostile.clone(): 1 }).to_string();
        let text = harmless(&json);
        assert!(
            !text.chars().any(|c| c.is_control() || matches!(c, '\u{200e}'..='\u{2069}')),
            "{text:?}"
        );
        assert!(
            text.contains("\\u009b") && text.contains("\\u202e") && text.contains('ä'),
            "{text:?}"
        );
        let back: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(back["key"], hostile);
    }
}
