//! What of this host is good, odd or bad for thin pools, each with advice. Only looks, but for
//! one small file it attaches to see whether direct I/O really holds.

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use serde::Serialize;

use crate::error::Error;
use crate::format::kind::Kind;
use crate::format::ondisk::Superblock;
use crate::format::quote::clean;
use crate::format::status::PoolStatus;
use crate::format::table::PoolTable;
use crate::format::units::Sectors;
use crate::kernel::dm::{By, Dm};
use crate::kernel::loopdev::{self, LoopOptions};
use crate::pool::{POOL_UUID, Pool};
use crate::store::header::{FILE, Header};
use crate::store::template::find_program;

/// How a check ended.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// As it should be.
    Good,
    /// Works, with a cost.
    Note,
    /// Will lose data, hang or not work.
    Bad,
}

/// One check.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Finding {
    /// How it ended.
    pub level: Level,
    /// What was looked at.
    pub check: String,
    /// What was seen.
    pub found: String,
    /// What to do about it.
    pub advice: Option<String>,
}

fn finding(level: Level, check: &str, found: String, advice: &str) -> Finding {
    let advice = (level != Level::Good).then(|| advice.to_owned());
    Finding { level, check: check.to_owned(), found, advice }
}

/// Looks at the kernel, its targets, udev, the outside programs, the live pools and, where one
/// is given, a directory that has, or is to have, a pool's files.
///
/// # Errors
/// Only when a check itself could not be made.
pub fn examine(dir: Option<&Path>) -> Result<Vec<Finding>, Error> {
    let mut out = vec![kernel(), udev()];
    out.extend(["mkfs.ext4", "thin_check", "thin_repair"].map(program));
    if let Some(dir) = dir {
        out.push(direct_io(dir)?);
    }
    let dm = match Dm::open() {
        Ok(dm) => dm,
        Err(err) if matches!(err.kind(), Kind::NoDeviceMapper | Kind::Denied) => {
            let advice = "without it only `orchestrate --store dir:PATH` works";
            out.push(finding(Level::Bad, "device-mapper", err.to_string(), advice));
            return Ok(out);
        }
        Err(err) => return Err(err),
    };
    let dotted = |v: [u32; 3]| format!("{}.{}.{}", v[0], v[1], v[2]);
    out.push(finding(Level::Good, "device-mapper", dotted(dm.version()?), ""));
    for target in ["thin-pool", "thin"] {
        let (level, found) = match dm.target_version(target)? {
            Some(version) => (Level::Good, dotted(version)),
            None => (Level::Bad, "absent".to_owned()),
        };
        out.push(finding(level, &format!("target {target}"), found, "`modprobe dm_thin_pool`"));
    }
    let header = dir.filter(|dir| dir.join(FILE).exists()).map(|dir| (dir, Header::read(dir)));
    if let Some((dir, header)) = header {
        out.extend(store(&dm, dir, header)?);
    }
    for entry in dm.list()? {
        let Some((_, lines)) = dm.table(By::Name(&entry.name))? else { continue };
        let [line] = lines.as_slice() else { continue };
        if line.kind != "thin-pool" {
            continue;
        }
        let table = PoolTable::parse(Sectors(line.sectors), &line.params)?;
        let Some((_, status)) = dm.status(By::Name(&entry.name), false)? else { continue };
        let status = status.first().map_or("", |line| line.params.as_str());
        out.extend(pool(&entry.name, &table, &PoolStatus::parse(status)?));
        out.extend(space_map(&Pool::adopt(dm.clone(), &entry.name)?));
    }
    Ok(out)
}

/// The upstream version: Debian keeps it in `version`, since its `release` ends in a number of
/// its own.
fn upstream(release: &str, version: &str) -> Option<[u32; 3]> {
    let text = version.split("Debian ").nth(1).unwrap_or(release);
    let mut numbers = text
        .split(|c: char| !c.is_ascii_digit())
        .take(3)
        .map(|digits| digits.parse::<u32>().unwrap_or(0));
    Some([numbers.next()?, numbers.next()?, numbers.next().unwrap_or(0)])
}

fn kernel_level(version: [u32; 3]) -> (Level, &'static str) {
    match version {
        v if v < [5, 4, 6] => {
            (Level::Bad, "update: blocks copied on write are lost at a power cut (fixed in 5.4.6)")
        }
        [6, 1, patch] if patch < 76 => {
            (Level::Bad, "update: deadlocks in dm-thin and dm-bufio (fixed up to 6.1.76)")
        }
        [6, 1, patch] if patch < 176 => {
            (Level::Note, "update: metadata reference counts can underflow (fixed in 6.1.176)")
        }
        _ => (Level::Good, ""),
    }
}

fn kernel() -> Finding {
    let (release, version) = match nix::sys::utsname::uname() {
        Ok(name) => (
            name.release().to_string_lossy().into_owned(),
            name.version().to_string_lossy().into_owned(),
        ),
        Err(errno) => (errno.desc().to_owned(), String::new()),
    };
    match upstream(&release, &version) {
        Some(numbers) => {
            let (level, advice) = kernel_level(numbers);
            let [major, minor, patch] = numbers;
            finding(level, "kernel", format!("{release} ({major}.{minor}.{patch})"), advice)
        }
        None => finding(Level::Note, "kernel", release, "its version cannot be read"),
    }
}

