//! Names and links: nothing leaves the root, and everything inside it lands where a root of its
//! own would put it.

mod forge;

use forge::{Head, Pen, V7, octal, tar};
use unpack::{Class, Limits};

refused! {
    p01_dotdot Path: tar().file("../escape", "x").end();
    p02_inner_dotdot Path: tar().file("a/../../x", "x").end();
    p02b_whiteout_with_dotdot Path: tar().file("dne/../.wh.etc", "").end();
    p02c_dotdot_at_the_end Path: tar().dir("a/..").end();
    p02d_only_dotdot Path: tar().dir("..").end();
    p02e_dotdot_in_a_pax_path Path: tar().pax(&[("path", b"a/../../x")]).file("a", "x").end();
    p02f_dotdot_in_a_long_name Path: tar().extension(b'L', b"../../x\0").file("a", "x").end();
    p02g_dotdot_in_a_prefix Path:
        tar().with(Head::new("x", b'0', 0), "", |h| h.prefix = b"../..".to_vec()).end();
    p08_root_as_file Path: tar().file("./", "").end();
    p08b_root_as_dot_file Path: tar().file(".", "x").end();
    p08c_root_as_symlink Path: tar().sym("/", "/tmp").end();
    p08d_root_as_hard_link Path: tar().file("a", "").hard(".", "a").end();
    p08e_root_as_fifo Path: tar().node(".", b'6', 0, 0).end();
    p10_empty_name Path: tar().file("", "x").end();
    p13_component_of_256 Path: tar().extension(b'L', &[b'x'; 256]).file("a", "x").end();
    p14_path_of_5000 Path:
        tar().pax(&[("path", [[b'y'; 199].as_slice(), b"/"].concat().repeat(25).as_slice())])
            .file("a", "x").end();
    p14b_path_of_4096 Path: tar().pax(&[("path", b"a/".repeat(2048).as_slice())]).dir("a").end();
    p21_parent_is_a_file Path: tar().file("a", "x").file("a/b", "x").end();
    p22_parent_is_a_fifo Path: tar().node("a", b'6', 0, 0).file("a/b", "x").end();
    p23_parent_is_a_device Path: tar().node("a", b'3', 1, 3).dir("a/b").end();
    p24_parent_is_a_lower_file Path: tar().file("a", "x").end(), tar().file("a/b", "x").end();
    p25_slash_after_a_file_with_a_body Path: tar().file("a/", "body").end();
    p26_pax_slash_on_type_7 Path: tar().with(Head::new("a/", b'7', 0), "", |_| {}).end();

    l06b_absolute_hard_link_out Link: tar().hard("h", "/etc/passwd").end();
    l07_hard_link_through_escaping_symlink Link:
        tar().sym("s", "../outside").hard("h", "s/secret").end();
    l07b_hard_link_dotdot Link: tar().hard("h", "../outside/secret").end();
    l10_hard_link_to_nothing Link: tar().hard("h", "missing").end();
    l10b_hard_link_below_nothing Link: tar().hard("h", "missing/too").end();
    l11_hard_link_to_the_root Link: tar().hard("h", "./").end();
    l12_hard_link_to_a_directory Link: tar().dir("d").hard("h", "d").end();
    l13_hard_link_to_itself Link: tar().file("h", "x").hard("h", "h").end();
    l13b_hard_link_to_a_whiteout Link: tar().file(".wh.x", "").hard("h", ".wh.x").end();
    l13c_hard_link_without_target Link: tar().hard("h", "").end();
    l14_symlink_loop Link: tar().sym("a", "b").sym("b", "a").file("a/f", "x").end();
    l15_symlink_to_itself Link: tar().sym("a", "a").file("a/f", "x").end();
    l15b_symlink_chain_of_41 Link: {
        let mut layer = tar();
        for n in 0..41 {
            layer = layer.sym(format!("s{n}"), format!("s{}", n + 1));
        }
        layer.dir("s41").file("s0/f", "x").end()
    };
    l23_hard_link_with_a_body Frame:
        tar().file("a", "x").with(Head::new("h", b'1', 4), "body", |h| h.link = b"a".to_vec()).end();
    l24_symlink_with_a_body Frame:
        tar().with(Head::new("s", b'2', 4), "body", |h| h.link = b"a".to_vec()).end();
    l25b_empty_symlink_target Link: tar().sym("s", "").end();
    l26_symlink_target_of_4096 Link: tar().pax(&[("linkpath", &[b'a'; 4096])]).sym("s", "x").end();
    l31_hard_link_over_its_own_parent Link:
        tar().file("a/b", "x").hard("a", "a/b").end();
    t5_hard_link_through_a_planted_symlink Link:
        tar().sym("s", "../outside").end(), tar().hard("h", "s/secret").file("h", "x").end();
    t7_parent_loop_planted_below Link:
        tar().sym("a", "a").end(), tar().file("a/x", "x").end();
}

