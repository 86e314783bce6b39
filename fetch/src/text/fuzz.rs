//! Seeded fuzz of everything that reads foreign text: listings, error documents, ranges, tags,
//! dates, checksums, credentials files, endpoints, proxies' exceptions, redirects, and what registries say.
//!
//! The invariant: whatever comes in, nothing panics, what is accepted can be said again, and no
//! message carries a control character. Runs as a test; `VENEER_FUZZ_ROUNDS` makes it longer and
//! `VENEER_FUZZ_SEED` another one.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ureq::http::{HeaderMap, HeaderValue};

use crate::distribution::url::{Url, Where};
use crate::distribution::{rules, token};
use crate::error::answer;
use crate::http::checksum::Checksum;
use crate::http::redirect;
use crate::http::sign::{Op, Target, sign, sign_write};
use crate::image::{authfile, challenge};
use crate::keys::{self, metadata, shared, sts};
use crate::name::locator::BlobRef;
use crate::s3::endpoint::{Addressing, Endpoint};
use crate::s3::keys::Keys;
use crate::s3::listing;
use crate::s3::object::{ImageRef, ObjectRef};
use crate::s3::options::Options;
use crate::s3::write;
use crate::text::range::ContentRange;
use crate::text::{date, digest, words, xml};

/// xorshift64*.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit.max(1) as u64).unwrap()
    }

    fn pick<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[self.below(words.len())]
    }
}

/// Pieces that the parsers care about.
const PIECES: &[&str] = &[
    "<ListBucketResult>",
    "</ListBucketResult>",
    "<ListMultipartUploadsResult>",
    "</ListMultipartUploadsResult>",
    "<Upload>",
    "</Upload>",
    "<Key>a</Key>",
    "<UploadId>",
    "</UploadId>",
    "<ListPartsResult>",
    "</ListPartsResult>",
    "<Part>",
    "</Part>",
    "<PartNumber>1</PartNumber>",
    "<InitiateMultipartUploadResult>",
    "</InitiateMultipartUploadResult>",
    "<Contents>",
    "</Contents>",
    "<Key>",
    "</Key>",
    "<Size>",
    "</Size>",
    "<ETag>",
    "</ETag>",
    "<EncodingType>url</EncodingType>",
    "%2F",
    "%",
    "+",
    "<IsTruncated>",
    "</IsTruncated>",
    "true",
    "false",
    "<NextContinuationToken>",
    "</NextContinuationToken>",
    "<Error>",
    "</Error>",
    "<Code>",
    "</Code>",
    "<Message/>",
    "&amp;",
    "&#x1b;",
    "&#0;",
    "&#x110000;",
    "&x;",
    "<!DOCTYPE a [",
    "]>",
    "<!ENTITY a \"b\">",
    "<![CDATA[",
    "]]>",
    "<!--",
    "-->",
    "<?xml version=\"1.0\"?>",
    "<",
    ">",
    "p/",
    "1.tar",
    "10.tar.gz",
    "0",
    "1",
    "18446744073709551615",
    "18446744073709551616",
    "-",
    "/",
    "bytes ",
    "bytes=",
    "*",
    "\"",
    "W/",
    "=",
    "[default]",
    "[profile x]",
    "aws_access_key_id",
    "aws_secret_access_key",
    "aws_session_token",
    "role_arn",
    "[DEFAULT]",
    "\n  ",
    ":",
    "$HOME",
    "\n",
    "\r\n",
    " ",
    "\t",
    "#",
    ";",
    "[",
    "]",
    "http://",
    "https://",
    "s3://",
    "bucket",
    "@",
    ":",
    ":443",
    "..",
    ".",
    "%2e",
    "?",
    "169.254.169.254",
    "[::1]",
    "\u{202e}",
    "\u{0}",
    "\u{1b}[2J",
    "é",
    "T",
    "Z",
    "2026-11-21",
    "05:35:02",
    "AAAA",
    "sha256:",
    "{",
    "}",
    "\"Code\":",
    "\"Expiration\":",
    ",",
    "\u{feff}",
    "Bearer ",
    "Basic ",
    "realm=",
    "service=\"s\"",
    "scope=\"repository:a/b:pull,push\"",
    "\\\"",
    "token68==",
    "{\"auths\":{\"h\":",
    "{\"auth\":\"YTox\"}",
    "\"credsStore\":\"x\"",
    "{\"token\":\"t\"",
    "\"expires_in\":",
    "{\"errors\":[{\"code\":",
    "docker://",
    "localhost",
    "//",
    "127.0.0.1",
    "0x7f",
];

const PAGE: &str = "<?xml version=\"1.0\"?><ListBucketResult><IsTruncated>true</IsTruncated>\
    <NextContinuationToken>t</NextContinuationToken><Contents><Key>p/1.tar</Key><Size>7</Size>\
    <ETag>&quot;e&quot;</ETag></Contents></ListBucketResult>";