fn udev() -> Finding {
    let runs = Path::new("/run/udev/control").exists();
    let found = if runs {
        "running; veneer tells it to leave its devices alone"
    } else {
        "none; not needed"
    };
    finding(Level::Good, "udev", found.to_owned(), "")
}

fn program(name: &str) -> Finding {
    let variable = format!("VENEER_{}", name.trim_end_matches(".ext4").to_uppercase());
    let path = find_program(&variable, name);
    let (level, found) = if path.is_file() {
        (Level::Good, path.display().to_string())
    } else {
        (Level::Note, "not found".to_owned())
    };
    let advice = match name {
        "mkfs.ext4" => "install e2fsprogs: a pool's first template needs it",
        _ => "install thin-provisioning-tools: `thin pool repair` needs it",
    };
    finding(level, name, found, advice)
}

fn direct_io(dir: &Path) -> Result<Finding, Error> {
    let path = dir.join(format!(".direct-io-{}", std::process::id()));
    let io = |what, err| Error::io(what, &path, err);
    fs::write(&path, vec![0; 1 << 20]).map_err(|err| io("write", err))?;
    let attached = loopdev::attach(&path, LoopOptions::default());
    fs::remove_file(&path).map_err(|err| io("remove", err))?;
    let device = attached?;
    let (level, found) = if device.direct_io() {
        (Level::Good, "holds")
    } else {
        (Level::Note, "dropped by the kernel: every block is cached twice")
    };
    device.detach()?;
    let advice = "put the pool's files on ext4 or xfs with 512-byte or 4 KiB sectors";
    Ok(finding(level, "loop direct I/O", found.to_owned(), advice))
}

/// The pool whose files are in this directory: up, or what to do about it.
fn store(dm: &Dm, dir: &Path, header: Result<Header, Error>) -> Result<Vec<Finding>, Error> {
    let header = match header {
        Ok(header) => header,
        Err(err) => {
            return Ok(vec![finding(Level::Bad, "pool of the directory", err.to_string(), "")]);
        }
    };
    let uuid = format!("{POOL_UUID}{}", header.id);
    let up = dm.state(By::Uuid(&uuid))?.is_some_and(|state| state.has_table);
    Ok(of_store(dir, &header, up, || first_block(&dir.join(&header.metadata.path))))
}

fn of_store(
    dir: &Path,
    header: &Header,
    up: bool,
    metadata: impl FnOnce() -> std::io::Result<(Vec<u8>, u64)>,
) -> Vec<Finding> {
    let check = format!("pool {}: of {}", header.name, clean(&dir.to_string_lossy()));
    if up {
        return vec![finding(Level::Good, &check, "up".to_owned(), "")];
    }
    let dir = clean(&dir.to_string_lossy());
    let judged = match metadata() {
        Ok((block, bytes)) => header.judge(&Superblock::parse(&block, 0), bytes, None, false),
        Err(err) => {
            let found = format!("down, and its metadata cannot be read: {err}");
            return vec![finding(Level::Bad, &check, found, "restore it")];
        }
    };
    let (found, advice) = match judged {
        Ok(()) => ("down".to_owned(), format!("`thin pool up {dir}`")),
        Err(verdict) => (
            format!("down, and its metadata is not taken: {}", verdict.why),
            format!("{}; its directory is {dir}", verdict.hint),
        ),
    };
    vec![finding(Level::Bad, &check, found, &advice)]
}

/// The first block of a file or a device, and the size of it.
fn first_block(path: &Path) -> std::io::Result<(Vec<u8>, u64)> {
    let mut file = fs::File::open(path)?;
    let bytes = file.seek(SeekFrom::End(0))?;
    file.rewind()?;
    let mut block = Vec::new();
    file.take(4096).read_to_end(&mut block)?;
    Ok((block, bytes))
}

/// Blocks that the figures have as free and that are not. A pool that cannot be asked has more to be
/// told of than that.
fn space_map(pool: &Pool) -> Option<Finding> {
    let lost = pool.unreachable().ok().filter(|lost| !lost.is_none())?;
    let found = format!(
        "{} data and {} metadata blocks are counted as free and never given out",
        lost.data, lost.metadata
    );
    let advice =
        "an older thin_repair counted too few blocks: take the pool down, then `thin pool repair`";
    Some(finding(Level::Bad, &format!("pool {}: space map", pool.name()), found, advice))
}

