//! Keys of a role: for a web identity, which is a token in a file as Kubernetes gives it to a pod, or for the
//! keys of another profile or of this machine.
//!
//! AWS STS API reference, "AssumeRoleWithWebIdentity" and "AssumeRole". Who is asked, and with what, is decided
//! here; how is in `sts.rs`.

use std::fs::File;
use std::io::Read as _;
use std::net::IpAddr;
use std::path::Path;

use crate::clock;
use crate::error::Error;
use crate::keys::configured::Configured;
use crate::keys::shared::{Section, Value};
use crate::keys::sts::Ask;
use crate::keys::{self, Outside, metadata};
use crate::s3::endpoint::Endpoint;
use crate::s3::keys::{Keys, Lookup};
use crate::s3::options::Options;

const TOKEN_BYTES_MAX: u64 = 64 << 10;
const PLACE: &str = "web identity";

/// Keys for the token that the environment or the profile names, if one does. The environment counts only
/// where the profile was not chosen by an option.
///
/// # Errors
/// [`Error::Unreadable`] for the token, [`Error::Setting`] for the service's URL, else
/// [`Error::Credentials`] and [`Error::Lender`]; none holds the token or what the service lent.
pub(crate) fn from_web(
    configured: &Configured<'_>,
    profile: &Section,
    options: &Options,
    with_variables: bool,
    outside: &Outside<'_>,
) -> Result<Option<Keys>, Error> {
    let find = |variable: &str, key: &str| -> Result<Option<String>, Error> {
        if let Some(text) = with_variables.then(|| outside.get(variable)).flatten() {
            return Ok(Some(text));
        }
        let value = profile.get(key).filter(|value| !value.text.is_empty());
        Ok(value.map(Value::plain).transpose()?.map(str::to_owned))
    };
    let Some(file) = find("AWS_WEB_IDENTITY_TOKEN_FILE", "web_identity_token_file")? else {
        return Ok(None);
    };
    let Some(role) = find("AWS_ROLE_ARN", "role_arn")? else {
        if let Some(value) = profile.get("web_identity_token_file") {
            return Err(value.refused("the profile has no role_arn beside it"));
        }
        let why = "AWS_WEB_IDENTITY_TOKEN_FILE is set and AWS_ROLE_ARN is not";
        return Err(Error::Credentials { place: PLACE.to_owned(), why });
    };
    let session = find("AWS_ROLE_SESSION_NAME", "role_session_name")?;
    let session = session.unwrap_or_else(|| "veneer-fetch".to_owned());
    let token = token(Path::new(&file))?;
    let form = vec![("RoleArn", role), ("RoleSessionName", session), ("WebIdentityToken", token)];
    let ask = question(configured, options, PLACE, "AssumeRoleWithWebIdentity", form, None)?;
    (outside.sts)(&ask).map(Some)
}

