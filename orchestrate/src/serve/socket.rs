//! The daemon's unix socket: where it is, and how it is reached.

use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, UnixAddr, sockopt};
use nix::sys::time::{TimeVal, TimeValLike as _};

/// Connects to the socket at `path`. Where as many wait there as may, whoever listens is stopped or
/// overrun, and it is not waited for longer than `time`.
pub(crate) fn connect(path: &Path, time: Duration) -> io::Result<UnixStream> {
    short(path, |path| {
        let kind = (AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC);
        let socket = socket::socket(kind.0, kind.1, kind.2, None)?;
        let time = TimeVal::microseconds(i64::try_from(time.as_micros()).unwrap_or(i64::MAX));
        socket::setsockopt(&socket, sockopt::SendTimeout, &time)?;
        socket::connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
        Ok(UnixStream::from(socket))
    })
}

/// A path that is too long for a socket is reached by way of its directory's descriptor.
pub(crate) fn short<T>(path: &Path, call: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    if path.as_os_str().len() < SOCKET_PATH_MAX {
        return call(path);
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let dir = fs::File::open(parent.unwrap_or(Path::new(".")))?;
    call(&Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(name))
}

/// Where the daemon of this state directory listens, unless told otherwise.
pub fn socket(state: &Path) -> PathBuf {
    state.join("serve.sock")
}

/// Bytes of a unix socket's path (`sun_path`, unix(7)), its end included.
pub(crate) const SOCKET_PATH_MAX: usize = 108;
