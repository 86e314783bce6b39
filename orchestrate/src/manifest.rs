//! Manifests of whole trees, kept in the state directory: what each sealed volume holds, so that the
//! digest of the next layer's tree need not read it again. Losing one costs time and nothing else.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek as _, Write};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use registry::{Digest, Volume, VolumeState};
use sha2::{Digest as _, Sha256};

use crate::Error;

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
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir).map_err(fail)?;
        let file = new_file(&path).map_err(fail)?;
        fs::remove_file(&path).map_err(fail)?;
        Ok(file)
    }

    /// Writes the manifest of `root`, which is the tree of `parent` with one layer on top, and
    /// gives the digest of the whole tree.
    pub(crate) fn seal(
        &self,
        root: &unpack::Root,
        id: u32,
        parent: &Volume,
        mut layer: File,
    ) -> Result<Digest, Error> {
        layer.rewind().map_err(|source| Error::Io {
            doing: "read again",
            path: self.path(id),
            source,
        })?;
        let mut layer = BufReader::new(layer);
        let mut below = self.trusted(parent);
        let mut known: Vec<&mut dyn BufRead> = vec![&mut layer];
        if let Some(below) = &mut below {
            known.push(below);
        }
        let mut out = Extra(new_file(&self.path(id)).ok().map(BufWriter::new));
        let digest = unpack::tree_manifest(root, &mut known, &mut out);
        let digest = digest.map_err(|source| Error::Tree { doing: "digest the tree", source });
        if digest.is_err() || out.flush().is_err() || out.0.is_none() {
            self.forget(id);
        }
        Ok(Digest(digest?))
    }

    /// The manifest of a sealed volume, where it is there and is what was sealed.
    fn trusted(&self, volume: &Volume) -> Option<BufReader<File>> {
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
        (seal.tree == Some(Digest(hash.finalize().into()))).then(|| BufReader::new(file))
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

/// A file that may fail: a full disk is no reason not to seal.
struct Extra(Option<BufWriter<File>>);

impl Write for Extra {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.as_mut().is_some_and(|file| file.write_all(bytes).is_err()) {
            self.0 = None;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.as_mut().map_or(Ok(()), Write::flush)
    }
}
