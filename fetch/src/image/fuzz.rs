//! Seeded fuzz of the documents and references of images.
//!
//! The invariant: whatever comes in, nothing panics, what is accepted can be asked for and said again, and no message
//! is long or carries a control character. `VENEER_FUZZ_ROUNDS` makes it longer, `VENEER_FUZZ_SEED` another one.

use std::path::Path;

use crate::image::{
    ArchivePick, Archives, Config, Digest, Document, Entry, Error, Index, Manifest, Pick, Platform,
    cosign, is_layout, media_type_of, named, told, with_entries,
};
use crate::name::reference::Reference;

/// xorshift64*.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let next = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d);
        usize::try_from(next % limit.max(1) as u64).unwrap()
    }
}

const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// What cosign signed in `tests/cosign/`.
const SIGNED: &str = "sha256:0f430f4f7819988dd90b0cfa2d0acecfaf55d57348338a9c6cec1609dfb90f47";

/// Good ones, to be broken.
fn good() -> Vec<String> {
    let digest = format!("sha256:{HEX}");
    let manifest = "application/vnd.oci.image.manifest.v1+json";
    let config = "application/vnd.oci.image.config.v1+json";
    let layer = "application/vnd.oci.image.layer.v1.tar+gzip";
    vec![
        format!(
            r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{manifest}","digest":"{digest}","size":7,
               "platform":{{"os":"linux","architecture":"amd64","variant":"v1"}},
               "annotations":{{"org.opencontainers.image.ref.name":"v1"}}}},
               {{"mediaType":"{manifest}","digest":"{digest}","size":8,"platform":null}}]}}"#
        ),
        format!(
            r#"{{"schemaVersion":2,"mediaType":"{manifest}","config":{{"mediaType":"{config}","digest":"{digest}","size":7}},
               "layers":[{{"mediaType":"{layer}","digest":"{digest}","size":9}}]}}"#
        ),
        format!(
            r#"{{"os":"linux","architecture":"arm64","variant":"v8","created":"x","rootfs":{{"type":"layers",
               "diff_ids":["{digest}","{digest}"]}},"config":{{"User":"a:b","Env":["A=b"],"Cmd":["x"],"Labels":{{"k":"v"}},
               "ExposedPorts":{{"80/tcp":{{}}}}}},"history":[{{}}]}}"#
        ),
        r#"[{"Config":"a.json","RepoTags":["a:v1"],"Layers":["x/layer.tar","y/layer.tar"]}]"#
            .to_owned(),
        r#"{"imageLayoutVersion":"1.0.0"}"#.to_owned(),
        format!("oci:s3://bucket/images/app/@{digest}#linux/arm64/v8"),
        "oci:/srv/app:docker.io/library/x:1".to_owned(),
        "docker-archive:/srv/a.tar:app:v2".to_owned(),
        format!("docker://registry.example:5000/team/app:v2@{digest}"),
        "oci-archive:-".to_owned(),
        include_str!("../../tests/cosign/claim.json").to_owned(),
        include_str!("../../tests/cosign/bundle.json").to_owned(),
        include_str!("../../tests/cosign/signatures.json").to_owned(),
        include_str!("../../tests/cosign/referrer.json").to_owned(),
        include_str!("../../tests/cosign/referrers.json").to_owned(),
        include_str!("../../tests/cosign/saved.json").to_owned(),
        include_str!("../../tests/cosign/key.pem").to_owned(),
    ]
}

const PIECES: &[&str] = &[
    "null",
    "{}",
    "[]",
    "\"\"",
    "-1",
    "9223372036854775808",
    "1e400",
    "\"\\u0000\"",
    "\"\\ud800\"",
    "\u{1b}[31m",
    "[[[[[[[[",
    "{\"a\":",
    ",",
    ":",
    "\"",
    "sha256:",
    "sha512:",
    "../",
    "//",
    "#",
    "@",
    "@1",
    ":",
    "\0",
    "\u{7f}",
    "\u{feff}",
    "application/vnd.oci.image.index.v1+json",
    "+encrypted",
    "schemaVersion",
    "manifests",
    "layers",
    "config",
    "linux",
    "windows",
    "v99.99",
    "v",
    "docker.io/",
    "unknown",
];