accepted! {
    p03_absolute: tar().file("/x/y", "1").end()
        => ["x dir 0755 0:0 0", "x/y file 0644 0:0 1000 1"];
    p09_extra_slashes_and_dots: tar().file("a//./b///c", "1").end()
        => ["a dir 0755 0:0 0", "a/b dir 0755 0:0 0", "a/b/c file 0644 0:0 1000 1"];
    p11_v7_directory: tar().with(Head::new("dir/", 0, 0), "", |h| h.magic = V7.to_vec()).end()
        => ["dir dir 0644 0:0 1000"];
    p12_component_of_255: tar().extension(b'L', &[b'x'; 255]).file("a", "1").end()
        => [&format!("{} file 0644 0:0 1000 1", "x".repeat(255))];
    p15_not_utf8: tar().file(b"a\xff\xfe", "1").end() => ["a\\xff\\xfe file 0644 0:0 1000 1"];
    p16_control_characters: tar().file(b"a\n\x1b[31m\x07", "1").end()
        => ["a\\x0a\\x1b[31m\\x07 file 0644 0:0 1000 1"];
    p17_backslash: tar().file("a\\..\\b", "1").end() => ["a\\x5c..\\x5cb file 0644 0:0 1000 1"];
    p19_case_and_unicode_forms: tar().file("A", "1").file("a", "2").file("é", "3").file("e\u{301}", "4").end()
        => ["A file 0644 0:0 1000 1", "a file 0644 0:0 1000 2",
            "\\xc3\\xa9 file 0644 0:0 1000 3", "e\\xcc\\x81 file 0644 0:0 1000 4"];
    p20_lost_and_found: tar().dir_mode("lost+found", 0o700).file("lost+found/x", "1").end()
        => ["lost+found dir 0700 0:0 1000", "lost+found/x file 0644 0:0 1000 1"];
    p27_prefix: tar().with(Head::new("c", b'0', 1), "1", |h| h.prefix = b"a/b".to_vec()).end()
        => ["a dir 0755 0:0 0", "a/b dir 0755 0:0 0", "a/b/c file 0644 0:0 1000 1"];
    p29_names_of_dots: tar().file("...", "1").file("..a", "2").file("a..", "3").end()
        => ["... file 0644 0:0 1000 1", "..a file 0644 0:0 1000 2", "a.. file 0644 0:0 1000 3"];

    l01_file_through_relative_symlink: tar().sym("s", "../outside").file("s/pwn", "1").end()
        => ["s symlink 0777 0:0 1000 ../outside", "outside dir 0755 0:0 0",
            "outside/pwn file 0644 0:0 1000 1"];
    l03_directory_over_symlink: tar().sym("s", "../outside").dir_mode("s/", 0o777).end()
        => ["s dir 0777 0:0 1000"];
    l04_file_over_symlink: tar().sym("s", "../victim").file("s", "1").end()
        => ["s file 0644 0:0 1000 1"];
    l05_whiteout_through_symlink: tar().sym("s", "../outside").file("s/.wh.secret", "").end()
        => ["s symlink 0777 0:0 1000 ../outside"];
    l06_absolute_hard_link: tar().file("a", "1").hard("h", "/a").end()
        => ["a file 0644 0:0 1000 1", "h file 0644 0:0 1000 1"];
    l06c_hard_link_with_dots: tar().file("a", "1").hard("h", ".//./a").end()
        => ["a file 0644 0:0 1000 1", "h file 0644 0:0 1000 1"];
    l08_hard_link_to_symlink: tar().sym("s", "../victim").hard("h", "s").end()
        => ["s symlink 0777 0:0 1000 ../victim", "h symlink 0777 0:0 1000 ../victim"];
    l09_hard_link_to_symlink_with_mode: tar().sym("s", "../victim")
        .with(Head::new("h", b'1', 0), "", |h| {
            h.link = b"s".to_vec();
            h.mode = octal(0o777, 8);
            h.uid = octal(7, 8);
        }).end()
        => ["s symlink 0777 0:0 1000 ../victim", "h symlink 0777 0:0 1000 ../victim"];
    l16_usrmerge_relative: tar().dir("usr/lib").sym("lib", "usr/lib").file("lib/f", "1").end()
        => ["usr dir 0755 0:0 0", "usr/lib dir 0755 0:0 1000", "usr/lib/f file 0644 0:0 1000 1",
            "lib symlink 0777 0:0 1000 usr/lib"];
    l17_usrmerge_absolute: tar().dir("usr/lib").sym("lib", "/usr/lib").file("lib/f", "1").end()
        => ["usr dir 0755 0:0 0", "usr/lib dir 0755 0:0 1000", "usr/lib/f file 0644 0:0 1000 1",
            "lib symlink 0777 0:0 1000 /usr/lib"];
    /// The symlink is known by then, and what is behind it is still found and made there.
    l17b_usrmerge_again: tar().dir("usr/lib").dir("usr/lib/there").sym("lib", "usr/lib").file("lib/f", "1")
        .file("lib/there/f", "2").file("lib/new/f", "3").dir("lib/more").file("lib/more/x/y", "4").end()
        => ["usr dir 0755 0:0 0", "usr/lib dir 0755 0:0 1000", "usr/lib/there dir 0755 0:0 1000",
            "lib symlink 0777 0:0 1000 usr/lib", "usr/lib/f file 0644 0:0 1000 1",
            "usr/lib/there/f file 0644 0:0 1000 2", "usr/lib/new dir 0755 0:0 0",
            "usr/lib/new/f file 0644 0:0 1000 3", "usr/lib/more dir 0755 0:0 1000",
            "usr/lib/more/x dir 0755 0:0 0", "usr/lib/more/x/y file 0644 0:0 1000 4"];
    l18_directory_over_symlink_to_directory:
        tar().dir("usr/lib").file("usr/lib/f", "1").sym("lib", "usr/lib").dir("lib").end()
        => ["usr dir 0755 0:0 0", "usr/lib dir 0755 0:0 1000", "usr/lib/f file 0644 0:0 1000 1",
            "lib dir 0755 0:0 1000"];
    l19_symlink_over_full_directory: tar().file("d/e/f", "1").sym("d", "x").end()
        => ["d symlink 0777 0:0 1000 x"];
    l20_file_over_full_directory: tar().file("d/e/f", "1").file("d", "2").end()
        => ["d file 0644 0:0 1000 2"];
    l21_directory_over_file: tar().file("d", "2").dir("d").file("d/f", "1").end()
        => ["d dir 0755 0:0 1000", "d/f file 0644 0:0 1000 1"];
    l22_fifo_over_directory: tar().file("d/f", "1").node("d", b'6', 0, 0).end()
        => ["d fifo 0644 0:0 1000"];
    l22b_hard_link_over_directory: tar().file("a", "1").file("d/f", "2").hard("d", "a").end()
        => ["a file 0644 0:0 1000 1", "d file 0644 0:0 1000 1"];
    l27_hard_link_keeps_the_first_metadata: tar().file("a", "1")
        .with(Head::new("h", b'1', 0), "", |h| {
            h.link = b"a".to_vec();
            h.mode = octal(0o600, 8);
            h.mtime = octal(5, 12);
        }).end()
        => ["a file 0644 0:0 1000 1", "h file 0644 0:0 1000 1"];
    l28_dangling_parent: tar().sym("var/run", "/run").file("var/run/pid", "1").end()
        => ["var dir 0755 0:0 0", "var/run symlink 0777 0:0 1000 /run", "run dir 0755 0:0 0",
            "run/pid file 0644 0:0 1000 1"];
    l28b_dangling_parent_upwards: tar().sym("a/b/s", "../../../../q/r").file("a/b/s/f", "1").end()
        => ["a dir 0755 0:0 0", "a/b dir 0755 0:0 0", "a/b/s symlink 0777 0:0 1000 ../../../../q/r",
            "q dir 0755 0:0 0", "q/r dir 0755 0:0 0", "q/r/f file 0644 0:0 1000 1"];
    l29b_symlink_chain_of_40: {
        let mut layer = tar().dir("s40");
        for n in 0..40 {
            layer = layer.sym(format!("s{n}"), format!("s{}", n + 1));
        }
        for n in 1..40 {
            layer = layer.file(format!(".wh.s{n}"), "");
        }
        // Whiteouts hide nothing of their own layer, so every link is still there.
        layer.file("s0/f", "1").end()
    } => [
        "s40 dir 0755 0:0 1000", "s40/f file 0644 0:0 1000 1",
        "s0 symlink 0777 0:0 1000 s1", "s1 symlink 0777 0:0 1000 s2", "s2 symlink 0777 0:0 1000 s3",
        "s3 symlink 0777 0:0 1000 s4", "s4 symlink 0777 0:0 1000 s5", "s5 symlink 0777 0:0 1000 s6",
        "s6 symlink 0777 0:0 1000 s7", "s7 symlink 0777 0:0 1000 s8", "s8 symlink 0777 0:0 1000 s9",
        "s9 symlink 0777 0:0 1000 s10", "s10 symlink 0777 0:0 1000 s11", "s11 symlink 0777 0:0 1000 s12",
        "s12 symlink 0777 0:0 1000 s13", "s13 symlink 0777 0:0 1000 s14", "s14 symlink 0777 0:0 1000 s15",
        "s15 symlink 0777 0:0 1000 s16", "s16 symlink 0777 0:0 1000 s17", "s17 symlink 0777 0:0 1000 s18",
        "s18 symlink 0777 0:0 1000 s19", "s19 symlink 0777 0:0 1000 s20", "s20 symlink 0777 0:0 1000 s21",
        "s21 symlink 0777 0:0 1000 s22", "s22 symlink 0777 0:0 1000 s23", "s23 symlink 0777 0:0 1000 s24",
        "s24 symlink 0777 0:0 1000 s25", "s25 symlink 0777 0:0 1000 s26", "s26 symlink 0777 0:0 1000 s27",
        "s27 symlink 0777 0:0 1000 s28", "s28 symlink 0777 0:0 1000 s29", "s29 symlink 0777 0:0 1000 s30",
        "s30 symlink 0777 0:0 1000 s31", "s31 symlink 0777 0:0 1000 s32", "s32 symlink 0777 0:0 1000 s33",
        "s33 symlink 0777 0:0 1000 s34", "s34 symlink 0777 0:0 1000 s35", "s35 symlink 0777 0:0 1000 s36",
        "s36 symlink 0777 0:0 1000 s37", "s37 symlink 0777 0:0 1000 s38", "s38 symlink 0777 0:0 1000 s39",
        "s39 symlink 0777 0:0 1000 s40",
    ];
    l32_symlink_target_of_4095: tar().pax(&[("linkpath", &[b'a'; 4095])]).sym("s", "x").end()
        => [&format!("s symlink 0777 0:0 1000 {}", "a".repeat(4095))];

    t1_symlink_planted_below: tar().sym("s", "../outside").end(), tar().file("s/pwn", "1").end()
        => ["s symlink 0777 0:0 1000 ../outside", "outside dir 0755 0:0 0",
            "outside/pwn file 0644 0:0 1000 1"];
    t3_file_over_planted_symlink: tar().sym("s", "../victim").end(), tar().file("s", "1").end()
        => ["s file 0644 0:0 1000 1"];
    t4_directory_over_planted_symlink: tar().sym("s", "../outside").end(),
        tar().dir_mode("s", 0o777).file("s/f", "1").end()
        => ["s dir 0777 0:0 1000", "s/f file 0644 0:0 1000 1"];
    t6_usrmerge_across_layers: tar().dir("usr/lib").sym("lib", "/usr/lib").end(),
        tar().file("lib/f", "1").end()
        => ["usr dir 0755 0:0 0", "usr/lib dir 0755 0:0 1000", "usr/lib/f file 0644 0:0 1000 1",
            "lib symlink 0777 0:0 1000 /usr/lib"];
    t8_hard_link_to_a_lower_file: tar().file("a", "1").end(), tar().hard("h", "a").end()
        => ["a file 0644 0:0 1000 1", "h file 0644 0:0 1000 1"];
    t9_same_directory_by_two_spellings: tar().dir("usr/lib").sym("lib", "usr/lib").end(),
        tar().file("lib/a", "1").file("usr/lib/b", "2").file("lib/.wh.a", "").file("usr/lib/.wh.b", "").end()
        => ["usr dir 0755 0:0 0", "usr/lib dir 0755 0:0 1000", "usr/lib/a file 0644 0:0 1000 1",
            "usr/lib/b file 0644 0:0 1000 2", "lib symlink 0777 0:0 1000 usr/lib"];
}

