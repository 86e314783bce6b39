//! What a rebuilt registry takes over from the one that was there: all that the store cannot say. What
//! was asked for and what came of it, what was refused, seen, scanned and counted, and each image's own
//! names of the layers that it shares.

use rusqlite::types::Value;

use crate::error::Error;
use crate::file::schema::Registry;
use crate::write::Write;

/// Tables whose rows follow from the store, or from builds that are over. All others are taken over, those
/// of later schemas too.
const FOLLOWS: &[&str] = &["meta", "volumes", "images", "image_layers", "activations", "attempts"];

/// Rows of one table, with the names of its columns.
struct Rows {
    table: String,
    columns: Vec<String>,
    rows: Vec<Vec<Value>>,
}

/// What was read of an older registry.
pub(crate) struct Memory {
    tables: Vec<Rows>,
    /// What could not be read.
    lost: Vec<String>,
}

impl Memory {
    /// Reads all that is to be taken over. A table that is damaged is left out, and named.
    pub(crate) fn of(old: &Registry) -> Memory {
        let mut memory = Memory { tables: Vec::new(), lost: Vec::new() };
        // In the order in which they were made: a row refers to those of earlier tables.
        let names = old.all(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT GLOB 'sqlite_*'
             ORDER BY rowid",
            [],
            |row| crate::rows::get::<String>(row, 0, "schema"),
        );
        let Ok(names) = names else {
            memory.lost.push("all of the registry that was there".into());
            return memory;
        };
        let names = names.into_iter().filter(|name| !FOLLOWS.contains(&name.as_str()));
        for table in names.chain(["sqlite_sequence".into()]) {
            match rows(old, &format!("SELECT * FROM \"{table}\"")) {
                Ok((columns, rows)) => memory.tables.push(Rows { table, columns, rows }),
                Err(error) => memory.lost.push(format!("{table}: {error}")),
            }
        }
        // Those of an older schema have neither configs nor devices.
        let has_configs = memory.table("configs").is_some();
        let has_labels = memory.table("labels").is_some();
        for (table, sql) in [
            ("image layers", "SELECT reference, pos, digest, key, etag FROM image_layers"),
            ("images", "SELECT reference, chain, used, created_ms FROM images"),
            (
                "configs",
                "SELECT reference, chain, found, manifest, config, platform FROM images
                 WHERE manifest IS NOT NULL OR config IS NOT NULL",
            ),
            (
                "configs of activations",
                "SELECT name, id, manifest, config FROM activations
                 WHERE manifest IS NOT NULL OR config IS NOT NULL",
            ),
            (
                "devices of activations",
                "SELECT name, id, device_uid, device_gid, device_mode, node, node_dev FROM activations
                 WHERE device_uid IS NOT NULL OR device_mode IS NOT NULL OR node IS NOT NULL",
            ),
            (
                "terms of activations",
                "SELECT name, id, ttl_s, ttl_from_ms, read_only, former FROM activations
                 WHERE ttl_s IS NOT NULL OR read_only OR former IS NOT NULL",
            ),
        ] {
            if table.starts_with("terms") && !has_labels {
                continue;
            }
            if (table.starts_with("configs") || table.starts_with("devices")) && !has_configs {
                continue;
            }
            match rows(old, sql) {
                Ok((columns, rows)) => {
                    memory.tables.push(Rows { table: format!(".{table}"), columns, rows });
                }
                Err(error) => memory.lost.push(format!("{table}: {error}")),
            }
        }
        memory
    }

    fn table(&self, name: &str) -> Option<&Rows> {
        self.tables.iter().find(|rows| rows.table == name)
    }
}

fn rows(old: &Registry, sql: &str) -> Result<(Vec<String>, Vec<Vec<Value>>), Error> {
    let read = || -> rusqlite::Result<_> {
        let mut statement = old.conn.prepare(sql)?;
        let columns: Vec<String> = statement.column_names().map(str::to_owned).collect();
        let width = columns.len();
        let rows = statement
            .query_map([], |row| (0..width).map(|column| row.get(column)).collect())?
            .collect::<rusqlite::Result<Vec<Vec<Value>>>>()?;
        Ok((columns, rows))
    };
    read().map_err(Error::sqlite("read rows"))
}

