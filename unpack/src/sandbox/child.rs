//! The child's side: take the order, put up the fences, apply, give the verdict.

use std::fs::File;
use std::io::{self, BufWriter, IoSliceMut, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::channel;

use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::sys::stat::{Mode, umask};

use crate::applied::Applied;
use crate::apply::{Work, write};
use crate::archive::End;
use crate::error::Error;
use crate::pipeline;
use crate::root::Root;
use crate::sandbox::feed::Feed;
use crate::sandbox::fences::{Fence, confine};
use crate::sandbox::wire::{SLOT, SLOTS};
use crate::sandbox::{NAME, failed, wire};
use crate::sys::Shared;

/// To be called first thing in the `main` of every program that uses [`crate::sandbox`]: in the
/// child it does the child's work and never returns, elsewhere it returns at once.
pub fn child_entry() {
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

fn work(socket: &UnixStream) -> Result<(Applied, End), Error> {
    let (order, fds) = receive(socket).map_err(failed("take the order"))?;
    let order = wire::read_order(&order)
        .ok_or_else(|| failed("take the order")(io::Error::from(io::ErrorKind::InvalidData)))?;
    let limits = order.limits;
    let mut fds = fds.into_iter();
    let mut fd =
        || fds.next().ok_or_else(|| failed("take the order")(io::Error::other("an fd is missing")));
    let root = Root::from_fd(fd()?)?;
    let memory = Shared::view(fd()?.as_fd(), SLOT * SLOTS)
        .map_err(|errno| failed("see the stream")(errno.into()))?;
    let spill = if order.spill { Some(File::from(fd()?)) } else { None };
    let mut manifest = fds.next().map(|fd| BufWriter::new(File::from(fd)));
    let (digests, hashed) = channel();
    let feed = Feed::new(socket, memory, digests, &limits).map_err(failed("see the stream"))?;
    let (root, standing) = confine(root, &limits, &Fence::ALL)?;
    if let Some(down) = standing.iter().find(|fence| !fence.stands)
        && limits.fences_required
    {
        let text = format!("fence {}: {}", down.fence.name(), down.note);
        return Err(failed("put up every fence")(io::Error::other(text)));
    }
    let sink = manifest.as_mut().map(|m| m as &mut (dyn Write + Send));
    let work = Work { manifest: sink, spill };
    let (mut applied, end, diff) =
        pipeline::fed(feed, hashed, order.compression, &limits, |archive, digests| {
            write(archive, digests, &root, &limits, work)
        })?;
    if let Some(mut manifest) = manifest {
        manifest.flush().map_err(|e| crate::root::io_fault("write", b"manifest")(e).nowhere())?;
    }
    if let Some(diff) = diff {
        (applied.diff_id, applied.diff_bytes) = (diff.digest, diff.bytes);
    }
    if limits.sync {
        crate::root::sync(&root)?;
    }
    applied.sandbox = standing;
    Ok((applied, end))
}

/// The order and the fds that came with it.
fn receive(socket: &UnixStream) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut order = vec![0; 64 << 10];
    let mut space = nix::cmsg_space!([i32; 4]);
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
