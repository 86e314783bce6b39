//! Makes the URL and the headers of a request. The one place that touches rust-s3.
//!
//! rust-s3 signs (AWS Signature Version 4, in headers) and never sends; `http/mod.rs` sends. What it
//! returns is compared with what was asked for before anything leaves: its URLs are normalised, and
//! a name it was not meant to see could become a host.

use s3::command::Command;
use s3::creds::Credentials;
use s3::request::Request as _;
use s3::request::blocking::AttoRequest;
use s3::{Bucket, Region};
use ureq::http::{HeaderMap, HeaderName, HeaderValue, Method as Verb};

use crate::error::Error;
use crate::error::answer::Api;
use crate::http::request::{Method, Request};
use crate::s3::endpoint::{Addressing, Endpoint};
use crate::s3::keys::Keys;
use crate::s3::options::Options;
use crate::s3::write::Write;

/// A server with all that a signature needs to know of it.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) endpoint: Endpoint,
    pub(crate) region: String,
    pub(crate) addressing: Addressing,
}

/// What is asked of a bucket.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Op<'a> {
    Get { key: &'a str, range: Option<(u64, u64)>, hold: Hold<'a> },
    Head { key: &'a str },
    List { prefix: &'a str, token: Option<&'a str>, encoded: bool },
}

/// What an object's bytes are asked for with.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Hold<'a> {
    /// The version by its strong entity tag.
    pub(crate) if_match: Option<&'a str>,
    /// Any version but this one, by its entity tag.
    pub(crate) if_none_match: Option<&'a str>,
    /// The version by its time.
    pub(crate) unmodified_since: Option<&'a str>,
    /// Told to a source: the digest that the whole must have, and whether what it keeps of it is wrong.
    pub(crate) wanted: Option<(&'a [u8; 32], bool)>,
}

/// Whether a URL leads to this key of this bucket at this server, and nowhere else. Its query is not looked at.
/// (A macro, because the type of a URL has no name here.)
macro_rules! leads_to {
    ($url:expr, $target:expr, $bucket:expr, $key:expr, $path_style:expr) => {{
        let (url, endpoint) = (&$url, &$target.endpoint);
        let host = match $path_style {
            true => endpoint.host().to_owned(),
            false => format!("{}.{}", $bucket, endpoint.host()),
        };
        let mut due = if $path_style { format!("/{}/", $bucket) } else { "/".to_owned() };
        due.push_str(&s3::signing::uri_encode($key, false));
        url.scheme() == if endpoint.is_https() { "https" } else { "http" }
            && url.host_str() == Some(host.as_str())
            && url.port_or_known_default() == Some(endpoint.port())
            && url.username().is_empty()
            && url.password().is_none()
            && url.path() == due
            && url.fragment().is_none()
    }};
}

/// Signs `op` on `bucket`, or leaves it unsigned without `keys`. Of the options, the version and who pays count.
///
/// # Errors
/// [`Error::Sign`], [`Error::Guard`].
pub(crate) fn sign(
    target: &Target,
    bucket: &str,
    op: Op<'_>,
    keys: Option<&Keys>,
    options: &Options,
) -> Result<Request, Error> {
    let version = match op {
        Op::Get { .. } | Op::Head { .. } => options.version_id.as_deref(),
        Op::List { .. } => None,
    };
    let (key, command, method) = match op {
        Op::Get { key, .. } => (key, Command::GetObject, Method::Get),
        Op::Head { key } => (key, Command::HeadObject, Method::Head),
        Op::List { prefix, token, .. } => {
            let command = Command::ListObjectsV2 {
                prefix: prefix.to_owned(),
                delimiter: None,
                continuation_token: token.map(str::to_owned),
                start_after: None,
                max_keys: Some(1000),
            };
            ("", command, Method::Get)
        }
    };
    let subject = || match op {
        Op::Get { key, .. } | Op::Head { key } => format!("s3://{bucket}/{key}"),
        Op::List { prefix, .. } => format!("s3://{bucket}/{prefix}"),
    };
    let failed = |source| Error::Sign { subject: subject(), source: Box::new(source) };
    let (mut signer, path_style) = signer(target, bucket, keys).map_err(failed)?;
    if let Op::List { encoded: true, .. } = op {
        // XML has no words for some keys.
        signer.add_query("encoding-type", "url");
    }
    if let Some(version) = version {
        signer.add_query("versionId", version);
    }
    let payer = options.requester_pays.then(|| ("x-amz-request-payer", "requester".to_owned()));
    for (name, value) in extra_headers(op).into_iter().chain(payer) {
        let value = HeaderValue::try_from(value).map_err(|_| Error::Malformed {
            subject: subject(),
            why: "an ETag that no header can carry",
            got: String::new(),
        })?;
        signer.extra_headers_mut().insert(HeaderName::from_static(name), value);
    }
    // It strips one leading slash of the path, so that a key may start with one.
    let path = format!("/{key}");
    let request = AttoRequest::new(&signer, &path, command).map_err(failed)?;
    let mut url = request.url().map_err(failed)?;
    let mut headers = request.headers().map_err(failed)?;
    // ureq sets the host itself, and the date is not part of the signature.
    headers.remove("host");
    headers.remove("date");
    let listing = matches!(op, Op::List { .. });
    if listing || version.is_some() {
        // The same query in the spelling that was signed: a blank is %20, never "+".
        let query = s3::signing::canonical_query_string(&url);
        url.set_query(Some(&query));
    }
    let version_due = version.map(|id| format!("versionId={}", s3::signing::uri_encode(id, true)));
    let sound = leads_to!(url, target, bucket, key, path_style)
        && (url.query() == version_due.as_deref() || listing && url.query().is_some());
    if !sound {
        return Err(Error::Guard { subject: subject(), url: url.to_string() });
    }
    Ok(Request { method, url: url.into(), headers, api: Api::S3 })
}

