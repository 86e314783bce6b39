//! A seeded fuzzer of images: small ones of mke2fs, with bytes changed wherever something lies, with and
//! without every checksum made right again. Needs e2fsprogs and no right.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;

use unpack::{Error, Limits};

use super::mend::mend;
use super::{blank, run};

/// xorshift64*.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn below(&mut self, sides: usize) -> usize {
        usize::try_from(self.roll() % sides as u64).unwrap()
    }
}

/// An image and where something lies in it: bytes that are not zero, in pieces of 128.
struct Base {
    bytes: Vec<u8>,
    alive: Vec<usize>,
    file: File,
}

/// The images that are changed.
pub(crate) struct Pit {
    bases: Vec<Base>,
    /// What each is compared with: the first, as it was.
    lower: File,
    limits: Limits,
    /// How often each verdict was given.
    pub(crate) verdicts: BTreeMap<String, u64>,
    pub(crate) accepted: u64,
}

/// Options of mke2fs: every way in which something lies elsewhere, or is another.
const OPTIONS: [&str; 10] = [
    "-t ext4 -b 1024 -N 256",
    "-t ext4 -b 4096 -N 256",
    "-t ext4 -b 1024 -N 256 -O ^metadata_csum",
    "-t ext4 -b 2048 -N 256 -O ^metadata_csum,^64bit,meta_bg,^resize_inode",
    "-t ext4 -b 1024 -N 256 -O ^extents,^64bit,^metadata_csum,uninit_bg",
    "-t ext2 -b 1024 -I 128 -N 256",
    "-t ext4 -b 1024 -N 2048 -g 1024 -O ^metadata_csum,^flex_bg,sparse_super2",
    "-t ext4 -b 4096 -N 256 -O bigalloc,metadata_csum_seed,^has_journal",
    "-t ext4 -b 1024 -N 256 -O ^metadata_csum",
    "-t ext4 -b 1024 -N 256",
];

/// From this one on images have something in their journal that was not replayed.
const WITH_LOG: usize = 8;

/// Writes some blocks of an image into its journal, as they are, and revokes another.
fn log(dir: &Path, image: &Path, sums: &str) {
    let bytes = fs::read(image).unwrap();
    let mut script = format!("jo {sums}\n");
    for block in [1usize, 98, 99, 100, 2] {
        let (at, file) = (block * 1024, dir.join(format!("block-{block}")));
        fs::write(&file, &bytes[at..at + 1024]).unwrap();
        script.push_str(&format!("jw -b {block} {}\n", file.display()));
    }
    script.push_str("jw -r 300\njc\n");
    let commands = dir.join("commands");
    fs::write(&commands, script).unwrap();
    let args = ["-w".as_ref(), "-f".as_ref(), commands.as_os_str(), image.as_os_str()];
    run("debugfs", &args);
}

fn tree(top: &Path) {
    let at = |name: &str| top.join(name);
    fs::create_dir_all(at("a/b/c")).unwrap();
    fs::write(at("a/file"), vec![b'x'; 5000]).unwrap();
    fs::write(at("a/b/empty"), "").unwrap();
    fs::hard_link(at("a/file"), at("a/b/link")).unwrap();
    symlink("fast", at("a/fast")).unwrap();
    symlink("s".repeat(200), at("a/slow")).unwrap();
    for (name, len) in [("user.a", 10), ("user.b", 200), ("user.c", 300)] {
        let value = vec![7; len];
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::lsetxattr(at("a/file"), name, &value, flags).expect("attributes");
    }
    // Enough for an index, and for extents that do not fit into an inode.
    fs::create_dir(at("many")).unwrap();
    for n in 0..120 {
        fs::write(at(&format!("many/{n}-a name of some length")), "").unwrap();
    }
    let holes = File::create(at("holes")).unwrap();
    for n in 0..40u64 {
        holes.write_all_at(b"x", n * 16384).unwrap();
    }
}

impl Pit {
    pub(crate) fn new(dir: &Path) -> Pit {
        let top = dir.join("tree");
        fs::create_dir(&top).unwrap();
        tree(&top);
        let bases = OPTIONS.iter().enumerate().map(|(n, options)| {
            let path = dir.join(format!("{n}.img"));
            blank(&path, 8, options, Some(&top));
            // Makes the index, which mke2fs does not.
            let args = ["-fyD".as_ref(), path.as_os_str()];
            match std::process::Command::new("e2fsck").args(args).output() {
                Ok(_) => {}
                Err(error) => panic!("e2fsck: {error} (e2fsprogs)"),
            }
            if n >= WITH_LOG {
                log(dir, &path, if n == WITH_LOG { "" } else { "-c -v 3" });
            }
            let bytes = fs::read(&path).unwrap();
            let pieces = bytes.chunks(128).enumerate();
            let alive = pieces.filter(|(_, piece)| piece.iter().any(|&b| b != 0 && b != b'x'));
            let alive = alive.map(|(n, _)| n * 128).collect();
            let file = File::options().read(true).write(true).open(&path).unwrap();
            Base { bytes, alive, file }
        });
        let bases: Vec<Base> = bases.collect();
        let lower = dir.join("lower.img");
        fs::write(&lower, &bases[0].bytes).unwrap();
        let lower = File::open(&lower).unwrap();
        // Sizes are a fuzzer's too: zeros are hashed for a moment and no longer.
        let limits = Limits { file_bytes_max: 16 << 20, bytes_max: 64 << 20, ..Limits::default() };
        Pit { bases, lower, limits, verdicts: BTreeMap::new(), accepted: 0 }
    }

