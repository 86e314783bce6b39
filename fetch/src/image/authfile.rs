//! Who somebody is at a registry, as docker and podman keep it: `config.json` (docker's "docker login" reference and
//! its `cli/config/configfile`) and `auth.json` (containers-auth.json(5)).
//!
//! One grammar does for both. A key is a host, or (podman) a host with the beginning of a repository's name, or
//! (docker) a URL of the host. What is most specific counts.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;

use crate::text::base64;

/// The names that Docker Hub has had, in the order in which they are looked for: docker writes the third, with
/// `https://` and `/v1/`.
pub(crate) const HUB: [&str; 3] = ["docker.io", "index.docker.io", "registry-1.docker.io"];

/// The name under which docker keeps who somebody is at Docker Hub, with its helpers, too.
pub(crate) const HUB_KEY: &str = "https://index.docker.io/v1/";

/// What stands for a name where the password is an identity token (docker's credential helpers).
const TOKEN_NAME: &str = "<token>";

/// No name and no secret is longer; registries' own tokens are seen with 5 KiB.
const SECRET_BYTES_MAX: usize = 64 << 10;

/// What proves to a registry who asks.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Login {
    /// Name and password.
    Password {
        /// The name.
        name: String,
        /// The password.
        password: String,
    },
    /// A token of the registry's own, to be changed for others (OAuth 2's refresh token).
    Identity {
        /// The token.
        token: String,
    },
}

/// Secrets stay out of every message and log.
impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Login::Password { .. } => f.write_str("Password { .. }"),
            Login::Identity { .. } => f.write_str("Identity { .. }"),
        }
    }
}

impl Login {
    /// Of a name and a secret as files and programs have them.
    ///
    /// # Errors
    /// No request could carry them.
    pub(crate) fn new(name: &str, secret: &str) -> Result<Login, &'static str> {
        if name.len() > SECRET_BYTES_MAX || secret.len() > SECRET_BYTES_MAX {
            return Err("a name or a password of more than 64 KiB");
        }
        if name.chars().chain(secret.chars()).any(char::is_control) {
            return Err("a name or a password with a control character");
        }
        if name == TOKEN_NAME {
            return Ok(Login::Identity { token: secret.to_owned() });
        }
        // RFC 7617 2: a password may have one, a name would end at it.
        if name.contains(':') {
            return Err("a name with a \":\"");
        }
        Ok(Login::Password { name: name.to_owned(), password: secret.to_owned() })
    }
}

/// One file.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AuthFile {
    #[serde(default)]
    auths: Option<BTreeMap<String, Entry>>,
    #[serde(default)]
    cred_helpers: Option<BTreeMap<String, String>>,
    #[serde(default)]
    creds_store: Option<String>,
}

impl fmt::Debug for AuthFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuthFile")
    }
}

#[derive(Clone, Deserialize)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

/// What a file has for a registry.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Nothing.
    Nothing,
    /// Who somebody is.
    Login(Login),
    /// A program is to be asked: the end of its name, and what it is asked for.
    Helper {
        /// `docker-credential-<name>`.
        name: String,
        /// The registry as this program knows it.
        server: String,
        /// What stands in the file itself, for where the program is not asked.
        otherwise: Option<Login>,
    },
}

