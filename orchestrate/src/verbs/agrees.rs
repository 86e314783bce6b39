//! Whether a name stands for what is asked for: this image, of this server, of this size, writable or not, with these
//! labels and this time.

use registry::Activation;

use crate::error::Error;
use crate::host::Host;
use crate::verbs::activate::{ActivateOptions, is_told};
use crate::verbs::named::is_server;

impl Host {
    /// Whether what is asked for is what the name stands for, where it stands for something.
    ///
    /// # Errors
    /// [`Error::Taken`] by another image, or by the same from another server, with another size, or on other terms.
    pub(crate) fn agrees(
        &self,
        name: &str,
        reference: &str,
        options: &ActivateOptions,
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
        if row.read_only != options.read_only {
            let words = |read_only| if read_only { "read-only" } else { "writable" };
            let (is, asked) = (words(row.read_only), words(options.read_only));
            return taken(format!(
                "a {is} activation of the same image, and a {asked} one was asked for"
            ));
        }
        if let Some(why) = self.other_terms(&row, options)? {
            return taken(why);
        }
        let Some(asked) = options.bytes else { return Ok(()) };
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

    /// What else is asked for and is not so; only what is asked for counts, as with a size.
    fn other_terms(
        &self,
        row: &Activation,
        options: &ActivateOptions,
    ) -> Result<Option<String>, Error> {
        let name = &row.name;
        if let Some(asked) = options.ttl_s
            && row.ttl.map(|ttl| ttl.seconds) != Some(asked)
        {
            let is = row
                .ttl
                .map_or("without a ttl".into(), |ttl| format!("with a ttl of {} s", ttl.seconds));
            return Ok(Some(format!(
                "an activation of the same image {is}, and one of {asked} s was asked for; `orchestrate ttl {name}` \
                 changes it"
            )));
        }
        if options.no_journal && !row.no_journal {
            return Ok(Some(
                "an activation of the same image with a journal, and one without was asked for"
                    .into(),
            ));
        }
        if options.labels.is_empty() {
            return Ok(None);
        }
        let labels = self.registry.labels(name)?;
        let other = options.labels.iter().find(|(key, value)| labels.get(*key) != Some(value));
        Ok(other.map(|(key, value)| {
            format!(
                "an activation of the same image without the label {key}={value}, which was asked for; `orchestrate \
                 label {name}` changes it"
            )
        }))
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
