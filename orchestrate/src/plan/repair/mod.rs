//! Compares rows with devices: what has to be mended, so that they agree. Pure; `mend` performs it.

#[cfg(test)]
pub(crate) mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use registry::{
    Activation, ActivationState, Arrival, ArrivalState, Point, PointState, Volume, VolumeId,
    VolumeState, WhenClosed,
};
use serde::Serialize;

use crate::error::Error;
use crate::plan::mapped::Mapped;
use crate::plan::{self, ActivationStep, Fence, Mapping, VolumeStep, Wish, epoch};
use crate::trust::bar::Bar;

/// One thing to mend.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(tag = "repair", rename_all = "snake_case")]
pub enum Repair {
    /// The registry committed an intent and the store has not its number yet.
    CatchUp {
        /// The store's transaction id.
        from: u64,
        /// The registry's transaction id.
        to: u64,
    },
    /// A volume whose builder is dead: it is thrown away.
    Discard {
        /// The volume.
        volume: VolumeId,
    },
    /// A volume on its way out is taken out.
    Delete {
        /// The volume.
        volume: VolumeId,
    },
    /// A sealed volume is mapped and must not be.
    Unmap {
        /// The volume.
        volume: VolumeId,
    },
    /// An activation's device was made larger by hand: that is its size.
    Grown {
        /// The activation.
        name: String,
        /// Bytes of its device.
        bytes: u64,
    },
    /// An activation's disk was to be larger, and its device is not yet.
    Lengthen {
        /// The activation.
        name: String,
        /// Bytes that its device is to have.
        bytes: u64,
    },
    /// An activation was up when the host went down: nobody has looked at its file system since.
    Unchecked {
        /// The activation.
        name: String,
    },
    /// An activation runs that may not, and the settings have it taken down.
    TakeDown {
        /// The activation.
        name: String,
    },
    /// The name of an activation leads to what is another's: the name is taken away.
    Stray {
        /// The name.
        name: String,
        /// The volume that it leads to.
        volume: VolumeId,
    },
    /// An activation was given another name, and what the store has of it may have the former one.
    Rename {
        /// The activation.
        name: String,
        /// The name that it had.
        former: String,
    },
    /// Snapshots of an activation's disk that nobody keeps are taken out.
    Points {
        /// The activation, which may be gone.
        name: String,
    },
    /// A disk that was to arrive from another host is taken out: nobody can go on with it.
    Arrival {
        /// The name of the activation that it was to be.
        name: String,
    },
    /// A killed process has left the device of a point, or of a disk that arrives.
    Adrift {
        /// The volume.
        volume: VolumeId,
    },
    /// An activation is brought to what its row says.
    Settle {
        /// The activation.
        name: String,
        /// `up`, `down` or `gone`.
        wish: &'static str,
    },
}

impl fmt::Display for Repair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Repair::CatchUp { from, to } => {
                write!(f, "bring the store from transaction {from} to {to}")
            }
            Repair::Discard { volume } => {
                write!(f, "throw away volume {volume}, whose builder died")
            }
            Repair::Delete { volume } => {
                write!(f, "take out volume {volume}, whose removal was begun")
            }
            Repair::Unmap { volume } => write!(f, "take down the device of sealed volume {volume}"),
            Repair::Grown { name, bytes } => {
                write!(f, "take {bytes} bytes as the size of activation {name}")
            }
            Repair::Lengthen { name, bytes } => {
                write!(f, "make the device of activation {name} {bytes} bytes long")
            }
            Repair::Unchecked { name } => write!(
                f,
                "note that activation {name}, which has no journal, was up when the host went down, so \
                 that its file system is unchecked"
            ),
            Repair::TakeDown { name } => {
                write!(f, "take down activation {name}, which may not be up any more")
            }
            Repair::Stray { name, volume } => write!(
                f,
                "take away the name {name}, which leads to volume {volume} and not to its own activation's"
            ),
            Repair::Rename { name, former } => {
                write!(f, "give activation {name} its name, which was {former} before")
            }
            Repair::Points { name } => {
                write!(f, "take out the snapshots of {name} that nobody keeps")
            }
            Repair::Arrival { name } => write!(f, "take out what was to arrive as {name}"),
            Repair::Adrift { volume } => {
                write!(f, "take down the device of volume {volume}, which nobody uses")
            }
            Repair::Settle { name, wish: "up" } => write!(f, "bring up activation {name}"),
            Repair::Settle { name, wish: "down" } => write!(f, "take down activation {name}"),
            Repair::Settle { name, .. } => write!(f, "remove activation {name}"),
        }
    }
}

