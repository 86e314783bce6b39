//! How errors are said: the one `Display` of all of them.
//!
//! Every string that came from outside is kept raw in its variant and escaped here, so no message
//! can carry a control character to a terminal.

use std::fmt;
use std::time::Duration;

use crate::error::{Error, tunnel};
use crate::text::quote::quoted;

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let q = |text: &str| quoted(text);
        match self {
            Error::Reference { text, why } => write!(f, "reference {}: {why}", q(text)),
            Error::Setting { name, value, why } => write!(f, "{name} {}: {why}", q(value)),
            Error::Unaddressable { subject } => {
                write!(
                    f,
                    "{}: a key with a \".\" or \"..\" segment cannot be asked for",
                    q(subject)
                )?;
                write!(f, " by URL: copy the object to another key")
            }
            Error::Shared(fault) => {
                let (file, key) = (fault.file.display().to_string(), &fault.key);
                write!(
                    f,
                    "{}, line {}, {}: {}",
                    q(&file),
                    fault.line,
                    q(key).trim_matches('"'),
                    fault.why
                )
            }
            Error::Credentials { place, why } => write!(f, "credentials in {}: {why}", q(place)),
            Error::Lender { place, why } => {
                write!(f, "credentials from {place}: {why}: try again, or --anonymous")
            }
            Error::Sign { subject, source } => {
                write!(f, "{}: unable to sign the request: {}", q(subject), q(&source.to_string()))
            }
            Error::Guard { subject, url } => {
                write!(f, "{}: not sent: the URL would be {}", q(subject), q(url))
            }
            Error::Answer { subject, answer } => {
                write!(f, "{}: {answer}", q(subject))?;
                // Other tools have it in the reference.
                match subject.rsplit_once("?versionId=").filter(|_| answer.status == 404) {
                    Some((_, id)) => {
                        write!(
                            f,
                            "; a version is asked for by --version-id {}",
                            q(id).trim_matches('"')
                        )
                    }
                    None => Ok(()),
                }
            }
            Error::Gate { subject, gate } => write!(f, "{}: {gate}", q(subject)),
            Error::Redirect { subject, status, to, why } => {
                write!(f, "{}: {status} redirect to {} not followed: {why}", q(subject), q(to))
            }
            Error::Transport { subject, server, source } => {
                write!(f, "{}: server {}: {}", q(subject), q(server), Transport(source))
            }
            Error::Slow { subject, at, bytes, over, floor } => write!(
                f,
                "{}: stalled at byte {at}: {bytes} bytes in {:.1} s, the floor is {floor} B/s",
                q(subject),
                over.as_secs_f64()
            ),
            Error::Short { subject, at, size } => {
                write!(f, "{}: the stream ended at byte {at} of {size}", q(subject))
            }
            Error::Long { subject, size } => {
                write!(f, "{}: more bytes than the promised {size}", q(subject))
            }
            Error::NoLength { subject } => write!(
                f,
                "{}: the server gives no Content-Length: a cut would go unseen; pass the size",
                q(subject)
            ),
            Error::Unresumable { subject, at, .. } => write!(
                f,
                "{}: broken at byte {at} and the server gives no strong ETag to go on with",
                q(subject)
            ),
            Error::Range { subject, want, got } => {
                write!(f, "{}: asked for {}, the server sent {}", q(subject), q(want), q(got))
            }
            Error::Changed { subject, field, want, got } => write!(
                f,
                "{}: the object changed: {field} is {}, pinned {}: list it again",
                q(subject),
                q(got),
                q(want)
            ),
            Error::Digest { subject, algorithm, want, got } => write!(
                f,
                "{}: digest mismatch: {algorithm}:{got}, promised {algorithm}:{want}: discard it",
                q(subject)
            ),
            Error::Rotten { subject, reused } => write!(
                f,
                "{}: digest mismatch with {reused} bytes of an earlier try, now removed: try again",
                q(subject)
            ),
            Error::Mixed { subject, algorithm, want, got } => write!(
                f,
                "{}: digest mismatch: {algorithm}:{got}, promised {algorithm}:{want}, over several answers \
                 which no strong ETag holds together: the object may have changed meanwhile: try again",
                q(subject)
            ),
            Error::TooLarge { subject, size, size_max } => {
                write!(f, "{}: {size} bytes exceed the limit {size_max}", q(subject))
            }
            Error::Malformed { subject, why, got } => {
                write!(f, "{}: malformed answer: {why}: {}", q(subject), q(got))
            }
            Error::Xml { subject, source } => {
                write!(f, "{}: malformed listing: {}", q(subject), q(&source.to_string()))
            }
            Error::ListingTooLong { subject, keys_max } => {
                write!(f, "listing {}: more than {keys_max} keys", q(subject))
            }
            Error::ListingTooLarge { subject, bytes_max } => {
                write!(f, "listing {}: keys and ETags of more than {bytes_max} bytes", q(subject))
            }
            Error::TooManyLayers { subject, layers_max } => write!(
                f,
                "listing {}: more than {layers_max} layers: raise --layers, fetch.layers or \
                 VENEER_FETCH_LAYERS if that is meant",
                q(subject)
            ),
            Error::EmptyPrefix { subject } => {
                write!(f, "listing {}: no objects: check the prefix and its last \"/\"", q(subject))
            }
            Error::NoSlash { subject } => write!(
                f,
                "{}: no such object: did you mean {} with its last \"/\"?",
                q(subject),
                q(&format!("{subject}/"))
            ),
            Error::Gap { subject, missing, next } => {
                write!(f, "listing {}: layer {missing} is missing, {next} is there", q(subject))
            }
            Error::Stranger { subject } => write!(
                f,
                "{}: not a layer (<n>.tar, .tar.gz, .tgz, .tar.zst): move it out of the prefix",
                q(subject)
            ),
            Error::Layout { subject } => write!(
                f,
                "listing {}: this is an OCI image layout, not numbered layers: its images are named {}, with a tag \
                 that its index.json has",
                q(subject),
                q(&format!("oci:{subject}:TAG"))
            ),
            Error::Duplicate { number, first, second } => {
                write!(f, "layer {number} is there twice: {} and {}", q(first), q(second))
            }
            Error::Unsigned { subject } => write!(
                f,
                "{}: what writes is always signed, and there are no credentials: set \
                 AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or a profile, and leave --anonymous out",
                q(subject)
            ),
            Error::Local { place, field, want, got } => write!(
                f,
                "{}: its {field} is {}, and it has to be {}: it is not uploaded; copy or pull the \
                 image anew",
                q(place),
                q(got).trim_matches('"'),
                q(want).trim_matches('"')
            ),
            Error::Vanished { subject, begun } => write!(
                f,
                "{}: somebody else ended the upload in parts each of the {begun} times that it was \
                 begun: try again when nobody else cleans up there",
                q(subject)
            ),
            Error::GaveUp { tries, elapsed, .. } => {
                let tried = if *tries == 1 { "try" } else { "tries" };
                write!(f, "gave up after {tries} {tried}{}", Over(" in", *elapsed))
            }
            Error::Sources { subject, waited, .. } => write!(
                f,
                "{}: no source could be asked{}, and the source fallback is not now: look at \
                 the sources, or let the origin be asked (--source-fallback now)",
                q(subject),
                Over(" for", *waited)
            ),
            Error::Spent { subject } => write!(f, "{}: read after it had failed", q(subject)),
            Error::Overdue { subject, at, size, deadline } => write!(
                f,
                "{}: at byte {at} of {size} after {:.1} s, the deadline: raise --deadline",
                q(subject),
                deadline.as_secs_f64()
            ),
            Error::Busy { path } => {
                let path = path.display().to_string();
                write!(f, "another process is fetching into {}: wait for it", q(&path))
            }
            Error::Thread { .. } => write!(f, "unable to run a thread for a range"),
            Error::Unreadable { what, path, .. } => {
                write!(f, "{what} {}: unable to read it", q(&path.display().to_string()))
            }
            Error::File { act, path, .. } => {
                write!(f, "unable to {act} {}", q(&path.display().to_string()))
            }
        }
    }
}

/// A time after its preposition; nothing where it would be 0.0 s.
struct Over(&'static str, Duration);

impl fmt::Display for Over {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.1 < Duration::from_millis(50) {
            true => Ok(()),
            false => write!(f, "{} {:.1} s", self.0, self.1.as_secs_f64()),
        }
    }
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

/// ureq's wording, with the act that helps where we know one.
struct Transport<'a>(&'a ureq::Error);

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
