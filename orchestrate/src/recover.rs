//! Compares rows with devices and makes them agree. [`compare`] is pure; performing its list ends in
//! the same place whatever was killed, also when recovery itself was.

use std::collections::HashMap;

use registry::{Activation, Volume, VolumeState};
use serde::Serialize;

use crate::plan::{self, ActivationStep, Fence, Mapping, VolumeStep, Wish};
use crate::{Error, Host, perform, stream};

/// One thing to mend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
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
        volume: u32,
    },
    /// A volume on its way out is taken out.
    Delete {
        /// The volume.
        volume: u32,
    },
    /// A sealed volume is mapped and must not be.
    Unmap {
        /// The volume.
        volume: u32,
    },
    /// An activation is brought to what its row says.
    Settle {
        /// The activation.
        name: String,
        /// `up`, `down` or `gone`.
        wish: &'static str,
    },
}

/// The facts of one moment.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Rows.
    pub volumes: Vec<Volume>,
    /// Rows.
    pub activations: Vec<Activation>,
    /// What the store has mapped, by volume.
    pub mapped: HashMap<u32, Mapping>,
    /// Volumes that a living process is building.
    pub live_volumes: Vec<u32>,
    /// Activations that a living process is changing.
    pub live_activations: Vec<String>,
    /// The registry's transaction id.
    pub registry_transaction: u64,
    /// The store's transaction id.
    pub store_transaction: u64,
}

/// What has to be mended, in the order in which it can be.
///
/// # Errors
/// [`Error::Fence`] when registry and store are not of the same moment: then nothing is.
pub fn compare(facts: &Facts) -> Result<Vec<Repair>, Error> {
    let (registry, store) = (facts.registry_transaction, facts.store_transaction);
    let mut repairs = Vec::new();
    match plan::fence(registry, store) {
        Fence::Agree => {}
        Fence::InFlight => repairs.push(Repair::CatchUp { from: store, to: registry }),
        Fence::Apart => return Err(Error::Fence { registry, store }),
    }
    for row in &facts.activations {
        if facts.live_activations.contains(&row.name) {
            continue;
        }
        if let Some(wish) = unsettled(row, &facts.mapped) {
            repairs.push(Repair::Settle { name: row.name.clone(), wish: word(wish) });
        }
    }
    // The youngest first: a child goes before its parent.
    for row in facts.volumes.iter().rev() {
        if facts.live_volumes.contains(&row.id) {
            continue;
        }
        match plan::volume(&row.state, mapping_of(&facts.mapped, row.id)) {
            VolumeStep::Keep => {}
            VolumeStep::Unmap => repairs.push(Repair::Unmap { volume: row.id }),
            VolumeStep::Discard => repairs.push(Repair::Discard { volume: row.id }),
            VolumeStep::Delete => repairs.push(Repair::Delete { volume: row.id }),
        }
    }
    // What is mapped and in no row is not ours: a row is there before its mapping and goes after it.
    Ok(repairs)
}

fn mapping_of(mapped: &HashMap<u32, Mapping>, id: u32) -> Mapping {
    mapped.get(&id).copied().unwrap_or(Mapping::Absent)
}

/// What an activation has yet to become; none when it is as its row says.
fn unsettled(row: &Activation, mapped: &HashMap<u32, Mapping>) -> Option<Wish> {
    let wish = plan::settled(row.state);
    let step = plan::activation(Some(row.state), mapping_of(mapped, row.id), wish);
    (step != ActivationStep::Done).then_some(wish)
}

fn word(wish: Wish) -> &'static str {
    match wish {
        Wish::Up => "up",
        Wish::Down => "down",
        Wish::Gone => "gone",
    }
}

