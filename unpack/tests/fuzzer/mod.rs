//! Makes archives out of small pieces, honest ones and broken ones, from a seed, and holds what
//! must be true of each. Used by the example `fuzz`, by its short form among the tests, and by
//! the replay of what was found to be of interest.
#![allow(dead_code, reason = "each user needs its own part")]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use unpack::{Class, Devices, Error, Kind, Limits, Root, apply, list, remove_tree, verify};

/// xorshift64*: the same seed gives the same archives.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.roll() % (n as u64)).unwrap_or(0)
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

const NAMES: &[&str] = &[
    "a",
    "b",
    "a/b",
    "a/b/c",
    "s",
    "s/x",
    "t/y",
    "./",
    "/",
    "a//b/",
    "../x",
    "a/../b",
    ".wh.a",
    "a/.wh.b",
    "a/.wh..wh..opq",
    ".wh..wh..opq",
    ".wh.",
    ".wh..",
    "s/.wh.x",
    ".wh..wh.plnk/1",
    "a/.wh..wh.plnk/1",
    "lost+found/x",
    "\x1b[m",
];
const TARGETS: &[&str] = &[
    "a",
    "b",
    "/a",
    "../outside",
    "/",
    ".",
    "..",
    "s",
    "t",
    "a/b",
    "/proc/self/root",
    "../../../../tmp",
    "x/y",
    ".wh..wh.plnk/1",
    ".wh.a",
];
const KEYS: &[&str] = &[
    "path",
    "linkpath",
    "size",
    "uid",
    "gid",
    "mtime",
    "SCHILY.xattr.user.a",
    "SCHILY.xattr.security.capability",
    "SCHILY.xattr.system.posix_acl_default",
    "GNU.sparse.major",
    "GNU.sparse.minor",
    "GNU.sparse.name",
    "GNU.sparse.size",
    "GNU.sparse.numblocks",
    "GNU.sparse.map",
    "GNU.sparse.offset",
    "GNU.sparse.numbytes",
    "SCHILY.acl.access",
    "comment",
    "SCHILY.xattr.trusted.x",
];
const VALUES: &[&str] = &[
    "0",
    "1",
    "512",
    "0,512",
    "-1",
    "4294967295",
    "1.5",
    "-1.5",
    "a/b",
    "../x",
    "",
    "99999999999999999999",
    "s",
];
const TYPES: &[u8] = b"0000000555521111223467xgLKSDMZ\0";

fn header(dice: &mut Dice, typeflag: u8, size: usize) -> [u8; 512] {
    let mut block = [0u8; 512];
    let mut put = |at: usize, text: &[u8]| block[at..at + text.len()].copy_from_slice(text);
    put(0, dice.pick(NAMES).as_bytes());
    let mode: u32 = dice.pick(&[0o644, 0o755, 0o4755, 0o2775, 0, 0o7777]);
    put(100, format!("{mode:07o}").as_bytes());
    put(108, format!("{:07o}", dice.pick(&[0, 0, 0, 7, 2_000_000])).as_bytes());
    put(116, format!("{:07o}", dice.pick(&[0, 0, 0, 7])).as_bytes());
    put(124, format!("{size:011o}").as_bytes());
    put(136, format!("{:011o}", dice.pick(&[0u64, 1000, 0o33_333_333_333])).as_bytes());
    put(148, b"        ");
    put(156, &[typeflag]);
    put(157, dice.pick(TARGETS).as_bytes());
    let magics: [&[u8]; 5] = [b"ustar\x0000", b"ustar\x0000", b"ustar  \0", &[0; 8], b"ustar\0 \0"];
    put(257, dice.pick(&magics));
    put(345, dice.pick::<&[u8]>(&[b"", b"", b"", b"a", b"../x", b"00000001750", b"\xff"]));
    if dice.below(8) == 0 {
        put(108, &[0; 16]);
    }
    put(329, b"0000001");
    put(337, b"0000003");
    if dice.below(8) == 0 {
        let at = dice.below(512);
        block[at] = dice.pick(&[0, 0xff, 0x80, b' ', b'7', b'/', b'.']);
    }
    let sum: u32 = block
        .iter()
        .enumerate()
        .map(|(at, &b)| u32::from(if (148..156).contains(&at) { b' ' } else { b }))
        .sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

fn record(key: &str, value: &str) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut len = rest + 1;
    while len != rest + len.to_string().len() {
        len = rest + len.to_string().len();
    }
    format!("{len} {key}={value}\n").into_bytes()
}

