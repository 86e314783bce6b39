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
#[cfg(test)]
mod tests;

pub use claim::{CLAIM_BYTES_MAX, Claim, Doubt, of_bundle, of_simple};
pub use key::{KEY_BYTES_MAX, NoKey, PublicKey};
pub(in crate::image) use lists::is_signatures;
pub use lists::{
    Beside, Candidate, Candidates, MANIFESTS_MAX, SIGNATURES_MAX, beside, candidates, referrers,
    referrers_tag, signature_tag,
};

/// Media types and annotations of cosign and sigstore.
mod words {
    /// A claim of simple signing.
    pub(super) const SIMPLE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
    /// What an artifact with such claims calls itself where it refers to an image.
    pub(super) const SIMPLE_ARTIFACT: &str = "application/vnd.dev.cosign.artifact.sig.v1+json";
    /// A bundle, and the artifact that it is in.
    pub(super) const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
    /// What some registries, and cosign's own list under the fallback tag, call any artifact.
    pub(super) const EMPTY: &str = "application/vnd.oci.empty.v1+json";
    /// The signature of a claim.
    pub(super) const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
    /// What the statement in a bundle says, by the list that names it.
    pub(super) const SAYS: &str = "dev.sigstore.bundle.predicateType";
    /// What an entry of the layout of `cosign save` is.
    pub(super) const KIND: &str = "kind";
    pub(super) const KIND_SIGNATURES: &str = "dev.cosignproject.cosign/sigs";
    /// A statement that is a signature of an image, and not an attestation about it.
    pub(super) const SIGN: &str = "https://sigstore.dev/cosign/sign/v1";
}
