//! What recovery makes of facts, one case each.

use registry::{ActivationState, Arrival, ArrivalState, Role, Seal, VolumeId};

use crate::plan::repair::*;

fn v(id: u32) -> VolumeId {
    VolumeId::new(id)
}

fn volume(id: u32, parent: Option<u32>, state: VolumeState) -> Volume {
    let role = if parent.is_some() { Role::Layer } else { Role::Template };
    let (id, parent) = (v(id), parent.map(v));
    Volume { id, role, parent, build: format!("b{id}"), bytes: 1, state, condemned: None }
}

fn sealed() -> VolumeState {
    VolumeState::Sealed(Seal {
        chain: None,
        diff: None,
        blob: None,
        tree: None,
        blocks: None,
        own_bytes: 0,
        entries: 0,
        content_bytes: 0,
    })
}

fn activation(name: &str, id: u32, state: ActivationState) -> Activation {
    let (name, reference) = (name.into(), "s3://b/p/".into());
    let (boot, unchecked, when_closed) = (None, false, None);
    Activation {
        name,
        reference,
        origin: v(1),
        id: v(id),
        bytes: 1,
        state,
        boot,
        unchecked,
        when_closed,
        endpoint: None,
        ttl: None,
        read_only: false,
        no_journal: false,
        former: None,
    }
}

fn mapped(name: &str, id: u32, mapping: Mapping) -> Mapped {
    Mapped { name: name.into(), id: v(id), mapping, bytes: 1 }
}

