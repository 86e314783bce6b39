//! What can go wrong while a layer is applied, and how it is said.
//!
//! The wording stands with each variant and nowhere else. Which exit code a kind gets is
//! decided by the programs; what is refused and why is decided in `header`, `pax`, `entry`,
//! `archive` and `apply`.

pub(crate) mod escape;
pub(crate) mod image;
pub(crate) mod refusal;
pub(crate) mod stop;

use std::borrow::Cow;
use std::{fmt, io};

use crate::error::escape::escaped;
use crate::error::image::Flaw;
use crate::error::refusal::{Class, DependsOn, Place, Refusal, Space, cut};
use crate::limits::wall::Standing;

/// What a caller can do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The layer breaks a rule; it will do so again.
    Refused,
    /// The layer is over a budget; a larger one may let it pass.
    Limit,
    /// The layer was not done in the wall time it had, which depends on what else the host does.
    TimedOut,
    /// The file system is out of blocks or inodes.
    NoSpace,
    /// The caller lacks a privilege.
    Denied,
    /// The layer's own reader failed; see the source.
    Stream,
    /// The file system failed.
    Io,
    /// The sandbox cannot be built here: it will not be by asking again.
    Sandbox,
    /// The sandboxed child ended without a verdict, or the way to it broke.
    Died,
}

/// Why a layer was not applied.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The layer breaks a rule.
    #[error("refused{}: {}: {refusal}", at(.place), .refusal.class.name())]
    Refused {
        /// Where.
        place: Place,
        /// Which rule.
        refusal: Box<Refusal>,
    },
    /// The layer's reader failed; its own error is kept, so that it can be recovered by
    /// [`io::Error::get_ref`] and a downcast.
    // The source is printed by whoever walks the chain.
    #[error("unable to read the layer")]
    Stream {
        /// The reader's error, untouched.
        source: io::Error,
    },
    /// A system call on the tree failed.
    #[error(
        "unable to {call} \"{}\"{}",
        escaped(.name),
        .place.as_ref().map(|place| format!(" for {place}")).unwrap_or_default()
    )]
    Fs {
        /// Where in the layer, if an entry was at work.
        place: Option<Place>,
        /// The call.
        call: Cow<'static, str>,
        /// The name it was given; its first 512 bytes where it is longer.
        name: Vec<u8>,
        /// The errno.
        source: io::Error,
    },
    /// The file system has less room than the next entry needs; nothing of it was written.
    #[error("no space for {place}: it needs {need} {}, {free} are free", .what.name())]
    NoSpace {
        /// Where.
        place: Place,
        /// Of what.
        what: Space,
        /// How much the entry needs.
        need: u64,
        /// How much there is.
        free: u64,
    },
    /// A file system image is not what it has to be.
    #[error("refused image: {}: {flaw}", .flaw.kind.name())]
    Image {
        /// The rule that it breaks.
        flaw: Box<Flaw>,
    },
    /// Walls are required that cannot be put up; nothing of the layer has taken effect.
    #[error(fmt = walls)]
    Walls {
        /// Which, each with the right or the kernel that it lacks.
        down: Vec<Standing>,
    },
    /// The sandbox could not be set up, or the child ended without a verdict.
    #[error("sandbox: unable to {step}")]
    Sandbox {
        /// The step that failed.
        step: Cow<'static, str>,
        /// Why.
        source: io::Error,
    },
}

impl Error {
    /// What a caller can do about it.
    pub fn kind(&self) -> Kind {
        match self {
            Error::Refused { refusal, .. } => match refusal.class {
                Class::Limit if refusal.is_by_time() => Kind::TimedOut,
                Class::Limit => Kind::Limit,
                Class::Frame
                | Class::Number
                | Class::Extension
                | Class::Path
                | Class::Link
                | Class::Type
                | Class::Whiteout
                | Class::Xattr
                | Class::Sparse
                | Class::Compression
                | Class::Digest
                | Class::Fs => Kind::Refused,
            },
            Error::Stream { .. } => Kind::Stream,
            Error::Fs { call, source, .. } => match source.raw_os_error() {
                // An owner whom a user namespace does not know.
                Some(libc::EINVAL) if call == "chown" => Kind::Denied,
                Some(libc::ENOSPC | libc::EDQUOT) => Kind::NoSpace,
                Some(libc::EPERM | libc::EACCES | libc::EROFS) => Kind::Denied,
                Some(_) | None => Kind::Io,
            },
            Error::NoSpace { .. } => Kind::NoSpace,
            Error::Image { .. } => Kind::Refused,
            Error::Walls { .. } => Kind::Sandbox,
            Error::Sandbox { source, .. } => match source.raw_os_error() {
                // A host short of memory, processes or files is not a broken one.
                Some(
                    libc::ENOMEM
                    | libc::ENOBUFS
                    | libc::EAGAIN
                    | libc::EMFILE
                    | libc::ENFILE
                    | libc::EFBIG,
                ) => Kind::Io,
                Some(libc::ENOSPC | libc::EDQUOT) => Kind::NoSpace,
                // Of a child that is gone.
                Some(libc::EPIPE | libc::ECONNRESET | libc::ECHILD | libc::EINTR) | None => {
                    Kind::Died
                }
                Some(_) => Kind::Sandbox,
            },
        }
    }

