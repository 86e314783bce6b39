//! Signatures of images in the very bytes that cosign writes (cosign 3.1.1; `fetch/tests/cosign` has some of its own), by
//! keys that are made here.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// What stands before the point of a public key of ECDSA P-256, as base64 of 27 bytes (RFC 5480): the last is the point's own.
const HEAD: &str = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE";

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
const EMPTY: &str = "application/vnd.oci.empty.v1+json";

/// A key, with its private half.
#[derive(Debug)]
pub struct Signer(EcdsaKeyPair);

/// A manifest, and the blobs that it names.
#[derive(Debug, Clone)]
pub struct Signed {
    /// The manifest as it is written.
    pub manifest: Vec<u8>,
    /// Its config and its layers.
    pub blobs: Vec<Vec<u8>>,
}

/// sha256 in hex.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let bits = three.iter().fold(0, |bits, byte| bits << 8 | usize::from(*byte));
        let bits = bits << (8 * (3 - three.len()));
        for digit in 0..4 {
            let known = digit <= three.len();
            text.push(if known { char::from(DIGITS[bits >> (18 - 6 * digit) & 63]) } else { '=' });
        }
    }
    text
}

fn described(media: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media, "size": bytes.len(), "digest": format!("sha256:{}", hex(bytes))})
}

impl Signer {
    /// A fresh one.
    ///
    /// # Errors
    /// There is no randomness.
    pub fn new() -> Result<Signer> {
        let (algorithm, random) = (&ECDSA_P256_SHA256_ASN1_SIGNING, SystemRandom::new());
        let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random);
        let document = document.map_err(|error| anyhow!("make a key: {error}"))?;
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random);
        pair.map(Signer).map_err(|error| anyhow!("read the key that was made: {error}"))
    }

    /// Writes the public half, as `cosign generate-key-pair` does.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_public(&self, file: &Path) -> Result<()> {
        // The head's 27 bytes are whole groups, so what follows is encoded by itself.
        let body = format!("{HEAD}{}", base64(&self.0.public_key().as_ref()[1..]));
        let lines: Vec<String> = body
            .as_bytes()
            .chunks(64)
            .map(|line| String::from_utf8_lossy(line).into_owned())
            .collect();
        let text =
            format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"));
        fs::write(file, text).with_context(|| file.display().to_string())
    }

    /// The signature of these bytes, as base64 of DER.
    ///
    /// # Errors
    /// There is no randomness.
    pub fn sign(&self, bytes: &[u8]) -> Result<String> {
        let signature = self.0.sign(&SystemRandom::new(), bytes);
        let signature = signature.map_err(|error| anyhow!("sign: {error}"))?;
        Ok(base64(signature.as_ref()))
    }

    /// The manifest that `sha256-<hex>.sig` is to name: a signature of the image of this digest, `sha256:..`.
    ///
    /// # Errors
    /// There is no randomness.
    pub fn older(&self, digest: &str, reference: &str) -> Result<Signed> {
        let claim = claim(digest, reference);
        let signature = self.sign(&claim)?;
        Ok(older(&[(claim, signature)]))
    }

    /// The artifact that refers to the image of this digest and size, with a bundle of its signature.
    ///
    /// # Errors
    /// There is no randomness.
    pub fn newer(&self, digest: &str, size: usize) -> Result<Signed> {
        let hex = digest.trim_start_matches("sha256:");
        let statement = format!(
            "{{\"_type\":\"https://in-toto.io/Statement/v1\",\"subject\":[{{\"digest\":{{\"sha256\":\"{hex}\"}},\"annotations\":{{}}}}],\
             \"predicateType\":\"https://sigstore.dev/cosign/sign/v1\",\"predicate\":{{}}}}"
        );
        let media = "application/vnd.in-toto+json";
        let signed = format!("DSSEv1 {} {media} {} {statement}", media.len(), statement.len());
        let (payload, sig) = (base64(statement.as_bytes()), self.sign(signed.as_bytes())?);
        let bundle = format!(
            "{{\"mediaType\":\"{BUNDLE}\",\"verificationMaterial\":{{\"publicKey\":{{\"hint\":\"\"}}}},\"dsseEnvelope\":{{\
             \"payload\":\"{payload}\",\"payloadType\":\"{media}\",\"signatures\":[{{\"sig\":\"{sig}\"}}]}}}}"
        );
        let (bundle, empty) = (bundle.into_bytes(), b"{}".to_vec());
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": described(EMPTY, &empty),
            "layers": [described(BUNDLE, &bundle)],
            "annotations": {"dev.sigstore.bundle.content": "dsse-envelope",
                "dev.sigstore.bundle.predicateType": "https://sigstore.dev/cosign/sign/v1"},
            "subject": {"mediaType": MANIFEST, "size": size, "digest": digest},
            "artifactType": BUNDLE,
        });
        Ok(Signed { manifest: manifest.to_string().into_bytes(), blobs: vec![empty, bundle] })
    }
}

/// What the older form signs.
#[must_use]
pub fn claim(digest: &str, reference: &str) -> Vec<u8> {
    format!(
        "{{\"critical\":{{\"identity\":{{\"docker-reference\":\"{reference}\"}},\"image\":{{\"docker-manifest-digest\":\"{digest}\"}},\
         \"type\":\"cosign container image signature\"}},\"optional\":null}}"
    )
    .into_bytes()
}

/// A manifest of the older form with these claims and signatures.
#[must_use]
pub fn older(claims: &[(Vec<u8>, String)]) -> Signed {
    let config = b"{\"architecture\":\"\",\"os\":\"\",\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[]},\"config\":{}}".to_vec();
    let layer = |(claim, signature): &(Vec<u8>, String)| {
        let mut layer = described("application/vnd.dev.cosign.simplesigning.v1+json", claim);
        layer["annotations"] = json!({"dev.cosignproject.cosign/signature": signature});
        layer
    };
    let layers: Vec<Value> = claims.iter().map(layer).collect();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "layers": layers,
        "config": described("application/vnd.oci.image.config.v1+json", &config),
    });
    let mut blobs: Vec<Vec<u8>> = claims.iter().map(|(claim, _)| claim.clone()).collect();
    blobs.dedup();
    blobs.push(config);
    Signed { manifest: manifest.to_string().into_bytes(), blobs }
}

/// The list that stands under `sha256-<hex>`, as cosign writes it: it does not say what the artifacts are.
#[must_use]
pub fn referrers(artifacts: &[&Signed]) -> Vec<u8> {
    let entry = |artifact: &&Signed| {
        let mut entry = described(MANIFEST, &artifact.manifest);
        entry["artifactType"] = EMPTY.into();
        entry
    };
    let entries: Vec<Value> = artifacts.iter().map(entry).collect();
    let media = "application/vnd.oci.image.index.v1+json";
    json!({"schemaVersion": 2, "mediaType": media, "manifests": entries}).to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4648 10, and a claim as cosign wrote it.
    #[test]
    fn the_bytes_are_cosigns_own() {
        for (plain, text) in [("f", "Zg=="), ("fo", "Zm8="), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(plain.as_bytes()), text);
        }
        let own = include_bytes!("../../fetch/tests/cosign/claim.json");
        let digest = "sha256:0f430f4f7819988dd90b0cfa2d0acecfaf55d57348338a9c6cec1609dfb90f47";
        assert_eq!(claim(digest, "127.0.0.1:15077/app"), own);
    }
}
