//! A layer that comes through a descriptor, waited for no longer than the whole of it may take.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::archive::buffers::too_long;
use crate::error::stop::Stop;
use crate::limits::Limits;

/// How often it is asked whether anybody still wants it.
const LOOK: Duration = Duration::from_millis(100);

/// Reads from a descriptor for as long as [`Limits::time_max`] from now goes. What is silent at the end of
/// that is refused as a layer that takes too long. `R` must have no buffer of its own: bytes in one would not
/// be seen.
#[derive(Debug)]
pub struct Timed<R> {
    from: R,
    until: Option<Instant>,
    time_max: Duration,
    stop: Stop,
}

impl<R> Timed<R> {
    /// The time begins now.
    pub fn new(from: R, limits: &Limits) -> Timed<R> {
        Timed::until(from, limits, Stop::default())
    }

    /// As [`Timed::new`]; it also ends as soon as somebody asks to stop, and not with the next byte.
    pub fn until(from: R, limits: &Limits, stop: Stop) -> Timed<R> {
        let time_max = limits.time_max;
        // A time beyond all clocks is none.
        Timed { from, until: Instant::now().checked_add(time_max), time_max, stop }
    }
}

impl<R: Read + AsFd> Read for Timed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.stop.is_set() {
                return Err(io::Error::other("somebody asked to stop"));
            }
            let left = self.until.map(|until| until.saturating_duration_since(Instant::now()));
            let timeout = match left {
                Some(left) => {
                    // Not a moment too early, or it would be asked again and again in the last millisecond.
                    let millis = left.min(LOOK).as_millis().saturating_add(1);
                    PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)
                }
                None => PollTimeout::try_from(LOOK).unwrap_or(PollTimeout::MAX),
            };
            let ready = {
                let mut fds = [PollFd::new(self.from.as_fd(), PollFlags::POLLIN)];
                poll(&mut fds, timeout)
            };
            match ready {
                Ok(0) if left.is_some_and(|left| left <= Duration::from_millis(1)) => {
                    return Err(too_long(self.time_max).into());
                }
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => return self.from.read(buffer),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}
