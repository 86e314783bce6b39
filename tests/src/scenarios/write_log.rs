//! A device that logs its every write in order (dm-log-writes), cut into parts; and what a disk that
//! keeps nothing else has at each point of the log. Not a scenario.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use thin::loopdev::{Loop, LoopOptions, attach};
use thin::{By, Dev, Device, Dm, Target};

/// A part of the logged device: its name, and its sectors.
pub(crate) type Part = (&'static str, u64);

/// The live device; its parts are devices of their own.
#[derive(Debug)]
pub(crate) struct Logged {
    dm: Dm,
    loops: Vec<Loop>,
    parts: Vec<(String, Dev)>,
}

impl Logged {
    /// Over a file in `dir`; the log goes to the file `log`.
    pub(crate) fn open(dm: &Dm, dir: &Path, log: &Path, parts: &[Part]) -> Result<Logged> {
        let all: u64 = parts.iter().map(|(_, sectors)| sectors).sum();
        let mut loops = Vec::new();
        for (file, sectors) in [(dir.join("lower"), all), (log.to_owned(), 512 << 11)] {
            File::create(&file)?.set_len(sectors * 512)?;
            let options = LoopOptions { autoclear: false, ..LoopOptions::default() };
            loops.push(attach(&file, options)?);
        }
        let [lower, log] = loops.as_slice() else { unreachable!("two were attached") };
        let (lower, log) = (Device::open(lower.path())?.dev, Device::open(log.path())?.dev);
        let make = |name: &str, sectors: u64, kind: &str, params: String| -> Result<Dev> {
            dm.create(name, &format!("TEST-{name}"))?;
            dm.load(By::Name(name), &[Target::whole(sectors, kind, &params)], false)?;
            Ok(dm.resume(By::Name(name))?.dev)
        };
        let whole = make("logged", all, "log-writes", format!("{lower} {log}"))?;
        let (mut made, mut from) = (Vec::new(), 0);
        for (name, sectors) in parts {
            let name = format!("logged-{name}");
            let dev = make(&name, *sectors, "linear", format!("{whole} {from}"))?;
            made.push((name, dev));
            from += sectors;
        }
        Ok(Logged { dm: dm.clone(), loops, parts: made })
    }

    /// The device of a part.
    pub(crate) fn dev(&self, part: usize) -> Dev {
        self.parts[part].1
    }

    /// Puts a line into the log, after what was written until now.
    pub(crate) fn mark(dm: &Dm, line: &str) -> Result<()> {
        Ok(dm.message(By::Name("logged"), &format!("mark {}", line.replace(' ', "_")))?)
    }

    /// Takes it down; the log stays.
    pub(crate) fn close(self) -> Result<()> {
        for (name, _) in self.parts.iter().rev() {
            self.dm.remove(By::Name(name))?;
        }
        self.dm.remove(By::Name("logged"))?;
        self.loops.into_iter().try_for_each(|device| device.detach().context("detach"))
    }
}

/// What a disk has that keeps the log up to some point: a file for each part.
#[derive(Debug)]
pub(crate) struct Replay {
    log: File,
    parts: Vec<Disk>,
}

/// One part.
#[derive(Debug)]
struct Disk {
    /// Where it begins on the whole, and how large it is, in sectors.
    from: u64,
    sectors: u64,
    file: File,
    /// Pieces that were ever written: the rest need not be copied.
    written: BTreeSet<u64>,
}

/// Bytes of a piece.
const PIECE: u64 = 64 << 10;

impl Replay {
    /// Blank disks in `dir`.
    pub(crate) fn new(dir: &Path, log: &Path, parts: &[Part]) -> Result<Replay> {
        let (mut files, mut from) = (Vec::new(), 0);
        for (name, sectors) in parts {
            let path = dir.join(format!("replayed-{name}"));
            let file =
                File::options().create(true).truncate(true).read(true).write(true).open(path)?;
            file.set_len(sectors * 512)?;
            files.push(Disk { from, sectors: *sectors, file, written: BTreeSet::new() });
            from += sectors;
        }
        Ok(Replay { log: File::open(log)?, parts: files })
    }

    /// The log's entries.
    pub(crate) fn entries(&self) -> Result<Vec<Entry>> {
        entries(&self.log)
    }

    /// Copies each part to a new file.
    pub(crate) fn copy(&self, to: &[PathBuf]) -> Result<()> {
        for (part, path) in self.parts.iter().zip(to) {
            // A loop device may still have the one before it open.
            std::fs::remove_file(path).ok();
            let copy = File::create(path)?;
            copy.set_len(part.sectors * 512)?;
            for piece in &part.written {
                let at = piece * PIECE;
                let mut bytes = vec![0; usize::try_from(PIECE.min(part.sectors * 512 - at))?];
                part.file.read_exact_at(&mut bytes, at)?;
                copy.write_all_at(&bytes, at)?;
            }
        }
        Ok(())
    }

    /// Does what the entry tells of.
    pub(crate) fn write(&mut self, entry: &Entry) -> Result<()> {
        if entry.length == 0 {
            return Ok(());
        }
        let mut content = vec![0; usize::try_from(entry.length)? * 512];
        self.log.read_exact_at(&mut content, entry.content)?;
        let part = self.parts.iter_mut().rev().find(|part| part.from <= entry.sector);
        let part = part.context("a write before the first part")?;
        let at = (entry.sector - part.from) * 512;
        part.written.extend(at / PIECE..=(at + entry.length * 512 - 1) / PIECE);
        Ok(part.file.write_all_at(&content, at)?)
    }
}

/// One entry of the log.
#[derive(Debug)]
pub(crate) struct Entry {
    sector: u64,
    /// Sectors written, and where in the log they are.
    pub(crate) length: u64,
    content: u64,
    /// Whether all before it is on the disk when this is done.
    pub(crate) flushes: bool,
    /// A line that was put here.
    pub(crate) mark: Option<String>,
}

const MAGIC: u64 = 0x006a_7366_7773_6872;

/// Log super block, then per entry its head in a sector of its own and what was written
/// (`struct log_write_super`, `struct log_write_entry` in the kernel's `drivers/md/dm-log-writes.c`).
fn entries(log: &File) -> Result<Vec<Entry>> {
    let field = |at: u64| -> Result<u64> {
        let mut bytes = [0; 8];
        log.read_exact_at(&mut bytes, at)?;
        Ok(u64::from_le_bytes(bytes))
    };
    ensure!(field(0)? == MAGIC, "no log of writes: {:#x}", field(0)?);
    let (count, unit) = (field(16)?, field(24)? & 0xffff_ffff);
    ensure!(unit == 512, "sectors of {unit} bytes");
    let (mut at, mut found) = (512, Vec::new());
    for _ in 0..count {
        let (sector, mut length, flags, inline) =
            (field(at)?, field(at + 8)?, field(at + 16)?, field(at + 24)?);
        let mut mark = None;
        match flags {
            // DISCARD: nothing follows.
            flags if flags & 4 != 0 => length = 0,
            // MARK: its text is in the head.
            flags if flags & 8 != 0 => {
                let mut text = vec![0; usize::try_from(inline)?];
                log.read_exact_at(&mut text, at + 32)?;
                let text = String::from_utf8(text)?;
                mark = Some(text.trim_end_matches('\0').replace('_', " "));
                length = 0;
            }
            flags if flags >> 5 != 0 => bail!("an entry with flags {flags:#x}"),
            _ => {}
        }
        // FLUSH or FUA.
        found.push(Entry { sector, length, content: at + 512, flushes: flags & 3 != 0, mark });
        at += 512 + length * 512;
    }
    Ok(found)
}
