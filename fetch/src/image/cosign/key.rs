//! Public keys, as `cosign generate-key-pair` writes them.

use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};

use crate::image::digest::Digest;
use crate::text::base64;

/// The largest file of a key that is read, bytes; cosign's has 178.
pub const KEY_BYTES_MAX: u64 = 16 << 10;

/// What stands before the point of each key of ECDSA P-256 (RFC 5480 2; the curve by its name, the point not compressed).
const HEAD: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// Bytes of a point that is not compressed.
const POINT_BYTES: usize = 65;

/// A public key of ECDSA P-256.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    point: Vec<u8>,
    id: Digest,
}

/// Why a text is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoKey {
    /// There is no `PUBLIC KEY` in PEM.
    #[error("there is no public key in PEM in it (-----BEGIN PUBLIC KEY-----)")]
    NotPem,
    /// It is a private key.
    #[error(
        "this is a private key, which belongs to whoever signs; `cosign public-key --key FILE` writes the public one"
    )]
    Private,
    /// There is more than one.
    #[error("there is more than one key in it; use a file for each")]
    Several,
    /// It is a key of another kind, or not in the usual encoding.
    #[error(
        "only ECDSA P-256 in its uncompressed form is known, which `cosign generate-key-pair` makes"
    )]
    OtherKind,
}

impl PublicKey {
    /// Reads a key in PEM (RFC 7468 13).
    ///
    /// # Errors
    /// [`NoKey`].
    pub fn from_pem(text: &str) -> Result<PublicKey, NoKey> {
        const BEGIN: &str = "-----BEGIN PUBLIC KEY-----";
        const END: &str = "-----END PUBLIC KEY-----";
        if text.contains("PRIVATE KEY-----") {
            return Err(NoKey::Private);
        }
        let (_, rest) = text.split_once(BEGIN).ok_or(NoKey::NotPem)?;
        let (body, rest) = rest.split_once(END).ok_or(NoKey::NotPem)?;
        if rest.contains("-----BEGIN") {
            return Err(NoKey::Several);
        }
        let body: String = body.chars().filter(|c| !c.is_ascii_whitespace()).collect();
        let der = base64::decoded(&body).ok_or(NoKey::NotPem)?;
        let point = der.strip_prefix(&HEAD).ok_or(NoKey::OtherKind)?;
        // 4: not compressed (SEC 1, 2.3.3).
        match point.len() == POINT_BYTES && point[0] == 4 {
            true => Ok(PublicKey { point: point.to_vec(), id: Digest::of(&der) }),
            false => Err(NoKey::OtherKind),
        }
    }

    /// sha256 of the key as DER, which is what tells it from others, whatever file it came from.
    pub fn id(&self) -> Digest {
        self.id
    }

    /// Whether this key has signed these bytes; `signature` is in DER, as cosign writes it.
    pub(super) fn has_signed(&self, bytes: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &self.point)
            .verify(bytes, signature)
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by cosign 3.1.1.
    const PEM: &str = include_str!("../../../tests/cosign/key.pem");

    #[test]
    fn a_key_of_cosigns_own_is_read_and_known_by_what_cosign_calls_it() {
        let key = PublicKey::from_pem(PEM).unwrap();
        // The hint that cosign puts into a bundle of this key.
        let hint = base64::decoded("GnxumwLUkpYN5v+BnKXXuawOx1OXL7UrCUzyhYxXJ3Y=").unwrap();
        assert_eq!(key.id().0, hint.as_slice());
        let spaced = PEM.replace('\n', "\r\n");
        assert_eq!(PublicKey::from_pem(&format!("a comment\n{spaced}")), Ok(key));
    }

    #[test]
    fn what_is_no_such_key_is_refused_with_what_it_is() {
        let p384 =
            "-----BEGIN PUBLIC KEY-----\nMHYwEAYHKoZIzj0CAQYFK4EEACID\n-----END PUBLIC KEY-----\n";
        let ed25519 = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";
        for (text, wanted) in [
            ("", NoKey::NotPem),
            ("RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3", NoKey::NotPem),
            ("-----BEGIN PUBLIC KEY-----\nMFkw", NoKey::NotPem),
            (&PEM.replace("MFkw", "MF!w"), NoKey::NotPem),
            ("-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\nx\n", NoKey::Private),
            (&PEM.repeat(2), NoKey::Several),
            (p384, NoKey::OtherKind),
            (ed25519, NoKey::OtherKind),
            // One byte more, one less, and a compressed point.
            (&PEM.replace("mBg==", "mBgA="), NoKey::OtherKind),
            (&PEM.replace("mBg==", "m"), NoKey::OtherKind),
            (&PEM.replace("AE2h1J", "AC2h1J"), NoKey::OtherKind),
        ] {
            assert_eq!(PublicKey::from_pem(text), Err(wanted), "{text}");
        }
    }
}
