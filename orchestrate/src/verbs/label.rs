//! `label`, and the rules of labels: what operators say of an activation, by key. Nothing is decided by them here.

use std::collections::BTreeMap;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::error::quote::quoted;
use crate::host::Host;
use crate::verbs::activate::is_told;

/// Labels of one activation.
pub const LABELS_MAX: usize = 32;

/// Characters of a key, and of a value: as many as Kubernetes allows.
pub(crate) const LABEL_MAX: usize = 63;

/// The labels of an activation.
pub type Labels = BTreeMap<String, String>;

/// What is to become of labels, by key; none: it is removed.
pub type LabelChanges = BTreeMap<String, Option<String>>;

/// One change, as on the command line: `KEY=VALUE`, or `KEY-` to remove it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelChange {
    /// The key.
    pub key: String,
    /// Its value; none: it is removed.
    pub value: Option<String>,
}

/// Which activations are asked for: `KEY`, or `KEY=VALUE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelFilter {
    key: String,
    value: Option<String>,
}

fn check_key(key: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    check("key", key, plain, "- _ . /")?;
    match key.is_empty() {
        true => Err("the key is empty".into()),
        false => Ok(()),
    }
}

fn check_value(value: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    check("value", value, plain, "- _ .")
}

fn check(what: &str, text: &str, plain: fn(char) -> bool, marks: &str) -> Result<(), String> {
    let is_end = |c: Option<char>| c.is_none_or(|c| c.is_ascii_alphanumeric());
    if text.len() > LABEL_MAX {
        let length = text.len();
        return Err(format!(
            "the {what} {} has {length} bytes, more than {LABEL_MAX}",
            quoted(text)
        ));
    }
    if !text.chars().all(plain) || !is_end(text.chars().next()) || !is_end(text.chars().next_back())
    {
        return Err(format!(
            "the {what} {} may have the characters A-Z a-z 0-9 {marks}, of which the first and the last is a letter \
             or digit",
            quoted(text)
        ));
    }
    Ok(())
}

impl FromStr for LabelChange {
    type Err = String;

    fn from_str(text: &str) -> Result<LabelChange, String> {
        let (key, value) = match (text.split_once('='), text.strip_suffix('-')) {
            (Some((key, value)), _) => (key, Some(value.to_owned())),
            (None, Some(key)) => (key, None),
            (None, None) => {
                let text = quoted(text);
                return Err(format!("label {text}: expected KEY=VALUE, or KEY- to remove it"));
            }
        };
        let told = |why| format!("label {}: {why}", quoted(text));
        check_key(key).map_err(told)?;
        value.as_deref().map_or(Ok(()), check_value).map_err(told)?;
        Ok(LabelChange { key: key.into(), value })
    }
}

impl FromStr for LabelFilter {
    type Err = String;

    fn from_str(text: &str) -> Result<LabelFilter, String> {
        let (key, value) = match text.split_once('=') {
            Some((key, value)) => (key, Some(value.to_owned())),
            None => (text, None),
        };
        let told = |why| format!("label {}: {why}", quoted(text));
        check_key(key).map_err(told)?;
        value.as_deref().map_or(Ok(()), check_value).map_err(told)?;
        Ok(LabelFilter { key: key.into(), value })
    }
}

impl LabelFilter {
    /// Whether these labels are what is asked for.
    pub fn fits(&self, labels: &Labels) -> bool {
        let found = labels.get(&self.key);
        found.is_some_and(|found| self.value.as_ref().is_none_or(|value| value == found))
    }
}

/// Changes as they were typed; each key once.
///
/// # Errors
/// [`Error::Usage`] naming the key that is there twice.
pub fn label_changes(typed: impl IntoIterator<Item = LabelChange>) -> Result<LabelChanges, Error> {
    let mut changes = LabelChanges::new();
    for LabelChange { key, value } in typed {
        if changes.insert(key.clone(), value).is_some() {
            return Err(Error::Usage(format!("label {}: the key is there twice", quoted(&key))));
        }
    }
    Ok(changes)
}

/// Labels of a new activation as they were typed.
///
/// # Errors
/// [`Error::Usage`] for `KEY-`, for a key that is there twice, and for too many.
pub fn new_labels(typed: impl IntoIterator<Item = LabelChange>) -> Result<Labels, Error> {
    let mut labels = Labels::new();
    for (key, value) in label_changes(typed)? {
        let Some(value) = value else {
            let text = format!("--label {key}-: a new activation has no labels to remove");
            return Err(Error::Usage(text));
        };
        labels.insert(key, value);
    }
    few_enough(labels.len())?;
    Ok(labels)
}

/// Whether labels that came from elsewhere keep the rules.
///
/// # Errors
/// [`Error::Usage`] saying which one does not, and why.
pub(crate) fn check_changes(changes: &LabelChanges) -> Result<(), Error> {
    for (key, value) in changes {
        let told = |why| Error::Usage(format!("label {}: {why}", quoted(key)));
        check_key(key).map_err(told)?;
        value.as_deref().map_or(Ok(()), check_value).map_err(told)?;
    }
    Ok(())
}

