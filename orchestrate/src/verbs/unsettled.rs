//! What is not as its row says: found by a look, without a change, and told with its reason.

use registry::{
    Activation, ActivationState, Arrival, PointState, Registry, Volume, VolumeId, VolumeState,
};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::error::leaves::whole;
use crate::host::Host;
use crate::plan::class::class;
use crate::plan::mapped::Mapped;
use crate::plan::repair::{self, Facts, Repair, compare};
use crate::plan::{self, Fence, Wish, epoch};
use crate::process::lock::Locks;
use crate::store::seam::Store;
use crate::verbs::judge::Judge;
use crate::verbs::travel::at_work;

/// One thing that is not as its row says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unsettled {
    /// `activation NAME` or `volume N`.
    pub subject: String,
    /// What kind of difference it is.
    pub kind: Kind,
    /// Why, and what ends it.
    pub why: String,
    /// The word of the failure's class, where something fails.
    pub class: Option<String>,
}

/// What kind of difference there is between a row and the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// It cannot be mended as long as something is as it is.
    Stuck,
    /// The next command mends it.
    Pending,
    /// Somebody wished it for the time when its device is closed, which has come.
    Wished,
    /// Somebody looks at it through a device that refuses writes.
    LookedAt,
    /// It should be up, and may not: its image is revoked, or the scan policy does not let it through.
    Barred,
}

impl Kind {
    /// Whether something is not as it should be.
    pub fn is_trouble(self) -> bool {
        match self {
            Kind::Stuck | Kind::Pending | Kind::Barred => true,
            Kind::Wished | Kind::LookedAt => false,
        }
    }
}

impl Unsettled {
    /// What could not be mended.
    pub(crate) fn of(repair: &Repair, error: &Error) -> Unsettled {
        Unsettled {
            subject: subject(repair),
            kind: Kind::Stuck,
            why: whole(error),
            class: Some(class(error).word().into()),
        }
    }

    /// What somebody looks at.
    pub(crate) fn look(facts: &Facts, id: VolumeId) -> Unsettled {
        let device = facts.mapped.iter().find(|mapped| mapped.id == id);
        let name = device.map_or_else(String::new, |device| device.name.clone());
        let activation = facts.activations.iter().find(|row| row.id == id);
        let subject = match activation {
            Some(row) => format!("activation {}", row.name),
            None => format!("volume {id}"),
        };
        let why = Error::LookedAt { volume: id, name }.to_string();
        Unsettled { subject, kind: Kind::LookedAt, why, class: None }
    }

    /// What should be up and may not come up.
    pub(crate) fn barred(facts: &Facts) -> Vec<Unsettled> {
        let told = |row: &Activation| {
            let bar = facts.kept_down(row)?;
            let (subject, why) = (format!("activation {}", row.name), bar.why.to_string());
            // It is as it was decided: nobody has failed.
            Some(Unsettled { subject, kind: Kind::Barred, why, class: None })
        };
        facts.activations.iter().filter_map(told).collect()
    }

    /// Names that lead to an activation's volume and that nobody here has given.
    pub(crate) fn ghosts(facts: &Facts) -> impl Iterator<Item = Unsettled> {
        facts.ghosts().into_iter().map(|(name, owner)| Unsettled {
            subject: format!("name {name}"),
            kind: Kind::Stuck,
            why: format!(
                "it leads to the volume of activation {owner}, and no row knows of it: it is left alone; \
                 remove that link by hand"
            ),
            class: None,
        })
    }

    /// What the next command mends, as far as can be seen; with what will keep it from that.
    fn pending(repair: &Repair, facts: &Facts, store: &dyn Store) -> Unsettled {
        match obstacle(repair, facts, store) {
            Ok(Some(error)) => Unsettled::of(repair, &error),
            Ok(None) | Err(_) => Unsettled {
                subject: subject(repair),
                kind: if is_wished(repair, facts) { Kind::Wished } else { Kind::Pending },
                why: format!("the next command, or `orchestrate recover`, is to {repair}"),
                class: None,
            },
        }
    }
}

