//! Images that a key of cosign's must have signed: in a real registry, in a layout of a directory and in one of a bucket, in
//! both forms; and everything beside an image that is no signature of it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Output;

use serde_json::Value;
use tests::cosign::{Signed, Signer, claim, older, referrers};
use tests::distribution::Registry;

use crate::bench::{self, Bench, Host, names};
use crate::images::layout::{Family, INDEX, Image, Layout, MANIFEST, Packing};

/// A key whose file is `NAME.pub`.
fn signer(bench: &Bench, name: &str) -> Signer {
    let signer = Signer::new().unwrap();
    signer.write_public(&bench.path(&format!("{name}.pub"))).unwrap();
    signer
}

/// Runs with these keys, which everything must be signed by.
fn run(host: &Host<'_>, keys: &[&str], words: &[&str]) -> Output {
    let files: Vec<String> = keys
        .iter()
        .map(|key| host.bench().path(&format!("{key}.pub")).display().to_string())
        .collect();
    let mut command = host.command(words);
    command.env("VENEER_TRUST_COSIGN_KEYS", files.join(","));
    command.env("VENEER_TRUST_COSIGN_REQUIRED", "*").output().unwrap()
}

fn ok(host: &Host<'_>, keys: &[&str], words: &[&str]) -> Value {
    let ran = run(host, keys, words);
    assert!(ran.status.success(), "{words:?}: {ran:?}");
    serde_json::from_slice(&ran.stdout).unwrap_or_default()
}

#[track_caller]
fn refused(ran: &Output, wanted: &[&str]) {
    let said = String::from_utf8_lossy(&ran.stderr);
    assert_eq!(ran.status.code(), Some(100), "{wanted:?}: {said}");
    for wanted in wanted {
        assert!(said.contains(wanted), "{wanted} in {said}");
    }
}

/// Nothing of an image that was refused is here.
fn nothing(host: &Host<'_>) {
    for table in ["images", "activations", "configs", "signatures"] {
        assert_eq!(host.rows(&format!("SELECT count(*) FROM {table}")), ["0"], "{table}");
    }
    assert_eq!(names(&host.store().join("active")), [""; 0]);
}

fn sig_tag(digest: &str) -> String {
    format!("{}.sig", digest.replace(':', "-"))
}

/// A registry with the image `app:v1`; and its digest and the size of its manifest.
struct Real {
    registry: Registry,
    reference: String,
    digest: String,
    size: usize,
}

impl Real {
    fn start(bench: &Bench) -> Real {
        let program = bench::cached("registry/docker-registry");
        let registry = Registry::start(&program, &bench.path("registry")).unwrap();
        let layout = Layout::one(&Image::of(&[1, 2, 3]), Packing::Gzip, Family::Oci);
        layout.write(&bench.path("layout"));
        registry.put(&bench.path("layout"), "app", "v1").unwrap();
        let reference = format!("docker://{}/app:v1", registry.host());
        let digest = layout.manifests[0]["digest"].as_str().unwrap().to_owned();
        let size = usize::try_from(layout.manifests[0]["size"].as_u64().unwrap()).unwrap();
        Real { registry, reference, digest, size }
    }

    fn put(&self, tag: &str, signed: &Signed) {
        self.registry.put_manifest("app", Some(tag), &signed.manifest, &signed.blobs).unwrap();
    }

    fn older(&self, signed: &Signed) {
        self.put(&sig_tag(&self.digest), signed);
    }

    fn referred(&self, artifacts: &[&Signed]) {
        for artifact in artifacts {
            let put = self.registry.put_manifest("app", None, &artifact.manifest, &artifact.blobs);
            put.unwrap();
        }
        let list = referrers(artifacts);
        let tag = self.digest.replace(':', "-");
        self.registry.put_manifest("app", Some(&tag), &list, &[]).unwrap();
    }
}

