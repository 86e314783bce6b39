//! `ensure`: every layer of an image is sealed on this host.

use std::time::Instant;

use fetch::{Place, Reference};
use registry::{Blob, Digest, KnownBy, Verb, Volume, VolumeId, VolumeState};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::error::Error;
use crate::error::filling::Filling;
use crate::error::image::Unusable;
use crate::host::Host;
use crate::host::reach::Reach;
use crate::host::run::millis;
use crate::local::spooled;
use crate::plan::class::class;
use crate::plan::retry::Step;
use crate::plan::{self, Below, LayerStep};
use crate::process::log::Field;
use crate::verbs::build::{self, Begun};
use crate::verbs::condemned::UNUSABLE_MAX;
use crate::verbs::resolve::Resolved;
use crate::verbs::wanted::Wanted;
use crate::verbs::{publish, template};

/// How a layer came to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum How {
    /// It was sealed before this run.
    Reused,
    /// This run fetched and applied it.
    Built,
    /// This run fetched it, and it turned out to be there already.
    Adopted,
    /// Only planned.
    Planned,
}

/// One layer of an ensured image.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LayerReport {
    /// Its place, from 1.
    pub number: u64,
    /// Its object.
    pub key: String,
    /// Bytes of the object.
    pub bytes: u64,
    /// sha256 of the blob; none while only planned and never read.
    pub digest: Option<Digest>,
    /// Chain id up to here.
    pub chain: Option<Digest>,
    /// The sealed volume.
    pub volume: Option<VolumeId>,
    /// How it came to be there.
    pub how: How,
    /// Bytes that came over the network for it.
    pub fetched_bytes: u64,
    /// Bytes of the store that it has and its parent has not, at its seal.
    pub own_bytes: u64,
    /// Wall time that this run spent on it, milliseconds.
    pub ms: u64,
}

/// What `ensure` did.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ensured {
    /// The image.
    pub image: String,
    /// Its chain id; none while only planned.
    pub chain: Option<Digest>,
    /// From the lowest up.
    pub layers: Vec<LayerReport>,
    /// Bytes that came over the network.
    pub fetched_bytes: u64,
    /// Objects that were fetched.
    pub fetched_objects: u64,
    /// Whether nothing was done on purpose.
    pub dry_run: bool,
    /// Wall time, milliseconds.
    pub ms: u64,
    /// The sealed volume of the whole stack.
    #[serde(skip)]
    pub(crate) top: Option<Volume>,
    /// Whose word it is.
    #[serde(skip)]
    pub(crate) endpoint: String,
}

impl Host {
    /// Makes sure that every layer of `image` is sealed, and publishes it.
    ///
    /// # Errors
    /// Any; what was sealed before the error stays, everything else is gone.
    pub fn ensure(&mut self, image: &Reference, dry_run: bool) -> Result<Ensured, Error> {
        let (image, here) = self.here(image)?;
        if here {
            return self.as_it_is(&image.to_string(), dry_run);
        }
        if dry_run {
            return self.ensured(&image, true);
        }
        let reference = image.to_string();
        self.end_earlier(&reference)?;
        self.as_run(Verb::Ensure, &reference, json!({"image": reference}), |host| {
            host.ensured(&image, false)
        })
    }

    /// An image that is here and cannot be asked for anywhere, as its rows have it.
    fn as_it_is(&self, reference: &str, dry_run: bool) -> Result<Ensured, Error> {
        let not_here = || Error::NotHere { image: reference.to_owned() };
        let image = self.registry.image(reference)?.ok_or_else(not_here)?;
        let (mut layers, mut top) = (Vec::new(), None);
        for (layer, number) in image.layers.iter().zip(1..) {
            let volume = self.registry.volume(layer.volume)?;
            top.clone_from(&volume);
            let seal = volume.and_then(|volume| match volume.state {
                VolumeState::Sealed(seal) => Some(seal),
                VolumeState::Building | VolumeState::Deleting => None,
            });
            layers.push(LayerReport {
                number,
                key: layer.key.clone(),
                bytes: layer.size,
                digest: Some(layer.digest),
                chain: seal.as_ref().and_then(|seal| seal.chain),
                volume: Some(layer.volume),
                how: How::Reused,
                fetched_bytes: 0,
                own_bytes: seal.map_or(0, |seal| seal.own_bytes),
                ms: 0,
            });
        }
        Ok(Ensured {
            image: reference.to_owned(),
            chain: Some(image.chain),
            layers,
            fetched_bytes: 0,
            fetched_objects: 0,
            dry_run,
            ms: 0,
            top,
            endpoint: image.endpoint,
        })
    }

