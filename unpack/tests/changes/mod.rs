//! Trees, and changes to them of every kind that somebody with root can make: from a seed, so that a failure can be
//! made again. Needs root.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::ffi::OsStr;
use std::fs::{self, File, Metadata, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags, lsetxattr, makedev, mknodat,
    utimensat,
};

/// xorshift64*.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    pub(crate) fn below(&mut self, sides: usize) -> usize {
        usize::try_from(self.roll() % sides as u64).unwrap()
    }

    fn one<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        if of.is_empty() { None } else { of.get(self.below(of.len())) }
    }

    fn u32(&mut self, below: u32) -> u32 {
        u32::try_from(self.roll() % u64::from(below)).unwrap()
    }
}

/// Everything below `top`, without it.
pub(crate) fn all(top: &Path) -> Vec<PathBuf> {
    let (mut found, mut todo) = (Vec::new(), vec![top.to_path_buf()]);
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if is(&path).is_dir() {
                todo.push(path.clone());
            }
            found.push(path);
        }
    }
    found.sort();
    found
}

pub(crate) fn is(path: &Path) -> Metadata {
    fs::symlink_metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub(crate) fn time(path: &Path, sec: i64, nsec: i64) {
    let time = Timespec { tv_sec: sec, tv_nsec: nsec };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn remove(path: &Path) {
    match is(path).is_dir() {
        true => fs::remove_dir_all(path).unwrap(),
        false => fs::remove_file(path).unwrap(),
    }
}

fn acl(user: u32) -> Vec<u8> {
    let none = u32::MAX;
    let entries: [(u16, u16, u32); 5] =
        [(1, 7, none), (2, 5, user), (4, 5, none), (0x10, 5, none), (0x20, 1, none)];
    let mut acl = vec![2, 0, 0, 0];
    for (tag, perm, id) in entries {
        acl.extend(tag.to_le_bytes());
        acl.extend(perm.to_le_bytes());
        acl.extend(id.to_le_bytes());
    }
    acl
}

fn capability(bits: u32) -> Vec<u8> {
    [0x0200_0001, bits, 0, 0, 0].iter().flat_map(|word: &u32| word.to_le_bytes()).collect()
}

/// Bytes of a file: a few, some blocks, or with holes between.
fn fill(path: &Path, dice: &mut Dice) {
    let file = File::create(path).unwrap();
    let bytes: Vec<u8> = (0..16).map(|_| dice.roll().to_le_bytes()[0]).collect();
    let len = match dice.below(8) {
        0 => 0,
        1 => 70_000 + dice.below(200_000),
        _ => dice.below(9000),
    };
    let body: Vec<u8> = bytes.iter().cycle().take(len).copied().collect();
    file.write_all_at(&body, 0).unwrap();
    if dice.below(12) == 0 {
        // Holes that are worth a map, and a hole at the end.
        for n in 1..4u64 {
            file.write_all_at(&bytes, n * 700_001).unwrap();
        }
        file.set_len(4_000_000).unwrap();
    }
}

/// A name that is not taken, plain or odd.
fn name(dir: &Path, dice: &mut Dice) -> PathBuf {
    loop {
        let number = dice.below(100_000);
        let name: Vec<u8> = match dice.below(12) {
            0 => format!("{number:0>255}").into_bytes(),
            1 => format!("{number:x>120}").into_bytes(),
            2 => [&[0xff, 0xfe, b'\n'][..], number.to_string().as_bytes()].concat(),
            3 => format!("näme {number} \"\\=").into_bytes(),
            4 => format!("wh.{number}").into_bytes(),
            // Sorts between a directory's name and what is in it, were they compared as bytes.
            5 => format!("d-{number}!").into_bytes(),
            _ => format!("n{}", number % 300).into_bytes(),
        };
        let path = dir.join(OsStr::from_bytes(&name));
        // As long as all readers take it, and one more name below it.
        if fs::symlink_metadata(&path).is_err() && path.as_os_str().len() < 3000 {
            return path;
        }
    }
}

/// Makes something new at `path`.
fn make(path: &Path, others: &[PathBuf], dice: &mut Dice) {
    let device = |kind, mode: u32, major, minor| {
        mknodat(CWD, path, kind, Mode::from_raw_mode(mode), makedev(major, minor)).unwrap();
    };
    match dice.below(14) {
        0..5 => fill(path, dice),
        5..8 => fs::create_dir(path).unwrap(),
        8 => {
            symlink(["../x", "/etc/passwd", ".", &"long/".repeat(30)][dice.below(4)], path).unwrap()
        }
        9 => device(FileType::CharacterDevice, 0o620, 1, [3, 70_000][dice.below(2)]),
        10 => device(FileType::BlockDevice, 0o660, 8, 1),
        11 => device(FileType::Fifo, 0o600, 0, 0),
        _ => {
            let files: Vec<_> = others.iter().filter(|path| !is(path).is_dir()).cloned().collect();
            match dice.one(&files) {
                Some(file) => fs::hard_link(file, path).unwrap(),
                None => fill(path, dice),
            }
        }
    }
    attributes(path, dice);
}

fn attributes(path: &Path, dice: &mut Dice) {
    let kind = is(path).file_type();
    if dice.below(3) == 0 {
        let high = if dice.below(5) == 0 { 4_000_000_000 } else { 70 };
        lchown(path, Some(dice.u32(70)), Some(high)).unwrap();
    }
    let set = |key: &str, value: &[u8]| lsetxattr(path, key, value, XattrFlags::empty()).unwrap();
    if !kind.is_symlink() {
        fs::set_permissions(
            path,
            Permissions::from_mode([0o755, 0o4711, 0o1777, 0][dice.below(4)]),
        )
        .unwrap();
        if dice.below(8) == 0 {
            set("system.posix_acl_access", &acl(dice.u32(9)));
        }
    }
    if (kind.is_file() || kind.is_dir()) && dice.below(4) == 0 {
        let value = vec![b'\n'; dice.below(300)];
        set(["user.a", "user.long name of it"][dice.below(2)], &value);
    }
    if kind.is_dir() && dice.below(8) == 0 {
        set("system.posix_acl_default", &acl(dice.u32(9)));
    }
    if kind.is_file() && dice.below(8) == 0 {
        set("security.capability", &capability(1 << dice.below(20)));
    }
    match dice.below(4) {
        0 => time(path, -1 - i64::from(dice.u32(1000)), i64::from(dice.u32(1_000_000_000))),
        1 => time(path, i64::from(dice.u32(u32::MAX)) * 3, 5),
        _ => time(path, 1_700_000_000 + i64::from(dice.u32(1000)), 0),
    }
}

/// Something to begin with.
pub(crate) fn plant(top: &Path, dice: &mut Dice, count: usize) {
    for _ in 0..count {
        let here = all(top);
        let mut dirs: Vec<_> = here.iter().filter(|path| is(path).is_dir()).cloned().collect();
        dirs.push(top.to_path_buf());
        let dir = dice.one(&dirs).unwrap().clone();
        let path = dir.join(format!("b{}", dice.below(1_000_000)));
        if fs::symlink_metadata(&path).is_err() {
            make(&path, &here, dice);
        }
    }
}

/// Changes one thing.
pub(crate) fn change(top: &Path, dice: &mut Dice) {
    let here = all(top);
    let mut dirs: Vec<_> = here.iter().filter(|path| is(path).is_dir()).cloned().collect();
    dirs.push(top.to_path_buf());
    let dir = dice.one(&dirs).unwrap().clone();
    let (Some(some), true) = (dice.one(&here).cloned(), here.len() > 60) else {
        return make(&name(&dir, dice), &here, dice);
    };
    let parent = some.parent().unwrap().to_path_buf();
    let before = is(&parent);
    let kind = is(&some).file_type();
    match dice.below(10) {
        0 | 1 => make(&name(&dir, dice), &here, dice),
        2 if !some.ends_with("lost+found") => remove(&some),
        // Other bytes, of the same length and time.
        3 if kind.is_file() && is(&some).size() > 0 => {
            let was = is(&some);
            let at = dice.roll() % was.size();
            File::options().write(true).open(&some).unwrap().write_all_at(b"#", at).unwrap();
            time(&some, was.mtime(), was.mtime_nsec());
        }
        4 if kind.is_file() => {
            // What has other names has it under those too.
            fill(&some, dice);
        }
        5 => attributes(&some, dice),
        6 => {
            let to = name(&dir, dice);
            if !to.starts_with(&some) {
                fs::rename(&some, to).unwrap();
            }
        }
        7 => {
            remove(&some);
            make(&some, &all(top), dice);
        }
        // As a directory whose content is hidden and made again.
        8 if kind.is_dir() => {
            let names: Vec<_> = fs::read_dir(&some).unwrap().map(|e| e.unwrap().path()).collect();
            remove(&some);
            fs::create_dir(&some).unwrap();
            for path in names {
                if dice.below(2) == 0 {
                    make(&path, &all(top), dice);
                }
            }
        }
        8 if kind.is_fifo() => remove(&some),
        _ => attributes(&some, dice),
    }
    // Nothing to be seen of it in the directory itself.
    if dice.below(2) == 0 && parent.is_dir() {
        time(&parent, before.mtime(), before.mtime_nsec());
    }
}