/// What signs for a bucket at this server, and whether its name goes into the path.
fn signer(
    target: &Target,
    bucket: &str,
    keys: Option<&Keys>,
) -> Result<(Box<Bucket>, bool), s3::error::S3Error> {
    let credentials = match keys {
        Some(keys) => Credentials::new(
            Some(&keys.access_key),
            Some(&keys.secret_key),
            None,
            keys.session_token.as_deref(),
            None,
        ),
        None => Credentials::anonymous(),
    }?;
    let path_style = target.endpoint.path_style(target.addressing, bucket);
    let region = Region::Custom { region: target.region.clone(), endpoint: target.endpoint.url() };
    let signer = Bucket::new(bucket, region, credentials)?;
    Ok((if path_style { signer.with_path_style() } else { signer }, path_style))
}

/// Signs a request that writes, or that looks after unfinished uploads; never without keys.
///
/// # Errors
/// [`Error::Sign`], [`Error::Guard`].
pub(crate) fn sign_write(
    target: &Target,
    bucket: &str,
    write: Write<'_>,
    keys: &Keys,
    options: &Options,
) -> Result<Request, Error> {
    let subject = || write.subject(bucket);
    let failed = |source| Error::Sign { subject: subject(), source: Box::new(source) };
    let (mut signer, path_style) = signer(target, bucket, Some(keys)).map_err(failed)?;
    let queries = write.queries();
    for (name, value) in &queries {
        signer.add_query(name, value);
    }
    let path = format!("/{}", write.key());
    // Only its URL, its host and its time are used: rust-s3's own commands hash and copy every body.
    let request = AttoRequest::new(&signer, &path, Command::GetObject).map_err(failed)?;
    let mut url = request.url().map_err(failed)?;
    let spelled = |text: &str| s3::signing::uri_encode(text, true);
    let pairs = queries.iter().map(|(name, value)| format!("{}={}", spelled(name), spelled(value)));
    let mut pairs: Vec<String> = pairs.collect();
    pairs.sort();
    let query = Some(pairs.join("&")).filter(|query| !query.is_empty());
    if url.query().is_some() {
        let signed = s3::signing::canonical_query_string(&url);
        url.set_query(Some(&signed));
    }
    if !leads_to!(url, target, bucket, write.key(), path_style) || url.query() != query.as_deref() {
        return Err(Error::Guard { subject: subject(), url: url.to_string() });
    }
    let sha256 = hex::encode(write.content().map_or(EMPTY, |content| content.sha256));
    let mut texts = write.headers();
    texts.push(("host", request.host_header()));
    texts.push(("x-amz-date", request.long_date().map_err(failed)?));
    texts.push(("x-amz-content-sha256", sha256.clone()));
    texts.extend(keys.session_token.clone().map(|token| ("x-amz-security-token", token)));
    texts.extend(options.requester_pays.then(|| ("x-amz-request-payer", "requester".to_owned())));
    let mut headers = HeaderMap::new();
    for (name, value) in texts {
        let value = HeaderValue::try_from(value).map_err(|_| Error::Malformed {
            subject: subject(),
            why: "an ETag that no header can carry",
            got: String::new(),
        })?;
        headers.insert(HeaderName::from_static(name), value);
    }
    let method = write.method();
    let signature = {
        use s3::signing::{canonical_request, signing_key, string_to_sign};
        let (time, region) = (request.datetime(), &signer.region);
        let canonical = canonical_request(method.as_str(), &url, &headers, &sha256);
        let text = string_to_sign(&time, region, &canonical.map_err(failed)?).map_err(failed)?;
        let key = signing_key(&time, &keys.secret_key, region, "s3").map_err(failed)?;
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &key);
        let signature = hex::encode(ring::hmac::sign(&key, text.as_bytes()).as_ref());
        let signed = s3::signing::signed_header_string(&headers);
        s3::signing::authorization_header(&keys.access_key, &time, region, &signed, &signature)
    };
    let authorization = HeaderValue::try_from(signature.map_err(failed)?)
        .map_err(|_| Error::Guard { subject: subject(), url: url.to_string() })?;
    headers.insert("authorization", authorization);
    // ureq sets the host itself.
    headers.remove("host");
    let method = match method {
        Verb::PUT => Method::Put,
        Verb::POST => Method::Send,
        Verb::DELETE => Method::Delete,
        _ => Method::Get,
    };
    Ok(Request { method, url: url.into(), headers, api: Api::S3 })
}

