//! The database's file: who may read it, and how long it is waited for.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use crate::error::Error;

/// How long a call waits for another process's transaction.
pub(crate) const BUSY: Duration = Duration::from_secs(10);

/// SQLite takes an empty file for a new one, and writes to it by turning on the log.
pub(crate) fn not_empty(path: &Path) -> Result<(), Error> {
    let found =
        std::fs::metadata(path).map_err(|source| Error::File { path: path.into(), source })?;
    match found.len() {
        0 => Err(Error::Empty { path: path.into() }),
        _ => Ok(()),
    }
}

/// Makes the file 0600 before SQLite does it with the umask, and has the system say what is wrong
/// with a place that cannot be written to.
///
/// One that is there is opened only by the first of a process: closing it again would drop every lock
/// that another connection of this process has on it (sqlite.org/howtocorrupt.html, 2.2).
pub(crate) fn private(path: &Path) -> Result<(), Error> {
    use std::os::unix::fs::OpenOptionsExt;
    static SEEN: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut options = std::fs::OpenOptions::new();
    options.write(true).mode(0o600);
    let opened = match seen.contains(path) {
        true => options.create_new(true).open(path),
        false => options.create(true).truncate(false).open(path),
    };
    match opened {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(source) => return Err(Error::File { path: path.into(), source }),
    }
    seen.insert(path.into());
    Ok(())
}

/// A file without a log or a lock beside it: it is looked at as it stands.
pub(crate) fn immutable(file: &Path) -> rusqlite::Result<Connection> {
    let encoded: String = file
        .as_os_str()
        .as_encoded_bytes()
        .iter()
        .map(|byte| match byte {
            b'/' | b'.' | b'-' | b'_' => char::from(*byte).to_string(),
            byte if byte.is_ascii_alphanumeric() => char::from(*byte).to_string(),
            byte => format!("%{byte:02x}"),
        })
        .collect();
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    Connection::open_with_flags(format!("file:{encoded}?immutable=1"), flags)
}
