//! Copies of a registry page by page, as it stands and whatever is in the pages: into another file, and
//! into the file of a registry that others have open.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};

use crate::error::Error;
use crate::file::place::{BUSY, private};
use crate::file::schema::Registry;

/// Pages of one step of a copy: all, so that no writer comes in between.
const ALL: i32 = -1;

impl Registry {
    /// Opens the file that is there for what is done with it as a whole: nothing in it is migrated, and
    /// little of it need be sound.
    ///
    /// # Errors
    /// Those of a file that is no registry of ours.
    pub fn open_whole(path: &Path) -> Result<Registry, Error> {
        crate::file::place::not_empty(path)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        Registry::connect(path, flags)
    }

    /// Copies the file, with what is in its log, to `path`, which must not exist.
    ///
    /// # Errors
    /// [`Error::InTheWay`], [`Error::Sqlite`]; then nothing is left there.
    pub fn copy_pages_to(&self, path: &Path) -> Result<(), Error> {
        if std::fs::symlink_metadata(path).is_ok() {
            return Err(Error::InTheWay { path: path.into() });
        }
        private(path)?;
        let copied = Connection::open(path)
            .map_err(Error::sqlite("make a copy"))
            .and_then(|mut to| copy(&self.conn, &mut to));
        copied.inspect_err(|_| {
            // Half a copy helps nobody; the error is the news.
            drop(std::fs::remove_file(path));
        })
    }

    /// Puts all that is in `new` in the place of all that is in this file, in one transaction: whoever has it
    /// open goes on with what is there now, and a kill leaves the one or the other.
    ///
    /// # Errors
    /// [`Error::Sqlite`]: then nothing was changed.
    pub fn become_as(&mut self, new: &Registry) -> Result<(), Error> {
        copy(&new.conn, &mut self.conn)
    }
}

pub(crate) fn copy(from: &Connection, to: &mut Connection) -> Result<(), Error> {
    to.busy_timeout(BUSY).map_err(Error::sqlite("copy the registry"))?;
    let deadline = Instant::now() + BUSY;
    let backup = Backup::new(from, to).map_err(Error::sqlite("copy the registry"))?;
    loop {
        match backup.step(ALL).map_err(Error::sqlite("copy the registry"))? {
            StepResult::Done => return Ok(()),
            StepResult::Busy | StepResult::Locked if Instant::now() >= deadline => {
                return Err(Error::Sqlite {
                    doing: "copy the registry",
                    source: rusqlite::Error::SqliteFailure(
                        rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY),
                        None,
                    ),
                });
            }
            _ => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}