const FILE: &str = "[default]\naws_access_key_id = A\naws_secret_access_key = S\n[x]\nrole_arn=r\n";
const OTHERS: &[&str] = &[
    "bytes 5-9/40",
    "http://host:9000",
    "https://[::1]",
    "s3://bucket/images/1.tar",
    "W/\"abc\"",
    "2026-11-21T05:35:02Z",
    "4waSgw==",
    "<Error><Code>SlowDown</Code></Error>",
    "Bearer realm=\"https://a.example/t\",service=\"s\", Basic realm=\"x, y\"",
    "{\"auths\":{\"h\":{\"auth\":\"YTox\"},\"h/a\":{\"identitytoken\":\"t\"}},\"credHelpers\":{\"g\":\"x\"}}",
    "{\"token\":\"t\",\"expires_in\":60}",
    "{\"errors\":[{\"code\":\"DENIED\",\"message\":\"m\"}]}",
    "https://a.example:8443/token?x=1",
    "docker://h:5000/a/b@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "{\"AccessKeyId\":\"A\",\"SecretAccessKey\":\"S\",\"Token\":\"T\",\"Expiration\":\"2026-11-21T05:35:02Z\"}",
];

/// A good text with a few bites taken out and pieces put in, or pieces alone.
fn text(dice: &mut Dice) -> Vec<u8> {
    let mut bytes: Vec<u8> = match dice.below(5) {
        0 => PAGE.into(),
        1 => FILE.into(),
        2 | 3 => dice.pick(OTHERS).into(),
        _ => Vec::new(),
    };
    for _ in 0..dice.below(12) {
        let at = dice.below(bytes.len() + 1);
        match dice.below(5) {
            0 | 1 => drop(bytes.splice(at..at, dice.pick(PIECES).bytes())),
            2 => {
                let end = (at + dice.below(20)).min(bytes.len());
                bytes.drain(at..end);
            }
            3 if at < bytes.len() => bytes[at] ^= 1 << dice.below(8),
            _ => {
                let end = (at + dice.below(60)).min(bytes.len());
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
        }
    }
    bytes
}

fn quiet(said: &str) {
    assert!(!said.chars().any(char::is_control), "a control character in {said:?}");
}

fn try_all(bytes: &[u8]) -> usize {
    let mut taken = 0;
    let text = String::from_utf8_lossy(bytes);
    match listing::page(bytes, "bucket", "p/", true) {
        Ok(page) => {
            taken += 1;
            assert!(page.objects.iter().all(|object| object.object.key.starts_with("p/")));
            match listing::layers("bucket", "p/", page.objects) {
                Ok(layers) => {
                    assert!((1..).zip(&layers).all(|(due, layer)| layer.number == due));
                }
                Err(error) => quiet(&error.to_string()),
            }
        }
        Err(error) => quiet(&error.to_string()),
    }
    let mut answer = answer::Answer { status: 403, ..Default::default() };
    answer.read_document(bytes);
    quiet(&answer.to_string());
    if let Some(range) = ContentRange::parse(&text) {
        taken += 1;
        assert!(range.first <= range.last && range.last < range.size);
        // `1*DIGIT` may begin with zeros (RFC 9110 14.4), so the text may be another one.
        assert_eq!(ContentRange::parse(&range.to_string()), Some(range));
    }
    if let Ok(Some(tag)) = listing::entity_tag(&text) {
        assert!(HeaderValue::from_str(&tag).is_ok(), "{tag:?}");
        assert_eq!(listing::entity_tag(&tag), Ok(Some(tag.clone())));
    }
    words::split(&text);
    match shared::parse(&Arc::from(Path::new("/f")), &text) {
        Err(error) => quiet(&error.to_string()),
        Ok(sections) => {
            let pairs = sections.values().filter_map(|one| keys::pair(one).ok().flatten());
            for keys in pairs {
                taken += 1;
                // What passes the check can be signed with; rust-s3 would panic on some that do not.
                let endpoint = Endpoint::parse("http://h").unwrap();
                let target = Target { endpoint, region: "r".into(), addressing: Addressing::Path };
                sign(&target, "bucket", Op::Head { key: "k" }, Some(&keys), &Options::default())
                    .unwrap();
            }
        }
    }
    if let Err(error) = metadata::keys(&text, "x") {
        quiet(&error.to_string());
    }
    if let Err(error) = sts::keys("x", "AssumeRole", bytes) {
        quiet(&error.to_string());
    }
    date::rfc3339(&text);
    date::http(&text);
    if let Ok(value) = HeaderValue::from_bytes(bytes) {
        let mut headers = HeaderMap::new();
        headers.insert("x-amz-checksum-crc32c", value);
        if let Some(checksum) = Checksum::of(&headers) {
            checksum.check(&[0; 32]).err();
        }
    }
    if let Some(found) = digest::parse_digest(&text) {
        assert!(digest::write_digest(&found).ends_with(&*text));
    }
    match Endpoint::parse(&text) {
        Ok(endpoint) => {
            taken += 1;
            assert_eq!(Endpoint::parse(&endpoint.url()).unwrap(), endpoint);
            let region = "us-east-1".to_owned();
            let target = Target { endpoint, region, addressing: Addressing::Path };
            if let Ok(signed) =
                sign(&target, "bucket", Op::Head { key: "k" }, None, &Options::default())
            {
                assert!(signed.url.starts_with("http"));
            }
            redirect::follow(&target, "bucket", "http://h/bucket/k", &text, &[]).err();
        }
        Err(error) => quiet(&error.to_string()),
    }
    match text.parse::<ObjectRef>() {
        Ok(object) => {
            taken += 1;
            assert_eq!(object.to_string(), text);
            let endpoint = Endpoint::parse("http://h").unwrap();
            for addressing in [Addressing::Path, Addressing::VirtualHost] {
                let target = Target { endpoint: endpoint.clone(), region: "r".into(), addressing };
                let op = Op::Head { key: &object.key };
                // Whatever is a reference can be asked for: it passes the guard.
                let signed = sign(&target, &object.bucket, op, None, &Options::default());
                assert!(signed.is_ok(), "{object:?}: {signed:?}");
            }
        }
        Err(error) => quiet(&error.to_string()),
    }
    taken += try_registries(bytes, &text);
    taken += usize::from(write::created(bytes).is_ok());
    if let Ok(uploads) = write::uploads(bytes, "a") {
        taken += 1;
        let target = Target {
            endpoint: Endpoint::parse("http://h").unwrap(),
            region: "r".into(),
            addressing: Addressing::Path,
        };
        let (keys, options) = (Keys::new("AKID", "SECRET", None), Options::default());
        for upload in uploads {
            // Whatever an upload is called, it can be asked for.
            let parts = write::Write::Parts { key: "a", upload: &upload, after: 1 };
            let signed = sign_write(&target, "bucket", parts, &keys, &options);
            assert!(signed.is_ok(), "{upload:?}: {signed:?}");
        }
    }
    if let Ok((parts, _)) = write::parts(bytes) {
        taken += 1;
        let text = write::complete(&parts);
        xml::texts(text.as_bytes(), "CompleteMultipartUpload", &[]).ok();
    }
    if let Ok(image) = text.parse::<ImageRef>() {
        assert_eq!(image.to_string().trim_end_matches('/'), text.trim_end_matches('/'));
    }
    taken
}

/// What registries and their token servers say, and files with logins.
fn try_registries(bytes: &[u8], text: &str) -> usize {
    let mut taken = 0;
    let own = Endpoint::parse("https://r.example").unwrap();
    let options = Options::default();
    match challenge::demand([text]) {
        Ok(challenge::Demand::Bearer { realm, .. }) => {
            taken += 1;
            if let Ok(url) = rules::realm(&own, &realm, &options) {
                let due = url.server.is_https() && url.text().is_ascii();
                assert!(due, "{realm}");
            }
        }
        Ok(challenge::Demand::Basic) => taken += 1,
        Err(why) => quiet(why),
    }
    let named = [rules::realm(&own, text, &options), rules::redirect(&own, &own, text, &options)];
    for url in named.into_iter().flatten() {
        taken += 1;
        assert_eq!(Url::parse(&url.text()), Ok(url.clone()));
        assert!(url.server.is_https() && Where::of(url.server.host()) != Where::Here, "{text}");
    }
    if let Ok(file) = authfile::AuthFile::parse(bytes) {
        match file.find("h", "a/b") {
            Ok(authfile::Found::Login(authfile::Login::Password { name, password })) => {
                taken += 1;
                let mut headers = HeaderMap::new();
                token::put(&mut headers, &token::basic(&name, &password)).unwrap();
            }
            Ok(_) => {}
            Err(why) => quiet(why),
        }
    }
    if let Ok(token) = token::parse(bytes, Duration::ZERO) {
        taken += 1;
        let mut headers = HeaderMap::new();
        token::put(&mut headers, &format!("Bearer {}", token.value)).unwrap();
    }
    let api = answer::Api::Registry;
    let mut answer = answer::Answer { status: 404, api, ..Default::default() };
    answer.read_document(bytes);
    quiet(&answer.to_string());
    match text.parse::<BlobRef>() {
        Ok(blob) => {
            taken += 1;
            blob.check().unwrap();
        }
        Err(error) => quiet(&error.to_string()),
    }
    taken
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().expect(name))
}

#[test]
fn foreign_text_never_panics() {
    let seed = number("VENEER_FUZZ_SEED", 0x007e_4ee4);
    let mut taken = 0;
    for round in 0..number("VENEER_FUZZ_ROUNDS", 20_000) {
        // Each round has its own seed, so that a failure is repeated by one round.
        let mut dice = Dice(seed.wrapping_add(round).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let bytes = text(&mut dice);
        let tried = std::panic::catch_unwind(|| try_all(&bytes));
        assert!(tried.is_ok(), "VENEER_FUZZ_SEED={} breaks on {bytes:?}", seed + round);
        taken += tried.unwrap_or(0);
    }
    // A fuzz that is refused at the door finds nothing.
    assert!(taken > 100, "only {taken} texts were accepted");
}
