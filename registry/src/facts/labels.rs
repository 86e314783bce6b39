//! Labels: what operators say of an activation, by key. They go with the activation, and a new name leaves them.

use std::collections::BTreeMap;

use crate::error::Error;
use crate::file::schema::Registry;
use crate::ids::VolumeId;
use crate::rows::get;
use crate::write::Write;

impl Registry {
    /// The labels of one activation, by key.
    ///
    /// # Errors
    /// [`Error::Sqlite`], [`Error::Corrupt`].
    pub fn labels(&self, name: &str) -> Result<BTreeMap<String, String>, Error> {
        let subject = format!("activation {name}");
        let labels = self.all(
            "SELECT l.key, l.value FROM labels l JOIN activations a ON a.id = l.activation
             WHERE a.name = ?1 ORDER BY l.key",
            [name],
            |row| Ok((get(row, 0, &subject)?, get(row, 1, &subject)?)),
        )?;
        Ok(labels.into_iter().collect())
    }

    /// Those of all activations, by id.
    ///
    /// # Errors
    /// [`Error::Sqlite`], [`Error::Corrupt`].
    pub fn all_labels(&self) -> Result<BTreeMap<VolumeId, BTreeMap<String, String>>, Error> {
        let sql = "SELECT activation, key, value FROM labels ORDER BY activation, key";
        let mut all: BTreeMap<VolumeId, BTreeMap<String, String>> = BTreeMap::new();
        let rows: Vec<(VolumeId, String, String)> = self.all(sql, [], |row| {
            Ok((get(row, 0, "labels")?, get(row, 1, "labels")?, get(row, 2, "labels")?))
        })?;
        for (id, key, value) in rows {
            all.entry(id).or_default().insert(key, value);
        }
        Ok(all)
    }
}

impl Write<'_> {
    pub(crate) fn put_label(&self, id: VolumeId, key: &str, value: &str) -> Result<(), Error> {
        self.run(
            "INSERT INTO labels(activation, key, value) VALUES (?1, ?2, ?3)
             ON CONFLICT DO UPDATE SET value = excluded.value",
            (id, key, value),
        )
        .map(drop)
    }

    /// Changes the labels of an activation: none removes a key. Gives how many it has then; the caller knows how
    /// many it may have, and an error of the caller's takes all of it back. What is so already is no change.
    ///
    /// # Errors
    /// [`Error::Sqlite`].
    pub fn change_labels(
        &self,
        name: &str,
        changes: &BTreeMap<String, Option<String>>,
    ) -> Result<u64, Error> {
        let id: Option<VolumeId> =
            self.ask("SELECT id FROM activations WHERE name = ?1", [name])?;
        let Some(id) = id else { return Ok(0) };
        let mut told = Vec::new();
        for (key, value) in changes {
            let before: Option<String> =
                self.ask("SELECT value FROM labels WHERE activation = ?1 AND key = ?2", (id, key))?;
            match value {
                same if *same == before => {}
                Some(value) => {
                    self.put_label(id, key, value)?;
                    told.push(format!("{key}={value}"));
                }
                None => {
                    self.run("DELETE FROM labels WHERE activation = ?1 AND key = ?2", (id, key))?;
                    told.push(format!("{key}-"));
                }
            }
        }
        if !told.is_empty() {
            self.told(name, &format!("labels: {}", told.join(" ")))?;
        }
        let count = self.ask("SELECT count(*) FROM labels WHERE activation = ?1", [id])?;
        Ok(count.unwrap_or(0))
    }
}
