//! The tree below a directory. Nothing is followed, and what somebody changes meanwhile is an error where it shows.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::stat::fstat;
use nix::sys::uio::pread;
use nix::unistd::{Whence, lseek};

use crate::diff::source::{EachPiece, Listed, Source, Target};
use crate::error::Fault;
use crate::error::refusal::cut;
use crate::read::walk::{Reading, records};
use crate::record::key;
use crate::record::piece::{Parts, Piece, push};
use crate::record::place::Spill;
use crate::record::runs::{Row, Sorter};
use crate::record::spill::io_fault;
use crate::tree::budget::Budget;
use crate::tree::fd::look::open_file;
use crate::tree::fd::open::open_found;
use crate::tree::fd::root::Root;
use crate::tree::site::split;

/// Bytes read at a time.
const PIECE: usize = 256 << 10;

/// See the module. The number of a name says nothing.
pub(crate) struct Directory<'r> {
    root: &'r Root,
    top: OwnedFd,
    how: Reading,
    budget: Budget,
    buffer: Vec<u8>,
}

impl<'r> Directory<'r> {
    pub(crate) fn new(
        root: &'r Root,
        budget: Budget,
        spill: Option<Arc<Spill>>,
        alone: bool,
    ) -> Result<Directory<'r>, Fault> {
        let (top, how) = (root.reopen()?, Reading { spill, alone });
        Ok(Directory { root, top, how, budget, buffer: vec![0; PIECE] })
    }

    fn open(&self, file: Target<'_>) -> Result<OwnedFd, Fault> {
        let (parent, name) = split(file.path);
        let dir = match parent {
            b"" => self.root.reopen()?,
            path => open_found(&self.top, path)?,
        };
        let fd = open_file(&dir, name, file.path)?;
        let stat = fstat(&fd).map_err(Fault::fs("stat", file.path))?;
        let is_file = stat.st_mode & libc::S_IFMT == libc::S_IFREG;
        match is_file && u64::try_from(stat.st_size) == Ok(file.size) {
            true => Ok(fd),
            false => Err(changed(file.path)),
        }
    }
}

fn changed(path: &[u8]) -> Fault {
    let source = io::Error::other("somebody changed it meanwhile; try again when nobody does");
    Fault::Fs { call: "read".into(), name: cut(path).to_vec(), source }
}

impl Source for Directory<'_> {
    fn names(&mut self) -> Result<Listed, Fault> {
        let mut names = Sorter::new(self.how.spill.clone());
        let mut sockets = 0;
        let void = |_: &[u8], stat: &nix::sys::stat::FileStat| {
            u64::try_from(stat.st_size).ok().map(|size| (size, [0; 32]))
        };
        let push = |record: &crate::record::Record| {
            let mut rest = Vec::new();
            record.encode(&mut rest);
            let row = Row { key: key(&record.path), seq: 0, rest };
            names.push(&row).map_err(io_fault("sort names", b"."))
        };
        records(self.root, &self.how, &mut self.budget, void, Some(&mut sockets), push)?;
        Ok(Listed { names, sockets })
    }

    fn content(&mut self, file: Target<'_>, each: &mut EachPiece<'_>) -> Result<(), Fault> {
        let fd = self.open(file)?;
        let mut at = 0;
        while at < file.size {
            let (start, end) = data(&fd, file, at)?;
            if start > at {
                self.budget.step()?;
                each(Piece::Zeros(start - at))?;
                at = start;
            }
            while at < end {
                self.budget.step()?;
                let most = usize::try_from(end - at).unwrap_or(PIECE).min(PIECE);
                let offset = i64::try_from(at).unwrap_or(i64::MAX);
                match pread(&fd, &mut self.buffer[..most], offset) {
                    Ok(0) => return Err(changed(file.path)),
                    Ok(len) => {
                        each(Piece::Bytes(&self.buffer[..len]))?;
                        at += len as u64;
                    }
                    Err(Errno::EINTR) => {}
                    Err(errno) => return Err(Fault::fs("read", file.path)(errno)),
                }
            }
        }
        Ok(())
    }

    fn parts(&mut self, file: Target<'_>, max: usize) -> Result<Option<Parts>, Fault> {
        let fd = self.open(file)?;
        let (mut parts, mut at) = (Parts::new(), 0);
        while at < file.size {
            self.budget.step()?;
            let (start, end) = data(&fd, file, at)?;
            push(&mut parts, start, end - start);
            if parts.len() > max {
                return Ok(None);
            }
            at = end;
        }
        Ok(Some(parts))
    }
}

/// Where the next bytes of a file begin and end, from `at` on; at its end, both are its size.
fn data(fd: &OwnedFd, file: Target<'_>, at: u64) -> Result<(u64, u64), Fault> {
    let seek = |at: u64, whence| {
        let at = i64::try_from(at).unwrap_or(i64::MAX);
        lseek(fd, at, whence).map(|at| u64::try_from(at).unwrap_or(0))
    };
    match seek(at, Whence::SeekData) {
        Ok(start) => {
            let start = start.clamp(at, file.size);
            let end = seek(start, Whence::SeekHole);
            // One that begins here is one that somebody made meanwhile: read on, by at least a byte.
            let end = end.unwrap_or(file.size).clamp((start + 1).min(file.size), file.size);
            Ok((start, end))
        }
        // Nothing but a hole is left.
        Err(Errno::ENXIO) => Ok((file.size, file.size)),
        // A file system that knows of none.
        Err(Errno::EINVAL | Errno::EOPNOTSUPP) => Ok((at, file.size)),
        Err(errno) => Err(Fault::fs("find data in", file.path)(errno)),
    }
}
