//! What systemd is told, and what it workers over: sd_notify(3) and LISTEN_FDS (sd_listen_fds(3)).

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockaddrLike as _, SockaddrStorage, getsockname};

use crate::process::log::{self, Level};
use crate::process::sys;

/// The first descriptor that is handed over.
const FIRST: i32 = 3;

/// Tells systemd, where there is one: `READY=1`, `WATCHDOG=1`, `STOPPING=1`.
pub(super) fn tell(state: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let address = match path.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&path),
    };
    let told = address.and_then(|address| {
        UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address).map(drop)
    });
    if let Err(error) = told {
        log::line(Level::Warning, &format!("cannot tell systemd {state}: {error}"), &[]);
    }
}

/// How often systemd wants to hear of us; none when it does not.
pub(super) fn watchdog() -> Option<Duration> {
    let micros: u64 = std::env::var("WATCHDOG_USEC").ok()?.parse().ok()?;
    Some(Duration::from_micros(micros))
}

/// A socket that was handed over.
#[derive(Debug)]
pub(super) enum Handed {
    Unix(UnixListener),
    Tcp(TcpListener),
}

/// The sockets that this very process was started with. To be asked once.
pub(super) fn handed() -> std::io::Result<Vec<Handed>> {
    let number = |name: &str| -> Option<u32> { std::env::var(name).ok()?.parse().ok() };
    if number("LISTEN_PID") != Some(std::process::id()) {
        return Ok(Vec::new());
    }
    let count = i32::try_from(number("LISTEN_FDS").unwrap_or(0)).unwrap_or(0);
    (FIRST..FIRST.saturating_add(count)).map(|fd| kind(sys::inherited(fd)?)).collect()
}

fn kind(fd: OwnedFd) -> std::io::Result<Handed> {
    use std::os::fd::AsRawFd as _;
    let address: SockaddrStorage = getsockname(fd.as_raw_fd())?;
    match address.family() {
        Some(AddressFamily::Unix) => Ok(Handed::Unix(fd.into())),
        Some(AddressFamily::Inet | AddressFamily::Inet6) => Ok(Handed::Tcp(fd.into())),
        _ => Err(std::io::Error::other("a socket of a kind that is not served was handed over")),
    }
}
