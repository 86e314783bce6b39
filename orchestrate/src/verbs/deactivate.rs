//! `deactivate`, and what waits until nobody has an activation open; `checked`.

use registry::{Activation, Verb, WhenClosed};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::error::Error;
use crate::host::Host;
use crate::plan::retry::Step;
use crate::plan::{self, ActivationStep, Wish};

/// What `deactivate` did.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Deactivated {
    /// The activation's name.
    pub name: String,
    /// Whether there was anything to do.
    pub changed: bool,
    /// Whether it is open and goes down as soon as it is closed.
    #[serde(default)]
    pub when_closed: bool,
    /// Whether nothing was done on purpose.
    pub dry_run: bool,
}

/// How something is to go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Going {
    /// Where somebody has it open, it goes as soon as nobody has.
    pub when_closed: bool,
    /// Only tell what would be done.
    pub dry_run: bool,
}

impl Going {
    pub(crate) fn to_json(self) -> serde_json::Value {
        json!({"when_closed": self.when_closed})
    }

    pub(crate) fn from_json(value: &serde_json::Value) -> Going {
        Going { when_closed: value["when_closed"] == true, dry_run: false }
    }
}

impl Host {
    /// Takes away the device of `name` and keeps what was written to it. One that somebody has open is
    /// left as it is; `when_closed` has it taken down as soon as nobody has.
    ///
    /// # Errors
    /// [`Error::Unknown`]; [`Error::Held`].
    pub fn deactivate(&mut self, name: &str, how: Going) -> Result<Deactivated, Error> {
        if how.dry_run {
            return self.deactivate_alone(name, how);
        }
        self.as_run(Verb::Deactivate, name, how.to_json(), |host| host.deactivate_alone(name, how))
    }

    fn deactivate_alone(&mut self, name: &str, how: Going) -> Result<Deactivated, Error> {
        let mut overtook = false;
        if !how.dry_run && self.registry.activation(name)?.is_none() {
            // Under no lock of the name, which the run that makes it needs.
            overtook = self.after_its_makers("activation", name)?;
        }
        let _mine = self.locks.activation(name)?;
        let Some(row) = self.registry.activation(name)? else {
            if !overtook {
                return Err(self.unknown("activation", name));
            }
            let name = name.into();
            return Ok(Deactivated { name, changed: true, when_closed: false, dry_run: false });
        };
        let mapping = self.store.mapping(row.id, name)?;
        let changed =
            plan::activation(Some(row.state), mapping, Wish::Down) != ActivationStep::Done;
        let mut done =
            Deactivated { name: name.into(), changed, when_closed: false, dry_run: how.dry_run };
        if changed {
            self.leaves_no_node(name)?;
            done.when_closed = self.waits_to_be_closed(&row, how, WhenClosed::Deactivate)?;
        }
        if !how.dry_run && !done.when_closed {
            self.patiently(Step::Device, |host| host.drive(name, Wish::Down).map(drop))?;
        }
        Ok(done)
    }

    /// Whether an activation is open, and what is to become of it waits for its close. The wish is
    /// recorded. The caller holds the activation's lock.
    ///
    /// # Errors
    /// [`Error::Held`] when it is open and there is no such wish.
    pub(crate) fn waits_to_be_closed(
        &mut self,
        row: &Activation,
        how: Going,
        wish: WhenClosed,
    ) -> Result<bool, Error> {
        let Some(by) = self.store.held(row.id)? else { return Ok(false) };
        if !how.when_closed {
            return Err(Error::Held { what: format!("activation {}", row.name), by });
        }
        if !how.dry_run {
            self.registry.write(|write| write.put_when_closed(&row.name, Some(wish)))?;
            // Who takes it down in the end may be one who does not see it.
            self.take_node(row)?;
        }
        Ok(true)
    }

    /// Somebody says that the file system of `name`, which was up when the host went down, is in order.
    /// Returns whether that was asked.
    ///
    /// # Errors
    /// [`Error::Unknown`].
    pub fn checked(&mut self, name: &str) -> Result<bool, Error> {
        if self.registry.activation(name)?.is_none() {
            return Err(self.unknown("activation", name));
        }
        self.commit_told(|write| write.put_checked(name))
    }
}
