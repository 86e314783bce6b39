//! The form of a document: everything that is wrong is told at once, and everything is bounded.

use crate::fleet::document::{BYTES_MAX, Document, Pace};
use crate::fleet::reader::Reader;

fn faults(text: &str) -> Vec<String> {
    Document::parse(text.as_bytes()).unwrap_err().faults.iter().map(ToString::to_string).collect()
}

/// With what has to be there.
fn with(more: &str) -> String {
    format!(r#"{{"version": 1, "serial": 7, "fleet": "f", {more}}}"#)
}

#[test]
fn every_fault_is_told_at_once_with_its_place() {
    let text = r#"{"version": 2, "serial": 0, "fleet": "a b", "persent": 1, "paused": "no",
        "images": {"a": {"imago": 1, "rollout": {"percent": 101, "by": "dice"}},
                   "b": {"image": "docker://host.example/n:tag", "where": {"site": []}},
                   "c": {"image": "oci:/etc:x", "before": 7}},
        "activations": {"../x": {"image": "z", "on_change": "swap"}},
        "remove": ["s3://"], "pace": {"spread_s": 86401, "max_used": 0}, "catalog": {}}"#;
    let all = faults(text);
    let wanted = [
        "persent: there is no such field",
        "version: \"2\"",
        "serial: expected a whole number from 1 to",
        "fleet: \"a b\": expected 1 to 100 of",
        "paused: expected true or false, found a text",
        "catalog.serial_min: is missing",
        "images.a.imago: there is no such field; there are image, before",
        "images.a.image: is missing",
        "images.a.rollout.salt: is missing",
        "images.a.rollout.percent: expected a number from 0 to 100",
        "images.a.rollout.by: expected one of host, site, found \"dice\"",
        "images.b.image: \"docker://host.example/n:tag\": a tag",
        "images.b.where.site: the list is empty",
        "images.c.image: \"oci:/etc:x\": a document names images that every host",
        "images.c.before: expected a text, found a number",
        "activations.\"../x\": \"../x\": 1 to 100 of",
        "activations.\"../x\".on_change: expected one of keep, replace, found \"swap\"",
        "remove[0]: \"s3://\"",
        "pace.spread_s: expected a whole number from 0 to 86400, found 86401",
        "pace.max_used: expected a whole number from 1 to 100, found 0",
    ];
    for wanted in wanted {
        assert!(all.iter().any(|fault| fault.starts_with(wanted)), "{wanted}\n{all:#?}");
    }
    assert_eq!(all.len(), wanted.len(), "{all:#?}");
}

#[test]
fn what_contradicts_itself_is_refused() {
    for (more, wanted) in [
        (r#""activations": {"w": {"image": "a"}}"#, "activations.w.image: \"a\" is no entry"),
        (
            r#""images": {"a": {"image": "s3://bkt/x/", "before": "s3://bkt/x/"}}"#,
            "images.a.before: \"s3://bkt/x/\" is the image itself",
        ),
        (
            r#""images": {"a": {"image": "s3://bkt/x/"}}, "remove": ["s3://bkt/x/"]"#,
            "remove: \"s3://bkt/x/\" is wanted as `images.a.image` too",
        ),
        (r#""fleet": "g""#, "document: no JSON that can be read: the key \"fleet\" is there twice"),
    ] {
        let all = faults(&with(more));
        assert!(all.len() == 1 && all[0].starts_with(wanted), "{more}: {all:?}");
    }
}

#[test]
fn everything_is_bounded() {
    let many =
        |n: usize, of: &dyn Fn(usize) -> String| (0..n).map(of).collect::<Vec<_>>().join(",");
    let long = "x".repeat(2000);
    for (more, wanted) in [
        (
            format!(r#""images": {{{}}}"#, many(1001, &|n| format!(r#""i{n}": {{}}"#))),
            "images: 1001 entries, and at most 1000",
        ),
        (
            format!(r#""remove": [{}]"#, many(1001, &|n| format!(r#""s3://bkt/{n}/""#))),
            "remove: 1001 entries, and at most 1000",
        ),
        (format!(r#""remove": ["s3://bkt/{long}/"]"#), "remove[0]: \"s3://bkt/xxx"),
        (format!(r#""class": "{long}""#), "class: \"xxx"),
        (
            format!(
                r#""images": {{"a": {{"image": "s3://bkt/x/", "where": {{"labels": {{{}}}}}}}}}"#,
                many(33, &|n| format!(r#""l{n}": ["v"]"#))
            ),
            "images.a.where.labels: 33 entries, and at most 32",
        ),
    ] {
        let all = faults(&with(&more));
        assert!(all.len() == 1 && all[0].starts_with(wanted) && all[0].len() < 600, "{all:?}");
    }
    let large = vec![b' '; usize::try_from(BYTES_MAX).unwrap() + 1];
    let why = Document::parse(&large).unwrap_err().to_string();
    assert!(why.contains("1048577 bytes") && why.contains("at most 1048576"), "{why}");
    let mut many = Reader::default();
    (0..150).for_each(|n| many.faults.put("p", n.to_string()));
    assert_eq!((many.faults.faults.len(), many.faults.more), (100, 50));
    assert!(many.faults.to_string().ends_with("; and 50 more"));
    assert!(Document::parse("[".repeat(1 << 20).as_bytes()).is_err());
}

#[test]
fn a_percent_is_counted_in_hundredths() {
    for (text, parts) in [
        ("0", 0),
        ("0.01", 1),
        ("0.07", 7),
        ("1", 100),
        ("12.5", 1250),
        ("100", 10_000),
        ("100.0", 10_000),
    ] {
        let more = format!(
            r#""images": {{"a": {{"image": "s3://bkt/x/", "rollout": {{"salt": "s", "percent": {text}}}}}}}"#
        );
        let document = Document::parse(with(&more).as_bytes()).unwrap();
        assert_eq!(document.images["a"].rollout.parts, parts, "{text}");
    }
    for bad in ["0.001", "-1", "100.01", "1e9", "\"1\"", "null", "99.999"] {
        let more = format!(
            r#""images": {{"a": {{"image": "s3://bkt/x/", "rollout": {{"salt": "s", "percent": {bad}}}}}}}"#
        );
        assert_eq!(faults(&with(&more)).len(), 1, "{bad}");
    }
}

#[test]
fn the_form_of_the_documentation_is_read() {
    let text = include_str!("document.rs");
    let start = text.find("//!   {\"version\"").unwrap();
    let end = start + text[start..].find("\n//! ```").unwrap();
    let example = text[start..end].replace("//!", "");
    let document = Document::parse(example.as_bytes()).unwrap_or_else(|why| panic!("{why}"));
    assert_eq!((document.serial, document.catalog_min), (42, Some(17)));
    assert_eq!(document.images["golang"].rollout.parts, 1000);
    assert_eq!(document.pace, Pace { spread_s: 300, max_used: 85 });
}
