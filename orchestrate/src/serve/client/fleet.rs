//! What the daemon knows of its fleet.

use crate::error::Error;
use crate::fleet::Status;
use crate::serve::client::Client;

impl Client {
    /// The document that the daemon follows, this host's place in it, and what it waits for.
    ///
    /// # Errors
    /// [`Error::Told`] where the daemon is in no fleet.
    pub fn fleet(&self) -> Result<Status, Error> {
        self.ask("GET", "/v1/fleet", None)
    }
}