impl Host {
    /// Mends what killed runs left. Cheap when there is nothing: one look at rows and mappings.
    /// What a living process is at work on is left to it.
    ///
    /// # Errors
    /// [`Error::Fence`], or the first repair that failed.
    pub fn recover(&mut self, dry_run: bool) -> Result<Vec<Repair>, Error> {
        // Repairs change facts; a repair that leaves more to do is a bug, so the rounds are few.
        let mut done = Vec::new();
        for _ in 0..4 {
            let repairs = {
                let _alone = self.locks.store()?;
                compare(&self.facts()?)?
            };
            if repairs.is_empty() {
                if !dry_run {
                    self.sweep_spools();
                }
                return Ok(done);
            }
            if dry_run {
                return Ok(repairs);
            }
            for repair in &repairs {
                self.say(1, format_args!("recover: {repair:?}"));
                self.mend(repair)?;
            }
            done.extend(repairs);
        }
        Ok(done)
    }

    /// Spools that nobody came back for go. It is no repair: nothing waits for it or fails by it.
    fn sweep_spools(&self) {
        let age = self.settings.spool_age;
        match stream::sweep(&self.settings.state, age) {
            Ok((0, _)) => {}
            Ok((count, bytes)) => {
                self.say(
                    1,
                    format_args!(
                        "removed {count} spools of {bytes} bytes, {} h old",
                        age.as_secs() / 3600
                    ),
                );
            }
            Err(error) => self.say(1, format_args!("old spools stay: {error}")),
        }
    }

    /// Allows builds again that were begun too often.
    pub fn allow_retries(&mut self) -> Result<(), Error> {
        Ok(self.registry.write(|write| write.settle_attempts())?)
    }

    fn facts(&self) -> Result<Facts, Error> {
        let volumes = self.registry.volumes()?;
        let activations = self.registry.activations()?;
        let mapped = self.store.mapped()?.iter().map(|m| (m.id, m.mapping)).collect();
        let mut live_volumes = Vec::new();
        for row in &volumes {
            let settled = matches!(row.state, VolumeState::Sealed(_))
                && mapping_of(&mapped, row.id) == Mapping::Absent;
            if !settled && self.locks.try_build(&row.build)?.is_none() {
                live_volumes.push(row.id);
            }
        }
        let mut live_activations = Vec::new();
        for row in &activations {
            if unsettled(row, &mapped).is_some() && self.locks.try_activation(&row.name)?.is_none()
            {
                live_activations.push(row.name.clone());
            }
        }
        Ok(Facts {
            registry_transaction: self.registry.transaction_id()?,
            store_transaction: self.store.transaction_id()?,
            volumes,
            activations,
            mapped,
            live_volumes,
            live_activations,
        })
    }

    fn mend(&mut self, repair: &Repair) -> Result<(), Error> {
        match repair {
            Repair::CatchUp { from, to } => {
                let _alone = self.locks.store()?;
                match self.store.transaction_id()? {
                    now if now == *from => self.store.set_transaction_id(*from, *to),
                    _ => Ok(()),
                }
            }
            Repair::Discard { volume } | Repair::Delete { volume } | Repair::Unmap { volume } => {
                self.mend_volume(*volume)
            }
            Repair::Settle { name, .. } => {
                let Some(_mine) = self.locks.try_activation(name)? else { return Ok(()) };
                match self.registry.activation(name)? {
                    Some(row) => self.drive(name, plan::settled(row.state)),
                    None => Ok(()),
                }
            }
        }
    }