#[test]
fn an_image_of_a_registry_is_let_in_by_either_form_and_not_without() {
    let bench = Bench::new(&[], 4, 2000);
    let (good, other, real) =
        (signer(&bench, "good"), signer(&bench, "other"), Real::start(&bench));
    let host = bench.host("host");
    let ensure = ["ensure", real.reference.as_str()];
    let key = bench.path("good.pub").display().to_string();
    refused(
        &run(&host, &["good"], &ensure),
        &[&real.reference, &real.digest, &key, "no signature of it was found"],
    );
    nothing(&host);
    // By another key, and one of another image by the right key, as somebody who copies signatures has them.
    real.older(&other.older(&real.digest, "h/app").unwrap());
    refused(&run(&host, &["good"], &ensure), &[&real.digest, "none of these keys has made it"]);
    let elsewhere = format!("sha256:{}", "7".repeat(64));
    real.older(&good.older(&elsewhere, "h/app").unwrap());
    refused(&run(&host, &["good"], &ensure), &[&real.digest, &elsewhere]);
    let foreign = good.newer(&elsewhere, 7).unwrap();
    real.referred(&[&foreign]);
    refused(&run(&host, &["good"], &ensure), &[&real.digest]);
    nothing(&host);

    real.older(&good.older(&real.digest, "whatever/name").unwrap());
    let dry = ok(&host, &["good"], &["ensure", &real.reference, "--dry-run"]);
    assert_eq!(dry["layers"].as_array().unwrap().len(), 3);
    ok(&host, &["other", "good"], &["activate", &real.reference, "--name", "app-1"]);
    host.check_tree("app-1", 3);
    let shown = ok(&host, &["good"], &["show", &real.reference]);
    let signed = &shown["image"]["signed_by"];
    assert_eq!(
        (signed.as_array().unwrap().len(), &signed[0]["signed"]),
        (1, &Value::from(real.digest.as_str()))
    );
    assert_eq!(signed[0]["file"], key.as_str());
    let text = run(&host, &["good"], &["ls"]);
    assert!(String::from_utf8_lossy(&text.stdout).contains("signed_by"), "{text:?}");

    // The newer form alone, beside one of another image and one by another key.
    let newer = bench.host("newer");
    real.older(&older(&[]));
    let theirs = other.newer(&real.digest, real.size).unwrap();
    let ours = good.newer(&real.digest, real.size).unwrap();
    real.referred(&[&foreign, &theirs, &ours]);
    ok(&newer, &["good"], &["activate", &real.reference, "--name", "app-1"]);
    newer.check_tree("app-1", 3);
    // And both keys are found where both have signed.
    let both = bench.host("both");
    ok(&both, &["good", "other"], &ensure);
    assert_eq!(both.rows("SELECT count(*) FROM signatures"), ["2"]);
    for host in [&host, &newer] {
        ok(host, &["good"], &["rm", "app-1"]);
        assert_eq!(
            host.rows("SELECT count(*) FROM signatures"),
            ["1"],
            "as long as the image is here"
        );
        ok(host, &["good"], &["rm", &real.reference]);
        assert_eq!(host.rows("SELECT count(*) FROM signatures"), ["0"], "they go with it");
        host.check();
    }
}

#[test]
fn what_is_no_signature_stops_no_good_one_and_costs_little() {
    let bench = Bench::new(&[], 4, 2000);
    let (good, other, real) =
        (signer(&bench, "good"), signer(&bench, "other"), Real::start(&bench));
    let ensure = ["ensure", real.reference.as_str()];
    let own = claim(&real.digest, "h/app");
    let (sound, theirs) = (good.sign(&own).unwrap(), other.sign(&own).unwrap());
    let garbled = b"\x00 no claim at all".to_vec();
    let huge = vec![b' '; 100_000];
    let junk = vec![
        (garbled.clone(), good.sign(&garbled).unwrap()),
        (huge.clone(), good.sign(&huge).unwrap()),
        (own.clone(), theirs.clone()),
        (own.clone(), "not base64".into()),
        (own.clone(), String::new()),
    ];
    let host = bench.host("junk");
    real.older(&older(&junk));
    let ran = run(&host, &["good"], &ensure);
    refused(&ran, &[&real.digest, "none of its 4 signatures counts", "1 more were not looked at"]);
    let with_good: Vec<_> = junk.iter().cloned().chain([(own.clone(), sound.clone())]).collect();
    real.older(&older(&with_good));
    ok(&host, &["good"], &ensure);

    // 10,000 of one claim: its blob is fetched once, and the first few hundred are looked at.
    let host = bench.host("many");
    let mut many = vec![(own.clone(), theirs); 10_000];
    real.older(&older(&many));
    let before = real.registry.sent().unwrap();
    refused(
        &run(&host, &["good"], &ensure),
        &["none of its 256 signatures counts", "9744 more were not looked at"],
    );
    let sent = real.registry.sent().unwrap() - before;
    assert!(sent < 5 << 20, "{sent} bytes");
    nothing(&host);
    many[200] = (own, sound);
    real.older(&older(&many));
    ok(&host, &["good"], &ensure);

    // A blob that its manifest names and that is not there, or is another: the next one counts.
    let host = bench.host("broken");
    let lost = claim(&real.digest, "lost");
    let mut signed = older(&[(lost.clone(), good.sign(&lost).unwrap()), many[200].clone()]);
    signed.blobs.retain(|blob| *blob != lost);
    real.older(&signed);
    ok(&host, &["good"], &ensure);
    host.check();
}

