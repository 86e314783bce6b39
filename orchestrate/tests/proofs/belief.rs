//! What a rebuild believes: the registry that was there before any volume, and of what a guest could have written
//! nothing but what it says of its own volume. The guests here write any bytes to their activations, good records
//! of other volumes among them.

use std::fs;

use hmac::{Hmac, Mac as _};
use rusqlite::Connection;
use serde_json::{Value, json};
use sha2::Sha256;

use crate::bench::{Bench, Host};

const A: &str = "s3://bucket/a/";
const B: &str = "s3://bucket/b/";

/// What must be as it was of each activation.
const ACTIVATIONS: &str =
    "SELECT name, reference, origin, id, bytes, state FROM activations ORDER BY name";

/// A record under a key of one's own choice, as a volume has it.
fn sealed(key: [u8; 32], text: &Value) -> Vec<u8> {
    let text = text.to_string();
    let mut seal = Hmac::<Sha256>::new_from_slice(&key).unwrap();
    seal.update(text.as_bytes());
    let mut bytes = b"veneer-sealed-1\n".to_vec();
    bytes.extend(u32::try_from(text.len()).unwrap().to_le_bytes());
    bytes.extend(seal.finalize().into_bytes());
    bytes.extend(text.as_bytes());
    bytes.resize(1024, 0);
    bytes
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn record(host: &Host<'_>, id: u32) -> Vec<u8> {
    fs::read(host.store().join("notes").join(id.to_string())).unwrap()
}

/// What whoever has the volume may do.
fn write_record(host: &Host<'_>, id: u32, bytes: &[u8]) {
    fs::write(host.store().join("notes").join(id.to_string()), bytes).unwrap();
}

fn id(host: &Host<'_>, sql: &str) -> u32 {
    host.rows(sql).first().unwrap_or_else(|| panic!("no row: {sql}")).parse().unwrap()
}

fn activation(host: &Host<'_>, name: &str) -> u32 {
    id(host, &format!("SELECT id FROM activations WHERE name = '{name}'"))
}

/// The volume of an image's last layer.
fn top(host: &Host<'_>, image: &str) -> u32 {
    let sql = format!(
        "SELECT volume FROM image_layers WHERE reference = '{image}' ORDER BY pos DESC LIMIT 1"
    );
    id(host, &sql)
}

/// Why a rebuild tells of a volume.
fn told(done: &Value, volume: u32) -> String {
    let all = done["unread"].as_array().unwrap();
    let lines = all.iter().filter(|line| line["volume"] == volume);
    lines.map(|line| line.to_string()).collect::<Vec<_>>().join("\n")
}

fn two<'b>(bench: &'b Bench) -> Host<'b> {
    let host = bench.host("host");
    host.ok(&["activate", A, "--name", "a-1"]);
    host.ok(&["activate", B, "--name", "b-1"]);
    host
}

#[test]
fn what_the_old_registry_says_of_an_activation_goes_before_what_its_guest_wrote() {
    let bench = Bench::small();
    let one = two(&bench);
    let (guest, other) = (activation(&one, "a-1"), top(&one, B));
    let template = id(&one, "SELECT id FROM volumes WHERE role = 'template'");
    let of_itself = |role: &str| {
        let mut text = json!({"id": guest, "role": role, "parent": null, "bytes": 1_u64 << 40});
        if role == "template" {
            text["key"] = json!(hex(&[7; 32]));
        }
        sealed([7; 32], &text)
    };
    // A file system that says it has 16 TiB.
    let mut huge = record(&one, guest);
    huge.resize(2048, 0);
    huge[1024 + 0x04..1024 + 0x08].copy_from_slice(&u32::MAX.to_le_bytes());
    huge[1024 + 0x18] = 2;
    huge[1024 + 0x38..1024 + 0x3a].copy_from_slice(&[0x53, 0xef]);
    let writings: Vec<(&str, Vec<u8>)> = vec![
        ("another layer's good record", record(&one, other)),
        ("the other guest's", record(&one, activation(&one, "b-1"))),
        ("nothing", Vec::new()),
        ("zeros", vec![0; 1024]),
        ("noise", vec![0xa5; 1024]),
        ("a record of a volume that is not there", {
            sealed([7; 32], &json!({"id": 4242, "role": "layer", "parent": 1, "bytes": 1}))
        }),
        ("a layer of its own", of_itself("layer")),
        ("a template of its own", of_itself("template")),
        ("a large file system", huge),
        ("believed serials", b"veneer-serials1\nzzzzzzzzzzzzzzzzzzzzzz".to_vec()),
    ];
    for (what, bytes) in writings {
        let host = one.copy_to("written");
        write_record(&host, guest, &bytes);
        let before = (host.rows(ACTIVATIONS), host.rows("SELECT id, chain FROM volumes"));
        let done = host.ok(&["rebuild"]);
        let after = (host.rows(ACTIVATIONS), host.rows("SELECT id, chain FROM volumes"));
        assert_eq!(after, before, "{what}");
        assert_eq!(done["foreign"], json!([]), "{what}");
        assert_eq!(
            host.rows("SELECT id FROM volumes WHERE role = 'template'"),
            [template.to_string()]
        );
        host.check_tree("a-1", 3);
        host.ok(&["recover"]);
        host.check();
        // It is nobody's to purge.
        let purged = host.said(&["gc", "--purge-foreign", &guest.to_string()]);
        assert_eq!(purged.0, 1, "{what}: {}", purged.1);
        host.check_tree("a-1", 3);
    }
}

