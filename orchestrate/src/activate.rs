//! `activate` and `deactivate`: a writable snapshot of an image's top layer, under a name.

use std::path::PathBuf;
use std::time::Instant;

use fetch::ImageRef;
use registry::{ActivationState, NewActivation, Verb, Volume};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::ensure::{Ensured, millis};
use crate::perform;
use crate::plan::{self, ActivationStep, Wish};
use crate::policy::Step;
use crate::{Error, Host};

/// More than any plan takes; a plan that does not end is a bug and not a loop.
const STEPS_MAX: usize = 16;

/// How an image is to be activated.
#[derive(Clone, Copy, Debug, Default)]
pub struct ActivateOptions {
    /// Size of the device, bytes, where it is to be larger than the image's volume.
    pub bytes: Option<u64>,
    /// Take the image as it is on this host, and ask no server what it is now.
    pub no_fetch: bool,
    /// Only tell what would be done.
    pub dry_run: bool,
}

/// What `activate` did.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Activated {
    /// The activation's name.
    pub name: String,
    /// Its image.
    pub image: String,
    /// Where it is: a block device, or a directory for `dir` stores.
    pub path: PathBuf,
    /// `thin` or `dir`.
    pub store: String,
    /// Its volume; none while only planned.
    pub volume: Option<u32>,
    /// Its size, bytes.
    pub bytes: u64,
    /// Whether it was there before and nothing had to be done.
    pub already: bool,
    /// What became of the image; none when it was not looked at.
    pub ensured: Option<Ensured>,
    /// Device-mapper calls that it took, without those of recovery before it.
    pub ioctls: u64,
    /// Whether nothing was done on purpose.
    pub dry_run: bool,
    /// Wall time, milliseconds.
    pub ms: u64,
}

/// What `deactivate` did.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Deactivated {
    /// The activation's name.
    pub name: String,
    /// Whether there was anything to do.
    pub changed: bool,
    /// Whether nothing was done on purpose.
    pub dry_run: bool,
}

/// What is counted from.
#[derive(Clone, Copy)]
struct Begun {
    at: Instant,
    ioctls: u64,
}

/// A name that may be a device's, a file's and a shell word.
///
/// # Errors
/// [`Error::Usage`] saying which rule it breaks.
pub fn check_name(name: &str) -> Result<(), Error> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '+');
    let good_start = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if good_start && name.len() <= 100 && name.chars().all(plain) && name != "control" {
        return Ok(());
    }
    Err(Error::Usage(format!(
        "--name {name:?}: 1 to 100 of A-Z a-z 0-9 - _ . +, the first a letter or digit"
    )))
}

impl Host {
    /// Makes sure that `image` is mapped, read-write, under `name`.
    ///
    /// What is active already is left alone, without a look at the network.
    ///
    /// # Errors
    /// [`Error::Taken`] when the name belongs to another image; [`Error::NotHere`] when it would
    /// have to be fetched and must not be.
    pub fn activate(
        &mut self,
        image: &ImageRef,
        name: &str,
        options: ActivateOptions,
    ) -> Result<Activated, Error> {
        let ActivateOptions { bytes, no_fetch, dry_run } = options;
        check_name(name)?;
        let reference = image.to_string();
        // What is up already is no run: it costs no write, and waits for nobody.
        let begun = self.begins();
        if self.is_up(name, &reference)? {
            return self.activated(name, reference, true, None, dry_run, begun);
        }
        if dry_run {
            return self.activate_alone(image, name, options);
        }
        let input = json!({"image": reference, "bytes": bytes, "no_fetch": no_fetch});
        self.as_run(Verb::Activate, name, input, |host| host.activate_alone(image, name, options))
    }

    /// Whether `name` is an activation of this image and mapped.
    pub(crate) fn is_up(&self, name: &str, reference: &str) -> Result<bool, Error> {
        let row = self.registry.activation(name)?;
        let Some(row) = row.filter(|row| row.reference == reference) else { return Ok(false) };
        let step = plan::activation(Some(row.state), self.store.mapping(name)?, Wish::Up);
        Ok(step == ActivationStep::Done)
    }

