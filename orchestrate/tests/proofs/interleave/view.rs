//! What can be seen of a host at one moment, without changing it: names, images, runs, and how far registry
//! and store have counted.

use std::collections::BTreeMap;
use std::fs;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use crate::bench::Host;

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Name {
    Absent,
    /// Of this image and size, and whether it is up.
    There {
        image: String,
        bytes: u64,
        up: bool,
    },
}

/// A run's row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) verb: String,
    pub(crate) subject: String,
    pub(crate) state: String,
    pub(crate) message: String,
    pub(crate) priority: i64,
    /// The image and size that it was asked for.
    pub(crate) asked: (Option<String>, Option<u64>),
}

impl Row {
    pub(crate) fn is_over(&self) -> bool {
        !["queued", "running"].contains(&self.state.as_str())
    }
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct View {
    /// By name; those that are told to no client, half made or half gone, are not among them.
    pub(crate) names: BTreeMap<String, Name>,
    /// Chain and whether it is pinned, by reference.
    pub(crate) images: BTreeMap<String, (String, bool)>,
    pub(crate) runs: BTreeMap<u64, Row>,
    /// The registry's number and the store's.
    pub(crate) numbers: (u64, u64),
}

impl View {
    /// None while there is no registry, or it is being made.
    pub(crate) fn of(host: &Host<'_>) -> Option<View> {
        let number = || fs::read_to_string(host.store().join("transaction")).ok();
        loop {
            let store = number()?;
            let view = View::at(host, store.trim().parse().ok()?)?;
            // What nobody schedules, as the daemon's own upkeep, may commit between two reads: both numbers are
            // of one moment only where the store's has not moved meanwhile.
            if number()? == store {
                return Some(view);
            }
        }
    }

    fn at(host: &Host<'_>, store: u64) -> Option<View> {
        let path = host.state().join("registry.db");
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut conn = Connection::open_with_flags(path, flags).ok()?;
        // Who closes last would copy the log into the file and remove it.
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).ok()?;
        conn.busy_timeout(std::time::Duration::from_secs(10)).ok()?;
        View::read(&mut conn, store).ok()
    }

    fn read(conn: &mut Connection, store: u64) -> rusqlite::Result<View> {
        let conn = conn.transaction()?;
        let registry = conn.query_row("SELECT transaction_id FROM meta", [], |row| row.get(0))?;
        let mut view = View { numbers: (registry, store), ..View::default() };
        let mut names = conn.prepare("SELECT name, reference, bytes, state FROM activations")?;
        let mut rows = names.query([])?;
        while let Some(row) = rows.next()? {
            let (name, image, bytes): (String, String, u64) =
                (row.get(0)?, row.get(1)?, row.get(2)?);
            let state: String = row.get(3)?;
            let there = match state.as_str() {
                "active" => Name::There { image, bytes, up: true },
                "inactive" => Name::There { image, bytes, up: false },
                _ => continue,
            };
            view.names.insert(name, there);
        }
        let mut images = conn.prepare("SELECT reference, chain, pinned FROM images")?;
        let mut rows = images.query([])?;
        while let Some(row) = rows.next()? {
            view.images.insert(row.get(0)?, (row.get(1)?, row.get(2)?));
        }
        let sql = "SELECT id, verb, subject, state, ifnull(message, ''), priority,
                   json_extract(input, '$.image'), json_extract(input, '$.bytes') FROM runs";
        let mut runs = conn.prepare(sql)?;
        let mut rows = runs.query([])?;
        while let Some(row) = rows.next()? {
            let [verb, subject, state, message] =
                [row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?];
            let (priority, asked) = (row.get(5)?, (row.get(6)?, row.get(7)?));
            let run = Row { verb, subject, state, message, priority, asked };
            view.runs.insert(row.get(0)?, run);
        }
        Ok(view)
    }

    pub(crate) fn name(&self, name: &str) -> Name {
        self.names.get(name).cloned().unwrap_or(Name::Absent)
    }
}
