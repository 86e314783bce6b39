//! To whom the device of an activation is given, and where it has a second node: remembered, since a device is made
//! anew whenever its activation comes up.

use rusqlite::Row;

use crate::error::Error;
use crate::file::schema::Registry;
use crate::rows::get;
use crate::write::Write;

/// To whom a device is given; what is none is left as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// The user.
    pub uid: Option<u32>,
    /// The group.
    pub gid: Option<u32>,
    /// Permissions.
    pub mode: Option<u32>,
    /// The path of the second node.
    pub node: Option<String>,
    /// Which device that node was made to lead to, `major:minor`: it is recorded before the node is made, so that
    /// whatever a killed process made is known for ours. None where there is no node now.
    pub node_leads_to: Option<String>,
}

const COLUMNS: &str = "device_uid, device_gid, device_mode, node, node_dev";

impl Registry {
    /// To whom the device of an activation is given; nothing where nobody asked for it.
    ///
    /// # Errors
    /// [`Error::Sqlite`], [`Error::Corrupt`].
    pub fn device(&self, name: &str) -> Result<Device, Error> {
        let subject = format!("activation {name}");
        let sql = format!("SELECT {COLUMNS} FROM activations WHERE name = ?1");
        let found = self.one(&sql, [name], |row| device(row, &subject))?;
        Ok(found.unwrap_or_default())
    }

    /// Those of all activations that are given to anybody, by name.
    ///
    /// # Errors
    /// [`Error::Sqlite`], [`Error::Corrupt`].
    pub fn devices(&self) -> Result<Vec<(String, Device)>, Error> {
        let sql = format!(
            "SELECT {COLUMNS}, name FROM activations WHERE device_uid IS NOT NULL OR device_mode IS NOT NULL
               OR node IS NOT NULL ORDER BY name"
        );
        self.all(&sql, [], |row| {
            let name: String = get(row, 5, "activation")?;
            let device = device(row, &format!("activation {name}"))?;
            Ok((name, device))
        })
    }
}

impl Write<'_> {
    /// Remembers to whom the device of an activation is given.
    ///
    /// # Errors
    /// [`Error::Sqlite`].
    pub fn put_device(&self, name: &str, device: &Device) -> Result<(), Error> {
        self.run(
            "UPDATE activations SET device_uid = ?2, device_gid = ?3, device_mode = ?4, node = ?5, node_dev = ?6
             WHERE name = ?1",
            (name, device.uid, device.gid, device.mode, &device.node, &device.node_leads_to),
        )
        .map(drop)
    }

    /// Its second node leads to this device now, or is gone.
    ///
    /// # Errors
    /// [`Error::Sqlite`].
    pub fn put_node(&self, name: &str, leads_to: Option<&str>) -> Result<(), Error> {
        let sql = "UPDATE activations SET node_dev = ?2 WHERE name = ?1 AND node_dev IS NOT ?2";
        self.run(sql, (name, leads_to)).map(drop)
    }
}

fn device(row: &Row<'_>, subject: &str) -> Result<Device, Error> {
    Ok(Device {
        uid: get(row, 0, subject)?,
        gid: get(row, 1, subject)?,
        mode: get(row, 2, subject)?,
        node: get(row, 3, subject)?,
        node_leads_to: get(row, 4, subject)?,
    })
}
