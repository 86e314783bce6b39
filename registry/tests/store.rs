//! The registry against a real file: edges, compare-and-swap, reopening, foreign and newer files.

use std::path::PathBuf;

use registry::{
    ActivationState, Blob, Digest, Error, Image, ImageLayer, Kind, KnownBy, NewActivation,
    NewVolume, Registry, Role, Seal, Source, StoreBinding, VolumeState, chain_id,
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

fn digest(n: u8) -> Digest {
    Digest([n; 32])
}

fn seal(parent: Option<Digest>, n: u8) -> Seal {
    Seal {
        chain: Some(chain_id(parent, digest(n))),
        diff: Some(digest(n)),
        blob: Some(digest(n)),
        tree: None,
        own_bytes: 4096,
        entries: 3,
        content_bytes: 12,
    }
}

fn template(registry: &mut Registry) -> u32 {
    let new = NewVolume { role: Role::Template, parent: None, build: "template", bytes: 1 << 20 };
    let id = registry.write(|write| write.reserve_volume(&new)).unwrap();
    let volume = registry.volume(id).unwrap().unwrap();
    let blank = Seal { chain: None, diff: None, blob: None, ..seal(None, 0) };
    registry.write(|write| write.advance_volume(&volume, &VolumeState::Sealed(blank))).unwrap();
    id
}

fn layer(registry: &mut Registry, parent: u32, below: Option<Digest>, n: u8) -> u32 {
    let build = format!("on {parent}: {n}");
    let new = NewVolume { role: Role::Layer, parent: Some(parent), build: &build, bytes: 1 << 20 };
    let id = registry.write(|write| write.reserve_volume(&new)).unwrap();
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
    let id = registry.write(|write| write.reserve_volume(&new)).unwrap();
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
        write.reserve_volume(&NewVolume {
            role: Role::Layer,
            parent: Some(base),
            build: "b",
            bytes: 1,
        })?;
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
    let new = NewActivation { name: "web", reference: "s3://b/p/", origin: top, bytes: 1 << 20 };
    registry.write(|write| write.reserve_activation(&new)).unwrap();
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
fn a_source_is_known_by_etag_but_not_taken_for_read() {
    let place = place();
    let mut registry = Registry::open(&place.path).unwrap();
    let source =
        Source { endpoint: "http://h:1".into(), bucket: "b".into(), etag: "\"e\"".into(), size: 7 };
    let blob = Blob { digest: digest(1), diff: digest(2), size: 7, diff_size: 9 };
    registry
        .write(|write| {
            write.put_blob(&blob)?;
            write.put_source(&source, "golang/1.tar", &blob, KnownBy::Read)
        })
        .unwrap();
    assert_eq!(registry.known(&source, None).unwrap(), Some(blob.clone()));
    assert_eq!(registry.known(&source, Some("node/1.tar")).unwrap(), None);
    registry.write(|write| write.put_source(&source, "node/1.tar", &blob, KnownBy::Etag)).unwrap();
    assert_eq!(registry.known(&source, Some("node/1.tar")).unwrap(), None);
    assert_eq!(registry.known(&source, Some("golang/1.tar")).unwrap(), Some(blob));
    let other = Source { size: 8, ..source };
    assert_eq!(registry.known(&other, None).unwrap(), None);
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
    registry.write(|write| write.reserve_volume(&new)).unwrap();
}

#[test]
fn a_registry_belongs_to_one_store() {
    let place = place();
    let mut registry = Registry::open(&place.path).unwrap();
    let ours = StoreBinding { kind: "thin".into(), id: "pool-a".into() };
    registry.bind(&ours, 4, 100).unwrap();
    registry.bind(&ours, 9, 900).unwrap();
    assert_eq!(registry.transaction_id().unwrap(), 4);
    assert_eq!(template(&mut registry), 100);
    let other = StoreBinding { id: "pool-b".into(), ..ours };
    assert!(matches!(registry.bind(&other, 0, 1), Err(Error::OtherStore { .. })));
}

#[test]
fn ids_end_at_24_bits() {
    let place = place();
    let mut registry = Registry::open(&place.path).unwrap();
    let store = StoreBinding { kind: "thin".into(), id: "p".into() };
    registry.bind(&store, 0, 16_777_215).unwrap();
    assert_eq!(template(&mut registry), 16_777_215);
    let new = NewVolume { role: Role::Layer, parent: None, build: "b", bytes: 1 };
    let refused = registry.write(|write| write.reserve_volume(&new));
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
