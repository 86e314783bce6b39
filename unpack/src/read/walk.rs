//! A tree as the file system has it: records of single names, and a walk over all of them.
//!
//! The walk is in path order, holds the names of the directories on its way and one fd, and
//! follows nothing; the manifest of a whole tree, of which there may be millions of names, sorts them
//! on disk instead. What is compared with it is in `verify`.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use nix::sys::stat::FileStat;

use crate::error::stop::Stop;
use crate::error::{Error, Fault};
use crate::limits::Limits;
use crate::record::place::Spill;
use crate::record::runs::{Row, Sorter};
use crate::record::{Hashed, Record, hardlink, key};
use crate::sha::Sha256;
use crate::tree::budget::Budget;
use crate::tree::dirs::join;
use crate::tree::fd::look::{read_known, read_node};
use crate::tree::fd::open::open_found;
use crate::tree::fd::remove::stream;
use crate::tree::fd::root::{Root, is_dir, stat};
use crate::tree::site::split;

/// sha256 over every node below `root` (and `root` itself), read from the file system: the lines
/// of a manifest in path order. Of the names of one inode the first in path order has its record,
/// the others are hard links to it. Attributes that no layer can set are left out.
///
/// # Errors
/// [`Error::Fs`].
pub fn tree_digest(root: &Root) -> Result<[u8; 32], Error> {
    tree_digest_until(root, &Stop::default())
}

/// [`tree_digest`], until somebody asks to stop.
///
/// # Errors
/// [`Error::Fs`]; [`Error::Stream`] where it was stopped.
pub fn tree_digest_until(root: &Root, stop: &Stop) -> Result<[u8; 32], Error> {
    let limits = Limits::default();
    let spill = crate::record::spill::spill_file(&limits)?;
    let mut budget = Budget::until(stop);
    let how = Reading { spill: spill.map(|file| Spill::new(file, u64::MAX)), alone: false };
    stop.heard(whole(root, &how, &mut budget, |_, _| None, |_| {}))
}

/// How a whole tree is read.
pub(crate) struct Reading {
    /// Where names go that do not fit in memory.
    pub(crate) spill: Option<Arc<Spill>>,
    /// This process does nothing else, and may go to other directories.
    pub(crate) alone: bool,
}

/// Hands every line of the tree's manifest to `each`, and gives the digest over them. What `known`
/// tells of a regular file's content is taken for it, and the file is not read. Names are sorted on
/// disk, so that memory does not grow with the tree.
pub(crate) fn whole(
    root: &Root,
    how: &Reading,
    budget: &mut Budget,
    known: impl FnMut(&[u8], &FileStat) -> Option<Hashed>,
    mut each: impl FnMut(&[u8]),
) -> Result<[u8; 32], Error> {
    let mut hash = Sha256::new();
    let done = records(root, how, budget, known, None, |record| {
        let line = record.line();
        hash.update(&line);
        each(&line);
        Ok(())
    });
    done.map_err(Fault::nowhere)?;
    Ok(hash.finish())
}

/// Hands every record of the tree to `each`, in path order; otherwise as [`whole`]. With `sockets` those, which no
/// layer has, are left out and counted.
pub(crate) fn records(
    root: &Root,
    how: &Reading,
    budget: &mut Budget,
    mut known: impl FnMut(&[u8], &FileStat) -> Option<Hashed>,
    mut sockets: Option<&mut u64>,
    mut each: impl FnMut(&Record) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let top = root.reopen()?;
    if let Some(stat) = stat(&top, b".")? {
        each(&read_node(&top, b".", Vec::new(), &stat)?)?;
    }
    let mut names = all_names(&top, how, budget)?;
    let mut links = hard_links(&mut names, how)?;
    let mut links = links.sorted().map_err(sorting)?;
    let mut link = links.next().map_err(sorting)?;
    let mut names = names.sorted().map_err(sorting)?;
    let mut open: Option<(Vec<u8>, OwnedFd)> = None;
    while let Some(row) = names.next().map_err(sorting)? {
        budget.step()?;
        let path = unkey(&row.key);
        let (parent, name) = split(&path);
        let fd = match open.take() {
            Some((path, fd)) if path == parent => fd,
            _ if parent.is_empty() => root.reopen()?,
            _ => open_found(&top, parent)?,
        };
        let first = match &link {
            Some(other) if other.key == row.key => {
                let first = other.rest.clone();
                link = links.next().map_err(sorting)?;
                Some(first)
            }
            Some(_) | None => None,
        };
        let Some(stat) = stat(&fd, name)? else { continue };
        if let (libc::S_IFSOCK, Some(count)) = (stat.st_mode & libc::S_IFMT, &mut sockets) {
            **count += 1;
            continue;
        }
        // Asked for every name, so that who goes along in order misses none.
        let content = known(&path, &stat);
        match first {
            Some(first) => each(&hardlink(&path, &first))?,
            None => {
                let read = read_known(&fd, name, path.clone(), &stat, content, how.alone, budget);
                each(&read?)?;
            }
        }
        open = Some((parent.to_vec(), fd));
    }
    Ok(())
}

