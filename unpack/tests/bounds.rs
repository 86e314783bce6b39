//! What a small layer may cost: each of these was a few hundred bytes once compressed.

mod forge;

use std::io::Write;
use std::process::{Command, Output, Stdio};

use forge::{Pen, Tar, tar};
use unpack::{Class, Limits};

fn program(args: &[&str], pen: &Pen, layer: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_unpack"))
        .args(args)
        .arg("--root")
        .arg(pen.root())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut stdin, layer) = (child.stdin.take().unwrap(), layer.to_vec());
    let writer = std::thread::spawn(move || match stdin.write_all(&layer) {
        Ok(()) | Err(_) => {}
    });
    let out = child.wait_with_output().unwrap();
    writer.join().unwrap();
    out
}

/// However long a refused name is, the refusal comes out of the sandbox.
#[test]
fn a_refused_name_of_any_length_is_a_refusal() {
    let long = vec![b'n'; 300 << 10];
    for (what, layer) in [
        ("path", tar().pax(&[("path", &long)]).file("f", "").end()),
        ("linkpath", tar().pax(&[("linkpath", &long)]).sym("f", "").end()),
        ("hard link", tar().pax(&[("linkpath", &long)]).hard("f", "").end()),
        ("GNU name", tar().extension(b'L', &long).file("f", "").end()),
        ("key", tar().pax(&[(&format!("GNU.sparse.{}", "k".repeat(300 << 10)), b"1")]).end()),
    ] {
        for sandbox in ["on", "off"] {
            let pen = Pen::new();
            let out = program(&["--json", "--sandbox", sandbox], &pen, &layer);
            assert_eq!(out.status.code(), Some(100), "{what}, sandbox {sandbox}: {out:?}");
            assert!(out.stderr.len() < 2000, "{what}: {} bytes", out.stderr.len());
        }
    }
}

/// A name at the limit passes, so that the cut is on what is refused alone.
#[test]
fn names_at_their_longest_pass() {
    let part = [[b'n'; 255].as_slice(), b"/"].concat();
    let name = [part.repeat(15), b"d/".to_vec(), vec![b'n'; 253]].concat();
    assert_eq!(name.len(), 4095);
    let layer = tar().pax(&[("path", &name)]).file("f", "x").end();
    let out = program(&["--sandbox", "on"], &Pen::new(), &layer);
    assert_eq!(out.status.code(), Some(0), "{out:?}");
}

/// Entries that each lead through 39 links of 600 components.
fn links(entries: usize) -> Tar {
    let mut layer = tar().dir("a");
    for n in 0..39 {
        let target = format!("{}s{}", "a/../".repeat(300), n + 1);
        layer = layer.pax(&[("linkpath", target.as_bytes())]).sym(format!("s{n}"), "");
    }
    layer = layer.dir("s39");
    for n in 0..entries {
        // A link that is replaced makes all paths be looked up again.
        layer = layer.sym("x", "a").file(format!("s0/{n}"), "");
    }
    layer
}

#[test]
fn walks_behind_links_are_bounded() {
    let pen = Pen::new();
    pen.apply(&links(1).end(), &Limits::default()).unwrap();
    let error = Pen::new().apply(&links(20).end(), &Limits::default()).unwrap_err();
    assert_eq!(error.class(), Some(Class::Limit), "{error}");
    assert!(error.to_string().contains("--walk-max 12"), "{error}");
    let depends = error.depends_on().unwrap();
    assert!(depends.limits && depends.tree);
    let out = program(&["-q"], &Pen::new(), &links(20).end());
    assert_eq!(out.status.code(), Some(100), "{out:?}");
    let out = program(&["-q", "--walk-max", "100000"], &Pen::new(), &links(20).end());
    assert_eq!(out.status.code(), Some(0), "{out:?}");
}

