//! Images as mke2fs and the kernel make them, and trees with everything in them that a layer can bring.
//! Needs root and loop devices.
#![allow(dead_code, reason = "each test binary uses its own part")]

pub(crate) mod fuzzer;
pub(crate) mod mend;

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{CWD, FileType, Mode, Timespec, Timestamps, XattrFlags, makedev, mknodat};

const HOW: &str =
    "needs root and loop devices: `modprobe loop`, then `sudo -E cargo test -p unpack`";

/// Runs a program, which has to be content.
pub(crate) fn run(program: &str, args: &[&OsStr]) {
    let out = Command::new(program).args(args).output();
    let out = out.unwrap_or_else(|error| panic!("{program}: {error} (e2fsprogs, util-linux)"));
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{program} {args:?}: {said}; {HOW}");
}

/// A new image of `mib` MiB; `options` go to mke2fs as they are.
pub(crate) fn blank(path: &Path, mib: u64, options: &str, from: Option<&Path>) {
    File::create(path).and_then(|file| file.set_len(mib << 20)).unwrap();
    let mut args: Vec<&OsStr> = vec!["-q".as_ref(), "-F".as_ref()];
    args.extend(options.split_whitespace().map(OsStr::new));
    if let Some(from) = from {
        args.extend([OsStr::new("-d"), from.as_os_str()]);
    }
    args.push(path.as_os_str());
    run("mke2fs", &args);
}

/// An image that is mounted until this goes.
pub(crate) struct Mounted(pub(crate) PathBuf);

impl Mounted {
    pub(crate) fn new(image: &Path, options: &str) -> Mounted {
        let at = image.with_extension("mnt");
        fs::create_dir_all(&at).unwrap();
        let options = format!("loop,{options}");
        let args =
            ["-t".as_ref(), "ext4".as_ref(), "-o".as_ref(), OsStr::new(&options), image.as_ref()];
        run("mount", &[&args[..], &[at.as_os_str()]].concat());
        Mounted(at)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        match Command::new("umount").arg(&self.0).status() {
            Ok(_) | Err(_) => {}
        }
    }
}

fn xattr(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty())
        .unwrap_or_else(|error| panic!("{}: {name}: {error}; {HOW}", path.display()));
}