    fn activate_alone(
        &mut self,
        image: &ImageRef,
        name: &str,
        ActivateOptions { bytes, no_fetch, dry_run }: ActivateOptions,
    ) -> Result<Activated, Error> {
        let begun = self.begins();
        let reference = image.to_string();
        let _mine = self.locks.activation(name)?;
        let row = self.registry.activation(name)?;
        if let Some(row) = row.as_ref().filter(|row| row.reference != reference) {
            let by = format!("an activation of {}", row.reference);
            return Err(Error::Taken { name: name.into(), by });
        }
        let mapping = self.store.mapping(name)?;
        let first = plan::activation(row.as_ref().map(|row| row.state), mapping, Wish::Up);
        let already = first == ActivationStep::Done;
        let _using = self.locks.images_shared()?;
        let wanted = first == ActivationStep::Reserve;
        let ensured = match wanted && !no_fetch {
            true => Some(self.ensure_in_use(image, dry_run)?),
            false => None,
        };
        let top = match wanted && no_fetch {
            true => Some(self.present(&reference)?),
            false => ensured.as_ref().and_then(|ensured| ensured.top.clone()),
        };
        if first != ActivationStep::Done && !dry_run {
            let origin = row.as_ref().map(|row| self.registry.volume(row.origin)).transpose()?;
            if let Some(top) = top.clone().or(origin.flatten()) {
                self.permit(&reference, &top)?;
            }
        }
        if let (Some(top), false) = (top, dry_run) {
            let bytes = bytes.unwrap_or(top.bytes).max(top.bytes);
            let new = NewActivation { name, reference: &reference, origin: top.id, bytes };
            perform::reserve_activation(self, &new).or_else(|error| self.unborn(name, error))?;
        }
        if !dry_run {
            self.patiently(Step::Device, |host| host.drive(name, Wish::Up))
                .or_else(|error| self.unborn(name, error))?;
        }
        self.activated(name, reference, already, ensured, dry_run, begun)
    }

    /// The top volume of an image that is taken as it is here.
    fn present(&mut self, reference: &str) -> Result<Volume, Error> {
        if self.trusts() {
            return Err(Error::Usage(format!(
                "{reference}: a key is trusted, so its catalog has to be asked; leave --no-fetch out"
            )));
        }
        let image = self.registry.image(reference)?;
        let top = image.and_then(|image| image.layers.last().map(|layer| layer.volume));
        let top = top.map(|top| self.registry.volume(top)).transpose()?.flatten();
        top.ok_or_else(|| Error::NotHere { image: reference.into() })
    }

    fn begins(&self) -> Begun {
        Begun { at: Instant::now(), ioctls: self.store.ioctls() }
    }

    /// The activation as it stands.
    fn activated(
        &self,
        name: &str,
        reference: String,
        already: bool,
        ensured: Option<Ensured>,
        dry_run: bool,
        begun: Begun,
    ) -> Result<Activated, Error> {
        let row = self.registry.activation(name)?;
        Ok(Activated {
            name: name.into(),
            image: reference,
            path: self.store.path(name),
            store: self.store.binding().kind,
            volume: row.as_ref().map(|row| row.id),
            bytes: row.as_ref().map_or(0, |row| row.bytes),
            already,
            ensured,
            ioctls: self.store.ioctls() - begun.ioctls,
            dry_run,
            ms: millis(begun.at),
        })
    }

    /// Takes away the device of `name` and keeps what was written to it.
    ///
    /// # Errors
    /// [`Error::Unknown`].
    pub fn deactivate(&mut self, name: &str, dry_run: bool) -> Result<Deactivated, Error> {
        if dry_run {
            return self.deactivate_alone(name, true);
        }
        self.as_run(Verb::Deactivate, name, json!({}), |host| host.deactivate_alone(name, false))
    }

    fn deactivate_alone(&mut self, name: &str, dry_run: bool) -> Result<Deactivated, Error> {
        let _mine = self.locks.activation(name)?;
        let Some(row) = self.registry.activation(name)? else {
            return Err(Error::Unknown { what: "activation", name: name.into() });
        };
        let step = plan::activation(Some(row.state), self.store.mapping(name)?, Wish::Down);
        if !dry_run {
            self.patiently(Step::Device, |host| host.drive(name, Wish::Down))?;
        }
        Ok(Deactivated { name: name.into(), changed: step != ActivationStep::Done, dry_run })
    }

    /// An activation that nobody was told of leaves nothing behind when it fails.
    fn unborn(&mut self, name: &str, error: Error) -> Result<(), Error> {
        let row = self.registry.activation(name)?;
        if row.is_some_and(|row| row.state == ActivationState::Reserved)
            && let Err(second) = self.drive(name, Wish::Gone)
        {
            self.say(1, format_args!("activation {name} is left to recovery: {second}"));
        }
        Err(error)
    }

    /// Load, plan, perform, until it is as wished. The caller holds the activation's lock.
    pub(crate) fn drive(&mut self, name: &str, wish: Wish) -> Result<(), Error> {
        for _ in 0..STEPS_MAX {
            let state = self.registry.activation(name)?.map(|row| row.state);
            let step = plan::activation(state, self.store.mapping(name)?, wish);
            match step {
                ActivationStep::Done => return Ok(()),
                // Only `activate` knows of which image.
                ActivationStep::Reserve => {
                    return Err(Error::Unknown { what: "activation", name: name.into() });
                }
                ActivationStep::Publish
                | ActivationStep::Map
                | ActivationStep::Unmap
                | ActivationStep::Rest
                | ActivationStep::Condemn
                | ActivationStep::Delete => perform::activation_step(self, name, step)?,
            }
        }
        Err(Error::Usage(format!("activation {name:?} does not settle; this is a bug")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_be_read_as_something_else_are_refused() {
        for good in ["golang-1", "a", "A.b_c+d", &"x".repeat(100)] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in
            ["", ".", "..", "-x", ".x", "a/b", "a b", "a\n", "é", "control", "*", &"x".repeat(101)]
        {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
    }
}
