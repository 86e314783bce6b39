//! Manifests of whole trees, kept in the state directory: what each sealed volume holds, so that the
//! digest of the next layer's tree need not read it again; and beside them the lists of the chunks of their
//! devices. Losing one costs time and nothing else.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use registry::{Digest, Seal, Volume, VolumeId, VolumeState};
use sha2::{Digest as _, Sha256};
use unpack::Chunks;

use crate::error::Error;
use crate::process::place;
use crate::store::content::Content;

/// The manifests of one state directory.
#[derive(Debug)]
pub(crate) struct Manifests {
    dir: PathBuf,
}

impl Manifests {
    pub(crate) fn new(state: &Path) -> Manifests {
        Manifests { dir: state.join("manifests") }
    }

    fn path(&self, id: VolumeId) -> PathBuf {
        self.dir.join(id.to_string())
    }

    /// A file for the manifest of a layer that is being applied; it has no name and goes by itself.
    pub(crate) fn unnamed(&self, id: VolumeId) -> Result<File, Error> {
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
        content: Content<'_>,
        id: VolumeId,
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
        let made = content
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

    fn list(&self, id: VolumeId) -> PathBuf {
        self.dir.join(format!("{id}.chunks"))
    }

    /// The list of a sealed volume's chunks, where it is there and is what was sealed.
    pub(crate) fn chunks(&self, volume: &Volume) -> Option<Chunks> {
        let VolumeState::Sealed(Seal { blocks: Some(blocks), .. }) = &volume.state else {
            return None;
        };
        let file = File::open(self.list(volume.id)).ok()?;
        let list = Chunks::parse(&mut BufReader::new(file)).ok()?;
        (Digest(list.digest()) == *blocks).then_some(list)
    }

    /// Keeps it. A full disk is no reason not to seal: then all of a device is read where a part would do.
    pub(crate) fn keep_chunks(&self, id: VolumeId, list: &Chunks) {
        let path = self.list(id);
        let written = new_file(&path).and_then(|file| {
            let mut out = BufWriter::new(file);
            list.write(&mut out)?;
            out.flush()
        });
        if written.is_err() {
            drop(fs::remove_file(path));
        }
    }

    /// The volume is gone, or never came to be.
    pub(crate) fn forget(&self, id: VolumeId) {
        // What cannot be removed is never believed: ids are not used again.
        drop(fs::remove_file(self.path(id)));
        drop(fs::remove_file(self.list(id)));
    }
}

/// Takes a dead process's place: ids are ours by their row.
fn new_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).truncate(true).read(true).write(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use registry::Role;
    use unpack::{Before, Geometry, Stop};

    use super::*;

    fn volume(id: u32, blocks: Option<Digest>) -> Volume {
        let (chain, diff, blob, tree) = (None, None, None, None);
        let (own_bytes, entries, content_bytes) = (0, 0, 0);
        let seal = Seal { chain, diff, blob, tree, blocks, own_bytes, entries, content_bytes };
        Volume {
            id: VolumeId::new(id),
            role: Role::Layer,
            parent: None,
            build: "b".into(),
            bytes: 64 << 20,
            state: VolumeState::Sealed(seal),
            condemned: None,
        }
    }

    /// A list of chunks counts where it is what was sealed; any other is as if there were none.
    #[test]
    fn a_list_of_chunks_counts_where_its_digest_was_sealed() {
        let dir = tempfile::tempdir().unwrap();
        let manifests = Manifests::new(dir.path());
        fs::create_dir(dir.path().join("manifests")).unwrap();
        let image = tempfile::tempfile().unwrap();
        image.set_len(64 << 20).unwrap();
        let geometry = Geometry::new(64 << 20, 4096, 0, 1 << 20).unwrap();
        unpack::make_blank(&image, geometry, Before::Zeros).unwrap();
        let list = Chunks::of(&image, None, &Stop::default()).unwrap();
        let blocks = Some(Digest(list.digest()));
        assert_eq!(manifests.chunks(&volume(7, blocks)), None);
        manifests.keep_chunks(VolumeId::new(7), &list);
        assert_eq!(manifests.chunks(&volume(7, blocks)), Some(list));
        assert_eq!(manifests.chunks(&volume(7, None)), None);
        assert_eq!(manifests.chunks(&volume(8, blocks)), None);
        assert_eq!(manifests.chunks(&volume(7, Some(Digest([1; 32])))), None);
        let path = dir.path().join("manifests/7.chunks");
        let text = fs::read_to_string(&path).unwrap();
        let (kept, last) = text.trim_end().rsplit_once('\n').unwrap();
        for other in [format!("{kept}\n"), kept.to_owned(), format!("{kept}\n9{last}\n")] {
            fs::write(&path, other).unwrap();
            assert_eq!(manifests.chunks(&volume(7, blocks)), None);
        }
        manifests.forget(VolumeId::new(7));
        assert!(!path.exists());
    }
}