/// Anything goes: most of these are refused.
fn wild(dice: &mut Dice) -> Vec<u8> {
    let mut tar = Vec::new();
    for _ in 0..=dice.below(12) {
        let typeflag = dice.pick(TYPES);
        let body: Vec<u8> = match typeflag {
            b'x' | b'g' => (0..dice.below(3))
                .flat_map(|_| record(dice.pick(KEYS), dice.pick(VALUES)))
                .collect(),
            b'L' | b'K' => [dice.pick(NAMES).as_bytes(), b"\0"].concat(),
            0 | b'0' | b'7' => vec![b'x'; dice.pick(&[0, 1, 511, 512, 513, 3000])],
            _ => Vec::new(),
        };
        tar.extend_from_slice(&header(dice, typeflag, body.len()));
        tar.extend_from_slice(&body);
        tar.resize(tar.len().next_multiple_of(512), 0);
    }
    tar
}

const TIDY: &[&str] = &[
    "a",
    "b",
    "a/b",
    "a/b/c",
    "a/b/c/d",
    "d/e",
    "d/e/f",
    "d/g",
    "s/x",
    "s/y/z",
    "t/y",
    "u",
    "u/v",
    "lost+found/x",
    "d/e/\u{1b}[m",
    "\u{e9}/x",
];
const HIDDEN: &[&str] = &[
    ".wh.a",
    ".wh.b",
    "a/.wh.b",
    "a/b/.wh.c",
    "d/.wh.e",
    "d/e/.wh.f",
    "s/.wh.x",
    "t/.wh.y",
    ".wh.s",
    ".wh.d",
    "a/.wh..wh..opq",
    "d/.wh..wh..opq",
    "s/.wh..wh..opq",
    ".wh..wh..opq",
    "d/e/.wh..wh..opq",
    ".wh..wh.plnk/1",
];

/// A layer that a builder could have made: most of these are applied.
fn tidy(dice: &mut Dice) -> Vec<u8> {
    let mut tar = Vec::new();
    let mut files: Vec<&str> = Vec::new();
    for _ in 0..=dice.below(24) {
        let (name, typeflag, size) = match dice.below(16) {
            0..5 => (dice.pick(TIDY), b'0', dice.pick(&[0, 1, 511, 512, 513, 3000])),
            5..8 => (dice.pick(TIDY), b'5', 0),
            8..10 => (dice.pick(&["s", "t", "a/s", "d", "u"]), b'2', 0),
            10 if !files.is_empty() => (dice.pick(TIDY), b'1', 0),
            11 => (dice.pick(TIDY), b'6', 0),
            12..15 => (dice.pick(HIDDEN), b'0', 0),
            _ => (dice.pick(&["./", "/"]), b'5', 0),
        };
        let target = match typeflag {
            b'1' => dice.pick(&files),
            _ => dice.pick(TARGETS),
        };
        let linked =
            typeflag == b'0' && (!name.contains(".wh.") || name.starts_with(".wh..wh.plnk"));
        if linked {
            files.push(name);
        }
        if typeflag == b'0' && dice.below(6) == 0 {
            sparse(dice, &mut tar, name);
            continue;
        }
        if dice.below(4) == 0 {
            let pairs: [(&str, &str); 7] = [
                ("SCHILY.xattr.user.e", ""),
                ("SCHILY.acl.default", "user::rwx"),
                ("mtime", dice.pick(&["1.5", "-1.5", "0", "1700000000.123456789"])),
                ("SCHILY.xattr.user.a", "x\n9 size=9\n"),
                ("uid", dice.pick(&["0", "7", "4294967294"])),
                ("SCHILY.xattr.trusted.overlay.opaque", "y"),
                ("comment", ""),
            ];
            let body: Vec<u8> = (0..dice.below(4))
                .flat_map(|_| {
                    let (k, v) = dice.pick(&pairs);
                    record(k, v)
                })
                .collect();
            push(&mut tar, plain(dice, b'x', body.len(), "x", ""), &body);
        }
        push(&mut tar, plain(dice, typeflag, size, name, target), &vec![b'x'; size]);
    }
    tar
}

