//! What writers of the world have left behind, read as every reader that people apply layers with
//! reads it, or refused where those differ. Sparse files are in `sparse`, whiteouts in `whiteouts`.

mod forge;

use std::process::Stdio;

use forge::{GNU, Head, Pen, V7, base256, gzip, octal, record, tar, xattr};
use unpack::{Class, Limits};

const NUL: [u8; 12] = [0; 12];

/// A file under a GNU header with these bytes from 345 on, where GNU has two times.
fn gnu(rest: &[u8]) -> forge::Tar {
    tar().with(Head::new("app.js", b'0', 1), "x", |h| {
        h.magic = GNU.to_vec();
        h.prefix = rest.to_vec();
    })
}

fn odd(change: impl FnOnce(&mut Head)) -> Vec<u8> {
    tar().with(Head::new("f", b'0', 0), "", change).end()
}

/// Two fields of twelve bytes.
fn times(access: &[u8], change: &[u8]) -> Vec<u8> {
    let mut both = access.to_vec();
    both.resize(12, 0);
    both.extend_from_slice(change);
    both
}

const IN_ROOT: &str = "app.js file 0644 0:0 1000 x";

// Go up to 1.7 took the times of a GNU header for a prefix, as ustar has it (golang/go#21005).
accepted! {
    g01_a_prefix_in_a_gnu_header: gnu(b"usr/src/app").end() => ["usr dir 0755 0:0 0",
        "usr/src dir 0755 0:0 0", "usr/src/app dir 0755 0:0 0", "usr/src/app/app.js file 0644 0:0 1000 x"];
    g01b_a_prefix_of_155_bytes: gnu(&[b'p'; 155]).end()
        => [&format!("{} dir 0755 0:0 0", "p".repeat(155)), &format!("{}/{IN_ROOT}", "p".repeat(155))];
    g01c_a_short_prefix: gnu(b"a").end() => ["a dir 0755 0:0 0", "a/app.js file 0644 0:0 1000 x"];
    g01d_an_absolute_prefix: gnu(b"/a").end() => ["a dir 0755 0:0 0", "a/app.js file 0644 0:0 1000 x"];
    g01e_of_a_directory: tar().with(Head::new("d/", b'5', 0), "", |h| {
        h.magic = GNU.to_vec();
        h.prefix = b"p".to_vec();
    }).end() => ["p dir 0755 0:0 0", "p/d dir 0755 0:0 1000"];
    g01f_the_first_digits_are_a_time_and_the_rest_is_none: gnu(b"12345678901/lib").end()
        => ["12345678901 dir 0755 0:0 0", "12345678901/lib dir 0755 0:0 0",
            "12345678901/lib/app.js file 0644 0:0 1000 x"];
    g02_two_times: gnu(&times(b"13371130000", b"13371130001")).end() => [IN_ROOT];
    g02b_one_time: gnu(&times(b"13371130000", b"")).end() => [IN_ROOT];
    g02c_only_the_second: gnu(&times(b"", b"13371130000")).end() => [IN_ROOT];
    g02d_binary_times: gnu(&times(&base256(-1, 12), &base256(1 << 40, 12))).end() => [IN_ROOT];
    g02e_times_in_spaces: gnu(&times(b" 1337113000 ", b"           7")).end() => [IN_ROOT];
    g02f_a_time_ends_at_its_nul: gnu(&times(b"1337\0zzzzzzz", b"1")).end() => [IN_ROOT];
    g02g_times_and_what_old_gnu_has_behind_them: gnu(&[times(b"13371130000", b"13371130001").as_slice(),
        b"00000000000\0", &[0; 4], b"\0", &[0; 90]].concat()).end() => [IN_ROOT];
    /// Nothing is in front of the NUL: Go reads an empty prefix.
    g02h_a_second_time_that_is_none: gnu(&times(b"", b"junk")).end() => [IN_ROOT];
    g03_a_long_name_counts_more: tar().extension(b'L', b"long/name\0").raw(gnu(b"a/b").0).end()
        => ["long dir 0755 0:0 0", "long/name file 0644 0:0 1000 x"];
    g03b_a_pax_path_counts_more: tar().pax(&[("path", b"pax/name")]).raw(gnu(b"\xff\xfe/../x").0).end()
        => ["pax dir 0755 0:0 0", "pax/name file 0644 0:0 1000 x"];
}

refused! {
    g04_a_prefix_that_leads_out Path: gnu(b"../etc").end();
    g04b_a_prefix_that_leads_up Path: gnu(b"a/../../etc").end();
    /// Go would drop it, and put the file into the root.
    g04c_a_prefix_that_is_not_ascii Path: gnu("\u{e9}t\u{e9}/x".as_bytes()).end();
    g04d_a_prefix_of_control_bytes Path: gnu(b"\x01\x02\x03").end();
}