/// Whether it is only what somebody has wished for the time when it is closed.
fn is_wished(repair: &Repair, facts: &Facts) -> bool {
    let Repair::Settle { name, .. } = repair else { return false };
    facts.activations.iter().any(|row| row.name == *name && row.when_closed.is_some())
}

/// Whether something is not as it should be; else it is bookkeeping.
fn is_of_note(repair: &Repair) -> bool {
    match repair {
        Repair::CatchUp { .. } | Repair::Grown { .. } | Repair::Unchecked { .. } => false,
        Repair::Discard { .. }
        | Repair::Delete { .. }
        | Repair::Unmap { .. }
        | Repair::Lengthen { .. }
        | Repair::Points { .. }
        | Repair::Arrival { .. }
        | Repair::Adrift { .. }
        | Repair::TakeDown { .. }
        | Repair::Stray { .. }
        | Repair::Rename { .. }
        | Repair::Settle { .. } => true,
    }
}

fn subject(repair: &Repair) -> String {
    match repair {
        Repair::CatchUp { .. } => "store".into(),
        Repair::Discard { volume }
        | Repair::Delete { volume }
        | Repair::Adrift { volume }
        | Repair::Unmap { volume } => {
            format!("volume {volume}")
        }
        Repair::Grown { name, .. }
        | Repair::Lengthen { name, .. }
        | Repair::Points { name }
        | Repair::Unchecked { name }
        | Repair::TakeDown { name }
        | Repair::Stray { name, .. }
        | Repair::Rename { name, .. }
        | Repair::Settle { name, .. } => format!("activation {name}"),
        Repair::Arrival { name } => format!("arrival {name}"),
    }
}

/// What would keep a repair from being made, by a look.
fn obstacle(repair: &Repair, facts: &Facts, store: &dyn Store) -> Result<Option<Error>, Error> {
    match repair {
        Repair::CatchUp { .. }
        | Repair::Grown { .. }
        | Repair::Lengthen { .. }
        | Repair::Points { .. }
        | Repair::Arrival { .. }
        | Repair::Unchecked { .. }
        | Repair::TakeDown { .. }
        | Repair::Stray { .. } => Ok(None),
        Repair::Rename { name, .. } => {
            let row = facts.activations.iter().find(|row| row.name == *name);
            let by = row.map(|row| store.stranger(Some(row.id), name)).transpose()?.flatten();
            Ok(by.map(|by| Error::Stranger { name: name.clone(), by }))
        }
        Repair::Discard { volume }
        | Repair::Delete { volume }
        | Repair::Adrift { volume }
        | Repair::Unmap { volume } => {
            let held = store.held(*volume)?;
            Ok(held.map(|by| Error::Held { what: format!("volume {volume}"), by }))
        }
        Repair::Settle { name, .. } => {
            let Some(row) = facts.activations.iter().find(|row| row.name == *name) else {
                return Ok(None);
            };
            if let Some(by) = store.held(row.id)? {
                return Ok(Some(Error::Held { what: name.clone(), by }));
            }
            if repair::wish(row) != Wish::Up {
                return Ok(None);
            }
            if let Some(by) = store.stranger(Some(row.id), name)? {
                return Ok(Some(Error::Stranger { name: name.clone(), by }));
            }
            let gone = !store.ids()?.contains(&row.id);
            Ok(gone.then_some(Error::Gone { volume: row.id }))
        }
    }
}