fn text(dice: &mut Dice) -> Vec<u8> {
    let good = good();
    let mut bytes = good[dice.below(good.len())].clone().into_bytes();
    for _ in 0..dice.below(5) {
        let at = dice.below(bytes.len() + 1);
        match dice.below(6) {
            0 => bytes.truncate(at),
            1 if at < bytes.len() => bytes[at] ^= 1 << dice.below(8),
            2 => {
                let to = (at + dice.below(40)).min(bytes.len());
                bytes.drain(at..to);
            }
            3 => {
                let to = (at + dice.below(200)).min(bytes.len());
                let piece = bytes[at..to].to_vec();
                bytes.splice(at..at, piece);
            }
            4 => {
                let piece =
                    PIECES[dice.below(PIECES.len())].repeat(1 + dice.below(300) / 290 * 200);
                bytes.splice(at..at, piece.into_bytes());
            }
            _ => {
                // A value in the place of another: from one colon to the next comma or bracket.
                let Some(from) = bytes[at..].iter().position(|b| *b == b':').map(|p| at + p + 1)
                else {
                    continue;
                };
                let end = bytes[from..].iter().position(|b| b",]}".contains(b));
                let to = end.map_or(bytes.len(), |p| from + p);
                bytes.splice(from..to, PIECES[dice.below(PIECES.len())].bytes());
            }
        }
    }
    bytes
}

fn quiet(error: &Error) {
    quiet_text(&error.to_string());
}

fn quiet_text(said: &str) {
    assert!(!said.chars().any(char::is_control), "{said:?}");
    assert!(said.len() < 16 << 10, "{} bytes", said.len());
}

fn read<T>(result: Result<T, Error>) -> Option<T> {
    result.inspect_err(quiet).ok()
}

fn try_all(bytes: &[u8]) -> usize {
    let mut taken = 0;
    let wanted: Platform = "linux/arm64/v8.2".parse().unwrap();
    taken +=
        usize::from(read(told(bytes)).is_some()) + usize::from(read(is_layout(bytes)).is_some());
    media_type_of(bytes);
    if let Some(named) = read(named(bytes)) {
        taken += 1;
        for of in named {
            // Of whatever an index is made, it is one with this name in it.
            let entry = Entry::of(bytes, &of);
            if let Some(made) = read(with_entries(None, "v2", std::slice::from_ref(&entry))) {
                Index::read(&made.unwrap()).unwrap();
            }
        }
    }
    let entry = Entry::new("application/vnd.oci.image.manifest.v1+json", Digest([1; 32]), 7, None);
    if let Some(Some(made)) = read(with_entries(Some(bytes), "v2", std::slice::from_ref(&entry))) {
        taken += 1;
        let index = Index::read(&made).unwrap();
        let found = index.pick(&Pick::Name("v2".into())).unwrap();
        assert_eq!(found.entries()[0].digest, Digest([1; 32]));
        let again = with_entries(Some(&made), "v2", &[entry]).unwrap();
        assert_eq!(again, None, "it is so already");
    }
    if let Some(index) = read(Index::read(bytes)) {
        taken += 1;
        for pick in [Pick::Only, Pick::Name("v1".into())] {
            if let Some(index) = read(index.pick(&pick)) {
                read(index.candidates(&wanted));
            }
        }
        for entry in index.entries() {
            read(entry.document_bytes(Document::Manifest));
            read(entry.check(Document::Manifest, b"other"));
        }
    }
    taken += usize::from(read(Manifest::read(bytes, None)).is_some());
    if let Some(config) = read(Config::read(bytes)) {
        taken += 1;
        read(config.is_for(1));
        assert_eq!(config.platform.fit(&config.platform), Some(0));
    }
    if let Some(archives) = read(Archives::read(bytes)) {
        taken += 1;
        for pick in [ArchivePick::Only, ArchivePick::At(1), ArchivePick::Name("a:v1".into())] {
            if let Some(one) = read(archives.pick(&pick)) {
                read(one.id(b"{}"));
            }
        }
    }
    let text = String::from_utf8_lossy(bytes);
    if let Some(reference) = read(text.parse::<Reference>()) {
        taken += 1;
        assert_eq!(reference.to_string().parse::<Reference>().as_ref(), Ok(&reference), "{text:?}");
        let absolute = reference.absolute(Path::new("/srv"));
        assert_eq!(absolute.to_string().parse::<Reference>(), Ok(absolute), "{text:?}");
    }
    taken
}

