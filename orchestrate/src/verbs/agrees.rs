//! Whether a name stands for what is asked for: this image, of this server, of this size.

use registry::Activation;

use crate::error::Error;
use crate::host::Host;
use crate::verbs::activate::is_told;
use crate::verbs::named::is_server;

impl Host {
    /// Whether what is asked for is what the name stands for, where it stands for something.
    ///
    /// # Errors
    /// [`Error::Taken`] by another image, or by the same from another server or with another size.
    pub(crate) fn agrees(
        &self,
        name: &str,
        reference: &str,
        bytes: Option<u64>,
    ) -> Result<(), Error> {
        // What is only reserved is told of by its run, as long as that lives.
        let row = self.registry.activation(name)?;
        let Some(row) = row.filter(is_told) else { return Ok(()) };
        let taken = |by| Err(Error::Taken { name: name.into(), by });
        if row.reference != reference {
            return taken(format!("an activation of {}", row.reference));
        }
        if let Some((from, asked)) = self.other_server(&row)? {
            return taken(format!(
                "an activation of {reference} from {from}, and {asked} was asked for"
            ));
        }
        let Some(asked) = bytes else { return Ok(()) };
        // It was never smaller than its image's volume, whatever was asked.
        let least = self.registry.volume(row.origin)?.map_or(0, |origin| origin.bytes);
        let size = |bytes: u64| self.store.device_bytes(bytes);
        match size(asked.max(least)) == size(row.bytes) {
            true => Ok(()),
            false => taken(format!(
                "an activation of the same image with {} bytes, and {asked} were asked for",
                row.bytes
            )),
        }
    }

    /// The server that an activation came from, and the one that is named now, where they differ.
    fn other_server(&self, row: &Activation) -> Result<Option<(String, String)>, Error> {
        let Some(asked) = self.settings.fetch.named_endpoint()? else { return Ok(None) };
        let from = match &row.endpoint {
            Some(from) => Some(from.clone()),
            // An older program did not keep it: the image tells, as long as it is the same stack.
            None => {
                let image = self.registry.image(&row.reference)?;
                let same = |image: &registry::Image| {
                    image.layers.last().is_some_and(|top| top.volume == row.origin)
                };
                image.filter(same).map(|image| image.endpoint)
            }
        };
        let other = |from: &String| is_server(from) && *from != asked;
        Ok(from.filter(other).map(|from| (from, asked)))
    }
}
