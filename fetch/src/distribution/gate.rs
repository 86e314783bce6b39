//! How a registry is told who asks: what it demanded last, and the tokens that are at hand.
//!
//! One renewal for each request that was refused; many requests that are refused at once have one renewal together.

use std::sync::{Mutex, PoisonError};

use crate::distribution::login::{self, Identity};
use crate::distribution::rules;
use crate::distribution::token::{self, Purpose, Token};
use crate::error::Error;
use crate::error::answer::{Answer, Api};
use crate::error::gate::{Gate as Refusal, Who};
use crate::http::Http;
use crate::image::authfile::Login;
use crate::image::challenge::{Demand, demand};
use crate::s3::endpoint::Endpoint;
use crate::s3::options::{Event, Options};

/// Tokens that are kept. One repository has one scope, and few registries ask for another now and then.
const TOKENS_MAX: usize = 16;

/// No scope is longer.
const SCOPE_BYTES_MAX: usize = 4096;

/// The gate of one repository.
#[derive(Debug)]
pub(crate) struct Gate {
    host: String,
    name: String,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    way: Way,
    identity: Option<Identity>,
    /// By what they are for.
    tokens: Vec<(Purpose, Token)>,
}

/// How who asks is told.
#[derive(Clone, Debug, Default)]
enum Way {
    /// Not at all: nobody has asked yet.
    #[default]
    Open,
    /// By name and password.
    Basic,
    /// By a token for this.
    Token(Purpose),
}

/// What a request was sent with: the value of its `Authorization`, and none before a registry has asked.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Pass(pub(crate) Option<String>);

/// Whatever it is, it is a secret.
impl std::fmt::Debug for Pass {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "Pass(..)" } else { "Pass" })
    }
}

/// Whom the gate belongs to, and by whom the way to it leads.
#[derive(Clone, Copy)]
pub(crate) struct Around<'a> {
    pub(crate) http: &'a Http,
    pub(crate) server: &'a Endpoint,
    pub(crate) options: &'a Options,
    pub(crate) subject: &'a str,
}

impl Around<'_> {
    fn refused(&self, gate: Refusal) -> Error {
        Error::Gate { subject: self.subject.to_owned(), gate: Box::new(gate) }
    }
}

impl Gate {
    pub(crate) fn new(host: &str, name: &str) -> Gate {
        Gate { host: host.to_owned(), name: name.to_owned(), state: Mutex::default() }
    }

