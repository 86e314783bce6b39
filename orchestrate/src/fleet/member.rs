//! A host as a member of a fleet: which documents are for it, and how often it asks. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::error::quote::quoted;
use crate::fleet::reader::{WORD_RULE, is_word};

/// What a host is in its fleet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Me {
    /// The fleet's name.
    pub fleet: String,
    /// The class of host.
    pub class: Option<String>,
    /// Its own id: what a roll-out by host chooses by.
    pub host: String,
    /// Where it stands.
    pub site: Option<String>,
    /// What else is known of it.
    pub labels: BTreeMap<String, String>,
    /// Whether it looks and does nothing.
    pub hold: bool,
}

/// Where a host's document is, and who signs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// `s3://bucket/key`; the signature is beside it as `key.minisig`.
    pub url: String,
    /// minisign's public keys, each as its line or as a file that has it.
    pub keys: Vec<String>,
    /// How often it is asked for.
    pub poll: Duration,
    /// Who asks.
    pub me: Me,
}

/// The most labels of a host.
const LABELS_MAX: usize = 32;

/// One name of the settings.
///
/// # Errors
/// What it has to be.
pub(crate) fn word(key: &str, text: &str) -> Result<String, String> {
    match is_word(text) {
        true => Ok(text.to_owned()),
        false => Err(format!("{key} {}: {WORD_RULE}", quoted(text))),
    }
}

/// Labels, each `name=value`.
///
/// # Errors
/// The first that is none, or that is there twice.
pub(crate) fn labels(texts: &[String]) -> Result<BTreeMap<String, String>, String> {
    let mut all = BTreeMap::new();
    for text in texts {
        let bad = |why: &str| Err(format!("fleet.labels {}: {why}", quoted(text)));
        let Some((name, value)) = text.split_once('=') else {
            return bad("expected NAME=VALUE, as disk=nvme");
        };
        if !is_word(name) || !is_word(value) {
            return bad(&format!("name and value: {WORD_RULE}"));
        }
        if all.insert(name.to_owned(), value.to_owned()).is_some() {
            return bad("this label is there twice");
        }
    }
    match all.len() > LABELS_MAX {
        true => Err(format!("fleet.labels: {} labels, at most {LABELS_MAX} may be set", all.len())),
        false => Ok(all),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host's name may come from a network that nobody trusts.
    #[test]
    fn a_hostile_name_or_label_is_refused_with_the_rule() {
        for bad in
            ["", "a b", "a\0b", "../x", "-x", "a\nb", "\u{202e}x", "ü", &"x".repeat(101), "a/b"]
        {
            let why = word("fleet.host_id", bad).unwrap_err();
            assert!(why.contains("fleet.host_id") && why.contains("A-Z a-z"), "{bad:?}: {why}");
            assert!(!why.contains('\n') && why.len() < 1000, "{why}");
        }
        assert_eq!(word("fleet.site", "fra-1.a").as_deref(), Ok("fra-1.a"));
        let of =
            |texts: &[&str]| labels(&texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>());
        for bad in [&["disk"][..], &["=x"], &["a=b=c"], &["a=b", "a=c"], &["a=b c"]] {
            assert!(of(bad).is_err(), "{bad:?}");
        }
        let many: Vec<String> = (0..33).map(|n| format!("l{n}=v")).collect();
        assert!(labels(&many).unwrap_err().contains("33 labels"));
        assert_eq!(of(&["disk=nvme", "gpu=a100"]).unwrap()["gpu"], "a100");
    }
}
