//! What a signature claims, and whether a key that is trusted has made it. The signature is checked before the claim is
//! read.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::image::cosign::key::PublicKey;
use crate::image::cosign::words;
use crate::image::digest::Digest;
use crate::image::error::Document;
use crate::image::json::Few;
use crate::text::base64;
use crate::text::quote::quoted;

/// The largest claim or bundle that is read, bytes. A claim has some 300; a bundle with a certificate and the proof of a
/// transparency log some 10,000.
pub const CLAIM_BYTES_MAX: u64 = 64 << 10;

/// The type that a claim of simple signing has.
const SIMPLE_TYPE: &str = "cosign container image signature";

/// The type of what an envelope has in it.
const STATEMENT_MEDIA: &str = "application/vnd.in-toto+json";

/// Images of one statement.
const SUBJECTS_MAX: usize = 64;

/// What a trusted key has signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Which key: its [`PublicKey::id`].
    pub key: Digest,
    /// The digest of the manifest or index.
    pub signed: Digest,
    /// What the claim calls the image, where it says that (`docker-reference`). cosign does not compare it with the name
    /// under which an image is asked for, and a bundle has none, so it decides nothing.
    pub reference: Option<String>,
}

/// Why a signature does not count.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Doubt {
    /// It is longer than any honest one, bytes.
    #[error("it has {bytes} bytes; at most {CLAIM_BYTES_MAX} are read")]
    TooLarge {
        /// Its length, bytes.
        bytes: u64,
    },
    /// It is no base64, or there is none.
    #[error("its {what} is missing or is not base64")]
    Garbled {
        /// What.
        what: &'static str,
    },
    /// No key that is trusted has signed these bytes.
    #[error("none of these keys has made it")]
    OtherKey,
    /// What is signed cannot be read.
    #[error("its {what} cannot be read: {source}")]
    Json {
        /// What cannot.
        what: &'static str,
        /// Line, column and what stands there, by serde_json.
        r#source: String,
    },
    /// It was signed by a trusted key, and as something else than the signature of an image.
    #[error("it is signed as {}, which is no signature of an image", quoted(.got))]
    OtherKind {
        /// What it calls itself.
        got: String,
    },
    /// A bundle without exactly one signature.
    #[error("its bundle has {got} signatures; there has to be one")]
    Count {
        /// How many it has.
        got: usize,
    },
    /// It was signed by a trusted key, and for another image.
    #[error("it is for {}", quoted(.got))]
    OtherImage {
        /// What it is for.
        got: String,
    },
}

fn json<'a, T: Deserialize<'a>>(what: &'static str, bytes: &'a [u8]) -> Result<T, Doubt> {
    serde_json::from_slice(bytes).map_err(|error| Doubt::Json {
        what,
        source: error.to_string().chars().flat_map(char::escape_debug).take(200).collect(),
    })
}

fn bounded(bytes: &[u8]) -> Result<(), Doubt> {
    let length = bytes.len() as u64;
    if length > CLAIM_BYTES_MAX { Err(Doubt::TooLarge { bytes: length }) } else { Ok(()) }
}

/// The key of these that has signed the bytes.
fn signer(bytes: &[u8], signature: &str, keys: &[PublicKey]) -> Result<Digest, Doubt> {
    let signature = base64::decoded(signature).filter(|signature| !signature.is_empty());
    let signature = signature.ok_or(Doubt::Garbled { what: "signature" })?;
    let key = keys.iter().find(|key| key.has_signed(bytes, &signature));
    key.map(PublicKey::id).ok_or(Doubt::OtherKey)
}

#[derive(Deserialize)]
struct Simple {
    critical: Critical,
}

