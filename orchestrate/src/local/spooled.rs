//! Archives that can be read once only, or not by their offsets: what comes through a pipe, and what is compressed
//! as a whole. Each is written plain into the state directory first, within the bound of a layer.
//!
//! One that came through a pipe is kept under the digest that its image is known by until that image is built, so
//! that the run after a killed one goes on with it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fetch::image::Digest;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::unistd::linkat;
use unpack::Limits;

use crate::error::Error;
use crate::error::image::Unusable;
use crate::local::piece::Piece;
use crate::process::place;

/// The directory of kept archives, made when it is not there.
fn dir(state: &Path) -> Result<PathBuf, Error> {
    let path = state.join("archives");
    place::make(&path, place::STATE).map(|()| path)
}

/// What an archive says of its images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// `index.json` of a layout.
    Layout,
    /// `manifest.json` of `docker save`.
    Docker,
}

/// An archive of an image that came through a pipe.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    pub(crate) image: Digest,
    pub(crate) form: Form,
    pub(crate) file: Arc<File>,
}

fn kept(state: &Path, image: Digest, form: Form) -> PathBuf {
    let end = match form {
        Form::Layout => "oci",
        Form::Docker => "docker",
    };
    state.join("archives").join(format!("{}.{end}", image.hex()))
}

/// The archive of an image that came through a pipe, if it is kept still.
pub(crate) fn find(state: &Path, image: Digest) -> Result<Option<Kept>, Error> {
    for form in [Form::Layout, Form::Docker] {
        let path = kept(state, image, form);
        match File::open(&path) {
            Ok(file) => return Ok(Some(Kept { image, form, file: Arc::new(file) })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(Error::Io { doing: "open", path, source }),
        }
    }
    Ok(None)
}

/// Keeps an archive under the digest that its image is known by. One that is there already is the same image.
pub(crate) fn keep(
    state: &Path,
    arrived: &Arrived,
    image: Digest,
    form: Form,
) -> Result<(), Error> {
    let path = kept(state, image, form);
    let fail = |source| Error::Io { doing: "name the archive", path: path.clone(), source };
    let Some(own) = &arrived.path else {
        let unnamed = format!("/proc/self/fd/{}", arrived.file.as_raw_fd());
        let name = |to: &Path| {
            linkat(AT_FDCWD, unnamed.as_str(), AT_FDCWD, to, AtFlags::AT_SYMLINK_FOLLOW)
        };
        return match name(&path) {
            Err(nix::Error::EEXIST) => {
                // Of a run that was killed, or is at it: what came now is not to be judged by that.
                let aside = arriving(state)?;
                drop(fs::remove_file(&aside));
                name(&aside).map_err(|error| fail(error.into()))?;
                fs::rename(&aside, &path).map_err(fail)
            }
            named => named.map_err(|error| fail(error.into())),
        };
    };
    fs::rename(own, &path).map_err(fail)
}

/// The image is built, or refused for good: its archive goes.
pub(crate) fn discard(state: &Path, image: Digest) {
    for form in [Form::Layout, Form::Docker] {
        // What cannot be removed is swept later.
        drop(fs::remove_file(kept(state, image, form)));
    }
}

/// Removes archives that nobody came back for, or whose image `is_here`, and gives their number and bytes.
pub(crate) fn sweep(
    state: &Path,
    age: Duration,
    is_here: impl Fn(Digest) -> bool,
) -> Result<(usize, u64), Error> {
    let path = state.join("archives");
    let entries = match fs::read_dir(&path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((0, 0)),
        Err(source) => return Err(Error::Io { doing: "read", path, source }),
    };
    let (mut count, mut bytes) = (0, 0);
    for entry in entries.flatten() {
        let Ok(found) = entry.metadata() else { continue };
        let old =
            found.modified().ok().and_then(|at| at.elapsed().ok()).is_some_and(|old| old >= age);
        let name = entry.file_name();
        let image = name.to_str().and_then(|name| name.split_once('.'));
        let image = image.and_then(|(hex, _)| Digest::parse(&format!("sha256:{hex}")).ok());
        // Who was killed between the image's last step and this one.
        let old = old || image.is_some_and(&is_here);
        if found.is_file() && old && fs::remove_file(entry.path()).is_ok() {
            count += 1;
            bytes += found.len();
        }
    }
    Ok((count, bytes))
}

/// An archive that has come whole, without its compression.
#[derive(Debug)]
pub(crate) struct Arrived {
    pub(crate) file: Arc<File>,
    /// Only on a file system that has no files without a name.
    path: Option<PathBuf>,
}

impl Drop for Arrived {
    fn drop(&mut self) {
        // Nothing is there when it was kept under another name.
        if let Some(path) = &self.path {
            drop(fs::remove_file(path));
        }
    }
}

/// A name for an archive of this thread.
fn arriving(state: &Path) -> Result<PathBuf, Error> {
    let name = format!("arriving-{}-{:?}", std::process::id(), std::thread::current().id());
    Ok(dir(state)?.join(name))
}

/// A file for an archive. It has no name, so that nothing stays of it whatever becomes of who writes it; and one of
/// its own where the file system knows no other files.
fn make(state: &Path) -> Result<Arrived, Error> {
    let dir = dir(state)?;
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    match options.clone().custom_flags(nix::libc::O_TMPFILE).open(&dir) {
        Ok(file) => return Ok(Arrived { file: Arc::new(file), path: None }),
        Err(error) if error.kind() == io::ErrorKind::Unsupported => {}
        Err(error) if error.raw_os_error() == Some(nix::libc::EISDIR) => {}
        Err(source) => return Err(Error::Io { doing: "make a file in", path: dir, source }),
    }
    let path = arriving(state)?;
    // A process of this number that was killed may have left one.
    drop(fs::remove_file(&path));
    match options.create_new(true).open(&path) {
        Ok(file) => Ok(Arrived { file: Arc::new(file), path: Some(path) }),
        Err(source) => Err(Error::Io { doing: "make", path, source }),
    }
}

/// Remembers how a write failed: what reads the archive takes it for a failure of the archive.
struct Writing<'f> {
    to: BufWriter<&'f File>,
    failed: Option<io::Error>,
}

