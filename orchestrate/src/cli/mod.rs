//! Faces for people: flags, commands, text, `top`. No decision is made here.

pub(crate) mod args;
pub(crate) mod before;
pub(crate) mod commands;
pub(crate) mod diagnosis;
pub(crate) mod disks;
pub(crate) mod document;
pub(crate) mod export;
pub(crate) mod fleet;
pub(crate) mod handover;
pub(crate) mod naming;
pub(crate) mod numbers;
pub(crate) mod print;
pub(crate) mod push;
pub(crate) mod route;
pub(crate) mod run;
pub(crate) mod say;
pub(crate) mod show;
pub(crate) mod signals;
pub(crate) mod top;
pub(crate) mod travel;
pub(crate) mod way;
