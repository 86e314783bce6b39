//! `activate`: a writable snapshot of an image's top layer, under a name.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use fetch::Reference;
use registry::{Activation, ActivationState, NewActivation, Verb, Volume, VolumeId};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::handover::copies::CopyIn;
use crate::handover::device::Given;
use crate::host::Host;
use crate::host::run::millis;
use crate::plan::retry::Step;
use crate::plan::{self, ActivationStep, Mapping, Wish};
use crate::verbs::condemned::UNUSABLE_MAX;
use crate::verbs::ensure::Ensured;
use crate::verbs::named::{check_name, is_server};
use crate::verbs::{activation, copies};

/// More than any plan takes; a plan that does not end is a bug and not a loop.
const STEPS_MAX: usize = 16;

/// How an image is to be activated.
#[derive(Clone, Debug, Default)]
pub struct ActivateOptions {
    /// Size of the device, bytes, where it is to be larger than the image's volume.
    pub bytes: Option<u64>,
    /// Take the image as it is on this host, and ask no server what it is now.
    pub no_fetch: bool,
    /// Only tell what would be done.
    pub dry_run: bool,
    /// Files to be put into it where it is new.
    pub copies: Vec<CopyIn>,
    /// What is said of it.
    pub labels: BTreeMap<String, String>,
    /// For how long it is kept, seconds; none: until somebody removes it.
    pub ttl_s: Option<u64>,
    /// Whether its device is to refuse writes.
    pub read_only: bool,
    /// Whether its file system is to have no journal.
    pub no_journal: bool,
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
    pub volume: Option<VolumeId>,
    /// Its size, bytes.
    pub bytes: u64,
    /// Whether its device refuses writes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
    /// Whether it was there before and nothing had to be done.
    pub already: bool,
    /// What became of the image; none when it was not looked at.
    pub ensured: Option<Ensured>,
    /// How many files were copied into it; none where it was there before.
    #[serde(default)]
    pub copied: usize,
    /// To whom its device was given, where somebody asked for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<Given>,
    /// Device-mapper calls that it took, without those of recovery before it.
    pub ioctls: u64,
    /// Whether nothing was done on purpose.
    pub dry_run: bool,
    /// Wall time, milliseconds.
    pub ms: u64,
}

/// What is counted from.
#[derive(Clone, Copy)]
struct Begun {
    at: Instant,
    ioctls: u64,
}

const NO_FILE_SYSTEM: &str = "--no-journal: activations of a directory store are directories, and the journal is that of the \
                              file system they lie in";

/// How an activation came up.
#[derive(Clone, Copy, Debug, Default)]
struct CameUp {
    /// Whether it was up before.
    already: bool,
    /// How many files were copied into it.
    copied: usize,
}

