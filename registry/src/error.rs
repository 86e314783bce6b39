//! What can go wrong with the registry, and of which kind it is.

use std::fmt;
use std::path::PathBuf;

use crate::quote::beginning;

/// A failed registry call. Each variant keeps its data and its source.
#[derive(Debug)]
pub enum Error {
    /// SQLite refused or failed.
    Sqlite {
        /// What was being done.
        doing: &'static str,
        /// SQLite's own error.
        source: rusqlite::Error,
    },
    /// The database file cannot be reached.
    File {
        /// The path of the database.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The file is an SQLite database of another program.
    Foreign {
        /// The path of the database.
        path: PathBuf,
        /// Its application id.
        found: i64,
    },
    /// The file was written by a newer veneer.
    Newer {
        /// The path of the database.
        path: PathBuf,
        /// Its schema version.
        found: i64,
        /// The newest this program knows.
        known: i64,
    },
    /// The file was written by an older veneer, and looking at it may not migrate it.
    Older {
        /// The path of the database.
        path: PathBuf,
        /// Its schema version.
        found: i64,
        /// The one this program reads.
        known: i64,
    },
    /// The file is there, and nothing is in it.
    Empty {
        /// The path of the database.
        path: PathBuf,
    },
    /// A file that must not be there is.
    InTheWay {
        /// Its path.
        path: PathBuf,
    },
    /// Facts that a registry cannot be made of.
    NotFacts {
        /// About which volume, activation or image.
        subject: String,
        /// What is wrong.
        why: String,
    },
    /// The registry belongs to another store.
    OtherStore {
        /// The store it is bound to.
        bound: String,
        /// The store that was offered.
        offered: String,
    },
    /// A row is not in the state that the change starts from.
    Conflict {
        /// Which row.
        subject: String,
        /// The state it had to be in.
        expected: &'static str,
        /// The state it is in; none when there is no such row.
        found: Option<String>,
    },
    /// The state machine has no such edge.
    NoEdge {
        /// Which row.
        subject: String,
        /// From which state.
        from: &'static str,
        /// To which state.
        to: &'static str,
    },
    /// A row does not decode.
    Corrupt {
        /// Which row.
        subject: String,
        /// Which column, and what it held.
        what: String,
    },
    /// There is no room to write: the registry is only looked at, as its file stands.
    NoRoom {
        /// The path of the database.
        path: PathBuf,
    },
    /// All thin ids are used up (24 bits, kernel's thin-provisioning.rst).
    IdsExhausted,
}

/// What the caller may do about an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Another process holds the database; try again.
    Busy,
    /// The disk under the database is full.
    NoSpace,
    /// The file system or disk failed.
    Io,
    /// No right to the file.
    Denied,
    /// The row moved under the caller.
    Conflict,
    /// The file is damaged, foreign, newer, or of another store.
    Refused,
    /// A mistake of the program.
    Bug,
}

impl Error {
    /// Which kind it is.
    pub fn kind(&self) -> Kind {
        use rusqlite::ErrorCode;
        match self {
            // The shared index could not grow: SQLite calls a full disk an I/O error here.
            Error::Sqlite { source: rusqlite::Error::SqliteFailure(failure, _), .. }
                if failure.extended_code == rusqlite::ffi::SQLITE_IOERR_SHMSIZE =>
            {
                Kind::NoSpace
            }
            Error::Sqlite { source, .. } => match source.sqlite_error_code() {
                Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Kind::Busy,
                Some(ErrorCode::DiskFull) => Kind::NoSpace,
                Some(ErrorCode::SystemIoFailure | ErrorCode::OutOfMemory) => Kind::Io,
                Some(ErrorCode::CannotOpen) => Kind::Io,
                Some(ErrorCode::PermissionDenied | ErrorCode::ReadOnly) => Kind::Denied,
                Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Kind::Refused,
                Some(_) | None => Kind::Bug,
            },
            Error::File { source, .. } => match source.kind() {
                std::io::ErrorKind::PermissionDenied => Kind::Denied,
                std::io::ErrorKind::StorageFull => Kind::NoSpace,
                _ => Kind::Io,
            },
            Error::Foreign { .. } | Error::Newer { .. } | Error::OtherStore { .. } => Kind::Refused,
            Error::Empty { .. } => Kind::Refused,
            Error::Older { .. } | Error::InTheWay { .. } | Error::NotFacts { .. } => Kind::Refused,
            Error::Corrupt { .. } => Kind::Refused,
            Error::Conflict { .. } => Kind::Conflict,
            Error::NoEdge { .. } => Kind::Bug,
            Error::NoRoom { .. } => Kind::NoSpace,
            Error::IdsExhausted => Kind::Refused,
        }
    }

    pub(crate) fn sqlite(doing: &'static str) -> impl FnOnce(rusqlite::Error) -> Error {
        move |source| Error::Sqlite { doing, source }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Sqlite { doing, source } => write!(f, "registry: cannot {doing}: {source}"),
            Error::File { path, source } => {
                write!(f, "registry file {}: {source}", path.display())
            }
            Error::Foreign { path, found } => write!(
                f,
                "{} is an SQLite file of another program (application id {found:#x}); \
                 name another --state directory",
                path.display()
            ),
            Error::Newer { path, found, known } => write!(
                f,
                "{} has schema {found}, this program knows up to {known}; \
                 use the newer veneer that wrote it",
                path.display()
            ),
            Error::Older { path, found, known } => write!(
                f,
                "{} has schema {found}, this program reads {known}; any `orchestrate` command \
                 migrates it",
                path.display()
            ),
            Error::Empty { path } => write!(
                f,
                "{} is empty: a registry that was cut off; restore a backup, or `orchestrate rebuild` \
                 makes one of what the store has",
                path.display()
            ),
            Error::InTheWay { path } => {
                write!(f, "{} exists already; name another file, or move it away", path.display())
            }
            Error::NotFacts { subject, why } => {
                write!(f, "no registry can be made of these facts: {subject}: {why}")
            }
            Error::OtherStore { bound, offered } => write!(
                f,
                "this registry belongs to store {:?}, not to {:?}; name that store, \
                 or another --state directory for this one",
                beginning(bound),
                beginning(offered)
            ),
            Error::Conflict { subject, expected, found: Some(found) } => {
                write!(f, "{subject} is {found}, expected {expected}: another process changed it")
            }
            Error::Conflict { subject, expected, found: None } => {
                write!(f, "{subject} is gone, expected {expected}: another process removed it")
            }
            Error::NoEdge { subject, from, to } => {
                write!(f, "{subject} cannot go from {from} to {to}")
            }
            Error::Corrupt { subject, what } => write!(
                f,
                "registry row of {subject} is damaged: {what}; run `registry check` and restore \
                 a backup"
            ),
            Error::NoRoom { path } => write!(
                f,
                "registry file {}: there is no room beside it for a change; make some, and try again",
                path.display()
            ),
            Error::IdsExhausted => write!(f, "all 16777215 thin ids of this pool are used up"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Sqlite { source, .. } => Some(source),
            Error::File { source, .. } => Some(source),
            Error::Foreign { .. }
            | Error::Newer { .. }
            | Error::Older { .. }
            | Error::Empty { .. }
            | Error::InTheWay { .. }
            | Error::NotFacts { .. }
            | Error::OtherStore { .. }
            | Error::Conflict { .. }
            | Error::NoEdge { .. }
            | Error::Corrupt { .. }
            | Error::NoRoom { .. }
            | Error::IdsExhausted => None,
        }
    }
}