/// A record whose seal is good, of a layer that had the id which the guest's volume came to have.
#[test]
fn a_record_of_before_says_nothing_of_the_volume_that_has_its_id_now() {
    let bench = Bench::small();
    let host = bench.host("host");
    host.ok(&["activate", A, "--name", "a-1"]);
    host.ok(&["ensure", B]);
    let id = top(&host, B);
    let kept = record(&host, id);
    host.ok(&["rm", B]);
    host.ok(&["gc"]);
    host.lose_registry();
    host.ok(&["rebuild"]);
    // The registry that was lost is not there to say which ids were given.
    host.ok(&["activate", A, "--name", "guest"]);
    assert_eq!(activation(&host, "guest"), id, "the test needs the same id again");
    let tree = host.store().join("active/guest/srv");
    fs::create_dir_all(tree.join("layer-4")).unwrap();
    fs::write(tree.join("layer-4/forged"), "the guest's").unwrap();
    write_record(&host, id, &kept);
    for lost in [false, true] {
        let host = host.copy_to("replayed");
        if lost {
            host.lose_registry();
        }
        let done = host.ok(&["rebuild"]);
        assert_eq!(done["layers"], 3, "{done}");
        assert_eq!(done["foreign"], json!([]), "{done}");
        assert_eq!(done["activations"].as_array().unwrap().len(), 2, "{done}");
        host.ok(&["activate", B, "--name", "victim"]);
        host.check_tree("victim", 4);
        assert!(!host.store().join("active/victim/srv/layer-4/forged").exists(), "lost: {lost}");
        host.ok(&["recover"]);
        host.check();
    }
}

/// Two guests forge a template and a layer on it, where the template's own record is gone.
#[test]
fn no_guest_founds_a_store() {
    let bench = Bench::small();
    let one = two(&bench);
    let template = id(&one, "SELECT id FROM volumes WHERE role = 'template'");
    let (first, second) = (activation(&one, "a-1"), activation(&one, "b-1"));
    let diff =
        one.rows("SELECT diff FROM volumes WHERE role = 'layer' ORDER BY id LIMIT 1")[0].clone();
    let blob =
        one.rows("SELECT blob FROM volumes WHERE role = 'layer' ORDER BY id LIMIT 1")[0].clone();
    let key = [9; 32];
    let forged = json!({"id": first, "role": "template", "parent": null, "bytes": 1 << 20, "key": hex(&key)});
    let layer = json!({"id": second, "role": "layer", "parent": first, "bytes": 1 << 20, "layer": {
        "blob": blob, "size": 1, "diff": diff, "diff_size": 1, "chain": diff, "tree": null, "entries": 1,
        "content": 1}});
    write_record(&one, first, &sealed(key, &forged));
    write_record(&one, second, &sealed(key, &layer));
    for gone in [&b""[..], &[0; 1024]] {
        write_record(&one, template, gone);
        let before = one.rows(ACTIVATIONS);
        for words in [&["rebuild"][..], &["rebuild", "--take-over"]] {
            let host = one.copy_to("with");
            let done = host.ok(words);
            assert_eq!((&done["layers"], &done["foreign"]), (&json!(4), &json!([])), "{done}");
            assert!(told(&done, template).contains("registry backup"), "{done}");
            assert_eq!(host.rows(ACTIVATIONS), before);
            host.ok(&["activate", B, "--name", "b-2"]);
            host.check_tree("b-2", 4);
            host.ok(&["recover"]);
            host.check();
        }
        // Without its registry nothing tells what is true, and nothing is made of what is not.
        for whole in [false, true] {
            let host = one.copy_to("without");
            match whole {
                true => fs::remove_dir_all(host.state()).unwrap(),
                false => host.lose_registry(),
            }
            for words in [&["rebuild"][..], &["rebuild", "--take-over"]] {
                let (code, said) = host.said(words);
                assert_eq!(code, 100, "{said}");
                assert!(said.contains("has the seal record of a template"), "{said}");
                assert!(!host.state().join("registry.db").exists(), "a registry was made");
            }
            // A backup of it does.
            fs::create_dir_all(host.state()).unwrap();
            fs::copy(one.state().join("registry.db"), host.state().join("registry.db")).unwrap();
            host.ok(&["rebuild", "--take-over"]);
            assert_eq!(host.rows(ACTIVATIONS), before);
        }
    }
}

