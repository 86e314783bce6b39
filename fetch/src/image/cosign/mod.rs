//! Signatures that `cosign sign --key` makes of images, judged by public keys: what the keys, the signed claims and the
//! lists of signatures say. Fetching them is the caller's.
//!
//! Two forms are read. The older one is a manifest under the tag `sha256-<hex>.sig`, in which each layer is a claim of
//! "simple signing" with its signature in an annotation (cosign's specs/SIGNATURE_SPEC.md). The newer one is a bundle of
//! sigstore (protobuf-specs, sigstore_bundle.proto, v0.3): a statement of in-toto in an envelope of DSSE, in an artifact
//! that refers to the image (distribution-spec, "Listing Referrers"). Certificates, transparency logs and time stamps,
//! which a bundle may carry besides, say nothing here: a key is trusted because it was named.

mod claim;
mod key;
mod lists;
pub(crate) mod marks;
#[cfg(test)]
mod tests;
mod words;

pub use claim::{CLAIM_BYTES_MAX, Claim, Doubt, of_bundle, of_simple};
pub use key::{KEY_BYTES_MAX, NoKey, PublicKey};
pub use lists::{
    Beside, Candidate, Candidates, MANIFESTS_MAX, SIGNATURES_MAX, beside, candidates, referrers,
};
pub use marks::{referrers_tag, signature_tag};
