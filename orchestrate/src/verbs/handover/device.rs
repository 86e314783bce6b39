//! `activate --device-owner --device-mode --node`: the device of an activation is given to whom a virtual machine runs
//! as, and has a second node where that sees it, as in a jail.
//!
//! It is remembered with the activation, and done again whenever that comes up. The node is made by commands and not
//! by a daemon, whose mount namespace is one of its own; whatever takes the activation down by a command removes it
//! first, since a node that is left may lead to another's device later.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use nix::libc;
use nix::sys::stat::FileStat;
use registry::{Activation, ActivationState, Device, VolumeId};

use crate::error::Error;
use crate::error::amiss::Amiss;
use crate::handover::device::{Give, Given};
use crate::handover::unfit::Unfit;
use crate::host::Host;
use crate::verbs::handover::node::{ELSE, Number, Place, bad, give, io_error, leads_to, text_of};
use crate::verbs::handover::shown;

/// A node of which nobody said whose it is.
const NODE_MODE: u32 = 0o600;

/// There while udev is at work on what has happened to devices; it gives every device its own owner and mode.
const UDEV_QUEUE: &str = "/run/udev/queue";

/// How often it is looked whether udev has done its work, and how long in between: two seconds.
const LOOKS: u32 = 40;
const LOOK: Duration = Duration::from_millis(50);

fn owner_of(device: &Device) -> Option<Number> {
    device.uid.zip(device.gid)
}

/// The device itself, by the path that people use: owner and mode. Whether there was anything to change.
fn give_device(path: &Path, number: Number, device: &Device) -> Result<bool, Error> {
    if owner_of(device).is_none() && device.mode.is_none() {
        return Ok(false);
    }
    let node =
        OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_CLOEXEC).open(path);
    let node = node.map_err(io_error("open", path))?;
    let is =
        nix::sys::stat::fstat(&node).map_err(|errno| io_error("look at", path)(errno.into()))?;
    if leads_to(&is) != Some(number) {
        // Somebody has put something else there, or it went just now.
        return Err(io_error("give away", path)(io::Error::other(format!(
            "it does not lead to the device {}",
            text_of(number)
        ))));
    }
    give(&node, path, &is, owner_of(device), device.mode)
}

/// Lets udev finish first: what it does to a device that has just appeared would undo this.
fn after_udev() {
    for _ in 0..LOOKS {
        if !Path::new(UDEV_QUEUE).exists() {
            return;
        }
        std::thread::sleep(LOOK);
    }
}

impl Host {
    /// From now on this process makes and removes nodes outside of /dev: it does so where its user sees them.
    pub fn makes_nodes(&mut self) {
        self.nodes = true;
    }

    /// Gives the device of the activation `name`, which is up, to whom the caller says, and remembers it.
    ///
    /// # Errors
    /// [`Error::Unknown`]; [`Error::Unfit`] where the store has no devices, or no node can be made at that place.
    pub fn give_device(&mut self, name: &str, asked: &Give) -> Result<Given, Error> {
        self.has_devices()?;
        let _mine = self.locks.activation(name)?;
        let Some(row) = self.registry.activation(name)? else {
            return Err(self.unknown("activation", name));
        };
        let number = self.store.device(row.id)?.filter(|_| row.state == ActivationState::Active);
        let Some(number) = number else {
            let (name, image) = (row.name, row.reference);
            return Err(Unfit::NotUp { name, image, state: "not up any more" }.into());
        };
        let before = self.registry.device(name)?;
        let mut device = before.clone();
        if let Some((uid, gid)) = asked.owner {
            (device.uid, device.gid) = (Some(uid), Some(gid));
        }
        device.mode = asked.mode.or(device.mode);
        if let Some(path) = &asked.node {
            let place = Place::open(path)?;
            place.is_safe()?;
            let text = place.at.to_str().map(str::to_owned);
            let text = text.ok_or_else(|| Unfit::Path { path: shown(&place.at) })?;
            if before.node.as_ref() != Some(&text) {
                if let Some(is) = place.found()?
                    && leads_to(&is) != Some(number)
                {
                    return Err(bad(&place.at, ELSE));
                }
                self.take_node(&row)?;
                device.node = Some(text);
                device.node_leads_to = None;
            }
        }
        if device != before {
            self.commit_told(|write| write.put_device(name, &device))?;
        }
        after_udev();
        self.hand_over(&row, &device, number)?;
        Ok(Given::from(&device))
    }

    /// Whether activations of this store are devices.
    fn has_devices(&self) -> Result<(), Error> {
        match self.store.tree(VolumeId::default()) {
            Some(_) => Err(Unfit::NoDevice { store: self.settings.store.to_string() }.into()),
            None => Ok(()),
        }
    }

