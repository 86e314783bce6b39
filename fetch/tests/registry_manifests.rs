//! Manifests of a registry, and the program's own words of them. Each fault through a socket.

mod fault;
mod registry;

use std::process::{Command, Output};
use std::sync::atomic::Ordering;

use fault::{Pace, Reply, Request, Server, noise};
use fetch::image::{DOCUMENT_BYTES_MAX, Digest};
use fetch::{Error, Kind, Which};
use registry::{asked, at, client, options, sent, start, unknown};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

fn manifest() -> Vec<u8> {
    let (config, layer) = (Digest::of(b"{}"), Digest::of(b"layer"));
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{config}","size":2}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{layer}","size":5}}]}}"#
    )
    .into_bytes()
}

/// A good registry's answer.
fn named(bytes: &[u8], media_type: &str) -> Reply {
    Reply::new(200, bytes)
        .with("Content-Type", media_type)
        .with("Docker-Content-Digest", &Digest::of(bytes).to_string())
}

#[test]
fn a_tag_is_looked_up_by_head_with_every_type() {
    let bytes = manifest();
    let server = start(&bytes, |_, reply| named(&reply.body, MANIFEST));
    let client = client(&server, &options());
    assert_eq!(client.head_manifest("v1").unwrap(), Some(Digest::of(&manifest())));
    assert_eq!(asked(&server), ["HEAD /v2/team/app/manifests/v1"]);
    let fetched = client.manifest(&Which::of(&at(&server))).unwrap();
    assert_eq!((fetched.digest, fetched.media_type.as_str()), (Digest::of(&bytes), MANIFEST));
    for accept in sent(&server, "accept") {
        let accept = accept.unwrap();
        for part in
            ["oci.image.index.v1", "oci.image.manifest.v1", "manifest.list.v2", "manifest.v2"]
        {
            assert!(accept.contains(part), "{accept}");
        }
    }
}

#[test]
fn where_head_is_of_no_use_the_manifest_is_fetched() {
    let bytes = manifest();
    for status in [200, 307, 404, 405, 500, 501, 503] {
        let server = start(&bytes, move |request, reply| match request.method.as_str() {
            "HEAD" => Reply::new(status, b"").with("Location", "/elsewhere"),
            _ => reply.with("Content-Type", MANIFEST),
        });
        let found = client(&server, &options()).head_manifest("v1").unwrap();
        assert_eq!(found, Some(Digest::of(&bytes)), "{status}");
        assert_eq!(server.count(), 2, "{status}");
    }
    // A digest that cannot be checked is no answer either.
    let sha512 = format!("sha512:{}", "0".repeat(128));
    let server = start(&bytes, move |_, reply| reply.with("Docker-Content-Digest", &sha512));
    assert_eq!(client(&server, &options()).head_manifest("v1").unwrap(), Some(Digest::of(&bytes)));
    let none = start(b"", |_, _| unknown(404, "MANIFEST_UNKNOWN", "manifest unknown"));
    assert_eq!(client(&none, &options()).head_manifest("v1").unwrap(), None);
    let busy = start(&bytes, |request, reply| match request.number {
        0 => Reply::new(429, b""),
        _ => named(&reply.body, MANIFEST),
    });
    assert!(client(&busy, &options()).head_manifest("v1").unwrap().is_some());
    assert_eq!(asked(&busy), ["HEAD /v2/team/app/manifests/v1"; 2]);
    let denied = start(b"", |_, _| unknown(403, "DENIED", "requested access is denied"));
    assert_eq!(client(&denied, &options()).head_manifest("v1").unwrap_err().kind(), Kind::Denied);
}

#[test]
fn bytes_that_are_not_what_was_named_are_refused() {
    let bytes = manifest();
    let other = Digest::of(b"other");
    let server =
        start(&bytes, move |_, reply| reply.with("Docker-Content-Digest", &other.to_string()));
    let client = client(&server, &options());
    let error = client.manifest(&Which::Tag("v1".into())).unwrap_err();
    assert!(matches!(error, Error::Digest { .. }), "{error}");
    let error = client.manifest(&Which::Digest(other)).unwrap_err();
    assert!(matches!(error, Error::Digest { .. }), "{error}");
    assert_eq!(server.count(), 2, "it does not get better by asking again");
    let silent = start(&bytes, |_, reply| reply);
    let error = registry::client(&silent, &options()).manifest(&Which::Digest(other)).unwrap_err();
    assert!(matches!(error, Error::Digest { .. }), "{error}");
    for tag in ["", "../x", "a/b", "a b", "a?b", "-x"] {
        let error = client.manifest(&Which::Tag(tag.into())).unwrap_err();
        assert_eq!(error.kind(), Kind::Usage, "{tag}");
    }
    assert_eq!(server.count(), 2);
}

