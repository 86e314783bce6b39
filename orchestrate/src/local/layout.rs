//! An OCI image layout in a directory (image-spec, image-layout.md).

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fetch::image::{Digest, Document};
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use crate::error::Error;
use crate::error::image::Unusable;
use crate::error::leaves::unusable;
use crate::local::piece::Piece;
use crate::local::way::{kind, opened};

/// A layout, by its directory.
#[derive(Debug)]
pub(crate) struct Layout {
    path: PathBuf,
    dir: OwnedFd,
}

impl Layout {
    /// Opens a directory that says of itself that it is a layout.
    ///
    /// # Errors
    /// [`Error::Image`] where it is none; [`Error::Io`].
    pub(crate) fn open(path: &Path) -> Result<Layout, Error> {
        Layout::of(&opened(path)?, path)
    }

    /// As [`Layout::open`], of a directory that is open; `path` names it in messages.
    ///
    /// # Errors
    /// As [`Layout::open`].
    pub(crate) fn of(dir: &File, path: &Path) -> Result<Layout, Error> {
        if !kind(dir, path)?.is_dir() {
            let found = "no directory";
            return Err(Error::Image(Unusable::Strange { path: path.into(), found }));
        }
        let dir = dir.as_fd().try_clone_to_owned();
        let dir = dir.map_err(|source| Error::Io { doing: "open", path: path.into(), source })?;
        let layout = Layout { path: path.into(), dir };
        let Some(said) = layout.file(&["oci-layout"])? else {
            let what = format!("{} has no file oci-layout", path.display());
            return Err(Error::Image(Unusable::NoLayout { what }));
        };
        let said = said.document(Document::Layout, &layout.shown())?;
        fetch::image::is_layout(&said).map_err(unusable(layout.shown()))?;
        Ok(layout)
    }

    /// `index.json`.
    ///
    /// # Errors
    /// [`Error::Image`], [`Error::Io`].
    pub(crate) fn index(&self) -> Result<Vec<u8>, Error> {
        match self.file(&["index.json"])? {
            Some(piece) => piece.document(Document::Index, &self.shown()),
            None => {
                let what = format!("{} has no file index.json", self.path.display());
                Err(Error::Image(Unusable::NoLayout { what }))
            }
        }
    }

    /// A blob. One that is not there is final: nobody will bring it.
    ///
    /// # Errors
    /// [`Error::Image`], [`Error::Io`].
    pub(crate) fn blob(&self, digest: Digest) -> Result<Piece, Error> {
        let hex = digest.hex();
        self.file(&["blobs", "sha256", &hex])?.ok_or_else(|| {
            Error::Image(Unusable::NoBlob { place: self.path.display().to_string(), digest })
        })
    }

    /// Its directory, as a message has it.
    pub(crate) fn shown(&self) -> String {
        self.path.display().to_string()
    }

    /// A regular file below the directory, through no link; none where there is nothing of that name.
    fn file(&self, parts: &[&str]) -> Result<Option<Piece>, Error> {
        let path = || parts.iter().fold(self.path.clone(), |path, part| path.join(part));
        let io =
            |source: nix::Error| Error::Io { doing: "open", path: path(), source: source.into() };
        let strange = |found: &'static str| Error::Image(Unusable::Strange { path: path(), found });
        let mut above: Option<OwnedFd> = None;
        for (at, part) in parts.iter().enumerate() {
            let last = at + 1 == parts.len();
            // A fifo must not be waited for.
            let kind = if last { OFlag::O_NONBLOCK } else { OFlag::O_DIRECTORY };
            let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | kind;
            let dir = above.as_ref().map_or(self.dir.as_fd(), |fd| fd.as_fd());
            match openat(dir, *part, flags, Mode::empty()) {
                Ok(fd) => above = Some(fd),
                Err(nix::Error::ENOENT) => return Ok(None),
                Err(nix::Error::ELOOP) => return Err(strange("a symbolic link")),
                Err(nix::Error::ENOTDIR) => return Err(strange("no directory in the way to it")),
                Err(nix::Error::ENXIO) => return Err(strange("a socket")),
                Err(source) => return Err(io(source)),
            }
        }
        let Some(fd) = above else { return Ok(None) };
        let file = File::from(fd);
        let found = file.metadata().map_err(|source| Error::Io {
            doing: "look at",
            path: path(),
            source,
        })?;
        match found.is_file() {
            true => Ok(Some(Piece::new(Arc::new(file), 0, found.len()))),
            false => Err(strange("no regular file")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn layout() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("blobs/sha256")).unwrap();
        fs::write(dir.path().join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        fs::write(dir.path().join("index.json"), "{}").unwrap();
        dir
    }

    #[test]
    fn a_blob_is_opened_by_its_digest_and_through_no_link() {
        let dir = layout();
        let blobs = dir.path().join("blobs/sha256");
        let (good, link, fifo, missing, sub) =
            (Digest([1; 32]), Digest([2; 32]), Digest([3; 32]), Digest([4; 32]), Digest([5; 32]));
        fs::write(blobs.join(good.hex()), "bytes").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", blobs.join(link.hex())).unwrap();
        nix::unistd::mkfifo(&blobs.join(fifo.hex()), Mode::S_IRWXU).unwrap();
        fs::create_dir(blobs.join(sub.hex())).unwrap();
        let layout = Layout::open(dir.path()).unwrap();
        assert_eq!(layout.index().unwrap(), b"{}");
        assert_eq!(layout.blob(good).unwrap().whole().unwrap(), b"bytes");
        for (digest, said) in [
            (link, "symbolic link"),
            (fifo, "no regular file"),
            (sub, "no regular file"),
            (missing, "has no blob"),
        ] {
            let error = layout.blob(digest).unwrap_err();
            assert!(error.to_string().contains(said), "{error}");
        }
        fs::rename(dir.path().join("blobs"), dir.path().join("elsewhere")).unwrap();
        std::os::unix::fs::symlink("elsewhere", dir.path().join("blobs")).unwrap();
        assert!(layout.blob(good).is_err(), "a link on the way");
    }

    #[test]
    fn what_is_no_layout_is_said() {
        let dir = layout();
        fs::remove_file(dir.path().join("oci-layout")).unwrap();
        let error = Layout::open(dir.path()).unwrap_err();
        assert!(error.to_string().contains("oci-layout"), "{error}");
        assert!(Layout::open(&dir.path().join("index.json")).is_err());
        assert!(Layout::open(&dir.path().join("nowhere")).is_err());
    }
}