fn sorting(error: std::io::Error) -> Fault {
    crate::record::spill::io_fault("sort names", b".")(error)
}

/// The path that [`key`] made a key of.
fn unkey(key: &[u8]) -> Vec<u8> {
    key.iter().map(|&b| if b == 0 { b'/' } else { b }).collect()
}

/// Every name below `top`, by path; with device and inode where other names may have the same.
/// Goes down level by level, each level's directories in a list of their own.
fn all_names(top: &OwnedFd, how: &Reading, budget: &mut Budget) -> Result<Sorter, Fault> {
    let mut names = Sorter::new(how.spill.clone());
    let mut level = Sorter::new(how.spill.clone());
    let row = |key, rest| Row { key, seq: 0, rest };
    level.push(&row(Vec::new(), Vec::new())).map_err(sorting)?;
    loop {
        let (mut below, mut more) = (Sorter::new(how.spill.clone()), false);
        let mut dirs = level.sorted().map_err(sorting)?;
        while let Some(dir) = dirs.next().map_err(sorting)? {
            let dir = unkey(&dir.key);
            let here: &[u8] = if dir.is_empty() { b"." } else { &dir };
            let fd = open_found(top, here)?;
            for entry in stream(&fd, b".")?.iter() {
                budget.step()?;
                let entry = entry.map_err(Fault::fs("read directory", here))?;
                let name = entry.file_name().to_bytes();
                if matches!(name, b"." | b"..") {
                    continue;
                }
                let Some(stat) = stat(&fd, name)? else { continue };
                let key = key(&join(&dir, name));
                let mut inode = Vec::new();
                if is_dir(&stat) {
                    more = true;
                    below.push(&row(key.clone(), Vec::new())).map_err(sorting)?;
                } else if stat.st_nlink > 1 {
                    inode.extend(stat.st_dev.to_be_bytes());
                    inode.extend(stat.st_ino.to_be_bytes());
                }
                names.push(&row(key, inode)).map_err(sorting)?;
            }
        }
        drop(dirs);
        if !more {
            return Ok(names);
        }
        level = below;
    }
}

/// Of every inode with several of these names all but the first, with that one.
fn hard_links(names: &mut Sorter, how: &Reading) -> Result<Sorter, Fault> {
    let mut inodes = Sorter::new(how.spill.clone());
    let mut all = names.sorted().map_err(sorting)?;
    while let Some(Row { key, rest: inode, .. }) = all.next().map_err(sorting)? {
        if !inode.is_empty() {
            let row = Row { key: [inode.as_slice(), &key].concat(), seq: 0, rest: Vec::new() };
            inodes.push(&row).map_err(sorting)?;
        }
    }
    drop(all);
    let mut links = Sorter::new(how.spill.clone());
    let mut sorted = inodes.sorted().map_err(sorting)?;
    let mut first: Option<(Vec<u8>, Vec<u8>)> = None;
    while let Some(row) = sorted.next().map_err(sorting)? {
        let (inode, key) = row.key.split_at(16);
        match &first {
            Some((known, path)) if known == inode => {
                let row = Row { key: key.to_vec(), seq: 0, rest: path.clone() };
                links.push(&row).map_err(sorting)?;
            }
            Some(_) | None => first = Some((inode.to_vec(), unkey(key))),
        }
    }
    drop(sorted);
    Ok(links)
}

/// Calls `visit(directory, name, path, stat)` for every name below `root`, parents first, each
/// directory's names in byte order.
pub(crate) fn walk(
    root: &Root,
    mut visit: impl FnMut(&OwnedFd, &[u8], &[u8], &FileStat) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let top = root.reopen()?;
    // One level: the directory's path and its names still to come, last first.
    let mut levels = vec![(Vec::new(), names(&top, b".")?)];
    let mut open: Option<(Vec<u8>, OwnedFd)> = None;
    while let Some((dir, todo)) = levels.last_mut() {
        let Some(name) = todo.pop() else {
            levels.pop();
            continue;
        };
        let dir = dir.clone();
        let fd = match open.take() {
            Some((path, fd)) if path == dir => fd,
            _ if dir.is_empty() => root.reopen()?,
            _ => open_found(&top, &dir)?,
        };
        let path = join(&dir, &name);
        if let Some(stat) = stat(&fd, &name)? {
            visit(&fd, &name, &path, &stat)?;
            if is_dir(&stat) {
                let below = names(&fd, &name)?;
                levels.push((path, below));
            }
        }
        open = Some((dir, fd));
    }
    Ok(())
}

/// The names in a directory, in reverse byte order.
fn names(at: &OwnedFd, name: &[u8]) -> Result<Vec<Vec<u8>>, Fault> {
    let mut names = Vec::new();
    for entry in stream(at, name)?.iter() {
        let entry = entry.map_err(Fault::fs("read directory", name))?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            names.push(name.to_vec());
        }
    }
    names.sort_unstable_by(|a, b| b.cmp(a));
    Ok(names)
}