// tar-rs leaves what nobody set; npm's portable packages and Node's image builders do as well.
accepted! {
    b01_nul_is_0: odd(|h| { h.uid = NUL[..8].into(); h.gid = NUL[..8].into(); h.mtime = NUL.into(); })
        => ["f file 0644 0:0 0"];
    b01b_under_gnu_magic: odd(|h| { h.magic = GNU.into(); h.uid = NUL[..8].into(); h.mtime = NUL.into(); })
        => ["f file 0644 0:0 0"];
    b01c_of_a_directory_and_a_link: tar()
        .with(Head::new("d", b'5', 0), "", |h| { h.uid = NUL[..8].into(); h.gid = NUL[..8].into(); })
        .with(Head::new("s", b'2', 0), "", |h| { h.mtime = NUL.into(); h.link = b"d".into(); }).end()
        => ["d dir 0755 0:0 1000", "s symlink 0777 0:0 0 d"];
    b01d_mode: odd(|h| h.mode = NUL[..8].into()) => ["f file 0000 0:0 1000"];
    // Maven's archiver.
    b01f_spaces_up_to_a_nul: odd(|h| { h.uid = b"       \0".into(); h.mtime = b"   \0   \0\0  \0".into(); })
        => ["f file 0644 0:0 0"];
    b01e_pax_counts_more: tar().pax(&[("uid", b"7"), ("mtime", b"5")])
        .with(Head::new("f", b'0', 0), "", |h| { h.uid = NUL[..8].into(); h.mtime = NUL.into(); }).end()
        => ["f file 0644 7:0 5"];
}

// bsdtar writes a time that octal cannot hold in 11 bytes and a blank, which is another number; beside it there is
// always the right one. An extension header's own time is nobody's.
accepted! {
    b01g_bsdtar_before_1970: tar().pax(&[("mtime", b"-2147483648")])
        .with(Head::new("f", b'0', 0), "", |h| h.mtime = [base256(-2_147_483_648, 11), vec![b' ']].concat()).end()
        => ["f file 0644 0:0 -2147483648"];
    b01h_bsdtar_after_2242: tar().pax(&[("mtime", b"9000000000")])
        .with(Head::new("f", b'0', 0), "", |h| h.mtime = [base256(9_000_000_000, 11), vec![b' ']].concat()).end()
        => ["f file 0644 0:0 9000000000"];
    b01i_fields_of_the_extension_header: tar()
        .with(Head::new("ext", b'x', 11), record("mtime", "5"), |h| {
            h.mtime = base256(94_670_856_000_000, 12);
            h.mode = b"rwxr-xr-".to_vec();
            h.uid = base256(-1, 8);
            h.gid = b"        ".to_vec();
            h.major = b"nothing".to_vec();
        })
        .file("f", "").end()
        => ["f file 0644 0:0 5"];
}

refused! {
    b01j_without_the_right_one Number: odd(|h| h.mtime = [base256(9_000_000_000, 11), vec![b' ']].concat());
    b01k_garbage_beside_the_right_one Number: tar().pax(&[("mtime", b"5")])
        .with(Head::new("f", b'0', 0), "", |h| h.mtime = b"            ".into()).end();
    b02_spaces_are_no_number Number: odd(|h| h.uid = b"        ".into());
    b02b_spaces_behind_a_nul Number: odd(|h| h.gid = b"\0       ".into());
    // Go reads the number, GNU tar reads 0, or one digit less of a size.
    b03_digits_behind_a_nul Number: odd(|h| h.uid = b"\x000000007".into());
    b03b_a_size_behind_nuls Number: tar().with(Head::new("f", b'0', 0), "x", |h| {
        h.size = b"\0\0\0\0\0\0\x000001\0".into();
    }).end();
    b03c_a_time_behind_a_nul Number: odd(|h| h.mtime = b" \x00000001750".into());
    b02c_blank_time Number: odd(|h| h.mtime = b"            ".into());
    b02d_a_blank_size Number: odd(|h| h.size = NUL.into());
    b02e_a_blank_device Number:
        tar().with(Head::new("n", b'3', 0), "", |h| { h.major = NUL[..8].into(); h.minor = NUL[..8].into(); }).end();
}

const DOCKER_2013: &[u8] = b"ustar\0 \0";

