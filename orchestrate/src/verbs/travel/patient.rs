//! A file or pipe that is waited for only as long as nobody asks to stop.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd as _;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::process::cancel::Cancel;

/// How long one wait is, milliseconds.
const WAIT_MS: u8 = 200;

/// See the module.
pub(crate) struct Patient {
    pub(crate) input: File,
    pub(crate) cancel: Cancel,
}

impl Read for Patient {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.cancel.is_set() {
                return Err(io::Error::other("somebody asked to stop"));
            }
            let mut fds = [PollFd::new(self.input.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, PollTimeout::from(WAIT_MS)) {
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => return self.input.read(into),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}