/// Whatever comes beside an image as its signature. Nothing that was altered is believed: what is accepted is what
/// cosign itself signed.
fn try_signatures(bytes: &[u8]) -> usize {
    let key = cosign::PublicKey::from_pem(include_str!("../../tests/cosign/key.pem")).unwrap();
    let image = Digest::parse(SIGNED).unwrap();
    let (keys, images) = ([key], [image]);
    let mut taken = 0;
    let signatures = include_bytes!("../../tests/cosign/signatures.json");
    let signatures = cosign::candidates(signatures, &images).unwrap();
    for candidate in &signatures.list {
        let cosign::Candidate::Simple { signature, .. } = candidate else { continue };
        match cosign::of_simple(bytes, signature, &keys, &images) {
            Ok(_) => assert_eq!(bytes, include_bytes!("../../tests/cosign/claim.json")),
            Err(doubt) => quiet_text(&doubt.to_string()),
        }
    }
    match cosign::of_bundle(bytes, &keys, &images) {
        Ok(claim) => {
            taken += 1;
            assert_eq!(claim.signed, image);
        }
        Err(doubt) => quiet_text(&doubt.to_string()),
    }
    if let Some(found) = read(cosign::candidates(bytes, &images)) {
        taken += usize::from(!found.list.is_empty());
        assert!(found.list.len() <= cosign::SIGNATURES_MAX);
        for candidate in &found.list {
            assert!(candidate.blob().size <= cosign::CLAIM_BYTES_MAX);
        }
    }
    if let Some((found, _)) = read(cosign::referrers(bytes)) {
        taken += usize::from(!found.is_empty());
        assert!(found.len() <= cosign::MANIFESTS_MAX);
    }
    if let Some(found) = read(cosign::beside(bytes, &images)) {
        taken += usize::from(!found.manifests.is_empty());
        assert!(found.manifests.len() <= cosign::MANIFESTS_MAX);
    }
    match cosign::PublicKey::from_pem(&String::from_utf8_lossy(bytes)) {
        Ok(key) => assert_ne!(key.id().0, [0; 32]),
        Err(why) => quiet_text(&why.to_string()),
    }
    taken
}

#[test]
fn signatures_of_images_never_panic_and_nothing_altered_is_believed() {
    let seed = number("VENEER_FUZZ_SEED", 0x51);
    let mut taken = 0;
    for round in 0..number("VENEER_FUZZ_ROUNDS", 2_000) {
        let mut dice = Dice(seed.wrapping_add(round).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let bytes = text(&mut dice);
        let tried = std::panic::catch_unwind(|| try_signatures(&bytes));
        let shown = String::from_utf8_lossy(&bytes);
        assert!(tried.is_ok(), "VENEER_FUZZ_SEED={} breaks on {shown:?}", seed + round);
        taken += tried.unwrap_or(0);
    }
    assert!(taken > 200, "only {taken} were accepted");
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().expect(name))
}

#[test]
fn documents_of_images_never_panic() {
    let seed = number("VENEER_FUZZ_SEED", 0x0c1);
    let mut taken = 0;
    for round in 0..number("VENEER_FUZZ_ROUNDS", 20_000) {
        let mut dice = Dice(seed.wrapping_add(round).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let bytes = text(&mut dice);
        let tried = std::panic::catch_unwind(|| try_all(&bytes));
        let shown = String::from_utf8_lossy(&bytes);
        assert!(tried.is_ok(), "VENEER_FUZZ_SEED={} breaks on {shown:?}", seed + round);
        taken += tried.unwrap_or(0);
    }
    assert!(taken > 1000, "only {taken} were accepted");
}