/// Gathers what recovery goes by. The caller holds the store's lock, or only looks.
pub(crate) fn facts(
    registry: &Registry,
    store: &dyn Store,
    locks: &Locks,
    judge: Judge<'_>,
) -> Result<Facts, Error> {
    let mut facts = Facts {
        serials: registry.serial_volume()?,
        volumes: registry.volumes()?,
        activations: registry.activations()?,
        points: registry.points()?,
        mapped: store.mapped()?,
        boot: store.boot()?,
        links: store.names_are_links(),
        registry_transaction: registry.transaction_id()?,
        store_transaction: store.transaction_id()?,
        ..Facts::default()
    };
    facts.barred = judge.bars(registry, &facts.activations, &facts.volumes)?;
    (facts.looked_at, facts.held) = (looked_at(&facts, store)?, held(&facts, store)?);
    for row in &facts.volumes {
        if !repair::is_settled(row, &facts) && locks.is_build_held(&row.build)? {
            facts.live_volumes.push(row.id);
        }
    }
    (facts.arrivals, facts.adrift) = left_on_the_way(registry, &facts, store, locks)?;
    for row in &facts.activations {
        if !facts.is_as_wished(row) && locks.is_activation_held(&row.name)? {
            facts.live_activations.push(row.name.clone());
        }
    }
    for name in facts.unkept() {
        if locks.is_activation_held(&name)? {
            facts.live_activations.push(name);
        }
    }
    Ok(facts)
}

/// The disks that arrive and that nobody is at work on; and the volumes of these and of points that are mapped while
/// nobody is at work on them or has them open.
fn left_on_the_way(
    registry: &Registry,
    facts: &Facts,
    store: &dyn Store,
    locks: &Locks,
) -> Result<(Vec<Arrival>, Vec<VolumeId>), Error> {
    let (mut arrivals, mut adrift) = (Vec::new(), Vec::new());
    let mapped = |id: VolumeId| facts.mapped.iter().any(|mapped| mapped.id == id);
    for row in registry.arrivals()? {
        if !locks.is_build_held(&at_work::arriving(&row.name))? {
            if mapped(row.id) && store.held(row.id)?.is_none() {
                adrift.push(row.id);
            }
            arrivals.push(row);
        }
    }
    for point in facts.points.iter().filter(|point| mapped(point.id)) {
        let kept = point.state == PointState::Kept;
        if kept
            && !locks.is_build_held(&at_work::sending(point.id))?
            && store.held(point.id)?.is_none()
        {
            adrift.push(point.id);
        }
    }
    Ok((arrivals, adrift))
}

/// Only what is mapped and must not be is asked, so that a host in order is not asked more.
fn looked_at(facts: &Facts, store: &dyn Store) -> Result<Vec<VolumeId>, Error> {
    let sealed = |row: &&Volume| matches!(row.state, VolumeState::Sealed(_));
    // One that refuses writes by itself is left by a killed process, and nobody looks at it.
    let inactive = |row: &&Activation| row.state == ActivationState::Inactive && !row.read_only;
    let volumes = facts.volumes.iter().filter(sealed).map(|row| row.id);
    let activations = facts.activations.iter().filter(inactive).map(|row| row.id);
    let mut found = Vec::new();
    for id in volumes.chain(activations) {
        // A look of our own ends with its process, and what is left of it goes.
        let of_hand = |mapped: &Mapped| mapped.id == id && !store.is_work(mapped);
        if facts.mapped.iter().any(of_hand) && store.read_only(id)? {
            found.push(id);
        }
    }
    Ok(found)
}

fn held(facts: &Facts, store: &dyn Store) -> Result<Vec<VolumeId>, Error> {
    let mut found = Vec::new();
    for row in facts.activations.iter().filter(|row| row.when_closed.is_some()) {
        if store.held(row.id)?.is_some() {
            found.push(row.id);
        }
    }
    Ok(found)
}