fn pool(name: &str, table: &PoolTable, status: &PoolStatus) -> Vec<Finding> {
    let mut out = Vec::new();
    let mut say = |level, what: &str, found: String, advice| {
        out.push(finding(level, &format!("pool {name}: {what}"), found, advice));
    };
    let (level, found) = if status.is_writable() {
        (Level::Good, "writable".to_owned())
    } else {
        (Level::Bad, status.refusal())
    };
    say(level, "state", found, "see its state");
    if table.features.skip_block_zeroing {
        let found = "off: one volume can read another's deleted blocks".to_owned();
        say(Level::Bad, "zeroing", found, "make the pool again without skip_block_zeroing");
    }
    if !table.features.error_if_no_space {
        let found = "writers wait in the kernel, unkillable, for 60 s or for ever".to_owned();
        say(Level::Note, "when full", found, "`thin pool when-full error`");
    }
    if table.block.bytes() > 256 << 10 {
        let found = format!("{} KiB", table.block.bytes() >> 10);
        let advice = "64K wastes least with many small layers; the block size of a pool cannot be changed later";
        say(Level::Note, "block size", found, advice);
    }
    if let Some(working) = status.working() {
        if table.low_water >= working.total_data.0 {
            let found = format!("{} of {} blocks", table.low_water, working.total_data);
            let advice = "the event comes once at the start and then says nothing";
            say(Level::Note, "low water", found, advice);
        }
        let full = |used: u64, total: u64| used.saturating_mul(5) >= total.saturating_mul(4);
        if full(working.used_metadata, working.total_metadata) {
            let found = format!("{} of {}", working.used_metadata, working.total_metadata);
            say(Level::Note, "metadata used", found, "`thin pool grow --metadata`");
        }
        if let Some(block) = working.held_root {
            let found = format!("held at block {block}");
            say(Level::Note, "metadata snapshot", found, "left by a kill: `thin pool up` frees it");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debian_hides_the_upstream_version() {
        let debian = "#1 SMP PREEMPT_DYNAMIC Debian 6.1.192-2 (2026-11-01)";
        assert_eq!(upstream("6.1.0-56-cloud-amd64", debian), Some([6, 1, 192]));
        assert_eq!(upstream("6.12.4", "#1 SMP"), Some([6, 12, 4]));
        assert_eq!(upstream("6.18-rc1", "#1 SMP"), Some([6, 18, 0]));
    }

    #[test]
    fn bad_kernels_are_told_from_mended_ones() {
        for (version, level) in [
            ([4, 19, 300], Level::Bad),
            ([5, 4, 5], Level::Bad),
            ([5, 4, 6], Level::Good),
            ([6, 1, 3], Level::Bad),
            ([6, 1, 75], Level::Bad),
            ([6, 1, 76], Level::Note),
            ([6, 1, 176], Level::Good),
            ([6, 12, 1], Level::Good),
        ] {
            assert_eq!(kernel_level(version).0, level, "{version:?}");
        }
    }

    #[test]
    fn a_pool_that_is_down_is_not_well() {
        let part =
            |path: &str| crate::store::header::Part { path: path.into(), bytes: 8, inode: Some(1) };
        let id = "0123456789abcdef0123456789abcdef".to_owned();
        let header = Header::new(id, "veneer".to_owned(), 128, [part("data"), part("metadata")]);
        let dir = Path::new("/var/pool");
        let told = |up, block: Vec<u8>| {
            let found = of_store(dir, &header, up, || Ok((block, 1 << 20)));
            let [found] = found.as_slice() else { panic!("{found:?}") };
            (found.level, found.found.clone(), found.advice.clone().unwrap_or_default())
        };
        assert_eq!(told(true, vec![0; 4096]).0, Level::Good);
        let (level, found, advice) = told(false, sealed_superblock(&header, false));
        assert_eq!((level, found.as_str()), (Level::Bad, "down"));
        assert_eq!(advice, "`thin pool up /var/pool`");
        let (level, found, advice) = told(false, sealed_superblock(&header, true));
        assert_eq!(level, Level::Bad);
        assert!(found.contains("needs a check") && advice.contains("thin pool repair"), "{found}");
        assert!(told(false, vec![0; 4096]).1.contains("zero"));
        let unread = of_store(dir, &header, false, || Err(std::io::ErrorKind::NotFound.into()));
        assert!(unread[0].found.contains("cannot be read"), "{unread:?}");
    }

    fn sealed_superblock(header: &Header, needs_check: bool) -> Vec<u8> {
        let mut block = vec![0; 4096];
        block[4] = u8::from(needs_check);
        block[16..32].copy_from_slice(&header.stamp());
        block[32..40].copy_from_slice(&27_022_010_u64.to_le_bytes());
        block[40] = 2;
        block[336] = 128;
        crate::format::ondisk::resealed(&block, true)
    }

    #[test]
    fn the_reference_pool_is_told_of_its_weak_points() {
        let line = "0 4194304 thin-pool 7:0 7:1 2048 32768";
        let table = PoolTable::parse_line(line).unwrap();
        let status = "0 34/256 0/2048 - rw discard_passdown queue_if_no_space - 64";
        let found = pool("pool", &table, &PoolStatus::parse(status).unwrap());
        let checks: Vec<&str> = found.iter().map(|f| f.check.as_str()).collect();
        assert_eq!(
            checks,
            [
                "pool pool: state",
                "pool pool: when full",
                "pool pool: block size",
                "pool pool: low water"
            ]
        );
        assert_eq!(found[0].level, Level::Good);
    }
}
