//! Applies a layer in a child process that has the stream, the root and nothing else.
//!
//! The caller's thread reads the layer into memory that the child can only read, and hashes it;
//! the child is this very program, run again from /proc/self/exe, which puts up its walls (see
//! [`Wall`]) before it looks at the first byte. The child's verdict comes back over a socket; the
//! digest of the blob, which is the diff id of a plain layer, is the parent's own.
//!
//! A program that uses this calls [`child_entry`] first thing in its `main`.

pub(crate) mod calls;
pub(crate) mod child;
pub(crate) mod feed;
pub(crate) mod filter;
pub(crate) mod ring;
pub(crate) mod walls;
pub(crate) mod wire;

use std::fs::File;
use std::io::{self, BufReader, IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{Scope, scope};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::unistd::Pid;

use crate::archive::buffers::too_long;
use crate::archive::compression::sniffed;
use crate::archive::content::{Blob, Diff};
use crate::archive::pipeline::vouch;
use crate::archive::{End, stream_fault};
use crate::diff::Diffed;
use crate::error::refusal::{Class, Refusal};
use crate::error::stop::Stop;
use crate::error::{Error, Fault};
use crate::ext4::apply::{ImageError, finish};
use crate::ext4::chunks::list::count;
use crate::ext4::write::image::Head;
use crate::limits::{Compression, Limits};
use crate::record::applied::Applied;
use crate::sandbox::ring::{Seen, serve};
use crate::sandbox::wire::{ENTERED, Finished, NAME, Order, SLOT, SLOTS, Said, Task, failed};
use crate::sha::Sha256;
use crate::sys::Shared;
use crate::tree::fd::root::Root;

pub use crate::limits::wall::Standing;
pub use crate::limits::wall::Wall;
pub use crate::sandbox::child::child_entry;
pub use crate::sandbox::walls::confine;

/// Time beyond `Limits::time_max` after which the child is killed.
const GRACE: Duration = Duration::from_secs(10);

/// How often it is looked whether somebody asks to stop.
const LOOK: Duration = Duration::from_millis(50);

/// [`crate::apply`] in a walled child. The result says in `sandbox` which walls stood.
///
/// # Errors
/// As [`crate::apply`], and [`Error::Sandbox`] if the child cannot be started, or dies.
pub fn apply(layer: impl Read + Send, root: &Root, limits: &Limits) -> Result<Applied, Error> {
    apply_with(layer, root, limits, None, &Stop::default())
}

/// [`apply`], which also has the child write the manifest into an open file. When somebody asks to stop
/// the child is killed, whatever it is at.
///
/// # Errors
/// As [`apply`]; [`Error::Stream`] where it was stopped.
pub fn apply_with(
    layer: impl Read + Send,
    root: &Root,
    limits: &Limits,
    manifest: Option<&File>,
    stop: &Stop,
) -> Result<Applied, Error> {
    stop.heard(applied(layer, root.as_fd(), Task::Apply, limits, manifest, stop))
}

/// [`crate::apply_image`] in a walled child, which has the stream, the image, its way to the parent and a
/// place for records, and nothing else. When somebody asks to stop the child is killed, whatever it is at.
///
/// # Errors
/// As [`crate::apply_image`], with those of [`apply_with`].
pub fn apply_image(
    layer: impl Read + Send,
    image: &File,
    limits: &Limits,
    manifest: Option<&File>,
    stop: &Stop,
) -> Result<Applied, ImageError> {
    let chunks = count(Head::read(image)?.mark.geometry);
    let task = Task::ApplyImage;
    let applied = stop.heard(applied(layer, image.as_fd(), task, limits, manifest, stop))?;
    if !applied.chunks.is_of(chunks) {
        let source = io::Error::from(io::ErrorKind::InvalidData);
        return Err(failed("believe the child")(source).into());
    }
    finish(image, limits, &applied)?;
    Ok(applied)
}

/// Has a child apply a layer to the tree or the image behind `to`.
fn applied(
    layer: impl Read + Send,
    to: BorrowedFd<'_>,
    task: impl FnOnce(Compression) -> Task,
    limits: &Limits,
    manifest: Option<&File>,
    stop: &Stop,
) -> Result<Applied, Error> {
    let start = Instant::now();
    let (compression, layer) = sniffed(layer, limits).map_err(|e| stream_fault(e).nowhere())?;
    let (memory, view) =
        Shared::new(SLOT * SLOTS).map_err(|errno| failed("make shared memory")(errno.into()))?;
    // The child cannot name a place for it. Without one it keeps all in memory, within a bound.
    let spill = crate::record::spill::spill_file(limits)?;
    let mut fds = vec![to, view.as_fd()];
    fds.extend(spill.as_ref().map(AsFd::as_fd));
    fds.extend(manifest.map(AsFd::as_fd));
    let order = Order { limits: limits.clone(), task: task(compression), spill: spill.is_some() };
    let (child, socket) = start_child(&order, &fds)?;
    let mut watched = Watched::new(child);
    let result = scope(|scope| {
        let over = watched.watch(scope, start, limits, stop);
        let result = serve(layer, memory, &socket, limits);
        drop(over);
        result
    });
    let status = match &result {
        Ok(_) => watched.child.wait(),
        Err(_) => watched.child.kill().and_then(|()| watched.child.wait()),
    };
    let (seen, verdict) = result?;
    let status = status.map_err(failed("wait for the child"))?;
    match watched.verdict(&verdict, status, limits)? {
        Finished::Applied(applied, end) => judge(&seen, compression, *applied, end, limits),
        Finished::Manifest { .. } | Finished::Diffed(_) | Finished::Walls(_) => {
            Err(failed("believe the child")(io::ErrorKind::InvalidData.into()))
        }
    }
}

/// Which walls a child for work below `root` has: one puts them up, says so and ends.
///
/// # Errors
/// [`Error::Sandbox`] if the child cannot be started, or dies.
pub fn standing(root: &Root, limits: &Limits) -> Result<Vec<Standing>, Error> {
    let order = Order { limits: limits.clone(), task: Task::Walls, spill: false };
    match one_word(&order, &[root.as_fd()], limits, &Stop::default())? {
        Finished::Walls(standing) => Ok(standing),
        Finished::Applied(..) | Finished::Manifest { .. } | Finished::Diffed(_) => {
            Err(failed("believe the child")(io::ErrorKind::InvalidData.into()))
        }
    }
}

/// [`crate::read::digest::tree_manifest`] in a walled child, since a tree is as large as layers make it: `known`
/// are manifests, read from where each file stands, `out` gets the new one. Says the digest, and
/// whether all of the manifest was written: on a full disk the digest is good without it.
///
/// # Errors
/// As [`crate::read::digest::tree_manifest`], limits that the tree is over, and [`Error::Sandbox`]. [`Error::Stream`]
/// where it was stopped.
pub fn tree_manifest(
    root: &Root,
    known: &[&File],
    out: Option<&File>,
    limits: &Limits,
    stop: &Stop,
) -> Result<([u8; 32], bool), Error> {
    stop.heard(manifest(root, known, out, limits, stop))
}

fn manifest(
    root: &Root,
    known: &[&File],
    out: Option<&File>,
    limits: &Limits,
    stop: &Stop,
) -> Result<([u8; 32], bool), Error> {
    let spill = crate::record::spill::spill_file(limits)?;
    let mut fds = vec![root.as_fd()];
    fds.extend(spill.as_ref().map(AsFd::as_fd));
    fds.extend(known.iter().map(AsFd::as_fd));
    fds.extend(out.map(AsFd::as_fd));
    let task = Task::Manifest { known: known.len(), out: out.is_some() };
    let order = Order { limits: limits.clone(), task, spill: spill.is_some() };
    match one_word(&order, &fds, limits, stop)? {
        Finished::Manifest { digest, written } => Ok((digest, written)),
        Finished::Applied(..) | Finished::Diffed(_) | Finished::Walls(_) => {
            Err(failed("believe the child")(io::ErrorKind::InvalidData.into()))
        }
    }
}

/// [`crate::image_manifest`] in a walled child, since an image is whatever a guest made of it: the child has the
/// image, a file for records, `known`, `out` and its socket, can open nothing, and has no right. With `replay` it
/// is [`crate::image_manifest_replayed`]. `known` is as for [`tree_manifest`]. Says the digest, and whether
/// all of the manifest was written: on a full disk the digest is good without it.
///
/// # Errors
/// As [`crate::image_manifest`], limits that the image is over, [`Error::Walls`] and [`Error::Sandbox`].
/// [`Error::Stream`] where it was stopped.
pub fn image_manifest(
    image: &File,
    replay: bool,
    known: &[&File],
    out: Option<&File>,
    limits: &Limits,
    stop: &Stop,
) -> Result<([u8; 32], bool), Error> {
    let made = || {
        let spill = crate::record::spill::spill_file(limits)?;
        let mut fds = vec![image.as_fd()];
        fds.extend(spill.as_ref().map(AsFd::as_fd));
        fds.extend(known.iter().map(AsFd::as_fd));
        fds.extend(out.map(AsFd::as_fd));
        let task = Task::Image { known: known.len(), out: out.is_some(), replay };
        let order = Order { limits: limits.clone(), task, spill: spill.is_some() };
        match one_word(&order, &fds, limits, stop)? {
            Finished::Manifest { digest, written } => Ok((digest, written)),
            Finished::Applied(..) | Finished::Diffed(_) | Finished::Walls(_) => {
                Err(failed("believe the child")(io::ErrorKind::InvalidData.into()))
            }
        }
    };
    stop.heard(made())
}

/// [`crate::diff_images`] in a walled child: it has the two images, a file for records, a pipe for the layer and its
/// socket, can open nothing, and has no right.
///
/// # Errors
/// As [`crate::diff_images`], [`Error::Walls`] and [`Error::Sandbox`]. [`Error::Stream`] where it was stopped.
pub fn diff_images(
    upper: &File,
    base: &File,
    replay: bool,
    out: &mut dyn Write,
    limits: &Limits,
    stop: &Stop,
) -> Result<Diffed, Error> {
    let task = Task::Diff { images: true, replay };
    stop.heard(diffed([upper.as_fd(), base.as_fd()], task, out, limits, stop))
}

/// [`crate::diff_trees`] in a walled child: it can read below the two directories, and open nothing else.
///
/// # Errors
/// As [`diff_images`].
pub fn diff_trees(
    upper: &Root,
    base: &Root,
    out: &mut dyn Write,
    limits: &Limits,
    stop: &Stop,
) -> Result<Diffed, Error> {
    let task = Task::Diff { images: false, replay: false };
    stop.heard(diffed([upper.as_fd(), base.as_fd()], task, out, limits, stop))
}

/// Has a child write a layer, and passes it on.
fn diffed(
    trees: [BorrowedFd<'_>; 2],
    task: Task,
    out: &mut dyn Write,
    limits: &Limits,
    stop: &Stop,
) -> Result<Diffed, Error> {
    let spill = crate::record::spill::spill_file(limits)?;
    let (from, to) = io::pipe().map_err(failed("make a pipe"))?;
    let mut fds = trees.to_vec();
    fds.extend(spill.as_ref().map(AsFd::as_fd));
    fds.push(to.as_fd());
    let order = Order { limits: limits.clone(), task, spill: spill.is_some() };
    let (child, socket) = start_child(&order, &fds)?;
    // It ends where the child's ends.
    drop(to);
    let mut watched = Watched::new(child);
    let (relayed, said) = scope(|scope| {
        let late = watched.watch(scope, Instant::now(), limits, stop);
        let relayed = relay(from, out, limits);
        let said = match &relayed {
            Ok(_) => wire::read_said(&mut BufReader::new(&socket)).ok(),
            Err(_) => None,
        };
        drop(late);
        (relayed, said)
    });
    let status = match &relayed {
        Ok(_) => watched.child.wait(),
        Err(_) => watched.child.kill().and_then(|()| watched.child.wait()),
    };
    let (bytes, diff_id) = relayed?;
    let verdict = match said {
        Some(Said::Verdict(verdict)) => verdict,
        Some(Said::Notes(_)) | None => Vec::new(),
    };
    let status = status.map_err(failed("wait for the child"))?;
    match watched.verdict(&verdict, status, limits)? {
        // The digest is our own.
        Finished::Diffed(diffed) if diffed.bytes == bytes => Ok(Diffed { diff_id, ..*diffed }),
        Finished::Diffed(_)
        | Finished::Applied(..)
        | Finished::Manifest { .. }
        | Finished::Walls(_) => Err(failed("believe the child")(io::ErrorKind::InvalidData.into())),
    }
}

/// Passes on what comes through a pipe, to its end: how many bytes that was, and their digest.
fn relay(
    mut from: impl Read,
    out: &mut dyn Write,
    limits: &Limits,
) -> Result<(u64, [u8; 32]), Error> {
    let (mut bytes, mut hash, mut piece) = (0u64, Sha256::new(), vec![0; 64 << 10]);
    loop {
        match from.read(&mut piece) {
            Ok(0) => return Ok((bytes, hash.finish())),
            Ok(len) => {
                bytes += len as u64;
                if bytes > limits.bytes_max {
                    let (rule, max) = ("layer too large", limits.bytes_max);
                    let over = Refusal::limit("--bytes-max", rule, bytes, max);
                    return Err(Fault::from(over).nowhere());
                }
                hash.update(&piece[..len]);
                let written = out.write_all(&piece[..len]);
                written
                    .map_err(|e| crate::record::spill::io_fault("write", b"layer")(e).nowhere())?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed("read what the child writes")(error)),
        }
    }
}

/// Has a child do what needs nothing but its order, and waits for its verdict.
fn one_word(
    order: &Order,
    fds: &[BorrowedFd<'_>],
    limits: &Limits,
    stop: &Stop,
) -> Result<Finished, Error> {
    let (child, socket) = start_child(order, fds)?;
    let mut watched = Watched::new(child);
    let verdict = scope(|scope| {
        let late = watched.watch(scope, Instant::now(), limits, stop);
        let said = wire::read_said(&mut BufReader::new(&socket));
        drop(late);
        said
    });
    let verdict = match verdict {
        Ok(Said::Verdict(verdict)) => verdict,
        Ok(Said::Notes(_)) | Err(_) => Vec::new(),
    };
    let status = watched.child.wait().map_err(failed("wait for the child"))?;
    watched.verdict(&verdict, status, limits)
}

/// Starts the child and sends it its order and its fds.
fn start_child(order: &Order, fds: &[BorrowedFd<'_>]) -> Result<(Child, UnixStream), Error> {
    if !ENTERED.load(Ordering::Relaxed) {
        let text = "its main has not called child_entry; this is a bug";
        return Err(failed("run this program again")(io::Error::other(text)));
    }
    let (ours, theirs) = UnixStream::pair().map_err(failed("make a socket pair"))?;
    let mut child = Command::new("/proc/self/exe")
        .arg0(NAME)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::from(OwnedFd::from(theirs)))
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed("run /proc/self/exe again"))?;
    let fds: Vec<i32> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let order = wire::order(order);
    let sent = sendmsg::<()>(
        ours.as_raw_fd(),
        &[IoSlice::new(&order)],
        &[ControlMessage::ScmRights(&fds)],
        MsgFlags::MSG_NOSIGNAL,
        None,
    );
    match sent {
        Ok(len) if len == order.len() => Ok((child, ours)),
        other => {
            let source = match other {
                Ok(_) => io::Error::from(io::ErrorKind::WriteZero),
                Err(errno) => errno.into(),
            };
            match child.kill().and_then(|()| child.wait()) {
                Ok(_) | Err(_) => {}
            }
            Err(failed("give the child its order")(source))
        }
    }
}

/// A child that is killed when its time is over and it has not said so itself.
struct Watched {
    child: Child,
    late: AtomicBool,
}

impl Watched {
    fn new(child: Child) -> Watched {
        Watched { child, late: AtomicBool::new(false) }
    }

    /// Watches until what this gives back is dropped.
    fn watch<'s>(
        &'s self,
        scope: &'s Scope<'s, '_>,
        start: Instant,
        limits: &Limits,
        stop: &'s Stop,
    ) -> Sender<()> {
        let (over, wait) = channel::<()>();
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap_or(0));
        let bound = limits.time_max.saturating_add(GRACE);
        scope.spawn(move || {
            loop {
                let left = bound.saturating_sub(start.elapsed());
                match wait.recv_timeout(left.min(LOOK)) {
                    Err(RecvTimeoutError::Timeout) if stop.is_set() => {}
                    Err(RecvTimeoutError::Timeout) if left > LOOK => continue,
                    Err(RecvTimeoutError::Timeout) => self.late.store(true, Ordering::Relaxed),
                    Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
                }
                match kill(pid, Signal::SIGKILL) {
                    Ok(()) | Err(_) => return,
                }
            }
        });
        over
    }

    /// What the child has said, or how it ended without a word.
    fn verdict(
        &self,
        verdict: &[u8],
        status: ExitStatus,
        limits: &Limits,
    ) -> Result<Finished, Error> {
        let died = || {
            if self.late.load(Ordering::Relaxed) {
                // We did it, and know why.
                return Fault::from(too_long(limits.time_max)).nowhere();
            }
            let how = match (status.signal(), status.code()) {
                (Some(signal), _) => format!("the child was killed by signal {signal}"),
                (None, code) => format!("the child ended with {code:?} and no verdict"),
            };
            Error::Sandbox { step: "apply the layer".into(), source: io::Error::other(how) }
        };
        let finished = wire::verdict(verdict).ok_or_else(died)??;
        if status.success() { Ok(finished) } else { Err(died()) }
    }
}

/// The last word is the parent's.
fn judge(
    seen: &Seen,
    compression: Compression,
    mut applied: Applied,
    end: End,
    limits: &Limits,
) -> Result<Applied, Error> {
    if !seen.whole {
        let rule = Refusal::new(Class::Digest, "the child has not read all of the blob");
        return Err(Fault::from(rule).nowhere());
    }
    let blob = Blob { digest: seen.digest, bytes: seen.bytes, compression };
    let diff = match compression {
        Compression::Plain => Diff { digest: seen.digest, bytes: seen.bytes },
        // What came out of the blob only the child has seen.
        Compression::Gzip | Compression::Zstd => {
            Diff { digest: applied.diff_id, bytes: applied.diff_bytes }
        }
    };
    vouch(&blob, &diff, end, limits, applied.entries)?;
    applied.sealed(&blob, &diff);
    Ok(applied)
}