/// Whether somebody was told of this activation, and nobody that it is gone.
pub(crate) fn is_told(row: &Activation) -> bool {
    matches!(row.state, ActivationState::Active | ActivationState::Inactive)
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
        image: &Reference,
        name: &str,
        options: ActivateOptions,
    ) -> Result<Activated, Error> {
        check_name(name)?;
        options.check()?;
        let (image, here) = self.here(image)?;
        let mut options = ActivateOptions { no_fetch: options.no_fetch || here, ..options };
        let ActivateOptions { no_fetch, dry_run, .. } = options;
        let reference = image.to_string();
        if !dry_run {
            self.end_earlier(name)?;
        }
        // What is up already is no run: it costs no write, and waits for nobody.
        let begun = self.begins();
        self.agrees(name, &reference, &options)?;
        if self.is_up(name, &reference)? {
            if !dry_run {
                self.asked_again(name, &reference)?;
            }
            let up = CameUp { already: true, copied: 0 };
            return self.activated(name, reference, up, None, dry_run, begun);
        }
        if options.no_journal && self.store.disks().is_none() {
            return Err(Error::Usage(NO_FILE_SYSTEM.into()));
        }
        if self.store.keeps_name(name) {
            let what = "a build or a look on this pool may need a device of this name";
            return Err(Error::Usage(format!("--name {name:?}: {what}: choose another")));
        }
        options.copies = copies::looked_at(&options.copies, &self.way, &self.settings.cancel)?;
        if dry_run {
            let ensured = self.would_be_ensured(&image, name, no_fetch)?;
            return self.activated(name, reference, CameUp::default(), ensured, true, begun);
        }
        let asked = std::mem::take(&mut self.asked_catalog);
        if let Some(row) = self.registry.activation(name)? {
            // Before any lock: who waits for the server keeps nobody from what is here.
            if !asked {
                self.look_at_catalog()?;
            }
            if is_told(&row) {
                self.sign_again(&row)?;
            }
        }
        self.end_earlier(&reference)?;
        let input = options.to_json(&reference);
        self.as_run(Verb::Activate, name, input, |host| host.activate_alone(&image, name, &options))
    }

    /// Whether `name` is an activation of this image and mapped.
    pub(crate) fn is_up(&self, name: &str, reference: &str) -> Result<bool, Error> {
        let row = self.registry.activation(name)?;
        let of_image = |row: &Activation| row.reference == reference && row.when_closed.is_none();
        let Some(row) = row.filter(of_image) else { return Ok(false) };
        let mapping = self.store.mapping(row.id, name)?;
        Ok(plan::activation(Some(row.state), mapping, Wish::Up) == ActivationStep::Done)
    }

    /// What would become of the image.
    fn would_be_ensured(
        &mut self,
        image: &Reference,
        name: &str,
        no_fetch: bool,
    ) -> Result<Option<Ensured>, Error> {
        match (self.is_new(name)?, no_fetch) {
            (true, false) => self.ensured(image, true).map(Some),
            (true, true) => self.present(&image.to_string()).map(|_| None),
            (false, _) => Ok(None),
        }
    }

    /// Whether nobody has this name, or only something that is on its way out, or that a dead process has
    /// reserved and told nobody of. The caller's run is the only one of its kind.
    fn is_new(&self, name: &str) -> Result<bool, Error> {
        Ok(self.registry.activation(name)?.is_none_or(|row| !is_told(&row)))
    }

    /// The image first, and a scan of it, under no lock of the name; then the name, which takes a moment.
    /// Where the image's top layer turns out to be gone, that is built anew.
    fn activate_alone(
        &mut self,
        image: &Reference,
        name: &str,
        options: &ActivateOptions,
    ) -> Result<Activated, Error> {
        let begun = self.begins();
        let reference = image.to_string();
        let (mut unusable, mut ensured) = (0, None);
        loop {
            self.agrees(name, &reference, options)?;
            if self.is_new(name)? && !options.no_fetch {
                ensured = Some(
                    self.ensured(image, false).map_err(|error| self.or_as_it_is(image, error))?,
                );
            }
            // Whatever kills the process from here on, it is none of the layers.
            self.reach("activation", "", self.sealed > 0);
            match self.activate_at_once(&reference, name, options, ensured.as_ref()) {
                Ok(Some(up)) => {
                    return self.activated(name, reference, up, ensured, false, begun);
                }
                // Somebody has removed the name, or the image, since it was looked at.
                Ok(None) if unusable < UNUSABLE_MAX => {}
                Err(error) if unusable < UNUSABLE_MAX => {
                    self.unusable(error)?;
                    if options.no_fetch {
                        self.present(&reference)?;
                    }
                }
                Ok(None) => return Err(Error::NotHere { image: reference }),
                Err(error) => return Err(error),
            }
            unusable += 1;
        }
    }

    /// What is sealed here comes up under `name`. None when the image would
    /// have to be looked for first.
    fn activate_at_once(
        &mut self,
        reference: &str,
        name: &str,
        options: &ActivateOptions,
        ensured: Option<&Ensured>,
    ) -> Result<Option<CameUp>, Error> {
        let ActivateOptions { no_fetch, ref copies, .. } = *options;
        let top_of = |host: &Host| -> Result<Option<Volume>, Error> {
            match host.registry.activation(name)? {
                Some(row) if is_told(&row) => Ok(host.registry.volume(row.origin)?),
                Some(_) | None if no_fetch => host.present(reference).map(Some),
                Some(_) | None => Ok(ensured.and_then(|ensured| ensured.top.clone())),
            }
        };
        // A scan takes its time: under no lock of the name.
        let permitted = top_of(self)?;
        let there = self.registry.activation(name)?;
        match (there.filter(is_told), &permitted) {
            (Some(row), _) if !self.is_up(name, reference)? => self.permit_again(&row)?,
            (Some(_), _) | (None, None) => {}
            (None, Some(top)) => self.permit(reference, top)?,
        }
        let _mine = self.locks.activation(name)?;
        let _using = self.locks.images_shared()?;
        self.agrees(name, reference, options)?;
        let mut copied = 0;
        if self.is_new(name)? {
            self.drive(name, Wish::Gone)?;
            let Some(top) = top_of(self)? else { return Ok(None) };
            if permitted.is_none_or(|permitted| permitted.id != top.id) {
                return Ok(None);
            }
            let endpoint = ensured.map(|ensured| ensured.endpoint.as_str());
            self.reserved(reference, name, options, &top, endpoint)?;
            let mut fresh = true;
            self.patiently(Step::Device, |host| {
                // A tree to which half was applied is worth nothing, and goes with the snapshot.
                if !std::mem::take(&mut fresh) {
                    host.drive(name, Wish::Gone)?;
                    host.reserved(reference, name, options, &top, endpoint)?;
                }
                host.made_ready(name, copies)
            })
            .or_else(|error| self.unborn(name, error))?;
            copied = copies.len();
        }
        let Some(row) = self.registry.activation(name)? else { return Ok(None) };
        let already = self.is_up(name, reference)?;
        if row.when_closed.is_some() {
            // Who asks for it now wants it later than who wished it away.
            self.registry.write(|write| write.put_when_closed(name, None))?;
        }
        self.patiently(Step::Device, |host| host.drive(name, Wish::Up).map(drop))
            .or_else(|error| self.unborn(name, error))?;
        Ok(Some(CameUp { already, copied }))
    }

    /// Takes the journal of an activation that was reserved just now, where none is wanted, and then puts the files into
    /// it: for that it is mounted, and only what nobody has mounted yet is known well enough to be changed.
    fn made_ready(&self, name: &str, copies: &[CopyIn]) -> Result<(), Error> {
        let Some(row) = self.registry.activation(name)? else { return Ok(()) };
        if row.no_journal {
            activation::drop_journal(self, &row)?;
        }
        self.put_copies(&row, copies)
    }

    fn mapping(&self, row: Option<&Activation>) -> Result<Mapping, Error> {
        row.map_or(Ok(Mapping::Absent), |row| self.store.mapping(row.id, &row.name))
    }

    /// A server that is away is no reason to be without an image that is here: who may take it is told.
    fn or_as_it_is(&self, image: &Reference, error: Error) -> Error {
        let away = matches!(&error, Error::Fetch(source) if matches!(
            source.kind(),
            fetch::Kind::Network | fetch::Kind::Timeout | fetch::Kind::Throttled
        ));
        let image = image.to_string();
        match away && !self.trusts() && self.present(&image).is_ok() {
            true => Error::Away { image, source: Box::new(error) },
            false => error,
        }
    }

    /// Reserves an activation of this top volume. `asked`: whoever was asked for it just now.
    fn reserved(
        &mut self,
        reference: &str,
        name: &str,
        options: &ActivateOptions,
        top: &Volume,
        asked: Option<&str>,
    ) -> Result<(), Error> {
        self.still_listed(reference)?;
        let ActivateOptions { bytes, ttl_s, read_only, no_journal, ref labels, .. } = *options;
        let bytes = match read_only {
            // Its file system cannot grow.
            true => top.bytes,
            false => bytes.unwrap_or(self.settings.volume_bytes).max(top.bytes),
        };
        let labels: Vec<(String, String)> = labels.clone().into_iter().collect();
        let endpoint = match asked {
            // Not what the image's row says: somebody may have it from elsewhere by now.
            Some(asked) => Some(asked.to_owned()),
            None => self.registry.image(reference)?.map(|image| image.endpoint),
        };
        let (origin, endpoint) = (top.id, endpoint.as_deref());
        let labels = &labels;
        let new = NewActivation {
            name,
            reference,
            origin,
            bytes,
            endpoint,
            ttl_s,
            read_only,
            no_journal,
            labels,
        };
        activation::reserve_activation(self, &new)
            .and_then(|()| self.still_signed(name))
            .or_else(|error| self.unborn(name, error))
    }

    /// The top volume of an image that is taken as it is here.
    fn present(&self, reference: &str) -> Result<Volume, Error> {
        if self.trusts() {
            return Err(Error::Usage(format!(
                "{reference}: a key is trusted, so its catalog has to be asked; leave --no-fetch out"
            )));
        }
        let image = self.registry.image(reference)?;
        if let (Some(image), Some(asked)) = (&image, self.settings.fetch.named_endpoint()?)
            && is_server(&image.endpoint)
            && image.endpoint != asked
        {
            return Err(Error::Usage(format!(
                "{reference} is on this host from {}, and {asked} was asked for; leave --no-fetch out",
                image.endpoint
            )));
        }
        if image.is_some() {
            self.signed_here(reference)?;
        }
        let top = image.and_then(|image| image.layers.last().map(|layer| layer.volume));
        let top = top.map(|top| self.registry.volume(top)).transpose()?.flatten();
        let top = top.ok_or_else(|| Error::NotHere { image: reference.into() })?;
        self.not_condemned(top.id, reference)?;
        Ok(top)
    }

    fn begins(&self) -> Begun {
        Begun { at: Instant::now(), ioctls: self.store.ioctls() }
    }

    /// The activation as it stands.
    fn activated(
        &self,
        name: &str,
        reference: String,
        CameUp { already, copied }: CameUp,
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
            read_only: row.as_ref().is_some_and(|row| row.read_only),
            already,
            ensured,
            copied,
            device: None,
            ioctls: self.store.ioctls() - begun.ioctls,
            dry_run,
            ms: millis(begun.at),
        })
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

    /// Load, plan, perform, until it is as wished; whether there was anything to do. The caller holds the
    /// activation's lock.
    pub(crate) fn drive(&mut self, name: &str, wish: Wish) -> Result<bool, Error> {
        for number in 0..STEPS_MAX {
            let row = self.registry.activation(name)?;
            let state = row.as_ref().map(|row| row.state);
            let step = plan::activation(state, self.mapping(row.as_ref())?, wish);
            match step {
                ActivationStep::Done => return Ok(number > 0),
                // Only `activate` knows of which image.
                ActivationStep::Reserve => {
                    return Err(Error::Unknown { what: "activation", name: name.into() });
                }
                ActivationStep::Publish
                | ActivationStep::Map
                | ActivationStep::Unmap
                | ActivationStep::Rest
                | ActivationStep::Condemn
                | ActivationStep::Delete => activation::activation_step(self, name, step)?,
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