/// Directories that nobody has an entry for are not for nothing: one entry of 5 KB made 2,040 of them.
#[test]
fn parents_that_are_made_are_paid_for() {
    let deep = |n: usize| {
        let path = [format!("{n}/").as_bytes(), &b"d/".repeat(200)].concat();
        (path, n)
    };
    let layer = |entries| {
        let add = |tar: Tar, n| tar.pax(&[("path", &deep(n).0)]).dir("d");
        (0..entries).fold(tar(), add).end()
    };
    let applied = Pen::new().apply(&layer(4), &Limits::default()).unwrap();
    assert_eq!((applied.dirs, applied.implicit_dirs), (4, 800));
    let error = Pen::new().apply(&layer(20), &Limits::default()).unwrap_err();
    assert_eq!(error.class(), Some(Class::Limit), "{error}");
    assert!(error.to_string().contains("--walk-max 12"), "{error}");
    let limits = Limits { walk_max: 1 << 20, entries_max: 1000, ..Limits::default() };
    let error = Pen::new().apply(&layer(20), &limits).unwrap_err();
    assert!(error.to_string().contains("--entries-max 1000"), "{error}");
    // Deeper than anybody goes.
    let chain = tar().pax(&[("path", b"d/".repeat(2040).as_slice())]).dir("d").end();
    let error = Pen::new().apply(&chain, &Limits::default()).unwrap_err();
    assert!(error.to_string().contains("--depth-max 256"), "{error}");
}

/// Where names have no entries of their own and each directory a few of them, nobody is refused.
#[test]
fn layers_without_directory_entries_pass() {
    let add = |tar: Tar, n| tar.file(format!("usr/share/locale/l{n}/LC_MESSAGES/p.mo"), "");
    let layer = (0..1200).fold(tar(), add).end();
    let applied = Pen::new().apply(&layer, &Limits::default()).unwrap();
    assert_eq!(applied.implicit_dirs, 2403);
    // By way of a link of a lower layer, too, and with each directory known by that way.
    let pen = Pen::new();
    pen.apply(&tar().dir("usr").dir("usr/lib").sym("lib", "usr/lib").end(), &Limits::default())
        .unwrap();
    let add = |tar: Tar, n| {
        tar.dir(format!("lib/m/k/{n}"))
            .file(format!("lib/m/k/{n}/a"), "")
            .file(format!("lib/m/k/{n}/b"), "")
    };
    let layer = (0..1500).fold(tar().dir("lib/m").dir("lib/m/k"), add).end();
    let applied = pen.apply(&layer, &Limits::default()).unwrap();
    assert!(applied.steps < 2 * applied.entries, "{} steps", applied.steps);
}

/// A blob of a few KB asked for a window of 128 MiB.
#[test]
fn memory_of_a_decoder_is_bounded() {
    let layer = tar().file("f", vec![0; 1 << 20]).end();
    let packed = |log| {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
        encoder.window_log(log).unwrap();
        encoder.write_all(&layer).unwrap();
        encoder.finish().unwrap()
    };
    Pen::new().apply(&packed(25), &Limits::default()).unwrap();
    let error = Pen::new().apply(&packed(26), &Limits::default()).unwrap_err();
    assert_eq!(error.class(), Some(Class::Limit), "{error}");
    assert!(error.to_string().contains("--zstd-window-log-max"), "{error}");
    let limits = Limits { zstd_window_log_max: 26, ..Limits::default() };
    Pen::new().apply(&packed(26), &limits).unwrap();
}

/// Every zero of a hole is hashed, and nobody sends them: 3 KB of tar were 64 GiB of them.
#[test]
fn holes_are_bounded_by_what_is_sent() {
    let layer = |size: u64| {
        let text = size.to_string();
        let map = ("GNU.sparse.map", &b"0,0"[..]);
        let records = [("GNU.sparse.size", text.as_bytes()), ("GNU.sparse.numblocks", b"1"), map];
        tar().pax(&records).file("f", "").end()
    };
    Pen::new().apply(&layer(1 << 20), &Limits::default()).unwrap();
    let error = Pen::new().apply(&layer((8 << 30) + 1), &Limits::default()).unwrap_err();
    assert_eq!(error.class(), Some(Class::Limit), "{error}");
    assert!(error.to_string().contains("--ratio-max 200"), "{error}");
}

/// A chain far deeper than anybody needs, made and removed again and again.
#[test]
fn deep_removals_are_paid_for() {
    let path = b"d/".repeat(2040);
    let wide = Limits { depth_max: 2048, walk_max: 1 << 20, ..Limits::default() };
    let mut layer = tar();
    for _ in 0..3 {
        layer = layer.dir("d").pax(&[("path", &path)]).dir("d").file("d", "");
    }
    let layer = layer.end();
    Pen::new().apply(&layer, &wide).unwrap();
    // The sum over all levels, once.
    let once = 2040 * 2041 / 2;
    let limits = Limits { removals_max: 2 * once, ..wide };
    let error = Pen::new().apply(&layer, &limits).unwrap_err();
    assert!(error.to_string().contains("--removals-max"), "{error}");
}

