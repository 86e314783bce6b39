//! What is written about an activation beside its state: its size, the boot it was seen up in,
//! whether its file system was looked at since, and what is to become of it later.

use crate::error::Error;
use crate::rows::{Activation, WhenClosed};
use crate::write::{Write, now_ms};

impl Write<'_> {
    /// Puts the row of an activation that the store was found to have.
    pub(crate) fn put_activation(&self, row: &Activation) -> Result<(), Error> {
        self.run(
            "INSERT INTO activations(name, reference, origin, id, bytes, state, created_ms, unchecked,
               when_closed, endpoint, read_only, no_journal)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
            (
                &row.name,
                &row.reference,
                row.origin,
                row.id,
                row.bytes,
                row.state.word(),
                now_ms(),
                row.unchecked,
                row.when_closed.map(WhenClosed::word),
                &row.endpoint,
                row.read_only,
                row.no_journal,
            ),
        )?;
        let detail = format!("volume {}, found in the store", row.id);
        self.event(&format!("activation {}", row.name), None, Some(row.state.word()), &detail)
    }

    /// Its device was made larger by hand: that is its size from now on. It never becomes smaller.
    pub fn grow_activation(&self, name: &str, bytes: u64) -> Result<(), Error> {
        let sql = "UPDATE activations SET bytes = ?2 WHERE name = ?1 AND bytes < ?2";
        match self.run(sql, (name, bytes))? {
            0 => Ok(()),
            _ => self.told(name, &format!("its device has {bytes} bytes now")),
        }
    }

    /// Its device was seen up in this boot of the kernel, or is down on purpose.
    pub fn seen_up(&self, name: &str, boot: Option<&str>) -> Result<(), Error> {
        self.run("UPDATE activations SET boot = ?2 WHERE name = ?1", (name, boot)).map(drop)
    }

    /// It was up when the host went down.
    pub fn put_unchecked(&self, name: &str) -> Result<(), Error> {
        let sql = "UPDATE activations SET unchecked = 1 WHERE name = ?1 AND unchecked = 0";
        match self.run(sql, [name])? {
            0 => Ok(()),
            _ => self.told(name, "was up when the host went down: its file system is unchecked"),
        }
    }

    /// Somebody says that its file system is in order. Returns whether that was asked.
    pub fn put_checked(&self, name: &str) -> Result<bool, Error> {
        let sql = "UPDATE activations SET unchecked = 0 WHERE name = ?1 AND unchecked = 1";
        let changed = self.run(sql, [name])?;
        if changed == 1 {
            self.told(name, "was checked")?;
        }
        Ok(changed == 1)
    }

    /// Records what is to become of it as soon as nobody has it open, or takes that back.
    pub fn put_when_closed(&self, name: &str, wish: Option<WhenClosed>) -> Result<(), Error> {
        let word = wish.map(WhenClosed::word);
        let sql = "UPDATE activations SET when_closed = ?2
                   WHERE name = ?1 AND when_closed IS NOT ?2";
        match (self.run(sql, (name, word))?, word) {
            (0, _) => Ok(()),
            (_, Some(word)) => self.told(name, &format!("{word}, as soon as it is closed")),
            (_, None) => self.told(name, "nothing is to happen any more when it is closed"),
        }
    }

    pub(crate) fn told(&self, name: &str, detail: &str) -> Result<(), Error> {
        let state: Option<String> =
            self.ask("SELECT state FROM activations WHERE name = ?1", [name])?;
        let state = state.as_deref();
        self.event(&format!("activation {name}"), state, state, detail)
    }
}