impl AuthFile {
    /// Reads a file.
    ///
    /// # Errors
    /// It is none.
    pub(crate) fn parse(bytes: &[u8]) -> Result<AuthFile, &'static str> {
        // Only where and what kind: the parser's own words could have a piece of a password.
        serde_json::from_slice(bytes).map_err(|_| {
            "it is not the JSON object that docker and podman keep logins in (auths, credHelpers, credsStore)"
        })
    }

    /// What it has for a repository: the host as `host[:port]` in lower case, and the name below it.
    ///
    /// # Errors
    /// What it has cannot be used.
    pub(crate) fn find(&self, host: &str, name: &str) -> Result<Found, &'static str> {
        let otherwise = self.entry(host, name).map(Entry::login).transpose()?.flatten();
        let is_hub = HUB.contains(&host);
        let own = self.cred_helpers.iter().flatten().find(|(key, _)| is_of(key, host));
        let helper = match own {
            // An empty one says that there is none for this host.
            Some((key, helper)) => (!helper.is_empty()).then(|| (helper, key.clone())),
            None => {
                let helper = self.creds_store.as_ref().filter(|helper| !helper.is_empty());
                let server = if is_hub { HUB_KEY } else { host };
                helper.map(|helper| (helper, server.to_owned()))
            }
        };
        Ok(match (helper, otherwise) {
            (Some((helper, server)), otherwise) => {
                Found::Helper { name: helper.clone(), server, otherwise }
            }
            (None, Some(login)) => Found::Login(login),
            (None, None) => Found::Nothing,
        })
    }

    /// The most specific entry: `host/a/b`, `host/a`, `host`, then the host in another spelling.
    fn entry(&self, host: &str, name: &str) -> Option<&Entry> {
        let auths = self.auths.as_ref()?;
        let hosts: &[&str] = if HUB.contains(&host) { &HUB } else { &[host] };
        let mut below = Some(name);
        while let Some(path) = below.filter(|path| !path.is_empty()) {
            let found = hosts.iter().find_map(|host| auths.get(&format!("{host}/{path}")));
            if found.is_some() {
                return found;
            }
            below = path.rsplit_once('/').map(|(above, _)| above);
        }
        let exact = hosts.iter().find_map(|host| auths.get(*host));
        let spelt = || auths.iter().find(|(key, _)| is_of(key, host)).map(|(_, entry)| entry);
        exact.or_else(spelt)
    }
}

/// Whether a key is of this host, however it is spelt: docker's are URLs with a version's path, too.
fn is_of(key: &str, host: &str) -> bool {
    let bare = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://"));
    let key_host = match bare {
        Some(rest) => rest.split('/').next().unwrap_or_default(),
        // Without a scheme a path is a repository's.
        None => {
            let key = key.trim_end_matches('/');
            key.strip_suffix("/v1").or_else(|| key.strip_suffix("/v2")).unwrap_or(key)
        }
    };
    let key_host = key_host.to_ascii_lowercase();
    key_host == host || (HUB.contains(&host) && HUB.contains(&key_host.as_str()))
}

impl Entry {
    /// Docker leaves `{}` where a helper has the password.
    fn login(&self) -> Result<Option<Login>, &'static str> {
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        if let Some(token) = given(&self.identitytoken) {
            return Login::new(TOKEN_NAME, &token).map(Some);
        }
        if let Some(auth) = given(&self.auth) {
            let bytes = base64::decoded(&auth).ok_or("its \"auth\" is not base64")?;
            let pair = String::from_utf8(bytes).map_err(|_| "its \"auth\" is not UTF-8")?;
            let (name, password) = pair.split_once(':').ok_or("its \"auth\" has no \":\"")?;
            // Docker pads the pair with NULs.
            return Login::new(name, password.trim_end_matches('\0')).map(Some);
        }
        match (given(&self.username), given(&self.password)) {
            (Some(name), Some(password)) => Login::new(&name, &password).map(Some),
            (None, None) => Ok(None),
            (Some(_), None) | (None, Some(_)) => Err("it has only half of a name and a password"),
        }
    }
}