/// The manifest is fetched, then the tag moves, then the signature is asked for: it is the one of what was fetched.
#[test]
fn a_tag_that_moves_brings_no_signature_of_another_image() {
    let bench = Bench::new(&[], 4, 2000);
    let (good, real) = (signer(&bench, "good"), Real::start(&bench));
    let second = Layout::one(&Image::of(&[1, 2, 4]), Packing::Gzip, Family::Oci);
    second.write(&bench.path("second"));
    let moved = second.manifests[0]["digest"].as_str().unwrap();
    // Only what the tag means later is signed, and all that can be found beside the first claims to be its signature.
    let signed = good.older(moved, "h/app").unwrap();
    real.put(&sig_tag(moved), &signed);
    real.older(&signed);
    let host = bench.host("host");
    let pinned = format!("{}@{}", real.reference, real.digest);
    refused(&run(&host, &["good"], &["ensure", &pinned]), &[&real.digest, moved]);
    refused(&run(&host, &["good"], &["ensure", &real.reference]), &[&real.digest]);
    nothing(&host);
    real.registry.put(&bench.path("second"), "app", "v1").unwrap();
    assert_eq!(
        ok(&host, &["good"], &["ensure", &real.reference])["chain"],
        Image::of(&[1, 2, 4]).chain()
    );
    // Moved back: what is here is known to be signed, and that is another image.
    real.registry.put(&bench.path("layout"), "app", "v1").unwrap();
    refused(&run(&host, &["good"], &["ensure", &real.reference]), &[&real.digest]);
    let chain = host.rows("SELECT chain FROM images");
    assert!(Image::of(&[1, 2, 4]).chain().contains(&chain[0]), "{chain:?}");
    host.check();
}

#[test]
fn a_registry_that_cannot_be_asked_for_a_signature_is_asked_again_later() {
    let bench = Bench::new(&[], 4, 2000);
    let (good, real) = (signer(&bench, "good"), Real::start(&bench));
    real.older(&good.older(&real.digest, "h/app").unwrap());
    let host = bench.host("host");
    ok(&host, &["good"], &["activate", &real.reference, "--name", "app-1"]);
    ok(&host, &["good"], &["deactivate", "app-1"]);
    let Real { registry, reference, .. } = real;
    drop(registry);
    // What is here goes on without a server, also under a new name.
    ok(&host, &["good"], &["activate", &reference, "--name", "app-1"]);
    ok(&host, &["good"], &["activate", &reference, "--name", "app-2", "--no-fetch"]);
    // Where the key is another one, somebody has to be asked, and nobody is there.
    signer(&bench, "other");
    ok(&host, &["other"], &["deactivate", "app-1"]);
    let mut command = host.command(&["activate", &reference, "--name", "app-1"]);
    command.env("VENEER_TRUST_COSIGN_KEYS", bench.path("other.pub"));
    command.env("VENEER_TRUST_COSIGN_REQUIRED", "*").env("VENEER_FETCH_PATIENCE", "1");
    let ran = command.output().unwrap();
    assert_eq!(ran.status.code(), Some(111), "{ran:?}");
    let unasked = ["activate", &reference, "--name", "app-3", "--no-fetch"];
    refused(&run(&host, &["other"], &unasked), &["trusted no longer"]);
    host.check();
}

