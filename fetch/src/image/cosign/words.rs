//! Media types, annotations and types of statements of cosign and sigstore.

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