    /// As [`Host::ensure`], in a run. The images' lock is held from step to step, and not after it.
    pub(crate) fn ensured(&mut self, image: &Reference, dry_run: bool) -> Result<Ensured, Error> {
        let begun = Instant::now();
        let mut ensured = match dry_run {
            true => {
                let resolved = self.resolve(image, false)?;
                self.planned(image, &resolved.layers)?
            }
            false => {
                self.may_reach(Reach::Listing, &image.to_string())?;
                let built = self.built(image);
                self.let_images_go();
                // The first catalog was believed before there was a store to keep its serial in.
                self.keep_believed()?;
                self.archive_done(image, &built);
                match built {
                    // Somebody else has built it meanwhile, and its archive is gone.
                    Err(Error::Image(Unusable::NotKept { digest })) => {
                        let not_kept = Error::Image(Unusable::NotKept { digest });
                        self.as_it_is(&image.to_string(), false).map_err(|_| not_kept)?
                    }
                    built => built?,
                }
            }
        };
        ensured.ms = millis(begun);
        Ok(ensured)
    }

    /// The archive of an image that came through a pipe goes with the end of its use: built, or refused for good.
    fn archive_done(&self, image: &Reference, built: &Result<Ensured, Error>) {
        let Place::Here(digest) = &image.place else { return };
        let over = match built {
            Ok(_) => true,
            Err(error) => !class(error).may_retry(),
        };
        if over {
            spooled::discard(&self.settings.state, *digest);
        }
    }

    /// Builds what is missing. A layer that turns out to be unusable is built anew with the rest.
    fn built(&mut self, image: &Reference) -> Result<Ensured, Error> {
        let mut unusable = 0;
        loop {
            // Listed anew with each try: an object may have been replaced meanwhile.
            let done = self.patiently(Step::Image, |host| {
                let listed = host.registry.write(|write| write.next_listing())?;
                let resolved = host.resolve(image, true)?;
                let built = host.build_all(image, &resolved, listed);
                built.map_err(|error| {
                    host.let_images_go();
                    host.with_garbage(error)
                })
            });
            match done {
                Err(error) if unusable < UNUSABLE_MAX => self.unusable(error)?,
                done => return done,
            }
            unusable += 1;
        }
    }

    /// Who has no room is told what a collection would give.
    fn with_garbage(&self, error: Error) -> Error {
        match error {
            Error::NoSpace { what, needs, free, .. } => {
                Error::NoSpace { what, needs, free, garbage: self.garbage_bytes() }
            }
            Error::Filling(filling) => {
                let garbage = self.garbage_bytes();
                Error::Filling(Box::new(Filling { garbage, ..*filling }))
            }
            // It ran full under the apply: the admission had counted on less.
            Error::Unpack { layer, source } if source.kind() == unpack::Kind::NoSpace => {
                let garbage = self.garbage_bytes().filter(|bytes| *bytes > 0);
                if let Some(bytes) = garbage {
                    self.say(1, format_args!("`orchestrate gc` would free {bytes} bytes"));
                }
                Error::Unpack { layer, source }
            }
            other => other,
        }
    }

    /// The blob that a layer is taken for: what is signed, else what was read of the object itself, else
    /// what another key's ETag lets guess.
    pub(crate) fn know(&self, wanted: &mut Wanted) -> Result<(), Error> {
        if let Some(digest) = wanted.signed {
            wanted.blob = self.registry.blob(digest)?;
            return Ok(());
        }
        let Some(source) = &wanted.source else { return Ok(()) };
        let known = self.registry.known(source, &wanted.key, self.settings.etag_dedup)?;
        wanted.guessed = known.as_ref().is_some_and(|known| known.by == KnownBy::Etag);
        wanted.blob = known.map(|known| known.blob);
        Ok(())
    }

    fn sealed(&self, chain: Digest) -> Result<Option<Volume>, Error> {
        Ok(self.registry.layer(chain)?)
    }

