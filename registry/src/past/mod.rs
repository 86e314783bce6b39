//! How much of the past is kept, and what is counted of it.

pub(crate) mod counters;
pub(crate) mod history;
#[cfg(test)]
mod plans;
pub(crate) mod ttl;
pub(crate) mod unused;
