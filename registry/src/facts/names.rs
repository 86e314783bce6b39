//! A new name of an activation: the row has it first, and what the store has follows.

use crate::error::Error;
use crate::write::Write;

impl Write<'_> {
    /// Gives an activation another name, and notes that what the store has of it may still have the former one.
    /// Everything that is known of it stays with it.
    ///
    /// # Errors
    /// [`Error::Conflict`] where the name is taken, or the activation is gone.
    pub fn rename_activation(&self, name: &str, new: &str) -> Result<(), Error> {
        let query = "SELECT state FROM activations WHERE name = ?1";
        if let Some(found) = self.ask::<String>(query, [new])? {
            let subject = format!("activation {new}");
            return Err(Error::Conflict { subject, expected: "none", found: Some(found) });
        }
        let state: Option<String> = self.ask(query, [name])?;
        // A link or device that an earlier change of names has left goes by the name that it has.
        let changed = self.run(
            "UPDATE activations SET name = ?2, former = ifnull(former, name) WHERE name = ?1
               AND state IN ('active', 'inactive')",
            (name, new),
        )?;
        self.expect_one(changed, &format!("activation {name}"), "active or inactive", query, name)?;
        let state = state.as_deref();
        self.event(&format!("activation {name}"), state, None, &format!("is named {new} now"))?;
        self.event(&format!("activation {new}"), None, state, &format!("was named {name}"))
    }

    /// What the store has of it has its name now.
    ///
    /// # Errors
    /// [`Error::Sqlite`].
    pub fn settle_name(&self, name: &str) -> Result<(), Error> {
        self.run("UPDATE activations SET former = NULL WHERE name = ?1", [name]).map(drop)
    }
}
