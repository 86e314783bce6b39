//! Waits for the pool's events: low water, out of space, a change of mode.
//!
//! The kernel counts events per device, and `poll` on the control node wakes after any of them.
//! Armed first and looked at after, so that an event in between is seen, not lost.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::error::Error;
use crate::kernel::dm::By;
use crate::pool::Pool;

/// The longest single sleep: kernels before 4.37 of the interface cannot be polled at all, and
/// there this is how often the counter is read.
const SLICE: Duration = Duration::from_secs(1);

/// Follows one pool's event counter.
#[derive(Debug)]
pub struct Watch {
    pool: Pool,
    seen: u32,
}

/// What ended a wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Woken {
    /// The pool's counter moved, to this.
    Event(u32),
    /// The time was up.
    TimeUp,
}

impl Pool {
    /// Starts to follow the pool's events, from now on.
    ///
    /// # Errors
    /// [`Error::PoolMissing`]; those of the commands.
    pub fn watch(&self) -> Result<Watch, Error> {
        Ok(Watch { pool: self.clone(), seen: self.event_nr()? })
    }

    fn event_nr(&self) -> Result<u32, Error> {
        match self.dm.state(By::Name(&self.name))? {
            Some(state) => Ok(state.event_nr),
            None => Err(Error::PoolMissing { pool: self.name.clone() }),
        }
    }
}

impl Watch {
    /// Waits for the pool's next event, at most `limit`.
    ///
    /// # Errors
    /// [`Error::PoolMissing`] when the pool goes meanwhile; those of the commands.
    pub fn next(&mut self, limit: Duration) -> Result<Woken, Error> {
        let start = Instant::now();
        loop {
            let pollable = match self.pool.dm.arm() {
                Ok(()) => true,
                Err(err) if err.raw_errno() == Some(Errno::ENOTTY) => false,
                Err(err) => return Err(err),
            };
            let now = self.pool.event_nr()?;
            if now != self.seen {
                self.seen = now;
                return Ok(Woken::Event(now));
            }
            let Some(left) = limit.checked_sub(start.elapsed()).filter(|left| !left.is_zero())
            else {
                return Ok(Woken::TimeUp);
            };
            let slice = left.min(SLICE).max(Duration::from_millis(1));
            if !pollable {
                std::thread::sleep(slice);
                continue;
            }
            let control = self.pool.dm.control();
            let mut fds = [PollFd::new(control.as_fd(), PollFlags::POLLIN)];
            let millis = u16::try_from(slice.as_millis()).unwrap_or(u16::MAX);
            match poll(&mut fds, PollTimeout::from(millis)) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(Error::errno("poll", "/dev/mapper/control", errno)),
            }
        }
    }
}
