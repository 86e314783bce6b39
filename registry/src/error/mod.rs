//! What can go wrong with the registry, and of which kind it is.

pub(crate) mod quote;

use std::path::PathBuf;

use crate::error::quote::beginning;

/// A failed registry call. Each variant keeps its data and its source.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// SQLite refused or failed.
    #[error("registry: cannot {doing}: {source}")]
    Sqlite {
        /// What was being done.
        doing: &'static str,
        /// SQLite's own error.
        source: rusqlite::Error,
    },
    /// The database file cannot be reached.
    #[error("registry file {}: {source}", .path.display())]
    File {
        /// The path of the database.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The file is an SQLite database of another program.
    #[error(
        "{} is an SQLite file of another program (application id {found:#x}); \
         name another --state directory",
        .path.display()
    )]
    Foreign {
        /// The path of the database.
        path: PathBuf,
        /// Its application id.
        found: i64,
    },
    /// The file was written by a newer veneer.
    #[error(
        "{} has schema {found}, this program knows up to {known}; use the newer veneer that wrote it",
        .path.display()
    )]
    Newer {
        /// The path of the database.
        path: PathBuf,
        /// Its schema version.
        found: i64,
        /// The newest this program knows.
        known: i64,
    },
    /// The file was written by an older veneer, and looking at it may not migrate it.
    #[error(
        "{} has schema {found}, this program reads {known}; any `orchestrate` command migrates it",
        .path.display()
    )]
    Older {
        /// The path of the database.
        path: PathBuf,
        /// Its schema version.
        found: i64,
        /// The one this program reads.
        known: i64,
    },
    /// The file is there, and nothing is in it.
    #[error(
        "{} is empty: the registry was cut short; restore a backup, or run `orchestrate \
         rebuild`, which makes a registry from the store",
        .path.display()
    )]
    Empty {
        /// The path of the database.
        path: PathBuf,
    },
    /// A file that must not be there is.
    #[error("{} exists already; name another file, or move it away", .path.display())]
    InTheWay {
        /// Its path.
        path: PathBuf,
    },
    /// Facts that a registry cannot be made of.
    #[error("no registry can be made of these facts: {subject}: {why}")]
    NotFacts {
        /// About which volume, activation or image.
        subject: String,
        /// What is wrong.
        why: String,
    },
    /// The registry belongs to another store.
    #[error(
        "this registry belongs to store {:?}, not to {:?}; name that store, \
         or another --state directory for this one",
        beginning(.bound),
        beginning(.offered)
    )]
    OtherStore {
        /// The store it is bound to.
        bound: String,
        /// The store that was offered.
        offered: String,
    },
    /// A row is not in the state that the change starts from.
    #[error("{subject} is {}", conflict(.expected, .found.as_deref()))]
    Conflict {
        /// Which row.
        subject: String,
        /// The state it had to be in.
        expected: &'static str,
        /// The state it is in; none when there is no such row.
        found: Option<String>,
    },
    /// The state machine has no such edge.
    #[error("{subject} cannot go from {from} to {to}")]
    NoEdge {
        /// Which row.
        subject: String,
        /// From which state.
        from: &'static str,
        /// To which state.
        to: &'static str,
    },
    /// A row does not decode.
    #[error(
        "registry row of {subject} is damaged: {what}; run `registry check` and restore a backup"
    )]
    Corrupt {
        /// Which row.
        subject: String,
        /// Which column, and what it held.
        what: String,
    },
    /// There is no room to write: the registry is only looked at, as its file stands.
    #[error(
        "registry file {}: there is no room beside it for a change; make some, and try again",
        .path.display()
    )]
    NoRoom {
        /// The path of the database.
        path: PathBuf,
    },
    /// All thin ids are used up (24 bits, kernel's thin-provisioning.rst).
    #[error("all 16777215 thin ids of this pool are used up")]
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

/// What a row is in place of the state that it had to be in.
fn conflict(expected: &str, found: Option<&str>) -> String {
    match found {
        Some(found) => format!("{found}, expected {expected}: another process changed it"),
        None => format!("gone, expected {expected}: another process removed it"),
    }
}
