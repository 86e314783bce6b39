//! Applies a layer in a child process that has the stream, the root and nothing else.
//!
//! The caller's thread reads the layer into memory that the child can only read, and hashes it;
//! the child is this very program, run again from /proc/self/exe, which puts up its fences (see
//! [`Fence`]) before it looks at the first byte. The child's verdict comes back over a socket; the
//! digest of the blob, which is the diff id of a plain layer, is the parent's own.
//!
//! A program that uses this calls [`child_entry`] first thing in its `main`.

mod child;
mod feed;
mod fences;
mod filter;
mod ring;
mod wire;

use std::fs::File;
use std::io::{self, IoSlice, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread::scope;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::unistd::Pid;

use crate::applied::Applied;
use crate::archive::stream_fault;
use crate::compression::{Compression, sniffed};
use crate::error::{Class, Error, Fault, Refusal};
use crate::limits::Limits;
use crate::pipeline::{Blob, Diff, vouch};
use crate::root::Root;
use crate::sandbox::ring::{Seen, serve};
use crate::sandbox::wire::{Order, SLOT, SLOTS};
use crate::sys::Shared;

pub use child::child_entry;
pub use fences::{Fence, Standing, confine};

/// The child's name, by which it knows itself.
const NAME: &str = "veneer-unpack-child";

/// Time beyond `Limits::time_max` after which the child is killed.
const GRACE: Duration = Duration::from_secs(30);

fn failed(step: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Sandbox { step: step.into(), source }
}

/// [`crate::apply`] in a fenced child. The result says in `sandbox` which fences stood.
///
/// # Errors
/// As [`crate::apply`], and [`Error::Sandbox`] if the child cannot be started, or dies.
pub fn apply(layer: impl Read + Send, root: &Root, limits: &Limits) -> Result<Applied, Error> {
    apply_with(layer, root, limits, None)
}

/// [`apply`], which also has the child write the manifest into an open file.
///
/// # Errors
/// As [`apply`].
pub fn apply_with(
    layer: impl Read + Send,
    root: &Root,
    limits: &Limits,
    manifest: Option<&File>,
) -> Result<Applied, Error> {
    let start = Instant::now();
    let (compression, layer) = sniffed(layer, limits).map_err(|e| stream_fault(e).nowhere())?;
    let (mut child, memory, socket) = start_child(root, limits, compression, manifest)?;
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap_or(0));
    scope(|scope| {
        let (over, wait) = channel::<()>();
        let bound = limits.time_max.saturating_add(GRACE);
        scope.spawn(move || {
            let left = bound.saturating_sub(start.elapsed());
            match wait.recv_timeout(left) {
                Err(RecvTimeoutError::Timeout) => match kill(pid, Signal::SIGKILL) {
                    Ok(()) | Err(_) => {}
                },
                Ok(()) | Err(RecvTimeoutError::Disconnected) => {}
            }
        });
        let result = serve(layer, memory, &socket, limits);
        drop(over);
        let status = match &result {
            Ok(_) => child.wait(),
            Err(_) => child.kill().and_then(|()| child.wait()),
        };
        let (seen, verdict) = result?;
        let status = status.map_err(failed("wait for the child"))?;
        judge(&seen, compression, &verdict, status, limits)
    })
}

/// Starts the child and sends it its fds and its limits.
fn start_child(
    root: &Root,
    limits: &Limits,
    compression: Compression,
    manifest: Option<&File>,
) -> Result<(Child, Shared, UnixStream), Error> {
    let (memory, view) =
        Shared::new(SLOT * SLOTS).map_err(|errno| failed("make shared memory")(errno.into()))?;
    let (ours, theirs) = UnixStream::pair().map_err(failed("make a socket pair"))?;
    let child = Command::new("/proc/self/exe")
        .arg0(NAME)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::from(OwnedFd::from(theirs)))
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed("run /proc/self/exe again"))?;
    let mut fds = vec![std::os::fd::AsFd::as_fd(root).as_raw_fd(), view.as_raw_fd()];
    // The child cannot name a place for it. Without one it keeps all in memory.
    let spill = crate::spill::unnamed_file();
    fds.extend(spill.as_ref().map(AsRawFd::as_raw_fd));
    fds.extend(manifest.map(AsRawFd::as_raw_fd));
    let spilled = spill.is_some();
    let order = wire::order(&Order { limits: limits.clone(), compression, spill: spilled });
    let sent = sendmsg::<()>(
        ours.as_raw_fd(),
        &[IoSlice::new(&order)],
        &[ControlMessage::ScmRights(&fds)],
        MsgFlags::MSG_NOSIGNAL,
        None,
    );
    let mut child = child;
    match sent {
        Ok(len) if len == order.len() => Ok((child, memory, ours)),
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

/// The last word is the parent's.
fn judge(
    seen: &Seen,
    compression: Compression,
    verdict: &[u8],
    status: ExitStatus,
    limits: &Limits,
) -> Result<Applied, Error> {
    let died = || {
        let how = match (status.signal(), status.code()) {
            (Some(signal), _) => format!("the child was killed by signal {signal}"),
            (None, code) => format!("the child ended with {code:?} and no verdict"),
        };
        Error::Sandbox { step: "apply the layer".into(), source: io::Error::other(how) }
    };
    let (mut applied, end) = wire::verdict(verdict).ok_or_else(died)??;
    if !status.success() {
        return Err(died());
    }
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
