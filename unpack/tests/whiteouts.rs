//! Whiteouts: they hide what lower layers have, and never what their own layer has, in whatever
//! order (OCI image spec, layer.md).

mod forge;

use forge::{Head, tar};

fn lower() -> Vec<u8> {
    tar()
        .file("foo", "low")
        .file("d/one", "low")
        .file("d/two", "low")
        .file("d/e/three", "low")
        .end()
}

const FOO: &str = "foo file 0644 0:0 1000 low";
const D: &str = "d dir 0755 0:0 0";
const ONE: &str = "d/one file 0644 0:0 1000 low";
const TWO: &str = "d/two file 0644 0:0 1000 low";
const E: &str = "d/e dir 0755 0:0 0";
const THREE: &str = "d/e/three file 0644 0:0 1000 low";

refused! {
    w04_whiteout_of_nothing Whiteout: lower(), tar().file(".wh.", "").end();
    w04b_whiteout_of_nothing_below Whiteout: lower(), tar().file("d/.wh.", "").end();
    w05_whiteout_of_dot Whiteout: lower(), tar().file("d/.wh..", "").end();
    w06_whiteout_of_dotdot Whiteout: lower(), tar().file("d/.wh...", "").end();
    w06b_whiteout_of_dotdot_at_the_root Whiteout: lower(), tar().file(".wh...", "").end();
    w06c_whiteout_as_a_parent Whiteout: lower(), tar().file("d/.wh.one/x", "").end();
    w12_whiteout_directory Whiteout: lower(), tar().dir(".wh.foo").end();
    w13_whiteout_symlink Whiteout: lower(), tar().sym(".wh.foo", "x").end();
    w13c_whiteout_fifo Whiteout: lower(), tar().node(".wh.foo", b'6', 0, 0).end();
    w13d_opaque_directory Whiteout: lower(), tar().dir("d/.wh..wh..opq").end();
    w13e_opaque_symlink Whiteout: lower(), tar().sym("d/.wh..wh..opq", "x").end();
    w10b_hard_link_to_a_plnk_file_that_is_not_there Link:
        tar().dir(".wh..wh.plnk").hard("h", ".wh..wh.plnk/1.2").end();
    w10c_hard_link_to_a_plnk_file_that_comes_later Link:
        tar().hard("h", ".wh..wh.plnk/1.2").file(".wh..wh.plnk/1.2", "x").end();
    w10d_hard_link_to_other_aufs_metadata Link: tar().file(".wh..wh.aufs", "x").hard("h", ".wh..wh.aufs").end();
    w10e_hard_link_to_a_plnk_directory Link:
        tar().dir(".wh..wh.plnk").dir(".wh..wh.plnk/1.2").hard("h", ".wh..wh.plnk/1.2").end();
    w10f_hard_link_to_the_plnk_directory Link: tar().dir(".wh..wh.plnk").hard("h", ".wh..wh.plnk").end();
    w10g_hard_link_to_plnk_below_the_root Link:
        tar().file("d/.wh..wh.plnk/1.2", "x").hard("h", "d/.wh..wh.plnk/1.2").end();
    w10h_hard_link_to_a_whiteout Link: lower(), tar().file(".wh.foo", "").hard("h", ".wh.foo").end();
    w10i_plnk_of_another_layer Link:
        tar().file(".wh..wh.plnk/1.2", "x").end(), tar().hard("h", ".wh..wh.plnk/1.2").end();
    w16_whiteout_below_a_lower_file Path: lower(), tar().file("foo/.wh.x", "").end();
}

