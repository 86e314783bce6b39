//! A port of the loopback for a server that cannot choose one itself.
//!
//! A port that the kernel has just given and taken back may be another's before the server binds it: another
//! test's, or an outgoing connection's. So these lie below the kernel's range for those, and each is claimed by a
//! name that only one process can have and that goes with it.

use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::atomic::{AtomicU16, Ordering};

/// Below `net.ipv4.ip_local_port_range`, which begins at 32768.
const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

/// A port that is nobody else's as long as this lives.
#[derive(Debug)]
pub struct Port {
    /// The number.
    pub number: u16,
    _claim: UnixListener,
}

impl Port {
    /// Claims one; none where each is taken.
    pub fn claim() -> Option<Port> {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        // Processes begin apart.
        let start = u16::try_from(std::process::id() % u32::from(COUNT)).unwrap_or(0);
        (0..COUNT).find_map(|_| {
            let turn = NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
            let step = (u32::from(start) * 7 + u32::from(turn)) % u32::from(COUNT);
            let number = FIRST + u16::try_from(step).ok()?;
            let name = format!("veneer-test-port-{number}");
            let claim =
                UnixListener::bind_addr(&SocketAddr::from_abstract_name(name).ok()?).ok()?;
            // Whoever else is at home on this machine.
            TcpListener::bind(("127.0.0.1", number)).ok()?;
            Some(Port { number, _claim: claim })
        })
    }
}