/// The digest of nothing.
const EMPTY: &[u8; 32] = &[
    0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24,
    0x27, 0xae, 0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55,
];

fn extra_headers(op: Op<'_>) -> Vec<(&'static str, String)> {
    let mut headers = Vec::new();
    match op {
        Op::Get { range, hold, .. } => {
            match range {
                Some((first, last)) => headers.push(("range", format!("bytes={first}-{last}"))),
                // Checksums are those of the whole object, so there is none to ask for otherwise.
                None => headers.push(("x-amz-checksum-mode", "ENABLED".to_owned())),
            }
            if let Some(etag) = hold.if_match {
                headers.push(("if-match", etag.to_owned()));
            }
            if let Some(etag) = hold.if_none_match {
                headers.push(("if-none-match", etag.to_owned()));
            }
            if let Some(time) = hold.unmodified_since {
                headers.push(("if-unmodified-since", time.to_owned()));
            }
            if let Some((digest, anew)) = hold.wanted {
                headers.push(("veneer-sha256", hex::encode(digest)));
                if anew {
                    headers.push(("veneer-refetch", "1".to_owned()));
                }
            }
        }
        Op::Head { .. } => headers.push(("x-amz-checksum-mode", "ENABLED".to_owned())),
        Op::List { .. } => {}
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::s3::write::{Condition, Content};

    fn target(endpoint: &str, addressing: Addressing) -> Target {
        let endpoint = Endpoint::parse(endpoint).unwrap();
        Target { endpoint, region: "us-east-1".into(), addressing }
    }

    fn keys() -> Keys {
        Keys::new("AKID", "SECRET", Some("TOKEN"))
    }

    fn get(target: &Target, bucket: &str, key: &str) -> Result<Request, Error> {
        let op = Op::Get { key, range: None, hold: Hold::default() };
        sign(target, bucket, op, Some(&keys()), &Options::default())
    }

    #[test]
    fn odd_keys_keep_their_spelling() {
        let path = target("http://h:9000", Addressing::Path);
        for (key, due) in [
            ("a b+c", "/bkt/a%20b%2Bc"),
            ("a%2Fb", "/bkt/a%252Fb"),
            ("/lead", "/bkt//lead"),
            ("a//b", "/bkt/a//b"),
            ("a#?b", "/bkt/a%23%3Fb"),
            ("n\nl\\", "/bkt/n%0Al%5C"),
            ("é", "/bkt/%C3%A9"),
            ("..a/b...", "/bkt/..a/b..."),
            ("%2e%2e/x", "/bkt/%252e%252e/x"),
        ] {
            assert_eq!(get(&path, "bkt", key).unwrap().url, format!("http://h:9000{due}"), "{key}");
        }
    }

    #[test]
    fn dots_and_hosts_do_not_pass_the_guard() {
        // Both are refused earlier by `ObjectRef`; here they must not pass even so.
        let path = target("http://h:9000", Addressing::Path);
        for key in ["..", ".", "../other/secret", "a/../b", "a/."] {
            assert!(matches!(get(&path, "bkt", key), Err(Error::Guard { .. })), "{key}");
        }
        let virtual_host = target("http://h:9000", Addressing::VirtualHost);
        for bucket in ["evil.com/x?", "evil.com#", "u:p@evil.com", "evil.com:1/"] {
            let got = get(&virtual_host, bucket, "k");
            assert!(
                matches!(got, Err(Error::Guard { .. } | Error::Sign { .. })),
                "{bucket} {got:?}"
            );
        }
    }

    #[test]
    fn ranges_and_pins_are_signed() {
        let path = target("http://h:9000", Addressing::Path);
        let hold = Hold { if_match: Some("\"e\""), ..Hold::default() };
        let op = Op::Get { key: "k", range: Some((5, 9)), hold };
        let signed = sign(&path, "bkt", op, Some(&keys()), &Options::default()).unwrap();
        assert_eq!(signed.headers["range"], "bytes=5-9");
        assert_eq!(signed.headers["if-match"], "\"e\"");
        let authorization = signed.headers["authorization"].to_str().unwrap();
        assert!(authorization.contains("if-match;range;") || authorization.contains("if-match"));
        assert!(authorization.contains("range") && !authorization.contains("SECRET"));
        assert_eq!(signed.headers["x-amz-security-token"], "TOKEN");
    }

    #[test]
    fn a_version_and_who_pays_are_signed() {
        let options = Options {
            version_id: Some("a/b+c d".into()),
            requester_pays: true,
            ..Options::default()
        };
        let path = target("http://h:9000", Addressing::Path);
        let op = Op::Head { key: "k?versionId=x" };
        let signed = sign(&path, "bkt", op, Some(&keys()), &options).unwrap();
        let url = "http://h:9000/bkt/k%3FversionId%3Dx?versionId=a%2Fb%2Bc%20d";
        assert_eq!(signed.url, url);
        assert_eq!(signed.headers["x-amz-request-payer"], "requester");
        let authorization = signed.headers["authorization"].to_str().unwrap();
        assert!(authorization.contains("x-amz-request-payer"), "{authorization}");
        let op = Op::List { prefix: "", token: None, encoded: true };
        let signed = sign(&path, "bkt", op, Some(&keys()), &options).unwrap();
        assert!(
            !signed.url.contains("versionId") && signed.headers.contains_key("x-amz-request-payer")
        );
    }

    #[test]
    fn what_is_written_is_signed_with_its_digest_and_its_condition() {
        let path = target("http://h:9000", Addressing::Path);
        let options = Options { requester_pays: true, ..Options::default() };
        let content = Content { bytes: b"", sha256: EMPTY, media: "application/json" };
        let condition = Some(Condition::Match("\"e\""));
        let put = Write::Put { key: "a b/index.json", content, condition };
        let signed = sign_write(&path, "bkt", put, &keys(), &options).unwrap();
        assert_eq!(
            (signed.method, signed.url.as_str()),
            (Method::Put, "http://h:9000/bkt/a%20b/index.json")
        );
        assert_eq!(signed.headers["if-match"], "\"e\"");
        let authorization = signed.headers["authorization"].to_str().unwrap();
        let names = "SignedHeaders=content-type;host;if-match;x-amz-content-sha256;x-amz-date;\
                     x-amz-request-payer;x-amz-security-token,";
        assert!(authorization.contains(names), "{authorization}");
        assert!(!authorization.contains("SECRET"));
        let part = Write::Part { key: "k", upload: "u/+ =&x", number: 12, content };
        let signed = sign_write(&path, "bkt", part, &keys(), &options).unwrap();
        assert_eq!(signed.url, "http://h:9000/bkt/k?partNumber=12&uploadId=u%2F%2B%20%3D%26x");
        let create = Write::Create { key: "k", media: "application/json" };
        let signed = sign_write(&path, "bkt", create, &keys(), &options).unwrap();
        assert_eq!(
            (signed.method, signed.url.as_str()),
            (Method::Send, "http://h:9000/bkt/k?uploads=")
        );
        let bare = target("http://h:9000", Addressing::VirtualHost);
        for bucket in ["evil.com/x?", "evil.com#", "u:p@evil.com", "evil.com:1/"] {
            assert!(sign_write(&bare, bucket, put, &keys(), &options).is_err(), "{bucket}");
        }
        let dots = Write::Put { key: "a/../b", content, condition: None };
        assert!(matches!(
            sign_write(&path, "bkt", dots, &keys(), &options),
            Err(Error::Guard { .. })
        ));
    }

    #[test]
    fn anonymous_requests_carry_no_signature() {
        let path = target("https://h", Addressing::VirtualHost);
        let op = Op::List { prefix: "a b+/", token: Some("t=/+"), encoded: true };
        let signed = sign(&path, "bkt", op, None, &Options::default()).unwrap();
        assert!(!signed.headers.contains_key("authorization"));
        assert_eq!(
            signed.url,
            "https://bkt.h/?continuation-token=t%3D%2F%2B&encoding-type=url&list-type=2&max-keys=1000\
             &prefix=a%20b%2B%2F"
        );
    }
}
