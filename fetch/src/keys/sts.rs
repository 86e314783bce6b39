//! One question to the security token service (STS), which lends the keys of a role: for a token, or for other
//! keys, which then sign the question (AWS Signature Version 4).
//!
//! What is asked goes into the body, not into the URL, which proxies and servers write to their logs. No error
//! holds a token, a key, or what the service lent.

use std::io::Read as _;
use std::path::PathBuf;
use std::time::Duration;

use ring::hmac;

use crate::error::Error;
use crate::http::vigil::Waiting;
use crate::s3::endpoint::Endpoint;
use crate::s3::keys::{Keys, Lookup};
use crate::s3::options::Options;
use crate::text::digest::Sha256;
use crate::text::{date, xml};
use crate::{clock, http};

const TIMEOUT: Duration = Duration::from_secs(10);
const ANSWER_BYTES_MAX: u64 = 64 << 10;
const FORM: &str = "application/x-www-form-urlencoded";

/// A question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ask {
    /// Who asks, for messages.
    pub(crate) place: &'static str,
    pub(crate) endpoint: Endpoint,
    pub(crate) region: String,
    /// `AssumeRole`, `AssumeRoleWithWebIdentity`.
    pub(crate) action: &'static str,
    pub(crate) form: Vec<(&'static str, String)>,
    /// What signs it; a web identity's is not signed.
    pub(crate) keys: Option<Keys>,
    pub(crate) ca_file: Option<PathBuf>,
}

/// Asks, by way of the proxy that leads there.
///
/// # Errors
/// [`Error::Credentials`] for a refusal, [`Error::Lender`] for what may be over later.
pub(crate) fn ask(ask: &Ask, options: &Options, look: Lookup<'_>) -> Result<Keys, Error> {
    let busy = |why| Error::Lender { place: ask.place, why };
    let agent = http::agent_of(&ask.endpoint, ask.ca_file.as_deref(), TIMEOUT, look)?;
    let body = body(ask);
    let _waiting = Waiting::begin(options, &agent, ask.place);
    let mut request = agent.post(format!("{}/", ask.endpoint.url())).content_type(FORM);
    if let Some(keys) = &ask.keys {
        for (name, value) in signed(ask, keys, &body, clock::now()) {
            request = request.header(name, value);
        }
    }
    let answer =
        request.send(&body).map_err(|_| busy("the token service (STS) does not answer"))?;
    let status = answer.status().as_u16();
    let mut document = Vec::new();
    let mut reader = answer.into_body().into_reader().take(ANSWER_BYTES_MAX);
    reader.read_to_end(&mut document).map_err(|_| busy("the answer of STS breaks off"))?;
    match status {
        200 => keys(ask.place, ask.action, &document),
        407 => Err(failed(ask, "the proxy of the environment wants a name and a password (407)")),
        429 | 500..600 => Err(busy("the token service (STS) is out of order")),
        _ => match refusal(&document) {
            Refused::Busy => Err(busy("the token service (STS) is overloaded")),
            Refused::Because(why) => Err(failed(ask, why)),
        },
    }
}

fn failed(ask: &Ask, why: &'static str) -> Error {
    Error::Credentials { place: ask.place.to_owned(), why }
}

fn body(ask: &Ask) -> String {
    let fixed = [("Action", ask.action), ("Version", "2011-06-15")];
    let all = fixed.into_iter().chain(ask.form.iter().map(|(name, value)| (*name, value.as_str())));
    let pairs: Vec<_> = all
        .map(|(name, value)| format!("{name}={}", s3::signing::uri_encode(value, true)))
        .collect();
    pairs.join("&")
}

/// The headers that prove that `keys` ask. AWS IAM user guide, "Create a signed AWS API request".
fn signed(ask: &Ask, keys: &Keys, body: &str, now: u64) -> Vec<(&'static str, String)> {
    let time = date::compact(now);
    let day = &time[..8];
    let mut headers = vec![
        ("content-type", FORM.to_owned()),
        ("host", ask.endpoint.authority()),
        ("x-amz-date", time.clone()),
    ];
    if let Some(token) = &keys.session_token {
        headers.push(("x-amz-security-token", token.clone()));
    }
    let canonical: String =
        headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
    let names: Vec<_> = headers.iter().map(|(name, _)| *name).collect();
    let names = names.join(";");
    let request = format!("POST\n/\n\n{canonical}\n{names}\n{}", sha256(body));
    let scope = format!("{day}/{}/sts/aws4_request", ask.region);
    let text = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", sha256(&request));
    let mut key = format!("AWS4{}", keys.secret_key).into_bytes();
    for part in [day, &ask.region, "sts", "aws4_request"] {
        key = mac(&key, part);
    }
    let signature = hex::encode(mac(&key, &text));
    // ureq sets the first two itself, and to the same.
    headers.drain(..2);
    let id = &keys.access_key;
    headers.push((
        "authorization",
        format!(
            "AWS4-HMAC-SHA256 Credential={id}/{scope}, SignedHeaders={names}, Signature={signature}"
        ),
    ));
    headers
}

fn sha256(text: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(text.as_bytes());
    hex::encode(hash.finish())
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec()
}