#[test]
fn a_key_that_is_taken_away_keeps_its_images_from_coming_up() {
    let bench = Bench::new(&[], 4, 2000);
    let (old, new, real) = (signer(&bench, "old"), signer(&bench, "new"), Real::start(&bench));
    real.older(&old.older(&real.digest, "h/app").unwrap());
    let host = bench.host("host");
    ok(&host, &["old"], &["activate", &real.reference, "--name", "app-1"]);
    ok(&host, &["old"], &["activate", &real.reference, "--name", "app-2"]);
    ok(&host, &["old"], &["deactivate", "app-1"]);
    refused(
        &run(&host, &["new"], &["activate", &real.reference, "--name", "app-1"]),
        &["none of these keys"],
    );
    // What runs goes on, is told of, and does not come up again, as after a boot.
    let listed = ok(&host, &["new"], &["ls"]);
    let barred: Vec<&Value> =
        listed["activations"].as_array().unwrap().iter().map(|line| &line["barred"]).collect();
    assert!(
        barred.iter().all(|why| why.as_str().is_some_and(|why| why.contains("trusted no longer"))),
        "{barred:?}"
    );
    fs::remove_file(host.store().join("active/app-2")).unwrap();
    ok(&host, &["new"], &["recover"]);
    assert_eq!(names(&host.store().join("active")), [""; 0]);
    // Signed by the new key as well: recovery finds that, and `activate` does.
    let both = [&old, &new].map(|key| {
        let own = claim(&real.digest, "h/app");
        let signature = key.sign(&own).unwrap();
        (own, signature)
    });
    real.older(&older(&both));
    ok(&host, &["new"], &["recover"]);
    assert_eq!(names(&host.store().join("active")), ["app-2"]);
    ok(&host, &["new"], &["activate", &real.reference, "--name", "app-1"]);
    assert_eq!(host.rows("SELECT count(*) FROM signatures"), ["2"]);
    // A registry that is lost takes with it who has signed, and a rebuild has it looked for again.
    host.lose_registry();
    ok(&host, &["new"], &["rebuild"]);
    assert_eq!(host.rows("SELECT count(*) FROM signatures"), ["0"]);
    fs::remove_file(host.store().join("active/app-2")).unwrap();
    ok(&host, &["new"], &["recover"]);
    assert_eq!(names(&host.store().join("active")), ["app-1", "app-2"]);
    assert_eq!(host.rows("SELECT count(*) FROM signatures"), ["1"]);
}

/// A layout with an image under `v1`, in an index of two platforms, and beside it what is signed.
fn signed_layout(newer: bool, of_index: bool, good: &Signer) -> (Layout, String) {
    let mut layout = Layout::default();
    let image = layout.image(&Image::of(&[1, 2, 3]), Packing::Gzip, Family::Oci);
    let arm = Image { arch: "arm64", ..Image::of(&[1, 2, 4]) };
    let arm = layout.image(&arm, Packing::Gzip, Family::Oci);
    let index = layout.index(&[image.clone(), arm], Family::Oci);
    layout.tag(index.clone(), "v1");
    let of = if of_index { &index } else { &image };
    let digest = of["digest"].as_str().unwrap().to_owned();
    let size = usize::try_from(of["size"].as_u64().unwrap()).unwrap();
    let signed = match newer {
        true => good.newer(&digest, size).unwrap(),
        false => good.older(&digest, "h/app").unwrap(),
    };
    for blob in &signed.blobs {
        layout.blob("", blob);
    }
    let mut described = layout.blob(MANIFEST, &signed.manifest);
    match (newer, of_index) {
        (false, true) => layout.tag(described, &sig_tag(&digest)),
        // As `cosign save` has it.
        (false, false) => {
            described["annotations"]["kind"] = "dev.cosignproject.cosign/sigs".into();
            layout.manifests.push(described);
        }
        (true, true) => {
            let list = layout.blob(INDEX, &referrers(&[&signed]));
            layout.tag(list, &digest.replace(':', "-"));
        }
        // As oras copies it.
        (true, false) => {
            described["artifactType"] = "application/vnd.dev.sigstore.bundle.v0.3+json".into();
            layout.manifests.push(described);
        }
    }
    (layout, digest)
}

#[test]
fn a_layout_has_its_signatures_beside_its_images() {
    let bench = Bench::new(&[], 4, 2000);
    let good = signer(&bench, "good");
    signer(&bench, "other");
    for (number, (newer, of_index)) in
        [(false, true), (false, false), (true, true), (true, false)].into_iter().enumerate()
    {
        let (layout, digest) = signed_layout(newer, of_index, &good);
        let prefix = format!("images/{number}");
        layout.put(&bench, &prefix);
        let dir = bench.path(&format!("layout-{number}"));
        layout.write(&dir);
        let file = bench.path(&format!("layout-{number}.tar"));
        fs::write(&file, layout.tar()).unwrap();
        for (place, reference) in [
            ("bucket", format!("oci:s3://bucket/{prefix}/:v1")),
            ("directory", format!("oci:{}:v1", dir.display())),
            // The signature is no second image.
            ("only", format!("oci:{}", dir.display())),
            ("archive", format!("oci-archive:{}:v1", file.display())),
        ] {
            let host = bench.host(&format!("{place}-{number}"));
            refused(
                &run(&host, &["other"], &["ensure", &reference]),
                &["none of these keys has made it"],
            );
            nothing(&host);
            let told = format!("{place} {newer} {of_index}");
            ok(&host, &["good"], &["activate", &reference, "--name", "app-1"]);
            host.check_tree("app-1", 3);
            let signed = host.rows("SELECT 'sha256:' || signed FROM signatures");
            assert_eq!(signed, [digest.as_str()], "{told}");
            host.check();
        }
    }
    // In a bucket the signature that is missing is looked for once more and then refused.
    let (layout, _) = signed_layout(false, true, &good);
    let mut unsigned = layout.clone();
    unsigned.manifests.truncate(1);
    unsigned.put(&bench, "images/unsigned");
    let host = bench.host("unsigned");
    let reference = "oci:s3://bucket/images/unsigned/:v1";
    refused(&run(&host, &["good"], &["ensure", reference]), &["no signature of it was found"]);
    unsigned.manifests = layout.manifests.clone();
    bench.put("images/unsigned/index.json", &unsigned.all()["index.json"]);
    ok(&host, &["good"], &["ensure", reference]);
    // Asked for again: the image is known to be signed, and nothing beside the index is asked for.
    bench.proxy.clear();
    ok(&host, &["good"], &["ensure", reference]);
    assert_eq!(bench.proxy.exchanges().len(), 1);
    host.check();
}

