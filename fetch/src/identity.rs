//! Keys that the security token service (STS) lends for a web identity: a token in a file, as
//! Kubernetes gives to a pod, is exchanged for the keys of a role.
//!
//! AWS STS API reference, "AssumeRoleWithWebIdentity": the one call of STS that needs no signature.
//! The token goes into the body, not into the URL, which proxies and servers write to their logs.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use ureq::Agent;
use ureq::tls::TlsConfig;

use crate::credentials::{Keys, Lookup};
use crate::date;
use crate::endpoint::Endpoint;
use crate::error::Error;
use crate::{http, proxy, xml};

const TIMEOUT: Duration = Duration::from_secs(10);
const TOKEN_BYTES_MAX: u64 = 64 << 10;
const ANSWER_BYTES_MAX: u64 = 64 << 10;

const TOKEN_FILE: &str = "AWS_WEB_IDENTITY_TOKEN_FILE";
const PLACE: &str = "web identity";

/// Keys for the token that the environment names, if it names one.
///
/// # Errors
/// [`Error::Unreadable`] for the token, [`Error::Setting`] for the service's URL, else
/// [`Error::Credentials`] and [`Error::Lender`]; none holds the token or what the service lent.
pub(crate) fn from_web(
    get: Lookup<'_>,
    region: &str,
    ca_file: Option<&Path>,
) -> Result<Option<Keys>, Error> {
    let Some(file) = get(TOKEN_FILE) else { return Ok(None) };
    let role = get("AWS_ROLE_ARN")
        .ok_or_else(|| failed("AWS_WEB_IDENTITY_TOKEN_FILE is set and AWS_ROLE_ARN is not"))?;
    let session = get("AWS_ROLE_SESSION_NAME").unwrap_or_else(|| "veneer-fetch".to_owned());
    let token = token(Path::new(&file))?;
    let endpoint = match get("AWS_ENDPOINT_URL_STS") {
        Some(url) => Endpoint::parse(&url)?,
        None => Endpoint::amazon("sts", region),
    };
    let mut config = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .proxy(proxy::find(&endpoint, get)?)
        .timeout_global(Some(TIMEOUT));
    if endpoint.is_https() {
        let roots = http::roots(ca_file)?;
        config = config.tls_config(TlsConfig::builder().root_certs(roots).build());
    }
    let form = [
        ("Action", "AssumeRoleWithWebIdentity"),
        ("Version", "2011-06-15"),
        ("RoleArn", &role),
        ("RoleSessionName", &session),
        ("WebIdentityToken", &token),
    ];
    let answer = config
        .build()
        .new_agent()
        .post(format!("{}/", endpoint.url()))
        .send_form(form)
        .map_err(|_| busy("the token service (STS) does not answer"))?;
    let status = answer.status().as_u16();
    let mut document = Vec::new();
    let mut reader = answer.into_body().into_reader().take(ANSWER_BYTES_MAX);
    reader.read_to_end(&mut document).map_err(|_| busy("the answer of STS breaks off"))?;
    match status {
        200 => keys(&document).map(Some),
        500..600 => Err(busy("the token service (STS) is out of order")),
        _ => Err(failed(refusal(&document))),
    }
}

fn failed(why: &'static str) -> Error {
    Error::Credentials { place: PLACE.to_owned(), why }
}

fn busy(why: &'static str) -> Error {
    Error::Lender { place: PLACE, why }
}

fn token(path: &Path) -> Result<String, Error> {
    let failed =
        |source| Error::Unreadable { what: "web identity token", path: path.to_owned(), source };
    let mut text = String::new();
    let file = File::open(path).map_err(failed)?;
    file.take(TOKEN_BYTES_MAX).read_to_string(&mut text).map_err(failed)?;
    Ok(text.trim().to_owned())
}

/// The codes of the API reference, each with what helps.
fn refusal(document: &[u8]) -> &'static str {
    let mut code = String::new();
    let read = xml::walk(document, "ErrorResponse", &mut |path, text| {
        if let [_, error, leaf] = path
            && (error.as_str(), leaf.as_str()) == ("Error", "Code")
        {
            text.clone_into(&mut code);
        }
        Ok(())
    });
    match (read, code.as_str()) {
        (Ok(()), "ExpiredTokenException") => "STS says that the token has expired",
        (Ok(()), "AccessDenied") => "STS denies the role: check AWS_ROLE_ARN and its trust policy",
        (Ok(()), "InvalidIdentityToken" | "IDPRejectedClaim") => "STS does not accept the token",
        (Ok(()) | Err(_), _) => "STS refuses the token or the role",
    }
}

/// Reads the document of STS.
pub(crate) fn keys(document: &[u8]) -> Result<Keys, Error> {
    let (mut id, mut secret, mut session, mut expires) = (None, None, None, None);
    xml::walk(document, "AssumeRoleWithWebIdentityResponse", &mut |path, text| {
        let [_, result, credentials, leaf] = path else { return Ok(()) };
        if result != "AssumeRoleWithWebIdentityResult" || credentials != "Credentials" {
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
    keys.check(PLACE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(inside: &str) -> String {
        format!(
            "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
             <AssumeRoleWithWebIdentityResult>{inside}</AssumeRoleWithWebIdentityResult>\
             </AssumeRoleWithWebIdentityResponse>"
        )
    }

    #[test]
    fn documents_are_read_and_checked() {
        let lent = "<Credentials><SessionToken>T</SessionToken><SecretAccessKey>S</SecretAccessKey>\
             <Expiration>2026-11-21T05:35:02Z</Expiration><AccessKeyId>A</AccessKeyId></Credentials>";
        let got = keys(document(lent).as_bytes()).unwrap();
        assert_eq!((got.access_key.as_str(), got.expires), ("A", Some(1_795_239_302)));
        for bad in [
            document(""),
            document(&lent.replace("<AccessKeyId>A</AccessKeyId>", "")),
            document(&lent.replace("2026-11-21T05:35:02Z", "soon")),
            document(&lent.replace(">S<", "> <")),
            lent.to_owned(),
            "<html>".to_owned(),
        ] {
            assert!(keys(bad.as_bytes()).is_err(), "{bad}");
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
        assert!(said("ExpiredTokenException").contains("expired"));
        assert!(said("AccessDenied").contains("AWS_ROLE_ARN"));
        assert!(said("Other").contains("refuses") && refusal(b"<html>").contains("refuses"));
    }
}