accepted! {
    m02_the_magic_of_maven: odd(|h| { h.magic = b"ustar\0\0\0".into(); h.prefix = b"p".into(); })
        => ["p dir 0755 0:0 0", "p/f file 0644 0:0 1000"];
    m01_the_magic_of_docker_in_2013: odd(|h| h.magic = DOCKER_2013.into()) => ["f file 0644 0:0 1000"];
    m01b_with_a_prefix: odd(|h| { h.magic = DOCKER_2013.into(); h.prefix = b"p".into(); })
        => ["p dir 0755 0:0 0", "p/f file 0644 0:0 1000"];
    m01c_with_pax: tar().with(Head::new("x", b'x', 9), "9 path=a\n", |h| h.magic = DOCKER_2013.into())
        .with(Head::new("f", b'0', 0), "", |h| h.magic = DOCKER_2013.into()).end()
        => ["a file 0644 0:0 1000"];
}

accepted! {
    t01_v7_root: tar().with(Head::new("./", 0, 0), "", |h| { h.magic = V7.into(); h.mode = octal(0o711, 8); })
        .with(Head::new("./f", 0, 1), "1", |h| h.magic = V7.into()).end() => ["f file 0644 0:0 1000 1"];
    t01b_nul_type_with_a_slash: tar().with(Head::new("d/", 0, 0), "", |h| h.mode = octal(0o755, 8)).end()
        => ["d dir 0755 0:0 1000"];
}

refused! {
    // Some make a directory of it, some a file.
    t02_type_0_with_a_slash Path: tar().file("dir/", "").end();
    t02b_in_a_pax_path Path: tar().pax(&[("path", b"dir/")]).file("dir", "").end();
    t02c_under_gnu_magic Path: tar().with(Head::new("dir/", b'0', 0), "", |h| h.magic = GNU.into()).end();
    t02d_under_v7 Path: tar().with(Head::new("dir/", b'0', 0), "", |h| h.magic = V7.into()).end();
    t02e_the_root Path: tar().file("./", "").end();
    t02f_v7_root_without_a_slash Path: tar().with(Head::new(".", 0, 0), "", |h| h.magic = V7.into()).end();
}

/// The root gets what a v7 entry says of it.
#[test]
fn t01c_v7_root_has_its_mode() {
    let head = |h: &mut Head| {
        h.magic = V7.into();
        h.mode = octal(0o711, 8);
    };
    let pen = Pen::new();
    pen.apply(&tar().with(Head::new("./", 0, 0), "", head).end(), &Limits::default()).unwrap();
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(pen.root()).unwrap());
    assert_eq!(mode & 0o7777, 0o711);
}

/// `docker save` has layers of no bytes at all.
#[test]
fn e01_a_layer_of_nothing() {
    use sha2::{Digest, Sha256};
    let zstd = zstd::encode_all(&b""[..], 1).unwrap();
    for layer in [Vec::new(), gzip(b""), zstd] {
        let pen = forge::accept(std::slice::from_ref(&layer), &Limits::default(), &[]);
        let applied = pen.apply(&layer, &Limits::default()).unwrap();
        assert_eq!((applied.entries, applied.diff_bytes), (0, 0));
        assert_eq!(applied.diff_id, <[u8; 32]>::from(Sha256::digest(b"")));
        assert_eq!(unpack::list(layer.as_slice(), &Limits::default(), |_| {}).unwrap().entries, 0);
        for sandbox in ["require", "off"] {
            let out = program(&["--json", "--sandbox", sandbox], &Pen::new(), &layer, "");
            assert_eq!(out.status.code(), Some(0), "{out:?}");
        }
        // Another one was asked for.
        let wrong = Limits { diff_id: Some([7; 32]), ..Limits::default() };
        forge::refuse(&[layer], &wrong, Class::Digest);
    }
}

#[test]
fn x01_an_empty_attribute_is_set_and_empty() {
    let layer = tar()
        .pax(&[("SCHILY.xattr.user.empty", b""), ("SCHILY.xattr.user.full", b"1")])
        .file("f", "")
        .pax(&[("SCHILY.xattr.user.empty", b"")])
        .dir("d")
        .end();
    let pen = Pen::new();
    let applied = pen.apply(&layer, &Limits::default()).unwrap();
    assert_eq!(applied.dropped_xattrs, 0);
    for name in ["f", "d"] {
        assert_eq!(
            xattr(&pen.root().join(name), "user.empty").as_deref(),
            Some(&b""[..]),
            "{name}"
        );
    }
    let root = unpack::Root::open(&pen.root()).unwrap();
    let verified = unpack::verify(layer.as_slice(), &root, &Limits::default(), true, |d| {
        panic!("{d:?}");
    });
    assert_eq!(verified.unwrap().found_digest, applied.tree_digest);
    // As the kernel has it: an access list of nothing is none.
    let none = tar().pax(&[("SCHILY.xattr.system.posix_acl_access", b"")]).file("f", "").end();
    let pen = forge::accept(&[none], &Limits::default(), &["f file 0644 0:0 1000"]);
    assert_eq!(xattr(&pen.root().join("f"), "system.posix_acl_access"), None);
}

