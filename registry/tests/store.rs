//! The registry against a real file: edges, compare-and-swap, reopening, foreign and newer files.

use std::path::PathBuf;

use registry::{
    ActivationState, Blob, Device, Digest, Error, Image, ImageLayer, Kind, Known, KnownBy,
    NewActivation, NewVolume, Registry, Role, Seal, Source, StoreBinding, VolumeId, VolumeState,
    chain_id,
};

struct Place {
    _dir: tempfile::TempDir,
    path: PathBuf,
}

fn place() -> Place {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("registry.db");
    Place { _dir: dir, path }
}

/// A store that has nothing of anybody else.
fn none() -> std::collections::BTreeSet<VolumeId> {
    std::collections::BTreeSet::new()
}

fn digest(n: u8) -> Digest {
    Digest([n; 32])
}

fn seal(parent: Option<Digest>, n: u8) -> Seal {
    Seal {
        chain: Some(chain_id(parent, digest(n))),
        diff: Some(digest(n)),
        blob: Some(digest(n)),
        tree: None,
        blocks: Some(digest(n + 90)),
        own_bytes: 4096,
        entries: 3,
        content_bytes: 12,
    }
}

fn template(registry: &mut Registry) -> VolumeId {
    let new = NewVolume { role: Role::Template, parent: None, build: "template", bytes: 1 << 20 };
    let id = registry.write(|write| write.reserve_volume(&new, &none())).unwrap().id;
    let volume = registry.volume(id).unwrap().unwrap();
    let blank = Seal { chain: None, diff: None, blob: None, ..seal(None, 0) };
    registry.write(|write| write.advance_volume(&volume, &VolumeState::Sealed(blank))).unwrap();
    id
}

fn layer(registry: &mut Registry, parent: VolumeId, below: Option<Digest>, n: u8) -> VolumeId {
    let build = format!("on {parent}: {n}");
    let new = NewVolume { role: Role::Layer, parent: Some(parent), build: &build, bytes: 1 << 20 };
    let id = registry.write(|write| write.reserve_volume(&new, &none())).unwrap().id;
    let volume = registry.volume(id).unwrap().unwrap();
    assert_eq!(volume.state, VolumeState::Building);
    let sealed = VolumeState::Sealed(seal(below, n));
    registry.write(|write| write.advance_volume(&volume, &sealed)).unwrap();
    id
}

#[test]
fn a_sealed_layer_is_found_by_its_chain_id_after_reopening() {
    let place = place();
    let mut registry = Registry::open(&place.path).unwrap();
    let base = template(&mut registry);
    let first = layer(&mut registry, base, None, 1);
    let second = layer(&mut registry, first, Some(digest(1)), 2);
    drop(registry);
    let registry = Registry::open(&place.path).unwrap();
    let found = registry.layer(chain_id(Some(digest(1)), digest(2))).unwrap().unwrap();
    assert_eq!((found.id, found.parent), (second, Some(first)));
    assert_eq!(found.state, VolumeState::Sealed(seal(Some(digest(1)), 2)));
    assert_eq!(registry.check().unwrap(), []);
    let history = registry.events(Some(&format!("volume {second}")), 0, 10).unwrap();
    let states: Vec<_> = history.iter().map(|event| event.to.as_deref().unwrap()).collect();
    assert_eq!(states, ["building", "sealed"]);
}

#[test]
fn an_id_is_never_used_again() {
    let place = place();
    let mut registry = Registry::open(&place.path).unwrap();
    let base = template(&mut registry);
    let first = layer(&mut registry, base, None, 1);
    let volume = registry.volume(first).unwrap().unwrap();
    registry.write(|write| write.advance_volume(&volume, &VolumeState::Deleting)).unwrap();
    registry.write(|write| write.forget_volume(first)).unwrap();
    assert!(layer(&mut registry, base, None, 1) > first);
}

#[test]
fn a_stale_view_of_a_volume_changes_nothing() {
    let place = place();
    let mut registry = Registry::open(&place.path).unwrap();
    let base = template(&mut registry);
    let new = NewVolume { role: Role::Layer, parent: Some(base), build: "b", bytes: 1 };
    let id = registry.write(|write| write.reserve_volume(&new, &none())).unwrap().id;
    let stale = registry.volume(id).unwrap().unwrap();
    registry.write(|write| write.advance_volume(&stale, &VolumeState::Deleting)).unwrap();
    let late = registry
        .write(|write| write.advance_volume(&stale, &VolumeState::Sealed(seal(None, 1))))
        .unwrap_err();
    assert_eq!(late.kind(), Kind::Conflict);
    assert_eq!(registry.volume(id).unwrap().unwrap().state, VolumeState::Deleting);
}

