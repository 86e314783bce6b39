//! Opens the database: connection rules, identity, migrations. No query of the product is here.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use crate::error::Error;
use crate::file::place::{BUSY, not_empty, private};

/// `PRAGMA application_id` of our files: "Vner".
pub const APPLICATION_ID: i64 = 0x566e_6572;

/// `PRAGMA user_version` that this program writes and reads.
pub const SCHEMA_VERSION: i64 = 18;

/// One SQL text per step from version n to n + 1; the first makes an empty file ours.
const MIGRATIONS: &[&str] = &[
    include_str!("../../schema/1.sql"),
    include_str!("../../schema/2.sql"),
    include_str!("../../schema/3.sql"),
    include_str!("../../schema/4.sql"),
    include_str!("../../schema/5.sql"),
    include_str!("../../schema/6.sql"),
    include_str!("../../schema/7.sql"),
    include_str!("../../schema/8.sql"),
    include_str!("../../schema/9.sql"),
    include_str!("../../schema/10.sql"),
    include_str!("../../schema/11.sql"),
    include_str!("../../schema/12.sql"),
    include_str!("../../schema/13.sql"),
    include_str!("../../schema/14.sql"),
    include_str!("../../schema/15.sql"),
    include_str!("../../schema/16.sql"),
    include_str!("../../schema/17.sql"),
    include_str!("../../schema/18.sql"),
];

/// The SQLite in which the WAL-reset corruption bug (3.7.0 to 3.51.2) is gone.
const SQLITE_MIN: i32 = 3_051_003;

/// Bytes of the log that stay on disk when it is begun anew.
const LOG_KEPT: u64 = 4 << 20;

/// Pages of the log after which they are copied into the file: SQLite's own number, and where there is little
/// room.
const LOG_PAGES: u32 = 1000;
const LOG_LITTLE: u32 = 16;

/// Bytes of the log beyond which readers are waited for, for so long and so often.
const LOG_MAX: u64 = 8 << 20;
const LOG_WAIT: Duration = Duration::from_millis(200);
const LOG_AGAIN: Duration = Duration::from_secs(2);

/// An open registry. One process may hold several; SQLite's own locks serialise them.
#[derive(Debug)]
pub struct Registry {
    pub(crate) conn: Connection,
    pub(crate) path: PathBuf,
    /// Whether it is looked at as it stands, and cannot be written to.
    pub(crate) stands: bool,
    /// When the log was last found to be long.
    pub(crate) log_tried: Cell<Option<Instant>>,
    /// Whether it is kept short.
    little: Cell<bool>,
}

