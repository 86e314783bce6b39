//! Who may ask: on the unix socket by what the kernel says of the peer, over TCP by a token.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::str::FromStr;

use nix::sys::socket::{getsockopt, sockopt};
use sha2::{Digest as _, Sha256};

use crate::error::Error;
use crate::error::quote::quoted;
use crate::process::sys;

/// Bytes that a token has at least: 128 bits in hex are 32.
const TOKEN_MIN: usize = 16;

/// Bytes of a token file that are read.
const TOKEN_MAX: u64 = 4096;

/// A user or group that may use the socket, besides root and the daemon's own user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allow {
    /// A user id.
    User(u32),
    /// A group id, of the process or among its supplementary ones.
    Group(u32),
}

impl FromStr for Allow {
    type Err = Error;

    /// `user:NAME`, `group:NAME`, or numbers. Names are looked up in /etc/passwd and /etc/group: a
    /// static program has no other directory.
    fn from_str(text: &str) -> Result<Allow, Error> {
        let bad = |why: &str| Error::Usage(format!("--allow {}: {why}", quoted(text)));
        let (kind, name) = text.split_once(':').unwrap_or(("", text));
        let id =
            |file: &str| name.parse().ok().or_else(|| id_of(&fs::read_to_string(file).ok()?, name));
        match kind {
            "user" => id("/etc/passwd").map(Allow::User).ok_or_else(|| bad("no such user")),
            "group" => id("/etc/group").map(Allow::Group).ok_or_else(|| bad("no such group")),
            _ => Err(bad("expected user:NAME or group:NAME")),
        }
    }
}

/// The third field of the line whose first is `name` (passwd(5), group(5)).
fn id_of(file: &str, name: &str) -> Option<u32> {
    file.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
    })
}

/// Who is at the other end of a unix socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Peer {
    user: u32,
    groups: Vec<u32>,
}

impl Peer {
    /// As the kernel saw it when it connected (`SO_PEERCRED`, unix(7)).
    pub(super) fn of(stream: &UnixStream) -> std::io::Result<Peer> {
        let credentials = getsockopt(stream, sockopt::PeerCredentials)?;
        let mut groups = sys::peer_groups(stream.as_fd())?;
        groups.push(credentials.gid());
        Ok(Peer { user: credentials.uid(), groups })
    }

    pub(super) fn user(&self) -> u32 {
        self.user
    }

    /// Root, the daemon's own user, and who is allowed by name.
    pub(super) fn may(&self, own: u32, allowed: &[Allow]) -> bool {
        self.user == 0
            || self.user == own
            || allowed.iter().any(|allow| match allow {
                Allow::User(user) => self.user == *user,
                Allow::Group(group) => self.groups.contains(group),
            })
    }
}

/// What a client over TCP has to know. Only its digest is kept.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Token([u8; 32]);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token")
    }
}

impl Token {
    /// Reads the token of a file that nobody else may read, which this setting names.
    pub(super) fn read(setting: &str, path: &Path) -> Result<Token, Error> {
        let io = |source| Error::Io { doing: "read", path: path.into(), source };
        let file = File::open(path).map_err(io)?;
        let mode = file.metadata().map_err(io)?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(Error::Usage(format!(
                "{setting} {}: others may read it (mode {:03o}); chmod 600 it",
                path.display(),
                mode & 0o777
            )));
        }
        let mut text = String::new();
        file.take(TOKEN_MAX).read_to_string(&mut text).map_err(io)?;
        let token = text.trim();
        if token.len() < TOKEN_MIN {
            return Err(Error::Usage(format!(
                "{setting} {}: shorter than {TOKEN_MIN} bytes; `openssl rand -hex 32` makes one",
                path.display()
            )));
        }
        Ok(Token(Sha256::digest(token).into()))
    }

    /// Compares digests, and all of them: how long it takes says nothing of the token.
    pub(super) fn is(&self, given: &str) -> bool {
        let given: [u8; 32] = Sha256::digest(given).into();
        self.0.iter().zip(given).fold(0, |differ, (own, given)| differ | (own ^ given)) == 0
    }
}

/// The tokens of a daemon.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    all: Option<Token>,
    reads: Option<Token>,
}

/// What whoever shows a token may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// It is no token of this daemon.
    Not,
    /// GET and HEAD.
    Reads,
    /// Everything.
    All,
}

impl Tokens {
    /// Reads both files, where they are set.
    ///
    /// # Errors
    /// As [`Token::read`]; the same token in both files, which would be one for everything.
    pub(super) fn read(all: Option<&Path>, reads: Option<&Path>) -> Result<Tokens, Error> {
        let all = all.map(|path| Token::read("--token-file", path)).transpose()?;
        let reads = reads.map(|path| Token::read("serve.read_token_file", path)).transpose()?;
        if all.is_some() && all == reads {
            return Err(Error::Usage(
                "serve.read_token_file has the token of serve.token_file: whoever may only read needs \
                 another one; `openssl rand -hex 32` makes one"
                    .into(),
            ));
        }
        Ok(Tokens { all, reads })
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_none() && self.reads.is_none()
    }

    /// What whoever shows this may do. Both are compared, whichever it is.
    pub(super) fn known(&self, given: Option<&str>) -> Known {
        let is = |token: &Option<Token>| {
            token.as_ref().zip(given).is_some_and(|(token, given)| token.is(given))
        };
        match (is(&self.all), is(&self.reads)) {
            (true, _) => Known::All,
            (false, true) => Known::Reads,
            (false, false) => Known::Not,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_oneself_and_who_is_named_may_and_nobody_else() {
        let peer = |user, groups: &[u32]| Peer { user, groups: groups.into() };
        let allowed = [Allow::User(7), Allow::Group(50)];
        assert!(peer(0, &[0]).may(1000, &[]));
        assert!(peer(1000, &[1]).may(1000, &[]));
        assert!(peer(7, &[1]).may(0, &allowed));
        assert!(peer(8, &[1, 50]).may(0, &allowed));
        assert!(!peer(8, &[1, 7]).may(0, &allowed));
        assert!(!peer(50, &[1]).may(0, &allowed));
        assert!(!peer(7, &[50]).may(0, &[]));
    }

    #[test]
    fn names_are_found_in_the_files_lines() {
        let file = "root:x:0:\nveneer:x:998:a,b\nbad:x\nven:x:1:\n";
        assert_eq!(id_of(file, "veneer"), Some(998));
        assert_eq!(id_of(file, "ven"), Some(1));
        assert_eq!(id_of(file, "bad"), None);
        assert_eq!(id_of(file, "x"), None);
        assert_eq!("group:12".parse::<Allow>().unwrap(), Allow::Group(12));
        assert!("wheel".parse::<Allow>().is_err());
    }

    #[test]
    fn a_token_file_is_for_one_reader_and_long_enough() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let write = |text: &str, mode: u32| {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        };
        write("0123456789abcdef0123456789abcdef\n", 0o600);
        let token = Token::read("--token-file", &path).unwrap();
        assert!(token.is("0123456789abcdef0123456789abcdef"));
        assert!(!token.is("0123456789abcdef0123456789abcdeF"));
        assert!(!token.is(""));
        assert!(!format!("{token:?}").contains("0123"));
        write("0123456789abcdef0123456789abcdef\n", 0o640);
        assert!(Token::read("--token-file", &path).is_err());
        write("short", 0o600);
        assert!(Token::read("--token-file", &path).is_err());
    }
}
