//! What is durable: volumes, images and activations, in one SQLite file.
//!
//! A state, its facts and its history event are written in ONE transaction ([`Registry::write`]).
//! Knows no pool, no network and no tar: ids, digests and names come from the caller. The states
//! and their edges are in [`state`]; the tables are in `schema/`.

mod activations;
mod begins;
mod catalogs;
mod check;
mod condemned;
mod copy;
mod counters;
mod digest;
mod error;
mod history;
mod inherit;
mod lives;
mod pages;
#[cfg(test)]
mod plans;
mod quarantine;
mod read;
mod rebuild;
mod rows;
pub mod run;
mod scans;
mod schema;
mod sources;
pub mod state;
mod unused;
mod webhooks;
mod write;

pub use catalogs::{Believed, CatalogFact, NewCatalog};
pub use check::Finding;
pub use counters::{Counter, DURATION_MS, seconds};
pub use digest::{Digest, chain_id};
pub use error::{Error, Kind};
pub use history::{Keep, Moment, Pruned};
pub use lives::{Death, Life};
pub use quarantine::Quarantined;
pub use read::Totals;
pub use rebuild::{
    ActivationFact, Facts, ImageFact, LayerFact, LeftoverFact, SourceFact, UnsaidFact,
};
pub use rows::{
    Activation, Blob, Event, Image, ImageLayer, KnownBy, Role, Source, StoreBinding, Volume,
    WhenClosed,
};
pub use run::{Enqueued, NewRun, Run, RunState, Verb};
pub use scans::{Scan, ScanFinding, Severity};
pub use schema::{APPLICATION_ID, Registry, SCHEMA_VERSION};
pub use sources::Known;
pub use state::{ActivationState, Seal, VolumeState};
pub use webhooks::Webhook;
pub use write::{NewActivation, NewVolume, Reserved, Write};
