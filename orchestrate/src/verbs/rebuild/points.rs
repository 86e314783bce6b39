//! The points of activations, and disks that arrive: by the rows of the registry that was there, which alone knows their names.

use registry::{PointState, VolumeId};

use crate::verbs::rebuild::foundation::Look;
use crate::verbs::rebuild::known::Known;
use crate::verbs::rebuild::unread::Unread;

/// The ids whose rows stand: the store has the volume still, and the activation is one of those that were there. What
/// is not among them is found by what its volume says, as an activation.
pub(super) fn find(look: &Look<'_>, known: &Known, told: &mut Vec<Unread>) -> Vec<VolumeId> {
    let mut stand = Vec::new();
    for (point, reserved) in &known.points {
        let owner = known.activations.iter().find(|(row, _)| row.name == point.activation);
        let has_owner = owner.is_some_and(|(row, reserved)| look.is_of(row.id, *reserved));
        let what = match &point.name {
            Some(name) => format!("the point {name} of {}", point.activation),
            None => format!("a disk of {} that a restore makes or has put aside", point.activation),
        };
        let why = match (look.made.contains_key(&point.id), look.is_of(point.id, *reserved)) {
            (true, true) if has_owner || point.state == PointState::Deleting => {
                stand.push(point.id);
                continue;
            }
            // Its activation is told already.
            (true, true) => continue,
            // Nobody was told of one, and of the other nothing is left to do.
            (false, _) if point.state != PointState::Kept => continue,
            (false, _) => "is gone from the store",
            (true, false) => "has another one's volume",
        };
        told.push(Unread::of(point.id, format!("{what} {why}")));
    }
    stand
}

/// The ids of disks that arrive and that the store has still. Of what it does not have nobody was told anything.
pub(super) fn arrivals(look: &Look<'_>, known: &Known) -> Vec<VolumeId> {
    let there = known.arrivals.iter().filter(|(row, reserved)| look.is_of(row.id, *reserved));
    there.map(|(row, _)| row.id).collect()
}
