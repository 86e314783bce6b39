//! What is durable: volumes, images and activations, in one SQLite file.
//!
//! A state, its facts and its history event are written in ONE transaction ([`Registry::write`]).
//! Knows no pool, no network and no tar: ids, digests and names come from the caller. The states
//! and their edges are in [`state`]; the tables are in `schema/`.

mod digest;
mod error;
mod facts;
mod file;
mod ids;
mod past;
mod read;
mod rebuild;
mod rows;
pub mod run;
pub mod state;
mod write;

pub use digest::{Digest, chain_id};
pub use error::{Error, Kind};
pub use facts::arrivals::{Arrival, ArrivalState, NewArrival};
pub use facts::catalogs::{Believed, CatalogFact, NewCatalog};
pub use facts::configs::{Made, MadeOf};
pub use facts::devices::Device;
pub use facts::disks::{DiskState, Fork, Point, PointState};
pub use facts::quarantine::Quarantined;
pub use facts::scans::{Scan, ScanFinding, Severity};
pub use facts::signatures::Signature;
pub use facts::sources::Known;
pub use file::check::Finding;
pub use file::schema::{APPLICATION_ID, Registry, SCHEMA_VERSION};
pub use ids::{RunId, VolumeId};
pub use past::counters::{Counter, DURATION_MS, seconds};
pub use past::history::{Clock, Keep, Moment, Pruned};
pub use read::Totals;
pub use rebuild::{
    ActivationFact, Facts, ImageFact, LayerFact, LeftoverFact, SourceFact, UnsaidFact,
};
pub use rows::{
    Activation, Blob, Event, Image, ImageLayer, KnownBy, Role, Source, StoreBinding, Ttl, Volume,
    WhenClosed,
};
pub use run::askers::{Asked, Asker};
pub use run::lives::{Death, Life};
pub use run::webhooks::Webhook;
pub use run::{Enqueued, NewRun, Run, RunState, Verb};
pub use state::{ActivationState, Seal, VolumeState};
pub use write::{NewActivation, NewVolume, Reserved, Write};