#[derive(Deserialize)]
struct Critical {
    identity: Identity,
    image: Image,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct Identity {
    #[serde(default, rename = "docker-reference")]
    reference: Option<String>,
}

#[derive(Deserialize)]
struct Image {
    #[serde(rename = "docker-manifest-digest")]
    digest: String,
}

/// A claim of simple signing (containers' "simple signing", with cosign's type): that one of `keys` has signed it, and
/// that it is for one of the digests of `images`.
///
/// # Errors
/// [`Doubt`].
pub fn of_simple(
    claim: &[u8],
    signature: &str,
    keys: &[PublicKey],
    images: &[Digest],
) -> Result<Claim, Doubt> {
    bounded(claim)?;
    let key = signer(claim, signature, keys)?;
    let Simple { critical } = json("claim", claim)?;
    if critical.kind != SIMPLE_TYPE {
        return Err(Doubt::OtherKind { got: critical.kind });
    }
    let signed = Digest::parse(&critical.image.digest).ok().filter(|of| images.contains(of));
    let signed = signed.ok_or(Doubt::OtherImage { got: critical.image.digest })?;
    Ok(Claim { key, signed, reference: critical.identity.reference })
}

#[derive(Deserialize)]
struct Bundle {
    #[serde(default, rename = "dsseEnvelope")]
    envelope: Option<Envelope>,
}

#[derive(Deserialize)]
struct Envelope {
    #[serde(default)]
    payload: String,
    #[serde(default, rename = "payloadType")]
    media: String,
    #[serde(default)]
    signatures: Few<OneSignature, 1>,
}

#[derive(Deserialize)]
struct OneSignature {
    #[serde(default)]
    sig: String,
}

#[derive(Deserialize)]
struct Statement {
    #[serde(rename = "predicateType")]
    says: String,
    #[serde(default)]
    subject: Few<Subject, SUBJECTS_MAX>,
}

#[derive(Deserialize)]
struct Subject {
    #[serde(default)]
    digest: BTreeMap<String, String>,
}

/// A bundle of sigstore with an envelope of DSSE: that one of `keys` has signed it, that it is the signature of an image
/// and not an attestation about it, and that it is for one of the digests of `images`.
///
/// # Errors
/// [`Doubt`].
pub fn of_bundle(bundle: &[u8], keys: &[PublicKey], images: &[Digest]) -> Result<Claim, Doubt> {
    bounded(bundle)?;
    let Bundle { envelope } = json("bundle", bundle)?;
    let Envelope { payload, media, signatures } =
        envelope.ok_or(Doubt::OtherKind { got: "a bundle without a DSSE envelope".into() })?;
    let statement = base64::decoded(&payload).ok_or(Doubt::Garbled { what: "payload" })?;
    let (signatures, more) = signatures.first();
    let [OneSignature { sig }] = signatures.as_slice() else {
        return Err(Doubt::Count { got: signatures.len() + more });
    };
    if more > 0 {
        return Err(Doubt::Count { got: signatures.len() + more });
    }
    // DSSE's protocol.md, "pre-authentication encoding".
    let mut signed = format!("DSSEv1 {} {media} {} ", media.len(), statement.len()).into_bytes();
    signed.extend(&statement);
    let key = signer(&signed, sig, keys)?;
    if media != STATEMENT_MEDIA {
        return Err(Doubt::OtherKind { got: media });
    }
    let Statement { says, subject } = json("statement", &statement)?;
    if says != words::SIGN {
        return Err(Doubt::OtherKind { got: says });
    }
    let subjects = subject
        .all(Document::Manifest, "subjects")
        .map_err(|error| Doubt::Json { what: "statement", source: error.to_string() })?;
    let of = |subject: &Subject| {
        let hex = subject.digest.get("sha256")?;
        Digest::parse(&format!("sha256:{hex}")).ok()
    };
    match subjects.iter().filter_map(of).find(|digest| images.contains(digest)) {
        Some(signed) => Ok(Claim { key, signed, reference: None }),
        None => {
            let got = subjects.first().and_then(of);
            Err(Doubt::OtherImage { got: got.map_or("no image".into(), |got| got.to_string()) })
        }
    }
}