impl io::Write for Writing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.to.write(bytes).map_err(|error| {
            let kind = error.kind();
            if kind != io::ErrorKind::Interrupted {
                self.failed = Some(error);
            }
            kind.into()
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// Writes what comes from `from` plain into a file of the state directory.
///
/// # Errors
/// [`Error::Image`] for what no reader knows or is too large; [`Error::Io`].
pub(crate) fn arrive(
    state: &Path,
    shown: &str,
    from: impl Read,
    limits: &Limits,
) -> Result<Arrived, Error> {
    let arrived = make(state)?;
    let path = state.join("archives");
    let io = |source| Error::Io { doing: "write an archive into", path: path.clone(), source };
    let to = BufWriter::with_capacity(1 << 20, arrived.file.as_ref());
    let mut to = Writing { to, failed: None };
    let written = unpack::plain(from, limits, &mut to);
    if let Some(source) = to.failed.take() {
        return Err(io(source));
    }
    written.map_err(|source| {
        Error::Image(Unusable::Archive { image: shown.to_owned(), source: Box::new(source) })
    })?;
    to.flush().map_err(io)?;
    drop(to);
    Ok(arrived)
}

/// An archive that is an open file; one that is compressed is written plain first, and the copy has no name. It is read
/// by its offsets alone: whoever opened it may have it open still.
///
/// # Errors
/// [`Error::Image`], [`Error::Io`].
pub(crate) fn plain(
    state: &Path,
    file: Arc<File>,
    path: &Path,
    limits: &Limits,
) -> Result<Arc<File>, Error> {
    let io = |doing, source| Error::Io { doing, path: path.to_owned(), source };
    let shown = path.display().to_string();
    let is = file.metadata().map_err(|source| io("look at", source))?;
    let kind = is.file_type();
    if kind.is_fifo() {
        let found = "a pipe; give it as standard input, with - for the file";
        return Err(Error::Image(Unusable::Strange { path: path.into(), found }));
    }
    if !kind.is_file() {
        return Err(Error::Image(Unusable::Strange {
            path: path.into(),
            found: "no regular file",
        }));
    }
    match unpack::compression(&file).map_err(|source| io("read", source))? {
        Some(unpack::Compression::Plain) => Ok(file),
        Some(unpack::Compression::Gzip | unpack::Compression::Zstd) => {
            Ok(arrive(state, &shown, Piece::new(file, 0, is.len()), limits)?.file.clone())
        }
        None => {
            let found = "no tar, and not compressed by gzip or zstd";
            Err(Error::Image(Unusable::Strange { path: path.into(), found }))
        }
    }
}
