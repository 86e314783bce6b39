//! `export`: what an activation has that its image has not, as a layer: to a stream, a file, or as an image in a layout.
//!
//! It is no run: nothing of this host is changed by it. The lock of the activation is held meanwhile, so that nobody
//! takes it up, down or away, and that of its volume's build, so that nobody looks at that volume at the same time. The
//! row of the activation keeps the volume.

pub(crate) mod image;
pub(crate) mod whole;

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use fetch::image::{Digest, Packed};
use fetch::{Place, Reference};
use registry::{Activation, ActivationState, Volume};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use unpack::{Compression, Diffed, Packer};

use crate::error::Error;
use crate::error::export::NotExported;
use crate::host::Host;
use crate::process::full::STANDARD_OUTPUT;
use crate::store::seam::{Ground, Reading};
use crate::verbs::export::whole::Whole;

/// Where a layer goes.
#[derive(Debug)]
pub enum ExportTo {
    /// Into this stream, as it comes: where the export fails, a part of it has been written.
    Stream(File),
    /// Into a file, which is there when all of it is, in the place of one that was there.
    File(PathBuf),
    /// On top of the activation's image, as an image of this name.
    Image(Reference),
}

/// What was exported.
#[derive(Clone, Debug, Serialize)]
pub struct Exported {
    /// The activation.
    pub name: String,
    /// The image that it is an activation of, and that the layer goes on.
    pub base: String,
    /// The file, or the image that was made; none where the layer went to standard output.
    pub to: Option<String>,
    /// The digest of the manifest of that image.
    pub manifest: Option<String>,
    /// The digest of the layer's plain tar.
    pub diff_id: String,
    /// The digest of the layer as it was written.
    pub digest: String,
    /// Its bytes as it was written.
    pub bytes: u64,
    /// Bytes of its plain tar.
    pub tar_bytes: u64,
    /// Names that the image has not.
    pub added: u64,
    /// Names that both have and that are not the same.
    pub changed: u64,
    /// Names that only the image has; a directory with all that was in it is one.
    pub removed: u64,
    /// Sockets, which no layer can hold: they are left out.
    pub sockets: u64,
    /// Extended attributes that no layer can hold: they are left out.
    pub attributes: u64,
}

/// A layer that was written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Written {
    pub(crate) diffed: Diffed,
    pub(crate) digest: Digest,
    pub(crate) bytes: u64,
}

impl Host {
    /// Writes what the activation `name` has that its image has not.
    ///
    /// # Errors
    /// [`Error::Unknown`]; [`Error::Export`] where somebody has it open, or the image cannot be made;
    /// [`Error::Tree`] for a tree that cannot be read, or that a layer cannot hold; those of files.
    pub fn export(
        &mut self,
        name: &str,
        to: ExportTo,
        compression: Compression,
    ) -> Result<Exported, Error> {
        let _mine = self.locks.activation(name)?;
        let Some(row) = self.registry.activation(name)? else {
            return Err(self.unknown("activation", name));
        };
        let settled = match row.state {
            ActivationState::Active | ActivationState::Inactive => true,
            ActivationState::Reserved | ActivationState::Deleting => false,
        };
        if !settled {
            let (name, state) = (row.name, row.state.word());
            return Err(NotExported::Passing { name, state }.into());
        }
        // A layer on a volume that is not what it was would not be one on the image.
        self.not_condemned(row.origin, &row.reference)?;
        let volume = self.still_sealed(row.origin)?;
        let (written, to, manifest) = match to {
            ExportTo::Stream(out) => {
                let to = Path::new(STANDARD_OUTPUT);
                (self.write_layer(&row, &volume, compression, (out, to))?.0, None, None)
            }
            ExportTo::File(path) => {
                let whole = Whole::new(&path)?;
                let (written, whole) =
                    self.write_layer(&row, &volume, compression, (whole, &path))?;
                whole.keep(&path)?;
                (written, Some(path.display().to_string()), None)
            }
            ExportTo::Image(reference) => {
                let (dir, tag) = layout_of(&reference)?;
                let (written, manifest) = self.image(&row, &volume, compression, (dir, tag))?;
                (written, Some(reference.to_string()), Some(manifest.to_string()))
            }
        };
        let Written { diffed, digest, bytes } = written;
        Ok(Exported {
            name: row.name,
            base: row.reference,
            to,
            manifest,
            diff_id: Digest(diffed.diff_id).to_string(),
            digest: digest.to_string(),
            bytes,
            tar_bytes: diffed.bytes,
            added: diffed.added,
            changed: diffed.changed,
            removed: diffed.removed,
            sockets: diffed.sockets,
            attributes: diffed.attributes,
        })
    }

