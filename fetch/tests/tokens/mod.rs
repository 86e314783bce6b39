//! A token server that a real registry believes (distribution, docs/spec/auth/token.md and jwt.md): user `alice` with the
//! password `sesame` may do all, and everybody else may pull what begins with `public/`.

#![allow(dead_code, unreachable_pub)]

use std::time::{SystemTime, UNIX_EPOCH};

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};

use crate::fault::{Reply, Request, Server};
use crate::registry;

pub const SERVICE: &str = "test-registry";
pub const ISSUER: &str = "tokens";
/// Seconds that a token is good for.
const GOOD_FOR: u64 = 60;
/// `alice:sesame`.
const ALICE: &str = "Basic YWxpY2U6c2VzYW1l";

/// The server, and the certificate that its tokens are checked by, in PEM.
pub struct Tokens {
    pub server: Server,
    pub certificate: String,
}

impl Tokens {
    pub fn start() -> Tokens {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        let signer = Signer {
            key: EcdsaKeyPair::from_pkcs8(
                &ECDSA_P256_SHA256_FIXED_SIGNING,
                &key.serialize_der(),
                &SystemRandom::new(),
            )
            .unwrap(),
            certificate: base64(certificate.der(), STANDARD, true),
        };
        let server = registry::start(b"", move |request, _| signer.answer(request));
        Tokens { server, certificate: certificate.pem() }
    }

    pub fn realm(&self) -> String {
        format!("{}/token", self.server.url())
    }

    /// The header of who comes with a token for these actions at a repository; asked for as alice.
    pub fn bearer(&self, scope: &str) -> String {
        let agent: ureq::Agent = ureq::Agent::config_builder().proxy(None).build().into();
        let url = format!("{}?service={SERVICE}&scope={scope}", self.realm());
        let mut answer = agent.get(&url).header("Authorization", ALICE).call().unwrap();
        let text = answer.body_mut().read_to_string().unwrap();
        let answer: serde_json::Value = serde_json::from_str(&text).unwrap();
        format!("Bearer {}", answer["token"].as_str().unwrap())
    }

    /// `account scope` of each token that was asked for.
    pub fn asked(&self) -> Vec<String> {
        let requests = self.server.requests.lock().unwrap();
        let told = |request: &Request| {
            let who = match registry::header(request, "authorization") {
                None => "nobody",
                Some(ALICE) => "alice",
                Some(_) => "somebody",
            };
            format!("{who} {}", registry::pairs(&request.query)["scope"])
        };
        requests.iter().map(told).collect()
    }
}

struct Signer {
    key: EcdsaKeyPair,
    certificate: String,
}

impl Signer {
    fn answer(&self, request: &Request) -> Reply {
        let user = match registry::header(request, "authorization") {
            None => "",
            Some(ALICE) => "alice",
            Some(_) => return registry::unknown(401, "UNAUTHORIZED", "wrong password"),
        };
        let scopes = registry::pairs(&request.query).remove("scope").unwrap_or_default();
        let access: Vec<_> = scopes
            .split_whitespace()
            .filter_map(|scope| {
                let (kind, rest) = scope.split_once(':')?;
                let (name, actions) = rest.rsplit_once(':')?;
                let may = |action: &&str| {
                    !user.is_empty() || (*action == "pull" && name.starts_with("public/"))
                };
                let actions: Vec<_> = actions.split(',').filter(may).collect();
                Some(serde_json::json!({"type": kind, "name": name, "actions": actions}))
            })
            .collect();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let token = self.sign(
            &serde_json::json!({"typ": "JWT", "alg": "ES256", "x5c": [self.certificate]}),
            &serde_json::json!({
                "iss": ISSUER, "sub": user, "aud": SERVICE, "exp": now + GOOD_FOR, "nbf": now - 5,
                "iat": now, "jti": format!("{}-{now}", request.number), "access": access,
            }),
        );
        registry::token(&token, GOOD_FOR)
    }

    /// RFC 7515 3.1, with the signature of RFC 7518 3.4.
    fn sign(&self, head: &serde_json::Value, claims: &serde_json::Value) -> String {
        let part =
            |value: &serde_json::Value| base64(value.to_string().as_bytes(), FOR_URLS, false);
        let text = format!("{}.{}", part(head), part(claims));
        let signature = self.key.sign(&SystemRandom::new(), text.as_bytes()).unwrap();
        format!("{text}.{}", base64(signature.as_ref(), FOR_URLS, false))
    }
}

/// The last two characters of the alphabet (RFC 4648, 4 and 5).
const STANDARD: [char; 2] = ['+', '/'];
const FOR_URLS: [char; 2] = ['-', '_'];

fn base64(bytes: &[u8], last: [char; 2], padded: bool) -> String {
    let alphabet: Vec<char> = ('A'..='Z').chain('a'..='z').chain('0'..='9').chain(last).collect();
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let at = |n: usize| u32::from(three.get(n).copied().unwrap_or(0));
        let word = at(0) << 16 | at(1) << 8 | at(2);
        for n in 0..=three.len() {
            text.push(alphabet[(word >> (18 - 6 * n) & 63) as usize]);
        }
        if padded {
            text.extend(std::iter::repeat_n('=', 3 - three.len()));
        }
    }
    text
}