/// The facts of one moment.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Rows.
    pub volumes: Vec<Volume>,
    /// Rows.
    pub activations: Vec<Activation>,
    /// Rows.
    pub points: Vec<Point>,
    /// Disks that arrive and that no living process is at work on.
    pub arrivals: Vec<Arrival>,
    /// Volumes of points and of disks that arrive which a killed process has left mapped.
    pub adrift: Vec<VolumeId>,
    /// What the store has mapped.
    pub mapped: Vec<Mapped>,
    /// Volumes that are not to be mapped, and that somebody looks at through a device that refuses
    /// writes.
    pub looked_at: Vec<VolumeId>,
    /// Volumes of activations that wait to be closed, and are not yet.
    pub held: Vec<VolumeId>,
    /// Activations that may not come up, by name.
    pub barred: BTreeMap<String, Bar>,
    /// The volume of the believed serials, where there is one.
    pub serials: Option<VolumeId>,
    /// Volumes that a living process is building.
    pub live_volumes: Vec<VolumeId>,
    /// Activations that a living process is changing.
    pub live_activations: Vec<String>,
    /// The registry's transaction id.
    pub registry_transaction: u64,
    /// The store's transaction id.
    pub store_transaction: u64,
    /// The boot that devices live in; none where they outlive it.
    pub boot: Option<String>,
    /// Whether several names may lead to one volume, as links do.
    pub links: bool,
}

/// What has to be mended, in the order in which it can be.
///
/// # Errors
/// [`Error::Fence`] when registry and store are out of step: then nothing is.
pub fn compare(facts: &Facts) -> Result<Vec<Repair>, Error> {
    let (registry, store) = (facts.registry_transaction, facts.store_transaction);
    let mut repairs = Vec::new();
    match plan::fence(registry, store) {
        Fence::Agree => {}
        Fence::InFlight => repairs.push(Repair::CatchUp { from: store, to: registry }),
        Fence::Apart => return Err(epoch::apart(registry, store)),
    }
    for row in &facts.activations {
        if !facts.live_activations.contains(&row.name) {
            repairs.extend(facts.of_activation(row));
        }
    }
    repairs.extend(facts.mapped.iter().filter_map(|mapped| facts.stray(mapped)));
    let mut with_points = facts.unkept();
    with_points.retain(|name| !facts.live_activations.contains(name));
    repairs.extend(with_points.into_iter().map(|name| Repair::Points { name }));
    let left = facts.arrivals.iter().filter(|row| match row.state {
        // Its maker died before anything came.
        ArrivalState::Reserved | ArrivalState::Deleting => true,
        ArrivalState::Arriving => false,
    });
    repairs.extend(left.map(|row| Repair::Arrival { name: row.name.clone() }));
    repairs.extend(facts.adrift.iter().map(|id| Repair::Adrift { volume: *id }));
    // The youngest first: a child goes before its parent.
    for row in facts.volumes.iter().rev() {
        if facts.live_volumes.contains(&row.id) || facts.looked_at.contains(&row.id) {
            continue;
        }
        match plan::volume(&row.state, facts.volume_mapping(row.id)) {
            VolumeStep::Keep => {}
            VolumeStep::Unmap => repairs.push(Repair::Unmap { volume: row.id }),
            VolumeStep::Discard => repairs.push(Repair::Discard { volume: row.id }),
            VolumeStep::Delete => repairs.push(Repair::Delete { volume: row.id }),
        }
    }
    // Whoever writes to it holds the store's lock, under which this was seen.
    if let Some(volume) = facts.serials.filter(|id| facts.volume_mapping(*id) != Mapping::Absent) {
        repairs.push(Repair::Unmap { volume });
    }
    // What is mapped and in no row is not ours: a row is there before its mapping and goes after it.
    Ok(repairs)
}

