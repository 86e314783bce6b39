//! Signatures of images that cosign made: looked for where the image is, and judged by the keys that are trusted. What
//! was found is kept with the image, so that what is here is judged without a server.

use std::collections::BTreeMap;
use std::time::Duration;

use fetch::image::cosign::{self, Candidate, Claim, PublicKey};
use fetch::image::{Descriptor, Digest as Sha, Document};
use fetch::{Place, Reference, Which};
use registry::{Activation, Digest, Signature};

use crate::error::Error;
use crate::error::leaves::whole;
use crate::host::Host;
use crate::local::layout::Layout;
use crate::plan::class::class;
use crate::process::cancel::heedfully;
use crate::trust::bar::Why;
use crate::trust::cosign::Unsigned;
use crate::trust::keys::Distrust;
use crate::verbs::blobs::Blobs;
use crate::verbs::choose::ours;
use crate::verbs::judge::manifest;
use crate::verbs::named::reference;
use crate::verbs::resolve::Resolved;

/// Documents and claims that are fetched for one image, and how many of them may be missing or wrong: whoever can write
/// beside an image can name any number.
const FETCHES_MAX: usize = 128;
const BROKEN_MAX: usize = 8;

/// How long recovery waits for a server that does not answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// One look for the signatures of an image.
struct Look<'a> {
    blobs: &'a Blobs,
    /// The digests that a signature may be of.
    images: &'a [Sha],
    keys: Vec<PublicKey>,
    found: Vec<Claim>,
    /// Claims that have come: signatures of one claim share its blob.
    claims: BTreeMap<Sha, Vec<u8>>,
    fetched: usize,
    broken: usize,
    looked: usize,
    more: usize,
    why: Option<String>,
}

impl Look<'_> {
    /// Whether nothing more would be learnt, or too much has been asked for.
    fn is_over(&self) -> bool {
        self.found.len() >= self.keys.len()
            || self.fetched >= FETCHES_MAX
            || self.broken >= BROKEN_MAX
    }

    /// What came, or why it is passed over. What may be there in a moment ends the look: nobody knows then.
    fn came<T>(&mut self, came: Result<T, Error>) -> Result<Option<T>, Error> {
        match came {
            Ok(came) => Ok(Some(came)),
            Err(error @ Error::Cancelled { .. }) => Err(error),
            Err(error) if class(&error).may_retry() => Err(error),
            Err(error) => {
                self.broken += 1;
                self.why = Some(whole(&error));
                Ok(None)
            }
        }
    }

    fn fetch(&mut self, document: Document, of: &Descriptor) -> Result<Option<Vec<u8>>, Error> {
        self.fetched += 1;
        let came = self.blobs.promised(document, of);
        self.came(came)
    }

    fn read<T>(&mut self, read: Result<T, fetch::image::Error>) -> Option<T> {
        read.inspect_err(|error| self.why = Some(error.to_string())).ok()
    }

    /// All of them in turn; one that is not there or not good stops nothing.
    fn manifests(&mut self, manifests: &[Descriptor]) -> Result<(), Error> {
        for (at, of) in manifests.iter().enumerate() {
            if self.is_over() {
                self.more += manifests.len() - at;
                return Ok(());
            }
            if let Some(manifest) = self.fetch(Document::Signatures, of)? {
                self.manifest(&manifest)?;
            }
        }
        Ok(())
    }

    fn manifest(&mut self, manifest: &[u8]) -> Result<(), Error> {
        let Some(candidates) = self.read(cosign::candidates(manifest, self.images)) else {
            return Ok(());
        };
        self.more += candidates.more;
        for (at, candidate) in candidates.list.iter().enumerate() {
            if self.is_over() {
                self.more += candidates.list.len() - at;
                return Ok(());
            }
            let of = candidate.blob();
            if !self.claims.contains_key(&of.digest) {
                let Some(claim) = self.fetch(Document::Claim, of)? else { continue };
                self.claims.insert(of.digest, claim);
            }
            let Some(claim) = self.claims.get(&of.digest) else { continue };
            self.looked += 1;
            let judged = match candidate {
                Candidate::Simple { signature, .. } => {
                    cosign::of_simple(claim, signature, &self.keys, self.images)
                }
                Candidate::Bundle(_) => cosign::of_bundle(claim, &self.keys, self.images),
            };
            match judged {
                Ok(claim) if self.found.iter().any(|found| found.key == claim.key) => {}
                Ok(claim) => self.found.push(claim),
                Err(doubt) => self.why = Some(doubt.to_string()),
            }
        }
        Ok(())
    }

    fn referrers(&mut self, list: &[u8]) -> Result<(), Error> {
        let Some((manifests, more)) = self.read(cosign::referrers(list)) else { return Ok(()) };
        self.more += more;
        self.manifests(&manifests)
    }

    /// At a registry: what refers to the image, or the list of that under its tag; then the tag of the older form.
    fn at_registry(&mut self, client: &fetch::Client, image: Sha) -> Result<(), Error> {
        let Blobs::Registry { cancel, .. } = self.blobs else { return Ok(()) };
        let cancel = cancel.clone();
        let tagged = |tag: String| {
            let client = client.clone();
            let ask = move || client.manifest_if_there(&Which::Tag(tag));
            let came = heedfully(&cancel, ask).and_then(|came| came.map_err(Error::Fetch));
            came.map(|came| came.map(|fetched| fetched.bytes))
        };
        let own = client.clone();
        let ask = move || own.referrers(&image);
        let listed = heedfully(&cancel, ask).and_then(|came| came.map_err(Error::Fetch));
        let listed = match self.came(listed)?.flatten() {
            Some(listed) => Some(listed),
            None => {
                let listed = tagged(cosign::referrers_tag(&image));
                self.came(listed)?.flatten()
            }
        };
        self.fetched += 2;
        if let Some(listed) = listed {
            self.referrers(&listed)?;
        }
        if self.is_over() {
            return Ok(());
        }
        let older = tagged(cosign::signature_tag(&image));
        match self.came(older)?.flatten() {
            Some(older) => self.manifest(&older),
            None => Ok(()),
        }
    }

    /// In a layout: what its index has beside the image.
    fn in_layout(&mut self) -> Result<(), Error> {
        let index = self.blobs.index();
        let Some(index) = self.came(index)? else { return Ok(()) };
        let Some(beside) = self.read(cosign::beside(&index, self.images)) else { return Ok(()) };
        self.more += beside.more;
        self.manifests(&beside.manifests)?;
        for of in &beside.lists {
            if self.is_over() {
                self.more += 1;
            } else if let Some(list) = self.fetch(Document::Referrers, of)? {
                self.referrers(&list)?;
            }
        }
        Ok(())
    }
}

