//! The child's side: take the order, put up the walls, apply, give the verdict.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, IoSliceMut, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;
use std::time::Instant;
use std::vec::IntoIter;

use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::sys::stat::{Mode, umask};

use crate::archive::End;
use crate::archive::pipeline::{self, Digests};
use crate::diff::{self, Work as Difference};
use crate::error::{Error, Fault};
use crate::ext4::read::cost::Cost;
use crate::ext4::read::walk::How;
use crate::ext4::write::image::length;
use crate::limits::wall::{Standing, Wall};
use crate::limits::{Compression, Limits, Walls};
use crate::read::walk::Reading;
use crate::record::applied::Applied;
use crate::record::place::Spill;
use crate::sandbox::feed::Feed;
use crate::sandbox::filter;
use crate::sandbox::walls::{confine, confine_nameless, confine_reading};
use crate::sandbox::wire::{self, ENTERED, Finished, NAME, Order, SLOT, SLOTS, Task, failed};
use crate::sys::Shared;
use crate::tree::apply::{Work, write};
use crate::tree::budget::Budget;
use crate::tree::fd::apply::file_size_max;
use crate::tree::fd::directory::Directory;
use crate::tree::fd::root::Root;
use crate::tree::sink::Sink;

/// Bytes that are written to a pipe at a time.
const PIPE: usize = 64 << 10;

/// To be called first thing in the `main` of every program that uses [`crate::sandbox`]: in the
/// child it does the child's work and never returns, elsewhere it returns at once. From then on a file
/// that is larger than this process may make one (RLIMIT_FSIZE) is an error of a call and no signal.
pub fn child_entry() {
    match crate::sys::ignore_sigxfsz() {
        // Then the signal ends it, which is no wrong answer either.
        Ok(()) | Err(_) => {}
    }
    ENTERED.store(true, Ordering::Relaxed);
    if std::env::args_os().next().is_some_and(|name| name == NAME) {
        std::process::exit(run());
    }
}

/// The exit code: 0 if a verdict was given, whatever it says.
fn run() -> i32 {
    let Ok(socket) = io::stdout().as_fd().try_clone_to_owned() else { return 111 };
    let socket = UnixStream::from(socket);
    // Nothing that was not meant for us: dup'ed above is 3 or more, so close from 4 on.
    let first = u32::try_from(socket.as_raw_fd()).unwrap_or(3) + 1;
    match crate::sys::close_from(first) {
        // Before 5.9 there is no such call; everything of ours is close-on-exec anyway.
        Ok(()) | Err(_) => {}
    }
    match prctl::set_pdeathsig(Signal::SIGKILL) {
        Ok(()) | Err(_) => {}
    }
    umask(Mode::empty());
    let result = work(&socket);
    let verdict = wire::encode(&result);
    match (&socket).write_all(&verdict) {
        Ok(()) => 0,
        Err(_) => 111,
    }
}

fn work(socket: &UnixStream) -> Result<Finished, Error> {
    let (order, fds) = receive(socket).map_err(failed("take the order"))?;
    let order = wire::read_order(&order)
        .ok_or_else(|| failed("take the order")(io::Error::from(io::ErrorKind::InvalidData)))?;
    let mut fds = fds.into_iter();
    match order.task {
        Task::Apply(compression) => apply(socket, &order, compression, &mut fds),
        Task::ApplyImage(compression) => apply_image(socket, &order, compression, &mut fds),
        Task::Manifest { known, out } => manifest(&order, known, out, &mut fds),
        Task::Image { known, out, replay } => image(&order, known, (out, replay), &mut fds),
        Task::Diff { images, replay } => diff(&order, images, replay, &mut fds),
        Task::Walls => {
            let root = Root::from_fd(next(&mut fds)?)?;
            put_up(root, &order.limits).map(|(_, standing)| Finished::Walls(standing))
        }
    }
}

fn next(fds: &mut IntoIter<OwnedFd>) -> Result<OwnedFd, Error> {
    fds.next().ok_or_else(|| failed("take the order")(io::Error::other("an fd is missing")))
}

/// Puts up the walls that can be, or none if that is the order.
fn put_up(root: Root, limits: &Limits) -> Result<(Root, Vec<Standing>), Error> {
    match limits.walls {
        Walls::Require | Walls::On => confine(root, limits, &Wall::ALL),
        Walls::Off => Ok((root, Standing::none())),
    }
}

/// Puts up the walls; all of them, if that is the order.
fn wall(root: Root, limits: &Limits) -> Result<(Root, Vec<Standing>), Error> {
    let (root, standing) = put_up(root, limits)?;
    all_or_some(standing, limits).map(|standing| (root, standing))
}

/// What stands, unless more has to.
fn all_or_some(standing: Vec<Standing>, limits: &Limits) -> Result<Vec<Standing>, Error> {
    match (limits.walls, standing.iter().all(|wall| wall.stands)) {
        (Walls::Require, false) => {
            Err(Error::Walls { down: standing.into_iter().filter(|wall| !wall.stands).collect() })
        }
        (Walls::Require, true) | (Walls::On | Walls::Off, _) => Ok(standing),
    }
}

