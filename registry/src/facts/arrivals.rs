//! Disks that arrive from another host: a volume of its own each, which is no activation's before all of it is here.

use std::collections::BTreeSet;

use rusqlite::Row;

use crate::digest::Digest;
use crate::error::Error;
use crate::facts::disks::{DiskState, Point, corrupt};
use crate::file::schema::Registry;
use crate::ids::VolumeId;
use crate::rows::{digest, get};
use crate::state::ActivationState;
use crate::write::{Reserved, Write, now_ms};

/// The state of a disk that arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArrivalState {
    /// The id is ours; the store may or may not have it.
    Reserved,
    /// Its volume is there, and is written to.
    Arriving,
    /// On its way out: the store may or may not have it still.
    Deleting,
}

impl ArrivalState {
    const ALL: [ArrivalState; 3] =
        [ArrivalState::Reserved, ArrivalState::Arriving, ArrivalState::Deleting];

    /// The word in the table.
    pub fn word(self) -> &'static str {
        match self {
            ArrivalState::Reserved => "reserved",
            ArrivalState::Arriving => "arriving",
            ArrivalState::Deleting => "deleting",
        }
    }
}

/// A disk that arrives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// The activation that it is to be, or to be put on.
    pub name: String,
    /// The thin id.
    pub id: VolumeId,
    /// The image.
    pub reference: String,
    /// Its sealed top volume.
    pub origin: VolumeId,
    /// Size, bytes.
    pub bytes: u64,
    /// What tells the content from every other.
    pub stream: Digest,
    /// The volume of the point that it stands on; none where it stands on none.
    pub base: Option<VolumeId>,
    /// Its state.
    pub state: ArrivalState,
    /// All blocks below this one are on disk.
    pub next_block: u64,
    /// When something of it came last: wall clock, milliseconds since 1970 UTC.
    pub touched_ms: i64,
}

const ARRIVAL: &str =
    "name, id, reference, origin, bytes, stream, base, state, next_block, touched_ms";

fn arrival(row: &Row<'_>) -> Result<Arrival, Error> {
    let name: String = get(row, 0, "arrival")?;
    let subject = format!("arrival {name}");
    let word: String = get(row, 7, &subject)?;
    let state = ArrivalState::ALL.into_iter().find(|state| state.word() == word);
    Ok(Arrival {
        id: get(row, 1, &subject)?,
        reference: get(row, 2, &subject)?,
        origin: get(row, 3, &subject)?,
        bytes: get(row, 4, &subject)?,
        stream: digest(row, 5, &subject)?.ok_or_else(|| corrupt(&subject, "stream", ""))?,
        base: get(row, 6, &subject)?,
        state: state.ok_or_else(|| corrupt(&subject, "state", &word))?,
        next_block: get(row, 8, &subject)?,
        touched_ms: get(row, 9, &subject)?,
        name,
    })
}

/// A disk that is to arrive, to reserve an id for.
#[derive(Clone, Debug)]
pub struct NewArrival<'a> {
    /// The activation that it is to be, or to be put on.
    pub name: &'a str,
    /// The image.
    pub reference: &'a str,
    /// Its sealed top volume.
    pub origin: VolumeId,
    /// Size, bytes.
    pub bytes: u64,
    /// What tells the content from every other.
    pub stream: Digest,
    /// The volume of the point that it stands on.
    pub base: Option<VolumeId>,
}

impl Registry {
    /// Every disk that arrives, by name.
    ///
    /// # Errors
    /// [`Error::Sqlite`], [`Error::Corrupt`].
    pub fn arrivals(&self) -> Result<Vec<Arrival>, Error> {
        self.all(&format!("SELECT {ARRIVAL} FROM arrivals ORDER BY name"), [], arrival)
    }

    /// The disk that arrives under this name.
    ///
    /// # Errors
    /// [`Error::Sqlite`], [`Error::Corrupt`].
    pub fn arrival(&self, name: &str) -> Result<Option<Arrival>, Error> {
        self.one(&format!("SELECT {ARRIVAL} FROM arrivals WHERE name = ?1"), [name], arrival)
    }
}

