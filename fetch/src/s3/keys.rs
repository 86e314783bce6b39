//! The keys that sign a request, and where a look for them may go.

use std::fmt;

use crate::error::Error;

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