impl Registry {
    /// Opens the registry at `path`, makes it when absent, and migrates an older one.
    ///
    /// # Errors
    /// [`Error::Foreign`] and [`Error::Newer`] for files that are not ours to write; never makes a
    /// new file in place of a damaged one.
    pub fn open(path: &Path) -> Result<Registry, Error> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        private(path)?;
        let mut registry = Registry::connect(path, flags)?;
        registry.bring_up()?;
        Ok(registry)
    }

    /// As [`Registry::open`], but one of an older schema is left as it is: who has it open with an older
    /// program would find other tables under its hands. [`Registry::older`] tells, [`Registry::bring_up`]
    /// migrates it.
    ///
    /// # Errors
    /// As [`Registry::open`].
    pub fn open_as_it_is(path: &Path) -> Result<Registry, Error> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        private(path)?;
        let mut registry = Registry::connect(path, flags)?;
        if registry.user_version()? == 0 {
            registry.migrate()?;
        }
        Ok(registry)
    }

    /// The schema of a registry that an older program made; none where it is that of this one.
    pub fn older(&self) -> Result<Option<i64>, Error> {
        Ok(Some(self.user_version()?).filter(|version| *version < SCHEMA_VERSION))
    }

    /// Migrates a registry of an older schema, of which a copy is kept.
    ///
    /// # Errors
    /// [`Error::Sqlite`]; then it is as it was.
    pub fn bring_up(&mut self) -> Result<(), Error> {
        self.keep_older()?;
        self.migrate()
    }

    /// Opens a registry that is there to change it. One of an older schema is none for that: the caller knows
    /// whether an older program is at work on it.
    ///
    /// # Errors
    /// [`Error::File`] when there is none; [`Error::Empty`]; [`Error::Older`].
    pub fn open_there(path: &Path) -> Result<Registry, Error> {
        not_empty(path)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let registry = Registry::connect(path, flags)?;
        match registry.older()? {
            Some(found) => Err(Error::Older { path: path.into(), found, known: SCHEMA_VERSION }),
            None => Ok(registry),
        }
    }

    /// Opens an existing registry to look at it; nothing is made, migrated or written.
    ///
    /// # Errors
    /// [`Error::File`] when there is none; [`Error::Empty`].
    pub fn open_existing(path: &Path) -> Result<Registry, Error> {
        not_empty(path)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let registry = Registry::connect(path, flags)?;
        let found = registry.user_version()?;
        if found < SCHEMA_VERSION {
            return Err(Error::Older { path: path.into(), found, known: SCHEMA_VERSION });
        }
        registry
            .conn
            .pragma_update(None, "query_only", true)
            .map_err(Error::sqlite("make the connection read-only"))?;
        Ok(registry)
    }

    /// Opens a registry to look at it where there is no room for a log: the file as it stands, which is all of
    /// it while nobody has it open and nothing is in a log.
    ///
    /// # Errors
    /// [`Error::NoRoom`] when something is in its log; [`Error::Older`].
    pub fn open_as_it_stands(path: &Path) -> Result<Registry, Error> {
        let mut log = path.to_owned().into_os_string();
        log.push("-wal");
        if std::fs::metadata(log).is_ok_and(|found| found.len() > 0) {
            return Err(Error::NoRoom { path: path.into() });
        }
        not_empty(path)?;
        let conn = crate::file::place::immutable(path).map_err(Error::sqlite("open the file"))?;
        let registry = Registry::of(conn, path, true);
        let (found, version, _) = registry.identity()?;
        match (found == APPLICATION_ID, version) {
            (false, _) => Err(Error::Foreign { path: path.into(), found }),
            (true, SCHEMA_VERSION) => Ok(registry),
            (true, found) => Err(Error::Older { path: path.into(), found, known: SCHEMA_VERSION }),
        }
    }

    /// Whether it is looked at as it stood when it was opened: it is not to be kept for long.
    pub fn stands(&self) -> bool {
        self.stands
    }

    /// Where there is little room, has little of the log stand at a time.
    ///
    /// # Errors
    /// [`Error::Sqlite`].
    pub fn in_room(&self, little: bool) -> Result<(), Error> {
        if self.little.replace(little) == little {
            return Ok(());
        }
        let pages = if little { LOG_LITTLE } else { LOG_PAGES };
        self.conn
            .query_row(&format!("PRAGMA wal_autocheckpoint={pages}"), [], |_| Ok(()))
            .map_err(Error::sqlite("keep the log short"))
    }

    /// Where the database file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn of(conn: Connection, path: &Path, stands: bool) -> Registry {
        let (log_tried, little) = (Cell::new(None), Cell::new(false));
        Registry { conn, path: path.into(), stands, log_tried, little }
    }

    pub(crate) fn connect(path: &Path, flags: OpenFlags) -> Result<Registry, Error> {
        assert!(
            rusqlite::version_number() >= SQLITE_MIN,
            "built with SQLite {}, which can corrupt a WAL file",
            rusqlite::version()
        );
        let conn =
            Connection::open_with_flags(path, flags).map_err(Error::sqlite("open the file"))?;
        let registry = Registry::of(conn, path, false);
        registry.set_rules().map_err(Error::sqlite("read the file"))?;
        let (found, version, empty) = registry.identity()?;
        if found != APPLICATION_ID && !(found == 0 && version == 0 && empty) {
            return Err(Error::Foreign { path: path.into(), found });
        }
        if version > SCHEMA_VERSION {
            return Err(Error::Newer { path: path.into(), found: version, known: SCHEMA_VERSION });
        }
        if empty {
            // While there is nothing in it: room is given back a few pages at a time.
            registry
                .conn
                .pragma_update(None, "auto_vacuum", "INCREMENTAL")
                .map_err(Error::sqlite("have the file give room back"))?;
        }
        registry.set_wal().map_err(Error::sqlite("turn on the write-ahead log"))?;
        Ok(registry)
    }

    /// What each connection needs before anything of the file is trusted.
    fn set_rules(&self) -> rusqlite::Result<()> {
        let conn = &self.conn;
        conn.busy_timeout(BUSY)?;
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
        conn.pragma_update(None, "trusted_schema", false)?;
        conn.pragma_update(None, "cell_size_check", true)?;
        conn.pragma_update(None, "mmap_size", 0)?;
        // A sort needs no file, and no room where there is none.
        conn.pragma_update(None, "temp_store", "MEMORY")?;
        conn.pragma_update(None, "foreign_keys", true)
    }

    /// FULL: our effects are outside the database, so an intent must be on disk before them; in
    /// WAL mode NORMAL may lose the last commits at a power cut (sqlite.org/pragma.html).
    fn set_wal(&self) -> rusqlite::Result<()> {
        // Turning it on needs the file alone, and SQLite does not wait for that by itself.
        let deadline = Instant::now() + BUSY;
        let busy = |error: &rusqlite::Error| {
            error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy)
        };
        loop {
            match self.conn.query_row("PRAGMA journal_mode=WAL", [], |_| Ok(())) {
                Err(error) if busy(&error) && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                set => break set?,
            }
        }
        self.conn.pragma_update(None, "synchronous", "FULL")?;
        // What a burst has made of the log goes when it is begun anew; else it stays as it was once.
        self.conn.query_row(&format!("PRAGMA journal_size_limit={LOG_KEPT}"), [], |_| Ok(()))
    }

    /// Where the log has become long, as while many readers follow upon each other, waits for a moment
    /// without one to begin it anew. Who reads for longer is left alone: the next change tries again.
    pub(crate) fn bound_log(&self) {
        let mut log = self.path.clone().into_os_string();
        log.push("-wal");
        let long = std::fs::metadata(log).is_ok_and(|found| found.len() > LOG_MAX);
        let again = self.log_tried.get().is_none_or(|tried| tried.elapsed() >= LOG_AGAIN);
        if !long || !again {
            return;
        }
        self.log_tried.set(Some(Instant::now()));
        // Nothing fails by it: what is committed is in the log.
        drop(self.conn.busy_timeout(LOG_WAIT));
        drop(self.conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())));
        drop(self.conn.busy_timeout(BUSY));
    }

    /// Brings all of the log into the file. Closing does so, too, and says nothing where it cannot.
    ///
    /// # Errors
    /// [`Error::Sqlite`], as where there is no room in the file system; then the log is still needed.
    pub(crate) fn settle_log(&self) -> Result<(), Error> {
        self.conn
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
            .map_err(Error::sqlite("bring the log into the file"))
    }

    /// Copies a registry of an older schema to `<file>.schema-<n>` before it is migrated, so that
    /// the older program can be gone back to.
    fn keep_older(&self) -> Result<(), Error> {
        let version = self.user_version()?;
        if version == 0 || version >= SCHEMA_VERSION {
            return Ok(());
        }
        let mut copy = self.path.clone().into_os_string();
        copy.push(format!(".schema-{version}"));
        let copy = PathBuf::from(copy);
        match copy.exists() {
            true => Ok(()),
            false => self.copy_to(&copy),
        }
    }

    pub(crate) fn migrate(&mut self) -> Result<(), Error> {
        loop {
            let version = self.user_version()?;
            let Some(step) = usize::try_from(version).ok().and_then(|v| MIGRATIONS.get(v)) else {
                return Ok(());
            };
            let tx = self
                .conn
                .transaction_with_behavior(TransactionBehavior::Immediate)
                .map_err(Error::sqlite("begin a migration"))?;
            // Another process may have done it while this one waited for the lock.
            let now: i64 = tx
                .pragma_query_value(None, "user_version", |row| row.get(0))
                .map_err(Error::sqlite("read the schema version"))?;
            if now == version {
                tx.execute_batch(step)
                    .and_then(|()| tx.pragma_update(None, "application_id", APPLICATION_ID))
                    .and_then(|()| tx.pragma_update(None, "user_version", version + 1))
                    .and_then(|()| tx.commit())
                    .map_err(Error::sqlite("migrate the schema"))?;
            }
        }
    }

    fn user_version(&self) -> Result<i64, Error> {
        self.pragma("user_version")
    }

    /// Application id, schema version, and whether there is nothing: in one statement, since
    /// another process may be making the file ours just now.
    fn identity(&self) -> Result<(i64, i64, bool), Error> {
        const SQL: &str = "SELECT (SELECT application_id FROM pragma_application_id),
            (SELECT user_version FROM pragma_user_version),
            (SELECT count(*) = 0 FROM sqlite_schema)";
        self.conn
            .query_row(SQL, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .map_err(Error::sqlite("read the file's header"))
    }

    fn pragma(&self, name: &str) -> Result<i64, Error> {
        self.conn
            .pragma_query_value(None, name, |row| row.get(0))
            .map_err(Error::sqlite("read the file's header"))
    }
}
