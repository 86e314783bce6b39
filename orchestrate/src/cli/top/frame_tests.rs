//! Frames of made facts: they fit, they say what is cut, and nothing from outside gets through raw.

use serde_json::{Value, json};

use crate::cli::top::frame::*;

const HOSTILE: &str = "\x1b]0;owned\x07\u{202e}<img src=x>\u{4e2d}\r\n\u{9b}31m\u{301}é";

fn digest() -> String {
    format!("sha256:{}", "7".repeat(64))
}

fn stack(name: &str, volumes: &[u32], shared: usize) -> Value {
    let layers: Vec<Value> = volumes
        .iter()
        .enumerate()
        .map(|(at, volume)| {
            json!({"key": name, "bytes": u64::from(*volume) << 20, "digest": digest(),
                   "volume": volume, "own_bytes": 1, "shared_with": usize::from(at < shared)})
        })
        .collect();
    json!({"image": name, "chain": digest(), "layers": layers, "activations": [name]})
}

fn facts(images: &[Value], rows: usize, text: &str) -> Facts {
    let space = json!({"total": 1000, "used": 860, "block": 1});
    let activation = json!({"name": text, "image": text, "state": "active", "mapped": true,
        "path": text, "volume": 9, "origin": 8, "bytes": 4096});
    let run = json!({"id": 1, "verb": "ensure", "subject": text, "input": "{}", "state": "running",
        "priority": 0, "step": text, "attempt": 1, "cancel": null, "created_ms": 0, "updated_ms": 0,
        "finished_ms": null, "interrupted": false});
    let event =
        json!({"seq": 1, "at_ms": 0, "subject": text, "from": text, "to": text, "detail": text});
    let listing = json!({"store": {"kind": "dir", "id": text}, "space": space, "layer_bytes": 1,
        "unshared_bytes": 2, "images": images, "activations": vec![activation; rows]});
    let store = json!({"mode": text, "data": space, "metadata": space, "transaction_id": 7});
    Facts {
        head: text.into(),
        store: serde_json::from_value(store).unwrap(),
        listing: serde_json::from_value(listing).unwrap(),
        checks: Vec::new(),
        runs: serde_json::from_value(json!(vec![run; rows])).unwrap(),
        events: serde_json::from_value(json!(vec![event; rows])).unwrap(),
        trouble: Some(text.into()),
        now_ms: 61_000,
    }
}

fn drawn(facts: &Facts, width: usize, height: usize) -> Vec<String> {
    frame(facts, height).iter().map(|line| line.text(width, false)).collect()
}

#[test]
fn every_frame_fits_its_terminal() {
    let images: Vec<Value> =
        (0..500).map(|n| stack(&format!("s3://b/{n}/"), &[1, n + 2, n + 600], 1)).collect();
    let full = facts(&images, 500, HOSTILE);
    for height in [0, 1, 2, 5, 9, 10, 11, 12, 24, 80, 3000] {
        for width in [0, 1, 7, 40, 80, 300] {
            let lines = drawn(&full, width, height);
            assert!(lines.len() <= height, "{width}x{height}: {} lines", lines.len());
            let widest = lines.iter().map(|line| line.chars().count()).max().unwrap_or(0);
            assert!(widest <= width, "{width}x{height}: {widest} columns");
        }
    }
    assert_eq!(drawn(&full, 80, 60).len(), 60, "a large terminal is filled");
}

#[test]
fn what_is_cut_is_counted() {
    let images: Vec<Value> =
        (0..500).map(|n| stack(&format!("s3://b/{n}/"), &[1, n + 2], 1)).collect();
    let text = drawn(&facts(&images, 3, "x"), 100, 40).join("\n");
    let seen = text.lines().filter(|line| line.starts_with("  b/")).count();
    assert!(text.contains(&format!("  {} more", 500 - seen)), "{text}");
    assert!(seen > 5 && text.contains("images, the lowest layer first  500"), "{text}");
}

#[test]
fn nothing_from_outside_reaches_the_terminal_raw() {
    let hostile = facts(&[stack(HOSTILE, &[1, 2], 0)], 2, HOSTILE);
    let text = drawn(&hostile, 4000, 100).concat();
    let bad: Vec<char> =
        text.chars().filter(|c| !matches!(c, ' '..='~' | '\u{c0}'..='\u{24f}')).collect();
    assert!(bad.is_empty(), "{bad:?}");
    assert!(text.contains(
        "\\u{1b}]0;owned\\u{7}\\u{202e}<img src=x>\\u{4e2d}\\u{d}\\u{a}\\u{9b}31m\\u{301}é"
    ));
    // With colours, only ours.
    let coloured: String = frame(&hostile, 100).iter().map(|line| line.text(4000, true)).collect();
    for piece in coloured.split('\x1b').skip(1) {
        let code = piece.strip_prefix('[').and_then(|rest| rest.split_once('m')).expect(piece).0;
        assert!(["0", "1", "2", "31", "32", "33", "36"].contains(&code), "{piece:?}");
    }
}

#[test]
fn a_shared_layer_is_drawn_once_over_neighbours() {
    let images = [
        stack("s3://b/a/", &[1, 2], 1),
        stack("s3://b/other/", &[7], 0),
        stack("s3://b/c/", &[1, 2, 3], 2),
        stack("s3://b/d/", &[1, 4], 1),
    ];
    let lines = drawn(&facts(&images, 0, "rw"), 100, 40);
    let at = lines.iter().position(|line| line.starts_with("  b/a")).unwrap();
    let cells = |line: &str| line.chars().skip(51).collect::<String>().trim_end().to_owned();
    assert_eq!(cells(&lines[at]), "|1.0M    |2.0M");
    assert!(lines[at + 1].starts_with("  b/c"), "{lines:?}");
    assert_eq!(cells(&lines[at + 1]), "|        |        |3.0M");
    assert_eq!(cells(&lines[at + 2]), "|        |4.0M");
    assert_eq!(cells(&lines[at + 3]), "|7.0M");
}

#[test]
fn room_is_shared_in_turns() {
    assert_eq!(share(10, &[1, 100, 2, 100]), [1, 4, 2, 3]);
    assert_eq!(share(0, &[1, 2]), [0, 0]);
    assert_eq!(share(99, &[1, 2]), [1, 2]);
}

#[test]
fn a_full_pool_is_told_in_words_and_figures() {
    let text = drawn(&facts(&[], 0, "ro"), 100, 40).join("\n");
    assert!(text.contains("data     ####################....  86 %   860 B of 1000 B"), "{text}");
    assert!(text.contains("the pool is ro"), "{text}");
    let mut calm = facts(&[], 0, "rw");
    (calm.trouble, calm.head) = (None, "no daemon".into());
    let text = drawn(&calm, 100, 40).join("\n");
    assert!(!text.contains("the pool is") && text.contains("  none"), "{text}");
}