impl Facts {
    /// The activations with snapshots that nobody keeps: a killed process has reserved them, or they were removed or
    /// put aside; or the activation is gone.
    pub(crate) fn unkept(&self) -> BTreeSet<String> {
        let orphaned =
            |point: &Point| self.activations.iter().all(|row| row.name != point.activation);
        let unkept =
            self.points.iter().filter(|point| point.state != PointState::Kept || orphaned(point));
        unkept.map(|point| point.activation.clone()).collect()
    }

    fn of_activation(&self, row: &Activation) -> Vec<Repair> {
        let mut repairs = Vec::new();
        let name = || row.name.clone();
        let device = self.mapped.iter().find(|mapped| mapped.id == row.id);
        if row.state == ActivationState::Active {
            let another_boot = self.boot.is_some() && row.boot != self.boot;
            if device.is_none() && another_boot && !row.unchecked && !self.has_journal(row) {
                repairs.push(Repair::Unchecked { name: name() });
            }
            if let Some(bytes) = device.map(|device| device.bytes).filter(|b| *b > row.bytes) {
                repairs.push(Repair::Grown { name: name(), bytes });
            }
            // What was seen of its length is rounded down to 1024 bytes; 0 where there is none to be seen.
            let short = |device: &&Mapped| {
                let usable = matches!(device.mapping, Mapping::Live | Mapping::Astray);
                usable && device.bytes > 0 && device.bytes < row.bytes / 1024 * 1024
            };
            if device.filter(short).is_some() {
                repairs.push(Repair::Lengthen { name: name(), bytes: row.bytes });
            }
        }
        if let Some(former) = row.former.as_ref().filter(|_| row.state != ActivationState::Deleting)
        {
            // Before anything else: an open device that only has its former name yet is not in the wrong place.
            repairs.push(Repair::Rename { name: name(), former: former.clone() });
        } else if self.must_go(row) {
            repairs.push(Repair::TakeDown { name: name() });
        } else if let Some(wish) = self.unsettled(row) {
            repairs.push(Repair::Settle { name: name(), wish: word(wish) });
        }
        repairs
    }

    /// Whether an activation has a journal, which its next mount replays: what the writer made has one, and only
    /// that has a block digest.
    fn has_journal(&self, row: &Activation) -> bool {
        let origin = self.volumes.iter().find(|volume| volume.id == row.origin);
        origin.is_some_and(Volume::is_image) && !row.no_journal
    }

    /// Whether an activation runs that the settings have taken down.
    fn must_go(&self, row: &Activation) -> bool {
        let goes = self.barred.get(&row.name).is_some_and(|bar| bar.goes);
        let up = matches!(self.mapping(row), Mapping::Live | Mapping::Astray);
        goes && up && row.state == ActivationState::Active && row.when_closed.is_none()
    }

    /// Why an activation that should be up is not, and does not come up.
    pub(crate) fn kept_down(&self, row: &Activation) -> Option<&Bar> {
        let bar = self.barred.get(&row.name)?;
        let down = self.mapping(row) != Mapping::Live;
        (down && row.state == ActivationState::Active && wish(row) == Wish::Up).then_some(bar)
    }