/// The refusal of an image that must be signed.
pub(crate) fn refusal(unsigned: Unsigned) -> Error {
    Error::Catalog(Distrust::Cosign(Box::new(unsigned)))
}

impl Host {
    /// By which trusted keys an image is signed, where it has to be, and what of that is new. Known already: no server
    /// is asked.
    ///
    /// # Errors
    /// [`Error::Catalog`] where no signature counts; those of fetching.
    pub(crate) fn signed(
        &mut self,
        image: &Reference,
        resolved: &Resolved,
    ) -> Result<Vec<Signature>, Error> {
        let name = image.to_string();
        if !self.settings.trust.cosign.requires(&name) {
            return Ok(Vec::new());
        }
        let made = resolved.made.as_ref();
        let (Some(manifest), Some(blobs)) =
            (made.and_then(|made| made.manifest), resolved.blobs.as_ref())
        else {
            return Err(refusal(Unsigned::NoManifest { image: name }));
        };
        if self.is_signed(manifest)? {
            return Ok(Vec::new());
        }
        let found = made.and_then(|made| made.found);
        self.looked_for(&name, blobs, manifest, found)
    }

    /// That an image which is taken as it is here is signed, where it has to be, as far as it is known here.
    ///
    /// # Errors
    /// [`Error::Catalog`].
    pub(crate) fn signed_here(&self, name: &str) -> Result<(), Error> {
        let trust = &self.settings.trust.cosign;
        if !trust.requires(name) {
            return Ok(());
        }
        let digest = self.registry.made(name)?.and_then(|made| made.manifest);
        let known = digest.map(|manifest| self.registry.signatures(manifest)).transpose()?;
        let by: Vec<Digest> = known.unwrap_or_default().iter().map(|known| known.key).collect();
        match by.iter().any(|key| trust.file_of(*key).is_some()) {
            true => Ok(()),
            false => {
                let (image, files) = (name.to_owned(), trust.files());
                let unknown = Unsigned::Unknown { image, digest, by, files };
                Err(refusal(unknown))
            }
        }
    }

    /// Whether an image was found to be signed by a key that is trusted still.
    fn is_signed(&self, manifest: Digest) -> Result<bool, Error> {
        let known = self.registry.signatures(manifest)?;
        let trust = &self.settings.trust.cosign;
        Ok(known.iter().any(|known| trust.file_of(known.key).is_some()))
    }

