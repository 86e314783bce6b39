//! What a server asks for before it answers: `WWW-Authenticate` (RFC 9110 11.3, 11.4 and 11.6.1).
//!
//! The field is a list in two ways: there may be several of it, and each may have several challenges, whose own
//! parameters are parted by the same commas. Schemes and names of parameters are in any case, values are tokens or
//! quoted strings. What breaks the grammar makes its own field worthless, and no other.

/// Fields that are read, and bytes of each; servers send one of some hundred bytes.
pub(crate) const FIELDS_MAX: usize = 8;
pub(crate) const FIELD_BYTES_MAX: usize = 8 << 10;
/// Challenges of one answer, and parameters of one challenge.
const CHALLENGES_MAX: usize = 16;
const PARAMETERS_MAX: usize = 16;

/// What a registry wants to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Demand {
    /// A token (RFC 6750) of the server `realm` (docker's "Token Authentication Specification").
    Bearer {
        /// URL of the token server.
        realm: String,
        /// What the token server is to know this registry as.
        service: Option<String>,
        /// What the token is to be good for.
        scope: Option<String>,
        /// Why a token that was sent is not good enough: `invalid_token`, `insufficient_scope`.
        error: Option<String>,
    },
    /// Name and password (RFC 7617).
    Basic,
}

/// One challenge: a scheme in lower case, and its parameters, names in lower case.
#[derive(Debug, PartialEq, Eq)]
struct Challenge {
    scheme: String,
    parameters: Vec<(String, String)>,
}

impl Challenge {
    fn take(&mut self, name: &str) -> Option<String> {
        let at = self.parameters.iter().position(|(known, _)| known == name)?;
        Some(self.parameters.swap_remove(at).1)
    }
}

/// The demand among all fields of an answer: the first for a token, wherever it stands, else the one for a
/// password, as docker's own client chooses.
///
/// # Errors
/// There is none that can be met, and why.
pub(crate) fn demand<'a>(
    fields: impl IntoIterator<Item = &'a str>,
) -> Result<Demand, &'static str> {
    let (mut all, mut wrong, mut none) = (Vec::new(), None, true);
    for field in fields.into_iter().take(FIELDS_MAX) {
        none = false;
        match challenges(field) {
            Ok(found) => all.extend(found),
            Err(why) => wrong = Some(why),
        }
    }
    if none {
        return Err("it does not say what it asks for (WWW-Authenticate)");
    }
    all.truncate(CHALLENGES_MAX);
    let mut without_realm = false;
    for challenge in all.iter_mut().filter(|challenge| challenge.scheme == "bearer") {
        match challenge.take("realm").filter(|realm| !realm.is_empty()) {
            None => without_realm = true,
            Some(realm) => {
                let service = challenge.take("service");
                let (scope, error) = (challenge.take("scope"), challenge.take("error"));
                return Ok(Demand::Bearer { realm, service, scope, error });
            }
        }
    }
    if all.iter().any(|challenge| challenge.scheme == "basic") {
        return Ok(Demand::Basic);
    }
    match wrong {
        Some(why) => Err(why),
        None if without_realm => Err("it asks for a token and does not say where from (realm)"),
        None => Err("it asks for neither a token (Bearer) nor a password (Basic)"),
    }
}

/// All challenges of one field.
fn challenges(field: &str) -> Result<Vec<Challenge>, &'static str> {
    if field.len() > FIELD_BYTES_MAX {
        return Err("its WWW-Authenticate is longer than 8 KiB");
    }
    let mut text = Text { bytes: field.as_bytes(), at: 0 };
    let mut all: Vec<Challenge> = Vec::new();
    loop {
        // Empty elements of a list are none (RFC 9110 5.6.1.2).
        while text.blanks() || text.eat(b',') {}
        if text.is_at_end() {
            return Ok(all);
        }
        let name = text.token().ok_or("its WWW-Authenticate is no list of challenges")?;
        let after_name = text.at;
        text.blanks();
        let is_parameter = text.eat(b'=');
        if !is_parameter {
            text.at = after_name;
            if all.len() >= CHALLENGES_MAX {
                return Err("its WWW-Authenticate has more than 16 challenges");
            }
            all.push(Challenge { scheme: name, parameters: Vec::new() });
            // A scheme has one blob, or parameters, or nothing.
            if text.blanks() {
                text.token68();
            }
            continue;
        }
        text.blanks();
        let value = match text.eat(b'"') {
            true => text.rest_of_quoted()?,
            false => text.bare(),
        };
        text.blanks();
        let challenge = all.last_mut().ok_or("its WWW-Authenticate begins with a parameter")?;
        if challenge.parameters.len() >= PARAMETERS_MAX {
            return Err("a challenge in its WWW-Authenticate has more than 16 parameters");
        }
        // "parameter names MUST only occur once per challenge" (RFC 9110 11.2): which of two counts is a matter of
        // opinion, and opinions of where a password goes to are not for here.
        if challenge.parameters.iter().any(|(known, _)| *known == name) {
            return Err("a challenge in its WWW-Authenticate has a parameter twice");
        }
        challenge.parameters.push((name, value));
    }
}