accepted! {
    w00_whiteout: lower(), tar().file(".wh.foo", "").end() => [D, ONE, TWO, E, THREE];
    w00b_whiteout_of_a_tree: lower(), tar().file(".wh.d", "").end() => [FOO];
    w00c_whiteout_below: lower(), tar().file("d/.wh.one", "").file("d/e/.wh.three", "").end()
        => [FOO, D, TWO, E];
    w01_file_then_whiteout: lower(), tar().file("foo", "new").file(".wh.foo", "").end()
        => ["foo file 0644 0:0 1000 new", D, ONE, TWO, E, THREE];
    w02_whiteout_then_file: lower(), tar().file(".wh.foo", "").file("foo", "new").end()
        => ["foo file 0644 0:0 1000 new", D, ONE, TWO, E, THREE];
    w03_new_then_opaque: lower(), tar().file("d/new", "up").file("d/.wh..wh..opq", "").end()
        => [FOO, D, "d/new file 0644 0:0 1000 up"];
    w03b_opaque_then_new: lower(), tar().file("d/.wh..wh..opq", "").file("d/new", "up").end()
        => [FOO, D, "d/new file 0644 0:0 1000 up"];
    w03c_opaque_between: lower(),
        tar().dir("d").file("d/one", "up").file("d/.wh..wh..opq", "").file("d/new", "up").end()
        => [FOO, "d dir 0755 0:0 1000", "d/one file 0644 0:0 1000 up", "d/new file 0644 0:0 1000 up"];
    /// The implicit parent `d/e` of `d/e/new` survives, what lower layers had in it does not.
    w03d_opaque_spares_implicit_parents: lower(),
        tar().file("d/e/new", "up").file("d/.wh..wh..opq", "").end()
        => [FOO, D, E, "d/e/new file 0644 0:0 1000 up"];
    w03e_opaque_root: lower(), tar().file("new", "up").file(".wh..wh..opq", "").end()
        => ["new file 0644 0:0 1000 up"];
    w03f_opaque_twice: lower(),
        tar().file("d/.wh..wh..opq", "").file("d/a", "1").file("d/.wh..wh..opq", "").file("d/b", "2").end()
        => [FOO, D, "d/a file 0644 0:0 1000 1", "d/b file 0644 0:0 1000 2"];
    w03g_opaque_on_nothing: lower(), tar().file("nope/.wh..wh..opq", "").end()
        => [FOO, D, ONE, TWO, E, THREE];
    w03h_opaque_in_a_new_directory: lower(),
        tar().dir("n").file("n/a", "1").file("n/.wh..wh..opq", "").end()
        => [FOO, D, ONE, TWO, E, THREE, "n dir 0755 0:0 1000", "n/a file 0644 0:0 1000 1"];
    w05b_whiteout_of_a_dot_name: tar().file(".baz", "low").end(), tar().file(".wh..baz", "").end() => [];
    w05c_whiteout_of_wh: tar().file("wh", "low").end(), tar().file(".wh.wh", "").end() => [];
    w07_whiteout_through_escaping_symlink: tar().sym("s", "../outside").end(),
        tar().file("s/.wh.secret", "").end() => ["s symlink 0777 0:0 1000 ../outside"];
    w08_opaque_through_escaping_symlink: tar().sym("s", "../outside").end(),
        tar().file("s/.wh..wh..opq", "").end() => ["s symlink 0777 0:0 1000 ../outside"];
    w08b_whiteout_through_symlink_inside: tar().file("usr/lib/f", "low").sym("lib", "usr/lib").end(),
        tar().file("lib/.wh.f", "").end()
        => ["usr dir 0755 0:0 0", "usr/lib dir 0755 0:0 0", "lib symlink 0777 0:0 1000 usr/lib"];
    w08c_opaque_through_symlink_inside: tar().file("usr/lib/f", "low").sym("lib", "usr/lib").end(),
        tar().file("lib/new", "up").file("lib/.wh..wh..opq", "").end()
        => ["usr dir 0755 0:0 0", "usr/lib dir 0755 0:0 0", "lib symlink 0777 0:0 1000 usr/lib",
            "usr/lib/new file 0644 0:0 1000 up"];
    w09_whiteout_of_a_symlink: tar().file("t", "low").sym("s", "t").end(), tar().file(".wh.s", "").end()
        => ["t file 0644 0:0 1000 low"];
    w09b_whiteout_of_nothing: lower(), tar().file(".wh.nope", "").file("no/such/.wh.x", "").end()
        => [FOO, D, ONE, TWO, E, THREE];
    w09c_opaque_after_a_symlink_became_a_directory:
        tar().file("t/f", "low").sym("s", "t").end(),
        tar().dir("s").file("s/new", "up").file("s/.wh..wh..opq", "").end()
        => ["t dir 0755 0:0 0", "t/f file 0644 0:0 1000 low", "s dir 0755 0:0 1000",
            "s/new file 0644 0:0 1000 up"];
    w10_aufs_metadata: lower(), tar().dir(".wh..wh.plnk").file(".wh..wh.plnk/12.34", "x")
        .file(".wh..wh.aufs", "").dir(".wh..wh.orph").end() => [FOO, D, ONE, TWO, E, THREE];
    // AUFS makes each whiteout but the first by a hard link.
    w10j_whiteouts_that_are_hard_links: lower(),
        tar().file("d/.wh.one", "").hard("d/.wh.two", "d/.wh.one").hard(".wh.foo", "d/.wh.one").end()
        => [D, E, THREE];
    w10k_whiteouts_linked_to_that_of_aufs: lower(), tar().file(".wh..wh.aufs", "")
        .hard("d/.wh.one", ".wh..wh.aufs").hard(".wh.foo", "/.wh..wh.aufs").end() => [D, TWO, E, THREE];
    w10l_opaque_by_a_hard_link: lower(), tar().file(".wh.foo", "").hard("d/.wh..wh..opq", ".wh.foo").end() => [D];
    w10m_whiteout_linked_to_a_file: lower(), tar().hard(".wh.foo", "d/one").end() => [D, ONE, TWO, E, THREE];
    w10n_hard_links_to_plnk: lower(), tar().dir(".wh..wh.plnk").file(".wh..wh.plnk/1.2", "linked")
        .file(".wh..wh.plnk/3.4", "other").hard("a", ".wh..wh.plnk/1.2").hard("d/one", "/.wh..wh.plnk/1.2")
        .hard("foo", "./.wh..wh.plnk/3.4").end()
        => ["a file 0644 0:0 1000 linked", "d/one file 0644 0:0 1000 linked", "foo file 0644 0:0 1000 other",
            D, TWO, E, THREE];
    w10o_all_of_a_plnk_file_comes_with_it: tar().pax(&[("SCHILY.xattr.user.a", b"1"), ("mtime", b"7.5")])
        .with(Head::new(".wh..wh.plnk/1.2", b'0', 4), "body", |h| {
            h.mode = forge::octal(0o4711, 8);
            h.uid = forge::octal(7, 8);
        }).hard("x/y", ".wh..wh.plnk/1.2").end()
        => ["x dir 0755 0:0 0", "x/y file 4711 7:0 7.500000000 body"];
    w10p_plnk_under_an_opaque_root: lower(), tar().file(".wh..wh.plnk/1.2", "linked").file(".wh..wh..opq", "")
        .hard("h", ".wh..wh.plnk/1.2").end() => ["h file 0644 0:0 1000 linked"];
    w10q_the_last_of_a_plnk_name_counts: tar().file(".wh..wh.plnk/1.2", "one").hard("a", ".wh..wh.plnk/1.2")
        .file(".wh..wh.plnk/1.2", "two").hard("b", ".wh..wh.plnk/1.2").end()
        => ["a file 0644 0:0 1000 one", "b file 0644 0:0 1000 two"];
    w10r_hard_links_among_aufs_metadata: tar().file(".wh..wh.plnk/1.2", "one").hard(".wh..wh.plnk/3.4", ".wh..wh.plnk/1.2")
        .hard(".wh..wh.orph/x", ".wh..wh.aufs").end() => [];
    w10s_a_link_to_plnk_that_is_replaced: tar().file(".wh..wh.plnk/1.2", "one").hard("a", ".wh..wh.plnk/1.2")
        .hard("b", ".wh..wh.plnk/1.2").file("a", "new").end()
        => ["a file 0644 0:0 1000 new", "b file 0644 0:0 1000 one"];
    w11_whiteout_with_data: lower(), tar().file(".wh.foo", "body").file("bar", "1").end()
        => [D, ONE, TWO, E, THREE, "bar file 0644 0:0 1000 1"];
    w14b_whiteout_then_directory: lower(), tar().file(".wh.d", "").dir("d").file("d/new", "up").end()
        => [FOO, "d dir 0755 0:0 1000", "d/new file 0644 0:0 1000 up"];
    /// The directory is this layer's; what lower layers had in it is not.
    w14c_directory_then_whiteout: lower(), tar().dir("d").file("d/new", "up").file(".wh.d", "").end()
        => [FOO, "d dir 0755 0:0 1000", "d/new file 0644 0:0 1000 up"];
    w14d_implicit_directory_then_whiteout:
        tar().dir_mode("d", 0o700).file("d/one", "low").end(),
        tar().file("d/new", "up").file(".wh.d", "").end()
        => ["d dir 0755 0:0 0", "d/new file 0644 0:0 1000 up"];
    w14e_whiteout_then_implicit_directory:
        tar().dir_mode("d", 0o700).file("d/one", "low").end(),
        tar().file(".wh.d", "").file("d/new", "up").end()
        => ["d dir 0755 0:0 0", "d/new file 0644 0:0 1000 up"];
    /// In whatever order: what the layer uses only as a parent is as if it had been missing.
    w14f_implicit_directories_below_one_that_is_hidden:
        tar().dir_mode("d", 0o700).dir_mode("d/e", 0o700).dir_mode("d/e/f", 0o700).file("d/e/f/one", "low").end(),
        tar().file("d/e/f/new", "up").file(".wh.d", "").end()
        => ["d dir 0755 0:0 0", "d/e dir 0755 0:0 0", "d/e/f dir 0755 0:0 0", "d/e/f/new file 0644 0:0 1000 up"];
    w14g_implicit_directories_below_an_opaque_one:
        tar().dir_mode("d", 0o700).dir_mode("d/e", 0o700).file("d/e/one", "low").dir_mode("d/x", 0o700).end(),
        tar().file("d/e/new", "up").dir_mode("d/x", 0o711).file("d/x/new", "up").file("d/.wh..wh..opq", "").end()
        => ["d dir 0700 0:0 1000", "d/e dir 0755 0:0 0", "d/e/new file 0644 0:0 1000 up",
            "d/x dir 0711 0:0 1000", "d/x/new file 0644 0:0 1000 up"];
    w14i_an_implicit_directory_is_opaque_and_then_hidden:
        tar().dir_mode("d", 0o700).dir_mode("d/e", 0o700).file("d/e/one", "low").end(),
        tar().file("d/e/new", "up").file("d/e/.wh..wh..opq", "").file("d/.wh..wh..opq", "").file(".wh.d", "").end()
        => ["d dir 0755 0:0 0", "d/e dir 0755 0:0 0", "d/e/new file 0644 0:0 1000 up"];
    w15_whiteout_of_lost_and_found: tar().dir("lost+found").end(), tar().file(".wh.lost+found", "").end()
        => [];
    w17_whiteout_then_hard_link_to_what_it_hid: lower(),
        tar().hard("keep", "foo").file(".wh.foo", "").end()
        => ["keep file 0644 0:0 1000 low", D, ONE, TWO, E, THREE];
    w18_three_layers: lower(), tar().file(".wh.d", "").file("d/new", "mid").end(),
        tar().file("d/.wh.new", "").file("d/top", "top").end()
        => [FOO, D, "d/top file 0644 0:0 1000 top"];
    w19_directory_replaces_and_merges: lower(),
        tar().file("d", "file").dir_mode("d", 0o711).file("d/x", "1").file("d/.wh..wh..opq", "").end()
        => [FOO, "d dir 0711 0:0 1000", "d/x file 0644 0:0 1000 1"];
    w20_merge_keeps_children: lower(), tar().dir_mode("d", 0o750).end()
        => [FOO, "d dir 0750 0:0 1000", ONE, TWO, E, THREE];
    w21_file_with_whiteout_prefix_inside: lower(), tar().file("d/a.wh.b", "1").end()
        => [FOO, D, ONE, TWO, E, THREE, "d/a.wh.b file 0644 0:0 1000 1"];
}

