//! Where the signing keys come from: options, environment, a web identity, shared files, metadata;
//! and when anew.
//!
//! No key, secret or token is ever printed, nor part of an error.

#[cfg(test)]
pub(crate) mod boto;
pub(crate) mod configured;
pub(crate) mod environment;
pub(crate) mod identity;
pub(crate) mod metadata;
pub(crate) mod process;
pub(crate) mod shared;
pub(crate) mod sts;

use std::sync::{Mutex, PoisonError};

use crate::clock;
use crate::error::Error;
use crate::keys::configured::Configured;
use crate::keys::shared::{Section, Value};
use crate::keys::sts::Ask;
use crate::s3::keys::{Keys, Lookup};
use crate::s3::options::{CredentialsFrom, Event, Options};
use crate::text::date;
use crate::text::quote::quoted;

/// What keys are found by: the environment, and whoever lends those of a role.
pub(crate) struct Outside<'a> {
    pub(crate) look: Lookup<'a>,
    pub(crate) sts: &'a dyn Fn(&Ask) -> Result<Keys, Error>,
}

impl Outside<'_> {
    /// A variable; an empty one counts as unset.
    pub(crate) fn get(&self, name: &str) -> Option<String> {
        (self.look)(name).filter(|value| !value.is_empty())
    }
}

/// Finds the keys, in botocore's order; none is anonymous, which is asked for, or there is nothing that has keys.
///
/// # Errors
/// [`Error::Credentials`] and [`Error::Shared`] for what is there and no use; [`Error::Unreadable`] for a
/// shared file that is there and unreadable.
pub(crate) fn find(options: &Options, outside: &Outside<'_>) -> Result<Option<Keys>, Error> {
    match &options.credentials {
        CredentialsFrom::Anonymous => Ok(None),
        CredentialsFrom::Static { access_key, secret_key, session_token } => {
            Keys::new(access_key, secret_key, session_token.as_deref()).check("options").map(Some)
        }
        CredentialsFrom::Profile(_) => search(options, true, outside),
        CredentialsFrom::Auto => {
            if let Some(line) = &options.credential_process {
                return process::of_setting(line, &options.stop).map(Some);
            }
            search(options, false, outside)
        }
    }
}

/// With `explicit` a profile was chosen by an option: then the environment's keys are not meant.
fn search(options: &Options, explicit: bool, outside: &Outside<'_>) -> Result<Option<Keys>, Error> {
    let configured = Configured::read(options, outside.look)?;
    let look: Lookup<'_> = &|name| outside.get(name);
    if !explicit && let Some(keys) = from_env(look)? {
        return Ok(Some(keys));
    }
    let name = configured.name();
    let role = identity::from_role(&configured, name, options, &mut Vec::new(), outside)?;
    if let Some(keys) = role {
        return Ok(Some(keys));
    }
    if let Some(keys) = of_profile(&configured, name, options, !explicit, outside)? {
        return Ok(Some(keys));
    }
    for variable in ["AWS_CREDENTIAL_FILE", "BOTO_CONFIG"] {
        if let Some(file) = outside.get(variable) {
            return Err(Error::Credentials {
                place: format!("{variable}={file}"),
                why: "files of this old form are not read: use ~/.aws/credentials",
            });
        }
    }
    if let Some(keys) = metadata::from_container(look, options)? {
        return Ok(Some(keys));
    }
    if let Some(keys) = metadata::from_instance(look, options)? {
        return Ok(Some(keys));
    }
    nothing(&configured)
}