    /// What the next request is sent with. A token that ends now is renewed before.
    ///
    /// # Errors
    /// As any request to the token server.
    pub(crate) fn pass(&self, around: Around<'_>) -> Result<Pass, Error> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match state.way.clone() {
            Way::Open => Ok(Pass(None)),
            Way::Basic => Ok(self.by_password(&mut state, around)?.unwrap_or_default()),
            Way::Token(purpose) => match state.at_hand(&purpose, around.options) {
                Some(token) => Ok(bearer(&token)),
                None => self.renew(&mut state, &purpose, around),
            },
        }
    }

    /// After a 401 to a request that was sent with `sent`: what it is sent with once more.
    ///
    /// # Errors
    /// [`Error::Gate`] where nothing else can be sent, or nothing is; as any request to the token server.
    pub(crate) fn again(
        &self,
        answer: &Answer,
        sent: &Pass,
        around: Around<'_>,
    ) -> Result<Pass, Error> {
        let server = around.server.url();
        let fields = answer.challenges.iter().map(String::as_str);
        let demand = demand(fields).map_err(|why| {
            let got = answer.challenges.join(", ");
            around.refused(Refusal::Demand { server: server.clone(), why, got })
        })?;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let purpose = match demand {
            Demand::Basic => {
                state.way = Way::Basic;
                // Neither does a password get better, nor does nobody become somebody.
                return match self.by_password(&mut state, around)? {
                    Some(pass) if pass != *sent => Ok(pass),
                    Some(_) | None => Err(self.denied(&mut state, answer, None, around)),
                };
            }
            Demand::Bearer { realm, service, scope, .. } => {
                let named = rules::realm(around.server, &realm, around.options);
                let realm = named.map_err(|why| {
                    around.refused(Refusal::Realm { server: server.clone(), realm, why })
                })?;
                let scope = scope.filter(|scope| !scope.is_empty());
                let scope = scope.unwrap_or_else(|| format!("repository:{}:pull", self.name));
                if scope.len() > SCOPE_BYTES_MAX {
                    let (why, got) = ("its scope is longer than 4 KiB", scope);
                    return Err(around.refused(Refusal::Demand { server, why, got }));
                }
                Purpose { realm, service, scope }
            }
        };
        state.way = Way::Token(purpose.clone());
        // Somebody else may have been refused, and have renewed it, meanwhile.
        if let Some(token) = state.at_hand(&purpose, around.options)
            && bearer(&token) != *sent
        {
            return Ok(bearer(&token));
        }
        self.renew(&mut state, &purpose, around)
    }

    /// What is said after the second 401.
    pub(crate) fn refusal(&self, answer: &Answer, around: Around<'_>) -> Error {
        let error = match demand(answer.challenges.iter().map(String::as_str)) {
            Ok(Demand::Bearer { error, .. }) => error,
            Ok(Demand::Basic) | Err(_) => None,
        };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.denied(&mut state, answer, error, around)
    }

    /// Nothing of what is at hand has helped; it is looked for anew when somebody asks again.
    fn denied(
        &self,
        state: &mut State,
        answer: &Answer,
        error: Option<String>,
        around: Around<'_>,
    ) -> Error {
        let who = state.identity.take().map_or(Who::Anonymous, |identity| identity.who);
        state.tokens.clear();
        around.refused(Refusal::Denied {
            api: Api::Registry,
            server: around.server.url(),
            code: answer.code.clone().or(error),
            message: answer.message.clone(),
            who,
        })
    }

    fn identity(&self, state: &mut State, around: Around<'_>) -> Result<Identity, Error> {
        if let Some(identity) = &state.identity {
            return Ok(identity.clone());
        }
        let look = |name: &str| std::env::var(name).ok();
        let found = login::find(around.options, around.subject, &self.host, &self.name, &look)?;
        let text = match &found.who {
            Who::Known { place, .. } => format!("the login for {} is that of {place}", self.host),
            Who::Anonymous | Who::Unknown { .. } => format!("no login for {}", self.host),
        };
        around.options.watch.tell(&Event::Note { text: &text });
        state.identity = Some(found.clone());
        Ok(found)
    }

    fn by_password(&self, state: &mut State, around: Around<'_>) -> Result<Option<Pass>, Error> {
        Ok(match self.identity(state, around)?.login {
            Some(Login::Password { name, password }) => {
                Some(Pass(Some(token::basic(&name, &password))))
            }
            Some(Login::Identity { .. }) | None => None,
        })
    }

    fn renew(
        &self,
        state: &mut State,
        purpose: &Purpose,
        around: Around<'_>,
    ) -> Result<Pass, Error> {
        state.tokens.retain(|(known, _)| known != purpose);
        let identity = self.identity(state, around)?;
        let Around { http, options, subject, .. } = around;
        let asked = token::ask(http, subject, purpose, identity.login.as_ref(), options);
        let token = asked.map_err(|error| match error {
            Error::Answer { answer, .. } if matches!(answer.status, 401 | 403) => {
                // The next try may find another one.
                state.identity = None;
                around.refused(Refusal::Denied {
                    api: Api::Token,
                    server: purpose.realm.text(),
                    code: answer.code,
                    message: answer.message,
                    who: identity.who,
                })
            }
            other => other,
        })?;
        let pass = bearer(&token);
        if state.tokens.len() >= TOKENS_MAX {
            state.tokens.remove(0);
        }
        state.tokens.push((purpose.clone(), token));
        Ok(pass)
    }
}

impl State {
    /// A token that lasts still.
    fn at_hand(&self, purpose: &Purpose, options: &Options) -> Option<Token> {
        let now = options.clock.now();
        let known = self.tokens.iter().find(|(known, _)| known == purpose);
        known.map(|(_, token)| token.clone()).filter(|token| now < token.until)
    }
}

fn bearer(token: &Token) -> Pass {
    Pass(Some(format!("Bearer {}", token.value)))
}