#[test]
fn l02_file_through_absolute_symlink() {
    let pen = Pen::new();
    let target = pen.beside("outside");
    let layer = tar().sym("s", &target).file("s/pwn", "1").end();
    pen.apply(&layer, &Limits::default()).unwrap();
    let inside = pen.root().join(std::str::from_utf8(&target[1..]).unwrap()).join("pwn");
    assert_eq!(std::fs::read_to_string(inside).unwrap(), "1");
}

#[test]
fn t2_absolute_symlink_planted_below() {
    let pen = Pen::new();
    let target = pen.beside("outside");
    pen.apply(&tar().sym("s", &target).end(), &Limits::default()).unwrap();
    pen.apply(&tar().file("s/secret", "1").dir_mode("s/sub", 0o777).end(), &Limits::default())
        .unwrap();
    pen.apply(&tar().file("s/.wh.secret", "").file("s/.wh..wh..opq", "").end(), &Limits::default())
        .unwrap();
    let inside = pen.root().join(std::str::from_utf8(&target[1..]).unwrap());
    assert_eq!(forge::lines(&inside), Vec::<String>::new());
}

#[test]
fn t2b_hard_link_through_absolute_planted_symlink() {
    let pen = Pen::new();
    pen.apply(&tar().sym("s", pen.beside("outside")).end(), &Limits::default()).unwrap();
    let error = pen.apply(&tar().hard("h", "s/secret").end(), &Limits::default()).unwrap_err();
    assert_eq!(error.class(), Some(Class::Link));
}