/// Nobody is anonymous by mistake: what has keys, and not for the profile that counts, is named.
fn nothing(configured: &Configured<'_>) -> Result<Option<Keys>, Error> {
    if let Some((name, by)) = &configured.named {
        return Err(Error::Credentials {
            place: format!("profile {name} (named by {by})"),
            why: "it has no keys, and none were found elsewhere: pass --anonymous if that is meant",
        });
    }
    if let Some(path) = &configured.shared.absent {
        return Err(Error::Credentials {
            place: format!("AWS_SHARED_CREDENTIALS_FILE={}", path.display()),
            why: "there is no such file, and no keys elsewhere: pass --anonymous if that is meant",
        });
    }
    let shared = &configured.shared;
    let sections = [&shared.credentials, &shared.config, &shared.others];
    let sources = ["aws_access_key_id", "aws_secret_access_key", "role_arn", "credential_process"];
    let other = sections.into_iter().flatten().find_map(|(name, section)| {
        sources.iter().find_map(|key| Some((name, section.get(*key)?)))
    });
    match other {
        Some((name, value)) => Err(value.refused(format!(
            "there are keys for [{}] and none for [default]: name a profile by --profile or \
             AWS_PROFILE (in the config file its section is [profile NAME]), or pass --anonymous",
            quoted(name).trim_matches('"')
        ))),
        None => Ok(None),
    }
}

/// The keys of one profile, in botocore's order.
pub(crate) fn of_profile(
    configured: &Configured<'_>,
    name: &str,
    options: &Options,
    with_variables: bool,
    outside: &Outside<'_>,
) -> Result<Option<Keys>, Error> {
    let profile = configured.shared.profile(name);
    let web = identity::from_web(configured, &profile, options, with_variables, outside)?;
    if let Some(keys) = web {
        return Ok(Some(keys));
    }
    let not_followed = |key: &str| match profile.get(key) {
        Some(value) => Err(value.refused(
            "keys by SSO or by a login are not supported: export them to the environment \
             (`aws configure export-credentials`)",
        )),
        None => Ok(()),
    };
    not_followed("sso_role_name")?;
    not_followed("sso_account_id")?;
    if let Some(keys) = configured.shared.credentials.get(name).map(pair).transpose()?.flatten() {
        return Ok(Some(keys));
    }
    not_followed("login_session")?;
    if let Some(line) = profile.get("credential_process") {
        return process::of_profile(line, &options.stop).map(Some);
    }
    if let Some(keys) = configured.shared.config.get(name).map(pair).transpose()?.flatten() {
        return Ok(Some(keys));
    }
    not_followed("sso_session")?;
    not_followed("sso_start_url")?;
    Ok(None)
}

/// The keys that stand in a section.
pub(crate) fn pair(section: &Section) -> Result<Option<Keys>, Error> {
    let get = |key: &str| section.get(key);
    let (id, secret) = match (get("aws_access_key_id"), get("aws_secret_access_key")) {
        (Some(id), Some(secret)) => (id, secret),
        (None, None) => return Ok(None),
        (Some(half), None) | (None, Some(half)) => {
            return Err(half.refused("the profile has only half a key pair"));
        }
    };
    let token = get("aws_security_token").or_else(|| get("aws_session_token"));
    let token = token.map(Value::plain).transpose()?.filter(|token| !token.is_empty());
    match Keys::new(id.plain()?, secret.plain()?, token).check("") {
        Ok(keys) => Ok(Some(keys)),
        Err(Error::Credentials { why, .. }) => Err(id.refused(why)),
        Err(other) => Err(other),
    }
}

pub(crate) fn from_env(get: Lookup<'_>) -> Result<Option<Keys>, Error> {
    let place = "environment";
    match (get("AWS_ACCESS_KEY_ID"), get("AWS_SECRET_ACCESS_KEY")) {
        (Some(id), Some(secret)) => {
            let token = get("AWS_SECURITY_TOKEN").or_else(|| get("AWS_SESSION_TOKEN"));
            let keys = Keys::new(&id, &secret, token.as_deref());
            if let Some(end) = get("AWS_CREDENTIAL_EXPIRATION") {
                let why = "AWS_CREDENTIAL_EXPIRATION is no date such as 2026-11-21T05:35:02Z";
                let no_date = || Error::Credentials { place: place.to_owned(), why };
                if date::rfc3339(&end).ok_or_else(no_date)? <= clock::now() {
                    let why = "by AWS_CREDENTIAL_EXPIRATION they have expired: renew them";
                    return Err(Error::Credentials { place: place.to_owned(), why });
                }
            }
            keys.check(place).map(Some)
        }
        (None, None) => Ok(None),
        // Falling through to another identity would surprise.
        (Some(_), None) => Err(Error::Credentials {
            place: place.to_owned(),
            why: "AWS_ACCESS_KEY_ID is set and AWS_SECRET_ACCESS_KEY is not",
        }),
        (None, Some(_)) => Err(Error::Credentials {
            place: place.to_owned(),
            why: "AWS_SECRET_ACCESS_KEY is set and AWS_ACCESS_KEY_ID is not",
        }),
    }
}

