//! Images that somebody made to lead a reader astray: each is refused by the rule that it breaks. What changes
//! them is debugfs, which makes every checksum right again. Needs e2fsprogs and no right.

mod images;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use images::fuzzer::{debugfs, small};
use unpack::{Error, FlawKind, Limits, image_manifest, image_manifest_strict};

const PLAIN: &str = "-t ext4 -b 1024 -N 256";

fn read(image: &Path) -> Result<[u8; 32], Error> {
    image_manifest(&File::open(image).unwrap(), &mut io::sink(), &Limits::default())
}

fn refused(image: &Path, kind: FlawKind, rule: &str) {
    match read(image) {
        Err(Error::Image { flaw }) => {
            assert!(flaw.kind == kind && flaw.rule.contains(rule), "{rule}: {flaw:?}");
        }
        other => panic!("{rule}: {other:?}"),
    }
}

/// Of each: what debugfs is told, and the rule that is broken by it.
const CASES: &[(&[&str], FlawKind, &str)] = &[
    (&["feature inline_data"], FlawKind::Feature, "inline_data"),
    (&["feature large_dir"], FlawKind::Feature, "large_dir"),
    (&["feature ea_inode"], FlawKind::Feature, "ea_inode"),
    (&["feature casefold"], FlawKind::Feature, "casefold"),
    (&["feature encrypt"], FlawKind::Feature, "encrypt"),
    (&["feature FEATURE_I30"], FlawKind::Feature, "not known"),
    (&["feature FEATURE_R30"], FlawKind::Feature, "not known"),
    (&["feature needs_recovery"], FlawKind::Journal, "not replayed"),
    (&["set_super_value journal_inum 0"], FlawKind::Journal, "another device"),
    (&["set_super_value journal_inum 12"], FlawKind::Journal, "not inode 8"),
    (&["set_super_value log_block_size 7"], FlawKind::Geometry, "64 KiB"),
    (&["set_super_value inodes_per_group 0"], FlawKind::Geometry, "inodes a group"),
    (&["set_super_value inodes_per_group 16384"], FlawKind::Geometry, "inodes a group"),
    (&["set_super_value blocks_per_group 0"], FlawKind::Geometry, "blocks a group"),
    (&["set_super_value blocks_per_group 65536"], FlawKind::Geometry, "blocks a group"),
    (&["set_super_value inode_size 100"], FlawKind::Geometry, "inode's size"),
    (&["set_super_value inode_size 2048"], FlawKind::Geometry, "inode's size"),
    (&["set_super_value desc_size 48"], FlawKind::Geometry, "descriptor's size"),
    (&["set_super_value blocks_count 100000"], FlawKind::Geometry, "than the device has"),
    (&["set_super_value inodes_count 100"], FlawKind::Geometry, "inodes are not those"),
    (&["set_super_value first_data_block 3"], FlawKind::Geometry, "first data block"),
    (&["set_bg 0 inode_table 9000", "set_bg 0 checksum calc"], FlawKind::Geometry, "inode table"),
    (&["link a a/b/c/again"], FlawKind::Directory, "two names"),
    (&["link / a/b/c/up"], FlawKind::Directory, "two names"),
    (&["link a/b/c moved", "unlink a/b/c"], FlawKind::Directory, "itself and its parent"),
    (&["clri a/fast"], FlawKind::Inode, "not in use"),
    (&["sif a/file links_count 0"], FlawKind::Inode, "not in use"),
    (&["sif a/file mode 0170644"], FlawKind::Inode, "no kind"),
    (&["sif a/file flags 0x10080000"], FlawKind::Inode, "data in itself"),
    (&["sif a/file flags 0x80800"], FlawKind::Inode, "encrypted"),
    (&["sif a/file mode 0040755"], FlawKind::Directory, "different kinds"),
    (&["sif a/file uid 0xffffffff", "sif a/file uid_high 0xffff"], FlawKind::Inode, "owner"),
    (&["sif a size 1000"], FlawKind::Directory, "not that of blocks"),
    (&["sif a size 2048"], FlawKind::Directory, "hole"),
    (&["sif a size 0"], FlawKind::Directory, "not that of blocks"),
    (&["sif a/fast size 0"], FlawKind::Inode, "empty or too long"),
    (&["sif a/slow size 1024"], FlawKind::Inode, "empty or too long"),
    (&["sif a/slow size 300"], FlawKind::Inode, "holds a NUL"),
    (&["sif a/file block[0] 0"], FlawKind::Extent, "no magic"),
    (&["sif a/file block[1] 0x00070004"], FlawKind::Extent, "too deep"),
    (&["sif a/file block[5] 0x7fffffff"], FlawKind::Extent, "outside the device"),
    (&["sif a/file file_acl 99999"], FlawKind::Attribute, "outside the device"),
    (&["sif a/file file_acl 70"], FlawKind::Attribute, "is none"),
    (&["sif a/file extra_isize 130"], FlawKind::Inode, "extra size"),
];

