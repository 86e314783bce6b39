//! The disks of activations: their size as it is to be, forks, and points that a disk can be brought back to.

use std::collections::BTreeSet;

use rusqlite::Row;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::Error;
use crate::error::quote::beginning;
use crate::file::schema::Registry;
use crate::ids::VolumeId;
use crate::rows::{digest, get};
use crate::write::{Reserved, Write, now_ms};

/// What a file system is on a snapshot that was made of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskState {
    /// In order: it was unmounted, or frozen.
    Clean,
    /// Its journal has to be replayed, which the next mount does.
    AfterReplay,
    /// As after a power cut of the machine that has it: what that had not written out is missing.
    CrashConsistent,
}

impl DiskState {
    const ALL: [DiskState; 3] =
        [DiskState::Clean, DiskState::AfterReplay, DiskState::CrashConsistent];

    /// The word in the table and in JSON.
    pub fn word(self) -> &'static str {
        match self {
            DiskState::Clean => "clean",
            DiskState::AfterReplay => "after_replay",
            DiskState::CrashConsistent => "crash_consistent",
        }
    }
}

/// The state of a point, or of a disk that a restore makes or has put aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PointState {
    /// The id is ours; nobody was told of it.
    Reserved,
    /// The snapshot is there.
    Kept,
    /// On its way out: the store may or may not have it still.
    Deleting,
}

impl PointState {
    const ALL: [PointState; 3] = [PointState::Reserved, PointState::Kept, PointState::Deleting];

    /// The word in the table.
    pub fn word(self) -> &'static str {
        match self {
            PointState::Reserved => "reserved",
            PointState::Kept => "kept",
            PointState::Deleting => "deleting",
        }
    }
}

/// One snapshot of an activation's disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Point {
    /// The thin id.
    pub id: VolumeId,
    /// The activation, by its name.
    pub activation: String,
    /// Its own name; none of what a restore makes or has put aside.
    pub name: Option<String>,
    /// Size, bytes.
    pub bytes: u64,
    /// Its state.
    pub state: PointState,
    /// What the file system on it is; none until that is known.
    pub disk_state: Option<DiskState>,
    /// Wall clock, milliseconds since 1970 UTC; for people.
    pub created_ms: i64,
    /// What the sender's point has, where it was received.
    pub identity: Option<Digest>,
}

/// Columns of `points` in the order [`point`] reads them.
const POINT: &str = "id, activation, name, bytes, state, disk_state, created_ms, identity";

fn point(row: &Row<'_>) -> Result<Point, Error> {
    let id: VolumeId = get(row, 0, "point")?;
    let subject = format!("point {id}");
    let word: String = get(row, 4, &subject)?;
    let state = PointState::ALL.into_iter().find(|state| state.word() == word);
    let state = state.ok_or_else(|| corrupt(&subject, "state", &word))?;
    Ok(Point {
        id,
        activation: get(row, 1, &subject)?,
        name: get(row, 2, &subject)?,
        bytes: get(row, 3, &subject)?,
        state,
        disk_state: disk_state(row, 5, &subject)?,
        created_ms: get(row, 6, &subject)?,
        identity: digest(row, 7, &subject)?,
    })
}

fn disk_state(row: &Row<'_>, column: usize, subject: &str) -> Result<Option<DiskState>, Error> {
    let Some(word) = get::<Option<String>>(row, column, subject)? else { return Ok(None) };
    let found = DiskState::ALL.into_iter().find(|state| state.word() == word);
    found.map_or_else(|| Err(corrupt(subject, "disk_state", &word)), |state| Ok(Some(state)))
}

pub(crate) fn corrupt(subject: &str, column: &str, value: &str) -> Error {
    Error::Corrupt { subject: subject.into(), what: format!("{column} {:?}", beginning(value)) }
}

/// Of whose disk an activation was made a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fork {
    /// The activation, by its name then.
    pub from: String,
    /// What the file system on it was then; none until that is known.
    pub disk_state: Option<DiskState>,
}

impl Registry {
    /// Of whose disk an activation was made a snapshot; none where it is one of its image's volume.
    ///
    /// # Errors
    /// [`Error::Sqlite`], [`Error::Corrupt`].
    pub fn fork(&self, name: &str) -> Result<Option<Fork>, Error> {
        let subject = format!("activation {name}");
        let sql = "SELECT forked_from, disk_state FROM activations WHERE name = ?1";
        let found = self.one(sql, [name], |row| {
            let disk_state = disk_state(row, 1, &subject)?;
            let from = get::<Option<String>>(row, 0, &subject)?;
            Ok(from.map(|from| Fork { from, disk_state }))
        })?;
        Ok(found.flatten())
    }

    /// The activations that are forks, by name.
    ///
    /// # Errors
    /// [`Error::Sqlite`], [`Error::Corrupt`].
    pub fn forks(&self) -> Result<Vec<(String, Fork)>, Error> {
        let sql = "SELECT forked_from, disk_state, name FROM activations
                   WHERE forked_from IS NOT NULL ORDER BY name";
        self.all(sql, [], |row| {
            let name: String = get(row, 2, "activation")?;
            let subject = format!("activation {name}");
            let from = get(row, 0, &subject)?;
            Ok((name, Fork { from, disk_state: disk_state(row, 1, &subject)? }))
        })
    }

