//! The classes of the leaves' own errors, and how an error is told with its causes.

use std::io;

use crate::error::class::Class;

pub(super) fn fetch_class(error: &fetch::Error) -> Class {
    match error.kind() {
        fetch::Kind::Usage => Class::Usage,
        fetch::Kind::NotFound => Class::NotFound,
        fetch::Kind::Denied => Class::Denied,
        fetch::Kind::Refused | fetch::Kind::Digest => Class::Refused,
        fetch::Kind::Changed | fetch::Kind::Network | fetch::Kind::Timeout => Class::Temporary,
        fetch::Kind::Throttled => Class::Throttled,
        fetch::Kind::Io => Class::Temporary,
    }
}

pub(super) fn unpack_class(error: &unpack::Error) -> Class {
    match error.kind() {
        unpack::Kind::Refused | unpack::Kind::Limit => Class::Refused,
        unpack::Kind::NoSpace => Class::NoSpace,
        unpack::Kind::Denied => Class::Denied,
        // A child that was killed: by a host without memory, or by somebody.
        unpack::Kind::TimedOut | unpack::Kind::Stream | unpack::Kind::Io | unpack::Kind::Died => {
            Class::Temporary
        }
        unpack::Kind::Sandbox => Class::HostBroken,
    }
}

pub(super) fn thin_class(error: &thin::Error) -> Class {
    match error.kind() {
        thin::Kind::Busy => Class::Temporary,
        thin::Kind::NoSpace => Class::NoSpace,
        thin::Kind::Denied => Class::Denied,
        thin::Kind::Exists | thin::Kind::Invalid => Class::Usage,
        thin::Kind::PoolMissing => Class::NotFound,
        thin::Kind::Absent
        | thin::Kind::NeedsCheck
        | thin::Kind::ReadOnly
        | thin::Kind::Failed
        | thin::Kind::NoDeviceMapper
        | thin::Kind::Refused
        | thin::Kind::Program => Class::HostBroken,
        thin::Kind::Io => Class::Temporary,
    }
}

pub(super) fn io_class(error: &io::Error) -> Class {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Class::NoSpace,
        io::ErrorKind::PermissionDenied => Class::Denied,
        // What is in a place is something else than it has to be.
        io::ErrorKind::ReadOnlyFilesystem
        | io::ErrorKind::NotADirectory
        | io::ErrorKind::IsADirectory
        | io::ErrorKind::InvalidData => Class::HostBroken,
        _ => Class::Temporary,
    }
}

/// The error and its causes; a cause that the text before it names already is not said twice.
pub fn whole(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        next = cause.source();
    }
    text
}

/// The fetch error inside an unpack error, where the stream and not the layer failed.
pub(crate) fn stream_error<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> Option<&'a fetch::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<fetch::Error>() {
            return Some(found);
        }
        // `io::Error::source` skips the error it wraps.
        next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}
