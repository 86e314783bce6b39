//! Asks a live pool whether it has room for a piece of work.

use crate::error::Error;
use crate::format::kind::Kind;
use crate::format::room::{Need, Reserve, Room, Unreachable};
use crate::pool::Pool;

impl Pool {
    /// Compares what the work needs with what is free.
    ///
    /// # Errors
    /// [`Error::NotWritable`] when the pool takes no changes at all; as [`Pool::status`].
    pub fn room(&self, need: Need, reserve: Reserve) -> Result<Room, Error> {
        let status = self.status()?;
        match status.working() {
            Some(working) if status.is_writable() => {
                let unreachable = match self.unreachable() {
                    // Who may use the pool and not its disks: the figures are all there is.
                    Err(err) if err.kind() == Kind::Denied => Unreachable::default(),
                    found => found?,
                };
                Ok(Room::of(working, unreachable, self.table.block.bytes(), need, reserve))
            }
            Some(_) | None => {
                Err(Error::NotWritable { pool: self.name.clone(), status: Box::new(status) })
            }
        }
    }

    /// As [`Pool::room`], and an error when it does not suffice.
    ///
    /// # Errors
    /// [`Error::NoRoom`] with both sides; as [`Pool::room`].
    pub fn admit(&self, need: Need, reserve: Reserve) -> Result<Room, Error> {
        let room = self.room(need, reserve)?;
        if room.suffices() {
            return Ok(room);
        }
        Err(Error::NoRoom { pool: self.name.clone(), room })
    }
}
