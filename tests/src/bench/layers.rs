//! Layers to work on: a real one where the full images have been built, else made from a fixed seed.

use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::Setup;
use crate::dice::Dice;

/// The layer of some 600 MB and 13,000 entries, and what to call it.
///
/// # Errors
/// It is not there and cannot be made.
pub fn large(setup: &Setup) -> Result<(PathBuf, String)> {
    let real = setup.images.join("full/node/4.tar");
    if let Ok(found) = std::fs::metadata(&real) {
        let real = std::fs::canonicalize(real)?;
        return Ok((real, format!("a real layer of {} MB", found.len() / 1_000_000)));
    }
    let path = setup.scratch.join("large.tar");
    if !path.exists() {
        made(&path, 12_000, 17)?;
    }
    let bytes = std::fs::metadata(&path)?.len();
    Ok((
        path,
        format!("a made layer of {} MB (`just images full` has real ones)", bytes / 1_000_000),
    ))
}

/// A layer of so many entries in folders of ten, the sizes spread evenly over the orders of
/// magnitude from 2^6 up to `orders` more.
///
/// # Errors
/// It cannot be written.
pub fn made(path: &Path, entries: u64, orders: u32) -> Result<()> {
    let mut dice = Dice::new(1);
    let noise = noise(8 << 20);
    let file = File::create(path).with_context(|| path.display().to_string())?;
    let mut tar = tar::Builder::new(BufWriter::with_capacity(1 << 20, file));
    for n in 0..entries {
        let mut header = tar::Header::new_ustar();
        header.set_mtime(1_000_000_000 + n);
        header.set_uid(0);
        header.set_gid(0);
        let dir = format!("d{}/e{}", n / 1000, n / 10 % 100);
        if n % 10 == 0 {
            header.set_entry_type(tar::EntryType::Directory);
            header.set_mode(0o755);
            header.set_size(0);
            tar.append_data(&mut header, format!("{dir}/"), io::empty())?;
            continue;
        }
        let most = 1u64 << (6 + dice.roll(u64::from(orders)));
        let size = most / 2 + dice.roll(most / 2);
        let from = usize::try_from(dice.roll(4096))?;
        header.set_mode(0o644);
        header.set_size(size);
        tar.append_data(
            &mut header,
            format!("{dir}/f{n}"),
            &noise[from..from + usize::try_from(size)?],
        )?;
    }
    tar.into_inner()?.flush()?;
    Ok(())
}

/// A layer of one file of so many bytes.
///
/// # Errors
/// It cannot be written.
pub fn one_file(path: &Path, bytes: u64) -> Result<()> {
    let file = File::create(path).with_context(|| path.display().to_string())?;
    let mut tar = tar::Builder::new(BufWriter::with_capacity(1 << 20, file));
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o644);
    header.set_mtime(1_000_000_000);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(bytes);
    tar.append_data(&mut header, "large", io::Read::take(io::repeat(0x5a), bytes))?;
    tar.into_inner()?.flush()?;
    Ok(())
}

/// Bytes that do not compress, the same every time.
#[must_use]
pub fn noise(bytes: usize) -> Vec<u8> {
    let mut dice = Dice::new(2);
    let mut noise = Vec::with_capacity(bytes + 8);
    while noise.len() < bytes {
        noise.extend_from_slice(&dice.roll(1 << 31).to_le_bytes()[..3]);
    }
    noise.truncate(bytes);
    noise
}