fn agreeing() -> Facts {
    Facts {
        volumes: vec![volume(1, None, sealed()), volume(2, Some(1), sealed())],
        activations: vec![
            activation("up", 3, ActivationState::Active),
            activation("down", 4, ActivationState::Inactive),
        ],
        mapped: vec![mapped("up", 3, Mapping::Live)],
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
    facts.mapped.push(mapped("pool-work-5", 5, Mapping::Live));
    assert_eq!(compare(&facts).unwrap(), [Repair::Discard { volume: v(5) }]);
    facts.live_volumes.push(v(5));
    assert_eq!(compare(&facts).unwrap(), []);
}

#[test]
fn children_are_deleted_before_their_parents() {
    let mut facts = agreeing();
    facts.volumes.push(volume(5, Some(2), VolumeState::Deleting));
    facts.volumes.push(volume(6, Some(5), VolumeState::Deleting));
    let repairs = compare(&facts).unwrap();
    assert_eq!(repairs, [Repair::Delete { volume: v(6) }, Repair::Delete { volume: v(5) }]);
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
    facts.mapped = vec![mapped("up", 3, Mapping::Half)];
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
    facts.mapped.push(mapped("hand", 2, Mapping::Live));
    facts.mapped.push(mapped("theirs", 99, Mapping::Live));
    let repairs = compare(&facts).unwrap();
    assert_eq!(repairs, [Repair::Unmap { volume: v(2) }]);
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

#[test]
fn who_only_looks_is_left_alone() {
    let mut facts = agreeing();
    facts.mapped.push(mapped("hand", 2, Mapping::Live));
    facts.mapped.push(mapped("down", 4, Mapping::Live));
    facts.looked_at = vec![v(2), v(4)];
    assert_eq!(compare(&facts).unwrap(), []);
    facts.looked_at.clear();
    let down = Repair::Settle { name: "down".into(), wish: "down" };
    assert_eq!(compare(&facts).unwrap(), [down, Repair::Unmap { volume: v(2) }]);
}

#[test]
fn a_renamed_device_is_known_by_its_volume_and_gets_its_name_back() {
    let mut facts = agreeing();
    facts.mapped = vec![mapped("other", 3, Mapping::Live)];
    let up = Repair::Settle { name: "up".into(), wish: "up" };
    assert_eq!(compare(&facts).unwrap(), [up]);
}

#[test]
fn a_device_that_was_made_larger_by_hand_has_that_size() {
    let mut facts = agreeing();
    facts.mapped[0].bytes = 9;
    let grown = Repair::Grown { name: "up".into(), bytes: 9 };
    assert_eq!(compare(&facts).unwrap(), [grown]);
    facts.mapped[0].bytes = 0;
    assert_eq!(compare(&facts).unwrap(), [], "a size that is not known is none");
}

#[test]
fn what_was_up_in_another_boot_is_unchecked_and_comes_up() {
    let mut facts = agreeing();
    facts.boot = Some("b".into());
    facts.activations[0].boot = Some("b".into());
    assert_eq!(compare(&facts).unwrap(), []);
    facts.mapped.clear();
    let up = Repair::Settle { name: "up".into(), wish: "up" };
    let by_hand = compare(&facts).unwrap();
    assert_eq!(by_hand, std::slice::from_ref(&up), "taken down by hand, in this boot");
    for earlier in [Some("a".to_owned()), None] {
        facts.activations[0].boot = earlier;
        let unchecked = Repair::Unchecked { name: "up".into() };
        assert_eq!(compare(&facts).unwrap(), [unchecked, up.clone()]);
    }
    facts.activations[0].unchecked = true;
    assert_eq!(compare(&facts).unwrap(), std::slice::from_ref(&up), "said once");
    facts.activations[0].unchecked = false;
    let VolumeState::Sealed(seal) = &mut facts.volumes[0].state else { panic!("it is sealed") };
    seal.blocks = registry::Digest::from_hex(&"5a".repeat(32));
    let replayed = std::slice::from_ref(&up);
    assert_eq!(compare(&facts).unwrap(), replayed, "a journal is replayed by the next mount");
    facts.activations[0].no_journal = true;
    let unchecked = Repair::Unchecked { name: "up".into() };
    assert_eq!(compare(&facts).unwrap(), [unchecked, up], "somebody wanted none");
}

#[test]
fn the_name_of_an_activation_that_leads_to_anothers_volume_is_taken_away() {
    let mut facts = agreeing();
    facts.mapped.push(mapped("down", 3, Mapping::Live));
    assert_eq!(compare(&facts).unwrap(), [], "a device has one name");
    facts.links = true;
    let stray = Repair::Stray { name: "down".into(), volume: v(3) };
    assert_eq!(compare(&facts).unwrap(), std::slice::from_ref(&stray));
    facts.live_activations = vec!["down".into()];
    assert_eq!(compare(&facts).unwrap(), []);
    facts.live_activations.clear();
    // A name of nobody is told, and left alone.
    facts.mapped[1].name = "ghost".into();
    assert_eq!((compare(&facts).unwrap(), facts.ghosts()), (vec![], vec![("ghost", "up")]));
    // That of one that is up is brought to its own.
    facts.mapped = vec![mapped("up", 4, Mapping::Live)];
    let settle = |name: &str, wish| Repair::Settle { name: name.into(), wish };
    assert_eq!(compare(&facts).unwrap(), [settle("up", "up"), settle("down", "down")]);
}

#[test]
fn a_wish_for_the_close_waits_for_it() {
    let mut facts = agreeing();
    facts.activations[0].when_closed = Some(WhenClosed::Rm);
    facts.held = vec![v(3)];
    assert_eq!(compare(&facts).unwrap(), []);
    facts.held.clear();
    let gone = Repair::Settle { name: "up".into(), wish: "gone" };
    assert_eq!(compare(&facts).unwrap(), [gone]);
    facts.activations[0].when_closed = Some(WhenClosed::Deactivate);
    let down = Repair::Settle { name: "up".into(), wish: "down" };
    assert_eq!(compare(&facts).unwrap(), [down]);
}

fn bar(goes: bool) -> Bar {
    let (image, serial, what) = ("s3://b/p/".into(), 2, "there is no image".into());
    Bar { why: crate::trust::bar::Why::Revoked { image, serial, what }, goes }
}

#[test]
fn what_may_not_be_up_does_not_come_up_and_goes_only_where_that_is_wished() {
    let mut facts = agreeing();
    facts.barred.insert("up".into(), bar(false));
    assert_eq!(compare(&facts).unwrap(), [], "it runs");
    assert!(facts.kept_down(&facts.activations[0]).is_none());
    for down in [Vec::new(), vec![mapped("up", 3, Mapping::Half)]] {
        facts.mapped = down;
        assert_eq!(compare(&facts).unwrap(), [], "it does not come up");
        assert!(facts.kept_down(&facts.activations[0]).is_some());
    }
    facts.barred.insert("up".into(), bar(true));
    assert_eq!(compare(&facts).unwrap(), [], "it is down");
    facts.mapped = vec![mapped("up", 3, Mapping::Live)];
    let goes = Repair::TakeDown { name: "up".into() };
    assert_eq!(compare(&facts).unwrap(), [goes]);
    // Wished already, for when it is closed.
    facts.activations[0].when_closed = Some(WhenClosed::Deactivate);
    facts.held = vec![v(3)];
    assert_eq!(compare(&facts).unwrap(), []);
    facts.held.clear();
    let down = Repair::Settle { name: "up".into(), wish: "down" };
    assert_eq!(compare(&facts).unwrap(), [down]);
}

#[test]
fn what_is_left_of_a_write_to_the_serials_is_taken_down() {
    let mut facts = agreeing();
    facts.serials = Some(v(9));
    assert_eq!(compare(&facts).unwrap(), []);
    facts.mapped.push(mapped("pool-work-9", 9, Mapping::Live));
    assert_eq!(compare(&facts).unwrap(), [Repair::Unmap { volume: v(9) }]);
}

#[test]
fn a_device_that_is_shorter_than_its_row_says_is_made_longer() {
    let mut facts = agreeing();
    facts.activations[0].bytes = 10 << 20;
    facts.mapped[0].bytes = 4 << 20;
    let longer = Repair::Lengthen { name: "up".into(), bytes: 10 << 20 };
    assert_eq!(compare(&facts).unwrap(), [longer]);
    // Under another name it is ours as well; what is looked at is rounded down to 1024 bytes.
    facts.activations[0].bytes = (4 << 20) + 1023;
    assert_eq!(compare(&facts).unwrap(), []);
    facts.activations[0].bytes = (4 << 20) + 1024;
    assert!(matches!(compare(&facts).unwrap()[..], [Repair::Lengthen { .. }]));
    // Where no length was seen there is none to compare, and what somebody is at is left to him.
    facts.mapped[0].bytes = 0;
    assert_eq!(compare(&facts).unwrap(), []);
    facts.mapped[0].bytes = 1 << 20;
    facts.live_activations.push("up".into());
    assert_eq!(compare(&facts).unwrap(), []);
}

#[test]
fn snapshots_that_nobody_keeps_are_taken_out_and_points_are_not() {
    let point = |id, activation: &str, name: Option<&str>, state| Point {
        id: v(id),
        activation: activation.into(),
        name: name.map(str::to_owned),
        bytes: 1,
        state,
        disk_state: None,
        created_ms: 0,
        identity: None,
    };
    let mut facts = agreeing();
    facts.points.push(point(20, "up", Some("kept"), PointState::Kept));
    assert_eq!(compare(&facts).unwrap(), []);
    facts.points.push(point(21, "up", None, PointState::Deleting));
    facts.points.push(point(22, "up", Some("died"), PointState::Reserved));
    facts.points.push(point(23, "gone", Some("orphan"), PointState::Kept));
    let of = |name: &str| Repair::Points { name: name.into() };
    assert_eq!(compare(&facts).unwrap(), [of("gone"), of("up")]);
    facts.live_activations.push("up".into());
    assert_eq!(compare(&facts).unwrap(), [of("gone")]);
}

#[test]
fn a_disk_that_arrives_stays_until_it_is_given_up() {
    let arrival = |name: &str, state| Arrival {
        name: name.into(),
        id: v(40),
        reference: "s3://b/p/".into(),
        origin: v(2),
        bytes: 1,
        stream: registry::Digest([1; 32]),
        base: None,
        state,
        next_block: 7,
        touched_ms: 0,
    };
    let mut facts = agreeing();
    facts.arrivals.push(arrival("half", ArrivalState::Arriving));
    assert_eq!(compare(&facts).unwrap(), []);
    facts.arrivals.push(arrival("begun", ArrivalState::Reserved));
    facts.arrivals.push(arrival("gone", ArrivalState::Deleting));
    facts.adrift.push(v(40));
    let of = |name: &str| Repair::Arrival { name: name.into() };
    let adrift = Repair::Adrift { volume: v(40) };
    assert_eq!(compare(&facts).unwrap(), [of("begun"), of("gone"), adrift]);
}
