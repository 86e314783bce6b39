//! The disks of activations in the registry: sizes, forks, points and the swap of a restore, against a real file.

use std::collections::BTreeSet;

use registry::{
    ActivationState, Arrival, ArrivalState, Digest, DiskState, Error, NewActivation, NewArrival,
    NewVolume, Point, PointState, Registry, Role, Seal, VolumeId, VolumeState,
};

fn none() -> BTreeSet<VolumeId> {
    BTreeSet::new()
}

/// A registry with the activation `a`, of 100 bytes, and its id.
fn with_activation(dir: &tempfile::TempDir) -> (Registry, VolumeId) {
    let mut registry = Registry::open(&dir.path().join("registry.db")).unwrap();
    let new = NewVolume { role: Role::Template, parent: None, build: "template", bytes: 1 << 20 };
    let origin = registry.write(|write| write.reserve_volume(&new, &none())).unwrap().id;
    let volume = registry.volume(origin).unwrap().unwrap();
    let (chain, diff, blob, tree, blocks) = (None, None, None, None, None);
    let (own_bytes, entries, content_bytes) = (0, 0, 0);
    let seal = Seal { chain, diff, blob, tree, blocks, own_bytes, entries, content_bytes };
    registry.write(|write| write.advance_volume(&volume, &VolumeState::Sealed(seal))).unwrap();
    let id = activation(&mut registry, "a", origin);
    (registry, id)
}

fn activation(registry: &mut Registry, name: &str, origin: VolumeId) -> VolumeId {
    let new = NewActivation {
        name,
        reference: "s3://b/p/",
        origin,
        bytes: 100,
        endpoint: None,
        ttl_s: None,
        read_only: false,
        no_journal: false,
        labels: &[],
    };
    let id = registry.write(|write| write.reserve_activation(&new, &none())).unwrap().id;
    let (from, next) = (ActivationState::Reserved, ActivationState::Active);
    registry.write(|write| write.advance_activation(name, from, next)).unwrap();
    id
}

fn point(registry: &mut Registry, of: &str, name: Option<&str>) -> Point {
    let id = registry.write(|write| write.reserve_point(of, name, 100, &none())).unwrap().id;
    registry.points().unwrap().into_iter().find(|point| point.id == id).unwrap()
}

#[test]
fn a_disk_grows_and_never_shrinks() {
    let dir = tempfile::tempdir().unwrap();
    let (mut registry, _) = with_activation(&dir);
    for (asked, has) in [(200, 200), (150, 200), (200, 200)] {
        registry.write(|write| write.resize_activation("a", asked)).unwrap();
        assert_eq!(registry.activation("a").unwrap().unwrap().bytes, has);
    }
    let events = registry.events(Some("activation a"), 0, 100).unwrap();
    let told = events.iter().filter(|event| event.detail.contains("200 bytes")).count();
    assert_eq!(told, 1, "{events:?}");
}

#[test]
fn a_fork_remembers_of_whose_disk_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let (mut registry, _) = with_activation(&dir);
    registry.write(|write| write.put_unchecked("a")).unwrap();
    let origin = registry.activation("a").unwrap().unwrap().origin;
    activation(&mut registry, "b", origin);
    registry.write(|write| write.put_fork("b", "a")).unwrap();
    let fork = registry.fork("b").unwrap().unwrap();
    assert_eq!((fork.from.as_str(), fork.disk_state), ("a", None));
    registry.write(|write| write.put_fork_state("b", DiskState::AfterReplay)).unwrap();
    let fork = registry.fork("b").unwrap().unwrap();
    assert_eq!(fork.disk_state, Some(DiskState::AfterReplay));
    assert_eq!(registry.fork("a").unwrap(), None);
    assert_eq!(registry.forks().unwrap(), [("b".to_owned(), fork)]);
    // What nobody has looked at on the one, nobody has on the other.
    assert!(registry.activation("b").unwrap().unwrap().unchecked);
}

#[test]
fn a_point_is_kept_once_and_goes_with_its_activation() {
    let dir = tempfile::tempdir().unwrap();
    let (mut registry, _) = with_activation(&dir);
    let first = point(&mut registry, "a", Some("p"));
    assert!(registry.points_of("a").unwrap().is_empty(), "told of before it is there");
    assert!(registry.reserved_at(first.id).unwrap().is_some());
    registry.write(|write| write.keep_point(&first, DiskState::Clean)).unwrap();
    let kept = registry.points_of("a").unwrap();
    assert_eq!((kept.len(), kept[0].state), (1, PointState::Kept));
    assert_eq!(kept[0].disk_state, Some(DiskState::Clean));
    // One of each name; another id each time.
    registry.write(|write| write.reserve_point("a", Some("p"), 1, &none())).unwrap_err();
    registry.write(|write| write.condemn_point(first.id)).unwrap();
    let again = point(&mut registry, "a", Some("p"));
    assert!(again.id > first.id);
    registry.write(|write| write.forget_point(first.id)).unwrap();
    registry.write(|write| write.keep_point(&again, DiskState::CrashConsistent)).unwrap();
    // A kept one is not forgotten, whoever asks for that.
    registry.write(|write| write.forget_point(again.id)).unwrap();
    assert_eq!(registry.points().unwrap().len(), 1);
    let (from, next) = (ActivationState::Active, ActivationState::Deleting);
    registry.write(|write| write.advance_activation("a", from, next)).unwrap();
    assert_eq!(registry.points().unwrap()[0].state, PointState::Deleting);
    assert!(registry.points_of("a").unwrap().is_empty());
}