/// Wall time is the host's as well as the layer's: another try may be in time.
#[test]
fn what_takes_too_long_may_be_tried_again() {
    let layer = tar().file("f", "").end();
    for sandbox in ["on", "off"] {
        let args = ["--json", "--sandbox", sandbox, "--time-max", "0"];
        let out = program(&args, &Pen::new(), &layer);
        assert_eq!(out.status.code(), Some(111), "{out:?}");
        assert!(String::from_utf8_lossy(&out.stderr).contains("--time-max"), "{out:?}");
    }
    let limits = Limits { time_max: std::time::Duration::ZERO, ..Limits::default() };
    let error = Pen::new().apply(&layer, &limits).unwrap_err();
    assert_eq!(error.kind(), unpack::Kind::TimedOut);
    assert_eq!(error.depends_on(), None);
}

/// A layer that does not come is waited for no longer than that, wherever it stops.
#[test]
fn a_silent_input_is_waited_for_no_longer_than_the_limit() {
    let layer = tar().file("f", vec![7; 3 << 20]).end();
    let gzipped = forge::gzip(&layer);
    let pen = Pen::new();
    let root = pen.root();
    let root = root.to_str().unwrap();
    for way in [
        &["--sandbox", "on", "--root", root][..],
        &["--sandbox", "off", "--root", root],
        &["--list"],
        &["--verify", "--root", root],
    ] {
        for given in [&[][..], &layer[..100], &layer[..2 << 20], &gzipped[..gzipped.len() / 2]] {
            let begun = std::time::Instant::now();
            let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_unpack"))
                .args(way)
                .args(["--time-max", "1"])
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::null())
                .stderr(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            let mut stdin = child.stdin.take().unwrap();
            std::io::Write::write_all(&mut stdin, given).unwrap();
            let out = child.wait_with_output().unwrap();
            drop(stdin);
            let said = String::from_utf8_lossy(&out.stderr);
            assert_eq!(out.status.code(), Some(111), "{way:?}, {}: {said}", given.len());
            assert!(said.contains("--time-max 1"), "{way:?}, {}: {said}", given.len());
            let took = begun.elapsed().as_secs_f64();
            assert!((0.9..5.0).contains(&took), "{way:?}, {}: {took}", given.len());
        }
    }
}

/// The processor's time is the layer's own: it is refused for good.
#[test]
fn what_uses_the_processor_too_long_is_refused() {
    let layer = (0..5000).fold(tar(), |tar, n| tar.file(format!("f{n}"), "")).end();
    let out = program(&["--processor-max", "0"], &Pen::new(), &layer);
    assert_eq!(out.status.code(), Some(100), "{out:?}");
    assert!(String::from_utf8_lossy(&out.stderr).contains("--processor-max 0"), "{out:?}");
}

#[test]
fn temporary_records_have_a_bound_and_a_place() {
    let layer =
        (0..12_000).fold(tar(), |tar, n| tar.file(format!("{}/{n}", "d".repeat(90)), "")).end();
    let place = tempfile::tempdir().unwrap();
    let spill = place.path().to_str().unwrap();
    for sandbox in ["on", "off"] {
        let args = ["-q", "--sandbox", sandbox, "--spill-dir", spill, "--spill-bytes-max", "1000"];
        let out = program(&args, &Pen::new(), &layer);
        assert_eq!(out.status.code(), Some(100), "{out:?}");
        assert!(String::from_utf8_lossy(&out.stderr).contains("--spill-bytes-max 1000"), "{out:?}");
        let args = ["-q", "--sandbox", sandbox, "--spill-dir", "/nowhere"];
        let out = program(&args, &Pen::new(), &layer);
        assert_eq!(out.status.code(), Some(100), "{out:?}");
        assert!(String::from_utf8_lossy(&out.stderr).contains("/nowhere"), "{out:?}");
        let args = ["-q", "--sandbox", sandbox, "--spill-dir", spill];
        let out = program(&args, &Pen::new(), &layer);
        assert_eq!(out.status.code(), Some(0), "{out:?}");
    }
}
