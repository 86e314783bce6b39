//! Who asks for what is done here: a person, unless the run that is taken up says that a document of a fleet does.

use registry::{Asker, RunId};
use serde_json::Value;

use crate::error::Error;
use crate::error::class::Class;
use crate::host::Host;

impl Host {
    /// Who has asked for the run that is under way, or about to be taken up.
    pub(crate) fn asker(&self) -> Result<Asker, Error> {
        let Some(run) = self.run.or(self.taking_up) else { return Ok(Asker::Person) };
        Ok(self.registry.run(run)?.map_or(Asker::Person, |run| run.asker()))
    }

    /// A run that is taken up keeps by whom and by which document it was asked for.
    pub(crate) fn keep_asker(&self, run: Option<RunId>, input: &mut Value) -> Result<(), Error> {
        let Some(run) = run else { return Ok(()) };
        let kept = self.registry.run(run)?.map_or_else(String::new, |run| run.input);
        let kept: Value = serde_json::from_str(&kept).unwrap_or_default();
        for key in ["by", "document"] {
            if let Some(value) = kept.get(key) {
                input[key] = value.clone();
            }
        }
        Ok(())
    }

    /// Somebody asks for an activation that is up: a person who does is remembered, as no document takes it away
    /// from then on.
    pub(crate) fn asked_again(&mut self, name: &str, image: &str) -> Result<(), Error> {
        let mine = |asked: Option<&registry::Asked>| asked.is_some_and(|asked| !asked.person);
        if self.asker()? == Asker::Document
            || !mine(self.registry.activation_askers()?.get(name))
                && !mine(self.registry.image_askers()?.get(image))
        {
            return Ok(());
        }
        Ok(self.registry.write(|write| {
            write.activation_asked(name, Asker::Person, false)?;
            write.image_asked(image, Asker::Person, false)
        })?)
    }
}

/// Why a document's run takes nothing away: a person was faster.
pub(crate) fn is_a_persons(what: &str) -> Error {
    let message = format!(
        "{what} is left: a person has asked for it, or pinned it, and a document takes away only what a document \
         brought"
    );
    Error::Told { class: Class::Cancelled, message }
}
