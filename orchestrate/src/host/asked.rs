//! What a run was asked for, and whether two requests ask for the same: only then may one run stand for
//! both. Pure.

use registry::Run;
use serde_json::{Value, json};

use crate::host::settings::Settings;

/// What decides about what comes out of a run, besides its verb and subject.
const ASKED: &[&str] = &[
    "image",
    "bytes",
    "no_fetch",
    "opens",
    "copies",
    "labels",
    "ttl_s",
    "read_only",
    "no_journal",
    "bound",
    "purge_foreign",
    "when_closed",
];

/// And of whom it is asked, where both say so: an older program kept less.
const OF_WHOM: &[&str] = &["endpoint", "anonymous", "platform", "etag_dedup", "bytes_max"];

/// What a later process needs to ask the same server in the same way: no secret is in it.
pub(crate) fn s3(settings: &Settings) -> Value {
    let fetch = &settings.fetch;
    let anonymous = matches!(fetch.credentials, fetch::CredentialsFrom::Anonymous);
    json!({
        "endpoint": fetch.endpoint, "region": fetch.region, "anonymous": anonymous,
        "etag_dedup": settings.etag_dedup, "bytes_max": settings.limits.bytes_max,
        // One that is named by the reference goes before this one.
        "platform": settings.platform.as_ref().map(ToString::to_string),
    })
}

/// What two requests of one verb and subject differ in; none where they ask for the same.
pub(crate) fn difference(kept: &Value, asked: &Value) -> Option<&'static str> {
    let says_nothing = |value: &Value| match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.values().all(Value::is_null),
        Value::Bool(true) | Value::Number(_) | Value::String(_) => false,
    };
    let same = |a: &Value, b: &Value| a == b || says_nothing(a) && says_nothing(b);
    let differs = |key: &&&'static str| !same(&kept[**key], &asked[**key]);
    if let Some(key) = ASKED.iter().find(differs) {
        return Some(key);
    }
    let both = |key: &str| kept["s3"].get(key).zip(asked["s3"].get(key));
    OF_WHOM.iter().find(|key| both(key).is_some_and(|(a, b)| a != b)).copied()
}

/// Why `run`, which has not ended, cannot stand for what is `asked` now; none where it can.
pub(crate) fn objection(run: &Run, asked: &Value) -> Option<String> {
    let kept: Value = serde_json::from_str(&run.input).unwrap_or_default();
    let key = difference(&kept, asked)?;
    let (id, verb, other) = (run.id, run.verb.word(), words(key));
    let advice = format!("wait for its end, or `orchestrate cancel {id}`");
    Some(format!("run {id} ({verb} of that name, with another {other}): {advice}"))
}

/// What of a request is kept under this key, for people.
fn words(key: &'static str) -> &'static str {
    match key {
        "bytes" => "size",
        "copies" => "list of --copy, or other files",
        "opens" => "open file",
        "labels" => "list of --label",
        "ttl_s" => "--ttl",
        "read_only" => "choice of --read-only",
        "no_journal" => "choice of --no-journal",
        "no_fetch" => "choice of --no-fetch",
        "when_closed" => "choice of --when-closed",
        "purge_foreign" => "list of --purge-foreign",
        "endpoint" => "server (--endpoint)",
        "anonymous" => "choice of --anonymous",
        "etag_dedup" => "choice of --no-etag-dedup",
        "bytes_max" => "limit (--bytes-max)",
        key => key,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_are_told_of_a_size_and_not_of_a_bytes() {
        for key in ASKED.iter().chain(OF_WHOM) {
            assert!(!words(key).contains('_') && words(key) != "bytes", "another {}", words(key));
        }
        assert_eq!(words("bytes"), "size");
    }

    #[test]
    fn the_same_is_asked_whatever_is_left_out() {
        let kept = json!({"image": "s3://b/a/", "bytes": null, "no_fetch": false,
            "s3": {"endpoint": "http://h", "etag_dedup": true, "platform": null}});
        for same in [
            json!({"image": "s3://b/a/"}),
            json!({"image": "s3://b/a/", "s3": {"region": "x"}}),
            json!({"image": "s3://b/a/", "no_fetch": false, "s3": {"endpoint": "http://h"}}),
        ] {
            assert_eq!(difference(&kept, &same), None, "{same}");
        }
        for (key, other) in [
            ("image", json!({"image": "s3://b/b/"})),
            ("bytes", json!({"image": "s3://b/a/", "bytes": 7})),
            ("no_fetch", json!({"image": "s3://b/a/", "no_fetch": true})),
            ("copies", json!({"image": "s3://b/a/", "copies": [{"from": "/a", "to": "/b"}]})),
            ("labels", json!({"image": "s3://b/a/", "labels": {"app": "web"}})),
            ("ttl_s", json!({"image": "s3://b/a/", "ttl_s": 7})),
            ("read_only", json!({"image": "s3://b/a/", "read_only": true})),
            ("no_journal", json!({"image": "s3://b/a/", "no_journal": true})),
            ("endpoint", json!({"image": "s3://b/a/", "s3": {"endpoint": null}})),
            ("etag_dedup", json!({"image": "s3://b/a/", "s3": {"etag_dedup": false}})),
            ("platform", json!({"image": "s3://b/a/", "s3": {"platform": "linux/arm64"}})),
        ] {
            assert_eq!(difference(&kept, &other), Some(key), "{other}");
        }
        let none = json!({"bound": {"keep_bytes": null, "max_used": null}, "purge_foreign": []});
        assert_eq!(difference(&none, &json!({})), None);
        let some = json!({"bound": {"keep_bytes": 0, "max_used": null}});
        assert_eq!(difference(&none, &some), Some("bound"));
    }
}
