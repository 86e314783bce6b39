//! Of which kind each error is, and with it what the kernel and the HTTP client say.

use std::io;

use crate::error::Error;
use crate::error::forbidden::Forbidden;
use crate::error::kind::Kind;
use crate::error::tunnel::refusal;

impl Error {
    /// The class of this error.
    pub fn kind(&self) -> Kind {
        match self {
            Error::Reference { .. }
            | Error::Setting { .. }
            | Error::Unaddressable { .. }
            | Error::Shared(..)
            | Error::Credentials { .. }
            | Error::Unreadable { .. }
            | Error::Sign { .. }
            | Error::Unsigned { .. }
            | Error::Spent { .. } => Kind::Usage,
            Error::Answer { answer, .. } => answer.kind(),
            Error::Gate { gate, .. } => gate.kind(),
            Error::EmptyPrefix { .. } | Error::NoSlash { .. } => Kind::NotFound,
            Error::Guard { .. }
            | Error::Redirect { .. }
            | Error::Long { .. }
            | Error::NoLength { .. }
            | Error::Range { .. }
            | Error::TooLarge { .. }
            | Error::Malformed { .. }
            | Error::Xml { .. }
            | Error::ListingTooLong { .. }
            | Error::ListingTooLarge { .. }
            | Error::TooManyLayers { .. }
            | Error::Gap { .. }
            | Error::Stranger { .. }
            | Error::Local { .. }
            | Error::Layout { .. }
            | Error::Duplicate { .. } => Kind::Refused,
            Error::Changed { .. } | Error::Vanished { .. } => Kind::Changed,
            Error::Digest { .. } => Kind::Digest,
            Error::Transport { source, .. } => transport_kind(source),
            Error::Slow { .. } | Error::Overdue { .. } => Kind::Timeout,
            Error::Short { .. }
            | Error::Unresumable { .. }
            | Error::Lender { .. }
            | Error::Sources { .. } => Kind::Network,
            Error::GaveUp { last, .. } => last.kind(),
            Error::File { source, .. } => file_kind(source),
            Error::Busy { .. }
            | Error::Rotten { .. }
            | Error::Mixed { .. }
            | Error::Thread { .. } => Kind::Io,
        }
    }
}

/// Whether nobody is there who could answer: no such host, or a refused connection.
pub(crate) fn is_unreachable(error: &Error) -> bool {
    match error {
        Error::Transport { source, .. } => match source.as_ref() {
            ureq::Error::HostNotFound | ureq::Error::ConnectionFailed => true,
            ureq::Error::Io(source) => source.kind() == io::ErrorKind::ConnectionRefused,
            _ => false,
        },
        _ => false,
    }
}

/// A place that is not there, or not ours to write, stays so; a disk may get room.
fn file_kind(source: &io::Error) -> Kind {
    match source.kind() {
        io::ErrorKind::NotFound
        | io::ErrorKind::PermissionDenied
        | io::ErrorKind::NotADirectory
        | io::ErrorKind::IsADirectory
        | io::ErrorKind::ReadOnlyFilesystem
        | io::ErrorKind::InvalidFilename => Kind::Usage,
        _ => Kind::Io,
    }
}

/// ureq's error is non-exhaustive; what it may add later is a failure of the exchange.
fn transport_kind(source: &ureq::Error) -> Kind {
    match source {
        ureq::Error::Timeout(_) => Kind::Timeout,
        ureq::Error::Io(e) if e.kind() == io::ErrorKind::TimedOut => Kind::Timeout,
        // A certificate does not get better by trying again. rustls reports through io as well.
        ureq::Error::Tls(_) | ureq::Error::Rustls(_) | ureq::Error::Pem(_) => Kind::Refused,
        ureq::Error::Io(e) if e.kind() == io::ErrorKind::InvalidData => Kind::Refused,
        ureq::Error::LargeResponseHeader(..) => Kind::Refused,
        ureq::Error::ConnectProxyFailed(said) if refusal(said).is_some() => Kind::Denied,
        ureq::Error::Other(e) if e.is::<Forbidden>() => Kind::Refused,
        ureq::Error::BadUri(_) | ureq::Error::InvalidProxyUrl | ureq::Error::Http(_) => Kind::Usage,
        _ => Kind::Network,
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn places_that_stay_wrong_are_told_from_disks_that_may_get_room() {
        let kind = |code: i32| {
            let source = io::Error::from_raw_os_error(code);
            Error::File { act: "write", path: PathBuf::from("/f"), source }.kind()
        };
        for code in [
            libc::ENOENT,
            libc::EACCES,
            libc::EPERM,
            libc::ENOTDIR,
            libc::EISDIR,
            libc::EROFS,
            libc::ENAMETOOLONG,
        ] {
            assert_eq!(kind(code), Kind::Usage, "{code}");
        }
        for code in [libc::ENOSPC, libc::EIO, libc::EDQUOT, libc::EMFILE, libc::EPIPE] {
            assert_eq!(kind(code), Kind::Io, "{code}");
        }
    }
}