#[test]
fn a_failed_change_leaves_nothing_of_itself() {
    let place = place();
    let mut registry = Registry::open(&place.path).unwrap();
    let base = template(&mut registry);
    let before = (registry.transaction_id().unwrap(), registry.events(None, 0, 99).unwrap().len());
    let failed = registry.write(|write| {
        write.next_transaction()?;
        let (role, parent) = (Role::Layer, Some(base));
        write.reserve_volume(&NewVolume { role, parent, build: "b", bytes: 1 }, &none())?;
        write.advance_activation("nobody", ActivationState::Active, ActivationState::Inactive)
    });
    assert_eq!(failed.unwrap_err().kind(), Kind::Conflict);
    let after = (registry.transaction_id().unwrap(), registry.events(None, 0, 99).unwrap().len());
    assert_eq!(before, after);
    assert_eq!(registry.volumes().unwrap().len(), 1);
}

#[test]
fn edges_hold_in_the_file_against_a_stray_update() {
    let place = place();
    let mut registry = Registry::open(&place.path).unwrap();
    let base = template(&mut registry);
    let first = layer(&mut registry, base, None, 1);
    drop(registry);
    let stray = rusqlite::Connection::open(&place.path).unwrap();
    for sql in [
        "UPDATE volumes SET state = 'building' WHERE id = ?1",
        "DELETE FROM volumes WHERE id = ?1",
        "UPDATE events SET detail = 'x' WHERE seq = ?1",
    ] {
        assert!(stray.execute(sql, [first]).is_err(), "{sql} went through");
    }
}

#[test]
fn an_activation_goes_through_its_life() {
    let place = place();
    let mut registry = Registry::open(&place.path).unwrap();
    let base = template(&mut registry);
    let top = layer(&mut registry, base, None, 1);
    let (name, reference, bytes) = ("web", "s3://b/p/", 1 << 20);
    let endpoint = Some("http://h:1");
    let new = NewActivation { name, reference, origin: top, bytes, endpoint, ..Default::default() };
    registry.write(|write| write.reserve_activation(&new, &none())).unwrap();
    use ActivationState::{Active, Deleting, Inactive, Reserved};
    for (from, to) in
        [(Reserved, Active), (Active, Inactive), (Inactive, Active), (Active, Deleting)]
    {
        registry.write(|write| write.advance_activation("web", from, to)).unwrap();
    }
    registry.write(|write| write.forget_activation("web")).unwrap();
    assert_eq!(registry.activation("web").unwrap(), None);
}

#[test]
fn to_whom_a_device_is_given_is_remembered() {
    let place = place();
    let mut registry = Registry::open(&place.path).unwrap();
    let base = template(&mut registry);
    for name in ["web", "other"] {
        let (reference, bytes) = ("s3://b/p/", 1 << 20);
        let new = NewActivation { name, reference, origin: base, bytes, ..Default::default() };
        registry.write(|write| write.reserve_activation(&new, &none())).unwrap();
    }
    assert_eq!(registry.device("web").unwrap(), Device::default());
    assert_eq!(registry.devices().unwrap(), []);
    let given = Device {
        uid: Some(4_294_967_294),
        gid: Some(0),
        mode: Some(0o660),
        node: Some("/run/jail/rootfs".into()),
        node_leads_to: None,
    };
    registry.write(|write| write.put_device("web", &given)).unwrap();
    registry.write(|write| write.put_node("web", Some("253:7"))).unwrap();
    let leads = Device { node_leads_to: Some("253:7".into()), ..given.clone() };
    assert_eq!(registry.devices().unwrap(), [("web".to_owned(), leads)]);
    registry.write(|write| write.put_node("web", None)).unwrap();
    assert_eq!(registry.device("web").unwrap(), given);
    for wrong in
        [Device { uid: Some(u32::MAX), ..given.clone() }, Device { mode: Some(0o1777), ..given }]
    {
        assert!(registry.write(|write| write.put_device("web", &wrong)).is_err(), "{wrong:?}");
    }
}

