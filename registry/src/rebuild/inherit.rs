//! What a rebuilt registry takes over from the one that was there: all that the store cannot say. What
//! was asked for and what came of it, what was refused, seen, scanned and counted, and each image's own
//! names of the layers that it shares.

use rusqlite::types::Value;

use crate::error::Error;
use crate::file::schema::Registry;
use crate::ids::VolumeId;
use crate::write::Write;

/// Tables whose rows follow from the store, or from builds that are over. All others are taken over, those
/// of later schemas too.
const FOLLOWS: &[&str] = &["meta", "volumes", "images", "image_layers", "activations", "attempts"];

/// Columns of a table of [`FOLLOWS`] that the store cannot say: a row that was there, and is again, has them as
/// they were.
struct Kept {
    table: &'static str,
    /// By which it is the same row.
    keys: &'static [&'static str],
    columns: &'static [&'static str],
}

const KEPT: &[Kept] = &[
    Kept {
        table: "image_layers",
        keys: &["reference", "pos", "digest"],
        columns: &["key", "etag"],
    },
    Kept {
        table: "images",
        keys: &["reference", "chain"],
        columns: &[
            "created_ms",
            "used",
            "found",
            "manifest",
            "config",
            "platform",
            "index_etag",
            "asked",
        ],
    },
    Kept {
        table: "activations",
        keys: &["name", "id"],
        columns: &[
            "created_ms",
            "manifest",
            "config",
            "device_uid",
            "device_gid",
            "device_mode",
            "node",
            "node_dev",
            "asked",
            "ttl_s",
            "ttl_from_ms",
            "read_only",
            "no_journal",
            "former",
            "forked_from",
            "disk_state",
        ],
    },
];

/// Rows of one table, with the names of its columns.
struct Rows {
    table: String,
    columns: Vec<String>,
    rows: Vec<Vec<Value>>,
}

impl Kept {
    /// What an older registry says in them, the keys first; an older schema has not all of the columns.
    fn rows(&self, old: &Registry) -> Result<Option<Rows>, Error> {
        let has = columns(old, self.table)?;
        if !self.keys.iter().all(|key| has.iter().any(|column| column == key)) {
            return Ok(None);
        }
        let there = self.columns.iter().filter(|column| has.iter().any(|has| has == *column));
        let all: Vec<&str> = self.keys.iter().chain(there).copied().collect();
        let sql = format!("SELECT {} FROM {}", all.join(", "), self.table);
        let (columns, rows) = rows(old, &sql)?;
        Ok(Some(Rows { table: self.table.into(), columns, rows }))
    }
}

fn columns(of: &Registry, table: &str) -> Result<Vec<String>, Error> {
    let sql = "SELECT name FROM pragma_table_info(?1)";
    of.all(sql, [table], |row| crate::rows::get(row, 0, "schema"))
}

impl Rows {
    /// Those whose `id` is one of these.
    fn of_ids(&self, ids: &[VolumeId]) -> Rows {
        let column = self.columns.iter().position(|column| column == "id");
        let is_one = |row: &&Vec<Value>| match column.and_then(|column| row.get(column)) {
            Some(Value::Integer(id)) => ids.iter().any(|one| i64::from(one.get()) == *id),
            _ => false,
        };
        let rows = self.rows.iter().filter(is_one).cloned().collect();
        Rows { table: self.table.clone(), columns: self.columns.clone(), rows }
    }
}