/// A sparse file in one of the formats, mostly as it should be.
fn sparse(dice: &mut Dice, tar: &mut Vec<u8>, name: &str) {
    let (mut end, mut parts) = (0usize, Vec::new());
    for _ in 0..dice.below(4) {
        let offset = end + dice.pick(&[0, 0, 1, 4096, 70_000]);
        let len = dice.pick(&[0, 1, 511, 512, 5000]);
        parts.push((offset, len));
        end = offset + len;
    }
    let size = end + dice.pick(&[0, 0, 1, 100_000]);
    let mut bytes: usize = parts.iter().map(|part| part.1).sum();
    if dice.below(8) == 0 {
        match dice.below(3) {
            0 => bytes += 1,
            1 => parts.reverse(),
            _ => parts.push((size, 1)),
        }
    }
    let numbers: Vec<String> =
        parts.iter().flat_map(|part| [part.0.to_string(), part.1.to_string()]).collect();
    let (count, size) = (parts.len().to_string(), size.to_string());
    let mut records = record("GNU.sparse.size", &size);
    let mut body = Vec::new();
    match dice.below(3) {
        0 => {
            records.extend(record("GNU.sparse.numblocks", &count));
            for pair in numbers.chunks(2) {
                records.extend(record("GNU.sparse.offset", &pair[0]));
                records.extend(record("GNU.sparse.numbytes", &pair[1]));
            }
        }
        1 => {
            records.extend(record("GNU.sparse.numblocks", &count));
            records.extend(record("GNU.sparse.map", &numbers.join(",")));
        }
        _ => {
            records.extend(record("GNU.sparse.major", "1"));
            records.extend(record("GNU.sparse.minor", "0"));
            records.extend(record("GNU.sparse.name", name));
            body = format!("{count}\n{}\n", numbers.join("\n")).into_bytes();
            body.resize(body.len().next_multiple_of(512), 0);
        }
    }
    body.resize(body.len() + bytes, b's');
    push(tar, plain(dice, b'x', records.len(), "x", ""), &records);
    push(tar, plain(dice, b'0', body.len(), name, ""), &body);
}

fn push(tar: &mut Vec<u8>, header: [u8; 512], body: &[u8]) {
    tar.extend_from_slice(&header);
    tar.extend_from_slice(body);
    tar.resize(tar.len().next_multiple_of(512), 0);
}

/// A header as GNU tar or a container builder writes it.
fn plain(dice: &mut Dice, typeflag: u8, size: usize, name: &str, target: &str) -> [u8; 512] {
    let mut block = [0u8; 512];
    let mut put = |at: usize, text: &[u8]| block[at..at + text.len()].copy_from_slice(text);
    put(0, name.as_bytes());
    let mode: u32 = dice.pick(&[0o644, 0o755, 0o4755, 0o2775, 0o700]);
    put(100, format!("{mode:07o}").as_bytes());
    put(108, format!("{:07o}", dice.pick(&[0, 0, 0, 7])).as_bytes());
    put(116, format!("{:07o}", dice.pick(&[0, 0, 0, 7])).as_bytes());
    put(124, format!("{size:011o}").as_bytes());
    put(136, b"00000001750");
    put(156, &[typeflag]);
    if matches!(typeflag, b'1' | b'2') {
        put(157, target.as_bytes());
    }
    put(257, b"ustar\x0000");
    sum(&mut block);
    block
}