/// As [`check_changes`], for those of a new activation.
///
/// # Errors
/// As there, and for too many.
pub(crate) fn check_labels(labels: &Labels) -> Result<(), Error> {
    let all = labels.iter().map(|(key, value)| (key.clone(), Some(value.clone())));
    check_changes(&all.collect())?;
    few_enough(labels.len())
}

fn few_enough(count: usize) -> Result<(), Error> {
    match count <= LABELS_MAX {
        true => Ok(()),
        false => Err(Error::Usage(format!(
            "{count} labels: an activation has at most {LABELS_MAX}; remove some with `orchestrate label NAME KEY-`"
        ))),
    }
}

/// What `label` did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Labelled {
    /// The activation's name.
    pub name: String,
    /// All its labels now.
    pub labels: Labels,
    /// Whether that is another set than before.
    pub changed: bool,
}

impl Host {
    /// Changes the labels of the activation `name`.
    ///
    /// # Errors
    /// [`Error::Unknown`]; [`Error::Usage`] where a label breaks a rule, or there would be too many: then none is
    /// changed.
    pub fn label(&mut self, name: &str, changes: &LabelChanges) -> Result<Labelled, Error> {
        check_changes(changes)?;
        let _mine = self.locks.activation(name)?;
        if self.registry.activation(name)?.is_none_or(|row| !is_told(&row)) {
            return Err(self.unknown("activation", name));
        }
        let before = self.registry.labels(name)?;
        let mut labels = before.clone();
        for (key, value) in changes {
            match value {
                Some(value) => drop(labels.insert(key.clone(), value.clone())),
                None => drop(labels.remove(key)),
            }
        }
        few_enough(labels.len())?;
        let changed = labels != before;
        if changed {
            crate::process::reserve::spare(&self.settings.state)?;
            self.commit_told(|write| {
                write.change_labels(name, changes)?;
                write.person_has(name)
            })?;
        }
        Ok(Labelled { name: name.into(), labels, changed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_of_a_stated_alphabet_and_length() {
        let long = "x".repeat(LABEL_MAX);
        for good in
            ["a=b", "a=", "example.com/app=v1.2_3-x", "A-", "a-b-", &format!("{long}={long}")]
        {
            let change: LabelChange = good.parse().unwrap_or_else(|why| panic!("{good}: {why}"));
            assert_eq!(change.value.is_none(), good.ends_with('-'), "{good}");
        }
        for (bad, why) in [
            ("a", "KEY=VALUE"),
            ("", "KEY=VALUE"),
            ("-", "the key is empty"),
            ("=b", "the key is empty"),
            ("a b=c", "A-Z a-z 0-9 - _ . /"),
            ("-a=c", "the first and the last"),
            ("a.=c", "the first and the last"),
            ("a=b/c", "A-Z a-z 0-9 - _ ."),
            ("a=b=c", "the value \"b=c\""),
            ("a=\u{e9}", "the value"),
            ("a\n=c", "the key"),
        ] {
            let said = bad.parse::<LabelChange>().unwrap_err();
            assert!(said.contains(why), "{bad:?}: {said}");
        }
        for bad in [format!("{long}x=y"), format!("a={long}x"), format!("{long}x-")] {
            let said = bad.parse::<LabelChange>().unwrap_err();
            assert!(said.contains("64 bytes, more than 63"), "{said}");
        }
    }

    #[test]
    fn a_filter_is_a_key_or_a_key_with_its_value() {
        let labels = Labels::from([("app".into(), "web".into()), ("empty".into(), String::new())]);
        for (text, fits) in [
            ("app", true),
            ("app=web", true),
            ("app=we", false),
            ("empty=", true),
            ("empty=x", false),
            ("none", false),
            ("app=", false),
        ] {
            assert_eq!(text.parse::<LabelFilter>().unwrap().fits(&labels), fits, "{text}");
        }
        assert!("a-".parse::<LabelFilter>().is_err() && "".parse::<LabelFilter>().is_err());
    }

    #[test]
    fn a_new_activation_has_each_key_once_and_not_too_many() {
        let typed = |texts: &[&str]| new_labels(texts.iter().map(|text| text.parse().unwrap()));
        assert_eq!(typed(&["a=1", "b=2"]).unwrap().len(), 2);
        assert!(typed(&["a=1", "a=2"]).unwrap_err().to_string().contains("twice"));
        assert!(typed(&["a-"]).unwrap_err().to_string().contains("no labels to remove"));
        let many: Vec<String> = (0..=LABELS_MAX).map(|n| format!("k{n}=v")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let said = typed(&many).unwrap_err().to_string();
        assert!(said.contains("33 labels") && said.contains("at most 32"), "{said}");
    }
}
