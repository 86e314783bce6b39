//! Puts right what a killed process left between two ioctls: devices without a table go,
//! suspended ones run again, tables that never became live are thrown away.

use serde::Serialize;

use crate::error::Error;
use crate::format::units::{Dev, ThinId};
use crate::kernel::dm::By;
use crate::kernel::node;
use crate::kernel::removal::remove;
use crate::pool::Pool;

/// One thing that was put right.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Tidied {
    /// The device.
    pub name: String,
    /// Its thin.
    pub id: ThinId,
    /// What was done.
    pub act: Act,
}

/// What was done to a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Act {
    /// It had no live table: removed.
    Removed,
    /// It was suspended: resumed.
    Resumed,
    /// A loaded table had never become live: thrown away.
    Cleared,
    /// Its node below `/dev` was missing: made.
    NodeMade,
}

impl Pool {
    /// Puts this pool's devices right. Harmless when nothing is wrong, and when killed; but not
    /// for a process that is activating meanwhile, whose half-made device looks just like one
    /// of a dead process: the caller keeps those away.
    ///
    /// # Errors
    /// Those of the commands.
    pub fn tidy(&self) -> Result<Vec<Tidied>, Error> {
        let mut done = Vec::new();
        for thin in self.active()? {
            let uuid = self.thin_uuid(thin.id);
            let mut note = |act| done.push(Tidied { name: thin.name.clone(), id: thin.id, act });
            if !thin.has_table {
                remove(&self.dm, &uuid, &thin.name, self.remove_wait)?;
                note(Act::Removed);
                continue;
            }
            if thin.has_inactive {
                self.dm.clear(By::Uuid(&uuid))?;
                note(Act::Cleared);
            }
            if thin.suspended {
                self.dm.resume(By::Uuid(&uuid))?;
                note(Act::Resumed);
            }
            if !leads_to(thin.dev, &thin.name) {
                node::ensure(thin.dev, &thin.name)?;
                note(Act::NodeMade);
            }
        }
        Ok(done)
    }
}

/// Whether both nodes below `/dev` are those of this device.
pub(crate) fn leads_to(dev: Dev, name: &str) -> bool {
    let there =
        |path: std::path::PathBuf| node::block_dev(&path).is_ok_and(|found| found == Some(dev));
    there(node::path(dev)) && there(node::mapper_path(name))
}
