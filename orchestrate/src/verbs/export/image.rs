//! A new image in a layout: the old one's documents with a layer more. Blobs come before what names them, and the
//! index comes last, so that whoever reads meanwhile finds whole images, and a killed export leaves blobs that nobody
//! names.

use std::fs::{self, File, TryLockError};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use fetch::image::{Above, Digest, Document, Manifest, with_entries, with_layer};
use registry::{Activation, Volume};
use unpack::Compression;

use crate::error::Error;
use crate::error::export::NotExported;
use crate::error::image::Unusable;
use crate::error::leaves::unusable;
use crate::host::Host;
use crate::local::layout::Layout;
use crate::process::log::timestamp;
use crate::verbs::export::whole::Whole;
use crate::verbs::export::{Written, packed};

/// How often it is tried to have the index for oneself.
const PAUSE: Duration = Duration::from_millis(50);

impl Host {
    /// Makes the image `tag` in the layout at `dir`; gives the layer and the digest of the manifest.
    pub(super) fn image(
        &self,
        row: &Activation,
        volume: &Volume,
        compression: Compression,
        (dir, tag): (&Path, &str),
    ) -> Result<(Written, Digest), Error> {
        let layout = Layout::open(dir)?;
        // What cannot end well is told before anything is read.
        let (manifest, config) = self.documents(row, dir, &layout)?;
        layout.index()?;
        let blobs = dir.join("blobs/sha256");
        let whole = Whole::new(&blobs.join("layer"))?;
        let (written, whole) = self.write_layer(row, volume, compression, (whole, &blobs))?;
        let name = |digest: Digest| blobs.join(digest.hex());
        whole.keep(&name(written.digest))?;
        let above = Above {
            diff_id: Digest(written.diffed.diff_id),
            digest: written.digest,
            size: written.bytes,
            packed: packed(compression),
            created: &timestamp(SystemTime::now()),
            created_by: &format!("orchestrate export {}", row.name),
        };
        let made = with_layer(&manifest, &config, &above).map_err(unusable(layout.shown()))?;
        let digest = Digest::of(&made.manifest);
        for bytes in [&made.config, &made.manifest] {
            put(&name(Digest::of(bytes)), bytes)?;
        }
        let _alone = self.index_alone(dir)?;
        let entries = [made.entry];
        let index = with_entries(Some(&layout.index()?), tag, &entries);
        if let Some(index) = index.map_err(unusable(layout.shown()))? {
            put(&dir.join("index.json"), &index)?;
        }
        Ok((written, digest))
    }

    /// Manifest and config of the image that an activation is of. All that they name has to be in the layout.
    fn documents(
        &self,
        row: &Activation,
        dir: &Path,
        layout: &Layout,
    ) -> Result<(Vec<u8>, Vec<u8>), Error> {
        let image = row.reference.clone();
        let Some(manifest) = self.registry.activation_made_of(&row.name)?.manifest else {
            return Err(NotExported::NoManifest { name: row.name.clone(), image }.into());
        };
        let there = |digest: Digest| match layout.blob(digest) {
            Err(Error::Image(Unusable::NoBlob { .. })) => {
                let (dir, image) = (dir.into(), image.clone());
                Err(Error::Export(NotExported::NotThere { dir, image, digest }))
            }
            found => found,
        };
        let document = |digest: Digest, document| {
            let bytes = there(digest)?.document(document, &layout.shown())?;
            match Digest::of(&bytes) == digest {
                true => Ok(bytes),
                false => Err(Error::Image(Unusable::NoBlob { place: layout.shown(), digest })),
            }
        };
        let manifest = document(Digest(manifest.0), Document::Manifest)?;
        let read = Manifest::read(&manifest, None).map_err(unusable(layout.shown()))?;
        let config = document(read.config.digest, Document::Config)?;
        for layer in &read.layers {
            let bytes = there(layer.digest)?.bytes();
            if bytes != layer.size {
                let (place, digest) = (layout.shown(), layer.digest);
                return Err(Error::Image(Unusable::NoBlob { place, digest }));
            }
        }
        Ok((manifest, config))
    }

    /// Held while the index is changed: by a lock on the layout's directory.
    fn index_alone(&self, dir: &Path) -> Result<File, Error> {
        let io = |source| Error::Io { doing: "lock", path: dir.into(), source };
        let file = File::open(dir).map_err(io)?;
        let (begun, wait) = (Instant::now(), self.locks.wait());
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::Error(source)) => return Err(io(source)),
                Err(TryLockError::WouldBlock) if begun.elapsed() >= wait => {
                    return Err(Error::Locked {
                        what: format!("the index of {}", dir.display()),
                        holder: "another process".into(),
                        waited_s: wait.as_secs(),
                    });
                }
                Err(TryLockError::WouldBlock) => self.settings.cancel.sleep(PAUSE)?,
            }
        }
    }
}

/// Puts a document in its place, whole. A blob that is there is the same.
fn put(path: &PathBuf, bytes: &[u8]) -> Result<(), Error> {
    if fs::read(path).is_ok_and(|found| found == bytes) {
        return Ok(());
    }
    let mut whole = Whole::new(path)?;
    let written = whole.write_all(bytes);
    written.map_err(|source| Error::Io { doing: "write", path: path.clone(), source })?;
    whole.keep(path)
}