/// What AUFS keeps there for hard links is found by them and leaves no trace: not in the tree, its
/// times or the manifest. Links to one file are links.
#[test]
fn plnk_leaves_no_trace() {
    use std::os::unix::fs::MetadataExt;
    let limits = unpack::Limits::default();
    let layer = tar()
        .dir("./")
        .dir(".wh..wh.plnk")
        .file(".wh..wh.plnk/1.2", vec![b'x'; 3 << 20])
        .file(".wh..wh.plnk/nobody.links.it", "lost")
        .hard("a", ".wh..wh.plnk/1.2")
        .hard("b", ".wh..wh.plnk/1.2")
        .end();
    for below in [tar().end(), lower()] {
        let pen = forge::Pen::new();
        pen.apply(&below, &limits).unwrap();
        let applied = pen.apply(&layer, &limits).unwrap();
        assert_eq!((applied.aufs, applied.implicit_dirs, applied.hardlinks), (3, 0, 2));
        let at = |name: &str| std::fs::metadata(pen.root().join(name)).unwrap();
        assert_eq!((at("a").ino(), at("a").nlink()), (at("b").ino(), 2));
        assert_eq!(
            std::fs::metadata(pen.root()).unwrap().mtime(),
            1000,
            "the root has its own time"
        );
        let names = std::fs::read_dir(pen.root()).unwrap().map(|e| e.unwrap().file_name());
        assert!(names.into_iter().all(|name| !name.to_string_lossy().starts_with(".wh.")));
        let mut told = Vec::new();
        let root = unpack::Root::open(&pen.root()).unwrap();
        let listed = unpack::list(layer.as_slice(), &limits, |_| {}).unwrap();
        assert_eq!(listed.content_bytes, applied.content_bytes);
        let verified =
            unpack::verify(layer.as_slice(), &root, &limits, false, |d| told.push(d)).unwrap();
        assert_eq!((told, verified.found_digest), (vec![], applied.tree_digest));
    }
    // What is kept for links is bounded as links are.
    let many = (0..5).fold(tar(), |tar, n| tar.file(format!(".wh..wh.plnk/{n}"), "")).end();
    let few = unpack::Limits { links_max: 4, ..unpack::Limits::default() };
    forge::refuse(&[many], &few, unpack::Class::Limit);
}

