//! What there is on this host, for people and monitors. Looks only.

pub mod health;
pub(crate) mod inventory;
pub(crate) mod listing;
pub mod metrics;