/// A store of before volumes had records: its registry has no key.
#[test]
fn where_no_volume_has_a_record_the_old_registry_tells_all_and_a_forged_one_nothing() {
    let bench = Bench::small();
    let host = two(&bench);
    let conn = Connection::open(host.state().join("registry.db")).unwrap();
    conn.execute("UPDATE meta SET seal_key = NULL", []).unwrap();
    drop(conn);
    fs::remove_file(host.state().join("store.json")).unwrap();
    for name in fs::read_dir(host.store().join("notes")).unwrap() {
        fs::write(name.unwrap().path(), "").unwrap();
    }
    let guest = activation(&host, "a-1");
    let text =
        json!({"id": guest, "role": "template", "parent": null, "bytes": 1, "key": hex(&[9; 32])});
    write_record(&host, guest, &sealed([9; 32], &text));
    let rows = |host: &Host<'_>| {
        (host.rows(ACTIVATIONS), host.rows("SELECT id, chain, condemned FROM volumes ORDER BY id"))
    };
    let before = rows(&host);
    let done = host.ok(&["rebuild"]);
    assert_eq!(done["foreign"], json!([]), "{done}");
    assert_eq!(rows(&host), before);
    host.ok(&["recover"]);
    host.check();
}

#[test]
fn a_damaged_record_of_a_layer_is_told_and_takes_nothing_with_it() {
    let bench = Bench::small();
    let one = two(&bench);
    let layers: Vec<u32> = one
        .rows("SELECT id FROM volumes WHERE role = 'layer' ORDER BY id")
        .iter()
        .map(|row| row.parse().unwrap())
        .collect();
    let before = one.rows(ACTIVATIONS);
    for layer in layers {
        // The registry that was there knows it.
        let host = one.copy_to("known");
        let mut bytes = record(&host, layer);
        bytes[60] ^= 1;
        write_record(&host, layer, &bytes);
        let volumes = "SELECT id, parent, chain, diff, blob, tree, condemned FROM volumes";
        let rows = host.rows(volumes);
        let done = host.ok(&["rebuild"]);
        assert_eq!(done["foreign"], json!([]), "{done}");
        assert!(told(&done, layer).contains("`orchestrate verify`"), "{done}");
        assert_eq!((host.rows(ACTIVATIONS), host.rows(volumes)), (before.clone(), rows));
        host.ok(&["recover"]);
        host.check();

        // Nobody does: what stands on it is kept under its name, and told.
        let host = one.copy_to("unknown");
        write_record(&host, layer, &bytes);
        host.lose_registry();
        let done = host.ok(&["rebuild"]);
        assert_eq!(done["foreign"], json!([]), "{done}");
        assert_eq!(done["activations"], json!(["a-1", "b-1"]), "{done}");
        assert!(told(&done, layer).contains("seal record is damaged"), "{done}");
        let standing = host.rows(
            "SELECT a.id FROM activations a JOIN volumes v ON v.id = a.origin WHERE v.condemned IS NOT NULL",
        );
        assert!(!standing.is_empty());
        for id in standing {
            let line = told(&done, id.parse().unwrap());
            assert!(
                line.contains("\"name\":") && line.contains("`orchestrate rm "),
                "{line} of {done}"
            );
        }
        host.check_tree("a-1", 3);
        host.check_tree("b-1", 4);
        host.ok(&["recover"]);
        host.check();
        // The way out: sound ones under new ids, and the old ones go.
        for (image, name, top) in [(A, "a-2", 3), (B, "b-2", 4)] {
            host.ok(&["activate", image, "--name", name]);
            host.check_tree(name, top);
        }
        host.ok(&["rm", "a-1"]);
        host.ok(&["rm", "b-1"]);
        host.ok(&["gc"]);
        host.check();
        assert_eq!(host.rows("SELECT count(*) FROM volumes WHERE condemned IS NOT NULL"), ["0"]);
    }
}