fn question(
    configured: &Configured<'_>,
    options: &Options,
    place: &'static str,
    action: &'static str,
    form: Vec<(&'static str, String)>,
    keys: Option<Keys>,
) -> Result<Ask, Error> {
    let endpoint = configured.token_service(options)?;
    let settled = configured.settle(options)?;
    let region = settled.region.unwrap_or_default();
    Ok(Ask { place, endpoint, region, action, form, keys, ca_file: settled.ca_file })
}

fn token(path: &Path) -> Result<String, Error> {
    let failed =
        |source| Error::Unreadable { what: "web identity token", path: path.to_owned(), source };
    let mut text = String::new();
    let file = File::open(path).map_err(failed)?;
    file.take(TOKEN_BYTES_MAX).read_to_string(&mut text).map_err(failed)?;
    Ok(text.trim().to_owned())
}

/// The keys of the role that profile `name` names; none if it names none. `above` are the profiles whose source
/// this one is.
///
/// # Errors
/// [`Error::Shared`] for what is said wrong, else as [`from_web`].
pub(crate) fn from_role(
    configured: &Configured<'_>,
    name: &str,
    options: &Options,
    above: &mut Vec<String>,
    outside: &Outside<'_>,
) -> Result<Option<Keys>, Error> {
    let profile = configured.shared.profile(name);
    let Some(role) = profile.get("role_arn") else { return Ok(None) };
    if profile.contains_key("web_identity_token_file") {
        return Ok(None);
    }
    above.push(name.to_owned());
    let keys = match (profile.get("source_profile"), profile.get("credential_source")) {
        (Some(_), Some(both)) => {
            return Err(both.refused("the profile has source_profile, too: leave one out"));
        }
        (None, None) => {
            return Err(
                role.refused("the profile says neither source_profile nor credential_source")
            );
        }
        (Some(source), None) => source_keys(configured, name, source, options, above, outside)?,
        (None, Some(source)) => machine_keys(source, options, outside)?,
    };
    let mut form = vec![("RoleArn", role.plain()?.to_owned())];
    let session = match profile.get("role_session_name") {
        Some(session) => session.plain()?.to_owned(),
        None => format!("veneer-fetch-{}", clock::now()),
    };
    form.push(("RoleSessionName", session));
    if let Some(external) = profile.get("external_id") {
        form.push(("ExternalId", external.plain()?.to_owned()));
    }
    if let Some(mfa) = profile.get("mfa_serial") {
        return Err(mfa.refused(
            "a code is to be typed in for it, and nobody is asked here: export keys to the \
             environment (`aws configure export-credentials`)",
        ));
    }
    if let Some(seconds) = profile.get("duration_seconds") {
        let seconds = seconds.plain()?.parse::<u32>().map_err(|_| seconds.refused("no number"))?;
        form.push(("DurationSeconds", seconds.to_string()));
    }
    let ask = question(configured, options, "role", "AssumeRole", form, Some(keys))?;
    if !ask.endpoint.is_https() && !is_loopback(&ask.endpoint) {
        return Err(role.refused(format!(
            "the keys of the role would come in the clear from {}: it has to be https",
            ask.endpoint.url()
        )));
    }
    (outside.sts)(&ask).map(Some)
}

fn is_loopback(endpoint: &Endpoint) -> bool {
    let host = endpoint.host().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// The keys that ask for the role, of another profile, or of the same one.
fn source_keys(
    configured: &Configured<'_>,
    name: &str,
    source: &Value,
    options: &Options,
    above: &mut Vec<String>,
    outside: &Outside<'_>,
) -> Result<Keys, Error> {
    let next = source.plain()?;
    if !configured.shared.has(next) {
        return Err(source.refused("there is no such profile"));
    }
    let profile = configured.shared.profile(next);
    let has_keys =
        ["aws_access_key_id", "aws_secret_access_key"].iter().any(|key| profile.contains_key(*key));
    // A profile may name itself for its keys, and only for these.
    if above.iter().any(|one| one == next) && !(next == name && has_keys) {
        return Err(source.refused("the profiles name one another in a ring"));
    }
    if !has_keys && let Some(keys) = from_role(configured, next, options, above, outside)? {
        return Ok(keys);
    }
    keys::of_profile(configured, next, options, false, outside)?
        .ok_or_else(|| source.refused("that profile has no keys"))
}

/// The keys that this machine lends.
fn machine_keys(source: &Value, options: &Options, outside: &Outside<'_>) -> Result<Keys, Error> {
    let look: Lookup<'_> = &|name| outside.get(name);
    let keys = match source.plain()?.to_ascii_lowercase().as_str() {
        "environment" => keys::from_env(look)?,
        "ecscontainer" => metadata::from_container(look, options)?,
        "ec2instancemetadata" => metadata::from_instance(look, options)?,
        _ => {
            let why = "expected Environment, EcsContainer or Ec2InstanceMetadata";
            return Err(source.refused(why));
        }
    };
    keys.ok_or_else(|| source.refused("there are no keys there"))
}
