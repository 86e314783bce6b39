//! How a registry can refuse who asks, or ask for what is not done for it. Data and words.

use std::fmt;

use crate::error::answer::Api;
use crate::error::kind::Kind;
use crate::text::quote::quoted;

/// Why a registry that wants to know who asks is not told, or is told in vain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gate {
    /// What it asks for cannot be made sense of, or is done by nobody here.
    Demand {
        /// The registry, as `scheme://host[:port]`.
        server: String,
        /// What is wrong.
        why: &'static str,
        /// Its `WWW-Authenticate`, as far as there is one.
        got: String,
    },
    /// It names a token server that is not asked, and that got no request.
    Realm {
        /// The registry.
        server: String,
        /// The URL that it named.
        realm: String,
        /// The rule that forbids it.
        why: &'static str,
    },
    /// The token server answered without a token.
    Token {
        /// Its URL.
        realm: String,
        /// What is wrong.
        why: &'static str,
    },
    /// The registry says no, also to a new token or to name and password; or its token server does.
    Denied {
        /// Which of the two it is.
        api: Api,
        /// It, as `scheme://host[:port]`, or the token server's URL.
        server: String,
        /// What it calls it: the code of its document, or the challenge's `error`.
        code: Option<String>,
        /// Its own words.
        message: Option<String>,
        /// Who asked.
        who: Who,
    },
    /// A file of logins, or a program that it names, has something that cannot be used.
    Login {
        /// The file or program.
        place: String,
        /// What is wrong with it.
        why: String,
    },
}

/// Who asked a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// Nobody, because an option says so.
    Anonymous,
    /// Nobody: no place had a login.
    Unknown {
        /// The host that one was looked for.
        host: String,
        /// The files that were there.
        places: Vec<String>,
        /// A program that one of them names and that no setting allows.
        helper: Option<String>,
    },
    /// Somebody with a login.
    Known {
        /// The name; none for a token.
        name: Option<String>,
        /// The file or program that had it.
        place: String,
    },
}

impl Gate {
    /// The class of this refusal.
    pub fn kind(&self) -> Kind {
        match self {
            Gate::Demand { .. } | Gate::Realm { .. } | Gate::Token { .. } => Kind::Refused,
            Gate::Denied { .. } => Kind::Denied,
            Gate::Login { .. } => Kind::Usage,
        }
    }
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Gate::Demand { server, why, got } => {
                write!(f, "the registry {} asks for a login, and {why}", quoted(server))?;
                match got.is_empty() {
                    true => Ok(()),
                    false => write!(f, ": {}", quoted(got)),
                }
            }
            Gate::Realm { server, realm, why } => write!(
                f,
                "the registry {} names the token server {}, which is not used: {why}",
                quoted(server),
                quoted(realm)
            ),
            Gate::Token { realm, why } => {
                write!(f, "the token server {} gave no token: {why}", quoted(realm))
            }
            Gate::Denied { api, server, code, message, who } => {
                let party = if *api == Api::Token { "token server" } else { "registry" };
                let server = quoted(server);
                match who {
                    Who::Anonymous | Who::Unknown { .. } => {
                        write!(f, "the {party} {server} denies anonymous access")?;
                    }
                    Who::Known { name: Some(name), place } => {
                        let (name, place) = (quoted(name), quoted(place));
                        write!(
                            f,
                            "the {party} {server} denies access to {name} (login of {place})"
                        )?;
                    }
                    Who::Known { name: None, place } => {
                        write!(
                            f,
                            "the {party} {server} denies access to the token of {}",
                            quoted(place)
                        )?;
                    }
                }
                for (number, said) in [code, message].into_iter().flatten().enumerate() {
                    write!(f, "{} {}", if number == 0 { ":" } else { "" }, quoted(said))?;
                }
                match (api, who) {
                    (Api::Token, Who::Known { .. }) => {
                        write!(f, ": log in again (docker login), or check the file")
                    }
                    _ => write!(f, ": {who}"),
                }
            }
            Gate::Login { place, why } => write!(f, "the login in {}: {why}", quoted(place)),
        }
    }
}

impl fmt::Display for Who {
    /// What helps.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Who::Anonymous => {
                write!(f, "leave --anonymous out, or check the repository's name")
            }
            Who::Unknown { host, places, helper } => {
                write!(f, "there is no login for {}", quoted(host))?;
                match places.is_empty() {
                    true => write!(f, ", since no file with logins was found")?,
                    false => {
                        let places: Vec<_> = places.iter().map(|place| quoted(place)).collect();
                        write!(f, " in {}", places.join(", "))?;
                    }
                }
                match helper {
                    Some(helper) => write!(
                        f,
                        "; docker-credential-{} may have one: it is run only if --credential-helper or \
                         VENEER_FETCH_CREDENTIAL_HELPERS names it",
                        quoted(helper).trim_matches('"')
                    ),
                    None => write!(
                        f,
                        "; log in (docker login {}), name a file by --authfile, or check the repository's name",
                        quoted(host).trim_matches('"')
                    ),
                }
            }
            Who::Known { .. } => {
                write!(f, "check that it may pull from this repository, and the repository's name")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_names_what_helps() {
        let (server, host) = ("https://r.example".to_owned(), "r.example".to_owned());
        let denied = |who| Gate::Denied {
            api: Api::Registry,
            server: server.clone(),
            code: None,
            message: None,
            who,
        };
        let unknown = |places: &[&str], helper: Option<&str>| {
            denied(Who::Unknown {
                host: host.clone(),
                places: places.iter().map(|place| (*place).to_owned()).collect(),
                helper: helper.map(str::to_owned),
            })
        };
        for (gate, says) in [
            (denied(Who::Anonymous), "leave --anonymous out"),
            (unknown(&[], None), "no file with logins"),
            (unknown(&["/a/config.json"], None), "docker login r.example"),
            (unknown(&["/a"], Some("pass")), "docker-credential-pass"),
            (denied(Who::Known { name: Some("al\x1bice".into()), place: "/f".into() }), "may pull"),
        ] {
            let said = gate.to_string();
            assert!(said.contains(says) && said.contains("r.example"), "{said}");
            assert!(!said.contains('\x1b') && gate.kind() == Kind::Denied, "{said}");
        }
    }
}