/// Lent keys are renewed this long before they end.
const MARGIN_SECONDS: u64 = 300;

/// The keys of a client, found when they are first needed and again when they end.
#[derive(Debug)]
pub(crate) struct Source {
    options: Options,
    /// None until they have been looked for.
    found: Mutex<Option<Option<Keys>>>,
}

impl Source {
    /// Looks for the keys at once, so that what is wrong with them is known before a request.
    pub(crate) fn new(options: &Options) -> Result<Source, Error> {
        let source = Source { options: options.clone(), found: Mutex::new(None) };
        source.keys()?;
        Ok(source)
    }

    /// The same for another client, with the keys that are known.
    pub(crate) fn again(&self) -> Source {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Source { options: self.options.clone(), found: Mutex::new(found) }
    }

    /// The keys to sign with now; none is anonymous.
    ///
    /// # Errors
    /// As [`find`].
    pub(crate) fn keys(&self) -> Result<Option<Keys>, Error> {
        // A panic while it was held left the keys whole: they are only ever replaced.
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(keys) = &*found
            && !keys.as_ref().and_then(|keys| keys.expires).is_some_and(ends_soon)
        {
            return Ok(keys.clone());
        }
        let look = |name: &str| std::env::var(name).ok();
        let ask = |question: &Ask| sts::ask(question, &self.options, &look);
        let keys = find(&self.options, &Outside { look: &look, sts: &ask })?;
        if keys.is_none()
            && self.options.credentials != CredentialsFrom::Anonymous
            && found.is_none()
        {
            self.options.watch.tell(&Event::Anonymous);
        }
        *found = Some(keys.clone());
        Ok(keys)
    }

    /// Forgets keys that the server calls expired; false if the same ones would be found again.
    pub(crate) fn renew(&self, old: Option<&Keys>) -> Result<bool, Error> {
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = None;
        Ok(self.keys()?.as_ref() != old)
    }
}

fn ends_soon(expires: u64) -> bool {
    expires < clock::now() + MARGIN_SECONDS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn auto(pairs: &[(&str, &str)]) -> Result<Option<Keys>, Error> {
        let look =
            |name: &str| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        let ask = |_: &Ask| panic!("nobody is to be asked");
        find(&Options::default(), &Outside { look: &look, sts: &ask })
    }

    #[test]
    fn the_environment_gives_keys_or_none() {
        let got =
            auto(&[("HOME", "/n"), ("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "s")])
                .unwrap();
        assert_eq!(got, Some(Keys::new("a", "s", None)));
        let off = ("AWS_EC2_METADATA_DISABLED", "true");
        let home = ("HOME", "/nonexistent");
        assert_eq!(
            auto(&[home, off, ("AWS_ACCESS_KEY_ID", ""), ("AWS_SECRET_ACCESS_KEY", "")]).unwrap(),
            None
        );
        assert_eq!(auto(&[home, off]).unwrap(), None);
        assert!(auto(&[home, off, ("AWS_WEB_IDENTITY_TOKEN_FILE", "/x")]).is_err());
    }

    #[test]
    fn half_an_identity_is_an_error() {
        assert!(auto(&[("HOME", "/n"), ("AWS_ACCESS_KEY_ID", "a")]).is_err());
        assert!(auto(&[("HOME", "/n"), ("AWS_SECRET_ACCESS_KEY", "s")]).is_err());
        let error = auto(&[
            ("HOME", "/n"),
            ("AWS_ACCESS_KEY_ID", "a"),
            ("AWS_SECRET_ACCESS_KEY", "hunter2\n"),
        ]);
        assert!(!error.unwrap_err().to_string().contains("hunter2"));
    }
}