fn sum(block: &mut [u8; 512]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|&b| u32::from(b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// The next archive: tidy, tidy with one thing broken, or wild; perhaps packed.
pub(crate) fn archive(dice: &mut Dice) -> Vec<u8> {
    match dice.below(4) {
        0 => finish(dice, wild),
        1 => finish(dice, tidy),
        _ => {
            let mut tar = tidy(dice);
            tar.resize(tar.len() + 1024, 0);
            tar
        }
    }
}

fn finish(dice: &mut Dice, make: fn(&mut Dice) -> Vec<u8>) -> Vec<u8> {
    let mut tar = make(dice);
    if dice.below(8) != 0 {
        tar.resize(tar.len() + 1024, 0);
    }
    for _ in 0..dice.below(4).saturating_sub(2) {
        let at = dice.below(tar.len());
        tar[at] ^= 1 << dice.below(8);
    }
    match dice.below(16) {
        0 => tar.truncate(dice.below(tar.len())),
        1 => tar = zstd::encode_all(tar.as_slice(), 1).unwrap_or_default(),
        2 => {
            tar = zstd::encode_all(tar.as_slice(), 1).unwrap_or_default();
            let at = dice.below(tar.len());
            tar[at] ^= 1 << dice.below(8);
        }
        _ => {}
    }
    tar
}

/// Content, mode, owner and times of the canary.
fn canary(dir: &Path) -> String {
    let mut all = String::new();
    for path in [dir.to_path_buf(), dir.join("outside"), dir.join("outside/x"), dir.join("x")] {
        let meta = fs::symlink_metadata(&path).expect("canary");
        all += &format!("{:?} {} {} {}\n", path, meta.mode(), meta.uid(), meta.nlink());
        all += &format!("{}.{} {}\n", meta.ctime(), meta.ctime_nsec(), meta.size());
    }
    all += &format!("{}", fs::read_dir(dir).expect("canary").count());
    all
}

/// A root, a canary beside it, and what is held about every layer.
pub(crate) struct Pit {
    dir: PathBuf,
    before: String,
    root: Root,
    limits: Limits,
    layers: u32,
    pub(crate) accepted: u64,
}

impl Pit {
    /// In a new directory below `under`.
    pub(crate) fn new(under: &Path) -> Pit {
        let dir = under.join(format!("unpack-fuzz-{}", std::process::id()));
        fs::create_dir_all(dir.join("root")).expect("temporary directory");
        fs::create_dir(dir.join("outside")).expect("temporary directory");
        fs::write(dir.join("outside/x"), "canary").expect("temporary directory");
        fs::write(dir.join("x"), "canary").expect("temporary directory");
        let limits = Limits {
            devices: Devices::Refuse,
            bytes_max: 1 << 20,
            reader_verifies: true,
            ..Limits::default()
        };
        let root = Root::open(&dir.join("root")).expect("root");
        Pit { before: canary(&dir), dir, root, limits, layers: 0, accepted: 0 }
    }

    /// Only the parser: a verdict, whatever the bytes. Its text, or what the verdict was.
    pub(crate) fn parse(&self, layer: &[u8]) -> String {
        match list(layer, &self.limits, |_| {}) {
            Ok(_) => "accepted".into(),
            Err(Error::Refused { refusal, .. }) => {
                format!("{}: {}", refusal.class.name(), refusal.rule)
            }
            Err(other) => panic!("neither accepted nor refused: {other}: {other:?}"),
        }
    }

    /// `list` ends with a verdict; what it refuses, `apply` refuses by the same class; what `apply`
    /// has accepted, `verify` finds in the tree; nothing beside the root has changed. Up to four
    /// layers go on one root. The verdict, or what was not so.
    pub(crate) fn hold(&mut self, layer: &[u8]) -> Result<String, String> {
        let listed = list(layer, &self.limits, |_| {});
        let applied = apply(layer, &self.root, &self.limits);
        if canary(&self.dir) != self.before {
            return Err("the host was touched".into());
        }
        match (&listed, &applied) {
            (Err(Error::Refused { .. }), Ok(_)) => return Err(format!("list refuses: {listed:?}")),
            (Err(e), Err(f))
                if e.class() != f.class()
                    && f.place() == e.place()
                    // What only the tree can tell comes before the entry's body.
                    && !matches!(f.class(), Some(Class::Path | Class::Link | Class::Xattr)) =>
            {
                return Err(format!("{e} but {f}"));
            }
            (_, Err(e)) if !matches!(e.kind(), Kind::Refused | Kind::Limit) => {
                return Err(format!("neither accepted nor refused: {e}: {e:?}"));
            }
            _ => {}
        }
        self.layers += 1;
        if applied.is_ok() {
            self.accepted += 1;
            if let Err(e) = verify(layer, &self.root, &self.limits, false, |_| {}) {
                return Err(format!("verify fails: {e}"));
            }
        }
        if applied.is_err() || self.layers == 4 {
            remove_tree(&self.root).map_err(|e| format!("the tree cannot be removed: {e}"))?;
            self.layers = 0;
        }
        Ok(match applied {
            Ok(_) => "accepted".into(),
            Err(Error::Refused { refusal, .. }) => {
                format!("{}: {}", refusal.class.name(), refusal.rule)
            }
            Err(other) => other.to_string(),
        })
    }

    pub(crate) fn close(self) {
        remove_tree(&self.root).expect("remove");
        fs::remove_dir_all(&self.dir).expect("remove");
    }
}
