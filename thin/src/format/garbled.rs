//! What the formats of this folder cannot read.

use std::{error, fmt};

use crate::format::quote::clean;

/// Text or a value that is none of its format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Garbled {
    /// Text that the kernel does not write.
    Text {
        /// What was being read.
        what: &'static str,
        /// The text, as it came.
        text: String,
    },
    /// A value outside its unit's rule.
    Unit {
        /// Which value.
        what: &'static str,
        /// As given.
        value: String,
        /// The rule.
        rule: &'static str,
    },
}

impl fmt::Display for Garbled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Garbled::Text { what, text } => {
                write!(f, "cannot read the kernel's {what}: \"{}\"", clean(text))
            }
            Garbled::Unit { what, value, rule } => {
                write!(f, "{what} \"{}\": must be {rule}", clean(value))
            }
        }
    }
}

impl error::Error for Garbled {}