impl Write<'_> {
    /// Reserves an id for a disk that is to arrive. `theirs` are ids that the store has: none of them is given.
    ///
    /// # Errors
    /// [`Error::Sqlite`], also where one arrives under this name.
    pub fn reserve_arrival(
        &self,
        new: &NewArrival<'_>,
        theirs: &BTreeSet<VolumeId>,
    ) -> Result<Reserved, Error> {
        let Reserved { id, skipped } = self.next_id(theirs)?;
        self.run(
            "INSERT INTO arrivals(name, id, reference, origin, bytes, stream, base, state, created_ms, touched_ms,
               reserved_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 'reserved', ?8, ?8, (SELECT transaction_id + 1 FROM meta))",
            (
                new.name,
                id,
                new.reference,
                new.origin,
                new.bytes,
                new.stream.hex(),
                new.base,
                now_ms(),
            ),
        )?;
        self.event(
            &format!("arrival {}", new.name),
            None,
            Some("reserved"),
            &format!("volume {id} of {}", new.reference),
        )?;
        Ok(Reserved { id, skipped })
    }

    /// All blocks below `next_block` of it are on disk.
    pub fn reach_arrival(&self, id: VolumeId, next_block: u64) -> Result<(), Error> {
        self.run(
            "UPDATE arrivals SET state = 'arriving', next_block = ?2, touched_ms = ?3
             WHERE id = ?1 AND state <> 'deleting'",
            (id, next_block, now_ms()),
        )
        .map(drop)
    }

    /// It is on its way out.
    pub fn condemn_arrival(&self, id: VolumeId) -> Result<(), Error> {
        self.run("UPDATE arrivals SET state = 'deleting' WHERE id = ?1", [id]).map(drop)
    }

    /// Drops the row of one that the store no longer has.
    pub fn forget_arrival(&self, name: &str, id: VolumeId) -> Result<(), Error> {
        let sql = "DELETE FROM arrivals WHERE id = ?1 AND state = 'deleting'";
        match self.run(sql, [id])? {
            0 => Ok(()),
            _ => self.event(&format!("arrival {name}"), Some("deleting"), None, ""),
        }
    }

    /// All of it is here and was compared: it becomes an activation that is not mapped. With it comes its first point,
    /// which was reserved for it.
    ///
    /// # Errors
    /// [`Error::Sqlite`], also where there is an activation of this name.
    pub fn land_arrival(
        &self,
        arrival: &Arrival,
        point: Option<(&Point, DiskState, Digest)>,
    ) -> Result<(), Error> {
        let name = arrival.name.as_str();
        self.run(
            "INSERT INTO activations(name, reference, origin, id, bytes, state, created_ms, reserved_at, ttl_from_ms)
             SELECT name, reference, origin, id, bytes, 'reserved', ?2, reserved_at, ?2 FROM arrivals WHERE id = ?1",
            (arrival.id, now_ms()),
        )?;
        // Those of the image only if it still is what the activation stands on.
        self.run(
            "UPDATE activations SET (manifest, config) = (
               SELECT i.manifest, i.config FROM images i JOIN volumes v ON v.id = activations.origin
               WHERE i.reference = activations.reference AND i.chain = ifnull(v.sealed_chain, v.chain))
             WHERE name = ?1",
            [name],
        )?;
        // It was handed out by no device yet, and it is nobody's any more who could take it back.
        for (from, next) in [
            (ActivationState::Reserved, ActivationState::Active),
            (ActivationState::Active, ActivationState::Inactive),
        ] {
            self.advance_activation(name, from, next)?;
        }
        self.landed(arrival, point)?;
        self.disk_told(name, &format!("volume {} was received", arrival.id))
    }

    /// As [`Write::land_arrival`], on an activation that is there: it has the disk that arrived instead of its own,
    /// which is put aside and on its way out, in one commit. `old` is its volume.
    ///
    /// # Errors
    /// [`Error::Conflict`] where it has another volume.
    pub fn land_on_activation(
        &self,
        arrival: &Arrival,
        old: VolumeId,
        point: Option<(&Point, DiskState, Digest)>,
    ) -> Result<(), Error> {
        let sql = "SELECT reserved_at FROM activations WHERE name = ?1 AND id = ?2";
        let before: Option<u64> = self.ask::<Option<u64>>(sql, (&arrival.name, old))?.flatten();
        let changed = self.run(
            "UPDATE activations SET (id, bytes, reserved_at) =
               (SELECT id, bytes, reserved_at FROM arrivals WHERE arrivals.id = ?3)
             WHERE name = ?1 AND id = ?2",
            (&arrival.name, old, arrival.id),
        )?;
        if changed != 1 {
            let subject = format!("activation {}", arrival.name);
            return Err(Error::Conflict { subject, expected: "another volume", found: None });
        }
        self.run(
            "INSERT INTO points(id, activation, name, bytes, state, created_ms, reserved_at)
             VALUES (?1, ?2, NULL, ?3, 'deleting', ?4, ?5)",
            (old, &arrival.name, arrival.bytes, now_ms(), before),
        )?;
        self.landed(arrival, point)?;
        let detail = format!("received: volume {} instead of {old}", arrival.id);
        self.disk_told(&arrival.name, &detail)
    }

    fn landed(
        &self,
        arrival: &Arrival,
        point: Option<(&Point, DiskState, Digest)>,
    ) -> Result<(), Error> {
        if let Some((point, state, identity)) = point {
            let sql = "UPDATE points SET identity = ?2 WHERE id = ?1";
            self.run(sql, (point.id, identity.hex()))?;
            self.keep_point(point, state)?;
        }
        self.run("DELETE FROM arrivals WHERE id = ?1", [arrival.id])?;
        let detail = format!("volume {}", arrival.id);
        self.event(&format!("arrival {}", arrival.name), Some("arriving"), None, &detail)
    }
}
