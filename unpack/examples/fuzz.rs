//! A seeded fuzzer for the parser and for apply, on stable Rust and without a harness.
//!
//!     cargo run --release -p unpack --example fuzz -- [seconds] [seed]
//!
//! It makes archives out of small pieces (headers, extensions, bodies), breaks some of their
//! bytes, and holds three things about each: `list` ends with a verdict and no panic; what `list`
//! refuses, `apply` refuses by the same class; what `apply` has accepted, `verify` finds in the
//! tree; and nothing beside the root has changed. As root it makes owners and devices too.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use unpack::{Devices, Error, Kind, Limits, Root, apply, list, remove_tree, verify};

/// xorshift64*: the same seed gives the same archives.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: usize) -> usize {
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
    "comment",
    "SCHILY.xattr.trusted.x",
];
const VALUES: &[&str] = &[
    "0",
    "1",
    "512",
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
    put(257, dice.pick::<&[u8]>(&[b"ustar\x0000", b"ustar\x0000", b"ustar  \0", &[0; 8]]));
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
    let len = if rest + 1 > 9 && rest + 2 <= 99 { rest + 2 } else { rest + 1 };
    format!("{len} {key}={value}\n").into_bytes()
}

fn archive(dice: &mut Dice) -> Vec<u8> {
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

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let number = |at: usize| args.get(at).and_then(|text| text.parse::<u64>().ok());
    let seconds = number(1).unwrap_or(30);
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |now| now.as_secs());
    let seed = number(2).unwrap_or(clock);
    println!("fuzz: seed {seed}, {seconds} s");
    let dir = std::env::temp_dir().join(format!("unpack-fuzz-{}", std::process::id()));
    fs::create_dir_all(dir.join("root")).expect("temporary directory");
    fs::create_dir(dir.join("outside")).expect("temporary directory");
    fs::write(dir.join("outside/x"), "canary").expect("temporary directory");
    fs::write(dir.join("x"), "canary").expect("temporary directory");
    let before = canary(&dir);
    let root = Root::open(&dir.join("root")).expect("root");
    let limits = Limits {
        devices: Devices::Refuse,
        bytes_max: 1 << 20,
        reader_verifies: true,
        ..Limits::default()
    };
    let mut dice = Dice(seed | 1);
    let end = Instant::now() + Duration::from_secs(seconds);
    let (mut runs, mut accepted, mut layers) = (0u64, 0u64, 0u64);
    while Instant::now() < end {
        let at = dice.0;
        let layer = archive(&mut dice);
        let listed = list(layer.as_slice(), &limits, |_| {});
        let applied = apply(layer.as_slice(), &root, &limits);
        runs += 1;
        let fail = |what: String| {
            let kept = std::env::temp_dir().join("unpack-fuzz-finding.tar");
            fs::write(&kept, &layer).expect("write the finding");
            panic!("{what}; dice {at}, layer kept in {}", kept.display());
        };
        if canary(&dir) != before {
            fail("the host was touched".into());
        }
        match (&listed, &applied) {
            (Err(Error::Refused { .. }), Ok(_)) => fail(format!("list refuses: {listed:?}")),
            (Err(e), Err(f)) if e.class() != f.class() && f.place() == e.place() => {
                fail(format!("{e} but {f}"));
            }
            (_, Err(e)) if !matches!(e.kind(), Kind::Refused | Kind::Limit) => {
                fail(format!("neither accepted nor refused: {e}: {e:?}"));
            }
            _ => {}
        }
        if applied.is_ok() {
            accepted += 1;
            layers += 1;
            if let Err(e) = verify(layer.as_slice(), &root, &limits, false, |_| {}) {
                fail(format!("verify fails: {e}"));
            }
        }
        // Up to four layers on one root, then a new one.
        if applied.is_err() || layers == 4 {
            remove_tree(&root).expect("remove");
            layers = 0;
        }
    }
    remove_tree(&root).expect("remove");
    fs::remove_dir_all(&dir).expect("remove");
    println!("fuzz: {runs} layers, {accepted} accepted, no finding");
}