/// The same behind all walls.
#[test]
fn plnk_in_the_sandbox() {
    let pen = forge::Pen::new();
    let dir = forge::scratch();
    let layer = tar().file(".wh..wh.plnk/1.2", "linked").hard("a", ".wh..wh.plnk/1.2").end();
    std::fs::write(dir.path().join("layer"), layer).unwrap();
    let out = std::process::Command::new(env!("CARGO_BIN_EXE_unpack"))
        .args(["-q", "--sandbox", "require", "--root"])
        .arg(pen.root())
        .stdin(std::fs::File::open(dir.path().join("layer")).unwrap())
        .output()
        .unwrap();
    assert_eq!(out.status.code(), Some(0), "{out:?}");
    assert_eq!(pen.tree(), ["a file 0644 0:0 1000 linked"]);
}

/// A lower directory that gets or loses children, but no entry, keeps its time.
#[test]
fn touched_directories_keep_their_time() {
    let pen = forge::Pen::new();
    let limits = unpack::Limits::default();
    pen.apply(&tar().dir("d").file("d/a", "1").dir("d/e").file("d/e/x", "1").end(), &limits)
        .unwrap();
    pen.apply(
        &tar().file("d/b", "1").file("d/.wh.a", "").file("d/e/.wh..wh..opq", "").end(),
        &limits,
    )
    .unwrap();
    let expected = ["d dir 0755 0:0 1000", "d/b file 0644 0:0 1000 1", "d/e dir 0755 0:0 1000"];
    assert_eq!(pen.tree(), expected);
}