/// What is not as its row says now. A change that somebody is in the middle of is not seen twice.
pub(crate) fn look(
    registry: &Registry,
    store: &dyn Store,
    locks: &Locks,
    judge: Judge<'_>,
) -> Result<Vec<Unsettled>, Error> {
    let mut seen: Option<Vec<Repair>> = None;
    for _ in 0..2 {
        let facts = facts(registry, store, locks, judge)?;
        let mut repairs = match compare(&facts) {
            Ok(repairs) => repairs,
            // That is told by itself, and nothing is mended before.
            Err(Error::Fence { .. } | Error::Owner(_)) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        repairs.retain(is_of_note);
        // It may be written to just now.
        let serials = facts.serials.map(|volume| Repair::Unmap { volume });
        repairs.retain(|repair| Some(repair) != serials.as_ref());
        if let Some(before) = &seen {
            repairs.retain(|repair| before.contains(repair));
        }
        if repairs.is_empty() || seen.is_some() {
            let mut found: Vec<Unsettled> =
                repairs.iter().map(|repair| Unsettled::pending(repair, &facts, store)).collect();
            found.extend(facts.looked_at.iter().map(|id| Unsettled::look(&facts, *id)));
            found.extend(Unsettled::barred(&facts));
            found.extend(Unsettled::ghosts(&facts));
            return Ok(found);
        }
        seen = Some(repairs);
    }
    Ok(Vec::new())
}

/// What rows have and the store has not: somebody deleted it by hand. `found` is what is told already. The
/// store lists all its ids for it, so it is for who asks after the host's health, and not for every look.
pub(crate) fn gone(
    registry: &Registry,
    store: &dyn Store,
    found: &[Unsettled],
) -> Result<Vec<Unsettled>, Error> {
    let before = store.ids()?;
    let mut missing: Vec<(VolumeId, String, Error)> = Vec::new();
    for row in registry.activations()? {
        match row.state {
            ActivationState::Active | ActivationState::Inactive => missing.push((
                row.id,
                format!("activation {}", row.name),
                Error::Gone { volume: row.id },
            )),
            ActivationState::Reserved | ActivationState::Deleting => {}
        }
    }
    for row in registry.volumes()? {
        match row.state {
            VolumeState::Sealed(_) => {
                missing.push((row.id, format!("volume {}", row.id), Error::Lost { volume: row.id }))
            }
            VolumeState::Building | VolumeState::Deleting => {}
        }
    }
    missing.retain(|(id, subject, _)| {
        !before.contains(id) && found.iter().all(|told| told.subject != *subject)
    });
    if missing.is_empty() {
        return Ok(Vec::new());
    }
    // Made since the first list, it is in the second; on its way out, its row says so by now.
    let after = store.ids()?;
    missing.retain(|(id, ..)| !after.contains(id));
    Ok(missing
        .into_iter()
        .map(|(_, subject, error)| Unsettled {
            subject,
            kind: Kind::Stuck,
            why: whole(&error),
            class: Some(class(&error).word().into()),
        })
        .collect())
}

impl Host {
    pub(crate) fn facts(&self) -> Result<Facts, Error> {
        facts(&self.registry, self.store.as_ref(), &self.locks, self.judge())
    }

    /// What is not as its row says, by a look: nothing is changed.
    pub fn unsettled(&self) -> Result<Vec<Unsettled>, Error> {
        let mut found = look(&self.registry, self.store.as_ref(), &self.locks, self.judge())?;
        found.extend(self.apart()?);
        Ok(found)
    }

    /// That the store is another registry's by now, or of another moment. What is told of images and
    /// activations is then as this registry had it, and may not be so any more.
    fn apart(&self) -> Result<Option<Unsettled>, Error> {
        let look =
            || Ok::<_, Error>((self.registry.transaction_id()?, self.store.transaction_id()?));
        let (registry, store) = look()?;
        // Somebody may have committed in between.
        if plan::fence(registry, store) != Fence::Apart || look()? != (registry, store) {
            return Ok(None);
        }
        let error = epoch::apart(registry, store);
        Ok(Some(Unsettled {
            subject: "store".into(),
            kind: Kind::Stuck,
            why: whole(&error),
            class: Some(class(&error).word().into()),
        }))
    }
}
