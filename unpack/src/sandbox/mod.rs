//! Applies a layer in a child process that has the stream, the root and nothing else.
//!
//! The caller's thread reads the layer, hashes it and writes it into a pipe; the child is this
//! very program, run again from /proc/self/exe, which puts up its fences (see [`Fence`]) before it
//! reads the first byte. The child's verdict comes back over a socket; the digest of the blob is
//! the parent's own, and the child's has to agree.
//!
//! A program that uses this calls [`child_entry`] first thing in its `main`.

mod child;
mod fences;
mod filter;
mod wire;

use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::scope;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::unistd::Pid;

use crate::applied::Applied;
use crate::encoding::Compression;
use crate::error::{Class, Error, Fault, Refusal};
use crate::limits::Limits;
use crate::root::Root;
use crate::sha::Sha256;

pub use child::child_entry;
pub use fences::{Fence, Standing, confine};

/// The child's name, by which it knows itself.
const NAME: &str = "veneer-unpack-child";

/// Bytes of a verdict; the longest names and values in it are bounded far below.
const VERDICT_MAX: u64 = 1 << 20;

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
    let (mut child, stream, mut socket) = start_child(root, limits, manifest)?;
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
        let result = watch(layer, stream, &mut socket, &mut child, over);
        let status = match &result {
            Ok(_) => child.wait(),
            Err(_) => child.kill().and_then(|()| child.wait()),
        };
        let (blob, verdict) = result?;
        let status = status.map_err(failed("wait for the child"))?;
        judge(&blob, &verdict, status, limits)
    })
}

/// What the parent saw of the blob.
struct Seen {
    digest: [u8; 32],
    bytes: u64,
    compression: Option<Compression>,
    /// Whether all of it was handed over.
    whole: bool,
}

/// Starts the child and sends it its fds and its limits.
fn start_child(
    root: &Root,
    limits: &Limits,
    manifest: Option<&File>,
) -> Result<(Child, io::PipeWriter, UnixStream), Error> {
    let (from, stream) = io::pipe().map_err(failed("make a pipe"))?;
    let (ours, theirs) = UnixStream::pair().map_err(failed("make a socket pair"))?;
    let child = Command::new("/proc/self/exe")
        .arg0(NAME)
        .env_clear()
        .stdin(Stdio::from(OwnedFd::from(from)))
        .stdout(Stdio::from(OwnedFd::from(theirs)))
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed("run /proc/self/exe again"))?;
    let mut fds = vec![std::os::fd::AsFd::as_fd(root).as_raw_fd()];
    // The child cannot name a place for it. Without one it keeps all in memory.
    let spill = crate::spill::unnamed_file();
    fds.extend(spill.as_ref().map(AsRawFd::as_raw_fd));
    fds.extend(manifest.map(AsRawFd::as_raw_fd));
    let order = wire::order(limits, spill.is_some());
    let sent = sendmsg::<()>(
        ours.as_raw_fd(),
        &[IoSlice::new(&order)],
        &[ControlMessage::ScmRights(&fds)],
        MsgFlags::MSG_NOSIGNAL,
        None,
    );
    let mut child = child;
    match sent {
        Ok(len) if len == order.len() => Ok((child, stream, ours)),
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

/// Hands the layer over, then reads the verdict.
fn watch(
    mut layer: impl Read,
    mut stream: io::PipeWriter,
    socket: &mut UnixStream,
    child: &mut Child,
    over: Sender<()>,
) -> Result<(Seen, Vec<u8>), Error> {
    // A larger pipe means fewer switches between the two; the default does as well.
    match nix::fcntl::fcntl(&stream, nix::fcntl::FcntlArg::F_SETPIPE_SZ(1 << 20)) {
        Ok(_) | Err(_) => {}
    }
    let mut hash = Sha256::new();
    let mut seen = Seen { digest: [0; 32], bytes: 0, compression: None, whole: true };
    let mut start = Vec::new();
    let mut buffer = vec![0; 128 << 10];
    loop {
        let len = match layer.read(&mut buffer) {
            Ok(0) => break,
            Ok(len) => len,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(source) => return Err(Error::Stream { source }),
        };
        if start.len() < 6 {
            start.extend_from_slice(&buffer[..len.min(6)]);
        }
        seen.bytes += len as u64;
        // Hashing while the child works on what it has.
        match stream.write_all(&buffer[..len]) {
            Ok(()) => hash.update(&buffer[..len]),
            // The child has found a reason to stop, and will say which.
            Err(_) => {
                seen.whole = false;
                break;
            }
        }
    }
    drop(stream);
    seen.digest = hash.finish();
    seen.compression = Compression::sniff(&start);
    let mut verdict = Vec::new();
    socket
        .take(VERDICT_MAX)
        .read_to_end(&mut verdict)
        .map_err(failed("read the child's verdict"))?;
    drop(over);
    let _: &Child = child;
    Ok((seen, verdict))
}

/// The last word is the parent's.
fn judge(
    seen: &Seen,
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
    let applied = wire::verdict(verdict).ok_or_else(died)??;
    if !status.success() {
        return Err(died());
    }
    let refuse = |rule| {
        let text = format!("sha256:{}", crate::record::Hex(&seen.digest));
        Fault::from(Refusal::new(Class::Digest, rule).bytes(text.as_bytes())).nowhere()
    };
    let plain = seen.compression == Some(Compression::Plain);
    if !seen.whole
        || applied.blob_bytes != seen.bytes
        || applied.blob_digest != seen.digest
        || (plain && applied.diff_id != seen.digest)
    {
        return Err(refuse("the child has read another blob than it was given"));
    }
    if limits.blob_digest.is_some_and(|expected| expected != seen.digest) {
        return Err(refuse("the blob's digest is not the one expected, but"));
    }
    if limits.diff_id.is_some_and(|expected| expected != applied.diff_id) {
        return Err(refuse("the diff id is not the one expected"));
    }
    Ok(applied)
}