/// What was read of an older registry.
pub(crate) struct Memory {
    tables: Vec<Rows>,
    /// Columns of what the store says, too.
    kept: Vec<(&'static Kept, Rows)>,
    /// What could not be read.
    lost: Vec<String>,
}

impl Memory {
    /// Reads all that is to be taken over. A table that is damaged is left out, and named.
    pub(crate) fn of(old: &Registry) -> Memory {
        let mut memory = Memory { tables: Vec::new(), kept: Vec::new(), lost: Vec::new() };
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
        for kept in KEPT {
            match kept.rows(old) {
                Ok(Some(rows)) => memory.kept.push((kept, rows)),
                Ok(None) => {}
                Err(error) => memory.lost.push(format!("{}: {error}", kept.table)),
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
    ///
    /// Of each table in `stand` only the rows with these ids stand.
    pub(crate) fn take_over_memory(
        &self,
        memory: &Memory,
        stand: &[(&str, &[VolumeId])],
    ) -> Result<Vec<String>, Error> {
        let mut lost = memory.lost.clone();
        let of_old = |rows: &&Rows| {
            !["events", "sqlite_sequence", "counters"].contains(&rows.table.as_str())
                && stand.iter().all(|(table, _)| *table != rows.table)
        };
        for rows in memory.tables.iter().filter(of_old) {
            lost.extend(self.take_over_rows(rows, "INSERT OR IGNORE")?);
        }
        for (table, ids) in stand {
            if let Some(rows) = memory.table(table) {
                lost.extend(self.take_over_rows(&rows.of_ids(ids), "INSERT OR IGNORE")?);
            }
        }
        // Last: triggers have counted what was just put.
        if let Some(counters) = memory.table("counters") {
            lost.extend(self.take_over_rows(counters, "INSERT OR REPLACE")?);
        }
        for (kept, rows) in &memory.kept {
            lost.extend(self.take_over_kept(kept, rows)?);
        }
        Ok(lost)
    }

    fn take_over_kept(&self, kept: &Kept, of: &Rows) -> Result<Option<String>, Error> {
        let place = |from: usize, names: &[&str], is: &str, between: &str| {
            let one = |(at, name): (usize, &&str)| format!("{name} {is} ?{}", from + at + 1);
            names.iter().enumerate().map(one).collect::<Vec<_>>().join(between)
        };
        let names: Vec<&str> = of.columns.iter().map(String::as_str).collect();
        let (keys, rest) = names.split_at(kept.keys.len());
        if rest.is_empty() {
            return Ok(None);
        }
        let set = place(keys.len(), rest, "=", ", ");
        let sql = format!("UPDATE {} SET {set} WHERE {}", of.table, place(0, keys, "IS", " AND "));
        self.put_rows(&sql, &of.table, &mut of.rows.iter().map(|row| row.iter().collect()))
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
        let mut rows =
            of.rows.iter().map(|row| common.iter().map(|column| &row[*column]).collect());
        self.put_rows(&sql, &of.table, &mut rows)
    }

    /// Runs `sql` with each of these rows. A row that the tables do not take says nothing that could be relied on:
    /// gives how many those are, and why.
    fn put_rows(
        &self,
        sql: &str,
        table: &str,
        rows: &mut dyn Iterator<Item = Vec<&Value>>,
    ) -> Result<Option<String>, Error> {
        let (mut count, mut why) = (0_usize, String::new());
        let mut statement = self.tx.prepare(sql).map_err(Error::sqlite("write a row"))?;
        for row in rows {
            let done = statement.execute(rusqlite::params_from_iter(row));
            let Err(error) = done else { continue };
            if error.sqlite_error_code() != Some(rusqlite::ErrorCode::ConstraintViolation) {
                return Err(Error::sqlite("write a row")(error));
            }
            (count, why) = (count + 1, error.to_string());
        }
        Ok((count > 0).then(|| format!("{table}: {count} rows: {why}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Columns that follow from the store or from builds that are over, or that a rebuild gives itself.
    const FOLLOW: &[(&str, &[&str])] = &[
        ("image_layers", &["size", "volume"]),
        ("images", &["endpoint", "updated_ms", "pinned", "listed"]),
        (
            "activations",
            &[
                "reference",
                "origin",
                "bytes",
                "state",
                "reserved_at",
                "boot",
                "unchecked",
                "when_closed",
                "endpoint",
            ],
        ),
    ];

    /// A new column is in one of the two lists, so that no rebuild forgets it in silence.
    #[test]
    fn each_column_is_kept_or_follows() {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::open(&dir.path().join("registry.db")).unwrap();
        for kept in KEPT {
            let follow = FOLLOW.iter().find(|(table, _)| *table == kept.table).unwrap().1;
            let mut said = [kept.keys, kept.columns, follow].concat();
            said.sort_unstable();
            let mut has = columns(&registry, kept.table).unwrap();
            has.sort_unstable();
            assert_eq!(has, said, "{}", kept.table);
        }
    }
}
