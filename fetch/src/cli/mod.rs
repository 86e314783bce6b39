//! What the program adds to the library: flags, output, the terminal, what stays of a file. No request is made here.

pub(crate) mod args;
pub(crate) mod kept;
pub(crate) mod output;
pub(crate) mod progress;
pub(crate) mod remote;
pub(crate) mod run;
pub(crate) mod tell;
