//! References to an image in a registry (distribution-spec, "Pulling manifests"; containers' docker://).

use std::fmt;

use crate::image::digest::Digest;
use crate::image::error::Error;

/// Host, `/` and name together (distribution-spec).
const NAME_BYTES_MAX: usize = 255;

/// `HOST[:PORT]/NAME[:TAG][@DIGEST]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RegistryRef {
    /// The host, with its port where one is written; lower case.
    pub host: String,
    /// The repository, such as `team/app`.
    pub name: String,
    /// The tag.
    pub tag: Option<String>,
    /// The digest of the manifest or index; where there is one, the tag says nothing.
    pub digest: Option<Digest>,
}

impl RegistryRef {
    /// Reads what stands after `docker://`. There is no default registry and no default tag.
    ///
    /// # Errors
    /// [`Error::Reference`], [`Error::Digest`].
    pub fn parse(text: &str) -> Result<RegistryRef, Error> {
        let refused = |why| Err(Error::Reference { text: format!("docker://{text}"), why });
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(Digest::parse(digest)?)),
            None => (text, None),
        };
        let Some((host, rest)) = rest.split_once('/') else {
            return refused("expected docker://host/name:tag or docker://host/name@sha256:..");
        };
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) => (name, Some(tag)),
            None => (rest, None),
        };
        if !is_host(host) {
            return refused(
                "a registry is named by its host, such as docker.io or localhost:5000; there is no \
                 default one",
            );
        }
        if host.len() + 1 + name.len() > NAME_BYTES_MAX {
            return refused("host and name have at most 255 characters");
        }
        if !is_name(name) {
            return refused(
                "a name has parts of a-z and 0-9, joined by \".\", \"_\", \"__\" or \"-\"",
            );
        }
        match tag {
            Some(tag) if !is_tag(tag) => {
                return refused(
                    "a tag has 1 to 128 characters of A-Z, a-z, 0-9, \".\", \"_\" and \"-\"",
                );
            }
            None if digest.is_none() => {
                return refused("no tag and no digest; if the tag latest is meant, write :latest");
            }
            Some(_) | None => {}
        }
        let host = host.to_ascii_lowercase();
        // An old name of Docker Hub (distribution's `reference` package): one image has one name.
        let host = if host == "index.docker.io" { "docker.io".to_owned() } else { host };
        // Docker's own short form: its official images lie below library/.
        let name = match host == "docker.io" && !name.contains('/') {
            true => format!("library/{name}"),
            false => name.to_owned(),
        };
        Ok(RegistryRef { host, name, tag: tag.map(str::to_owned), digest })
    }
}

/// A host name or address with a port perhaps; one without a dot or port is `localhost` alone, or it would be
/// the first part of a name.
fn is_host(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => {
            if !is_address(address) {
                return false;
            }
            let port = match rest.strip_prefix(':') {
                Some(port) => Some(port),
                None if rest.is_empty() => None,
                None => return false,
            };
            ("localhost", port)
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let label = |label: &str| {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        !label.is_empty()
            && label.bytes().all(allowed)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let digits = |port: &str| {
        (1..=5).contains(&port.len())
            && port.bytes().all(|b| b.is_ascii_digit())
            && port.parse::<u16>().is_ok_and(|port| port > 0)
    };
    host.split('.').all(label)
        && port.is_none_or(digits)
        && (host.contains('.')
            || port.is_some()
            || host.eq_ignore_ascii_case("localhost")
            || text.starts_with('['))
}

/// Whether it can be an address of IPv6 (RFC 4291 2.2), without a zone; whoever connects reads it again.
fn is_address(text: &str) -> bool {
    let group = |group: &str| group.len() <= 4 && group.bytes().all(|b| b.is_ascii_hexdigit());
    let groups = text.split(':').count();
    text.len() >= 2 && (3..=8).contains(&groups) && text.split(':').all(group)
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/..)*` (distribution-spec).
fn is_name(name: &str) -> bool {
    name.split('/').all(|part| {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let bytes = part.as_bytes();
        let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
        let joints = part.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
        let joined = |joint: &str| {
            matches!(joint, "" | "." | "_" | "__") || joint.bytes().all(|b| b == b'-')
        };
        plain(*first) && plain(*last) && joints.into_iter().all(joined)
    })
}

/// `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}` (distribution-spec).
fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= 128
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

impl fmt::Display for RegistryRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "docker://{}/{}", self.host, self.name)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn a_reference_survives_the_round_trip() {
        for text in [
            "registry.example/team/app:v2",
            "localhost/app:v2",
            "localhost:5000/a/b/c:V_1.2-x",
            "127.0.0.1:5000/app:v1",
            "[::1]:5000/app:v1",
            "docker.io/library/debian:13",
            "r.example/a__b-c--d.e_f:1",
        ] {
            assert_eq!(RegistryRef::parse(text).unwrap().to_string(), format!("docker://{text}"));
            let pinned = format!("{text}@sha256:{HEX}");
            assert_eq!(
                RegistryRef::parse(&pinned).unwrap().to_string(),
                format!("docker://{pinned}")
            );
        }
        for (text, whole) in [
            ("docker.io/debian:13", "library/debian"),
            ("Docker.io/debian:13", "library/debian"),
            ("index.docker.io/debian:13", "library/debian"),
            ("index.docker.io/library/debian:13", "library/debian"),
            ("index.docker.io/team/app:13", "team/app"),
        ] {
            let short = RegistryRef::parse(text).unwrap();
            assert_eq!(short.to_string(), format!("docker://docker.io/{whole}:13"), "{text}");
        }
        // This is the server and not its name.
        let server = RegistryRef::parse("registry-1.docker.io/a/b:13").unwrap();
        assert_eq!(server.host, "registry-1.docker.io");
    }

    #[test]
    fn what_could_name_something_else_is_refused() {
        for text in [
            "",
            "debian",
            "debian:13",
            "library/debian:13",
            "r.example/app",
            "r.example/app:",
            "r.example/App:v1",
            "r.example/a//b:v1",
            "r.example/../b:v1",
            "r.example/a/:v1",
            "r.example/a..b:v1",
            "r.example/a___b:v1",
            "r.example/a:v/1",
            "r.example/a:-v",
            "r.example:0/a:v1",
            "r.example:99999/a:v1",
            "r.example:/a:v1",
            "user@r.example/a:v1",
            "r.example?/a:v1",
            "-r.example/a:v1",
            "r..example/a:v1",
            "r.example/a:v1@sha512:00",
            "[::x]:1/a:v1",
            "r.example/a:v1@sha256:0",
            "r.example/a b:v1",
        ] {
            assert!(RegistryRef::parse(text).is_err(), "{text}");
        }
        assert!(RegistryRef::parse(&format!("r.example/{}:v1", "a".repeat(246))).is_err());
        assert!(RegistryRef::parse(&format!("r.example/a:{}", "a".repeat(129))).is_err());
    }
}
