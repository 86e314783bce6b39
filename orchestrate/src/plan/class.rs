//! Of which class a failure is: the one function that decides what may be retried.

use std::io;

use crate::error::Error;
use crate::error::class::Class;
use crate::error::image::Unusable;
use crate::error::leaves::stream_error;
use crate::error::refusal::Refusal;
use crate::handover::unfit::Unfit;
use crate::trust::scan::Failure;

/// The class of a failure. Leaves' kinds are exhaustive enums, so a new kind does not compile until
/// it is classed here.
pub fn class(error: &Error) -> Class {
    match error {
        Error::Fetch(source) => fetch_class(source),
        Error::Away { source, .. } | Error::Unheard { source, .. } => class(source),
        Error::Unpack { source, .. } => match stream_error(source) {
            Some(source) => fetch_class(source),
            None => unpack_class(source),
        },
        Error::Tree { source, .. } => unpack_class(source),
        Error::Volume { source, .. } => volume_class(source),
        Error::Image(unusable) => image_class(unusable),
        Error::Push(not) => not.class(),
        Error::Export(not) => not.class(),
        Error::Travel(not) => not.class(),
        Error::Thin(source) => thin_class(source),
        Error::Registry(source) => match source.kind() {
            registry::Kind::Busy | registry::Kind::Conflict => Class::Temporary,
            registry::Kind::NoSpace => Class::NoSpace,
            registry::Kind::Io | registry::Kind::Refused => Class::HostBroken,
            registry::Kind::Denied => Class::Denied,
            registry::Kind::Bug => Class::Bug,
        },
        Error::Io { source, .. } => io_class(source),
        Error::Usage(_) | Error::Taken { .. } => Class::Usage,
        Error::Unfit(unfit) => unfit_class(unfit),
        Error::Unknown { .. } | Error::NotHere { .. } | Error::Condemned { .. } => Class::NotFound,
        Error::Stranger { .. } => Class::Usage,
        // It may be mounted in a moment.
        Error::NoVolumes { .. } => Class::Temporary,
        Error::Locked { .. } | Error::Held { .. } | Error::LookedAt { .. } => Class::Temporary,
        Error::Making(_) => Class::Temporary,
        Error::Amiss(amiss) => amiss.class(),
        Error::NotOurs { .. } => Class::Temporary,
        Error::NoSpace { .. } | Error::Filling(_) => Class::NoSpace,
        Error::Mismatch { .. } | Error::Quarantined { .. } => Class::Refused,
        Error::Cancelled { .. } => Class::Cancelled,
        Error::NoNotes { .. } => Class::NotFound,
        Error::Told { class, .. } => *class,
        Error::Unseen(unseen) => unseen.class,
        Error::Scan(Failure::Time { .. }) => Class::Temporary,
        Error::Scan(_) => Class::HostBroken,
        Error::Blocked { .. } => Class::Denied,
        Error::Catalog(_) => Class::Refused,
        // The pool may come up by itself.
        Error::Owner(Refusal::Down { .. }) => Class::Temporary,
        Error::State(state) => state.class(),
        Error::Full(full) => full.class(),
        Error::Fence { .. }
        | Error::Owner(_)
        | Error::Lost { .. }
        | Error::Gone { .. }
        | Error::CrashLoop { .. } => Class::HostBroken,
    }
}

/// A volume that was sealed here is as it was sealed, or is damaged.
fn volume_class(unfit: &unpack::Unfit) -> Class {
    match unfit {
        unpack::Unfit::Io { source, .. } => io_class(source),
        unpack::Unfit::Geometry(_) => Class::Usage,
        unpack::Unfit::Empty
        | unpack::Unfit::Foreign
        | unpack::Unfit::Version(_)
        | unpack::Unfit::Unsealed
        | unpack::Unfit::Changed
        | unpack::Unfit::Short { .. }
        | unpack::Unfit::NoRoom { .. }
        | unpack::Unfit::InUse { .. } => Class::HostBroken,
    }
}

fn image_class(unusable: &Unusable) -> Class {
    match unusable {
        Unusable::Reference(_) | Unusable::Daemon { .. } => Class::Usage,
        Unusable::Archive { source, .. } => unpack_class(source),
        Unusable::NotKept { .. } => Class::NotFound,
        // Whoever asks again brings it again.
        Unusable::Gone { .. } => Class::Temporary,
        Unusable::Document { .. }
        | Unusable::NoLayout { .. }
        | Unusable::NoBlob { .. }
        | Unusable::Strange { .. }
        | Unusable::Size { .. }
        | Unusable::NoLayer { .. }
        | Unusable::Other { .. }
        | Unusable::DiffId { .. } => Class::Refused,
    }
}

/// What an image says is refused; what the caller says is wrong usage.
fn unfit_class(unfit: &Unfit) -> Class {
    match unfit {
        Unfit::Nobody { .. }
        | Unfit::Table { .. }
        | Unfit::Config { .. }
        | Unfit::Number { .. }
        | Unfit::Groups { .. }
        | Unfit::Word { .. }
        | Unfit::Variable { .. }
        | Unfit::Directory { .. } => Class::Refused,
        Unfit::NoCommand { .. }
        | Unfit::HostName { .. }
        | Unfit::Foreign { .. }
        | Unfit::Place { .. }
        | Unfit::Copy { .. }
        | Unfit::Copies { .. }
        | Unfit::Changed { .. }
        | Unfit::Owner { .. }
        | Unfit::NoDevice { .. }
        | Unfit::Node { .. }
        | Unfit::NotUp { .. }
        | Unfit::Path { .. } => Class::Usage,
        Unfit::NoConfig { .. } => Class::NotFound,
    }
}

pub(crate) fn fetch_class(error: &fetch::Error) -> Class {
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

pub(crate) fn unpack_class(error: &unpack::Error) -> Class {
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

pub(crate) fn thin_class(error: &thin::Error) -> Class {
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

pub(crate) fn io_class(error: &io::Error) -> Class {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Class::NoSpace,
        io::ErrorKind::PermissionDenied => Class::Denied,
        io::ErrorKind::InvalidFilename => Class::Usage,
        // What is in a place is something else than it has to be.
        io::ErrorKind::ReadOnlyFilesystem
        | io::ErrorKind::NotADirectory
        | io::ErrorKind::IsADirectory
        | io::ErrorKind::InvalidData => Class::HostBroken,
        _ => Class::Temporary,
    }
}

/// Which part failed: a class alone does not tell the server's bad day from the pool's.
pub(crate) fn failed_by(error: &Error) -> &'static str {
    match error {
        Error::Fetch(_) => S3,
        Error::Away { source, .. } | Error::Unheard { source, .. } => failed_by(source),
        Error::Unpack { source, .. } if stream_error(source).is_some() => S3,
        Error::Thin(_) | Error::Filling(_) => "pool",
        Error::Registry(_) => "registry",
        _ => "host",
    }
}

/// What [`failed_by`] calls the server, and the way to it.
pub(crate) const S3: &str = "s3";