#[test]
fn each_is_refused_by_its_rule() {
    let dir = tempfile::tempdir().unwrap();
    let image = small(dir.path(), PLAIN);
    read(&image).unwrap();
    let good = std::fs::read(&image).unwrap();
    for (commands, kind, rule) in CASES {
        std::fs::write(&image, &good).unwrap();
        debugfs(&image, commands);
        refused(&image, *kind, rule);
    }
    // What debugfs would make right again.
    for (at, kind, rule) in [
        (1024 + 0x78, FlawKind::Checksum, "superblock"),
        (2048 + 0x08, FlawKind::Checksum, "group descriptor"),
        (1024 + 0x38, FlawKind::Foreign, "no ext4"),
    ] {
        std::fs::write(&image, &good).unwrap();
        let file = File::options().write(true).open(&image).unwrap();
        file.write_all_at(&[good[at] ^ 1], at as u64).unwrap();
        refused(&image, kind, rule);
    }
    std::fs::write(&image, &good[..1500]).unwrap();
    refused(&image, FlawKind::Foreign, "no ext4");
    std::fs::write(&image, &good[..good.len() - 1]).unwrap();
    refused(&image, FlawKind::Geometry, "than the device has");
}

#[test]
fn sizes_and_time_are_limits() {
    let dir = tempfile::tempdir().unwrap();
    let image = small(dir.path(), PLAIN);
    let soon = Limits { time_max: std::time::Duration::ZERO, ..Limits::default() };
    let late = image_manifest(&File::open(&image).unwrap(), &mut io::sink(), &soon).unwrap_err();
    assert_eq!(late.kind(), unpack::Kind::TimedOut, "{late}");
    debugfs(&image, &["sif a/file size 0x7fffffffffff"]);
    let refused = read(&image).unwrap_err();
    assert_eq!(refused.kind(), unpack::Kind::Limit, "{refused}");
    assert!(refused.to_string().contains("--file-bytes-max"), "{refused}");
}

/// A file whose map names one block of pointers again and again: more is read than there is.
#[test]
fn what_leads_in_circles_ends() {
    let dir = tempfile::tempdir().unwrap();
    let image = small(dir.path(), "-t ext4 -b 1024 -N 256 -O ^extents,^64bit,^metadata_csum");
    let file = File::options().read(true).write(true).open(&image).unwrap();
    let block: Vec<u8> = 7000u32.to_le_bytes().repeat(256);
    file.write_all_at(&block, 7000 * 1024).unwrap();
    debugfs(&image, &["sif a/file block[TIND] 7000", "sif a/file size 0x400000000"]);
    refused(&image, FlawKind::Work, "leads in circles");
}

/// An index is none of a reader's business until somebody asks.
#[test]
fn an_index_is_checked_where_that_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    let image = small(dir.path(), "-t ext4 -b 1024 -N 256 -O ^metadata_csum");
    let strict = |image: &Path| {
        image_manifest_strict(&File::open(image).unwrap(), &mut io::sink(), &Limits::default())
    };
    let refused = |image: &Path, rule: &str| match strict(image) {
        Err(Error::Image { flaw }) if flaw.kind == FlawKind::Index => {
            assert!(flaw.rule.contains(rule), "{flaw:?}");
        }
        other => panic!("{rule}: {other:?}"),
    };
    // mke2fs makes none.
    refused(&image, "has no index");
    read(&image).unwrap();
    let out = std::process::Command::new("e2fsck").args(["-fyD"]).arg(&image).output().unwrap();
    assert!(out.status.code().is_some_and(|code| code < 4), "{out:?}");
    let digest = read(&image).unwrap();
    assert_eq!(strict(&image).unwrap(), digest);
    let good = std::fs::read(&image).unwrap();
    // The root of an index: its hash version and length, and behind them limit, count and the pairs.
    let root = good.windows(8).position(|at| at == [0, 0, 0, 0, 1, 8, 0, 0]).expect("an index") + 8;
    let (first, second) = (root + 8 + 4, root + 16 + 4);
    for (changes, rule) in [
        (&[(root - 4, 2)][..], "another hash"),
        (&[(root, 5)], "limit"),
        (&[(root + 2, 1)], "every block"),
        (&[(root + 8 + 3, 0xff)], "ascend"),
        (&[(first, 1)], "twice"),
        (&[(first, 0xee)], "not there"),
        (&[(first, good[second]), (second, good[first])], "leaf of its hash"),
    ] {
        let mut bad = good.clone();
        changes.iter().for_each(|&(at, byte)| bad[at] = byte);
        std::fs::write(&image, bad).unwrap();
        refused(&image, rule);
        assert_eq!(read(&image).unwrap(), digest, "{rule}");
    }
}