#[test]
fn l25_a_duplicate_does_not_change_its_linked_twin() {
    let pen = Pen::new();
    let layer = tar().file("a", "old").hard("b", "a").file("a", "new").end();
    pen.apply(&layer, &Limits::default()).unwrap();
    assert_eq!(pen.tree(), ["a file 0644 0:0 1000 new", "b file 0644 0:0 1000 old"]);
}

#[test]
fn l29_more_links_than_an_inode_can_have() {
    let mut layer = tar().file("a", "x");
    for n in 0..65_000 {
        layer = layer.hard(format!("h{n}"), "a");
    }
    let pen = Pen::new();
    // ext4 has 65000, tmpfs and xfs more; either way nothing is lost in silence.
    match pen.apply(&layer.end(), &Limits::default()) {
        Ok(applied) => assert_eq!(applied.hardlinks, 65_000),
        Err(error) => assert_eq!(error.class(), Some(Class::Fs), "{error}"),
    }
}

#[test]
fn l30_hard_link_to_a_lower_setuid_file() {
    use std::os::unix::fs::MetadataExt;
    let pen = Pen::new();
    let lower = tar().with(Head::new("su", b'0', 1), "1", |h| h.mode = octal(0o4755, 8)).end();
    pen.apply(&lower, &Limits::default()).unwrap();
    pen.apply(&tar().hard("h", "su").end(), &Limits::default()).unwrap();
    let meta = std::fs::metadata(pen.root().join("h")).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.nlink()), (0o4755, 2));
}

