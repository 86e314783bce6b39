//! A fleet: one signed document says which images and activations the hosts of one class have, and each host
//! works out by itself what is to be done for it here. Pure: what is asked of a server, kept in files and put into
//! the queue is in `verbs::fleet` and `serve::fleet`.

pub(crate) mod belief;
pub(crate) mod cohort;
pub mod converge;
pub mod document;
pub(crate) mod fault;
pub(crate) mod guards;
pub(crate) mod member;
pub(crate) mod reader;
pub(crate) mod status;
pub(crate) mod why;

#[cfg(test)]
mod dangers;
#[cfg(test)]
mod document_tests;
#[cfg(test)]
mod properties;

pub use belief::{Refused, follows, public_keys, read};
pub use cohort::{Dice, bucket, phase, spread};
pub use fault::{Fault, Faults};
pub use guards::REMOVAL_PAUSE;
pub use member::{Me, Member};
pub use status::{Status, StatusLine};
pub use why::Why;