    /// Every point, and what restores make or have put aside, by id.
    ///
    /// # Errors
    /// [`Error::Sqlite`], [`Error::Corrupt`].
    pub fn points(&self) -> Result<Vec<Point>, Error> {
        self.all(&format!("SELECT {POINT} FROM points ORDER BY id"), [], point)
    }

    /// The points of an activation that are there, the oldest first.
    ///
    /// # Errors
    /// [`Error::Sqlite`], [`Error::Corrupt`].
    pub fn points_of(&self, activation: &str) -> Result<Vec<Point>, Error> {
        let mut points = self.points()?;
        points.retain(|point| {
            point.activation == activation
                && point.name.is_some()
                && point.state == PointState::Kept
        });
        Ok(points)
    }
}

impl Write<'_> {
    /// Its disk is to have so many bytes; the device follows. It never becomes smaller.
    pub fn resize_activation(&self, name: &str, bytes: u64) -> Result<(), Error> {
        let sql = "UPDATE activations SET bytes = ?2 WHERE name = ?1 AND bytes < ?2";
        match self.run(sql, (name, bytes))? {
            0 => Ok(()),
            _ => self.disk_told(name, &format!("its disk is to have {bytes} bytes")),
        }
    }

    /// It was reserved as a snapshot of the disk of the activation `from`, whose image's documents it has as well.
    pub fn put_fork(&self, name: &str, from: &str) -> Result<(), Error> {
        self.run(
            "UPDATE activations SET forked_from = ?2, (manifest, config, unchecked) =
               (SELECT manifest, config, unchecked FROM activations WHERE name = ?2) WHERE name = ?1",
            (name, from),
        )?;
        self.disk_told(name, &format!("a fork of activation {from}"))
    }

    /// What the file system on a fork is.
    pub fn put_fork_state(&self, name: &str, state: DiskState) -> Result<(), Error> {
        let sql = "UPDATE activations SET disk_state = ?2 WHERE name = ?1";
        self.run(sql, (name, state.word())).map(drop)
    }

    /// Reserves an id for a snapshot of an activation's disk: a point of this name, or without a name the disk that
    /// a restore makes. `theirs` are ids that the store has: none of them is given.
    ///
    /// # Errors
    /// [`Error::Sqlite`], also where there is a point of this name.
    pub fn reserve_point(
        &self,
        activation: &str,
        name: Option<&str>,
        bytes: u64,
        theirs: &BTreeSet<VolumeId>,
    ) -> Result<Reserved, Error> {
        let Reserved { id, skipped } = self.next_id(theirs)?;
        self.run(
            "INSERT INTO points(id, activation, name, bytes, state, created_ms, reserved_at)
             VALUES (?1, ?2, ?3, ?4, 'reserved', ?5, (SELECT transaction_id + 1 FROM meta))",
            (id, activation, name, bytes, now_ms()),
        )?;
        Ok(Reserved { id, skipped })
    }

    /// The snapshot of a reserved point is there.
    pub fn keep_point(&self, point: &Point, state: DiskState) -> Result<(), Error> {
        self.run(
            "UPDATE points SET state = 'kept', disk_state = ?2 WHERE id = ?1 AND state = 'reserved'",
            (point.id, state.word()),
        )?;
        let name = point.name.as_deref().unwrap_or_default();
        self.disk_told(&point.activation, &format!("point {name} is volume {}", point.id))
    }

    /// A point is on its way out.
    pub fn condemn_point(&self, id: VolumeId) -> Result<(), Error> {
        self.run("UPDATE points SET state = 'deleting' WHERE id = ?1", [id]).map(drop)
    }

    /// Drops the row of a point that the store no longer has.
    pub fn forget_point(&self, id: VolumeId) -> Result<(), Error> {
        self.run("DELETE FROM points WHERE id = ?1 AND state = 'deleting'", [id]).map(drop)
    }

    /// The disk that a restore has made becomes the activation's, and that which the activation had is put aside
    /// and on its way out: in one commit, so that it has either the one or the other. `fresh` is the reserved one,
    /// `old` the activation's id.
    pub fn swap_disk(&self, fresh: &Point, old: VolumeId, from: &str) -> Result<(), Error> {
        let sql = "SELECT reserved_at FROM activations WHERE name = ?1 AND id = ?2";
        let before: Option<Option<u64>> = self.ask(sql, (&fresh.activation, old))?;
        let sql = "SELECT reserved_at FROM points WHERE id = ?1";
        let after: Option<Option<u64>> = self.ask(sql, [fresh.id])?;
        let changed = self.run(
            "UPDATE activations SET id = ?3, bytes = ?4, reserved_at = ?5 WHERE name = ?1 AND id = ?2",
            (&fresh.activation, old, fresh.id, fresh.bytes, after.flatten()),
        )?;
        if changed != 1 {
            let subject = format!("activation {}", fresh.activation);
            return Err(Error::Conflict { subject, expected: "another volume", found: None });
        }
        self.run(
            "UPDATE points SET id = ?2, state = 'deleting', reserved_at = ?3 WHERE id = ?1",
            (fresh.id, old, before.flatten()),
        )?;
        let detail = format!("brought back to point {from}: volume {} instead of {old}", fresh.id);
        self.disk_told(&fresh.activation, &detail)
    }

    pub(crate) fn disk_told(&self, name: &str, detail: &str) -> Result<(), Error> {
        let state: Option<String> =
            self.ask("SELECT state FROM activations WHERE name = ?1", [name])?;
        self.event(&format!("activation {name}"), state.as_deref(), state.as_deref(), detail)
    }
}