/// A bucket with one object that was read, whose ETag was its MD5 or was not.
fn read_once(registry: &mut Registry, etag: &str, md5: Option<bool>) -> (Source, Blob) {
    let source =
        Source { endpoint: "http://h:1".into(), bucket: "b".into(), etag: etag.into(), size: 7 };
    let blob = Blob { digest: digest(1), diff: digest(2), size: 7, diff_size: 9 };
    let doubt = registry.write(|write| {
        write.put_blob(&blob)?;
        write.put_read(&source, "golang/1.tar", &blob, md5)
    });
    assert_eq!(doubt.unwrap().is_some(), md5 == Some(false));
    (source, blob)
}

const MD5: &str = "\"0123456789abcdef0123456789abcdef\"";
const PARTS: &str = "\"0123456789abcdef0123456789abcdef-2\"";

#[test]
fn another_key_is_known_only_by_an_etag_that_was_the_md5_of_what_was_read() {
    for (etag, md5, guessed) in [
        (MD5, Some(true), true),
        (MD5, None, false),
        (MD5, Some(false), false),
        (PARTS, None, false),
        (PARTS, Some(true), false),
        ("\"e\"", Some(true), false),
    ] {
        let place = place();
        let mut registry = Registry::open(&place.path).unwrap();
        let (source, blob) = read_once(&mut registry, etag, md5);
        let own = registry.known(&source, "golang/1.tar", false).unwrap();
        assert_eq!(own, Some(Known { blob: blob.clone(), by: KnownBy::Read }), "{etag} {md5:?}");
        let guess = registry.known(&source, "node/1.tar", true).unwrap();
        assert_eq!(guess.is_some(), guessed, "{etag} {md5:?}");
        assert_eq!(registry.known(&source, "node/1.tar", false).unwrap(), None);
        for other in [
            Source { size: 8, ..source.clone() },
            Source { bucket: "c".into(), ..source.clone() },
            Source { endpoint: "http://h:2".into(), ..source.clone() },
        ] {
            assert_eq!(registry.known(&other, "golang/1.tar", true).unwrap(), None);
        }
        // A guess that was published is no word of the object itself.
        registry.write(|write| write.put_guess(&source, "node/1.tar", &blob)).unwrap();
        assert_eq!(registry.known(&source, "node/1.tar", false).unwrap(), None);
    }
}

#[test]
fn one_etag_that_is_not_the_md5_ends_all_guesses_of_its_bucket_for_good() {
    let place = place();
    let mut registry = Registry::open(&place.path).unwrap();
    let (source, blob) = read_once(&mut registry, MD5, Some(true));
    assert!(registry.known(&source, "node/1.tar", true).unwrap().is_some());
    let odd = Source { etag: MD5.replace('0', "f"), ..source.clone() };
    let read = |registry: &mut Registry, md5| {
        registry.write(|write| write.put_read(&odd, "odd/1.tar", &blob, md5)).unwrap()
    };
    assert!(read(&mut registry, Some(false)).unwrap().contains("not the MD5"));
    assert_eq!(registry.known(&source, "node/1.tar", true).unwrap(), None);
    // It is told once, and not taken back.
    assert_eq!(read(&mut registry, Some(false)), None);
    assert_eq!(read(&mut registry, Some(true)), None);
    assert_eq!(registry.known(&source, "node/1.tar", true).unwrap(), None);
    assert!(registry.etag_doubt("http://h:1", "b").unwrap().is_some());
    assert_eq!(registry.etag_doubt("http://h:1", "c").unwrap(), None);
    let own = registry.known(&source, "golang/1.tar", true).unwrap();
    assert_eq!(own.map(|known| known.blob), Some(blob));
}

#[test]
fn two_contents_of_one_etag_are_told_and_each_key_keeps_its_own() {
    for (etag, all) in [(MD5, true), (PARTS, false)] {
        let place = place();
        let mut registry = Registry::open(&place.path).unwrap();
        let (source, blob) = read_once(&mut registry, etag, Some(true));
        let other = Blob { digest: digest(3), diff: digest(4), ..blob.clone() };
        let told = registry.write(|write| {
            write.put_blob(&other)?;
            write.put_read(&source, "node/1.tar", &other, Some(true))
        });
        let told = told.unwrap().unwrap();
        assert!(told.contains("node/1.tar") && told.contains("golang/1.tar"), "{told}");
        let known = |key| registry.known(&source, key, true).unwrap().map(|known| known.blob);
        assert_eq!(known("golang/1.tar"), Some(blob));
        assert_eq!(known("node/1.tar"), Some(other));
        assert_eq!(known("third/1.tar"), None);
        assert_eq!(registry.etag_doubt("http://h:1", "b").unwrap().is_some(), all);
        let events = registry.events(None, 0, 99).unwrap();
        let doubts = events.iter().filter(|event| event.to.as_deref() == Some("etags doubted"));
        assert_eq!(doubts.count(), 1);
    }
}

