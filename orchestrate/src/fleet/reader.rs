//! Reads the JSON of a document field by field and goes on after a fault, so that whoever wrote it is told of every
//! fault at once. A field that is not known is a fault. Pure.

use serde_json::{Map, Value};

use crate::error::quote::quoted;
use crate::fleet::fault::Faults;

/// What was found wrong so far.
#[derive(Debug, Default)]
pub(super) struct Reader {
    pub(super) faults: Faults,
}

/// One object of the document and its place.
#[derive(Clone, Copy)]
pub(super) struct Object<'v> {
    pub(super) map: &'v Map<String, Value>,
}

/// The kind of a value, as a message has it.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// The place of a field.
pub(super) fn at(place: &str, key: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '+' | '.');
    let key = match !key.is_empty() && key.len() <= 100 && key.chars().all(plain) {
        true => key.to_owned(),
        false => quoted(key).to_string(),
    };
    if place == "document" { key } else { format!("{place}.{key}") }
}

impl Reader {
    /// The object at this place, which has no fields but these.
    pub(super) fn object<'v>(
        &mut self,
        place: &str,
        value: &'v Value,
        known: &[&str],
    ) -> Option<Object<'v>> {
        let object = self.map(place, value)?;
        for key in object.map.keys().filter(|key| !known.contains(&key.as_str())) {
            self.faults.put(
                &at(place, key),
                format!("there is no such field; there are {}", known.join(", ")),
            );
        }
        Some(object)
    }

    /// The object at this place, whatever its keys are.
    pub(super) fn map<'v>(&mut self, place: &str, value: &'v Value) -> Option<Object<'v>> {
        match value {
            Value::Object(map) => Some(Object { map }),
            other => {
                self.faults.put(place, format!("expected an object, found {}", kind(other)));
                None
            }
        }
    }

    /// An object of at most so many entries, each with its place.
    pub(super) fn entries<'v>(
        &mut self,
        place: &str,
        value: &'v Value,
        most: usize,
    ) -> Vec<(String, &'v str, &'v Value)> {
        let Some(object) = self.map(place, value) else { return Vec::new() };
        if object.map.len() > most {
            let found = object.map.len();
            self.faults.put(place, format!("{found} entries, and at most {most} may be in it"));
            return Vec::new();
        }
        let entry = |(key, value): (&'v String, &'v Value)| (at(place, key), key.as_str(), value);
        object.map.iter().map(entry).collect()
    }

    /// The list at this place, of at most so many.
    pub(super) fn list<'v>(&mut self, place: &str, value: &'v Value, most: usize) -> &'v [Value] {
        match value {
            Value::Array(list) if list.len() <= most => list,
            Value::Array(list) => {
                let found = list.len();
                self.faults.put(place, format!("{found} entries, and at most {most} may be in it"));
                &[]
            }
            other => {
                self.faults.put(place, format!("expected a list, found {}", kind(other)));
                &[]
            }
        }
    }

    /// A text of at most so many bytes, without control characters.
    pub(super) fn text<'v>(
        &mut self,
        place: &str,
        value: &'v Value,
        most: usize,
    ) -> Option<&'v str> {
        let Value::String(text) = value else {
            self.faults.put(place, format!("expected a text, found {}", kind(value)));
            return None;
        };
        if text.is_empty() || text.len() > most {
            let why = format!("{} has {} bytes; 1 to {most} are allowed", quoted(text), text.len());
            self.faults.put(place, why);
            return None;
        }
        if text.chars().any(char::is_control) {
            self.faults.put(place, format!("{} has control characters in it", quoted(text)));
            return None;
        }
        Some(text)
    }

    /// A word: see [`is_word`].
    pub(super) fn word(&mut self, place: &str, value: &Value) -> Option<String> {
        let text = self.text(place, value, WORD_MAX)?;
        self.is_word(place, text).then(|| text.to_owned())
    }

    /// Whether a key or a value is a word.
    pub(super) fn is_word(&mut self, place: &str, text: &str) -> bool {
        let good = is_word(text);
        if !good {
            self.faults.put(place, format!("{}: {WORD_RULE}", quoted(text)));
        }
        good
    }

    /// A whole number in this range.
    pub(super) fn whole(
        &mut self,
        place: &str,
        value: &Value,
        (min, max): (u64, u64),
    ) -> Option<u64> {
        let found = value.as_u64().filter(|number| (min..=max).contains(number));
        if found.is_none() {
            let shown = match value {
                Value::Number(number) => number.to_string(),
                other => kind(other).to_owned(),
            };
            self.faults
                .put(place, format!("expected a whole number from {min} to {max}, found {shown}"));
        }
        found
    }

    /// True or false.
    pub(super) fn switch(&mut self, place: &str, value: &Value) -> Option<bool> {
        let found = value.as_bool();
        if found.is_none() {
            self.faults.put(place, format!("expected true or false, found {}", kind(value)));
        }
        found
    }

    /// One of these words.
    pub(super) fn one_of<T: Copy>(
        &mut self,
        place: &str,
        value: &Value,
        words: &[(&str, T)],
    ) -> Option<T> {
        let found = words.iter().find(|(word, _)| value.as_str() == Some(word));
        if found.is_none() {
            let shown = value.as_str().map_or(kind(value).to_owned(), |t| quoted(t).to_string());
            let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            self.faults.put(place, format!("expected one of {}, found {shown}", known.join(", ")));
        }
        found.map(|(_, meaning)| *meaning)
    }

    /// A field that has to be there.
    pub(super) fn required<'v>(
        &mut self,
        place: &str,
        object: Object<'v>,
        key: &str,
    ) -> Option<&'v Value> {
        let found = object.map.get(key);
        if found.is_none() {
            self.faults.put(&at(place, key), "is missing");
        }
        found
    }
}

/// Bytes of a word.
pub(crate) const WORD_MAX: usize = 100;

/// What a word is, for a message.
pub(crate) const WORD_RULE: &str =
    "expected 1 to 100 of A-Z a-z 0-9 - _ . + :, the first a letter or digit";

/// Whether a text is the name of a fleet, a class, a site, a host or a label: what a file, a line of a log and a
/// shell word can hold as it is.
pub(crate) fn is_word(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '+' | ':');
    text.len() <= WORD_MAX
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(plain)
}