    fn planned(&self, image: &Reference, wanted: &[Wanted]) -> Result<Ensured, Error> {
        let diffs: Vec<_> = wanted.iter().map(Wanted::known_diff).collect();
        // A registry that cannot be read plans everything anew; the run itself will say why.
        let steps = plan::image(&diffs, |chain| self.sealed(chain).ok()?.map(|volume| volume.id));
        let mut ensured = empty(image, true);
        for (wanted, step) in wanted.iter().zip(steps) {
            let mut line = line(wanted);
            match step {
                LayerStep::Reuse { chain, volume } => {
                    (line.chain, line.volume, line.how) = (Some(chain), Some(volume), How::Reused);
                }
                LayerStep::Build { chain } => {
                    (line.chain, line.how) = (chain, How::Planned);
                    line.fetched_bytes = line.bytes;
                }
            }
            ensured.add(line);
        }
        ensured.chain = ensured.layers.last().and_then(|line| line.chain);
        Ok(ensured)
    }

    fn build_all(
        &mut self,
        image: &Reference,
        resolved: &Resolved,
        listed: u64,
    ) -> Result<Ensured, Error> {
        let wanted = &resolved.layers;
        let mut ensured = empty(image, false);
        let parent = template::template(self)?;
        self.use_images()?;
        let mut stack = Stack {
            below: Below::Template,
            parent,
            ahead: None,
            place: (0, wanted.len()),
            begun: false,
        };
        let mut layers = Vec::new();
        for (pos, this) in wanted.iter().enumerate() {
            let begun = Instant::now();
            stack.place.0 = pos + 1;
            self.settings.cancel.check()?;
            let (blob, mut line) = match self.layer(this, wanted.get(pos + 1), &mut stack) {
                Ok(done) => done,
                Err(error) => {
                    // The layers above it will not be asked for again either.
                    if !class(&error).may_retry()
                        && !self.settings.cancel.is_set()
                        && let Some(ahead) = stack.ahead.take()
                    {
                        ahead.discard_spool();
                    }
                    return Err(error);
                }
            };
            line.ms = millis(begun);
            self.event("layer is there", &layer_fields(image, &line));
            ensured.add(line);
            layers.push((this.clone(), stack.parent.id, blob));
        }
        let Below::Chain(chain) = stack.below else {
            return Err(Error::Unknown { what: "layer", name: image.to_string() });
        };
        let reused = ensured.layers.iter().filter(|line| line.how == How::Reused);
        let reused = reused.fold((0, 0), |(n, bytes), line| (n + 1, bytes + line.bytes));
        publish::publish(self, &image.to_string(), chain, &layers, reused, listed, resolved)?;
        ensured.chain = Some(chain);
        ensured.top = Some(stack.parent);
        ensured.endpoint.clone_from(&resolved.endpoint);
        Ok(ensured)
    }

    /// Makes sure of one layer and moves the stack up to it.
    fn layer(
        &mut self,
        wanted: &Wanted,
        next: Option<&Wanted>,
        stack: &mut Stack,
    ) -> Result<(Blob, LayerReport), Error> {
        let mut wanted = wanted.clone();
        let begun = match stack.ahead.take() {
            Some(begun) if begun.is_for(&wanted, stack.parent.id) => begun,
            ahead => {
                if let Some(ahead) = ahead {
                    ahead.discard_spool();
                }
                if let Some(found) = self.find(&mut wanted, stack)? {
                    return Ok(found);
                }
                self.may_reach(Reach::Fetching, &wanted.title())?;
                // What is begun may come to its end: the first layer decides.
                if !stack.begun {
                    self.may_begin(&format!("layer {}", wanted.title()))?;
                }
                let begun = build::begin(self, &wanted, stack.parent.id)?;
                // Whoever had the lock until now may have built just this.
                if let Some(found) = self.find(&mut wanted, stack)? {
                    return Ok(found);
                }
                begun
            }
        };
        stack.begun = true;
        let (key, bytes) = (&wanted.key, wanted.size);
        let step = format!("{}: {bytes} bytes", wanted.title);
        self.tell(1, &step, &[("layer", key.as_str().into()), ("bytes", bytes.into())]);
        let (at, of) = stack.place;
        let spool = wanted.spools();
        self.reach(&format!("layer {at} of {of}: {step}"), &spool, self.sealed > 0);
        // The same object twice in a row is known when its turn comes.
        let next = next.filter(|next| next.may_come_ahead(&wanted));
        let parent = stack.parent.clone();
        let built = build::build(self, &wanted, begun, &parent, |host, id| {
            // Not having the next layer early is no reason to fail this one.
            stack.ahead = next.and_then(|next| build::begin_ahead(host, next, id).ok().flatten());
        })?;
        stack.parent =
            self.registry.volume(built.volume)?.ok_or(Error::Lost { volume: built.volume })?;
        stack.below = Below::Chain(built.chain);
        let mut line = line(&wanted);
        line.how = if built.own { How::Built } else { How::Adopted };
        line.fetched_bytes = built.fetched;
        line.stands_on(stack, &built.blob);
        Ok((built.blob, line))
    }