    /// Changes an image and reads it. An error says what it was that must not be.
    pub(crate) fn hold(&mut self, dice: &mut Dice) -> Result<(), String> {
        let which = dice.below(self.bases.len());
        let base = &self.bases[which];
        let mut image = base.bytes.clone();
        for _ in 0..=dice.below(6) {
            let piece = base.alive[dice.below(base.alive.len())];
            let at = piece + dice.below(128);
            image[at] = match dice.below(4) {
                0 => image[at] ^ (1 << dice.below(8)),
                1 => 0,
                2 => 0xff,
                _ => dice.roll().to_le_bytes()[0],
            };
        }
        // A block where another was: loops, and names in the wrong place.
        if dice.below(8) == 0 {
            let (from, to) = (dice.below(base.alive.len()), dice.below(base.alive.len()));
            let (from, to) = (base.alive[from] & !1023, base.alive[to] & !1023);
            image.copy_within(from..from + 1024, to);
        }
        if dice.below(4) > 0 {
            mend(&mut image);
        }
        let changed = |(n, (a, b)): (usize, (&[u8], &[u8]))| (a != b).then_some(n * 1024);
        let changed: Vec<usize> = image
            .chunks(1024)
            .zip(base.bytes.chunks(1024))
            .enumerate()
            .filter_map(changed)
            .collect();
        for &at in &changed {
            base.file.write_all_at(&image[at..at + 1024], at as u64).unwrap();
        }
        let read = unpack::image_manifest_replayed(&base.file, &mut io::sink(), &self.limits);
        // One that is good with its index is good without.
        let strict = match dice.below(4) {
            0 => unpack::image_manifest_strict(&base.file, &mut io::sink(), &self.limits).is_ok(),
            _ => false,
        };
        let diffed = self.diffed(&base.file, read.is_ok());
        for &at in &changed {
            base.file.write_all_at(&base.bytes[at..at + 1024], at as u64).unwrap();
        }
        diffed.map_err(|text| format!("base {which}: {text}"))?;
        if strict && read.is_err() {
            return Err(format!("strictly good and otherwise not: {read:?}"));
        }
        let verdict = match read {
            Ok(_) => {
                self.accepted += 1;
                "accepted".to_owned()
            }
            Err(Error::Image { flaw }) => format!("{}: {}", flaw.kind.name(), flaw.rule),
            Err(Error::Refused { refusal, .. }) if refusal.limit.is_some() => {
                refusal.rule.into_owned()
            }
            Err(error) => return Err(format!("base {which}: {error:?}")),
        };
        *self.verdicts.entry(verdict).or_default() += 1;
        Ok(())
    }

    /// What it has that another image has not is a layer that is read, or is refused by a rule; of an image that is
    /// read it is never the image that is at fault.
    fn diffed(&self, image: &File, is_read: bool) -> Result<(), String> {
        let mut layer = Vec::new();
        match unpack::diff_images(image, &self.lower, true, &mut layer, &self.limits) {
            Ok(diffed) => {
                let limits = Limits { devices: unpack::Devices::Keep, ..self.limits.clone() };
                let listed = unpack::list(layer.as_slice(), &limits, |_| {});
                let listed = listed.map_err(|error| format!("its layer: {error:?}"))?;
                match listed.entries == diffed.entries {
                    true => Ok(()),
                    false => Err(format!("{} entries and {diffed:?}", listed.entries)),
                }
            }
            Err(Error::Image { .. }) if !is_read => Ok(()),
            Err(Error::Refused { .. }) => Ok(()),
            Err(error) => Err(format!("the difference: {error:?}")),
        }
    }

    /// Unchanged, every image is read, and its index is right.
    pub(crate) fn unchanged(&self) {
        for (n, (base, options)) in self.bases.iter().zip(OPTIONS).enumerate() {
            let read = match n < WITH_LOG {
                true => unpack::image_manifest_strict,
                false => unpack::image_manifest_replayed,
            };
            read(&base.file, &mut io::sink(), &self.limits)
                .unwrap_or_else(|error| panic!("{options}: {error}"));
            let mut mended = base.bytes.clone();
            mend(&mut mended);
            let odd = mended.iter().zip(&base.bytes).position(|(ours, theirs)| ours != theirs);
            assert_eq!(odd, None, "{options}: mending changes what is whole");
        }
    }
}

/// What debugfs is told, one command after the other; it makes checksums right itself.
pub(crate) fn debugfs(image: &Path, commands: &[&str]) {
    for command in commands {
        let args = ["-w".as_ref(), "-R".as_ref(), command.as_ref(), image.as_os_str()];
        run("debugfs", &args);
    }
}

/// A copy of the first image.
pub(crate) fn small(dir: &Path, options: &str) -> std::path::PathBuf {
    let (top, path) = (dir.join("small"), dir.join("small.img"));
    if !top.exists() {
        fs::create_dir(&top).unwrap();
        tree(&top);
    }
    blank(&path, 8, options, Some(&top));
    path
}
