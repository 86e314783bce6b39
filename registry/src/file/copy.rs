//! Whole copies of a registry: a backup that is consistent while others write, and an export as text.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rusqlite::{Connection, OpenFlags};
use serde_json::{Map, Value, json};

use crate::error::Error;
use crate::file::place::immutable;
use crate::file::schema::{APPLICATION_ID, Registry};
use crate::rows::StoreBinding;

/// The tables of an export, in the order in which their rows refer to each other.
const TABLES: &[&str] = &[
    "meta",
    "blobs",
    "sources",
    "volumes",
    "configs",
    "signatures",
    "images",
    "image_layers",
    "activations",
    "labels",
    "points",
    "arrivals",
    "attempts",
    "runs",
    "webhooks",
    "quarantine",
    "refused_sources",
    "etag_doubts",
    "counters",
    "scans",
    "findings",
    "catalogs",
    "clock",
    "catalog_images",
    "serial_volume",
    "events",
];

impl Registry {
    /// Writes a copy of the registry to `path`: of one moment, whole or not at all, 0600. A backup of the
    /// same store that is there becomes `path.1`, the one before `path.2`, and so on up to `keep`; the
    /// oldest goes. Gives where the last one is now.
    ///
    /// # Errors
    /// [`Error::InTheWay`] for a file that is no such backup: then nothing is changed; [`Error::Sqlite`]
    /// and [`Error::File`].
    pub fn backup(&self, path: &Path, keep: u32) -> Result<Option<PathBuf>, Error> {
        if fs::symlink_metadata(path).is_err() {
            return self.copy_to(path).map(|()| None);
        }
        let older = |number: u32| match number {
            0 => path.to_owned(),
            number => with_suffix(path, &format!(".{number}")),
        };
        let new = with_suffix(path, ".incoming");
        for file in (0..=keep).map(older).chain([new.clone()]) {
            if fs::symlink_metadata(&file).is_ok() && !self.is_backup(&file) {
                return Err(Error::InTheWay { path: file });
            }
        }
        // Whole before any other moves: a disk that is full costs no older one.
        self.copy_to(&new)?;
        let fail = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::File { path, source }
        };
        for number in (0..keep).rev() {
            let (from, to) = (older(number), older(number + 1));
            if from.exists() {
                fs::rename(&from, &to).map_err(fail(&to))?;
            }
        }
        fs::rename(&new, path).and_then(|()| sync_parent(path)).map_err(fail(path))?;
        Ok((keep > 0).then(|| older(1)))
    }

    /// Whether a file is a whole registry of the same store, and not this very one.
    fn is_backup(&self, file: &Path) -> bool {
        use std::os::unix::fs::MetadataExt as _;
        let inode = |path: &Path| fs::metadata(path).map(|found| (found.dev(), found.ino())).ok();
        if !fs::symlink_metadata(file).is_ok_and(|found| found.is_file())
            || inode(file) == inode(self.path())
        {
            return false;
        }
        let found = || -> rusqlite::Result<(i64, Option<String>, Option<String>)> {
            let conn = immutable(file)?;
            let application = conn.pragma_query_value(None, "application_id", |row| row.get(0))?;
            let (kind, id) =
                conn.query_row("SELECT store_kind, store_id FROM meta", [], |row| {
                    Ok((row.get(0)?, row.get(1)?))
                })?;
            Ok((application, kind, id))
        };
        let Ok((application, kind, id)) = found() else { return false };
        let store = kind.zip(id).map(|(kind, id)| StoreBinding { kind, id });
        application == APPLICATION_ID
            && self.store().is_ok_and(|own| store.is_none() || store == own)
    }

    /// As [`Registry::open_existing`]; one of an older schema is copied into memory and migrated there.
    ///
    /// # Errors
    /// Those of opening, and of a copy.
    pub fn open_to_read(path: &Path) -> Result<Registry, Error> {
        match Registry::open_existing(path) {
            Err(Error::Older { found, .. }) if found > 0 => {}
            opened => return opened,
        }
        static COPIES: AtomicU32 = AtomicU32::new(0);
        let number = COPIES.fetch_add(1, Ordering::Relaxed);
        // Shared, so that the copy is seen by who holds it open and outlives who made it.
        let name = format!("file:veneer-older-{number}?mode=memory&cache=shared");
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_URI
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let copy = Connection::open_with_flags(&name, flags | OpenFlags::SQLITE_OPEN_CREATE)
            .map_err(Error::sqlite("open a copy in memory"))?;
        let older = Registry::connect(path, flags)?;
        older
            .conn
            .execute("VACUUM INTO ?1", [&name])
            .map_err(Error::sqlite("copy the registry into memory"))?;
        let mut copy = Registry::of(copy, path, false);
        copy.migrate()?;
        Ok(copy)
    }

    /// `VACUUM INTO` a neighbour, sync, rename: never a `cp` of a live WAL database.
    pub(crate) fn copy_to(&self, path: &Path) -> Result<(), Error> {
        let fail = |source| Error::File { path: path.into(), source };
        let mut new = path.as_os_str().to_owned();
        // Several copies may be on their way, also from one process.
        static COPIES: AtomicU32 = AtomicU32::new(0);
        let number = COPIES.fetch_add(1, Ordering::Relaxed);
        new.push(format!(".{}-{number}.new", std::process::id()));
        let new = PathBuf::from(new);
        // A dead process of the same number may have left half a one.
        drop(fs::remove_file(&new));
        crate::file::place::private(&new)?;
        let text = new.to_string_lossy();
        // A connection that may only look may not write another file either; ours is not written to.
        let looks: bool = self
            .conn
            .pragma_query_value(None, "query_only", |row| row.get(0))
            .map_err(Error::sqlite("copy the registry"))?;
        let only_look = |only: bool| self.conn.pragma_update(None, "query_only", only && looks);
        let copied =
            only_look(false).and_then(|()| self.conn.execute("VACUUM INTO ?1", [text.as_ref()]));
        only_look(true)
            .and(copied)
            .map_err(Error::sqlite("copy the registry"))
            .and_then(|_| {
                File::open(&new)
                    .and_then(|file| file.sync_all())
                    .and_then(|()| fs::rename(&new, path))
                    .and_then(|()| sync_parent(path))
                    .map_err(fail)
            })
            .inspect_err(|_| {
                // Half a copy helps nobody; the error is the news.
                drop(fs::remove_file(&new));
            })
    }

    /// Calls `each` with every row of every table, as `{"table": .., column: value, ..}`, all of one moment.
    /// They are copied out first: whoever reads on may take hours, and as long as a reader is in the file
    /// its log only grows.
    ///
    /// # Errors
    /// Those of reading; and what `each` returns.
    pub fn export(&self, mut each: impl FnMut(Value) -> Result<(), Error>) -> Result<(), Error> {
        // Without a name it is a file of SQLite's own, which goes with its connection.
        let mut copy = Connection::open("").map_err(Error::sqlite("copy the registry"))?;
        crate::file::pages::copy(&self.conn, &mut copy)?;
        for table in TABLES {
            let sql = format!("SELECT * FROM {table}");
            let mut statement = copy.prepare(&sql).map_err(Error::sqlite("read rows"))?;
            let names: Vec<String> = statement.column_names().map(str::to_owned).collect();
            let mut rows = statement.query([]).map_err(Error::sqlite("read rows"))?;
            while let Some(row) = rows.next().map_err(Error::sqlite("read rows"))? {
                let mut line = Map::from_iter([("table".to_owned(), json!(table))]);
                // A secret is for the file, not for a terminal.
                for (column, name) in names.iter().enumerate().filter(|(_, n)| *n != "seal_key") {
                    let value = row.get_ref(column).map_err(Error::sqlite("read a column"))?;
                    line.insert(name.clone(), column_value(value));
                }
                each(Value::Object(line))?;
            }
        }
        Ok(())
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// So that a rename is there after a power cut.
fn sync_parent(path: &Path) -> std::io::Result<()> {
    match path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => File::open(parent)?.sync_all(),
        None => File::open(".")?.sync_all(),
    }
}

fn column_value(value: rusqlite::types::ValueRef<'_>) -> Value {
    use rusqlite::types::ValueRef;
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => json!(number),
        ValueRef::Real(number) => json!(number),
        ValueRef::Text(text) | ValueRef::Blob(text) => json!(String::from_utf8_lossy(text)),
    }
}