/// GNU tar's --acls and --selinux: what the file system of the writer had, as text.
#[test]
fn x02_lists_in_text_are_dropped_and_counted() {
    let text = b"user::rw-\nuser:adm:r--\ngroup::r--\nmask::r--\nother::r--\n";
    let layer = tar()
        .pax(&[("SCHILY.acl.access", text), ("SCHILY.xattr.user.kept", b"1")])
        .file("f", "")
        .pax(&[
            ("SCHILY.acl.access", text),
            ("SCHILY.acl.default", text),
            ("SCHILY.acl.default", b""),
        ])
        .dir("d")
        .pax(&[("RHT.security.selinux", b"system_u:object_r:etc_t:s0")])
        .file("g", "")
        .end();
    let pen = forge::accept(
        std::slice::from_ref(&layer),
        &Limits::default(),
        &["d dir 0755 0:0 1000", "f file 0644 0:0 1000", "g file 0644 0:0 1000"],
    );
    assert_eq!(pen.apply(&layer, &Limits::default()).unwrap().dropped_xattrs, 4);
    assert_eq!(xattr(&pen.root().join("f"), "system.posix_acl_access"), None);
    assert_eq!(xattr(&pen.root().join("f"), "user.kept").as_deref(), Some(&b"1"[..]));
    let strict = Limits { xattrs_strict: true, ..Limits::default() };
    forge::refuse(&[layer], &strict, Class::Xattr);
    // For all files at once: only some readers would do so.
    let global = tar().extension(b'g', &record("SCHILY.acl.access", text)).file("f", "").end();
    forge::refuse(&[global], &Limits::default(), Class::Extension);
}

/// An overlay that is mounted with `userxattr` keeps its state there.
#[test]
fn x03_the_state_of_an_overlay_is_dropped() {
    for key in
        ["user.overlay.opaque", "user.overlay.redirect", "user.overlay.", "user.overlay.origin"]
    {
        let name = format!("SCHILY.xattr.{key}");
        for entry in [tar().dir("n"), tar().file("n", "")] {
            let layer = tar().pax(&[(&name, b"y")]).raw(entry.0).end();
            let pen = Pen::new();
            let applied = pen.apply(&layer, &Limits::default()).unwrap();
            assert_eq!(applied.dropped_xattrs, 1, "{key}");
            assert_eq!(xattr(&pen.root().join("n"), key), None, "{key}");
        }
    }
    let other = tar().pax(&[("SCHILY.xattr.user.overlaid", b"y")]).file("n", "").end();
    let pen = Pen::new();
    assert_eq!(pen.apply(&other, &Limits::default()).unwrap().dropped_xattrs, 0);
}

/// The program, started by a shell that runs something `before`.
fn program(args: &[&str], pen: &Pen, layer: &[u8], before: &str) -> std::process::Output {
    let file = forge::scratch();
    let path = file.path().join("layer");
    std::fs::write(&path, layer).unwrap();
    let mut shell = std::process::Command::new("bash");
    shell.arg("-c").arg(format!("{before}exec \"$0\" \"$@\"")).arg(env!("CARGO_BIN_EXE_unpack"));
    shell.args(args).arg("--root").arg(pen.root());
    shell.stdin(std::fs::File::open(path).unwrap()).stdout(Stdio::piped()).stderr(Stdio::piped());
    shell.output().unwrap()
}

/// How large a file this process may write says nothing about the layer.
#[test]
fn h01_the_hosts_limit_on_files_is_the_hosts() {
    let layer = tar().file("small", "1").file("large", vec![b'x'; 9 << 20]).end();
    for sandbox in ["require", "off"] {
        // Also below what the two processes share.
        for kib in [8 << 10, 100] {
            // Whoever starts it may have told it to ignore the signal.
            for before in ["", "trap '' XFSZ; "] {
                let limit = format!("{before}ulimit -f {kib}; ");
                let out = program(&["--sandbox", sandbox], &Pen::new(), &layer, &limit);
                let text = String::from_utf8_lossy(&out.stderr).into_owned();
                assert_eq!(out.status.code(), Some(111), "{sandbox} {limit}: {text}");
                assert!(!text.contains("refused"), "{text}");
                if kib > 100 {
                    assert!(text.contains("ulimit -f") && text.contains("8388608"), "{text}");
                }
            }
        }
        let enough = "ulimit -f 10240; ";
        let out = program(&["-q", "--sandbox", sandbox], &Pen::new(), &layer, enough);
        assert_eq!(out.status.code(), Some(0), "{sandbox}: {out:?}");
    }
}
