//! Manifests of whole trees, kept in the state directory: what each sealed volume holds, so that the
//! digest of the next layer's tree need not read it again. Losing one costs time and nothing else.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use registry::{Digest, Volume, VolumeState};
use sha2::{Digest as _, Sha256};

use crate::error::Error;
use crate::process::place;
use crate::store::seam::Work;

/// The manifests of one state directory.
#[derive(Debug)]
pub(crate) struct Manifests {
    dir: PathBuf,
}

impl Manifests {
    pub(crate) fn new(state: &Path) -> Manifests {
        Manifests { dir: state.join("manifests") }
    }

    fn path(&self, id: u32) -> PathBuf {
        self.dir.join(id.to_string())
    }

    /// A file for the manifest of a layer that is being applied; it has no name and goes by itself.
    pub(crate) fn unnamed(&self, id: u32) -> Result<File, Error> {
        let path = self.dir.join(format!("layer-{id}"));
        let fail = |source| Error::Io { doing: "make", path: path.clone(), source };
        place::make(&self.dir, place::STATE)?;
        let file = new_file(&path).map_err(fail)?;
        fs::remove_file(&path).map_err(fail)?;
        Ok(file)
    }

    /// Writes the manifest of the tree of `parent` with one layer on top, and gives the digest of the whole tree.
    pub(crate) fn seal(
        &self,
        work: &dyn Work,
        id: u32,
        parent: &Volume,
        mut layer: File,
        limits: &unpack::Limits,
        stop: &unpack::Stop,
    ) -> Result<Digest, Error> {
        layer.rewind().map_err(|source| Error::Io {
            doing: "read again",
            path: self.path(id),
            source,
        })?;
        let below = self.trusted(parent);
        let mut known = vec![&layer];
        known.extend(&below);
        let out = new_file(&self.path(id)).ok();
        // Behind the same fences as the layer: a tree is as large as layers make it.
        let made = work
            .digest(&known, out.as_ref(), limits, stop)
            .map_err(|source| Error::Tree { doing: "digest the tree", source });
        // A full disk is no reason not to seal.
        if !matches!(made, Ok((_, true))) {
            self.forget(id);
        }
        Ok(Digest(made?.0))
    }

    /// The manifest of a sealed volume, where it is there and is what was sealed.
    fn trusted(&self, volume: &Volume) -> Option<File> {
        let VolumeState::Sealed(seal) = &volume.state else { return None };
        let mut file = File::open(self.path(volume.id)).ok()?;
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 64 << 10];
        loop {
            match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => hash.update(&buffer[..length]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
        file.rewind().ok()?;
        (seal.tree == Some(Digest(hash.finalize().into()))).then_some(file)
    }

    /// The volume is gone, or never came to be.
    pub(crate) fn forget(&self, id: u32) {
        // What cannot be removed is never believed: ids are not used again.
        drop(fs::remove_file(self.path(id)));
    }
}

/// Takes a dead process's place: ids are ours by their row.
fn new_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).truncate(true).read(true).write(true).mode(0o600).open(path)
}