#[test]
fn p04_attributes_of_the_root() {
    use std::os::unix::fs::MetadataExt;
    for name in [".", "./", "/", "././"] {
        let pen = Pen::new();
        let layer = tar()
            .with(Head::new(name, b'5', 0), "", |h| {
                h.mode = octal(0o700, 8);
                h.uid = octal(7, 8);
                h.mtime = octal(77, 12);
            })
            .file("later", "x")
            .end();
        pen.apply(&layer, &Limits::default()).unwrap();
        let meta = std::fs::metadata(pen.root()).unwrap();
        let got = (meta.mode() & 0o7777, meta.uid(), meta.mtime());
        assert_eq!(got, (0o700, 7, 77), "{name}");
    }
}

#[test]
fn p18_the_deepest_path_there_can_be() {
    let path = b"a/".repeat(2047);
    let layer = tar().pax(&[("path", &path)]).dir("a").end();
    let pen = Pen::new();
    let limits = Limits { depth_max: 2048, walk_max: 1 << 20, ..Limits::default() };
    let applied = pen.apply(&layer, &limits).unwrap();
    assert_eq!((applied.dirs, applied.implicit_dirs), (1, 2046));
    let root = unpack::Root::open(&pen.root()).unwrap();
    // Deeper than a path can say, and removed all the same.
    let again = tar().pax(&[("path", &path)]).dir("a").file("a", "x").end();
    pen.apply(&again, &limits).unwrap();
    assert_eq!(pen.tree(), ["a file 0644 0:0 1000 x"]);
    assert_eq!(unpack::remove_tree(&root).unwrap(), 1);
    assert!(pen.tree().is_empty());
}

#[test]
fn t10_symlink_replaced_while_its_directory_is_open() {
    let pen = Pen::new();
    let lower = tar().dir("a").dir("b").sym("s", "a").end();
    pen.apply(&lower, &Limits::default()).unwrap();
    let upper = tar().file("s/1", "1").sym("s", "b").file("s/2", "2").end();
    pen.apply(&upper, &Limits::default()).unwrap();
    assert_eq!(
        pen.tree(),
        [
            "a dir 0755 0:0 1000",
            "a/1 file 0644 0:0 1000 1",
            "b dir 0755 0:0 1000",
            "b/2 file 0644 0:0 1000 2",
            "s symlink 0777 0:0 1000 b",
        ]
    );
}
