//! Where the processes of a run died: by that a run which kills its process is told from one whose host
//! lost its power, or whose process somebody killed here and there.

use rusqlite::Row;

use crate::error::Error;
use crate::file::schema::Registry;
use crate::ids::RunId;
use crate::rows::get;
use crate::write::{Write, now_ms};

/// A process that died over a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Death {
    /// The boot in which it died.
    pub boot: String,
    /// The step that it was at; empty: before the first.
    pub place: String,
    /// How far it was in that.
    pub mark: u64,
    /// When it was found dead: milliseconds since 1970 UTC; for people.
    pub at_ms: i64,
}

/// The last process of a run that has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Life {
    /// The boot in which it began; empty where that is not known.
    pub boot: String,
    /// The step that it is at, or was at when it died; empty: before the first.
    pub place: String,
    /// How the files begin that tell how much of that step is done; empty: there are none.
    pub spool: String,
    /// How the one before it died, where it has not come forward since.
    pub died: Option<Death>,
}

fn life(row: &Row<'_>) -> Result<Life, Error> {
    let boot: Option<String> = get(row, 3, "life")?;
    let died = match boot {
        None => None,
        Some(boot) => Some(Death {
            boot,
            place: get::<Option<String>>(row, 4, "life")?.unwrap_or_default(),
            mark: get::<Option<u64>>(row, 5, "life")?.unwrap_or_default(),
            at_ms: get::<Option<i64>>(row, 6, "life")?.unwrap_or_default(),
        }),
    };
    let [boot, place, spool] = [get(row, 0, "life")?, get(row, 1, "life")?, get(row, 2, "life")?];
    Ok(Life { boot, place, spool, died })
}

impl Registry {
    /// The last process of a run; none where it has ended, or waits in good order.
    pub fn life(&self, run: RunId) -> Result<Option<Life>, Error> {
        self.one(
            "SELECT boot, place, spool, died_boot, died_place, died_mark, died_ms FROM lives
             WHERE run = ?1",
            [run],
            life,
        )
    }
}

impl Write<'_> {
    /// A process begins with a run, in this boot; `died` is how the one before it died, where it did in
    /// this boot.
    pub fn begin_life(&self, run: RunId, boot: &str, died: Option<&Death>) -> Result<(), Error> {
        let [died_boot, place] = [died.map(|died| &died.boot), died.map(|died| &died.place)];
        self.run(
            "INSERT OR REPLACE INTO lives(run, boot, died_boot, died_place, died_mark, died_ms)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            (run, boot, died_boot, place, died.map(|d| d.mark), died.map(|d| d.at_ms)),
        )
        .map(drop)
    }

    /// The run's process comes to a step. With `forward` the deaths before count no more. Files that begin
    /// with `spool` tell how much of it is done.
    pub fn reach(&self, run: RunId, place: &str, spool: &str, forward: bool) -> Result<(), Error> {
        self.run(
            "UPDATE lives SET place = ?2, spool = ?3,
               died_boot = CASE WHEN ?4 THEN NULL ELSE died_boot END WHERE run = ?1",
            (run, place, spool, forward),
        )
        .map(drop)
    }

    /// The run was put by in good order: nothing is held against it.
    pub fn end_life(&self, run: RunId) -> Result<(), Error> {
        self.run("DELETE FROM lives WHERE run = ?1", [run]).map(drop)
    }

    /// A fresh run stands for one that was given up: it has begun so often already.
    pub fn inherit_begins(&self, run: RunId, begun: u32) -> Result<(), Error> {
        self.run(
            "UPDATE runs SET attempt = ?2, updated_ms = ?3 WHERE id = ?1 AND state = 'running'",
            (run, begun, now_ms()),
        )
        .map(drop)
    }
}
