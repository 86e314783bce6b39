//! An S3 object becomes a verified byte stream, out of a network that lies, stalls and dies.
//!
//! [`Client::layers`] lists an image, [`Client::open`] gives a [`Body`]: a `Read` whose bytes are in
//! order, of the promised length and of the promised digest, or an `Err`. Nothing is known here of
//! archives, devices or databases. ureq moves every byte, rust-s3 only signs.

mod answer;
mod body;
#[cfg(test)]
mod boto;
mod breaker;
mod chain;
mod checksum;
mod client;
mod clock;
mod configured;
mod credentials;
mod date;
mod digest;
mod endpoint;
mod error;
mod fallback;
mod feed;
#[cfg(test)]
mod fuzz;
mod guard;
mod http;
mod identity;
mod interim;
mod leftover;
mod listing;
mod metadata;
mod object;
mod open;
mod options;
mod pin;
mod pressure;
mod process;
mod promise;
mod proxy;
mod range;
mod ranges;
mod redirect;
mod retry;
mod route;
mod shared;
mod sign;
mod spool;
mod stream;
mod sts;
mod trust;
mod vigil;
mod wording;
mod words;
mod xml;

pub use answer::Answer;
pub use body::{Body, Summary};
pub use client::Client;
pub use clock::{Clock, Time};
pub use digest::{parse_digest, write_digest};
pub use error::{Error, Kind};
pub use fallback::Fallback;
pub use leftover::{Leftover, leftovers};
pub use object::{Expect, ImageRef, Layer, Object, ObjectRef};
pub use options::{Addressing, CredentialsFrom, Event, Options, Stop, Watch};
pub use retry::may_retry;
pub use shared::Fault;

/// Opens one object with no expectations: its length is checked, its digest is in the summary.
///
/// # Errors
/// As [`Client::new`] and [`Client::open`].
pub fn open(object: &ObjectRef, options: &Options) -> Result<Body, Error> {
    Client::new(options)?.open(object, &Expect::default())
}
