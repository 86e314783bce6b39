//! Rows that turned out not to stand for what they should: volumes that are never used again, and ids
//! that are somebody else's.

use sha2::{Digest as _, Sha256};

use crate::digest::Digest;
use crate::error::Error;
use crate::ids::VolumeId;
use crate::write::Write;

impl Write<'_> {
    /// A sealed layer is never built on or handed out again. Its chain id is free for a sound one, and
    /// stays with it as what it was sealed as. False when it is no sealed layer, or was condemned before.
    pub fn condemn_volume(&self, id: VolumeId, why: &str) -> Result<bool, Error> {
        let changed = self.run(
            "UPDATE volumes SET condemned = ?2, sealed_chain = chain, chain = ?3
             WHERE id = ?1 AND role = 'layer' AND state = 'sealed' AND condemned IS NULL",
            (id, why, tombstone(id).hex()),
        )?;
        if changed == 1 {
            let detail = format!("condemned: {why}");
            self.event(&format!("volume {id}"), Some("sealed"), Some("sealed"), &detail)?;
        }
        Ok(changed == 1)
    }

    /// The template is to be made again before anything is built on it.
    pub fn condemn_template(&self, id: VolumeId, why: &str) -> Result<(), Error> {
        let changed = self.run(
            "UPDATE volumes SET condemned = ?2
             WHERE id = ?1 AND role = 'template' AND state = 'sealed' AND condemned IS NULL",
            (id, why),
        )?;
        if changed == 1 {
            let detail = format!("condemned: {why}");
            self.event(&format!("volume {id}"), Some("sealed"), Some("sealed"), &detail)?;
        }
        Ok(())
    }

    /// The condemned template is about to be made again; the caller takes the next transaction id.
    pub fn remake_template(&self, id: VolumeId) -> Result<(), Error> {
        self.run(
            "UPDATE volumes SET reserved_at = (SELECT transaction_id + 1 FROM meta)
             WHERE id = ?1 AND condemned IS NOT NULL",
            [id],
        )
        .map(drop)
    }

    /// The template is whole again.
    pub fn absolve_template(&self, id: VolumeId) -> Result<(), Error> {
        self.run("UPDATE volumes SET condemned = NULL WHERE id = ?1 AND role = 'template'", [id])?;
        self.event(&format!("volume {id}"), Some("sealed"), Some("sealed"), "made again")
    }

    /// Drops the row of a volume whose id the store has from somebody else. The store is not touched, and
    /// the id is not given again. That its build was begun does not count.
    pub fn disown_volume(&self, id: VolumeId, why: &str) -> Result<(), Error> {
        let from: Option<String> = self.ask("SELECT state FROM volumes WHERE id = ?1", [id])?;
        if from.as_deref() == Some("building") {
            let build = "(SELECT build FROM volumes WHERE id = ?1)";
            self.run(&format!("DELETE FROM attempts WHERE build = {build} AND begun = 1"), [id])?;
            let fewer = format!("UPDATE attempts SET begun = begun - 1 WHERE build = {build}");
            self.run(&fewer, [id])?;
        }
        self.run(
            "UPDATE volumes SET state = 'deleting', chain = NULL WHERE id = ?1 AND state <> 'deleting'",
            [id],
        )?;
        self.run("DELETE FROM volumes WHERE id = ?1", [id])?;
        self.event(&format!("volume {id}"), from.as_deref(), None, why)
    }

    /// As [`Write::disown_volume`], for an activation.
    pub fn disown_activation(&self, name: &str, why: &str) -> Result<(), Error> {
        let query = "SELECT state FROM activations WHERE name = ?1";
        let from: Option<String> = self.ask(query, [name])?;
        self.run(
            "UPDATE activations SET state = 'deleting' WHERE name = ?1 AND state <> 'deleting'",
            [name],
        )?;
        self.run("DELETE FROM activations WHERE name = ?1", [name])?;
        self.event(&format!("activation {name}"), from.as_deref(), None, why)
    }
}

/// What a condemned volume has for a chain id: no stack has it, and no other volume.
pub(crate) fn tombstone(id: VolumeId) -> Digest {
    Digest(Sha256::digest(format!("condemned volume {id}").as_bytes()).into())
}