    /// Whether the file system that the layer goes into has too few free blocks or inodes of its own for it, so
    /// that a larger one may hold it: an image after [`crate::grow_image`]. Of an image it is our own count that
    /// says so, before anything is written. What is below the image and has no room, as a pool or a disk, fails in
    /// a call instead: that is [`Error::Fs`], and growing is no help.
    pub fn is_full(&self) -> bool {
        match self {
            Error::NoSpace { .. } => true,
            Error::Refused { .. }
            | Error::Stream { .. }
            | Error::Fs { .. }
            | Error::Image { .. }
            | Error::Walls { .. }
            | Error::Sandbox { .. } => false,
        }
    }

    /// Whether a call failed on temporary records, which lie in a directory of their own.
    pub fn is_of_records(&self) -> bool {
        let of = ["keep the record of", "sort names", "make a temporary file in"];
        matches!(self, Error::Fs { call, .. } if of.contains(&call.as_ref()) || call.contains("temporary record"))
    }

    /// Whether a call failed on the manifest of what was applied or read.
    pub fn is_of_manifest(&self) -> bool {
        matches!(self, Error::Fs { place: None, call, name, .. } if call == "write" && name == b"manifest")
    }

    /// The family of the broken rule, if a rule was broken.
    pub fn class(&self) -> Option<Class> {
        match self {
            Error::Refused { refusal, .. } => Some(refusal.class),
            Error::NoSpace { .. } => Some(Class::Limit),
            Error::Stream { .. }
            | Error::Fs { .. }
            | Error::Image { .. }
            | Error::Walls { .. }
            | Error::Sandbox { .. } => None,
        }
    }

    /// What the refusal of a layer depended on besides its bytes; none where this is no refusal, or says
    /// nothing about the layer.
    pub fn depends_on(&self) -> Option<DependsOn> {
        match self {
            Error::Refused { refusal, .. } => refusal.depends_on(),
            Error::Stream { .. }
            | Error::Fs { .. }
            | Error::NoSpace { .. }
            | Error::Image { .. }
            | Error::Walls { .. }
            | Error::Sandbox { .. } => None,
        }
    }

    /// Where in the layer it happened, if that is known.
    pub fn place(&self) -> Option<&Place> {
        match self {
            Error::Refused { place, .. } | Error::NoSpace { place, .. } => Some(place),
            Error::Fs { place, .. } => place.as_ref(),
            Error::Stream { .. }
            | Error::Image { .. }
            | Error::Walls { .. }
            | Error::Sandbox { .. } => None,
        }
    }
}

/// The place with a blank before it; of work that no entry asked for there is no place in a layer.
fn at(place: &Place) -> String {
    if *place == Place::default() { String::new() } else { format!(" {place}") }
}

fn walls(down: &[Standing], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_str("sandbox: not all walls can be put up")?;
    for (n, wall) in down.iter().enumerate() {
        let and = if n == 0 { ": " } else { "; " };
        write!(f, "{and}{}: {}", wall.wall.name(), wall.note)?;
    }
    f.write_str("; `--sandbox on` continues with those that can")
}

/// An error that does not know its place yet: what the layers below the loop return.
#[derive(Debug)]
pub(crate) enum Fault {
    Refusal(Refusal),
    Stream(io::Error),
    Fs { call: Cow<'static, str>, name: Vec<u8>, source: io::Error },
    NoSpace { what: Space, need: u64, free: u64 },
    Image(Box<Flaw>),
}

impl Fault {
    pub(crate) fn fs(
        call: &'static str,
        name: &[u8],
    ) -> impl FnOnce(nix::errno::Errno) -> Fault + use<> {
        let name = cut(name).to_vec();
        move |errno| Fault::Fs { call: call.into(), name, source: errno.into() }
    }

    /// It came up while an entry took effect, or after.
    pub(crate) fn in_tree(self) -> Fault {
        match self {
            Fault::Refusal(refusal) => Fault::Refusal(Refusal { in_tree: true, ..refusal }),
            other @ (Fault::Stream(_)
            | Fault::Fs { .. }
            | Fault::NoSpace { .. }
            | Fault::Image(_)) => other,
        }
    }

    pub(crate) fn at(self, place: Place) -> Error {
        let place = place.cut();
        match self {
            Fault::Refusal(refusal) => Error::Refused { place, refusal: Box::new(refusal) },
            Fault::Stream(source) => Error::Stream { source },
            Fault::Fs { call, name, source } => {
                Error::Fs { place: Some(place), call, name, source }
            }
            Fault::NoSpace { what, need, free } => Error::NoSpace { place, what, need, free },
            Fault::Image(flaw) => Error::Image { flaw },
        }
    }

    /// For work that no entry asked for.
    pub(crate) fn nowhere(self) -> Error {
        match self {
            Fault::Fs { call, name, source } => Error::Fs { place: None, call, name, source },
            other => other.at(Place::default()),
        }
    }
}

impl From<Flaw> for Fault {
    fn from(flaw: Flaw) -> Fault {
        Fault::Image(Box::new(flaw))
    }
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Fault {
        Fault::Refusal(refusal)
    }
}
