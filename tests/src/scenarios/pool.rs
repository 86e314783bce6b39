//! The life of a snapshot chain, by the crate `thin` as a library: create, format, mount detached,
//! write, deactivate, snapshot, find the file again, delete, close.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;

use anyhow::{Result, ensure};
use rustix::fs::{Mode, OFlags};
use thin::template::{FormatOptions, format};
use thin::{Access, Dm, ThinId, mount};

use crate::guest::Guest;
use crate::scenario::{Needs, Report, Scenario};

/// See the module.
pub const SCENARIO: Scenario = Scenario { name: "pool", needs: Needs::DEFAULT, run };

const SECTORS: u64 = 256 << 11;

fn run(guest: &mut Guest) -> Result<Report> {
    let scratch = guest.pool("pool0")?;
    let pool = scratch.pool();
    let (origin, snap) = (ThinId::new(1)?, ThinId::new(2)?);

    pool.create_thin(origin)?;
    let volume = pool.activate(origin, "origin", SECTORS, Access::ReadWrite)?;
    format(&volume.path(), &FormatOptions::default())?;
    let mounted = mount::detached(&volume.path(), "ext4", &[], false)?;
    let root = mount::open_root(mounted.as_fd())?;
    let create = OFlags::CREATE | OFlags::WRONLY;
    let mut file = File::from(rustix::fs::openat(&root, "file", create, Mode::from(0o644))?);
    file.write_all(b"of the origin")?;
    drop(file);
    mount::sync(mounted.as_fd())?;
    drop((root, mounted));
    pool.deactivate("origin")?;

    pool.create_snap(snap, origin)?;
    let volume = pool.activate(snap, "snap", SECTORS, Access::ReadWrite)?;
    let mounted = mount::detached(&volume.path(), "ext4", &[], true)?;
    let root = mount::open_root(mounted.as_fd())?;
    let mut text = String::new();
    File::from(rustix::fs::openat(&root, "file", OFlags::RDONLY, Mode::empty())?)
        .read_to_string(&mut text)?;
    ensure!(text == "of the origin", "the snapshot's file holds {text:?}");
    drop((root, mounted));
    pool.deactivate("snap")?;

    pool.delete(snap)?;
    pool.delete(origin)?;
    ensure!(!pool.exists(origin)?, "the origin is still in the pool after its deletion");
    let ioctls = Dm::ioctls();
    scratch.close()?;
    Ok(Report::new().figure("ioctls", ioctls))
}
