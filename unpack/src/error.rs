//! What can go wrong while a layer is applied, and how it is said.
//!
//! Wording lives in the `Display` impls here and nowhere else. Which exit code a kind gets is
//! decided by the programs; what is refused and why is decided in `header`, `pax`, `entry`,
//! `archive` and `apply`.

use std::borrow::Cow;
use std::{error, fmt, io};

use serde::{Deserialize, Serialize};

use crate::escape::escaped;

/// The family of rules that a refused layer broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Class {
    /// Blocks, magic, checksum, end marker, truncation.
    Frame,
    /// A number that is malformed or out of range.
    Number,
    /// A PAX or GNU extension header.
    Extension,
    /// An entry's name, or a parent that cannot be a directory.
    Path,
    /// A symlink or hard link target.
    Link,
    /// An entry type that is unknown or not allowed.
    Type,
    /// A malformed whiteout.
    Whiteout,
    /// An extended attribute.
    Xattr,
    /// A sparse file.
    Sparse,
    /// A budget in [`crate::Limits`].
    Limit,
    /// The compressed wrapping.
    Compression,
    /// A digest that does not match, or is missing where one has to vouch for the end.
    Digest,
    /// Something this file system cannot hold.
    Fs,
}

impl Class {
    /// The stable name, as in JSON output.
    pub fn name(self) -> &'static str {
        match self {
            Class::Frame => "frame",
            Class::Number => "number",
            Class::Extension => "extension",
            Class::Path => "path",
            Class::Link => "link",
            Class::Type => "type",
            Class::Whiteout => "whiteout",
            Class::Xattr => "xattr",
            Class::Sparse => "sparse",
            Class::Limit => "limit",
            Class::Compression => "compression",
            Class::Digest => "digest",
            Class::Fs => "fs",
        }
    }

    /// Every class, in the order of declaration.
    pub const ALL: [Class; 13] = [
        Class::Frame,
        Class::Number,
        Class::Extension,
        Class::Path,
        Class::Link,
        Class::Type,
        Class::Whiteout,
        Class::Xattr,
        Class::Sparse,
        Class::Limit,
        Class::Compression,
        Class::Digest,
        Class::Fs,
    ];
}

/// What a caller can do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The layer breaks a rule; it will do so again.
    Refused,
    /// The layer is over a budget; a larger one may let it pass.
    Limit,
    /// The file system is out of blocks or inodes.
    NoSpace,
    /// The caller lacks a privilege.
    Denied,
    /// The layer's own reader failed; see the source.
    Stream,
    /// The file system failed.
    Io,
    /// The sandboxed child could not be set up, or died.
    Sandbox,
}

/// Where in the layer an error belongs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Entries seen before this one.
    pub index: u64,
    /// Byte offset in the uncompressed tar of the header block of this entry.
    pub offset: u64,
    /// The entry's name as the layer gives it, raw; empty when not known yet.
    pub name: Vec<u8>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "entry {} \"{}\" at byte {}", self.index, escaped(&self.name), self.offset)
    }
}

/// The value that broke a rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Value {
    /// The rule says it all.
    None,
    /// A number.
    Number(i128),
    /// Raw bytes out of the layer; escaped when shown.
    Bytes(Vec<u8>),
}

/// One broken rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The family of the rule.
    pub class: Class,
    /// The rule, as a clause.
    pub rule: Cow<'static, str>,
    /// What broke it.
    pub value: Value,
    /// The flag that sets the limit, and its value, where the rule is a limit.
    pub limit: Option<(Cow<'static, str>, u64)>,
}

impl Refusal {
    pub(crate) fn new(class: Class, rule: &'static str) -> Refusal {
        Refusal { class, rule: rule.into(), value: Value::None, limit: None }
    }

    pub(crate) fn bytes(self, value: &[u8]) -> Refusal {
        // Enough to recognise it; an error must not carry a megabyte.
        let cut = value.get(..512).unwrap_or(value);
        Refusal { value: Value::Bytes(cut.to_vec()), ..self }
    }

    pub(crate) fn number(self, value: impl Into<i128>) -> Refusal {
        Refusal { value: Value::Number(value.into()), ..self }
    }

    pub(crate) fn limit(flag: &'static str, rule: &'static str, value: u64, max: u64) -> Refusal {
        Refusal {
            class: Class::Limit,
            rule: rule.into(),
            value: Value::Number(value.into()),
            limit: Some((flag.into(), max)),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.rule)?;
        match &self.value {
            Value::None => {}
            Value::Number(n) => write!(f, ": {n}")?,
            Value::Bytes(b) => write!(f, ": \"{}\"", escaped(b))?,
        }
        if let Some((flag, max)) = &self.limit {
            write!(f, " (limit {flag} {max})")?;
        }
        Ok(())
    }
}

