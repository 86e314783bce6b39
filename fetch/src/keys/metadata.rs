//! Keys that the container's or the instance's metadata service lends.
//!
//! Amazon ECS developer guide, "Task IAM role"; Amazon EC2 user guide, "Use IMDSv2". Version 1 of
//! the instance metadata is not spoken: any request that a program can be talked into would do
//! there. The services are asked directly, past any proxy.

use std::fs;
use std::io::Read as _;
use std::net::IpAddr;
use std::time::Duration;

use serde::Deserialize;
use ureq::Agent;

use crate::error::Error;
use crate::http::vigil::Waiting;
use crate::s3::endpoint::Endpoint;
use crate::s3::keys::{Keys, Lookup};
use crate::s3::options::Options;
use crate::text::date;

/// Both services are one hop away; a machine without them must not be kept waiting.
const TIMEOUT: Duration = Duration::from_secs(2);
const ANSWER_BYTES_MAX: u64 = 64 << 10;

/// Keys out of the container's service, if the environment names one.
///
/// # Errors
/// [`Error::Credentials`], [`Error::Lender`].
pub(crate) fn from_container(get: Lookup<'_>, options: &Options) -> Result<Option<Keys>, Error> {
    let url = match (
        get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"),
        get("AWS_CONTAINER_CREDENTIALS_FULL_URI"),
    ) {
        (Some(path), _) if path.starts_with('/') => format!("http://169.254.170.2{path}"),
        (Some(_), _) => return Err(failed("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "no path")),
        (None, Some(url)) if is_allowed(&url) => url,
        (None, Some(_)) => {
            let why = "neither https nor a loopback or container service address";
            return Err(failed("AWS_CONTAINER_CREDENTIALS_FULL_URI", why));
        }
        (None, None) => return Ok(None),
    };
    let token = match get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE") {
        Some(path) => {
            let why = "the token file cannot be read";
            Some(fs::read_to_string(&path).map_err(|_| failed(&path, why))?.trim().to_owned())
        }
        None => get("AWS_CONTAINER_AUTHORIZATION_TOKEN"),
    };
    let headers: Vec<_> = token.iter().map(|token| ("authorization", token.as_str())).collect();
    keys(&ask(options, "container metadata", false, &url, &headers)?, "container metadata")
        .map(Some)
}

/// The SDKs' rule for addresses that may get the token: https, loopback, or those of ECS and EKS.
fn is_allowed(url: &str) -> bool {
    let end = url.match_indices('/').nth(2).map_or(url.len(), |(at, _)| at);
    let Ok(endpoint) = Endpoint::parse_any(&url[..end]) else { return false };
    let host = endpoint.host().trim_matches(['[', ']']);
    let services = ["169.254.170.2", "169.254.170.23", "fd00:ec2::23"];
    endpoint.is_https()
        || host == "localhost"
        || services.contains(&host)
        || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Keys of the instance's role, if this is an instance that has one.
///
/// # Errors
/// [`Error::Credentials`] if the service is there and says nonsense.
pub(crate) fn from_instance(get: Lookup<'_>, options: &Options) -> Result<Option<Keys>, Error> {
    if get("AWS_EC2_METADATA_DISABLED").is_some_and(|flag| flag.eq_ignore_ascii_case("true")) {
        return Ok(None);
    }
    let given = get("AWS_EC2_METADATA_SERVICE_ENDPOINT");
    if given.is_none() && !is_instance() {
        return Ok(None);
    }
    let base = given.unwrap_or_else(|| "http://169.254.169.254".to_owned());
    let base = base.trim_end_matches('/');
    let place = "instance metadata";
    let ttl = [("x-aws-ec2-metadata-token-ttl-seconds", "21600")];
    let token = ask(options, place, true, &format!("{base}/latest/api/token"), &ttl)?;
    let token = [("x-aws-ec2-metadata-token", token.trim())];
    let roles = format!("{base}/latest/meta-data/iam/security-credentials/");
    let Ok(role) = ask(options, place, false, &roles, &token) else { return Ok(None) };
    let role = role.lines().next().unwrap_or("").trim().to_owned();
    if role.is_empty()
        || !role.bytes().all(|b| b.is_ascii_alphanumeric() || b"+=,.@_-".contains(&b))
    {
        return Err(failed(place, "the role's name is odd"));
    }
    keys(&ask(options, place, false, &format!("{roles}{role}"), &token)?, place).map(Some)
}

/// EC2 user guide, "Detect whether a host is an EC2 instance".
fn is_instance() -> bool {
    let says = |file: &str, text: &str| {
        fs::read_to_string(file).is_ok_and(|found| found.starts_with(text))
    };
    says("/sys/class/dmi/id/sys_vendor", "Amazon EC2")
        || says("/sys/class/dmi/id/board_vendor", "Amazon EC2")
        || says("/sys/hypervisor/uuid", "ec2")
}

fn failed(place: &str, why: &'static str) -> Error {
    Error::Credentials { place: place.to_owned(), why }
}

/// One small request. What goes wrong is told by place only: answers hold secrets.
fn ask(
    options: &Options,
    place: &'static str,
    put: bool,
    url: &str,
    headers: &[(&str, &str)],
) -> Result<String, Error> {
    let busy = |why| Error::Lender { place, why };
    let agent: Agent = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .proxy(None)
        .timeout_global(Some(TIMEOUT))
        .build()
        .new_agent();
    let _waiting = Waiting::begin(options, &agent, place);
    let answer = if put {
        let request = agent.put(url);
        headers.iter().fold(request, |r, (name, value)| r.header(*name, *value)).send_empty()
    } else {
        let request = agent.get(url);
        headers.iter().fold(request, |r, (name, value)| r.header(*name, *value)).call()
    };
    let answer = answer.map_err(|_| busy("the service does not answer"))?;
    match answer.status().as_u16() {
        200 => {}
        429 | 500..600 => return Err(busy("the service is out of order")),
        _ => return Err(failed(place, "the service refuses")),
    }
    let mut text = String::new();
    let mut reader = answer.into_body().into_reader().take(ANSWER_BYTES_MAX);
    reader.read_to_string(&mut text).map_err(|_| busy("the answer breaks off"))?;
    Ok(text)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Lent {
    code: Option<String>,
    access_key_id: String,
    secret_access_key: String,
    token: String,
    expiration: String,
}

/// Reads the document of either service.
pub(crate) fn keys(document: &str, place: &str) -> Result<Keys, Error> {
    let lent: Lent = serde_json::from_str(document)
        .map_err(|_| failed(place, "the answer is not the JSON due"))?;
    if lent.code.is_some_and(|code| code != "Success") {
        return Err(failed(place, "the service has no keys to lend"));
    }
    let mut keys = Keys::new(&lent.access_key_id, &lent.secret_access_key, Some(&lent.token));
    let expires = date::rfc3339(&lent.expiration);
    keys.expires = Some(expires.ok_or_else(|| failed(place, "the expiration is not a date"))?);
    keys.check(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_go_to_known_services_only() {
        for good in [
            "https://x/y",
            "http://127.0.0.1:80/x",
            "http://localhost/x",
            "http://[::1]/x",
            "http://169.254.170.23/v1/credentials",
            "http://169.254.170.2",
        ] {
            assert!(is_allowed(good), "{good}");
        }
        for bad in [
            "http://evil/x",
            "http://169.254.169.254/x",
            "http://localhost.evil/x",
            "file:///x",
            "",
        ] {
            assert!(!is_allowed(bad), "{bad}");
        }
    }

    #[test]
    fn documents_are_read_and_checked() {
        let text = |code: &str| {
            format!(
                "{{\"Code\":\"{code}\",\"AccessKeyId\":\"A\",\"SecretAccessKey\":\"S\",\
                 \"Token\":\"T\",\"Expiration\":\"2026-11-21T05:35:02Z\"}}"
            )
        };
        assert_eq!(keys(&text("Success"), "x").unwrap().expires, Some(1_795_239_302));
        assert!(keys(&text("Failed"), "x").is_err());
        assert!(keys("{}", "x").is_err());
        assert!(keys("<html>", "x").is_err());
    }
}
