//! Pieces of messages that take more than one word: paths, times, what an HTTP client says, an error with its causes.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use crate::error::answer::Answer;
use crate::error::tunnel;
use crate::text::quote::quoted;

/// Escaped, without the quotes.
pub(super) fn bare(text: &str) -> String {
    quoted(text).trim_matches('"').to_owned()
}

pub(super) fn shown(path: &Path) -> String {
    quoted(&path.display().to_string())
}

pub(super) fn tried(tries: u32) -> &'static str {
    if tries == 1 { "try" } else { "tries" }
}

/// What helps where the reference has a version, as other tools write it.
pub(super) fn version(subject: &str, answer: &Answer) -> String {
    match subject.rsplit_once("?versionId=").filter(|_| answer.status == 404) {
        Some((_, id)) => format!("; to request a version, pass --version-id {}", bare(id)),
        None => String::new(),
    }
}

/// A time after its preposition; nothing where it would be 0.0 s.
pub(super) struct Over(pub(super) &'static str, pub(super) Duration);

impl fmt::Display for Over {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.1 < Duration::from_millis(50) {
            true => Ok(()),
            false => write!(f, "{} {:.1} s", self.0, self.1.as_secs_f64()),
        }
    }
}

/// An error with its causes, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

/// ureq's wording, with the act that helps where we know one.
pub(super) struct Transport<'a>(pub(super) &'a ureq::Error);

impl fmt::Display for Transport<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            ureq::Error::HostNotFound => write!(f, "host not found: check the endpoint and DNS"),
            ureq::Error::ConnectProxyFailed(said) => {
                let said = said.strip_prefix("proxy server ").unwrap_or(said);
                write!(f, "the proxy {}", quoted(said).trim_matches('"'))?;
                tunnel::refusal(said).map_or(Ok(()), |advice| write!(f, ": {advice}"))
            }
            ureq::Error::Timeout(what) => write!(f, "timed out: {what}"),
            ureq::Error::Io(error) if error.to_string().contains("InvalidContentType") => {
                write!(f, "it does not speak TLS: is it http://?")
            }
            ureq::Error::Io(error) => f.write_str(quoted(&error.to_string()).trim_matches('"')),
            other => f.write_str(quoted(&other.to_string()).trim_matches('"')),
        }
    }
}
