//! `bundle`, `mount`, `umount`, and what `show` has of an image's config: an activation goes to what runs it.
//!
//! This is done by the command itself, never by a daemon: a mount is seen in the mount namespace that it is made
//! in, and a daemon's may be another than the caller's.

pub(crate) mod bundle;
mod config;
pub(crate) mod device;
pub(crate) mod mount;
pub(crate) mod node;

use std::path::{Path, PathBuf};

use registry::Activation;
use serde_json::Value;

use crate::error::Error;
use crate::handover::accounts::{self, Tables};
use crate::handover::machine::{self, Machine};
use crate::handover::program::{Instead, Of, Process, program};
use crate::handover::unfit::Unfit;
use crate::host::Host;

/// No honest table of users is longer.
const TABLE_BYTES_MAX: u64 = 1 << 20;

/// What is read of an image's own tree.
#[derive(Debug, Default)]
struct Own {
    passwd: Vec<u8>,
    group: Vec<u8>,
    /// Whether there is a second file with the machine's id, of D-Bus.
    bus_id: bool,
}

impl Own {
    fn tables(&self) -> Tables<'_> {
        Tables { passwd: &self.passwd, group: &self.group }
    }
}

/// A table of the image's; empty where there is none.
fn table(root: &unpack::Root, path: &'static str) -> Result<Vec<u8>, Error> {
    let read = unpack::read_file(root, path, TABLE_BYTES_MAX)
        .map_err(|source| Error::Tree { doing: "read a table of users", source })?;
    let bad = |why: String| Err(Unfit::Table { table: path, why }.into());
    match read {
        unpack::Found::Absent => Ok(Vec::new()),
        unpack::Found::Content(content) => Ok(content),
        unpack::Found::Odd(what) => bad(format!("is {what}")),
        unpack::Found::Long => bad(format!("has more than {TABLE_BYTES_MAX} bytes")),
    }
}

fn own(root: &unpack::Root) -> Result<Own, Error> {
    let bus_id = unpack::read_file(root, BUS_ID, TABLE_BYTES_MAX)
        .map_err(|source| Error::Tree { doing: "look for the machine's id", source })?;
    Ok(Own {
        passwd: table(root, accounts::PASSWD)?,
        group: table(root, accounts::GROUP)?,
        bus_id: matches!(bus_id, unpack::Found::Content(_) | unpack::Found::Long),
    })
}

/// Where D-Bus has the machine's id, if not by a link to the one of the system.
const BUS_ID: &str = "/var/lib/dbus/machine-id";

impl Host {
    /// The activation `name`, which is up and which nobody has spoken against.
    fn ready(&mut self, name: &str) -> Result<Activation, Error> {
        let Some(row) = self.registry.activation(name)? else {
            return Err(self.unknown("activation", name));
        };
        {
            let _using = self.locks.images_shared()?;
            if self.bar(&row)?.is_some_and(|bar| bar.why.is_verdict()) {
                self.permit_again(&row)?;
            }
        }
        if self.is_up(name, &row.reference)? {
            return Ok(row);
        }
        let state = match (row.when_closed, row.state.word()) {
            (Some(_), _) => "to go as soon as nobody has it open",
            (None, "active") => "not mapped",
            (None, word) => word,
        };
        Err(Unfit::NotUp { name: row.name, image: row.reference, state }.into())
    }

    /// Where an activation is: its device, or its directory as itself and not as a link.
    fn whereabouts(&self, row: &Activation) -> PathBuf {
        self.store.tree(row.id).unwrap_or_else(|| self.store.path(&row.name))
    }

    /// What is read of the tree that an activation is a snapshot of. It is the image's own, as it was sealed: who
    /// wrote to the activation since says nothing of whom it runs as, and nothing is mounted that a guest wrote.
    fn own_of(&self, row: &Activation) -> Result<Own, Error> {
        let Some(volume) = self.registry.volume(row.origin)? else {
            return Err(Error::Lost { volume: row.origin });
        };
        // Recovery and collection by another process leave a volume alone whose lock is held.
        let _mine = self.locks.build(&volume.build)?;
        self.still_sealed(volume.id)?;
        let view = {
            let _store = self.locks.store()?;
            self.store.look(volume.id, volume.bytes)?
        };
        let own = own(view.root());
        view.close()?;
        own
    }

    /// What a virtual machine on the activation `name` is started with.
    ///
    /// # Errors
    /// [`Error::Unknown`]; [`Error::Unfit`].
    pub fn machine(&mut self, name: &str) -> Result<Value, Error> {
        let row = self.ready(name)?;
        let (own, kept) = (self.own_of(&row)?, self.config_of(&row)?);
        let of = Of { image: &row.reference, config: kept.is_some() };
        let process = kept.map_or_else(Process::default, |kept| kept.process);
        // A machine may have a first program of its own.
        let program = program(&process, own.tables(), &Instead::default(), of, true)?;
        let (path, is_device) = (self.whereabouts(&row), self.store.tree(row.id).is_none());
        let (image, read_only) = (&row.reference, row.read_only);
        let one = Machine { name, image, path: &path, is_device, bytes: row.bytes, read_only };
        Ok(machine::machine(one, &program)?)
    }

    /// The config of an image, or of an activation's image, as it was received.
    ///
    /// # Errors
    /// [`Error::Unknown`]; [`Unfit::NoConfig`].
    pub fn image_json(&self, subject: &str) -> Result<String, Error> {
        let (kept, image) = match self.registry.activation(subject)? {
            Some(row) => (self.config_of(&row)?, row.reference),
            None => {
                let image = self.own_name(subject)?;
                if self.registry.image(&image)?.is_none() {
                    return Err(self.unknown("activation or image", subject));
                }
                (self.config_of_image(&image)?, image)
            }
        };
        match kept {
            Some(kept) => Ok(kept.json),
            None => Err(Unfit::NoConfig { image }.into()),
        }
    }
}

/// A path as a message has it.
fn shown(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