/// Which resource of the file system ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Space {
    /// Data blocks, counted in bytes.
    Bytes,
    /// Inodes.
    Inodes,
}

/// Why a layer was not applied.
#[derive(Debug)]
pub enum Error {
    /// The layer breaks a rule.
    Refused {
        /// Where.
        place: Place,
        /// Which rule.
        refusal: Box<Refusal>,
    },
    /// The layer's reader failed; its own error is kept, so that it can be recovered by
    /// [`io::Error::get_ref`] and a downcast.
    Stream {
        /// The reader's error, untouched.
        source: io::Error,
    },
    /// A system call on the tree failed.
    Fs {
        /// Where in the layer, if an entry was at work.
        place: Option<Place>,
        /// The call.
        call: Cow<'static, str>,
        /// The name it was given.
        name: Vec<u8>,
        /// The errno.
        source: io::Error,
    },
    /// The file system has less room than the next entry needs; nothing of it was written.
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
    /// The sandbox could not be set up, or the child ended without a verdict.
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
            Error::Fs { source, .. } => match source.raw_os_error() {
                Some(libc::ENOSPC | libc::EDQUOT) => Kind::NoSpace,
                Some(libc::EPERM | libc::EACCES | libc::EROFS) => Kind::Denied,
                Some(_) | None => Kind::Io,
            },
            Error::NoSpace { .. } => Kind::NoSpace,
            Error::Sandbox { source, .. } => match source.raw_os_error() {
                // A host short of memory, processes or files is not a broken one.
                Some(libc::ENOMEM | libc::ENOBUFS | libc::EAGAIN | libc::EMFILE | libc::ENFILE) => {
                    Kind::Io
                }
                Some(_) | None => Kind::Sandbox,
            },
        }
    }

    /// The family of the broken rule, if a rule was broken.
    pub fn class(&self) -> Option<Class> {
        match self {
            Error::Refused { refusal, .. } => Some(refusal.class),
            Error::NoSpace { .. } => Some(Class::Limit),
            Error::Stream { .. } | Error::Fs { .. } | Error::Sandbox { .. } => None,
        }
    }

    /// Where in the layer it happened, if that is known.
    pub fn place(&self) -> Option<&Place> {
        match self {
            Error::Refused { place, .. } | Error::NoSpace { place, .. } => Some(place),
            Error::Fs { place, .. } => place.as_ref(),
            Error::Stream { .. } | Error::Sandbox { .. } => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Refused { place, refusal } => {
                write!(f, "refused {place}: {}: {refusal}", refusal.class.name())
            }
            // The source is printed by whoever walks the chain.
            Error::Stream { .. } => write!(f, "unable to read the layer"),
            Error::Fs { place, call, name, .. } => {
                write!(f, "unable to {call} \"{}\"", escaped(name))?;
                match place {
                    Some(place) => write!(f, " for {place}"),
                    None => Ok(()),
                }
            }
            Error::NoSpace { place, what, need, free } => {
                let what = match what {
                    Space::Bytes => "bytes",
                    Space::Inodes => "inodes",
                };
                write!(f, "no space for {place}: it needs {need} {what}, {free} are free")
            }
            Error::Sandbox { step, .. } => write!(f, "sandbox: unable to {step}"),
        }
    }
}

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Error::Stream { source } | Error::Fs { source, .. } | Error::Sandbox { source, .. } => {
                Some(source)
            }
            Error::Refused { .. } | Error::NoSpace { .. } => None,
        }
    }
}

/// An error that does not know its place yet: what the layers below the loop return.
#[derive(Debug)]
pub(crate) enum Fault {
    Refusal(Refusal),
    Stream(io::Error),
    Fs { call: &'static str, name: Vec<u8>, source: io::Error },
    NoSpace { what: Space, need: u64, free: u64 },
}

impl Fault {
    pub(crate) fn fs(
        call: &'static str,
        name: &[u8],
    ) -> impl FnOnce(nix::errno::Errno) -> Fault + use<> {
        let name = name.to_vec();
        move |errno| Fault::Fs { call, name, source: errno.into() }
    }

    pub(crate) fn at(self, place: Place) -> Error {
        match self {
            Fault::Refusal(refusal) => Error::Refused { place, refusal: Box::new(refusal) },
            Fault::Stream(source) => Error::Stream { source },
            Fault::Fs { call, name, source } => {
                Error::Fs { place: Some(place), call: call.into(), name, source }
            }
            Fault::NoSpace { what, need, free } => Error::NoSpace { place, what, need, free },
        }
    }

    /// For work that no entry asked for.
    pub(crate) fn nowhere(self) -> Error {
        match self {
            Fault::Fs { call, name, source } => {
                Error::Fs { place: None, call: call.into(), name, source }
            }
            other => other.at(Place::default()),
        }
    }
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Fault {
        Fault::Refusal(refusal)
    }
}
