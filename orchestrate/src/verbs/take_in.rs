//! An image that comes through a pipe: it can be read once only, so it is written down first, and known from then
//! on by the digest of its manifest, or of its config where it has no manifest.

use std::fs::File;
use std::sync::Arc;

use fetch::image::{ArchivePick, Archives, Digest, Document, Index, Pick};
use fetch::{Place, Reference};

use crate::error::Error;
use crate::error::leaves::unusable;
use crate::host::Host;
use crate::local::archive::Archive;
use crate::local::spooled::{self, Form, Kept};
use crate::plan::class::class;
use crate::process::cancel::heedfully;
use crate::verbs::blobs::{Blobs, saved_config};
use crate::verbs::choose::best;

impl Host {
    /// Writes down what comes through a pipe for a reference whose file is `-`, and gives the reference by which
    /// that image is known. Any other reference is given back as it is.
    ///
    /// # Errors
    /// [`Error::Image`] for what is no archive of images, or has no such image; [`Error::Cancelled`].
    pub fn take_in(&mut self, image: &Reference, from: File) -> Result<Reference, Error> {
        if !image.is_stream() {
            return Ok(image.clone());
        }
        let (state, shown, limits) =
            (self.settings.state.clone(), image.to_string(), self.settings.limits.clone());
        let (to, name) = (state.clone(), shown.clone());
        // The thread that writes it may be waiting for more for ever, unless it hears of that, too.
        let stop = self.settings.cancel.stop();
        let arrived = heedfully(&self.settings.cancel, move || {
            let from = unpack::Timed::until(from, &limits, stop);
            spooled::arrive(&to, &name, from, &limits)
        })??;
        let archive = Archive::open(arrived.file.clone(), &shown, &self.settings.limits)?;
        let (form, digest) = match &image.place {
            Place::Archive { pick, .. } => (Form::Layout, self.in_layout(image, archive, pick)?),
            Place::DockerArchive { pick, .. } => (Form::Docker, in_saved(&archive, pick)?),
            Place::Numbered(_)
            | Place::Bucket { .. }
            | Place::Layout { .. }
            | Place::Registry(_)
            | Place::Here(_) => return Ok(image.clone()),
        };
        spooled::keep(&state, &arrived, digest, form)?;
        self.arrived = Some(Kept { image: digest, form, file: arrived.file.clone() });
        Ok(Reference { place: Place::Here(digest), platform: None })
    }

    /// What was taken in has been put to use, or the command has failed: only who may try again finds it kept.
    pub fn let_archive_go(&mut self, failed: Option<&Error>) {
        let over = failed.is_none_or(|error| !class(error).may_retry());
        if let Some(kept) = self.arrived.take().filter(|_| over) {
            spooled::discard(&self.settings.state, kept.image);
        }
    }

    fn in_layout(&self, image: &Reference, archive: Archive, pick: &Pick) -> Result<Digest, Error> {
        let blobs = Blobs::Tar(Arc::new(archive));
        if let Pick::Digest(digest) = pick {
            // The platform is chosen now: it is no part of the name that the image has from here on.
            return Ok(self.by_digest(&blobs, *digest, &self.platform(image), true)?.manifest.0);
        }
        let failed = unusable(blobs.shown());
        let index = Index::read(&blobs.index()?).map_err(&failed)?;
        let index = index.pick(pick).map_err(&failed)?;
        Ok(best(&blobs, &index, &self.platform(image))?.manifest.0)
    }
}

fn in_saved(archive: &Archive, pick: &ArchivePick) -> Result<Digest, Error> {
    let failed = unusable(archive.shown());
    let listed = archive.document(Document::Archive, "manifest.json")?;
    let archives = Archives::read(&listed).map_err(&failed)?;
    let archived = archives.pick(pick).map_err(&failed)?;
    Ok(saved_config(archive, archived)?.1)
}
