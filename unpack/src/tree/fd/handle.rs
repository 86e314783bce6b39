//! An open directory, and what is known of it that the kernel does not keep: what its time has to be,
//! and what it hands down.

use std::cell::Cell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use nix::sys::stat::{fstat, futimens};
use nix::sys::time::TimeSpec;

use crate::archive::pax::Time;
use crate::error::Fault;
use crate::sys::{self, On};

pub(crate) fn spec(time: Time) -> TimeSpec {
    TimeSpec::new(time.sec, i64::from(time.nsec))
}

/// A handle of an open directory; all clones are one.
#[derive(Clone, Debug)]
pub(crate) struct Handle(Rc<Open>);

#[derive(Debug)]
struct Open {
    fd: OwnedFd,
    /// As it was before the first change in it.
    seen: Cell<Option<Seen>>,
    /// Whether there was a change in it.
    dirty: Cell<bool>,
    /// New children inherit an ACL.
    acl: Cell<Option<bool>>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    ino: u64,
    /// What its modification time has to be in the end.
    mtime: Time,
    /// New children inherit its group.
    setgid: bool,
}

impl AsFd for Handle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.fd.as_fd()
    }
}

impl Handle {
    pub(crate) fn new(fd: OwnedFd) -> Handle {
        let (seen, dirty, acl) = (Cell::new(None), Cell::new(false), Cell::new(None));
        Handle(Rc::new(Open { fd, seen, dirty, acl }))
    }

    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.0.fd
    }

    fn seen(&self, path: &[u8]) -> Result<Seen, Fault> {
        if let Some(seen) = self.0.seen.get() {
            return Ok(seen);
        }
        let stat = fstat(&self.0.fd).map_err(Fault::fs("stat", path))?;
        let nsec = u32::try_from(stat.st_mtime_nsec).unwrap_or(0);
        let seen = Seen {
            ino: stat.st_ino,
            mtime: Time { sec: stat.st_mtime, nsec },
            setgid: stat.st_mode & libc::S_ISGID != 0,
        };
        self.0.seen.set(Some(seen));
        Ok(seen)
    }

    pub(crate) fn ino(&self, path: &[u8]) -> Result<u64, Fault> {
        self.seen(path).map(|seen| seen.ino)
    }

    /// To be told before a change in it: the time that it has now is the one to be put back.
    pub(crate) fn changes(&self, path: &[u8]) -> Result<(), Fault> {
        self.seen(path)?;
        self.0.dirty.set(true);
        Ok(())
    }

    /// Whether new children inherit its group.
    pub(crate) fn setgid(&self, path: &[u8]) -> Result<bool, Fault> {
        self.seen(path).map(|seen| seen.setgid)
    }

    /// Whether new children inherit an ACL.
    pub(crate) fn acl(&self, path: &[u8]) -> Result<bool, Fault> {
        if let Some(acl) = self.0.acl.get() {
            return Ok(acl);
        }
        let acl = sys::get_xattr(On::Fd(self.as_fd()), b"system.posix_acl_default")
            .map_err(Fault::fs("read ACL of", path))?
            .is_some();
        self.0.acl.set(Some(acl));
        Ok(acl)
    }

    /// That it was given this time, and whether it now hands down its group and an ACL.
    pub(crate) fn became(
        &self,
        mtime: Time,
        setgid: bool,
        acl: bool,
        path: &[u8],
    ) -> Result<(), Fault> {
        let seen = self.seen(path)?;
        self.0.seen.set(Some(Seen { mtime, setgid, ..seen }));
        self.0.acl.set(Some(acl));
        Ok(())
    }

    /// Puts the modification time back if there was a change.
    pub(crate) fn settle(&self, path: &[u8]) -> Result<(), Fault> {
        if self.0.dirty.replace(false) {
            let time = spec(self.seen(path)?.mtime);
            futimens(&self.0.fd, &time, &time).map_err(Fault::fs("set time of", path))?;
        }
        Ok(())
    }
}
