//! `who`: what keeps an activation from going. It is what this process may see; what it could not is told.

use serde::{Deserialize, Serialize};

use registry::Activation;

use crate::error::Error;
use crate::host::Host;
use crate::process::holders::{self, Holders, Used};
use crate::verbs::activate::is_told;

/// What `who` found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Who {
    /// The activation's name.
    pub name: String,
    /// Whether anybody was seen, or the kernel says that it is open.
    pub held: bool,
    /// All who were seen.
    #[serde(flatten)]
    pub holders: Holders,
}

impl Host {
    /// Who uses the activation `name`.
    ///
    /// # Errors
    /// [`Error::Unknown`]; those of the store.
    pub fn who(&self, name: &str) -> Result<Who, Error> {
        let row = self.registry.activation(name)?.filter(is_told);
        let Some(row) = row else { return Err(self.unknown("activation", name)) };
        let mut found = self.holders(&row)?;
        let seen = found.first().is_some();
        let held = seen || self.store.held(row.id)?.is_some();
        if held && !seen {
            found.unseen.push(
                "the device is open, and no process that can be seen here has it: a mount without a place, or a \
                 process in another namespace of process ids"
                    .into(),
            );
        }
        Ok(Who { name: name.into(), held, holders: found })
    }

    fn holders(&self, row: &Activation) -> Result<Holders, Error> {
        let used = match self.store.tree(row.id) {
            Some(tree) => Some(Used::Tree(tree)),
            None => self.store.device(row.id)?.map(|(major, minor)| Used::Device(major, minor)),
        };
        Ok(used.as_ref().map(holders::of).unwrap_or_default())
    }

    /// By whom an activation is in use, in words. The store says it of a device; of a tree, which has no opening of
    /// its own, whoever is seen in it.
    pub(crate) fn in_use(&self, row: &Activation) -> Result<Option<String>, Error> {
        if let Some(by) = self.store.held(row.id)? {
            return Ok(Some(by));
        }
        match self.store.tree(row.id) {
            Some(_) => Ok(self.holders(row)?.first()),
            None => Ok(None),
        }
    }
}