#[test]
fn an_image_reads_back_in_order() {
    let place = place();
    let mut registry = Registry::open(&place.path).unwrap();
    let base = template(&mut registry);
    let volume = layer(&mut registry, base, None, 1);
    let blob = Blob { digest: digest(1), diff: digest(1), size: 7, diff_size: 7 };
    let layers = (1..12)
        .map(|n| ImageLayer {
            key: format!("p/{n}.tar"),
            etag: None,
            size: 7,
            digest: digest(1),
            volume,
        })
        .collect();
    let image = Image {
        reference: "s3://b/p/".into(),
        endpoint: "http://h:1".into(),
        chain: digest(1),
        layers,
        pinned: false,
        used: 0,
    };
    registry
        .write(|write| {
            write.put_blob(&blob)?;
            write.put_image(&image)
        })
        .unwrap();
    assert_eq!(registry.image("s3://b/p/").unwrap(), Some(image.clone()));
    assert_eq!(registry.images().unwrap(), [image]);
}

#[test]
fn many_open_a_new_registry_at_once() {
    for _ in 0..20 {
        let place = place();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| reserve_one(&mut Registry::open(&place.path).unwrap()));
            }
        });
        assert_eq!(Registry::open(&place.path).unwrap().check().unwrap(), []);
    }
}

fn reserve_one(registry: &mut Registry) {
    let new = NewVolume { role: Role::Template, parent: None, build: "template", bytes: 1 };
    registry.write(|write| write.reserve_volume(&new, &none())).unwrap();
}

#[test]
fn a_registry_belongs_to_one_store() {
    let place = place();
    let mut registry = Registry::open(&place.path).unwrap();
    let ours = StoreBinding { kind: "thin".into(), id: "pool-a".into() };
    registry.bind(&ours, 4, VolumeId::new(100)).unwrap();
    registry.bind(&ours, 9, VolumeId::new(900)).unwrap();
    assert_eq!(registry.transaction_id().unwrap(), 4);
    assert_eq!(template(&mut registry).get(), 100);
    let other = StoreBinding { id: "pool-b".into(), ..ours };
    assert!(matches!(registry.bind(&other, 0, VolumeId::new(1)), Err(Error::OtherStore { .. })));
}

#[test]
fn ids_end_at_24_bits() {
    let place = place();
    let mut registry = Registry::open(&place.path).unwrap();
    let store = StoreBinding { kind: "thin".into(), id: "p".into() };
    registry.bind(&store, 0, VolumeId::new(16_777_215)).unwrap();
    assert_eq!(template(&mut registry), VolumeId::MAX);
    let new = NewVolume { role: Role::Layer, parent: None, build: "b", bytes: 1 };
    let refused = registry.write(|write| write.reserve_volume(&new, &none()));
    assert!(matches!(refused, Err(Error::IdsExhausted)));
}

#[test]
fn foreign_newer_and_damaged_files_are_refused_and_left_alone() {
    let foreign = place();
    rusqlite::Connection::open(&foreign.path)
        .unwrap()
        .execute_batch("CREATE TABLE t(x); PRAGMA user_version = 0;")
        .unwrap();
    let newer = place();
    drop(Registry::open(&newer.path).unwrap());
    let conn = rusqlite::Connection::open(&newer.path).unwrap();
    conn.pragma_update(None, "user_version", 99).unwrap();
    drop(conn);
    let damaged = place();
    std::fs::write(&damaged.path, vec![b'x'; 8192]).unwrap();
    for place in [foreign, newer, damaged] {
        let before = std::fs::read(&place.path).unwrap();
        let refused = Registry::open(&place.path).unwrap_err();
        assert_eq!(refused.kind(), Kind::Refused, "{refused}");
        assert_eq!(std::fs::read(&place.path).unwrap(), before, "{refused}: the file was written");
    }
}

#[test]
fn a_forged_chain_id_is_found() {
    let place = place();
    let mut registry = Registry::open(&place.path).unwrap();
    let base = template(&mut registry);
    let first = layer(&mut registry, base, None, 1);
    layer(&mut registry, first, Some(digest(1)), 2);
    assert_eq!(registry.check().unwrap(), []);
    let stray = rusqlite::Connection::open(&place.path).unwrap();
    stray.execute("UPDATE volumes SET diff = ?1 WHERE id = ?2", (digest(9).hex(), first)).unwrap();
    let findings = registry.check().unwrap();
    assert!(findings.iter().any(|finding| finding.check == "chain"), "{findings:?}");
}