/// What comes with an order to apply a layer, besides the tree or the image that it is applied to.
struct Coming {
    feed: Feed,
    hashed: Digests,
    spill: Option<Arc<Spill>>,
    manifest: Option<BufWriter<File>>,
}

impl Coming {
    fn take(
        socket: &UnixStream,
        order: &Order,
        fds: &mut IntoIter<OwnedFd>,
    ) -> Result<Coming, Error> {
        let memory = Shared::view(next(fds)?.as_fd(), SLOT * SLOTS)
            .map_err(|errno| failed("see the stream")(errno.into()))?;
        let spill = if order.spill { Some(File::from(next(fds)?)) } else { None };
        let spill = spill.map(|file| Spill::new(file, order.limits.spill_bytes_max));
        let manifest = fds.next().map(|fd| BufWriter::new(File::from(fd)));
        let (digests, hashed) = channel();
        let feed =
            Feed::new(socket, memory, digests, &order.limits).map_err(failed("see the stream"))?;
        Ok(Coming { feed, hashed, spill, manifest })
    }

    /// Applies the layer to the tree that `open` gives.
    fn apply<S: Sink>(
        self,
        compression: Compression,
        limits: &Limits,
        open: impl FnOnce() -> Result<S, Fault> + Send,
    ) -> Result<((Applied, S::Done), End), Error> {
        let Coming { feed, hashed, spill, mut manifest } = self;
        let sink = manifest.as_mut().map(|m| m as &mut (dyn Write + Send));
        let work = Work { manifest: sink, spill, alone: true };
        let ((mut applied, done), end, diff) =
            pipeline::fed(feed, hashed, compression, limits, |archive, digests| {
                let tree = open().map_err(Fault::nowhere)?;
                write(archive, digests, tree, limits, work)
            })?;
        if let Some(mut manifest) = manifest {
            manifest
                .flush()
                .map_err(|e| crate::record::spill::io_fault("write", b"manifest")(e).nowhere())?;
        }
        if let Some(diff) = diff {
            (applied.diff_id, applied.diff_bytes) = (diff.digest, diff.bytes);
        }
        Ok(((applied, done), end))
    }
}

fn apply(
    socket: &UnixStream,
    order: &Order,
    compression: Compression,
    fds: &mut IntoIter<OwnedFd>,
) -> Result<Finished, Error> {
    let limits = &order.limits;
    let root = Root::from_fd(next(fds)?)?;
    let coming = Coming::take(socket, order, fds)?;
    let file_size_max = file_size_max();
    let (root, standing) = wall(root, limits)?;
    let ((mut applied, ()), end) =
        coming.apply(compression, limits, || Directory::new(&root, limits, file_size_max))?;
    if limits.sync {
        crate::tree::fd::root::sync(&root)?;
    }
    applied.sandbox = standing;
    Ok(Finished::Applied(Box::new(applied), end))
}

fn apply_image(
    socket: &UnixStream,
    order: &Order,
    compression: Compression,
    fds: &mut IntoIter<OwnedFd>,
) -> Result<Finished, Error> {
    let limits = &order.limits;
    crate::sys::give_back_memory();
    let image = File::from(next(fds)?);
    let coming = Coming::take(socket, order, fds)?;
    let standing = match limits.walls {
        Walls::Require | Walls::On => {
            // An image may be larger than any file of a layer.
            let end = length(&image)
                .map_err(|error| failed("find the image's end")(io::Error::other(error)))?;
            all_or_some(confine_nameless(limits, end, filter::nameless_stream), limits)?
        }
        Walls::Off => Standing::none(),
    };
    let spill = coming.spill.clone();
    let ((mut applied, chunks), end) =
        coming.apply(compression, limits, || crate::ext4::apply::open(image, spill))?;
    (applied.sandbox, applied.chunks) = (standing, chunks);
    Ok(Finished::Applied(Box::new(applied), end))
}

/// So many manifests that are known.
fn manifests(known: usize, fds: &mut IntoIter<OwnedFd>) -> Result<Vec<BufReader<Placed>>, Error> {
    let placed = |fd| {
        let mut file = File::from(fd);
        let at = file.stream_position().map_err(failed("find the place in a manifest"))?;
        Ok(BufReader::new(Placed { file, at }))
    };
    (0..known).map(|_| placed(next(fds)?)).collect()
}

/// A file that is read by place: the child of an image may make no other call to read.
struct Placed {
    file: File,
    at: u64,
}

impl Read for Placed {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let len = self.file.read_at(to, self.at)?;
        self.at += len as u64;
        Ok(len)
    }
}

fn readers(sources: &mut [BufReader<Placed>]) -> Vec<&mut dyn BufRead> {
    sources.iter_mut().map(|source| source as &mut dyn BufRead).collect()
}