impl Write<'_> {
    /// Before anything else is written: the history, and the numbers that were given, so that none is
    /// given again.
    pub(crate) fn take_over_history(&self, memory: &Memory) -> Result<(), Error> {
        if let Some(events) = memory.table("events") {
            self.take_over_rows(events, "INSERT OR REPLACE")?;
        }
        for row in memory.table("sqlite_sequence").iter().flat_map(|rows| &rows.rows) {
            let [name, seq, ..] = row.as_slice() else { continue };
            self.run(
                "INSERT INTO sqlite_sequence(name, seq) SELECT ?1, 0
                 WHERE EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?1)
                   AND NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = ?1)",
                [name],
            )?;
            self.run("UPDATE sqlite_sequence SET seq = max(seq, ?2) WHERE name = ?1", (name, seq))?;
        }
        Ok(())
    }

    /// After the facts of the store are written. Returns what could not be taken over.
    pub(crate) fn take_over_memory(&self, memory: &Memory) -> Result<Vec<String>, Error> {
        let mut lost = memory.lost.clone();
        let of_old = |rows: &&Rows| {
            !rows.table.starts_with('.')
                && !["events", "sqlite_sequence", "counters"].contains(&rows.table.as_str())
        };
        for rows in memory.tables.iter().filter(of_old) {
            lost.extend(self.take_over_rows(rows, "INSERT OR IGNORE")?);
        }
        // Last: triggers have counted what was just put.
        if let Some(counters) = memory.table("counters") {
            lost.extend(self.take_over_rows(counters, "INSERT OR REPLACE")?);
        }
        for row in memory.table(".image layers").iter().flat_map(|rows| &rows.rows) {
            let [reference, pos, digest, key, etag] = row.as_slice() else { continue };
            self.run(
                "UPDATE image_layers SET key = ?4, etag = ?5
                 WHERE reference = ?1 AND pos = ?2 AND digest = ?3",
                [reference, pos, digest, key, etag],
            )?;
        }
        for row in memory.table(".images").iter().flat_map(|rows| &rows.rows) {
            let [reference, chain, used, created] = row.as_slice() else { continue };
            self.run(
                "UPDATE images SET used = ?3, created_ms = ?4 WHERE reference = ?1 AND chain = ?2",
                [reference, chain, used, created],
            )?;
        }
        for row in memory.table(".configs").iter().flat_map(|rows| &rows.rows) {
            let [reference, chain, found, manifest, config, platform] = row.as_slice() else {
                continue;
            };
            self.run(
                "UPDATE images SET found = ?3, manifest = ?4, config = ?5, platform = ?6
                 WHERE reference = ?1 AND chain = ?2",
                [reference, chain, found, manifest, config, platform],
            )?;
        }
        for row in memory.table(".configs of activations").iter().flat_map(|rows| &rows.rows) {
            let [name, id, manifest, config] = row.as_slice() else { continue };
            self.run(
                "UPDATE activations SET manifest = ?3, config = ?4 WHERE name = ?1 AND id = ?2",
                [name, id, manifest, config],
            )?;
        }
        let devices = memory.table(".devices of activations");
        for row in devices.iter().flat_map(|rows| &rows.rows) {
            let [name, id, uid, gid, mode, node, node_dev] = row.as_slice() else { continue };
            self.run(
                "UPDATE activations SET device_uid = ?3, device_gid = ?4, device_mode = ?5, node = ?6,
                   node_dev = ?7 WHERE name = ?1 AND id = ?2",
                [name, id, uid, gid, mode, node, node_dev],
            )?;
        }
        for row in memory.table(".terms of activations").iter().flat_map(|rows| &rows.rows) {
            let [name, id, ttl, from, read_only, former] = row.as_slice() else { continue };
            self.run(
                "UPDATE activations SET ttl_s = ?3, ttl_from_ms = ?4, read_only = ?5, former = ?6
                 WHERE name = ?1 AND id = ?2",
                [name, id, ttl, from, read_only, former],
            )?;
        }
        Ok(lost)
    }

    /// Puts the rows that this schema takes, by the names of their columns. Returns what it does not.
    fn take_over_rows(&self, of: &Rows, verb: &str) -> Result<Option<String>, Error> {
        let known: String = self
            .ask(
                "SELECT ifnull(group_concat(name, char(10)), '') FROM pragma_table_info(?1)",
                [&of.table],
            )?
            .unwrap_or_default();
        let known: Vec<&str> = known.lines().collect();
        let common: Vec<usize> = (0..of.columns.len())
            .filter(|column| known.contains(&of.columns[*column].as_str()))
            .collect();
        if common.is_empty() {
            return Ok(None);
        }
        let names: Vec<&str> = common.iter().map(|column| of.columns[*column].as_str()).collect();
        let places = vec!["?"; common.len()].join(", ");
        let sql = format!("{verb} INTO \"{}\"({}) VALUES ({places})", of.table, names.join(", "));
        let mut refused = (0_usize, String::new());
        let mut statement = self.tx.prepare(&sql).map_err(Error::sqlite("write a row"))?;
        for row in &of.rows {
            let values = common.iter().map(|column| &row[*column]);
            match statement.execute(rusqlite::params_from_iter(values)) {
                Ok(_) => {}
                // A row that the tables do not take says nothing that could be relied on.
                Err(error)
                    if error.sqlite_error_code()
                        == Some(rusqlite::ErrorCode::ConstraintViolation) =>
                {
                    refused = (refused.0 + 1, error.to_string());
                }
                Err(error) => return Err(Error::sqlite("write a row")(error)),
            }
        }
        let (count, why) = refused;
        Ok((count > 0).then(|| format!("{}: {count} rows: {why}", of.table)))
    }
}
