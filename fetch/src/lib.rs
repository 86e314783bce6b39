//! An S3 object, or a blob of a registry, becomes a verified byte stream, out of a network that lies, stalls and dies.
//!
//! [`Client::layers`] lists an image, [`Client::open`] gives a [`Body`]: a `Read` whose bytes are in
//! order, of the promised length and of the promised digest, or an `Err`. Nothing is known here of
//! archives, devices or databases. ureq moves every byte, rust-s3 only signs.

mod client;
mod clock;
mod distribution;
mod error;
mod flow;
mod http;
pub mod image;
mod keys;
mod name;
mod s3;
mod text;

pub use client::Client;
pub use client::registry::{Fetched, Which};
pub use clock::{Clock, Time};
pub use error::Error;
pub use error::answer::{Answer, Api};
pub use error::fault::Fault;
pub use error::gate::{Gate, Who};
pub use error::kind::Kind;
pub use error::wording::chain;
pub use flow::ahead::Ahead;
pub use flow::body::{Body, Summary};
pub use flow::leftover::{Leftover, leftovers};
pub use flow::upload::{Opening, Upload, Uploaded};
pub use http::retry::may_retry;
pub use name::locator::{BlobRef, Locator};
pub use name::reference::{Place, Reference};
pub use s3::endpoint::Addressing;
pub use s3::fallback::Fallback;
pub use s3::object::{Expect, ImageRef, Layer, Object, ObjectRef, Small};
pub use s3::options::{CredentialsFrom, Event, Options, Stop, Watch};
pub use s3::values::bytes as parse_bytes;
pub use s3::write::Condition;
pub use text::digest::{parse_digest, write_digest};

/// Opens one object with no expectations: its length is checked, its digest is in the summary.
///
/// # Errors
/// As [`Client::new`] and [`Client::open`].
pub fn open(object: &ObjectRef, options: &Options) -> Result<Body, Error> {
    Client::new(options)?.open(object, &Expect::default())
}
