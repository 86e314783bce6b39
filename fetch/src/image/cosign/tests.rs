//! By what cosign itself wrote (`tests/cosign/`), and by keys made here for what it never would.

use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};

use super::words::{BUNDLE, SIMPLE};
use super::*;
use crate::image::{Digest, Error, Index, Pick};
use crate::text::base64;

const KEY: &str = include_str!("../../../tests/cosign/key.pem");
const CLAIM: &[u8] = include_bytes!("../../../tests/cosign/claim.json");
const MANIFEST: &[u8] = include_bytes!("../../../tests/cosign/signatures.json");
const REFERRERS: &[u8] = include_bytes!("../../../tests/cosign/referrers.json");
const REFERRER: &[u8] = include_bytes!("../../../tests/cosign/referrer.json");
const ATTESTS: &[u8] = include_bytes!("../../../tests/cosign/attests.json");
const BUNDLE_BYTES: &[u8] = include_bytes!("../../../tests/cosign/bundle.json");
const ATTESTATION: &[u8] = include_bytes!("../../../tests/cosign/attestation.json");
const SAVED: &[u8] = include_bytes!("../../../tests/cosign/saved.json");

fn image() -> Digest {
    Digest::parse("sha256:0f430f4f7819988dd90b0cfa2d0acecfaf55d57348338a9c6cec1609dfb90f47")
        .unwrap()
}

/// A key whose private half is here.
struct Own(EcdsaKeyPair, PublicKey);

impl Own {
    fn new() -> Own {
        let algorithm = &ECDSA_P256_SHA256_ASN1_SIGNING;
        let rng = SystemRandom::new();
        let pair = EcdsaKeyPair::generate_pkcs8(algorithm, &rng).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, pair.as_ref(), &rng).unwrap();
        let mut der = base64::decoded("MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAA").unwrap();
        der.truncate(26);
        der.extend(pair.public_key().as_ref());
        let body = base64::encoded(&der);
        let pem = format!("-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n");
        Own(pair, PublicKey::from_pem(&pem).unwrap())
    }

    fn sign(&self, bytes: &[u8]) -> String {
        base64::encoded(self.0.sign(&SystemRandom::new(), bytes).unwrap().as_ref())
    }

    fn simple(&self, claim: &str) -> Result<Claim, Doubt> {
        of_simple(
            claim.as_bytes(),
            &self.sign(claim.as_bytes()),
            std::slice::from_ref(&self.1),
            &[image()],
        )
    }

    fn bundle(&self, media: &str, statement: &str) -> String {
        let signed = format!("DSSEv1 {} {media} {} {statement}", media.len(), statement.len());
        let (payload, sig) = (base64::encoded(statement.as_bytes()), self.sign(signed.as_bytes()));
        format!(
            r#"{{"mediaType":"{BUNDLE}","dsseEnvelope":{{"payload":"{payload}","payloadType":"{media}","signatures":[{{"sig":"{sig}"}}]}}}}"#
        )
    }

    fn bundled(&self, media: &str, statement: &str) -> Result<Claim, Doubt> {
        of_bundle(
            self.bundle(media, statement).as_bytes(),
            std::slice::from_ref(&self.1),
            &[image()],
        )
    }
}

fn claim(digest: &str, kind: &str) -> String {
    format!(
        r#"{{"critical":{{"identity":{{"docker-reference":"h/app"}},"image":{{"docker-manifest-digest":"{digest}"}},"type":"{kind}"}},"optional":null}}"#
    )
}

fn statement(hex: &str, says: &str) -> String {
    format!(
        r#"{{"_type":"https://in-toto.io/Statement/v1","subject":[{{"digest":{{"sha256":"{hex}"}}}}],"predicateType":"{says}","predicate":{{}}}}"#
    )
}

const SIGN: &str = words::SIGN;
const IN_TOTO: &str = "application/vnd.in-toto+json";
const SIMPLE_KIND: &str = "cosign container image signature";

#[test]
fn the_older_form_as_cosign_writes_it() {
    let key = PublicKey::from_pem(KEY).unwrap();
    let found = candidates(MANIFEST, &[image()]).unwrap();
    let [Candidate::Simple { claim, signature }] = found.list.as_slice() else {
        panic!("{found:?}");
    };
    assert_eq!((claim.digest, claim.size), (Digest::of(CLAIM), CLAIM.len() as u64));
    let other = Own::new();
    let keys = [other.1.clone(), key.clone()];
    let judged = of_simple(CLAIM, signature, &keys, &[Digest([1; 32]), image()]).unwrap();
    let reference = Some("127.0.0.1:15077/app".to_owned());
    assert_eq!(judged, Claim { key: key.id(), signed: image(), reference });
    assert_eq!(of_simple(CLAIM, signature, &[other.1], &[image()]), Err(Doubt::OtherKey));
    let elsewhere = of_simple(CLAIM, signature, &keys, &[Digest([1; 32])]);
    assert_eq!(elsewhere, Err(Doubt::OtherImage { got: image().to_string() }));
    let mut altered = CLAIM.to_vec();
    altered.push(b'\n');
    assert_eq!(of_simple(&altered, signature, &keys, &[image()]), Err(Doubt::OtherKey));
}