/// Every marker after the first has nothing left to do: half a million cost what one does.
#[test]
fn w14_many_opaque_markers() {
    let mut low = tar();
    for n in 0..2000 {
        low = low.file(format!("d/{n}"), "");
    }
    let mut up = tar();
    for n in 0..20_000 {
        up = up.file("d/.wh..wh..opq", "");
        if n % 10 == 0 {
            up = up.file(format!("d/new{n}"), "");
        }
    }
    let pen = forge::Pen::new();
    pen.apply(&low.end(), &unpack::Limits::default()).unwrap();
    // Each lower name may be looked at once or so, and no more.
    let limits = unpack::Limits { removals_max: 5000, ..unpack::Limits::default() };
    let applied = pen.apply(&up.end(), &limits).unwrap();
    assert_eq!(applied.opaques, 20_000);
    assert_eq!(pen.tree().len(), 2001);
}

/// More directories below a hidden one than are kept open: it is that one which becomes as if it had been
/// missing, and those that have an entry are left as they are.
#[test]
fn w14h_a_hidden_directory_of_many() {
    let (mut low, mut up) = (tar().dir_mode("d", 0o700), tar());
    let mut expected = vec!["d dir 0755 0:0 0".to_owned()];
    for n in 0..400 {
        low = low.dir_mode(format!("d/{n}"), 0o700).file(format!("d/{n}/low"), "");
        up = up.dir_mode(format!("d/{n}"), 0o711).file(format!("d/{n}/new"), "up");
        expected.push(format!("d/{n} dir 0711 0:0 1000"));
        expected.push(format!("d/{n}/new file 0644 0:0 1000 up"));
    }
    let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
    let layers = [low.end(), up.file(".wh.d", "").end()];
    forge::accept(&layers, &unpack::Limits::default(), &expected);
}

#[test]
fn w22_removals_are_bounded() {
    let mut low = tar();
    for n in 0..100 {
        low = low.file(format!("d/{n}"), "");
    }
    let limits = unpack::Limits { removals_max: 50, ..unpack::Limits::default() };
    forge::refuse(&[low.end(), tar().file(".wh.d", "").end()], &limits, unpack::Class::Limit);
}

#[test]
fn whiteouts_with_odd_headers_are_still_whiteouts() {
    let layer = tar().with(Head::new(".wh.foo", 0, 0), "", |_| {}).end();
    forge::accept(&[lower(), layer], &unpack::Limits::default(), &[D, ONE, TWO, E, THREE]);
}
