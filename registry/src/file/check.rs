//! Is the registry sound in itself? The store is not asked; that is recovery's work.

use serde::Serialize;

use crate::digest::chain_id;
use crate::error::Error;
use crate::file::schema::Registry;
use crate::state::VolumeState;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Which check found it.
    pub check: &'static str,
    /// What it found.
    pub message: String,
}

impl Registry {
    /// Runs SQLite's own checks, decodes every row, and recomputes every chain id.
    /// An empty list means sound.
    ///
    /// # Errors
    /// [`Error::Sqlite`] when the file cannot be read at all.
    pub fn check(&self) -> Result<Vec<Finding>, Error> {
        let mut findings = Vec::new();
        let lines =
            self.all("PRAGMA integrity_check", [], |row| crate::rows::get(row, 0, "check"))?;
        for line in lines.into_iter().filter(|line: &String| line != "ok") {
            findings.push(Finding { check: "integrity_check", message: line });
        }
        let broken = self.all("PRAGMA foreign_key_check", [], |row| {
            let table: String = crate::rows::get(row, 0, "check")?;
            let parent: String = crate::rows::get(row, 2, "check")?;
            Ok(format!("a row of {table} refers to a missing row of {parent}"))
        })?;
        findings.extend(
            broken.into_iter().map(|message| Finding { check: "foreign_key_check", message }),
        );
        match self.volumes() {
            Ok(volumes) => findings.extend(self.chains(&volumes)),
            Err(error) => {
                findings.push(Finding { check: "decode", message: error.to_string() });
            }
        }
        for decoded in [self.images().err(), self.activations().err()].into_iter().flatten() {
            findings.push(Finding { check: "decode", message: decoded.to_string() });
        }
        Ok(findings)
    }

    /// A sealed layer's chain id must follow from its parent's, and its parent must be sealed.
    fn chains(&self, volumes: &[crate::rows::Volume]) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut find = |message| findings.push(Finding { check: "chain", message });
        for volume in volumes {
            let VolumeState::Sealed(seal) = &volume.state else { continue };
            let (Some(parent), Some(diff)) = (volume.parent, seal.diff) else { continue };
            let below = volumes.iter().find(|candidate| candidate.id == parent);
            let Some(VolumeState::Sealed(below)) = below.map(|below| &below.state) else {
                find(format!("volume {} is sealed on volume {parent}, which is not", volume.id));
                continue;
            };
            // What stands on a layer of which a rebuild knew no more cannot be recomputed; it is not used.
            if volume.condemned.is_none() && seal.chain != Some(chain_id(below.chain, diff)) {
                find(format!(
                    "volume {} has a chain id that is not its parent's and its own",
                    volume.id
                ));
            }
        }
        findings
    }
}
