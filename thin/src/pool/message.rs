//! The messages a pool takes. One is done when the pool's status after it says so: the kernel
//! answers 0 even when the commit that follows fails (`pool_message` in
//! `drivers/md/dm-thin.c`), and then the pool is read-only and needs a check.

use nix::errno::Errno;

use crate::error::Error;
use crate::format::status::PoolStatus;
use crate::format::units::ThinId;
use crate::kernel::dm::By;
use crate::pool::Pool;

impl Pool {
    pub(crate) fn require(&self, good: impl Fn(&PoolStatus) -> bool) -> Result<PoolStatus, Error> {
        let status = self.status()?;
        if good(&status) {
            return Ok(status);
        }
        Err(Error::NotWritable { pool: self.name.clone(), status: Box::new(status) })
    }

    pub(crate) fn send(&self, message: &str) -> Result<(), Error> {
        let sent = self.dm.message(By::Name(&self.name), message);
        sent.map_err(|err| match err {
            Error::Dm { errno: Errno::EOPNOTSUPP, .. } => match self.status() {
                Ok(status) if !status.is_writable() => {
                    Error::NotWritable { pool: self.name.clone(), status: Box::new(status) }
                }
                Ok(_) => self.refused(message, Errno::EOPNOTSUPP),
                Err(err) => err,
            },
            Error::Dm { errno: Errno::ENXIO, .. } => Error::PoolMissing { pool: self.name.clone() },
            Error::Dm { errno, .. } => self.refused(message, errno),
            other => other,
        })
    }

    pub(crate) fn refused(&self, message: &str, errno: Errno) -> Error {
        Error::Message { pool: self.name.clone(), message: message.to_owned(), errno }
    }

    fn absent(&self, id: ThinId) -> Error {
        Error::ThinAbsent { pool: self.name.clone(), id }
    }

    /// Makes an empty thin.
    ///
    /// # Errors
    /// [`Error::ThinExists`]; [`Error::NotWritable`], after which the thin may exist or not.
    pub fn create_thin(&self, id: ThinId) -> Result<(), Error> {
        self.send(&format!("create_thin {id}")).map_err(|err| match err.raw_errno() {
            Some(Errno::EEXIST) => Error::ThinExists { pool: self.name.clone(), id },
            _ => err,
        })?;
        self.made(id, None)
    }

    /// Makes thin `new` a snapshot of thin `origin`.
    ///
    /// The origin must not be active unless its device refuses writes: the kernel does not check that,
    /// and a snapshot of one that is being written to is corrupt (kernel docs, thin-provisioning,
    /// "Internal snapshots").
    ///
    /// # Errors
    /// [`Error::ThinExists`] for `new`; [`Error::ThinAbsent`] and [`Error::AlreadyActive`] for
    /// `origin`; [`Error::NotWritable`], after which `new` may exist or not.
    pub fn create_snap(&self, new: ThinId, origin: ThinId) -> Result<(), Error> {
        if let Some(state) = self.dm.state(By::Uuid(&self.thin_uuid(origin)))?
            && !state.suspended
            && !state.read_only
        {
            return Err(Error::AlreadyActive { id: origin, name: state.name });
        }
        self.send(&format!("create_snap {new} {origin}")).map_err(|err| match err.raw_errno() {
            Some(Errno::EEXIST) => Error::ThinExists { pool: self.name.clone(), id: new },
            Some(Errno::ENODATA) => self.absent(origin),
            _ => err,
        })?;
        self.made(new, Some(origin))
    }

    pub(super) fn made(&self, id: ThinId, parent: Option<ThinId>) -> Result<(), Error> {
        let status = self.require(PoolStatus::is_writable)?;
        self.note_made(id, parent, status.transaction_id().unwrap_or_default());
        Ok(())
    }

    /// Deletes a thin; blocks that no other thin maps become free.
    ///
    /// # Errors
    /// [`Error::ThinAbsent`], which a caller that replays a delete takes as done;
    /// [`Error::AlreadyActive`]; [`Error::NotWritable`].
    pub fn delete(&self, id: ThinId) -> Result<(), Error> {
        match self.send(&format!("delete {id}")) {
            Ok(()) => {
                self.require(PoolStatus::takes_deletes)?;
                self.note_gone(id);
                Ok(())
            }
            Err(err) => match err.raw_errno() {
                Some(Errno::ENODATA) => Err(self.absent(id)),
                Some(Errno::EBUSY) => {
                    let state = self.dm.state(By::Uuid(&self.thin_uuid(id)))?;
                    let name = state.map_or_else(|| "a foreign device".to_owned(), |s| s.name);
                    Err(Error::AlreadyActive { id, name })
                }
                _ => Err(err),
            },
        }
    }

    /// Moves the pool's transaction id from `current` to `new`: the fence between the pool and
    /// the caller's own records.
    ///
    /// # Errors
    /// [`Error::TransactionId`] when the pool is at another one; [`Error::NotWritable`].
    pub fn set_transaction_id(&self, current: u64, new: u64) -> Result<(), Error> {
        let differs =
            |found| Error::TransactionId { pool: self.name.clone(), expected: current, found };
        match self.send(&format!("set_transaction_id {current} {new}")) {
            Ok(()) => {
                let status = self.require(PoolStatus::is_writable)?;
                match status.transaction_id() {
                    Some(found) if found != new => Err(differs(found)),
                    Some(_) | None => Ok(()),
                }
            }
            // EINVAL also means bad text: only the status tells which.
            Err(err) if err.raw_errno() == Some(Errno::EINVAL) => {
                match self.status()?.transaction_id() {
                    Some(found) if found != current => Err(differs(found)),
                    Some(_) | None => Err(err),
                }
            }
            Err(err) => Err(err),
        }
    }

    /// Whether the pool has the thin.
    ///
    /// One message that can only fail: a snapshot of a thin onto itself is EEXIST when there is
    /// such a thin and ENODATA when there is none (`__create_snap` looks up the new id first).
    ///
    /// # Errors
    /// [`Error::NotWritable`]: a pool that takes no messages cannot be asked so; see `ids`.
    pub fn exists(&self, id: ThinId) -> Result<bool, Error> {
        match self.send(&format!("create_snap {id} {id}")) {
            Err(err) => match err.raw_errno() {
                Some(Errno::EEXIST) => Ok(true),
                Some(Errno::ENODATA) => Ok(false),
                _ => Err(err),
            },
            // No kernel does this; were one to, the thin it made is not ours to keep.
            Ok(()) => self.delete(id).map(|()| false),
        }
    }
}
