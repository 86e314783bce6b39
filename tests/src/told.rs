//! What `health` and `ls` tell of a damage, as the wedge searches ask it.

use serde_json::Value;

/// Whether one of these words is named as something that is not well: by a check of `health` that does not
/// hold, by a line of `ls` that differs from that of a sound activation, or among what `ls` says is
/// unsettled.
#[must_use]
pub fn tells(health: &Value, listing: &Value, about: &[String]) -> bool {
    let checks = health["checks"].as_array().into_iter().flatten();
    let failed = checks.filter(|check| check["ok"] != true);
    let mut texts: Vec<String> =
        failed.map(|check| check["reason"].as_str().unwrap_or_default().to_owned()).collect();
    let lines = listing["activations"].as_array().into_iter().flatten();
    texts.extend(lines.filter(|line| is_marked(line)).map(Value::to_string));
    texts.extend(listing["unsettled"].as_array().into_iter().flatten().map(Value::to_string));
    texts.iter().any(|text| about.iter().any(|word| names_it(text, word)))
}

/// Whether a line of `ls` differs from that of a sound activation in more than who it is.
fn is_marked(line: &Value) -> bool {
    let plain = ["name", "image", "path", "volume", "origin", "bytes", "state", "mapped"];
    let unsettled = line["state"] != "active" && line["state"] != "inactive";
    let gone = line["state"] == "active" && line["mapped"] != true;
    let more = line.as_object().into_iter().flatten().any(|(key, value)| {
        let nothing = value.is_null()
            || *value == false
            || value.as_str().is_some_and(str::is_empty)
            || value.as_array().is_some_and(Vec::is_empty);
        !plain.contains(&key.as_str()) && !nothing
    });
    unsettled || gone || more
}

/// Whether a word stands in a text by itself, as "7" does in "volume 7" and not in "17".
#[must_use]
pub fn names_it(text: &str, word: &str) -> bool {
    let inside = |c: char| c.is_ascii_alphanumeric();
    text.match_indices(word).any(|(at, _)| {
        !text[..at].ends_with(inside) && !text[at + word.len()..].starts_with(inside)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_is_said_to_be_wrong_is_told() {
        let ls = |mapped| {
            let line =
                json!({"name": "n-1", "state": "active", "mapped": mapped, "unsettled": null});
            json!({"activations": [line]})
        };
        let health =
            |ok| json!({"checks": [{"name": "x", "ok": ok, "reason": "volume 17 is gone"}]});
        let about = |word: &str| [word.to_owned()];
        assert!(!tells(&health(true), &ls(true), &about("n-1")));
        assert!(tells(&health(true), &ls(false), &about("n-1")));
        assert!(!tells(&health(true), &ls(true), &about("17")));
        assert!(tells(&health(false), &ls(true), &about("17")));
        assert!(!tells(&health(false), &ls(true), &about("7")));
    }
}
