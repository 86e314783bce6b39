//! An S3 object becomes a verified byte stream, out of a network that lies, stalls and dies.
//!
//! [`Client::layers`] lists an image, [`Client::open`] gives a [`Body`]: a `Read` whose bytes are in
//! order, of the promised length and of the promised digest, or an `Err`. Nothing is known here of
//! archives, devices or databases. ureq moves every byte, rust-s3 only signs.

mod answer;
mod body;
mod checksum;
mod client;
mod credentials;
mod date;
mod digest;
mod endpoint;
mod error;
mod feed;
#[cfg(test)]
mod fuzz;
mod guard;
mod http;
mod identity;
mod leftover;
mod listing;
mod metadata;
mod object;
mod open;
mod options;
mod pressure;
mod profile;
mod proxy;
mod range;
mod ranges;
mod redirect;
mod retry;
mod sign;
mod spool;
mod stream;
mod wording;
mod xml;

pub use answer::Answer;
pub use body::{Body, Summary};
pub use client::Client;
pub use digest::{parse_digest, write_digest};
pub use error::{Error, Kind};
pub use leftover::{Leftover, leftovers};
pub use object::{Expect, ImageRef, Layer, Object, ObjectRef};
pub use options::{Addressing, CredentialsFrom, Event, Options, Watch};
pub use retry::may_retry;

/// Opens one object with no expectations: its length is checked, its digest is in the summary.
///
/// # Errors
/// As [`Client::new`] and [`Client::open`].
pub fn open(object: &ObjectRef, options: &Options) -> Result<Body, Error> {
    Client::new(options)?.open(object, &Expect::default())
}