    /// The layer, where its stack is sealed already; looks anew at what is known of its blob.
    fn find(
        &self,
        wanted: &mut Wanted,
        stack: &mut Stack,
    ) -> Result<Option<(Blob, LayerReport)>, Error> {
        if wanted.blob.is_none() || wanted.guessed {
            self.know(wanted)?;
        }
        let Some(diff) = wanted.known_diff() else { return Ok(None) };
        let chain = match plan::layer(stack.below, Some(diff), |_| None) {
            LayerStep::Build { chain: Some(chain) } | LayerStep::Reuse { chain, .. } => chain,
            LayerStep::Build { chain: None } => return Ok(None),
        };
        let Some(volume) = self.registry.layer(chain)? else { return Ok(None) };
        let Some(blob) = self.sealed_from(wanted, &volume)? else { return Ok(None) };
        stack.parent = volume;
        stack.below = Below::Chain(chain);
        let mut line = line(wanted);
        line.stands_on(stack, &blob);
        Ok(Some((blob, line)))
    }

    /// The blob that stands for a layer which is sealed already: its own where that was read once, else the one
    /// that the volume was made from. What was never read is not recorded as if it had been.
    fn sealed_from(&self, wanted: &Wanted, volume: &Volume) -> Result<Option<Blob>, Error> {
        if let Some(blob) = &wanted.blob {
            return Ok(Some(blob.clone()));
        }
        match &volume.state {
            VolumeState::Sealed(seal) => Ok(match seal.blob {
                Some(blob) => self.registry.blob(blob)?,
                None => None,
            }),
            VolumeState::Building | VolumeState::Deleting => Ok(None),
        }
    }
}

/// The stack as far as it is sealed.
struct Stack {
    below: Below,
    parent: Volume,
    ahead: Option<Begun>,
    /// Which of how many layers is at work.
    place: (usize, usize),
    /// Whether a layer of it was begun.
    begun: bool,
}

impl LayerReport {
    /// Fills in what the sealed top of the stack says.
    fn stands_on(&mut self, stack: &Stack, blob: &Blob) {
        self.digest = Some(blob.digest);
        self.volume = Some(stack.parent.id);
        if let VolumeState::Sealed(seal) = &stack.parent.state {
            self.chain = seal.chain;
            self.own_bytes = seal.own_bytes;
        }
    }
}

impl Ensured {
    fn add(&mut self, line: LayerReport) {
        self.fetched_bytes += line.fetched_bytes;
        self.fetched_objects += u64::from(line.fetched_bytes > 0);
        self.layers.push(line);
    }
}

fn layer_fields(image: &Reference, line: &LayerReport) -> Vec<(&'static str, Field)> {
    let state = match line.how {
        How::Reused => "reused",
        How::Built => "built",
        How::Adopted => "adopted",
        How::Planned => "planned",
    };
    vec![
        ("image", image.to_string().into()),
        ("layer", line.key.as_str().into()),
        ("state", state.into()),
        ("volume", line.volume.unwrap_or_default().into()),
        ("bytes", line.bytes.into()),
        ("fetched", line.fetched_bytes.into()),
        ("ms", line.ms.into()),
    ]
}

fn empty(image: &Reference, dry_run: bool) -> Ensured {
    Ensured {
        image: image.to_string(),
        chain: None,
        layers: Vec::new(),
        fetched_bytes: 0,
        fetched_objects: 0,
        dry_run,
        ms: 0,
        top: None,
        endpoint: String::new(),
    }
}

fn line(wanted: &Wanted) -> LayerReport {
    LayerReport {
        number: wanted.number,
        key: wanted.key.clone(),
        bytes: wanted.size,
        digest: wanted.blob.as_ref().map(|blob| blob.digest).or(wanted.signed),
        chain: None,
        volume: None,
        how: How::Reused,
        fetched_bytes: 0,
        own_bytes: 0,
        ms: 0,
    }
}