/// Without a registry a guest's bytes say of which stack it is, and no more than that: no name, no layer, no
/// other volume; and what it wrote over is kept.
#[test]
fn without_a_registry_what_a_guest_wrote_over_is_kept_and_told() {
    let bench = Bench::small();
    let one = two(&bench);
    let (guest, template) =
        (activation(&one, "a-1"), id(&one, "SELECT id FROM volumes WHERE role = 'template'"));
    let layers = one.rows("SELECT count(*) FROM volumes");
    let other =
        sealed([7; 32], &json!({"id": top(&one, B), "role": "layer", "parent": 1, "bytes": 1}));
    for bytes in [Vec::new(), vec![0; 1024], other] {
        let host = one.copy_to("alone");
        write_record(&host, guest, &bytes);
        host.lose_registry();
        let done = host.ok(&["rebuild"]);
        assert_eq!(done["foreign"], json!([]), "{done}");
        assert_eq!(done["activations"], json!(["a-1", "b-1"]), "{done}");
        assert!(told(&done, guest).contains("orchestrate rm a-1"), "{done}");
        let origin = host.rows("SELECT origin FROM activations WHERE name = 'a-1'");
        assert_eq!(origin, [template.to_string()], "a forged record was taken for an origin");
        assert_eq!(host.rows("SELECT count(*) FROM volumes"), layers);
        host.check_tree("a-1", 3);
        host.ok(&["recover"]);
        host.check();
        host.ok(&["rm", "a-1"]);
        host.ok(&["activate", A, "--name", "a-1"]);
        host.check();
    }
}

/// What was on its way out goes on its way, and what was only being built is nobody's activation.
#[test]
fn what_was_half_done_stays_half_done() {
    let bench = Bench::small();
    let host = two(&bench);
    let at = fs::read_to_string(host.store().join("transaction")).unwrap();
    let (origin, next) = (top(&host, A), id(&host, "SELECT next_id FROM meta"));
    fs::create_dir(host.store().join(format!("volumes/{next}"))).unwrap();
    fs::write(host.store().join(format!("made/{next}")), at.trim()).unwrap();
    write_record(&host, next, &record(&host, origin));
    let conn = Connection::open(host.state().join("registry.db")).unwrap();
    conn.execute_batch(&format!(
        "UPDATE activations SET state = 'deleting' WHERE name = 'b-1';
         INSERT INTO volumes(id, role, parent, build, bytes, state, created_ms, reserved_at)
           VALUES ({next}, 'layer', {origin}, 'b', 1, 'building', 0, {at});
         UPDATE meta SET next_id = {next} + 1"
    ))
    .unwrap();
    drop(conn);
    let done = host.ok(&["rebuild"]);
    assert_eq!(done["foreign"], json!([]), "{done}");
    host.ok(&["recover"]);
    assert_eq!(host.rows("SELECT name FROM activations"), ["a-1"]);
    assert_eq!(host.rows("SELECT count(*) FROM volumes WHERE state <> 'sealed'"), ["0"]);
    host.check();
}

/// The proofs' own forger makes what the program takes for good, or the forgeries above would show nothing.
#[test]
fn the_forger_can_forge_under_the_right_key() {
    let bench = Bench::small();
    let host = two(&bench);
    let template = id(&host, "SELECT id FROM volumes WHERE role = 'template'");
    let bytes = record(&host, template);
    let length = u32::from_le_bytes(bytes[16..20].try_into().unwrap()) as usize;
    let text: Value = serde_json::from_slice(&bytes[52..52 + length]).unwrap();
    let key = text["key"].as_str().unwrap();
    let key: Vec<u8> =
        (0..32).map(|at| u8::from_str_radix(&key[2 * at..2 * at + 2], 16).unwrap()).collect();
    write_record(&host, template, &sealed(key.try_into().unwrap(), &text));
    host.lose_registry();
    assert_eq!(host.ok(&["rebuild"])["layers"], 4);
}