#[test]
fn ids_that_the_store_has_are_passed_over_and_told() {
    let place = place();
    let mut registry = Registry::open(&place.path).unwrap();
    let base = template(&mut registry);
    let above = |more: u32| VolumeId::new(base.get() + more);
    let theirs = std::collections::BTreeSet::from([above(1), above(2), above(4), VolumeId::MAX]);
    let new = NewVolume { role: Role::Layer, parent: Some(base), build: "b", bytes: 1 };
    let first = registry.write(|write| write.reserve_volume(&new, &theirs)).unwrap();
    assert_eq!((first.id, first.skipped), (above(3), vec![above(1), above(2)]));
    let (name, reference, bytes) = ("n", "s3://b/p/", 1);
    let new = NewActivation { name, reference, origin: base, bytes, ..Default::default() };
    let second = registry.write(|write| write.reserve_activation(&new, &theirs)).unwrap();
    assert_eq!((second.id, second.skipped), (above(5), vec![above(4)]));
    // Recorded with the transaction id of the commit that it was reserved by.
    let at = registry.transaction_id().unwrap() + 1;
    assert_eq!(registry.reserved_at(first.id).unwrap(), Some(at));
    assert_eq!(registry.reserved_at(second.id).unwrap(), Some(at));
    // A foreign volume with the last id of all takes none of the others away.
    let place = self::place();
    let mut registry = Registry::open(&place.path).unwrap();
    let store = StoreBinding { kind: "thin".into(), id: "p".into() };
    registry.bind(&store, 0, VolumeId::new(16_777_216)).unwrap();
    assert_eq!(template(&mut registry).get(), 1);
}

#[test]
fn a_row_over_somebody_elses_volume_goes_and_its_try_does_not_count() {
    let place = place();
    let mut registry = Registry::open(&place.path).unwrap();
    let base = template(&mut registry);
    let new = NewVolume { role: Role::Layer, parent: Some(base), build: "b", bytes: 1 };
    for begun in [1, 2] {
        let id = registry.write(|write| write.reserve_volume(&new, &none())).unwrap().id;
        assert_eq!(registry.attempts("b").unwrap(), begun);
        if begun == 2 {
            registry.write(|write| write.disown_volume(id, "theirs")).unwrap();
            assert_eq!(registry.volume(id).unwrap(), None);
        }
    }
    assert_eq!(registry.attempts("b").unwrap(), 1);
    let (name, reference, bytes) = ("n", "s3://b/p/", 1);
    let new = NewActivation { name, reference, origin: base, bytes, ..Default::default() };
    registry.write(|write| write.reserve_activation(&new, &none())).unwrap();
    registry.write(|write| write.disown_activation("n", "theirs")).unwrap();
    assert_eq!(registry.activation("n").unwrap(), None);
    let event = registry.events(Some("activation n"), 0, 9).unwrap().pop().unwrap();
    assert_eq!(
        (event.from.as_deref(), event.to, event.detail),
        (Some("reserved"), None, "theirs".into())
    );
}

#[test]
fn a_condemned_layer_gives_its_chain_id_up_and_remembers_it() {
    let place = place();
    let mut registry = Registry::open(&place.path).unwrap();
    let base = template(&mut registry);
    let bad = layer(&mut registry, base, None, 1);
    let chain = chain_id(None, digest(1));
    assert!(registry.write(|write| write.condemn_volume(bad, "one byte differs")).unwrap());
    assert!(!registry.write(|write| write.condemn_volume(bad, "again")).unwrap());
    assert!(!registry.write(|write| write.condemn_volume(base, "no layer")).unwrap());
    assert_eq!(registry.layer(chain).unwrap(), None);
    let row = registry.volume(bad).unwrap().unwrap();
    assert_eq!(row.condemned.as_deref(), Some("one byte differs"));
    assert!(matches!(&row.state, VolumeState::Sealed(seal) if seal.chain == Some(chain)));
    // A sound one takes its place, and both are sound rows.
    let good = layer(&mut registry, base, None, 1);
    assert_eq!(registry.layer(chain).unwrap().unwrap().id, good);
    assert_eq!(registry.check().unwrap(), []);
    registry.write(|write| write.advance_volume(&row, &VolumeState::Deleting)).unwrap();
    registry.write(|write| write.forget_volume(bad)).unwrap();
    assert_eq!(registry.layer(chain).unwrap().unwrap().id, good);
}