#[test]
fn the_newer_form_as_cosign_writes_it() {
    let key = PublicKey::from_pem(KEY).unwrap();
    // cosign's own list under the tag does not say what the artifacts are.
    let (manifests, more) = referrers(REFERRERS).unwrap();
    assert_eq!((manifests.len(), more), (2, 0));
    assert_eq!(manifests[0].digest, Digest::of(REFERRER));
    let found = candidates(REFERRER, &[image()]).unwrap();
    let [Candidate::Bundle(bundle)] = found.list.as_slice() else { panic!("{found:?}") };
    assert_eq!(bundle.digest, Digest::of(BUNDLE_BYTES));
    let judged = of_bundle(BUNDLE_BYTES, std::slice::from_ref(&key), &[image()]).unwrap();
    assert_eq!(judged, Claim { key: key.id(), signed: image(), reference: None });
    // It refers to another image.
    assert_eq!(candidates(REFERRER, &[Digest([1; 32])]).unwrap(), Candidates::default());
    // An attestation by the same key is no signature of the image, whatever its list says of it.
    assert_eq!(candidates(ATTESTS, &[image()]).unwrap(), Candidates::default());
    let judged = of_bundle(ATTESTATION, &[key], &[image()]);
    let got = "https://cosign.sigstore.dev/attestation/v1".to_owned();
    assert_eq!(judged, Err(Doubt::OtherKind { got }));
}

#[test]
fn a_saved_layout_has_its_image_and_beside_it_the_signatures() {
    let found = beside(SAVED, &[image()]).unwrap();
    assert_eq!(found.manifests.len(), 1);
    assert_eq!(found.manifests[0].digest, Digest::of(MANIFEST));
    let index = Index::read(SAVED).unwrap();
    let only = index.pick(&Pick::Only).unwrap();
    assert_eq!(only.entries()[0].digest, image(), "what is signed is the only image");
}

#[test]
fn what_a_trusted_key_signs_as_something_else_is_no_signature_of_an_image() {
    let own = Own::new();
    let digest = image().to_string();
    assert!(own.simple(&claim(&digest, SIMPLE_KIND)).is_ok());
    for (bad, wanted) in [
        (claim(&digest, "another type"), "signed as \"another type\""),
        (claim("sha256:00", SIMPLE_KIND), "it is for \"sha256:00\""),
        (claim(&digest.to_uppercase(), SIMPLE_KIND), "it is for"),
        (claim(&digest, "x\\u001b[2J\u{202e}"), "signed as"),
        (claim(&digest, "x\u{1b}[2J"), "cannot be read"),
        ("{}".into(), "missing field `critical`"),
        ("[]".into(), "cannot be read"),
        ("\u{0}".into(), "cannot be read"),
        (format!("{{\"critical\":{}", "[".repeat(5000)), "cannot be read"),
        // Of two it would be the last that counts, unseen.
        (
            claim(&digest, SIMPLE_KIND).replace("\"type\"", "\"type\":\"x\",\"type\""),
            "duplicate field",
        ),
        ("x".repeat(70_000), "at most 65536 are read"),
    ] {
        let said = own.simple(&bad).unwrap_err().to_string();
        assert!(said.contains(wanted), "{wanted}: {said}");
        assert!(said.len() < 400 && !said.chars().any(char::is_control), "{said:?}");
    }
    let good = claim(&digest, SIMPLE_KIND);
    for garbled in ["", "not base64", "====", "AAAA", &"A".repeat(100_000)] {
        let judged = of_simple(good.as_bytes(), garbled, std::slice::from_ref(&own.1), &[image()]);
        assert!(matches!(judged, Err(Doubt::Garbled { .. } | Doubt::OtherKey)), "{judged:?}");
    }
}