    /// The name of an activation that is not up and leads to what is not its own. One that is up is brought to
    /// its own by [`Repair::Settle`].
    fn stray(&self, mapped: &Mapped) -> Option<Repair> {
        let row = self.activations.iter().find(|row| row.name == mapped.name)?;
        let is_its_own = row.id == mapped.id || wish(row) == Wish::Up;
        let stray =
            self.is_alias(mapped) && !is_its_own && !self.live_activations.contains(&row.name);
        stray.then(|| Repair::Stray { name: mapped.name.clone(), volume: mapped.id })
    }

    /// Names without a row that lead to an activation's volume beside its own name, with that one.
    pub(crate) fn ghosts(&self) -> Vec<(&str, &str)> {
        let has = |row: &Activation, name: &String| {
            row.name == *name || row.former.as_ref() == Some(name)
        };
        let of_no_row = |mapped: &&Mapped| {
            self.activations.iter().all(|row| !has(row, &mapped.name)) && self.is_alias(mapped)
        };
        let owner = |mapped: &Mapped| self.activations.iter().find(|row| row.id == mapped.id);
        let ghosts = self.mapped.iter().filter(of_no_row);
        ghosts
            .filter_map(|ghost| Some((ghost.name.as_str(), owner(ghost)?.name.as_str())))
            .collect()
    }

    /// Whether a link is none of the one that its volume's own row is about: that has its own, or there is
    /// no row.
    fn is_alias(&self, mapped: &Mapped) -> bool {
        let of_volume = self.activations.iter().find(|row| row.id == mapped.id);
        let has_own = |row: &Activation| {
            row.name != mapped.name
                && self.mapped.iter().any(|own| own.id == row.id && own.name == row.name)
        };
        let is_layer = self.volumes.iter().any(|row| row.id == mapped.id);
        self.links && !is_layer && of_volume.is_none_or(has_own)
    }

    /// What an activation has yet to become; none when it is as its row says.
    fn unsettled(&self, row: &Activation) -> Option<Wish> {
        if self.looked_at.contains(&row.id) || self.kept_down(row).is_some() {
            return None;
        }
        let wish = wish(row);
        let held = row.when_closed.is_some() && self.held.contains(&row.id);
        let step = plan::activation(Some(row.state), self.mapping(row), wish);
        (step != ActivationStep::Done && !held).then_some(wish)
    }

    /// The mapping of an activation: under its own name before any other.
    fn mapping(&self, row: &Activation) -> Mapping {
        let all = || self.mapped.iter().filter(|mapped| mapped.id == row.id);
        match all().find(|mapped| mapped.name == row.name).or_else(|| all().next()) {
            None => Mapping::Absent,
            Some(mapped) if mapped.name != row.name && mapped.mapping == Mapping::Live => {
                Mapping::Astray
            }
            Some(mapped) => mapped.mapping,
        }
    }

    fn volume_mapping(&self, id: VolumeId) -> Mapping {
        let mapped = self.mapped.iter().find(|mapped| mapped.id == id);
        mapped.map_or(Mapping::Absent, |mapped| mapped.mapping)
    }
}

/// What a row says should be, when nobody is at work on it.
pub(crate) fn wish(row: &Activation) -> Wish {
    match row.when_closed {
        None => plan::settled(row.state),
        Some(WhenClosed::Rm) => Wish::Gone,
        Some(WhenClosed::Deactivate) if row.state == ActivationState::Active => Wish::Down,
        Some(WhenClosed::Deactivate) => plan::settled(row.state),
    }
}

fn word(wish: Wish) -> &'static str {
    match wish {
        Wish::Up => "up",
        Wish::Down => "down",
        Wish::Gone => "gone",
    }
}

/// Whether a volume is as its row says without a look at who is at work on it.
pub(crate) fn is_settled(row: &Volume, facts: &Facts) -> bool {
    matches!(row.state, VolumeState::Sealed(_)) && facts.volume_mapping(row.id) == Mapping::Absent
}

impl Facts {
    /// Whether an activation is as its row says without a look at who is at work on it.
    pub(crate) fn is_as_wished(&self, row: &Activation) -> bool {
        self.of_activation(row).is_empty()
    }
}