#[test]
fn a_restored_disk_is_given_and_the_old_one_put_aside_in_one_commit() {
    let dir = tempfile::tempdir().unwrap();
    let (mut registry, old) = with_activation(&dir);
    registry.write(|write| write.resize_activation("a", 900)).unwrap();
    let fresh = point(&mut registry, "a", None);
    let (before, after) =
        (registry.reserved_at(old).unwrap(), registry.reserved_at(fresh.id).unwrap());
    // Somebody else's disk is not put aside.
    let wrong = registry
        .write(|write| write.swap_disk(&fresh, VolumeId::new(old.get() + 70), "p"))
        .unwrap_err();
    assert!(matches!(wrong, Error::Conflict { .. }), "{wrong}");
    assert_eq!(registry.activation("a").unwrap().unwrap().id, old);
    registry.write(|write| write.swap_disk(&fresh, old, "p")).unwrap();
    let row = registry.activation("a").unwrap().unwrap();
    assert_eq!((row.id, row.bytes), (fresh.id, 100));
    let aside = registry.points().unwrap();
    assert_eq!((aside[0].id, aside[0].state), (old, PointState::Deleting));
    assert_eq!(registry.reserved_at(fresh.id).unwrap(), after);
    assert_eq!(registry.reserved_at(old).unwrap(), before);
}

fn arrival(registry: &mut Registry, name: &str, base: Option<VolumeId>) -> Arrival {
    let origin = registry.volumes().unwrap()[0].id;
    let (reference, bytes, stream) = ("s3://b/p/", 200, Digest([9; 32]));
    let new = NewArrival { name, reference, origin, bytes, stream, base };
    registry.write(|write| write.reserve_arrival(&new, &none())).unwrap();
    registry.arrival(name).unwrap().unwrap()
}

#[test]
fn an_arrival_becomes_an_activation_that_is_not_mapped_with_its_point() {
    let dir = tempfile::tempdir().unwrap();
    let (mut registry, _) = with_activation(&dir);
    let row = arrival(&mut registry, "new", None);
    assert_eq!((row.state, row.next_block), (ArrivalState::Reserved, 0));
    assert!(registry.reserved_at(row.id).unwrap().is_some());
    registry.write(|write| write.reach_arrival(row.id, 5)).unwrap();
    let row = registry.arrival("new").unwrap().unwrap();
    assert_eq!((row.state, row.next_block), (ArrivalState::Arriving, 5));
    assert!(registry.activation("new").unwrap().is_none(), "an activation before its end");
    // One that arrives is forgotten only after it was given up.
    registry.write(|write| write.forget_arrival("new", row.id)).unwrap();
    assert_eq!(registry.arrivals().unwrap().len(), 1);

    let made = point(&mut registry, "new", Some("monday"));
    let identity = Digest([4; 32]);
    let landed = Some((&made, DiskState::Clean, identity));
    registry.write(|write| write.land_arrival(&row, landed)).unwrap();
    let there = registry.activation("new").unwrap().unwrap();
    assert_eq!((there.id, there.bytes, there.state), (row.id, 200, ActivationState::Inactive));
    let points = registry.points_of("new").unwrap();
    assert_eq!((points.len(), points[0].identity), (1, Some(identity)));
    assert_eq!(registry.arrivals().unwrap(), []);
    // A name that is taken takes nothing.
    let row = arrival(&mut registry, "a", None);
    assert!(registry.write(|write| write.land_arrival(&row, None)).is_err());
    assert_eq!(registry.arrivals().unwrap().len(), 1);
}

#[test]
fn an_arrival_takes_the_place_of_a_disk_in_one_commit() {
    let dir = tempfile::tempdir().unwrap();
    let (mut registry, old) = with_activation(&dir);
    let base = point(&mut registry, "a", Some("base"));
    registry.write(|write| write.keep_point(&base, DiskState::Clean)).unwrap();
    let row = arrival(&mut registry, "a", Some(base.id));
    let made = point(&mut registry, "a", Some("next"));
    let landed = Some((&made, DiskState::AfterReplay, Digest([5; 32])));
    let other = VolumeId::new(old.get() + 100);
    let other = registry.write(|write| write.land_on_activation(&row, other, landed));
    assert!(matches!(other, Err(Error::Conflict { .. })), "{other:?}");
    assert_eq!(registry.activation("a").unwrap().unwrap().id, old);
    registry.write(|write| write.land_on_activation(&row, old, landed)).unwrap();
    let there = registry.activation("a").unwrap().unwrap();
    assert_eq!((there.id, there.bytes, there.state), (row.id, 200, ActivationState::Active));
    let aside: Vec<Point> = registry.points().unwrap();
    let aside = aside.iter().find(|point| point.id == old).unwrap();
    assert_eq!((aside.state, aside.name.as_deref()), (PointState::Deleting, None));
    let names: Vec<_> = registry.points_of("a").unwrap().into_iter().map(|p| p.name).collect();
    assert_eq!(names, [Some("base".into()), Some("next".into())]);
    assert!(registry.arrivals().unwrap().is_empty());
}