/// A field, read from left to right.
struct Text<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Text<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn is_at_end(&self) -> bool {
        self.at >= self.bytes.len()
    }

    fn eat(&mut self, byte: u8) -> bool {
        let there = self.peek() == Some(byte);
        self.at += usize::from(there);
        there
    }

    /// Whether there were any.
    fn blanks(&mut self) -> bool {
        let start = self.at;
        while matches!(self.peek(), Some(b' ' | b'\t')) {
            self.at += 1;
        }
        self.at > start
    }

    fn while_in(&mut self, is_one: impl Fn(u8) -> bool) -> String {
        let start = self.at;
        while self.peek().is_some_and(&is_one) {
            self.at += 1;
        }
        String::from_utf8_lossy(&self.bytes[start..self.at]).into_owned()
    }

    /// A token (RFC 9110 5.6.2), in lower case.
    fn token(&mut self) -> Option<String> {
        let token = self
            .while_in(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte));
        (!token.is_empty()).then(|| token.to_ascii_lowercase())
    }

    /// Passes by a token68 (RFC 9110 11.2), where there is one and nothing behind it.
    fn token68(&mut self) {
        let start = self.at;
        self.while_in(|byte| byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte));
        let some = self.at > start;
        self.while_in(|byte| byte == b'=');
        let end = self.at;
        self.blanks();
        let ends = matches!(self.peek(), None | Some(b','));
        self.at = if some && ends { end } else { start };
    }

    /// A value without quotes: more than a token is taken, since URLs are seen there.
    fn bare(&mut self) -> String {
        self.while_in(|byte| byte.is_ascii_graphic() && byte != b',' && byte != b'"')
    }

    /// A quoted string behind its first quote, its quoted pairs resolved (RFC 9110 5.6.4).
    fn rest_of_quoted(&mut self) -> Result<String, &'static str> {
        let mut value = Vec::new();
        loop {
            let byte = self.peek().ok_or("a quote in its WWW-Authenticate does not end")?;
            self.at += 1;
            let byte = match byte {
                b'"' => {
                    return String::from_utf8(value)
                        .map_err(|_| "its WWW-Authenticate is not UTF-8");
                }
                b'\\' => {
                    let next = self.peek().ok_or("a quote in its WWW-Authenticate does not end")?;
                    self.at += 1;
                    next
                }
                byte => byte,
            };
            if byte.is_ascii_control() && byte != b'\t' {
                return Err("its WWW-Authenticate has a control character");
            }
            value.push(byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Demand {
        let own = |text: Option<&str>| text.map(str::to_owned);
        Demand::Bearer {
            realm: realm.to_owned(),
            service: own(service),
            scope: own(scope),
            error: None,
        }
    }

    #[test]
    fn the_registries_own_challenges() {
        let said = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#;
        let due = bearer(
            "https://auth.docker.io/token",
            Some("registry.docker.io"),
            Some("repository:a/b:pull,push"),
        );
        assert_eq!(demand([said]), Ok(due));
        assert_eq!(demand([r#"Basic realm="Registry Realm""#]), Ok(Demand::Basic));
        assert_eq!(demand([r"Basic"]), Ok(Demand::Basic));
        let said = r#"Bearer realm="https://a/t",error="insufficient_scope""#;
        let Ok(Demand::Bearer { error, .. }) = demand([said]) else { panic!("{said}") };
        assert_eq!(error.as_deref(), Some("insufficient_scope"));
    }

    #[test]
    fn a_token_is_preferred_wherever_it_stands() {
        let due = bearer("https://a/t", Some("s"), None);
        for fields in [
            &[r#"Basic realm="x", Bearer realm="https://a/t",service="s""#][..],
            &[r#"Basic realm="x""#, r#"Bearer realm="https://a/t", service=s"#],
            &[
                r#"Negotiate, Basic realm="Bearer realm=no", BEARER Service="s" , REALM = "https://a/t""#,
            ],
            &["NTLM TlRMTVNTUAAC==, bearer realm=https://a/t,service=s"],
            &["\t,, ,Bearer realm=\"https://a/t\" ,, service=\"s\",,"],
            &[r#"Bearer realm="unterminated"#, r#"Bearer realm="https://a/t",service="s""#],
            &[
                r#"Digest qop="auth, auth-int", nonce="a\"b,Bearer realm=x", Bearer service="s",realm="https://a/t""#,
            ],
        ] {
            assert_eq!(demand(fields.iter().copied()), Ok(due.clone()), "{fields:?}");
        }
    }

    #[test]
    fn quoted_pairs_are_resolved() {
        let said = r#"Bearer realm="https://a/\"t\\",scope="a\b""#;
        assert_eq!(demand([said]), Ok(bearer("https://a/\"t\\", None, Some("ab"))));
    }

    #[test]
    fn what_cannot_be_met_says_why() {
        let many = "Basic realm=x, ".repeat(17);
        let wide = format!("Bearer {}", (0..17).map(|n| format!("a{n}=b, ")).collect::<String>());
        let long = format!("Bearer realm=\"{}\"", "x".repeat(FIELD_BYTES_MAX));
        for (field, says) in [
            ("Digest realm=x", "neither"),
            ("", "neither"),
            ("Bearer service=x", "where from"),
            ("Bearer realm=\"\"", "where from"),
            ("Bearer realm=\"x", "quote"),
            ("Bearer realm=\"x\\", "quote"),
            ("Bearer realm=\"x\ny\"", "control"),
            ("Bearer realm=\"a\", realm=\"b\"", "twice"),
            ("Bearer realm=\"a\", REALM=\"b\"", "twice"),
            ("realm=\"a\"", "begins with"),
            ("=", "no list"),
            ("Bearer realm=\"a\" \"b\"", "no list"),
            ("Bearer ré=1", "no list"),
            (&many, "16 challenges"),
            (&wide, "16 parameters"),
            (&long, "8 KiB"),
        ] {
            let got = demand([field]);
            assert!(got.as_ref().is_err_and(|why| why.contains(says)), "{field}: {got:?}");
        }
        assert!(demand([]).unwrap_err().contains("does not say"));
        // What comes behind the bound is not looked at.
        let late = vec!["Digest realm=x"; FIELDS_MAX];
        assert!(demand(late.into_iter().chain(["Basic"])).is_err());
    }
}
