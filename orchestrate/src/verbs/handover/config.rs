//! What is kept of an image's config.

use registry::{Activation, Digest};

use crate::error::Error;
use crate::handover::program::Process;
use crate::handover::unfit::Unfit;
use crate::host::Host;

/// A config.
#[derive(Debug)]
pub(super) struct Kept {
    /// Its text, as it was received.
    pub(super) json: String,
    /// What is read of it.
    pub(super) process: Process,
}

impl Host {
    /// The config of an image; none of an image of numbered layers.
    pub(super) fn config_of_image(&self, reference: &str) -> Result<Option<Kept>, Error> {
        kept(self.image_text(reference)?, reference)
    }

    /// The config of the image that an activation was made of, which may be another by now.
    pub(super) fn config_of(&self, row: &Activation) -> Result<Option<Kept>, Error> {
        kept(self.activation_text(row)?, &row.reference)
    }

    fn image_text(&self, reference: &str) -> Result<Option<String>, Error> {
        let made = self.registry.made(reference)?;
        self.config_text(made.and_then(|made| made.config))
    }

    fn activation_text(&self, row: &Activation) -> Result<Option<String>, Error> {
        self.config_text(self.registry.activation_made_of(&row.name)?.config)
    }

    fn config_text(&self, digest: Option<Digest>) -> Result<Option<String>, Error> {
        let text = digest.map(|digest| self.registry.config(digest)).transpose()?;
        Ok(text.flatten())
    }
}

fn kept(json: Option<String>, image: &str) -> Result<Option<Kept>, Error> {
    let Some(json) = json else { return Ok(None) };
    let config = fetch::image::Config::read(json.as_bytes())
        .map_err(|source| Unfit::Config { image: image.to_owned(), source: Box::new(source) })?;
    Ok(Some(Kept { process: Process::from(&config), json }))
}
