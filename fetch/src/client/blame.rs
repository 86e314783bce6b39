//! What was found out about the sources of objects.

use std::collections::BTreeMap;

use crate::name::locator::Locator;

/// What a client does about a source that gave something wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shun {
    /// It is told that what it keeps is wrong.
    Anew,
    /// It is not asked.
    Not,
}

/// Sources by address.
pub(crate) type Shunned = BTreeMap<String, Shun>;

/// Who gave bytes of an object that came to nothing.
#[derive(Debug)]
pub(crate) struct Blamed {
    pub(crate) object: Locator,
    pub(crate) sources: Vec<String>,
    /// They have another version, or had.
    pub(crate) changed: bool,
}
