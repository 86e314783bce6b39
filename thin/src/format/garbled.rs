//! What the formats of this folder cannot read.

use crate::format::quote::clean;

/// Text or a value that is none of its format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Garbled {
    /// Text that the kernel does not write.
    #[error("cannot read the kernel's {what}: \"{}\"", clean(.text))]
    Text {
        /// What was being read.
        what: &'static str,
        /// The text, as it came.
        text: String,
    },
    /// A value outside its unit's rule.
    #[error("{what} \"{}\": must be {rule}", clean(.value))]
    Unit {
        /// Which value.
        what: &'static str,
        /// As given.
        value: String,
        /// The rule.
        rule: &'static str,
    },
}