    /// Looks again under the lock: the facts may have moved since they were compared.
    fn mend_volume(&mut self, id: u32) -> Result<(), Error> {
        for _ in 0..3 {
            let Some(row) = self.registry.volume(id)? else { return Ok(()) };
            let Some(_dead) = self.locks.try_build(&row.build)? else { return Ok(()) };
            let _alone = self.locks.store()?;
            let Some(row) = self.registry.volume(id)? else { return Ok(()) };
            let mapped = self.store.mapped_as(id)?;
            let mapping = mapped.map_or(Mapping::Absent, |mapped| mapped.mapping);
            match plan::volume(&row.state, mapping) {
                VolumeStep::Keep => return Ok(()),
                step @ (VolumeStep::Unmap | VolumeStep::Discard | VolumeStep::Delete) => {
                    perform::settle_volume(self, &row, step)?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use registry::{ActivationState, Role, Seal};

    use super::*;

    fn volume(id: u32, parent: Option<u32>, state: VolumeState) -> Volume {
        let role = if parent.is_some() { Role::Layer } else { Role::Template };
        Volume { id, role, parent, build: format!("b{id}"), bytes: 1, state }
    }

    fn sealed() -> VolumeState {
        VolumeState::Sealed(Seal {
            chain: None,
            diff: None,
            blob: None,
            tree: None,
            own_bytes: 0,
            entries: 0,
            content_bytes: 0,
        })
    }

    fn activation(name: &str, id: u32, state: ActivationState) -> Activation {
        let (name, reference) = (name.into(), "s3://b/p/".into());
        Activation { name, reference, origin: 1, id, bytes: 1, state }
    }

    fn agreeing() -> Facts {
        Facts {
            volumes: vec![volume(1, None, sealed()), volume(2, Some(1), sealed())],
            activations: vec![
                activation("up", 3, ActivationState::Active),
                activation("down", 4, ActivationState::Inactive),
            ],
            mapped: HashMap::from([(3, Mapping::Live)]),
            registry_transaction: 9,
            store_transaction: 9,
            ..Facts::default()
        }
    }

    #[test]
    fn a_settled_host_needs_nothing() {
        assert_eq!(compare(&agreeing()).unwrap(), []);
    }

    #[test]
    fn a_dead_build_is_discarded_and_a_living_one_is_not() {
        let mut facts = agreeing();
        facts.volumes.push(volume(5, Some(2), VolumeState::Building));
        facts.mapped.insert(5, Mapping::Live);
        assert_eq!(compare(&facts).unwrap(), [Repair::Discard { volume: 5 }]);
        facts.live_volumes.push(5);
        assert_eq!(compare(&facts).unwrap(), []);
    }

    #[test]
    fn children_are_deleted_before_their_parents() {
        let mut facts = agreeing();
        facts.volumes.push(volume(5, Some(2), VolumeState::Deleting));
        facts.volumes.push(volume(6, Some(5), VolumeState::Deleting));
        let repairs = compare(&facts).unwrap();
        assert_eq!(repairs, [Repair::Delete { volume: 6 }, Repair::Delete { volume: 5 }]);
    }

    #[test]
    fn after_a_reboot_only_what_was_active_is_mapped_again() {
        let mut facts = agreeing();
        facts.mapped.clear();
        let up = Repair::Settle { name: "up".into(), wish: "up" };
        assert_eq!(compare(&facts).unwrap(), [up]);
    }

    #[test]
    fn half_made_devices_and_unborn_activations_are_settled() {
        let mut facts = agreeing();
        facts.mapped.insert(3, Mapping::Half);
        facts.activations.push(activation("unborn", 7, ActivationState::Reserved));
        let repairs = compare(&facts).unwrap();
        assert_eq!(
            repairs,
            [
                Repair::Settle { name: "up".into(), wish: "up" },
                Repair::Settle { name: "unborn".into(), wish: "gone" }
            ]
        );
        facts.live_activations = vec!["up".into(), "unborn".into()];
        assert_eq!(compare(&facts).unwrap(), []);
    }

    #[test]
    fn a_mapped_sealed_volume_is_unmapped_and_what_is_not_ours_is_left_alone() {
        let mut facts = agreeing();
        facts.mapped.insert(2, Mapping::Live);
        facts.mapped.insert(99, Mapping::Live);
        let repairs = compare(&facts).unwrap();
        assert_eq!(repairs, [Repair::Unmap { volume: 2 }]);
    }

    #[test]
    fn one_commit_in_flight_is_caught_up_with_and_another_day_is_refused() {
        let mut facts = agreeing();
        facts.store_transaction = 8;
        assert_eq!(compare(&facts).unwrap(), [Repair::CatchUp { from: 8, to: 9 }]);
        for store in [7, 10] {
            facts.store_transaction = store;
            assert!(matches!(compare(&facts), Err(Error::Fence { .. })));
        }
    }
}