fn time(path: &Path, sec: i64, nsec: i64) {
    let time = Timespec { tv_sec: sec, tv_nsec: nsec };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// An ACL as setxattr(2) takes it: the owner, a user, the group, a group, the mask and all others.
fn acl() -> Vec<u8> {
    let none = u32::MAX;
    let entries: [(u16, u16, u32); 6] =
        [(1, 7, none), (2, 5, 70_000), (4, 5, none), (8, 4, 5), (0x10, 5, none), (0x20, 0, none)];
    let mut acl = vec![2, 0, 0, 0];
    for (tag, perm, id) in entries {
        acl.extend(tag.to_le_bytes());
        acl.extend(perm.to_le_bytes());
        acl.extend(id.to_le_bytes());
    }
    acl
}

/// File capabilities of the second form: CAP_NET_RAW, effective.
fn capability() -> Vec<u8> {
    let words: [u32; 5] = [0x0200_0001, 1 << 13, 0, 0, 0];
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn device(path: &Path, kind: FileType, major: u32, minor: u32) {
    mknodat(CWD, path, kind, Mode::from_raw_mode(0o640), makedev(major, minor)).expect(HOW);
}

/// Fills `top` with everything that a tree can have. `huge` names go into one directory; a slow link's
/// target and an attribute's value are as large as a block of `block` bytes lets them be.
pub(crate) fn fill(top: &Path, huge: u32, block: usize) {
    let at = |name: &str| top.join(name);
    fs::create_dir_all(at("kinds/empty")).unwrap();
    fs::write(at("kinds/file"), "content\n").unwrap();
    fs::write(at("kinds/nothing"), "").unwrap();
    symlink("file", at("kinds/fast")).unwrap();
    symlink("f".repeat(59), at("kinds/fast59")).unwrap();
    symlink("s".repeat(60), at("kinds/slow60")).unwrap();
    let longest: Vec<String> = vec!["d".repeat(200); (block - 1).min(4095) / 201];
    symlink(longest.join("/"), at("kinds/slow")).unwrap();
    device(&at("kinds/null"), FileType::CharacterDevice, 1, 3);
    device(&at("kinds/large"), FileType::CharacterDevice, 300, 70_000);
    device(&at("kinds/disk"), FileType::BlockDevice, 8, 1);
    device(&at("kinds/fifo"), FileType::Fifo, 0, 0);
    device(&at("kinds/zero-zero"), FileType::CharacterDevice, 0, 0);
    attributes(top, block);
    for (name, sec, nsec) in [
        ("kinds/file", -2, 750_000_000),
        ("kinds/nothing", i64::from(i32::MIN) + 1, 5),
        ("kinds/fast", (1 << 31) + 7, 500_000_000),
        ("kinds/fifo", 13_569_465_600, 999_999_999),
        ("kinds/null", 1 << 32, 1),
    ] {
        time(&at(name), sec, nsec);
    }
    lchown(at("kinds/file"), Some(70_000), Some(4_000_000_000)).expect(HOW);
    lchown(at("kinds/slow"), Some(1), Some(70_000)).expect(HOW);
    fs::set_permissions(at("kinds/file"), Permissions::from_mode(0o6755)).unwrap();
    fs::set_permissions(at("kinds/empty"), Permissions::from_mode(0o1777)).unwrap();
    contents(top, block);
    fs::create_dir(at("links")).unwrap();
    fs::hard_link(at("kinds/file"), at("links/file")).unwrap();
    fs::hard_link(at("kinds/file"), at("a first name")).unwrap();
    fs::hard_link(at("kinds/fifo"), at("links/fifo")).unwrap();
    fs::hard_link(at("kinds/fast"), at("links/fast")).unwrap();
    let mut deep = at("deep");
    for level in 0..120 {
        deep = deep.join(format!("level-{level}-{}", "x".repeat(20)));
    }
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("bottom"), "reached").unwrap();
    fs::create_dir(at("names")).unwrap();
    for n in 0..300 {
        let name: Vec<u8> = match n % 3 {
            0 => format!("ümläut-{n}-名前").into_bytes(),
            1 => [&[0xff, 0xfe, 0x80][..], format!("{n}\n\"\\").as_bytes()].concat(),
            _ => format!("{n:0255}").into_bytes(),
        };
        fs::write(at("names").join(OsStr::from_bytes(&name)), n.to_string()).unwrap();
    }
    fs::create_dir(at("huge")).unwrap();
    for n in 0..huge {
        File::create(at(&format!("huge/{n}-name"))).unwrap();
    }
}

fn attributes(top: &Path, block: usize) {
    let at = |name: &str| top.join(name);
    fs::create_dir(at("xattrs")).unwrap();
    for name in ["inode", "both", "block", "acl", "cap", "empty"] {
        fs::write(at("xattrs").join(name), name).unwrap();
    }
    xattr(&at("xattrs/inode"), "user.short", b"value");
    xattr(&at("xattrs/empty"), "user.empty", b"");
    xattr(&at("xattrs/both"), "user.short", b"value");
    xattr(&at("xattrs/both"), "user.long", &[7; 200]);
    xattr(&at("xattrs/both"), "user.longer", &[8; 300]);
    xattr(&at("xattrs/both"), "trusted.hidden", b"not a layer's");
    xattr(&at("xattrs/block"), "user.a", &vec![9; block - 32 - 4 - 20]);
    xattr(&at("xattrs/acl"), "system.posix_acl_access", &acl());
    xattr(&at("xattrs/cap"), "security.capability", &capability());
    xattr(&at("xattrs/cap"), "user.beside", &[0, 255]);
    fs::create_dir(at("xattrs/dir")).unwrap();
    xattr(&at("xattrs/dir"), "user.of a dir", b"\n\"\\");
    xattr(&at("xattrs/dir"), "system.posix_acl_access", &acl());
    xattr(&at("xattrs/dir"), "system.posix_acl_default", &acl());
    xattr(&at("kinds/fifo"), "system.posix_acl_access", &acl());
    xattr(&at("kinds/null"), "trusted.x", b"1");
}

fn contents(top: &Path, block: usize) {
    let at = |name: &str| top.join(name);
    fs::create_dir(at("files")).unwrap();
    for (n, len) in [1, block - 1, block, block + 1, 100_000, 3_000_000].into_iter().enumerate() {
        let byte = |at: usize| (at * 31 + at / 251 + n).to_le_bytes()[0];
        let bytes: Vec<u8> = (0..len).map(byte).collect();
        fs::write(at(&format!("files/{n}")), bytes).unwrap();
    }
    let sparse = File::create(at("files/sparse")).unwrap();
    sparse.write_all_at(b"in the middle", 5 << 20).unwrap();
    sparse.set_len(20 << 20).unwrap();
    // Every other block, so that the tree of extents has levels.
    let mut holes = File::create(at("files/holes")).unwrap();
    for n in 0..1500u64 {
        holes.seek(SeekFrom::Start(n * 2 * block as u64)).unwrap();
        holes.write_all(&vec![n.to_le_bytes()[0] | 1; block]).unwrap();
    }
    let hole = File::create(at("files/only a hole")).unwrap();
    hole.set_len(24 << 20).unwrap();
    let unwritten = File::create(at("files/unwritten")).unwrap();
    let flags = rustix::fs::FallocateFlags::empty();
    match rustix::fs::fallocate(&unwritten, flags, 0, 1 << 20) {
        // Only files with extents have such blocks.
        Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => {}
        Err(error) => panic!("fallocate: {error}"),
    }
    unwritten.write_all_at(b"written", 300_000).unwrap();
}
