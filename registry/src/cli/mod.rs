//! What the program adds to the library: its flags and its words.

pub(crate) mod args;
pub(crate) mod run;
