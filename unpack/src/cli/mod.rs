//! What the program adds to the library: its flags and its words.

pub(crate) mod chunks;
pub(crate) mod digest;
pub(crate) mod flags;
pub(crate) mod image;
pub(crate) mod misplaced;
pub(crate) mod run;
pub(crate) mod said;