fn manifest(
    order: &Order,
    known: usize,
    out: bool,
    fds: &mut IntoIter<OwnedFd>,
) -> Result<Finished, Error> {
    let limits = &order.limits;
    let root = Root::from_fd(next(fds)?)?;
    let spill = if order.spill { Some(File::from(next(fds)?)) } else { None };
    let mut sources = manifests(known, fds)?;
    let mut out = if out { Some(BufWriter::new(File::from(next(fds)?))) } else { None };
    let (root, _) = wall(root, limits)?;
    let spill = spill.map(|file| Spill::new(file, limits.spill_bytes_max));
    let how = Reading { spill, alone: true };
    let mut budget = Budget::new(limits, Instant::now() + limits.time_max, true);
    let mut sources = readers(&mut sources);
    let wanted = out.is_some();
    let digest = crate::read::digest::manifest(&root, &how, &mut budget, &mut sources, |line| {
        // The digest is worth having without it.
        if out.as_mut().is_some_and(|out| out.write_all(line).is_err()) {
            out = None;
        }
    })?;
    let written = out.is_some_and(|mut out| out.flush().is_ok());
    Ok(Finished::Manifest { digest, written: wanted && written })
}

/// Reads an image behind walls that leave no more than what is open: the image, a file for records, manifests that
/// are known, one for the new one, and the socket for the verdict.
fn image(
    order: &Order,
    known: usize,
    (out, replay): (bool, bool),
    fds: &mut IntoIter<OwnedFd>,
) -> Result<Finished, Error> {
    let limits = &order.limits;
    let image = File::from(next(fds)?);
    let spill = if order.spill { Some(File::from(next(fds)?)) } else { None };
    let mut sources = manifests(known, fds)?;
    let mut out = if out { Some(BufWriter::new(File::from(next(fds)?))) } else { None };
    let nameless = || confine_nameless(limits, 0, filter::nameless);
    drop(all_or_some(if limits.walls == Walls::Off { Vec::new() } else { nameless() }, limits)?);
    let spill = spill.map(|file| Spill::new(file, limits.spill_bytes_max));
    let budget = Budget::new(limits, Instant::now() + limits.time_max, true);
    // Where manifests are known it is an image of our own, and the kernel will look names up in it.
    let strict = known > 0;
    let (cost, how) = (Cost::new(limits, budget), How { spill, strict, replay });
    let mut sources = readers(&mut sources);
    let wanted = out.is_some();
    let mut each = |line: &[u8]| {
        // The digest is worth having without it.
        if out.as_mut().is_some_and(|out| out.write_all(line).is_err()) {
            out = None;
        }
    };
    let read = crate::ext4::read::manifest::manifest;
    let digest = read(&image, cost, &how, &mut sources, &mut each)?;
    let written = out.is_some_and(|mut out| out.flush().is_ok());
    Ok(Finished::Manifest { digest, written: wanted && written })
}

/// Writes a layer behind walls: of images there is nothing to be opened, and below directories nothing to be written.
fn diff(
    order: &Order,
    images: bool,
    replay: bool,
    fds: &mut IntoIter<OwnedFd>,
) -> Result<Finished, Error> {
    let limits = &order.limits;
    let (upper, base) = (next(fds)?, next(fds)?);
    let spill = if order.spill { Some(File::from(next(fds)?)) } else { None };
    let mut out = BufWriter::with_capacity(PIPE, File::from(next(fds)?));
    let spill = spill.map(|file| Spill::new(file, limits.spill_bytes_max));
    let diffed = if images {
        let nameless = || confine_nameless(limits, 0, filter::nameless);
        let walls = if limits.walls == Walls::Off { Vec::new() } else { nameless() };
        drop(all_or_some(walls, limits)?);
        let (upper, base) = (File::from(upper), File::from(base));
        let mut work = Difference::new(spill, limits, true);
        diff::images((&upper, &base), replay, &mut out, &mut work)?
    } else {
        let (upper, base) = (Root::from_fd(upper)?, Root::from_fd(base)?);
        let (upper, standing) = match limits.walls {
            Walls::Off => (upper, Vec::new()),
            Walls::On | Walls::Require => confine_reading(upper, &base, limits)?,
        };
        drop(all_or_some(standing, limits)?);
        let mut work = Difference::new(spill, limits, true);
        diff::trees((&upper, &base), &mut out, &mut work)?
    };
    out.flush().map_err(|e| crate::record::spill::io_fault("write", b"layer")(e).nowhere())?;
    Ok(Finished::Diffed(Box::new(diffed)))
}

/// The order and the fds that came with it.
fn receive(socket: &UnixStream) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut order = vec![0; 64 << 10];
    let mut space = nix::cmsg_space!([i32; 8]);
    let mut fds = Vec::new();
    let len = {
        let mut parts = [IoSliceMut::new(&mut order)];
        let message = recvmsg::<()>(
            socket.as_raw_fd(),
            &mut parts,
            Some(&mut space),
            MsgFlags::MSG_CMSG_CLOEXEC,
        )?;
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(raw) = control {
                fds.extend(raw.into_iter().map(crate::sys::received));
            }
        }
        message.bytes
    };
    order.truncate(len);
    Ok((order, fds))
}