    /// Writes the layer into `out`, which is at `to`, and gives that back.
    fn write_layer<W: Write>(
        &self,
        row: &Activation,
        volume: &Volume,
        compression: Compression,
        (out, to): (W, &Path),
    ) -> Result<(Written, W), Error> {
        let failed = |source| Error::Io { doing: "write", path: to.into(), source };
        let hashing = Hashing { out, hash: Sha256::new(), bytes: 0 };
        let mut packer = Packer::new(hashing, compression).map_err(failed)?;
        let diffed = self.difference(row, volume, &mut packer);
        let diffed = diffed.map_err(|error| match error {
            // Not a tree failed, but what the layer goes to.
            Error::Tree {
                source: unpack::Error::Fs { place: None, call, name, source }, ..
            } if call == "write" && name == b"layer" => failed(source),
            error => error,
        })?;
        let Hashing { out, hash, bytes } = packer.finish().map_err(failed)?;
        let digest = Digest(hash.finalize().into());
        Ok((Written { diffed, digest, bytes }, out))
    }

    fn difference(
        &self,
        row: &Activation,
        volume: &Volume,
        out: &mut dyn Write,
    ) -> Result<Diffed, Error> {
        let _looked_at = self.locks.build(&volume.build)?;
        self.still_sealed(volume.id)?;
        let limits = self.limits_of_tree(volume)?;
        let (upper, base) = {
            let _store = self.locks.store()?;
            let upper = self.store.read_activation(row.id, &row.name, row.bytes);
            let upper = upper.map_err(|error| open(error, &row.name))?;
            // Whatever made it, it is read and not mounted.
            match self.store.read(volume.id, volume.bytes, Ground::Written) {
                Ok(base) => (upper, base),
                Err(error) => {
                    upper.close()?;
                    return Err(error);
                }
            }
        };
        let stop = self.settings.cancel.stop();
        let diffed = upper.content().difference(base.content(), out, &limits, &stop);
        close(base, upper).map_err(|error| open(error, &row.name))?;
        let doing = "compare the activation with its image";
        match diffed {
            Err(source) => {
                self.settings.cancel.check()?;
                Err(Error::Tree { doing, source })
            }
            Ok(diffed) => Ok(diffed),
        }
    }
}

/// Both are closed, whatever comes of the first.
fn close(base: Box<dyn Reading>, upper: Box<dyn Reading>) -> Result<(), Error> {
    let closed = base.close();
    upper.close().and(closed)
}

/// Who has the activation open is named, with what can be done.
fn open(error: Error, name: &str) -> Error {
    match error {
        Error::Held { by, .. } => NotExported::Open { name: name.into(), by }.into(),
        other => other,
    }
}

/// The layout and the tag that a new image goes to.
fn layout_of(to: &Reference) -> Result<(&Path, &str), Error> {
    use fetch::image::Pick;
    let usage = |what: &str| Err(Error::Usage(format!("--image {to}: {what}")));
    if to.platform.is_some() {
        return usage("a new image is for the platform of the one that it stands on");
    }
    match &to.place {
        Place::Layout { dir, pick: Pick::Name(tag) } => Ok((dir, tag)),
        Place::Layout { .. } => usage("name the new image by a tag: oci:DIR:TAG"),
        Place::Bucket { .. } => usage(
            "an image is made in a layout: export it to oci:DIR:TAG, and `orchestrate push oci:DIR:TAG` puts that into \
             the bucket",
        ),
        Place::Archive { .. }
        | Place::DockerArchive { .. }
        | Place::Numbered(_)
        | Place::Registry(_)
        | Place::Here(_) => usage("an image is made in a layout: oci:DIR:TAG"),
    }
}

/// How an image's documents name a compression.
fn packed(compression: Compression) -> Packed {
    match compression {
        Compression::Plain => Packed::Plain,
        Compression::Gzip => Packed::Gzip,
        Compression::Zstd => Packed::Zstd,
    }
}

/// Passes on, and computes the digest of what it passes on.
struct Hashing<W> {
    out: W,
    hash: Sha256,
    bytes: u64,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hash.update(bytes.get(..written).unwrap_or_default());
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
