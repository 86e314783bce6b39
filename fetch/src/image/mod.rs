//! What the world's image documents say: references, descriptors, indexes, manifests, configs, platforms.
//!
//! Pure: bytes in, values or a refusal out. A document is hostile until its digest and its size were checked; who
//! reads it does that with [`Descriptor::check`]. Rules are from the OCI image specification (image-spec) and, where
//! Docker's own documents differ, from distribution's manifest-v2-2 and moby's tarexport.

mod above;
mod archive;
pub(crate) mod authfile;
pub(crate) mod challenge;
mod config;
pub mod cosign;
mod descriptor;
mod digest;
mod edit;
mod error;
#[cfg(test)]
mod fuzz;
mod index;
mod json;
mod manifest;
mod platform;
mod registry;
mod written;

pub use above::{Above, WithLayer, with_layer};
pub use archive::{ArchivePick, Archived, Archives};
pub use config::Config;
pub use descriptor::{Descriptor, Media};
pub use digest::Digest;
pub use edit::{Entry, LAYOUT, Packed, manifest_of, media_type_of, with_entries};
pub use error::{Document, Error};
pub use index::{ACCEPT, Index, Pick, named, told};
pub use json::{DOCUMENT_BYTES_MAX, is_layout};
pub use manifest::{LAYERS_MAX, Manifest};
pub use platform::Platform;
pub use registry::RegistryRef;
