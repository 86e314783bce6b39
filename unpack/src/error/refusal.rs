//! A refusal: what a layer does wrong, where, and what that depended on.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::escape::escaped;

/// The family of rules that a refused layer broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Class {
    /// Blocks, magic, checksum, end marker, truncation.
    Frame,
    /// A number that is malformed or out of range.
    Number,
    /// A PAX or GNU extension header.
    Extension,
    /// An entry's name, or a parent that cannot be a directory.
    Path,
    /// A symlink or hard link target.
    Link,
    /// An entry type that is unknown or not allowed.
    Type,
    /// A malformed whiteout.
    Whiteout,
    /// An extended attribute.
    Xattr,
    /// A sparse file.
    Sparse,
    /// A budget in [`crate::limits::Limits`].
    Limit,
    /// The compressed wrapping.
    Compression,
    /// A digest that does not match, or is missing where one has to vouch for the end.
    Digest,
    /// Something this file system cannot hold.
    Fs,
}

impl Class {
    /// The stable name, as in JSON output.
    pub fn name(self) -> &'static str {
        match self {
            Class::Frame => "frame",
            Class::Number => "number",
            Class::Extension => "extension",
            Class::Path => "path",
            Class::Link => "link",
            Class::Type => "type",
            Class::Whiteout => "whiteout",
            Class::Xattr => "xattr",
            Class::Sparse => "sparse",
            Class::Limit => "limit",
            Class::Compression => "compression",
            Class::Digest => "digest",
            Class::Fs => "fs",
        }
    }

    /// Every class, in the order of declaration.
    pub const ALL: [Class; 13] = [
        Class::Frame,
        Class::Number,
        Class::Extension,
        Class::Path,
        Class::Link,
        Class::Type,
        Class::Whiteout,
        Class::Xattr,
        Class::Sparse,
        Class::Limit,
        Class::Compression,
        Class::Digest,
        Class::Fs,
    ];
}

/// Where in the layer an error belongs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Entries seen before this one.
    pub index: u64,
    /// Byte offset in the uncompressed tar of the header block of this entry.
    pub offset: u64,
    /// The entry's name as the layer gives it, raw; its first 512 bytes where it is longer. Empty
    /// when not known yet.
    pub name: Vec<u8>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "entry {} \"{}\" at byte {}", self.index, escaped(&self.name), self.offset)
    }
}

pub(crate) fn cut(bytes: &[u8]) -> &[u8] {
    bytes.get(..SHOWN_MAX).unwrap_or(bytes)
}

impl Place {
    /// The place as an error has it.
    pub(crate) fn cut(mut self) -> Place {
        self.name.truncate(SHOWN_MAX);
        self
    }
}

/// The value that broke a rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Value {
    /// The rule says it all.
    None,
    /// A number.
    Number(i128),
    /// Raw bytes out of the layer; escaped when shown.
    Bytes(Vec<u8>),
}

/// One broken rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The family of the rule.
    pub class: Class,
    /// The rule, as a clause.
    pub rule: Cow<'static, str>,
    /// What broke it.
    pub value: Value,
    /// The flag that sets the limit, and its value, where the rule is a limit.
    pub limit: Option<(Cow<'static, str>, u64)>,
    /// Whether it came up while the entry took effect, so that the tree below may have a part in it.
    pub in_tree: bool,
}

impl Refusal {
    pub(crate) fn new(class: Class, rule: &'static str) -> Refusal {
        Refusal { class, rule: rule.into(), value: Value::None, limit: None, in_tree: false }
    }

    pub(crate) fn bytes(self, value: &[u8]) -> Refusal {
        Refusal { value: Value::Bytes(cut(value).to_vec()), ..self }
    }

    /// The refusal with nothing in it that is longer than it need be.
    pub(crate) fn cut(&self) -> Refusal {
        let text = |text: &str| {
            text.get(..text.floor_char_boundary(SHOWN_MAX)).unwrap_or_default().to_owned()
        };
        let value = match &self.value {
            Value::Bytes(bytes) => Value::Bytes(cut(bytes).to_vec()),
            other @ (Value::None | Value::Number(_)) => other.clone(),
        };
        let limit = self.limit.as_ref().map(|(flag, max)| (text(flag).into(), *max));
        Refusal { rule: text(&self.rule).into(), value, limit, ..*self }
    }

    pub(crate) fn number(self, value: impl Into<i128>) -> Refusal {
        Refusal { value: Value::Number(value.into()), ..self }
    }

    pub(crate) fn limit(flag: &'static str, rule: &'static str, value: u64, max: u64) -> Refusal {
        Refusal {
            class: Class::Limit,
            rule: rule.into(),
            value: Value::Number(value.into()),
            limit: Some((flag.into(), max)),
            in_tree: false,
        }
    }

    /// Whether it was made by the clock on the wall.
    pub(crate) fn is_by_time(&self) -> bool {
        self.limit.as_ref().is_some_and(|(flag, _)| flag == "--time-max")
    }

    /// What it depended on besides the layer's bytes and the rules; none where it says nothing about
    /// the layer at all. In doubt it depended on more: then it is believed less.
    pub(crate) fn depends_on(&self) -> Option<DependsOn> {
        let is_limit = self.limit.is_some();
        let (tree, limits) = match self.class {
            Class::Frame | Class::Number | Class::Extension | Class::Sparse => (false, is_limit),
            // Which of them are let through, or had to come, is a setting.
            Class::Type | Class::Compression | Class::Digest => (false, true),
            Class::Path | Class::Link | Class::Whiteout => (self.in_tree, is_limit),
            Class::Xattr => (self.in_tree, true),
            Class::Limit => match self.limit.as_ref().map(|(flag, _)| flag.as_ref()) {
                // A busy host, and a blob whose rest was not to be read.
                Some("--time-max" | "--blob-bytes-max") => return None,
                // What is walked, removed and written down is the tree's as well.
                Some("--removals-max" | "--walk-max" | "--processor-max" | "--spill-bytes-max")
                | None => (true, true),
                Some(_) => (false, true),
            },
            Class::Fs => (true, is_limit),
        };
        Some(DependsOn { tree, limits })
    }
}

/// What a refusal depended on besides the layer's bytes and [`crate::VERSION`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DependsOn {
    /// The tree below: on another one the same layer may be fine.
    pub tree: bool,
    /// The [`crate::limits::Limits`]: under larger ones the same layer may be fine.
    pub limits: bool,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.rule)?;
        match &self.value {
            Value::None => {}
            Value::Number(n) => write!(f, ": {n}")?,
            Value::Bytes(b) => write!(f, ": \"{}\"", escaped(b))?,
        }
        if let Some((flag, max)) = &self.limit {
            write!(f, " (limit {flag} {max})")?;
        }
        Ok(())
    }
}

/// Which resource of the file system ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Space {
    /// Data blocks, counted in bytes.
    Bytes,
    /// Inodes.
    Inodes,
}

impl Space {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Space::Bytes => "bytes",
            Space::Inodes => "inodes",
        }
    }
}

/// The longest name or value in an error: enough to recognise it. An error must not carry a megabyte.
pub(crate) const SHOWN_MAX: usize = 512;