    /// Looks for signatures of a manifest, and of the index that it was chosen from.
    fn looked_for(
        &self,
        name: &str,
        blobs: &Blobs,
        manifest: Digest,
        found: Option<Digest>,
    ) -> Result<Vec<Signature>, Error> {
        let trust = &self.settings.trust.cosign;
        let pinned = found.unwrap_or(manifest);
        let mut images = vec![Sha(pinned.0)];
        if manifest != pinned {
            images.push(Sha(manifest.0));
        }
        let mut look = Look {
            blobs,
            images: &images,
            keys: trust.keys.iter().map(|key| key.key.clone()).collect(),
            found: Vec::new(),
            claims: BTreeMap::new(),
            fetched: 0,
            broken: 0,
            looked: 0,
            more: 0,
            why: None,
        };
        let looked = match blobs {
            Blobs::Registry { client, .. } => {
                images.iter().try_for_each(|image| match look.is_over() {
                    true => Ok(()),
                    false => look.at_registry(client, *image),
                })
            }
            Blobs::Bucket { .. } | Blobs::Directory(_) | Blobs::Tar(_) => look.in_layout(),
        };
        match (looked, look.found.is_empty()) {
            (Err(error @ Error::Cancelled { .. }), _) | (Err(error), true) => return Err(error),
            (Ok(()), true) => {
                let (looked, more, why) = (look.looked, look.more, look.why);
                let (image, files) = (name.to_owned(), trust.files());
                let none = Unsigned::None { image, digest: pinned, files, looked, more, why };
                return Err(refusal(none));
            }
            (_, false) => {}
        }
        let signature =
            |claim: &Claim| Signature { key: ours(claim.key), signed: ours(claim.signed) };
        Ok(look.found.iter().map(signature).collect())
    }

    /// Before an activation that is here comes up again: looks for a signature where none by a trusted key is known.
    ///
    /// # Errors
    /// As [`Host::signed`].
    pub(crate) fn sign_again(&mut self, row: &Activation) -> Result<(), Error> {
        let Some(Why::Unsigned(unsigned)) = self.bar(row)?.map(|bar| bar.why) else {
            return Ok(());
        };
        let refuse = || Err(refusal(unsigned.clone()));
        let image = reference(&row.reference)?;
        let Some(manifest) = manifest(&self.registry, row)? else { return refuse() };
        let Some(blobs) = self.blobs_of(&image)? else { return refuse() };
        // The index is known only while the image is what the activation is of.
        let made = self.registry.made(&row.reference)?;
        let found = made.filter(|made| made.manifest == Some(manifest)).and_then(|made| made.found);
        let signatures = self.looked_for(&row.reference, &blobs, manifest, found)?;
        self.registry.write(|write| {
            signatures.iter().try_for_each(|signature| write.put_signature(manifest, signature))
        })?;
        Ok(())
    }

    /// Looks for signatures of all that should be up and may not for want of one. A server that does not answer keeps
    /// nobody long, and one image's server is no reason to leave the others alone: gives what was in the way.
    ///
    /// # Errors
    /// Those of the registry; [`Error::Cancelled`].
    pub fn sign_unsigned(&mut self) -> Result<Vec<Error>, Error> {
        if self.settings.trust.cosign.required.is_empty() {
            return Ok(Vec::new());
        }
        let usual = self.settings.fetch.clone();
        let options = &mut self.settings.fetch;
        for time in [
            &mut options.patience,
            &mut options.connect_timeout,
            &mut options.first_byte_timeout,
            &mut options.answer_timeout,
        ] {
            *time = PATIENCE.min(*time);
        }
        self.forget_client();
        let done = self.sign_each();
        self.settings.fetch = usual;
        self.forget_client();
        done
    }

    fn sign_each(&mut self) -> Result<Vec<Error>, Error> {
        let mut failed = Vec::new();
        for row in self.registry.activations()? {
            if row.state != registry::ActivationState::Active {
                continue;
            }
            self.settings.cancel.check()?;
            match self.sign_again(&row) {
                Ok(()) => {}
                Err(error @ Error::Cancelled { .. }) => return Err(error),
                Err(error) => failed.push(error),
            }
        }
        Ok(failed)
    }

    /// The blobs of the place that an image is in; none where it has no manifest.
    pub(crate) fn blobs_of(&mut self, image: &Reference) -> Result<Option<Blobs>, Error> {
        Ok(match &image.place {
            Place::Bucket { bucket, prefix, .. } => {
                let client = self.client()?.clone();
                let (bucket, prefix) = (bucket.clone(), prefix.clone());
                Some(Blobs::Bucket { client, bucket, prefix, cancel: self.settings.cancel.clone() })
            }
            Place::Layout { dir, .. } => {
                let opened = self.way.image(dir, &image.to_string())?;
                Some(Blobs::Directory(std::sync::Arc::new(Layout::of(&opened, dir)?)))
            }
            Place::Archive { file, .. } => {
                Some(Blobs::Tar(std::sync::Arc::new(self.archive(image, file)?)))
            }
            Place::Registry(at) => {
                let (client, cancel) = (self.registry_client(at)?, self.settings.cancel.clone());
                Some(Blobs::Registry { client, at: at.clone(), cancel })
            }
            Place::Numbered(_) | Place::DockerArchive { .. } | Place::Here(_) => None,
        })
    }
}