#[test]
fn a_mirror_is_asked_once_more_for_a_manifest_that_has_rotted_there() {
    let bytes = manifest();
    let which = Which::Digest(Digest::of(&bytes));
    let mut flipped = bytes.clone();
    flipped[20] ^= 1;
    let most = usize::try_from(DOCUMENT_BYTES_MAX).unwrap();
    for wrong in [flipped, b"<html>".to_vec(), noise(most + 1, 3)] {
        for (better, due) in [(true, 0), (false, 1)] {
            let server = start(&bytes, |_, reply| named(&reply.body, MANIFEST));
            let right = bytes.clone();
            let mirror = start(&wrong, move |request, reply| {
                match better && registry::header(request, "veneer-refetch").is_some() {
                    true => named(&right, MANIFEST),
                    false => reply,
                }
            });
            let options = fetch::Options { sources: vec![mirror.url()], ..options() };
            let client = client(&server, &options);
            assert_eq!(client.manifest(&which).unwrap().bytes, bytes);
            assert_eq!(sent(&mirror, "veneer-refetch"), [None, Some("1".to_owned())]);
            let digest = Some(Digest::of(&bytes).hex());
            assert_eq!(sent(&mirror, "veneer-sha256"), [digest.clone(), digest]);
            assert_eq!(sent(&server, "veneer-sha256"), vec![None; due]);
        }
    }
    // What the registry itself says is final, and told as its word.
    let server = start(b"other", |_, reply| reply);
    let mirror = start(b"other", |_, reply| reply);
    let options = fetch::Options { sources: vec![mirror.url()], ..options() };
    let error = client(&server, &options).manifest(&which).unwrap_err();
    assert!(error.kind() == Kind::Digest && error.to_string().contains(&server.url()), "{error}");
    assert_eq!((mirror.count(), server.count()), (2, 1));
}

#[test]
fn a_manifest_that_does_not_end_is_left() {
    let most = usize::try_from(DOCUMENT_BYTES_MAX).unwrap();
    let endless = noise(3 * most, 1);
    let chunked = start(&endless, |_, reply| reply.chunked(false));
    let error = client(&chunked, &options()).manifest(&Which::Tag("v1".into())).unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. }), "{error}");
    assert!(error.to_string().contains("4194304"), "{error}");
    assert_eq!((error.kind(), chunked.count()), (Kind::Refused, 1));
    let honest = start(&endless, |_, reply| reply.pace(Pace::Hang(0)));
    let error = client(&honest, &options()).manifest(&Which::Tag("v1".into())).unwrap_err();
    assert!(matches!(error, Error::TooLarge { size, .. } if size == 3 * DOCUMENT_BYTES_MAX));
    assert_eq!(honest.sent.load(Ordering::SeqCst), 0, "its length was enough");
    let exact = noise(most, 2);
    let server = start(&exact, |_, reply| reply);
    assert_eq!(
        client(&server, &options()).manifest(&Which::Tag("v1".into())).unwrap().bytes,
        exact
    );
}

#[test]
fn a_manifest_is_sent_on_too_and_its_type_has_no_parameters() {
    let bytes = manifest();
    let elsewhere = start(&bytes, |_, reply| {
        reply.with("Content-Type", "application/vnd.OCI.image.manifest.v1+json; charset=utf-8")
    });
    let to = format!("{}/x", elsewhere.url());
    let server = start(&bytes, move |_, _| Reply::new(307, b"").with("Location", &to));
    let fetched = client(&server, &options()).manifest(&Which::Tag("v1".into())).unwrap();
    assert_eq!((fetched.media_type.as_str(), fetched.bytes), (MANIFEST, bytes));
}

fn run(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_fetch"))
        .args(args)
        .env("HOME", "/nonexistent")
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env_remove("XDG_RUNTIME_DIR")
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A registry with an index `v1`, its manifest and its layer.
fn whole(request: &Request, _: Reply) -> Reply {
    let manifest = manifest();
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{MANIFEST}","digest":"{}","size":{},"platform":{{"os":"linux","architecture":"arm64"}}}}]}}"#,
        Digest::of(&manifest),
        manifest.len()
    );
    let last = request.path.rsplit('/').next().unwrap();
    if last == "v1" {
        named(index.as_bytes(), INDEX)
    } else if last == Digest::of(&manifest).to_string() {
        named(&manifest, MANIFEST)
    } else if last == Digest::of(b"layer").to_string() {
        Reply::new(200, b"layer")
    } else {
        unknown(404, "MANIFEST_UNKNOWN", "manifest unknown")
    }
}

