//! Whole copies of a registry: a backup that is consistent while others write, and an export as text.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Map, Value, json};

use crate::{Error, Registry};

/// The tables of an export, in the order in which their rows refer to each other.
const TABLES: &[&str] = &[
    "meta",
    "blobs",
    "sources",
    "volumes",
    "images",
    "image_layers",
    "activations",
    "attempts",
    "runs",
    "quarantine",
    "counters",
    "scans",
    "findings",
    "catalogs",
    "events",
];

impl Registry {
    /// Writes a copy of the registry to `path`: of one moment, whole or not at all, 0600.
    ///
    /// # Errors
    /// [`Error::InTheWay`] when there is a file already; [`Error::Sqlite`] and [`Error::File`].
    pub fn backup(&self, path: &Path) -> Result<(), Error> {
        if fs::symlink_metadata(path).is_ok() {
            return Err(Error::InTheWay { path: path.into() });
        }
        self.copy_to(path)
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
        crate::schema::private(&new)?;
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
                    .and_then(|()| match path.parent().filter(|p| !p.as_os_str().is_empty()) {
                        Some(parent) => File::open(parent)?.sync_all(),
                        None => File::open(".")?.sync_all(),
                    })
                    .map_err(fail)
            })
            .inspect_err(|_| {
                // Half a copy helps nobody; the error is the news.
                drop(fs::remove_file(&new));
            })
    }

    /// Calls `each` with every row of every table, as `{"table": .., column: value, ..}`.
    ///
    /// # Errors
    /// Those of reading; and what `each` returns.
    pub fn export(&self, mut each: impl FnMut(Value) -> Result<(), Error>) -> Result<(), Error> {
        for table in TABLES {
            let sql = format!("SELECT * FROM {table}");
            let mut statement = self.conn.prepare(&sql).map_err(Error::sqlite("read rows"))?;
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

fn column_value(value: rusqlite::types::ValueRef<'_>) -> Value {
    use rusqlite::types::ValueRef;
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => json!(number),
        ValueRef::Real(number) => json!(number),
        ValueRef::Text(text) | ValueRef::Blob(text) => json!(String::from_utf8_lossy(text)),
    }
}
