//! `snapshot` and `points`: named moments of an activation's disk, that it can be brought back to.
//!
//! A point is a snapshot under an id of its own: the row is reserved, the snapshot made, the row kept. What a killed
//! process has reserved is taken out by whoever comes next, and a point goes with its activation.

use registry::{Activation, DiskState, Point, PointState, VolumeId};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::host::Host;
use crate::host::ids::{self, New};
use crate::store::snapshot::Snapshot;
use crate::verbs::disks;
use crate::verbs::named::check_name;

/// So many points an activation has at most: each is a snapshot that keeps the blocks of its moment.
pub(crate) const POINTS_MAX: usize = 64;

/// What `snapshot` did, or would do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Snapshotted {
    /// The activation's name.
    pub activation: String,
    /// The point.
    pub point: String,
    /// Its volume; none while only planned.
    pub volume: Option<VolumeId>,
    /// Its size, bytes.
    pub bytes: u64,
    /// What the file system on it is; none while only planned.
    pub consistency: Option<DiskState>,
    /// Who had the disk open, where somebody had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_by: Option<String>,
    /// Whether nothing was done on purpose.
    pub dry_run: bool,
}

/// One point of an activation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PointLine {
    /// Its name.
    pub point: String,
    /// Its volume.
    pub volume: VolumeId,
    /// Its size, bytes.
    pub bytes: u64,
    /// What the file system on it is.
    pub consistency: Option<DiskState>,
    /// When it was made, milliseconds since 1970 UTC.
    pub created_ms: i64,
}

impl From<&Point> for PointLine {
    fn from(point: &Point) -> PointLine {
        PointLine {
            point: point.name.clone().unwrap_or_default(),
            volume: point.id,
            bytes: point.bytes,
            consistency: point.disk_state,
            created_ms: point.created_ms,
        }
    }
}

/// The points of an activation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Points {
    /// The activation's name.
    pub activation: String,
    /// The oldest first.
    pub points: Vec<PointLine>,
    /// The one that was removed, where one was to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removed: Option<String>,
    /// Whether nothing was done on purpose.
    pub dry_run: bool,
}

impl Host {
    /// Keeps the disk of the activation `name` as it is now under the name `point`.
    ///
    /// # Errors
    /// [`Error::Unknown`]; [`Error::Usage`] where there is a point of this name, where there are
    /// [`POINTS_MAX`], and for a directory that is active.
    pub fn snapshot(
        &mut self,
        name: &str,
        point: &str,
        dry_run: bool,
    ) -> Result<Snapshotted, Error> {
        check_name(name)?;
        check_name(point)?;
        self.on_one_file(|host| host.snapshotted(name, point, dry_run))
    }

    fn snapshotted(
        &mut self,
        name: &str,
        point: &str,
        dry_run: bool,
    ) -> Result<Snapshotted, Error> {
        let _mine = self.locks.activation(name)?;
        let row = self.with_disk(name)?;
        let there = self.registry.points_of(name)?;
        if there.iter().any(|there| there.name.as_deref() == Some(point)) {
            return Err(Error::Usage(format!(
                "{name} has a point {point:?} already, and a point never changes; choose another name, or \
                 `orchestrate points {name} --remove {point}`"
            )));
        }
        if there.len() >= POINTS_MAX {
            return Err(Error::Usage(format!(
                "{name} has {} points, at most {POINTS_MAX} may be kept; `orchestrate points {name} --remove POINT` \
                 makes room",
                there.len()
            )));
        }
        self.stands_still(&row)?;
        let mut done = Snapshotted {
            activation: name.into(),
            point: point.into(),
            volume: None,
            bytes: self.store.device_bytes(row.bytes),
            consistency: None,
            used_by: None,
            dry_run,
        };
        if dry_run {
            done.used_by = self.disk_use(row.id)?.by().map(str::to_owned);
            return Ok(done);
        }
        self.drop_points(name)?;
        if let Some(disks) = self.store.disks() {
            disks.write_out(row.id)?;
        }
        let made = self.keep(&row, point, &mut done);
        if made.is_err()
            && let Err(second) = self.drop_points(name)
        {
            self.say(1, format_args!("a point of {name} is left to recovery: {second}"));
        }
        made.map(|()| done)
    }