    /// Owner and mode of the device as they are remembered, and the node where this process makes such. The caller
    /// holds the activation's lock.
    fn hand_over(
        &mut self,
        row: &Activation,
        device: &Device,
        number: Number,
    ) -> Result<bool, Error> {
        let changed = give_device(&self.store.path(&row.name), number, device)?;
        let Some(path) = device.node.as_ref().filter(|_| self.nodes) else { return Ok(changed) };
        let place = Place::open(Path::new(path))?;
        place.is_safe()?;
        let before = device.node_leads_to.as_deref();
        let new = text_of(number);
        if before != Some(new.as_str()) {
            // What another boot, or an earlier device, has left is removed while it is known for ours.
            self.take_node(row)?;
            self.registry.write(|write| write.put_node(&row.name, Some(&new)))?;
        }
        place.make(number, before)?;
        place.give(
            number,
            owner_of(device).unwrap_or_default(),
            device.mode.unwrap_or(NODE_MODE),
        )?;
        Ok(changed)
    }

    /// As [`Host::hand_over`], for an activation that has just come up. What does not work is told: the activation
    /// is up all the same. The caller holds its lock.
    pub(crate) fn hand_over_again(&mut self, name: &str) -> Result<(), Error> {
        let device = self.registry.device(name)?;
        if device == Device::default() {
            return Ok(());
        }
        let Some(row) = self.registry.activation(name)? else { return Ok(()) };
        let Some(number) = self.store.device(row.id)? else { return Ok(()) };
        after_udev();
        if let Err(error) = self.hand_over(&row, &device, number) {
            self.warn(&format!("the device of activation {name} is not given away: {error}"), &[]);
        }
        Ok(())
    }

    /// Whatever of this is not as it is remembered, as after a boot, or where udev has been at it. It is no repair:
    /// nothing waits for it or fails by it.
    pub(crate) fn hand_over_all(&mut self) {
        let names = self.registry.devices().unwrap_or_default();
        for (name, _) in names {
            if let Err(error) = self.hand_over_one(&name) {
                // A daemon comes by every few seconds.
                let talk = if self.nodes { 1 } else { 2 };
                self.say(
                    talk,
                    format_args!("the device of activation {name} is not given away: {error}"),
                );
            }
        }
    }

    fn hand_over_one(&mut self, name: &str) -> Result<(), Error> {
        let Some(_mine) = self.locks.try_activation(name)? else { return Ok(()) };
        let Some(row) = self.registry.activation(name)? else { return Ok(()) };
        let device = self.registry.device(name)?;
        match (row.state, self.store.device(row.id)?) {
            // It is on its way out, and nobody opens it anew.
            (ActivationState::Active, Some(_)) if row.when_closed.is_some() && self.nodes => {
                self.take_node(&row)
            }
            (ActivationState::Active, Some(_)) if row.when_closed.is_some() => Ok(()),
            (ActivationState::Active, Some(number)) => {
                if self.hand_over(&row, &device, number)? {
                    self.say(
                        1,
                        format_args!("recovery: give the device of activation {name} away again"),
                    );
                }
                Ok(())
            }
            // Somebody has taken it down who could not remove the node.
            (ActivationState::Inactive, None) if self.nodes => self.take_node(&row),
            _ => Ok(()),
        }
    }

    /// Whether an activation can go without a node of it staying: what a process does not see it cannot remove.
    ///
    /// # Errors
    /// [`Amiss::HasNode`].
    pub(crate) fn leaves_no_node(&self, name: &str) -> Result<(), Error> {
        let device = self.registry.device(name)?;
        match (device.node, device.node_leads_to) {
            (Some(node), Some(_)) if !self.nodes => {
                Err(Error::Amiss(Amiss::HasNode { name: name.into(), node }))
            }
            _ => Ok(()),
        }
    }

    /// Removes the node of an activation, where this process does such and it is that node still. The caller holds
    /// the activation's lock.
    pub(crate) fn take_node(&mut self, row: &Activation) -> Result<(), Error> {
        let device = self.registry.device(&row.name)?;
        let (Some(path), Some(leads)) = (&device.node, &device.node_leads_to) else {
            return Ok(());
        };
        if !self.nodes {
            // It has to go down all the same, as what is no longer trusted: then people are told.
            let line = format!(
                "activation {} goes down, and its node {} stays where only a command sees it; remove it",
                row.name, path
            );
            self.warn(&line, &[("activation", row.name.as_str().into())]);
            return Ok(());
        }
        match Place::open(Path::new(path)) {
            Ok(place) => {
                let ours = |is: &FileStat| leads_to(is).map(text_of).as_ref() == Some(leads);
                if place.found()?.as_ref().is_some_and(ours) {
                    place.remove()?;
                }
            }
            // The jail is gone, and the node with it.
            Err(Error::Unfit(_)) => {}
            Err(error) => return Err(error),
        }
        Ok(self.registry.write(|write| write.put_node(&row.name, None))?)
    }

    /// Removes the node of an activation that another process is about to take down. One that somebody has open,
    /// and that is to go only if nobody has, keeps it.
    ///
    /// # Errors
    /// Those of removing it.
    pub fn take_node_before(&mut self, name: &str, when_closed: bool) -> Result<(), Error> {
        let _mine = self.locks.activation(name)?;
        let Some(row) = self.registry.activation(name)? else { return Ok(()) };
        if !when_closed && self.store.held(row.id)?.is_some() {
            return Ok(());
        }
        self.take_node(&row)
    }
}
