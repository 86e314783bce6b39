//! The class of what the kernel and the HTTP client say.

use std::io;

use crate::error::forbidden::Forbidden;
use crate::error::kind::Kind;
use crate::error::tunnel::refusal;

/// A place that is not there, or not ours to write, stays so; a disk may get room.
pub(super) fn file_kind(source: &io::Error) -> Kind {
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
pub(super) fn transport_kind(source: &ureq::Error) -> Kind {
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
    use crate::error::Error;

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
