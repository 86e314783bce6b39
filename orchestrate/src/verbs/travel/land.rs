//! The end of a receive: the volume that arrived becomes an activation's disk, in one commit.

use registry::{ActivationState, Arrival, Point, VolumeId};

use crate::error::Error;
use crate::host::Host;
use crate::host::ids::{self, New};
use crate::plan::Wish;
use crate::store::snapshot::Snapshot;
use crate::travel::head::Head;
use crate::verbs::travel::receive::ReceivedDisk;

impl Host {
    /// Gives what has arrived and was compared to the activation. The arrival's lock is held.
    pub(crate) fn land(
        &mut self,
        head: &Head,
        arrival: &Arrival,
        blocks: u64,
        stream_bytes: u64,
    ) -> Result<ReceivedDisk, Error> {
        let name = arrival.name.as_str();
        let _mine = self.locks.activation(name)?;
        let _using = self.locks.images_shared()?;
        self.drop_points(name)?;
        let mut up = false;
        match arrival.base {
            None => {
                if let Some(row) = self.registry.activation(name)? {
                    let by = format!("an activation of {}", row.reference);
                    return Err(Error::Taken { name: name.into(), by });
                }
                self.put_down(head, arrival, None)?;
            }
            Some(_) => {
                let row = self.with_disk(name)?;
                if let Some(by) = self.store.held(row.id)? {
                    return Err(Error::Held { what: format!("activation {name}"), by });
                }
                up = row.state == ActivationState::Active;
                self.take_node(&row)?;
                self.store.unmap(row.id, name)?;
                let put = self.put_down(head, arrival, Some(row.id));
                // The old disk where it has the new one, and what was made for the new one where it has the old.
                self.drop_points(name)?;
                if up && self.bar(&row)?.is_none() {
                    self.drive(name, Wish::Up)?;
                }
                put?;
            }
        }
        Ok(ReceivedDisk {
            name: name.into(),
            image: arrival.reference.clone(),
            volume: arrival.id,
            bytes: arrival.bytes,
            point: head.point.as_ref().map(|point| point.name.clone()),
            stream_bytes,
            blocks,
            resumed_from: arrival.next_block,
            already: false,
            mapped: up && self.is_up(name, &arrival.reference)?,
        })
    }

    /// Makes the point that it was received as, and the commit. `old` is the activation's volume, where it has one.
    fn put_down(
        &mut self,
        head: &Head,
        arrival: &Arrival,
        old: Option<VolumeId>,
    ) -> Result<(), Error> {
        let _alone = self.locks.store()?;
        let point = match &head.point {
            None => None,
            Some(point) => {
                let there = self.registry.points_of(&arrival.name)?;
                if there.iter().any(|there| there.name.as_ref() == Some(&point.name)) {
                    let (name, point) = (&arrival.name, &point.name);
                    return Err(Error::Usage(format!(
                        "{name} has got another point {point:?} meanwhile: `orchestrate points {name} --remove {point}`, \
                         and receive it again"
                    )));
                }
                self.store.admit(1)?;
                let (name, bytes) = (Some(point.name.as_str()), arrival.bytes);
                let new = New::Point { activation: &arrival.name, name, bytes };
                let origin = arrival.id;
                let (id, made) =
                    ids::take(self, &new, |host, id| host.store.snapshot(Snapshot { id, origin }))?;
                made?;
                self.point_of(Some(id))?
            }
        };
        let point: Option<(&Point, _, _)> = point
            .as_ref()
            .zip(head.point.as_ref())
            .map(|(point, sent)| (point, sent.consistency, sent.identity));
        self.fenced(|write| match old {
            None => write.land_arrival(arrival, point),
            Some(old) => write.land_on_activation(arrival, old, point),
        })
    }
}
