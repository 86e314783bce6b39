//! Sparse files as PAX has them, in GNU tar's formats 0.0, 0.1 and 1.0: expanded exactly, with holes
//! kept as holes, or refused. What the archive calls a hole costs nothing on disk and counts in full.

mod forge;

use std::os::unix::fs::MetadataExt;
use std::process::Command;

use forge::{Head, Pen, record, tar};
use sha2::{Digest, Sha256};
use unpack::{Class, Limits, Root};

/// Offset and content of a part that is there.
type Part<'a> = (u64, &'a [u8]);

fn bytes(parts: &[Part<'_>]) -> Vec<u8> {
    parts.iter().flat_map(|(_, bytes)| bytes.to_vec()).collect()
}

/// The map as format 1.0 has it, padded.
fn front(count: usize, numbers: &[u64]) -> Vec<u8> {
    let mut map = format!("{count}\n");
    numbers.iter().for_each(|number| map += &format!("{number}\n"));
    let mut map = map.into_bytes();
    map.resize(map.len().next_multiple_of(512), 0);
    map
}

fn numbers(parts: &[Part<'_>]) -> Vec<u64> {
    parts.iter().flat_map(|(offset, bytes)| [*offset, bytes.len() as u64]).collect()
}

const REAL: &str = "GNU.sparse.realsize";
const NAME: &str = "GNU.sparse.name";

/// A file in format 1.0 whose map and body are these.
fn raw_1_0(size: &str, body: &[u8]) -> forge::Tar {
    tar()
        .pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            (NAME, b"f"),
            (REAL, size.as_bytes()),
        ])
        .file("./GNUSparseFile.7/f", body)
}