#[test]
fn the_program_lists_what_is_remote_and_streams_a_layer() {
    let server = start(b"", whole);
    let base = format!("docker://127.0.0.1:{}/team/app", server.port);
    let listed = run(&["--list", "--json", &format!("{base}:v1")]);
    assert!(listed.status.success(), "{}", stderr(&listed));
    let lines: Vec<serde_json::Value> =
        stdout(&listed).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["kind"], "index");
    assert_eq!(lines[1]["platform"], "linux/arm64");
    let next = lines[1]["reference"].as_str().unwrap();
    assert_eq!(next, format!("{base}@{}", Digest::of(&manifest())));
    let listed = run(&["--list", "--json", next]);
    let lines: Vec<serde_json::Value> =
        stdout(&listed).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let kinds: Vec<_> = lines.iter().map(|line| line["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["manifest", "config", "layer"]);
    let layer = lines[2]["reference"].as_str().unwrap();
    let fetched = run(&["-q", layer]);
    assert_eq!((fetched.status.code(), stdout(&fetched).as_str()), (Some(0), "layer"));
    let text = stdout(&run(&["--list", next]));
    assert!(text.contains("  1  layer ") && text.contains(layer), "{text}");
}

#[test]
fn the_program_says_what_is_wrong_with_a_reference_or_an_option() {
    let server = start(b"", whole);
    let base = format!("docker://127.0.0.1:{}/team/app", server.port);
    let (tag, digest) = (format!("{base}:v1"), format!("{base}@{}", Digest::of(b"layer")));
    for (args, code, says) in [
        (&[tag.as_str()][..], 100, "named by its digest"),
        (&["--list", &format!("{base}:v2")], 100, "MANIFEST_UNKNOWN"),
        (&["--list", "docker://debian:13"], 100, "docker://"),
        (&["--list", &base], 100, ":latest"),
        (&["--region", "x", &digest], 100, "--region"),
        (&["--list", "--all", &tag], 100, "--all"),
        (&["--list", "--digest", "sha256:00", &tag], 100, "--digest"),
        (&["--digest", &Digest::of(b"x").to_string(), &digest], 100, "another digest"),
        (&["--authfile", "/nonexistent/auth.json", "--list", &tag], 0, ""),
    ] {
        let output = run(args);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        assert!(said.contains(says), "{args:?}: {said}");
    }
}

#[test]
fn a_document_that_is_no_manifest_is_refused_for_good() {
    for text in [
        &b"{}"[..],
        b"<html>",
        br#"{"schemaVersion":1}"#,
        br#"{"schemaVersion":2,"manifests":[],"layers":[]}"#,
    ] {
        let server: Server = start(text, |_, reply| reply.with("Content-Type", "text/plain"));
        let output = run(&["--list", &format!("docker://127.0.0.1:{}/team/app:v1", server.port)]);
        assert_eq!(output.status.code(), Some(100), "{}", stderr(&output));
    }
}

#[test]
fn a_credential_helper_is_run_where_an_option_names_it() {
    let server = start(b"", |request, reply| match registry::header(request, "authorization") {
        Some("Basic YWxpY2U6c2VzYW1l") => whole(request, reply),
        _ => unknown(401, "UNAUTHORIZED", "").with("WWW-Authenticate", "Basic realm=\"r\""),
    });
    let host = format!("127.0.0.1:{}", server.port);
    let dir = tempfile::tempdir().unwrap();
    let (file, program) = (dir.path().join("auth.json"), dir.path().join("docker-credential-own"));
    std::fs::write(&file, r#"{"credsStore":"own"}"#).unwrap();
    let script = format!(
        "#!/bin/sh\nread -r server\n[ \"$1 $server\" = \"get {host}\" ] || {{ echo 'credentials not found'; exit 1; }}\n\
         echo '{{\"ServerURL\":\"{host}\",\"Username\":\"alice\",\"Secret\":\"sesame\"}}'\n"
    );
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .unwrap();
    let path = format!("{}:{}", dir.path().display(), std::env::var("PATH").unwrap());
    let run = |more: &[&str], host: &str| {
        Command::new(env!("CARGO_BIN_EXE_fetch"))
            .args(["--list", &format!("docker://{host}/team/app:v1"), "--authfile"])
            .arg(&file)
            .args(more)
            .env("PATH", &path)
            .output()
            .unwrap()
    };
    let named = run(&["--credential-helper", "own"], &host);
    assert!(named.status.success(), "{}", stderr(&named));
    let not_named = run(&[], &host);
    assert_eq!(not_named.status.code(), Some(100));
    assert!(stderr(&not_named).contains("--credential-helper"), "{}", stderr(&not_named));
    // What it has nothing for is nobody's.
    let other = run(&["--credential-helper", "own"], &host.replace("127.0.0.1", "localhost"));
    assert!(stderr(&other).contains("no login"), "{}", stderr(&other));
}

#[test]
fn what_a_registry_warns_of_is_told_once_and_harmless() {
    let bytes = manifest();
    let server = start(&bytes, |request, reply| match request.number {
        0 => unknown(500, "UNKNOWN", "again").with("Warning", "299 - \"it ends soon\""),
        _ => named(&reply.body, MANIFEST).with(
            "Warning",
            "110 - \"not for you\", 299 - \"it ends soon\", 299 - \"and a\\\\\t \\\"quote\\\"\"",
        ),
    });
    let told = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let mut options = options();
    let into = told.clone();
    options.watch = fetch::Watch::new(move |event: &fetch::Event<'_>| {
        if let fetch::Event::Warning { server, text } = event {
            into.lock().unwrap().push(format!("{server} {text}"));
        }
    });
    let client = client(&server, &options);
    for _ in 0..3 {
        client.manifest(&Which::Tag("v1".into())).unwrap();
    }
    let server = format!("http://127.0.0.1:{}", server.port);
    let due = [format!("{server} \"it ends soon\""), format!(r#"{server} "and a\\\t \"quote\"""#)];
    assert_eq!(*told.lock().unwrap(), due);
}