#[test]
fn what_cannot_be_signed_or_cannot_be_meant_is_refused() {
    let bench = Bench::small();
    signer(&bench, "good");
    let host = bench.host("host");
    let numbered = "s3://bucket/a/";
    refused(
        &run(&host, &["good"], &["ensure", numbered]),
        &[numbered, "no manifest that cosign could sign"],
    );
    nothing(&host);
    // Where only others must be signed, it is as it was.
    let with = |keys: &str, required: &str, words: &[&str]| {
        let mut command = host.command(words);
        command.env("VENEER_TRUST_COSIGN_KEYS", keys).env("VENEER_TRUST_COSIGN_REQUIRED", required);
        command.output().unwrap()
    };
    let file = bench.path("good.pub");
    let key = file.display().to_string();
    let ran = with(&key, "docker://registry.example/,oci:", &["ensure", numbered]);
    assert!(ran.status.success(), "{ran:?}");
    for (keys, required, wanted) in [
        (key.as_str(), "", "no trust.cosign_required"),
        ("", "*", "no trust.cosign_keys"),
        (key.as_str(), "registry.example/", "trust.cosign_required \"registry.example/\""),
        ("good.pub", "*", "absolute path"),
        ("/nonexistent/x.pub", "*", "there is no such file"),
        ("/dev", "*", "no regular file"),
        ("/etc/passwd", "*", "no public key in PEM"),
    ] {
        refused(&with(keys, required, &["ls"]), &[wanted]);
    }
    fs::set_permissions(&file, fs::Permissions::from_mode(0o664)).unwrap();
    refused(&with(&key, "*", &["ls"]), &["others may write to it"]);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    std::os::unix::fs::chown(&file, Some(65534), None).unwrap();
    refused(&with(&key, "*", &["ls"]), &["others may write to it"]);
    host.check();
}

/// A catalog and a key are two words: both must say yes.
#[test]
fn a_catalog_and_a_key_must_agree() {
    let bench = Bench::new(&[], 4, 2000);
    let (good, real) = (signer(&bench, "good"), Real::start(&bench));
    let (public, secret) = crate::catalog::key(&bench, "catalog");
    let name = real.reference.trim_start_matches("docker://").to_owned();
    let listed = |manifest: &str| serde_json::json!({"version": 2, "serial": 1, "images": {&name: {"manifest": manifest}}});
    let host = bench.host("host");
    let both = || {
        let mut command = host.command(&["ensure", &real.reference]);
        command.env("VENEER_TRUST_COSIGN_KEYS", bench.path("good.pub"));
        command
            .env("VENEER_TRUST_COSIGN_REQUIRED", "*")
            .env("VENEER_CATALOG_URL", crate::catalog::URL);
        command.env("VENEER_CATALOG_KEYS", &public).output().unwrap()
    };
    crate::catalog::publish(&bench, &secret, &listed(&real.digest));
    refused(&both(), &["no signature of it was found"]);
    real.older(&good.older(&real.digest, "h/app").unwrap());
    crate::catalog::publish(&bench, &secret, &{
        let mut other = listed(&format!("sha256:{}", "7".repeat(64)));
        other["serial"] = 2.into();
        other
    });
    refused(&both(), &[&"7".repeat(64), "404"]);
    nothing(&host);
    crate::catalog::publish(&bench, &secret, &{
        let mut right = listed(&real.digest);
        right["serial"] = 3.into();
        right
    });
    assert!(both().status.success());
}
