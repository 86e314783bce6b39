//! The servers that a host asks: one client for the bucket, one for each repository of a registry.

use std::cell::OnceCell;

use fetch::image::RegistryRef;

use crate::error::Error;
use crate::host::Host;
use crate::host::client::{client_of, heard};

impl Host {
    /// The options of requests, with who is told of waits and who may stop them.
    fn heard(&self) -> fetch::Options {
        let cancel = self.settings.cancel.clone();
        heard(&self.settings, fetch::Stop::new(move || cancel.is_set()))
    }

    pub(crate) fn client(&self) -> Result<&fetch::Client, Error> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let cancel = self.settings.cancel.clone();
        let client = client_of(&self.settings, fetch::Stop::new(move || cancel.is_set()))?;
        Ok(self.client.get_or_init(|| client))
    }

    /// A client of a repository of a registry.
    pub(crate) fn registry_client(&self, at: &RegistryRef) -> Result<fetch::Client, Error> {
        Ok(fetch::Client::registry(&self.heard(), at)?)
    }

    /// The next request is made with the settings as they are then.
    pub(crate) fn forget_client(&mut self) {
        self.client = OnceCell::new();
    }
}