#[derive(Debug, PartialEq, Eq)]
enum Refused {
    Busy,
    Because(&'static str),
}

/// The codes of the API reference, each with what helps.
fn refusal(document: &[u8]) -> Refused {
    let mut code = String::new();
    let read = xml::walk(document, "ErrorResponse", &mut |path, text| {
        if let [_, error, leaf] = path
            && (error.as_str(), leaf.as_str()) == ("Error", "Code")
        {
            text.clone_into(&mut code);
        }
        Ok(())
    });
    let Ok(()) = read else { return Refused::Because("STS refuses the token or the role") };
    Refused::Because(match code.as_str() {
        "Throttling" | "ThrottlingException" | "IDPCommunicationError" => return Refused::Busy,
        "ExpiredTokenException" => "STS says that the token has expired",
        "ExpiredToken" => "STS says that the keys that ask for the role have expired: renew them",
        "AccessDenied" => {
            "STS denies the role: check AWS_ROLE_ARN or role_arn and its trust policy"
        }
        "InvalidIdentityToken" | "IDPRejectedClaim" => "STS does not accept the token",
        "InvalidClientTokenId" => "STS does not know the access key that asks for the role",
        "SignatureDoesNotMatch" => {
            "STS says that the secret key that asks for the role is wrong, or this machine's clock"
        }
        "RegionDisabledException" => "STS is not turned on in this region: set another",
        _ => "STS refuses the token or the role",
    })
}

/// Reads the document of STS.
pub(crate) fn keys(place: &str, action: &str, document: &[u8]) -> Result<Keys, Error> {
    let failed = |why| Error::Credentials { place: place.to_owned(), why };
    let (mut id, mut secret, mut session, mut expires) = (None, None, None, None);
    let result_due = format!("{}Result", action);
    xml::walk(document, &format!("{}Response", action), &mut |path, text| {
        let [_, result, credentials, leaf] = path else { return Ok(()) };
        if *result != result_due || credentials != "Credentials" {
            return Ok(());
        }
        let text = Some(text.to_owned());
        match leaf.as_str() {
            "AccessKeyId" => id = text,
            "SecretAccessKey" => secret = text,
            "SessionToken" => session = text,
            "Expiration" => expires = text,
            _ => {}
        }
        Ok(())
    })
    .map_err(|_| failed("the answer of STS is not the XML due"))?;
    let (Some(id), Some(secret), Some(session), Some(expires)) = (id, secret, session, expires)
    else {
        return Err(failed("the answer of STS has no keys"));
    };
    let mut keys = Keys::new(&id, &secret, Some(&session));
    let expires = date::rfc3339(&expires);
    keys.expires = Some(expires.ok_or_else(|| failed("the expiration is not a date"))?);
    keys.check(place)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::s3::endpoint::Variant;

    fn question(action: &'static str) -> Ask {
        Ask {
            place: "a test",
            endpoint: Endpoint::amazon("sts", "eu-west-1", Variant::default()),
            region: "eu-west-1".into(),
            action,
            form: vec![
                ("RoleArn", "arn:aws:iam::1:role/r".into()),
                ("RoleSessionName", "a b".into()),
            ],
            keys: None,
            ca_file: None,
        }
    }

    fn document(inside: &str) -> String {
        format!(
            "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
             <AssumeRoleResult>{inside}</AssumeRoleResult></AssumeRoleResponse>"
        )
    }

    #[test]
    fn documents_are_read_and_checked() {
        let lent = "<Credentials><SessionToken>T</SessionToken><SecretAccessKey>S</SecretAccessKey>\
             <Expiration>2026-11-21T05:35:02Z</Expiration><AccessKeyId>A</AccessKeyId></Credentials>";
        let got = keys("x", "AssumeRole", document(lent).as_bytes()).unwrap();
        assert_eq!((got.access_key.as_str(), got.expires), ("A", Some(1_795_239_302)));
        let web = keys("x", "AssumeRoleWithWebIdentity", document(lent).as_bytes());
        assert!(web.is_err(), "another question's answer");
        for bad in [
            document(""),
            document(&lent.replace("<AccessKeyId>A</AccessKeyId>", "")),
            document(&lent.replace("2026-11-21T05:35:02Z", "soon")),
            document(&lent.replace(">S<", "> <")),
            lent.to_owned(),
            "<html>".to_owned(),
        ] {
            assert!(keys("x", "AssumeRole", bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn refusals_say_what_helps() {
        let said = |code: &str| {
            refusal(
                format!("<ErrorResponse><Error><Code>{code}</Code></Error></ErrorResponse>")
                    .as_bytes(),
            )
        };
        let contains = |code: &str, word: &str| match said(code) {
            Refused::Because(why) => assert!(why.contains(word), "{why}"),
            Refused::Busy => panic!("{code}"),
        };
        contains("ExpiredTokenException", "expired");
        contains("AccessDenied", "AWS_ROLE_ARN");
        contains("Other", "refuses");
        assert_eq!(said("Throttling"), Refused::Busy);
        assert_eq!(refusal(b"<html>"), Refused::Because("STS refuses the token or the role"));
    }

    /// The signature is botocore's own for the same question, keys and second.
    #[test]
    fn a_question_is_signed_as_botocore_signs_it() {
        let ask = question("AssumeRole");
        let keys = Keys::new("AKID", "SECRET", Some("TOKEN"));
        let body = body(&ask);
        assert_eq!(
            body,
            "Action=AssumeRole&Version=2011-06-15&RoleArn=arn%3Aaws%3Aiam%3A%3A1%3Arole%2Fr&\
             RoleSessionName=a%20b"
        );
        let headers = signed(&ask, &keys, &body, 1_795_239_302);
        assert_eq!(headers[0], ("x-amz-date", "20261121T053502Z".to_owned()));
        let (_, authorization) = headers.last().unwrap();
        assert_eq!(
            authorization,
            "AWS4-HMAC-SHA256 Credential=AKID/20261121/eu-west-1/sts/aws4_request, \
             SignedHeaders=content-type;host;x-amz-date;x-amz-security-token, \
             Signature=9e64efa4946b8d3cb8e29f39cc91f6cf0de465f5d0ce6ce4429d03a947bad770"
        );
    }
}