#[test]
fn a_bundle_that_is_none_or_says_something_else_is_told_so() {
    let own = Own::new();
    let hex = image().hex();
    assert!(own.bundled(IN_TOTO, &statement(&hex, SIGN)).is_ok());
    for (media, statement, wanted) in [
        ("application/json", statement(&hex, SIGN), "signed as \"application/json\""),
        (IN_TOTO, statement(&hex, "https://slsa.dev/provenance/v1"), "slsa.dev"),
        (IN_TOTO, statement(&"0".repeat(64), SIGN), "it is for"),
        (IN_TOTO, statement("../x", SIGN), "it is for \"no image\""),
        (IN_TOTO, "{}".into(), "missing field `predicateType`"),
        (IN_TOTO, "nonsense".into(), "its statement cannot be read"),
    ] {
        let said = own.bundled(media, &statement).unwrap_err().to_string();
        assert!(said.contains(wanted), "{wanted}: {said}");
    }
    let good = own.bundle(IN_TOTO, &statement(&hex, SIGN));
    let keys = [own.1.clone()];
    let judged =
        |text: &str| of_bundle(text.as_bytes(), &keys, &[image()]).unwrap_err().to_string();
    for (from, to, wanted) in [
        ("\"dsseEnvelope\"", "\"messageSignature\"", "without a DSSE envelope"),
        ("\"payload\":\"", "\"payload\":\"!", "its payload is missing or is not base64"),
        ("\"sig\":\"", "\"sig\":\"!", "its signature is missing or is not base64"),
        ("\"sig\":\"ME", "\"sig\":\"MF", "none of these keys"),
        (IN_TOTO, "application/vnd.in-toto+jsom", "none of these keys"),
        ("[{\"sig\"", "[{},{\"sig\"", "has 2 signatures"),
    ] {
        let text = good.replacen(from, to, 1);
        assert_ne!(text, good, "{from}");
        assert!(judged(&text).contains(wanted), "{from}: {}", judged(&text));
    }
    let many = format!("[{}{{\"sig\"", "{},".repeat(9999));
    assert!(judged(&good.replacen("[{\"sig\"", &many, 1)).contains("has 10000 signatures"));
    assert!(judged(&good.replacen("{\"sig\"", "", 1)).contains("cannot be read"));
    let none = r#"{"dsseEnvelope":{"payload":"","payloadType":"","signatures":[]}}"#;
    assert!(judged(none).contains("has 0 signatures"));
    assert!(judged(&" ".repeat(70_000)).contains("at most 65536 are read"));
}

fn layers(count: usize, layer: &str) -> String {
    let layers = vec![layer; count].join(",");
    format!(r#"{{"schemaVersion":2,"layers":[{layers}]}}"#)
}

#[test]
fn any_number_of_signatures_is_counted_and_cut() {
    let digest = image().to_string();
    let layer = format!(
        r#"{{"mediaType":"{SIMPLE}","digest":"{digest}","size":7,"annotations":{{"{}":"AAAA"}}}}"#,
        words::SIGNATURE
    );
    let found = candidates(layers(10_000, &layer).as_bytes(), &[image()]).unwrap();
    assert_eq!((found.list.len(), found.more), (SIGNATURES_MAX, 10_000 - SIGNATURES_MAX));
    let refused = candidates(layers(20_000, &layer).as_bytes(), &[image()]).unwrap_err();
    assert!(matches!(refused, Error::TooLarge { .. }), "{refused}");
    // Of those that are no signature none is in the way of the others.
    let others = [
        layer.replace("\"size\":7", "\"size\":70000"),
        layer.replace("\"size\":7", "\"size\":-1"),
        layer.replace(&digest, "sha512:00"),
        layer.replace(SIMPLE, "application/vnd.oci.image.layer.v1.tar"),
        layer.replace(words::SIGNATURE, "another"),
        "{}".to_owned(),
        layer.clone(),
    ];
    let text = format!(r#"{{"layers":[{}]}}"#, others.join(","));
    let found = candidates(text.as_bytes(), &[image()]).unwrap();
    assert_eq!((found.list.len(), found.more), (1, 1));
    assert!(candidates(b"{\"manifests\":[],\"layers\":[]}", &[image()]).is_err());

    let entry = format!(
        r#"{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{digest}","size":7}}"#
    );
    let listed = |entries: &[String]| format!(r#"{{"manifests":[{}]}}"#, entries.join(","));
    let mut entries = vec![entry.clone(); 5000];
    // The likely one is looked at first, wherever it stands among those that are read.
    let likely = entry.replace("\"size\":7", &format!("\"size\":8,\"artifactType\":\"{BUNDLE}\""));
    entries[3000] = likely.clone();
    let (manifests, more) = referrers(listed(&entries).as_bytes()).unwrap();
    assert_eq!(
        (manifests.len(), manifests[0].size, more),
        (MANIFESTS_MAX, 8, 5000 - MANIFESTS_MAX)
    );
    let other =
        entry.replace("\"size\":7", "\"size\":9,\"artifactType\":\"application/spdx+json\"");
    let (manifests, more) = referrers(listed(&[other.clone(), "{}".into()]).as_bytes()).unwrap();
    assert_eq!((manifests, more), (Vec::new(), 0));
    let tagged = |tag: &str| {
        entry.replace(
            "\"size\":7",
            &format!(
                "\"size\":7,\"annotations\":{{\"org.opencontainers.image.ref.name\":\"{tag}\"}}"
            ),
        )
    };
    let index = listed(&[
        tagged("v1"),
        tagged(&signature_tag(&image())),
        tagged(&signature_tag(&Digest([1; 32]))),
        likely,
        other,
    ]);
    let found = beside(index.as_bytes(), &[image()]).unwrap();
    assert_eq!((found.manifests.len(), found.lists.len(), found.more), (2, 0, 0));
    let index = listed(&vec![tagged(&signature_tag(&image())); 3000]);
    let found = beside(index.as_bytes(), &[image()]).unwrap();
    assert_eq!((found.manifests.len(), found.more), (MANIFESTS_MAX, 3000 - MANIFESTS_MAX));
}
