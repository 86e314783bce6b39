//! Where the signing keys come from: options, environment, a web identity, shared files, metadata;
//! and when anew.
//!
//! No key, secret or token is ever printed, nor part of an error.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use crate::date;
use crate::error::Error;
use crate::options::{CredentialsFrom, Event, Options};
use crate::{identity, metadata, profile};

/// Keys that sign requests.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Keys {
    pub(crate) access_key: String,
    pub(crate) secret_key: String,
    pub(crate) session_token: Option<String>,
    /// When lent keys end, seconds since 1970.
    pub(crate) expires: Option<u64>,
}

impl Keys {
    pub(crate) fn new(access_key: &str, secret_key: &str, session_token: Option<&str>) -> Keys {
        Keys {
            access_key: access_key.to_owned(),
            secret_key: secret_key.to_owned(),
            session_token: session_token.map(str::to_owned),
            expires: None,
        }
    }

    /// All parts travel in headers; what cannot is refused before a library panics on it.
    pub(crate) fn check(self, place: &str) -> Result<Keys, Error> {
        let sound = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
        let bad = |why| Err(Error::Credentials { place: place.to_owned(), why });
        if !sound(&self.access_key) || self.access_key.contains(['/', ',']) {
            return bad("the access key is empty or has odd characters");
        }
        if !sound(&self.secret_key) {
            return bad("the secret key is empty or has odd characters");
        }
        if !self.session_token.as_deref().is_none_or(sound) {
            return bad("the session token is empty or has odd characters");
        }
        Ok(self)
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys { .. }")
    }
}

/// The process environment, or a test's.
pub(crate) type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Finds the keys; none is anonymous.
///
/// # Errors
/// [`Error::Credentials`], and [`Error::Unreadable`] for a shared file that is there and unreadable.
pub(crate) fn find(options: &Options, look: Lookup<'_>) -> Result<Option<Keys>, Error> {
    let get = |name: &str| look(name).filter(|value| !value.is_empty());
    match &options.credentials {
        CredentialsFrom::Anonymous => Ok(None),
        CredentialsFrom::Static { access_key, secret_key, session_token } => {
            Keys::new(access_key, secret_key, session_token.as_deref()).check("options").map(Some)
        }
        CredentialsFrom::Profile(name) => match from_files(name, &get)? {
            Some(keys) => Ok(Some(keys)),
            None => Err(Error::Credentials {
                place: format!("profile {name}"),
                why: "no such profile with keys in the shared files",
            }),
        },
        CredentialsFrom::Auto => {
            if let Some(keys) = from_env(&get)? {
                return Ok(Some(keys));
            }
            let named = get("AWS_PROFILE");
            // A profile that somebody named is meant; what a cluster sets for all is not that.
            if named.is_none() {
                let ca_file = options.ca_file.as_deref();
                if let Some(keys) = identity::from_web(&get, &options.region, ca_file)? {
                    return Ok(Some(keys));
                }
            }
            let keys = from_files(named.as_deref().unwrap_or("default"), &get)?;
            match (keys, named) {
                (Some(keys), _) => Ok(Some(keys)),
                (None, Some(name)) => Err(Error::Credentials {
                    place: format!("AWS_PROFILE={name}"),
                    why: "no such profile with keys in the shared files",
                }),
                (None, None) => {
                    if let Some(keys) = metadata::from_container(&get)? {
                        return Ok(Some(keys));
                    }
                    if let Some(keys) = metadata::from_instance(&get)? {
                        return Ok(Some(keys));
                    }
                    options.watch.tell(&Event::Note { text: "no credentials found: anonymous" });
                    Ok(None)
                }
            }
        }
    }
}

fn from_env(get: Lookup<'_>) -> Result<Option<Keys>, Error> {
    let place = "environment";
    match (get("AWS_ACCESS_KEY_ID"), get("AWS_SECRET_ACCESS_KEY")) {
        (Some(id), Some(secret)) => {
            Keys::new(&id, &secret, get("AWS_SESSION_TOKEN").as_deref()).check(place).map(Some)
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

/// The shared files, credentials first, as the AWS tools have it.
fn from_files(name: &str, get: Lookup<'_>) -> Result<Option<Keys>, Error> {
    let home = |file: &str| get("HOME").map(|home| PathBuf::from(home).join(".aws").join(file));
    let files = [
        (get("AWS_SHARED_CREDENTIALS_FILE").map(PathBuf::from), "credentials", false),
        (get("AWS_CONFIG_FILE").map(PathBuf::from), "config", true),
    ];
    for (given, usual, is_config) in files {
        let Some(path) = given.or_else(|| home(usual)) else { continue };
        if let Some(keys) = profile::read(&path, name, is_config)? {
            return Ok(Some(keys));
        }
    }
    Ok(None)
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
        let keys = find(&self.options, &look)?;
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
    expires < date::now() + MARGIN_SECONDS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn auto(pairs: &[(&str, &str)]) -> Result<Option<Keys>, Error> {
        let look =
            |name: &str| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        find(&Options::default(), &look)
    }

    #[test]
    fn the_environment_gives_keys_or_none() {
        let got = auto(&[("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "s")]).unwrap();
        assert_eq!(got, Some(Keys::new("a", "s", None)));
        let off = ("AWS_EC2_METADATA_DISABLED", "true");
        assert_eq!(
            auto(&[off, ("AWS_ACCESS_KEY_ID", ""), ("AWS_SECRET_ACCESS_KEY", "")]).unwrap(),
            None
        );
        assert_eq!(auto(&[off]).unwrap(), None);
        assert!(auto(&[off, ("AWS_WEB_IDENTITY_TOKEN_FILE", "/x")]).is_err());
    }

    #[test]
    fn half_an_identity_is_an_error() {
        assert!(auto(&[("AWS_ACCESS_KEY_ID", "a")]).is_err());
        assert!(auto(&[("AWS_SECRET_ACCESS_KEY", "s")]).is_err());
        let error = auto(&[("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "hunter2\n")]);
        assert!(!error.unwrap_err().to_string().contains("hunter2"));
    }
}