/// What a credential helper printed: `{"Username": .., "Secret": ..}` (docker-credential-helpers, "get").
///
/// # Errors
/// It is anything else.
pub(crate) fn printed(output: &[u8]) -> Result<Login, &'static str> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Printed {
        username: String,
        secret: String,
    }
    let printed: Printed = serde_json::from_slice(output)
        .map_err(|_| "it did not print the JSON due, with Username and Secret")?;
    Login::new(&printed.username, &printed.secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str, host: &str, name: &str) -> Result<Found, &'static str> {
        AuthFile::parse(text.as_bytes())?.find(host, name)
    }

    fn login(name: &str, password: &str) -> Found {
        Found::Login(Login::new(name, password).unwrap())
    }

    #[test]
    fn the_most_specific_entry_counts() {
        let text = r#"{"auths": {
            "h:5000": {"auth": "YTox"},
            "h:5000/team": {"auth": "Yjoy"},
            "h:5000/team/app": {"username": "c", "password": "3"},
            "other/team": {"identitytoken": "t"},
            "empty": {}}}"#;
        for (host, name, due) in [
            ("h:5000", "x", login("a", "1")),
            ("h:5000", "teams/app", login("a", "1")),
            ("h:5000", "team/x/y", login("b", "2")),
            ("h:5000", "team/app", login("c", "3")),
            ("h:5000", "team/app/sub", login("c", "3")),
            ("h", "team/app", Found::Nothing),
            ("other", "team/x", login("<token>", "t")),
            ("other", "x", Found::Nothing),
            ("empty", "x", Found::Nothing),
        ] {
            assert_eq!(found(text, host, name), Ok(due), "{host}/{name}");
        }
    }

    #[test]
    fn the_hub_has_many_names_and_other_hosts_urls() {
        for key in [
            "https://index.docker.io/v1/",
            "index.docker.io",
            "docker.io",
            "https://registry-1.docker.io",
            "https://index.docker.io/v1/access-token",
        ] {
            let text = format!(r#"{{"auths":{{"{key}":{{"auth":"YTox"}}}}}}"#);
            assert_eq!(found(&text, "docker.io", "library/x"), Ok(login("a", "1")), "{key}");
            assert_eq!(found(&text, "evil.docker.io", "x"), Ok(Found::Nothing), "{key}");
        }
        for (key, host) in [
            ("https://Quay.IO/v2/", "quay.io"),
            ("http://h:5000", "h:5000"),
            ("h/v1/", "h"),
            ("h/", "h"),
        ] {
            let text = format!(r#"{{"auths":{{"{key}":{{"auth":"YTox"}}}}}}"#);
            assert_eq!(found(&text, host, "x"), Ok(login("a", "1")), "{key}");
            assert_eq!(found(&text, &format!("{host}.evil"), "x"), Ok(Found::Nothing), "{key}");
        }
    }

    #[test]
    fn helpers_are_named_and_never_run_here() {
        let text = r#"{"auths":{"h":{"auth":"YTox"}},"credsStore":"desktop",
            "credHelpers":{"gcr.io":"gcloud","none.io":""}}"#;
        let helper = |name: &str, server: &str, otherwise| {
            Ok(Found::Helper { name: name.into(), server: server.into(), otherwise })
        };
        let own = Some(Login::new("a", "1").unwrap());
        assert_eq!(found(text, "h", "x"), helper("desktop", "h", own));
        assert_eq!(found(text, "gcr.io", "x"), helper("gcloud", "gcr.io", None));
        assert_eq!(found(text, "docker.io", "x"), helper("desktop", HUB_KEY, None));
        assert_eq!(found(text, "none.io", "x"), Ok(Found::Nothing));
        let got = printed(br#"{"ServerURL":"h","Username":"<token>","Secret":"s"}"#);
        assert_eq!(got, Ok(Login::Identity { token: "s".into() }));
        assert!(printed(b"credentials not found").is_err());
    }

    #[test]
    fn what_is_wrong_is_said_without_a_secret() {
        let one = |entry: &str| format!(r#"{{"auths":{{"h":{entry}}}}}"#);
        for (text, says) in [
            ("", "JSON"),
            ("[1]", "JSON"),
            (r#"{"auths":"hunter2"}"#, "JSON"),
            (r#"{"auths":{"h":{"auth":7}}}"#, "JSON"),
            (&one(r#"{"auth":"hunter2!"}"#), "base64"),
            (&one(r#"{"auth":"/w=="}"#), "UTF-8"),
            (&one(r#"{"auth":"YQ=="}"#), "no \":\""),
            (&one(r#"{"auth":"YTpiCmM="}"#), "control"),
            (&one(r#"{"username":"a"}"#), "half"),
            (&one(r#"{"username":"a:b","password":"c"}"#), "\":\""),
            (&one(r#"{"identitytoken":"a\r\nHost: x"}"#), "control"),
        ] {
            let got = found(text, "h", "x");
            assert!(got.as_ref().is_err_and(|why| why.contains(says)), "{text}: {got:?}");
            assert!(!got.unwrap_err().contains("hunter2"));
        }
        let shown = format!("{:?}", found(&one(r#"{"auth":"YTpodW50ZXIy"}"#), "h", "x"));
        assert!(!shown.contains("hunter2"), "{shown}");
        assert_eq!(found(r#"{"auths":null,"extra":[1]}"#, "h", "x"), Ok(Found::Nothing));
        let padded = one(r#"{"auth":"YToxAAAA"}"#);
        assert_eq!(found(&padded, "h", "x"), Ok(login("a", "1")));
    }
}