    /// Reserves the point, makes its snapshot, and keeps it.
    fn keep(&mut self, row: &Activation, point: &str, done: &mut Snapshotted) -> Result<(), Error> {
        let used = {
            let _alone = self.locks.store()?;
            self.store.admit(1)?;
            let origin = row.id;
            let new = New::Point { activation: &row.name, name: Some(point), bytes: row.bytes };
            let (id, made) = ids::take(self, &new, |host, id| {
                disks::snapshot(host.store.as_ref(), Snapshot { id, origin }).map_err(gone(origin))
            })?;
            done.volume = Some(id);
            made?
        };
        let Some(reserved) = self.point_of(done.volume)? else { return Ok(()) };
        let state = self.state_of_disk(reserved.id, &used)?;
        self.commit_told(|write| {
            write.keep_point(&reserved, state)?;
            write.person_has(&row.name)
        })?;
        done.consistency = Some(state);
        done.used_by = used.by().map(str::to_owned);
        Ok(())
    }

    pub(crate) fn point_of(&self, id: Option<VolumeId>) -> Result<Option<Point>, Error> {
        Ok(self.registry.points()?.into_iter().find(|point| Some(point.id) == id))
    }

    /// The points of the activation `name`.
    ///
    /// # Errors
    /// [`Error::Unknown`].
    pub fn points(&self, name: &str) -> Result<Points, Error> {
        check_name(name)?;
        if self.registry.activation(name)?.is_none() {
            return Err(self.unknown("activation", name));
        }
        let points = self.registry.points_of(name)?.iter().map(PointLine::from).collect();
        Ok(Points { activation: name.into(), points, removed: None, dry_run: false })
    }

    /// Removes one point of the activation `name`; its disk and the other points stay.
    ///
    /// # Errors
    /// [`Error::Unknown`] for either name.
    pub fn remove_point(
        &mut self,
        name: &str,
        point: &str,
        dry_run: bool,
    ) -> Result<Points, Error> {
        check_name(name)?;
        check_name(point)?;
        self.on_one_file(|host| {
            let _mine = host.locks.activation(name)?;
            let found = host.named_point(name, point)?;
            if !dry_run {
                host.registry.write(|write| write.condemn_point(found.id))?;
                host.drop_points(name)?;
            }
            let left = Points { removed: Some(point.into()), dry_run, ..host.points(name)? };
            Ok(left)
        })
    }

    /// The kept point of this name.
    pub(crate) fn named_point(&self, name: &str, point: &str) -> Result<Point, Error> {
        let row = self.registry.activation(name)?;
        if row.is_none_or(|row| !crate::verbs::activate::is_told(&row)) {
            return Err(self.unknown("activation", name));
        }
        let found = self.registry.points_of(name)?;
        let found = found.into_iter().find(|found| found.name.as_deref() == Some(point));
        found.ok_or_else(|| {
            Error::Usage(format!(
                "{name} has no point {point:?}; `orchestrate points {name}` lists those that it has"
            ))
        })
    }

    /// Takes out whatever of the points of `name` is not kept: what a killed process has reserved, what was
    /// removed, what a restore has put aside; whether there was any. The caller holds the activation's lock.
    pub(crate) fn drop_points(&mut self, name: &str) -> Result<bool, Error> {
        let mut points = self.registry.points()?;
        let orphaned = self.registry.activation(name)?.is_none();
        points.retain(|point| {
            point.activation == name && (orphaned || point.state != PointState::Kept)
        });
        for point in &points {
            // What somebody else has made under an id of ours is left alone.
            let theirs = ids::is_theirs(self, point.id)?;
            let _alone = self.locks.store()?;
            self.registry.write(|write| write.condemn_point(point.id))?;
            if !theirs {
                self.store.delete(point.id)?;
            }
            self.fenced(|write| write.forget_point(point.id))?;
        }
        Ok(!points.is_empty())
    }

    /// As [`Host::drop_points`], for recovery; false when a living process is at it.
    pub(crate) fn mend_points(&mut self, name: &str) -> Result<bool, Error> {
        let Some(_mine) = self.locks.try_activation(name)? else { return Ok(false) };
        self.drop_points(name)
    }
}

/// The disk itself is gone, where the store says that of the origin of a snapshot.
fn gone(volume: VolumeId) -> impl Fn(Error) -> Error {
    move |error| match error {
        Error::Lost { .. } => Error::Gone { volume },
        error => error,
    }
}