fn format_1_0(size: u64, parts: &[Part<'_>]) -> forge::Tar {
    let map = front(parts.len(), &numbers(parts));
    raw_1_0(&size.to_string(), &[map, bytes(parts)].concat())
}

fn format_0_1(size: u64, parts: &[Part<'_>]) -> forge::Tar {
    let map: Vec<String> = numbers(parts).iter().map(u64::to_string).collect();
    tar()
        .pax(&[
            ("GNU.sparse.size", size.to_string().as_bytes()),
            ("GNU.sparse.numblocks", parts.len().to_string().as_bytes()),
            (NAME, b"f"),
            ("GNU.sparse.map", map.join(",").as_bytes()),
        ])
        .file("./GNUSparseFile.7/f", bytes(parts))
}

fn format_0_0(size: u64, parts: &[Part<'_>]) -> forge::Tar {
    let mut body = record("GNU.sparse.size", size.to_string());
    body.extend(record("GNU.sparse.numblocks", parts.len().to_string()));
    for (offset, bytes) in parts {
        body.extend(record("GNU.sparse.offset", offset.to_string()));
        body.extend(record("GNU.sparse.numbytes", bytes.len().to_string()));
    }
    tar().extension(b'x', &body).file("f", bytes(parts))
}

fn plain(size: u64, parts: &[Part<'_>]) -> Vec<u8> {
    let mut whole = vec![0; usize::try_from(size).unwrap()];
    for (offset, bytes) in parts {
        let at = usize::try_from(*offset).unwrap();
        whole[at..at + bytes.len()].copy_from_slice(bytes);
    }
    whole
}

fn shapes() -> Vec<(u64, Vec<Part<'static>>)> {
    let piece: &'static [u8] = Box::leak((0..70_000u32).map(|n| (n % 251) as u8).collect());
    vec![
        (0, vec![(0, b"")]),
        (1, vec![(0, b"x")]),
        (1, vec![(1, b"")]),
        (8192, vec![(0, b"begin"), (8187, b"ended"), (8192, b"")]),
        (1 << 20, vec![(4096, &piece[..4096]), (65536, &piece[..512]), (1 << 20, b"")]),
        (1 << 20, vec![(0, piece), (70_000, &piece[..1]), (70_001, b"neighbour")]),
        (300_000, vec![(299_999, b"z")]),
        (300_000, vec![(1, &piece[..513])]),
        ((1 << 20) + 7, vec![]),
    ]
}

/// In every format the tree is the one that the plain file makes, to the digest, in every way to apply.
#[test]
fn every_format_makes_the_plain_file() {
    for (size, parts) in shapes() {
        let whole = plain(size, &parts);
        let expected = {
            let pen = Pen::new();
            pen.apply(&tar().file("f", &whole).file("g", "after").end(), &Limits::default())
                .unwrap()
        };
        let mut forms = vec![("1.0", format_1_0(size, &parts))];
        // An empty record is none.
        if !parts.is_empty() {
            forms.extend([("0.1", format_0_1(size, &parts)), ("0.0", format_0_0(size, &parts))]);
        }
        for (form, layer) in forms {
            let layer = layer.file("g", "after").end();
            let pen = Pen::new();
            let applied =
                pen.apply(&layer, &Limits::default()).unwrap_or_else(|e| panic!("{form}: {e}"));
            let path = pen.root().join("f");
            assert!(std::fs::read(&path).unwrap() == whole, "{form} of {size}");
            assert_eq!(applied.tree_digest, expected.tree_digest, "{form} of {size}");
            assert_eq!(applied.content_bytes, expected.content_bytes, "{form} of {size}");
            let root = Root::open(&pen.root()).unwrap();
            let verified = unpack::verify(layer.as_slice(), &root, &Limits::default(), true, |d| {
                panic!("{form} of {size}: {d:?}")
            })
            .unwrap();
            assert_eq!(verified.found_digest, expected.tree_digest);
            let mut sizes = Vec::new();
            let listed = unpack::list(layer.as_slice(), &Limits::default(), |entry| {
                if let unpack::Node::File { size } = entry.node {
                    sizes.push((entry.path.clone(), size));
                }
            });
            assert_eq!(listed.unwrap().content_bytes, expected.content_bytes);
            assert_eq!(sizes, [(b"f".to_vec(), size), (b"g".to_vec(), 5)]);
        }
    }
}

/// The same by the program, behind its walls and without, with the manifest.
#[test]
fn the_program_makes_it_too() {
    let parts: &[Part<'_>] = &[(0, b"begin"), (1 << 20, b"ended")];
    let whole = plain(2 << 20, parts);
    for form in [format_1_0(2 << 20, parts), format_0_1(2 << 20, parts), format_0_0(2 << 20, parts)]
    {
        let layer = form.end();
        for packed in [layer.clone(), forge::gzip(&layer)] {
            for sandbox in ["require", "off"] {
                let pen = Pen::new();
                let dir = forge::scratch();
                std::fs::write(dir.path().join("layer"), &packed).unwrap();
                let out = Command::new(env!("CARGO_BIN_EXE_unpack"))
                    .args(["-q", "--sandbox", sandbox, "--manifest"])
                    .arg(dir.path().join("manifest"))
                    .arg("--root")
                    .arg(pen.root())
                    .stdin(std::fs::File::open(dir.path().join("layer")).unwrap())
                    .output()
                    .unwrap();
                assert_eq!(out.status.code(), Some(0), "{sandbox}: {out:?}");
                assert!(std::fs::read(pen.root().join("f")).unwrap() == whole);
                let manifest = std::fs::read_to_string(dir.path().join("manifest")).unwrap();
                let digest: String =
                    Sha256::digest(&whole).iter().map(|b| format!("{b:02x}")).collect();
                assert!(manifest.contains(&digest) && manifest.contains("2097152"), "{manifest}");
            }
        }
    }
}

/// A file of holes takes no room, wherever it lies; nor does it in a copy of the tree.
#[test]
fn holes_stay_holes() {
    let size = 1 << 26;
    for parts in [&[(size - 5, &b"ended"[..])][..], &[(0, b"begin")], &[(size / 2, b"x")], &[]] {
        let layer = format_1_0(size, parts).end();
        let pen = Pen::new();
        let applied = pen.apply(&layer, &Limits::default()).unwrap();
        assert_eq!(applied.content_bytes, size);
        let held = |path: &std::path::Path| {
            let found = std::fs::metadata(path).unwrap();
            (found.size(), found.blocks() * 512 <= 64 << 10)
        };
        assert_eq!(held(&pen.root().join("f")), (size, true), "{parts:?}");
        let copy = forge::scratch();
        let (from, to) = (Root::open(&pen.root()).unwrap(), Root::open(copy.path()).unwrap());
        unpack::clone_tree(&from, &to, &unpack::Stop::default()).unwrap();
        assert_eq!(held(&copy.path().join("f")), (size, true), "{parts:?}");
        let digest =
            |path: &std::path::Path| unpack::tree_digest(&Root::open(path).unwrap()).unwrap();
        assert_eq!(digest(copy.path()), digest(&pen.root()));
    }
}

/// What the archive says of the size counts, not what it has.
#[test]
fn holes_count_as_bytes() {
    let layer = |size| format_1_0(size, &[(0, b"x")]).end();
    let bounded = |layer: &[u8], limits: &Limits, flag: &str| {
        let error = Pen::new().apply(layer, limits).expect_err(flag);
        assert_eq!(error.class(), Some(Class::Limit), "{error}");
        assert!(error.to_string().contains(flag), "{error}");
        let error = unpack::list(layer, limits, |_| {}).expect_err(flag);
        assert!(error.to_string().contains(flag), "{error}");
    };
    bounded(&layer(1 << 40), &Limits::default(), "--file-bytes-max");
    bounded(&layer(i64::MAX as u64), &Limits::default(), "--file-bytes-max");
    let limits = Limits { bytes_max: 1 << 20, ..Limits::default() };
    bounded(&layer(1 << 20), &limits, "--bytes-max");
    Pen::new().apply(&layer(1 << 19), &limits).unwrap();
    // Many small ones are one large one.
    let twice =
        format_1_0(600 << 10, &[(0, b"x")]).raw(format_1_0(600 << 10, &[(0, b"y")]).0).end();
    bounded(&twice, &limits, "--bytes-max");
    let plain_after = format_1_0(1000 << 10, &[]).file("g", vec![0; 30 << 10]).end();
    bounded(&plain_after, &limits, "--bytes-max");
}

/// A map is bounded as extension headers are, wherever it stands.
#[test]
fn maps_are_bounded() {
    let count = 300_000usize;
    let many: Vec<u64> =
        (0..2 * count as u64).map(|n| if n % 2 == 0 { n / 2 } else { 0 }).collect();
    let layer = raw_1_0("9999999", &front(count, &many)).end();
    let error = Pen::new().apply(&layer, &Limits::default()).unwrap_err();
    assert_eq!(error.class(), Some(Class::Limit), "{error}");
    assert!(error.to_string().contains("--extension-bytes-max"), "{error}");
    let promised = raw_1_0("9999999", &front(usize::MAX / 4, &[0, 0])).end();
    forge::refuse(&[promised], &Limits::default(), Class::Sparse);
    // Ten thousand parts are no more than they are.
    let part: Vec<Part<'_>> = (0..10_000).map(|n| (n * 100, &b"0123456789"[..])).collect();
    let layer = format_1_0(1_000_000, &part).end();
    let pen = Pen::new();
    pen.apply(&layer, &Limits::default()).unwrap();
    assert!(std::fs::read(pen.root().join("f")).unwrap() == plain(1_000_000, &part));
}

fn map_0_1(size: &str, blocks: &str, map: &str) -> Vec<u8> {
    tar()
        .pax(&[
            ("GNU.sparse.size", size.as_bytes()),
            ("GNU.sparse.numblocks", blocks.as_bytes()),
            ("GNU.sparse.map", map.as_bytes()),
        ])
        .file("f", "0123456789")
        .end()
}

fn body_1_0(size: &str, map: &str) -> Vec<u8> {
    let mut map = map.as_bytes().to_vec();
    map.resize(map.len().next_multiple_of(512), 0);
    raw_1_0(size, &[map, b"0123456789".to_vec()].concat()).end()
}

/// These records before a file of ten bytes.
fn said(records: &[(&str, &str)]) -> Vec<u8> {
    let body: Vec<u8> = records.iter().flat_map(|(key, value)| record(key, value)).collect();
    tar().extension(b'x', &body).file("f", "0123456789").end()
}

const SIZE: (&str, &str) = ("GNU.sparse.size", "100");
const COUNT: (&str, &str) = ("GNU.sparse.numblocks", "1");
const MAP: (&str, &str) = ("GNU.sparse.map", "0,10");
const AT: (&str, &str) = ("GNU.sparse.offset", "0");
const LEN: (&str, &str) = ("GNU.sparse.numbytes", "10");

refused! {
    s01_overlapping Sparse: map_0_1("100", "2", "0,6,5,4");
    s01b_overlapping_in_front Sparse: body_1_0("100", "2\n0\n6\n5\n4\n");
    s02_out_of_order Sparse: map_0_1("100", "2", "50,5,0,5");
    s02b_out_of_order_in_front Sparse: body_1_0("100", "2\n50\n5\n0\n5\n");
    s02c_an_empty_part_behind Sparse: map_0_1("100", "2", "50,10,0,0");
    s03_beyond_the_end Sparse: map_0_1("100", "1", "91,10");
    s03b_beyond_the_end_in_front Sparse: body_1_0("100", "1\n91\n10\n");
    s03c_an_empty_part_beyond_the_end Sparse: map_0_1("100", "2", "0,10,101,0");
    s03d_smaller_than_its_bytes Sparse: map_0_1("9", "1", "0,10");
    s04_more_than_the_archive_has Sparse: map_0_1("100", "1", "0,11");
    s04b_less_than_the_archive_has Sparse: map_0_1("100", "1", "0,9");
    s04c_more_in_front Sparse: body_1_0("100", "1\n0\n11\n");
    s04d_less_in_front Sparse: body_1_0("100", "1\n0\n9\n");
    s05_the_sum_overflows Sparse: map_0_1("100", "1", "9223372036854775807,10");
    s05b_beyond_u64 Number: map_0_1("100", "1", "0,99999999999999999999");
    s05c_the_sum_overflows_in_front Sparse: body_1_0("100", "1\n18446744073709551615\n10\n");
    s05d_beyond_u64_in_front Number: body_1_0("100", "1\n0\n99999999999999999999999\n");
    s05e_a_count_beyond_all Sparse: body_1_0("100", "18446744073709551615\n0\n10\n");
    s05f_a_real_size_beyond_i64 Number: body_1_0("9223372036854775808", "1\n0\n10\n");
    s05g_a_negative_offset Number: map_0_1("100", "1", "-1,10");
    s06_another_count Sparse: map_0_1("100", "2", "0,10");
    s06b_an_odd_count Sparse: map_0_1("100", "1", "0,10,20");
    s06c_no_numbers Number: map_0_1("100", "1", "a,b");
    s06d_an_empty_number Number: map_0_1("100", "1", "0,");
    s06e_no_count Sparse: said(&[SIZE, MAP]);
    s06f_no_size Sparse: said(&[COUNT, MAP]);
    s06g_two_sizes Sparse: said(&[SIZE, (REAL, "101"), COUNT, MAP]);
    s07_offset_twice Sparse: said(&[SIZE, COUNT, AT, AT, LEN]);
    s07b_length_first Sparse: said(&[SIZE, COUNT, LEN, AT]);
    s07c_an_offset_without_a_length Sparse: said(&[SIZE, COUNT, AT]);
    s07d_both_kinds_of_map Sparse: said(&[SIZE, COUNT, AT, LEN, MAP]);
    s08_version_1_1 Sparse: said(&[("GNU.sparse.major", "1"), ("GNU.sparse.minor", "1"), SIZE]);
    s08b_version_2_0 Sparse: said(&[("GNU.sparse.major", "2"), ("GNU.sparse.minor", "0"), SIZE]);
    s08c_half_a_version Sparse: said(&[("GNU.sparse.major", "1"), SIZE]);
    s08d_only_a_name Sparse: said(&[(NAME, "g")]);
    s08e_only_a_size Sparse: said(&[SIZE]);
    s08f_version_1_0_with_a_map Sparse:
        said(&[("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), SIZE, COUNT, MAP]);
    s08g_an_unknown_key Sparse: said(&[SIZE, COUNT, MAP, ("GNU.sparse.hole", "1")]);
    s09_no_number_in_front Sparse: body_1_0("100", "x\n");
    s09b_an_empty_number_in_front Sparse: body_1_0("100", "1\n\n10\n");
    s09c_a_sign_in_front Sparse: body_1_0("100", "1\n+0\n10\n");
    s09d_no_map_in_front Sparse: raw_1_0("100", b"").end();
    s09e_half_a_map_in_front Sparse: raw_1_0("100", b"1\n0\n10\n").end();
    s09f_a_map_that_does_not_end Sparse: raw_1_0("100", &[b'1'; 1024][..3]).end();
    s10_a_sparse_directory Sparse: tar().pax(&[("GNU.sparse.size", b"100"), ("GNU.sparse.numblocks", b"1"),
        ("GNU.sparse.map", b"0,0")]).dir("d").end();
    s10b_a_sparse_link Sparse: tar().file("a", "").pax(&[("GNU.sparse.size", b"100"),
        ("GNU.sparse.numblocks", b"1"), ("GNU.sparse.map", b"0,0")]).hard("b", "a").end();
    s10c_old_gnu Sparse: tar().with(Head::new("f", b'S', 0), "", |h| h.magic = forge::GNU.to_vec()).end();
    s11_a_name_that_leads_out Path: said(&[SIZE, COUNT, MAP, (NAME, "../f")]);
    s11b_a_name_with_nul Extension: said(&[SIZE, COUNT, MAP, (NAME, "a\0b")]);
    s11c_a_name_beside_a_long_name Extension: tar().extension(b'L', b"long\0").pax(&[
        ("GNU.sparse.size", b"100"), ("GNU.sparse.numblocks", b"1"), ("GNU.sparse.map", b"0,0"), (NAME, b"f"),
    ]).file("f", "").end();
    s12_truncated Frame: { let l = format_1_0(100, &[(0, b"0123456789")]).0; l[..l.len() - 600].to_vec() };
}

accepted! {
    v01_the_name_counts_more_than_the_path: tar().pax(&[("path", b"./GNUSparseFile.1/f"), (NAME, b"d/real"),
        ("GNU.sparse.size", b"3"), ("GNU.sparse.numblocks", b"1"), ("GNU.sparse.map", b"1,2")])
        .file("x", "ab").end() => ["d dir 0755 0:0 0", "d/real file 0644 0:0 1000 \\x00ab"];
    v02_without_a_name_it_is_the_headers: said(&[("GNU.sparse.size", "11"), COUNT, ("GNU.sparse.map", "1,10")])
        => ["f file 0644 0:0 1000 \\x000123456789"];
    v03_a_version_0_1_that_is_said: said(&[("GNU.sparse.major", "0"), ("GNU.sparse.minor", "1"),
        ("GNU.sparse.size", "10"), COUNT, MAP]) => ["f file 0644 0:0 1000 0123456789"];
    v04_a_pax_size_is_what_the_archive_has: tar().pax(&[("size", b"2"), ("GNU.sparse.size", b"3"),
        ("GNU.sparse.numblocks", b"1"), ("GNU.sparse.map", b"1,2")])
        .with(Head::new("f", b'0', 0), "ab", |_| {}).file("g", "1").end()
        => ["f file 0644 0:0 1000 \\x00ab", "g file 0644 0:0 1000 1"];
    v05_mode_owner_and_attributes_stay: tar().pax(&[("SCHILY.xattr.user.a", b"1"), ("GNU.sparse.size", b"3"),
        ("GNU.sparse.numblocks", b"1"), ("GNU.sparse.map", b"1,2")])
        .with(Head::new("f", b'0', 2), "ab", |h| { h.mode = forge::octal(0o4711, 8); h.uid = forge::octal(7, 8); })
        .end() => ["f file 4711 7:0 1000 \\x00ab"];
    v06_over_a_lower_file: tar().file("f", vec![b'x'; 9000]).end(),
        said(&[("GNU.sparse.size", "11"), COUNT, ("GNU.sparse.map", "1,10")])
        => ["f file 0644 0:0 1000 \\x000123456789"];
    v07_a_whiteout_is_a_whiteout: tar().file("f", "low").end(), tar().pax(&[(NAME, b".wh.f"),
        ("GNU.sparse.size", b"3"), ("GNU.sparse.numblocks", b"1"), ("GNU.sparse.map", b"1,2")])
        .file("x", "ab").end() => [];
    v08_hard_links_to_it: tar().pax(&[("GNU.sparse.size", b"3"), ("GNU.sparse.numblocks", b"1"),
        ("GNU.sparse.map", b"1,2")]).file("f", "ab").hard("g", "f").end()
        => ["f file 0644 0:0 1000 \\x00ab", "g file 0644 0:0 1000 \\x00ab"];
}

/// Files with holes as the real writers archive them come back as they were.
#[test]
fn real_writers() {
    let dir = forge::scratch();
    let from = dir.path().join("from");
    std::fs::create_dir(&from).unwrap();
    let name = "n".repeat(120);
    for (file, parts) in [
        ("f", &[(100_000u64, &b"middle"[..]), (5_000_000, b"end")][..]),
        (&name, &[(0, b"begin"), (3_000_000, b"x")]),
    ] {
        let made = std::fs::File::create(from.join(file)).unwrap();
        for (at, bytes) in parts {
            std::os::unix::fs::FileExt::write_all_at(&made, bytes, *at).unwrap();
        }
        made.set_len(6_000_000).unwrap();
    }
    std::fs::write(from.join("hole"), "").unwrap();
    std::fs::File::options().write(true).open(from.join("hole")).unwrap().set_len(1 << 22).unwrap();
    let tar = |version: &str| {
        let mut command = Command::new("tar");
        command.args(["--format=pax", "--sparse", &format!("--sparse-version={version}")]);
        command
    };
    let mut writers = vec![("0.0", tar("0.0")), ("0.1", tar("0.1")), ("1.0", tar("1.0"))];
    let mut bsdtar = Command::new("bsdtar");
    bsdtar.args(["--format=pax"]);
    writers.push(("bsdtar", bsdtar));
    for (writer, mut command) in writers {
        let layer = dir.path().join(writer);
        let status = command.arg("-cf").arg(&layer).arg("-C").arg(&from).arg(".").status();
        assert!(status.unwrap().success(), "{writer}: apt-get install tar libarchive-tools");
        let layer = std::fs::read(layer).unwrap();
        assert!(layer.len() < 1 << 20, "{writer} wrote no holes");
        let pen = Pen::new();
        let limits = Limits { reader_verifies: true, ..Limits::default() };
        pen.apply(&layer, &limits).unwrap_or_else(|e| panic!("{writer}: {e}"));
        for file in ["f", &name, "hole"] {
            let read = |dir: &std::path::Path| std::fs::read(dir.join(file)).unwrap();
            assert!(read(&pen.root()) == read(&from), "{writer}: {file}");
        }
        assert_eq!(pen.tree().len(), 3);
    }
}
