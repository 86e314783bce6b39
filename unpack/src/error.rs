//! What can go wrong while a layer is applied, and how it is said.
//!
//! Wording lives in the `Display` impls here and nowhere else. Which exit code a kind gets is
//! decided by the programs; what is refused and why is decided in `header`, `pax`, `entry`,
//! `archive` and `apply`.

use std::borrow::Cow;
use std::{error, fmt, io};

use serde::{Deserialize, Serialize};

use crate::escape::escaped;
use crate::sandbox::fences::Standing;

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
    /// A budget in [`crate::limits::Limits`].
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

/// Where in the layer an error belongs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Entries seen before this one.
    pub index: u64,
    /// Byte offset in the uncompressed tar of the header block of this entry.
    pub offset: u64,
    /// The entry's name as the layer gives it, raw; its first 512 bytes where it is longer. Empty
    /// when not known yet.
    pub name: Vec<u8>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "entry {} \"{}\" at byte {}", self.index, escaped(&self.name), self.offset)
    }
}

/// The longest name or value in an error: enough to recognise it. An error must not carry a megabyte.
const SHOWN_MAX: usize = 512;

pub(crate) fn cut(bytes: &[u8]) -> &[u8] {
    bytes.get(..SHOWN_MAX).unwrap_or(bytes)
}

impl Place {
    /// The place as an error has it.
    pub(crate) fn cut(mut self) -> Place {
        self.name.truncate(SHOWN_MAX);
        self
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
    /// Whether it came up while the entry took effect, so that the tree below may have a part in it.
    pub in_tree: bool,
}

impl Refusal {
    pub(crate) fn new(class: Class, rule: &'static str) -> Refusal {
        Refusal { class, rule: rule.into(), value: Value::None, limit: None, in_tree: false }
    }

    pub(crate) fn bytes(self, value: &[u8]) -> Refusal {
        Refusal { value: Value::Bytes(cut(value).to_vec()), ..self }
    }

    /// The refusal with nothing in it that is longer than it need be.
    pub(crate) fn cut(&self) -> Refusal {
        let text = |text: &str| {
            text.get(..text.floor_char_boundary(SHOWN_MAX)).unwrap_or_default().to_owned()
        };
        let value = match &self.value {
            Value::Bytes(bytes) => Value::Bytes(cut(bytes).to_vec()),
            other @ (Value::None | Value::Number(_)) => other.clone(),
        };
        let limit = self.limit.as_ref().map(|(flag, max)| (text(flag).into(), *max));
        Refusal { rule: text(&self.rule).into(), value, limit, ..*self }
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
            in_tree: false,
        }
    }

    /// Whether it was made by the clock on the wall.
    fn is_by_time(&self) -> bool {
        self.limit.as_ref().is_some_and(|(flag, _)| flag == "--time-max")
    }

    /// What it depended on besides the layer's bytes and the rules; none where it says nothing about
    /// the layer at all. In doubt it depended on more: then it is believed less.
    fn depends_on(&self) -> Option<DependsOn> {
        let is_limit = self.limit.is_some();
        let (tree, limits) = match self.class {
            Class::Frame | Class::Number | Class::Extension | Class::Sparse => (false, is_limit),
            // Which of them are let through, or had to come, is a setting.
            Class::Type | Class::Compression | Class::Digest => (false, true),
            Class::Path | Class::Link | Class::Whiteout => (self.in_tree, is_limit),
            Class::Xattr => (self.in_tree, true),
            Class::Limit => match self.limit.as_ref().map(|(flag, _)| flag.as_ref()) {
                // A busy host, and a blob whose rest was not to be read.
                Some("--time-max" | "--blob-bytes-max") => return None,
                // What is walked, removed and written down is the tree's as well.
                Some("--removals-max" | "--walk-max" | "--processor-max" | "--spill-bytes-max")
                | None => (true, true),
                Some(_) => (false, true),
            },
            Class::Fs => (true, is_limit),
        };
        Some(DependsOn { tree, limits })
    }
}

/// What a refusal depended on besides the layer's bytes and [`crate::VERSION`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DependsOn {
    /// The tree below: on another one the same layer may be fine.
    pub tree: bool,
    /// The [`crate::limits::Limits`]: under larger ones the same layer may be fine.
    pub limits: bool,
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
        /// The name it was given; its first 512 bytes where it is longer.
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
    /// Walls are required that cannot be put up; nothing of the layer has taken effect.
    Walls {
        /// Which, each with the right or the kernel that it lacks.
        down: Vec<Standing>,
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

    /// The family of the broken rule, if a rule was broken.
    pub fn class(&self) -> Option<Class> {
        match self {
            Error::Refused { refusal, .. } => Some(refusal.class),
            Error::NoSpace { .. } => Some(Class::Limit),
            Error::Stream { .. }
            | Error::Fs { .. }
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
            | Error::Walls { .. }
            | Error::Sandbox { .. } => None,
        }
    }

    /// Where in the layer it happened, if that is known.
    pub fn place(&self) -> Option<&Place> {
        match self {
            Error::Refused { place, .. } | Error::NoSpace { place, .. } => Some(place),
            Error::Fs { place, .. } => place.as_ref(),
            Error::Stream { .. } | Error::Walls { .. } | Error::Sandbox { .. } => None,
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
            Error::Walls { down } => {
                f.write_str("sandbox: not all walls can be put up")?;
                for (n, wall) in down.iter().enumerate() {
                    let and = if n == 0 { ": " } else { "; " };
                    write!(f, "{and}{}: {}", wall.fence.name(), wall.note)?;
                }
                f.write_str("; `--sandbox on` does with those that stand")
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
            Error::Refused { .. } | Error::NoSpace { .. } | Error::Walls { .. } => None,
        }
    }
}

/// An error that does not know its place yet: what the layers below the loop return.
#[derive(Debug)]
pub(crate) enum Fault {
    Refusal(Refusal),
    Stream(io::Error),
    Fs { call: Cow<'static, str>, name: Vec<u8>, source: io::Error },
    NoSpace { what: Space, need: u64, free: u64 },
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
            other @ (Fault::Stream(_) | Fault::Fs { .. } | Fault::NoSpace { .. }) => other,
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

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Fault {
        Fault::Refusal(refusal)
    }
}
