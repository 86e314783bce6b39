//! Archives that can be read once only, or not by their offsets: what comes through a pipe, and what is compressed
//! as a whole. Each is written plain into the state directory first, within the bound of a layer.
//!
//! One that came through a pipe is kept under the digest that its image is known by until that image is built, so
//! that the run after a killed one goes on with it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read, Write as _};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fetch::image::Digest;
use unpack::Limits;

use crate::error::Error;
use crate::error::image::Unusable;
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

fn kept(state: &Path, image: Digest, form: Form) -> PathBuf {
    let end = match form {
        Form::Layout => "oci",
        Form::Docker => "docker",
    };
    state.join("archives").join(format!("{}.{end}", image.hex()))
}

/// The archive of an image that came through a pipe, if it is kept still.
pub(crate) fn find(state: &Path, image: Digest) -> Result<Option<(Form, Arc<File>)>, Error> {
    for form in [Form::Layout, Form::Docker] {
        let path = kept(state, image, form);
        match File::open(&path) {
            Ok(file) => return Ok(Some((form, Arc::new(file)))),
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
    fs::rename(&arrived.path, &path).map_err(|source| Error::Io {
        doing: "name the archive",
        path,
        source,
    })
}

/// The image is built, or refused for good: its archive goes.
pub(crate) fn discard(state: &Path, image: Digest) {
    for form in [Form::Layout, Form::Docker] {
        // What cannot be removed is swept later.
        drop(fs::remove_file(kept(state, image, form)));
    }
}

/// Removes archives that nobody came back for, and gives their number and bytes.
pub(crate) fn sweep(state: &Path, age: Duration) -> Result<(usize, u64), Error> {
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
    path: PathBuf,
}

impl Drop for Arrived {
    fn drop(&mut self) {
        // Nothing is there when it was kept under another name.
        drop(fs::remove_file(&self.path));
    }
}

/// Where an archive of this thread is written.
///
/// # Errors
/// [`Error::Io`] where the directory cannot be made.
pub(crate) fn arriving(state: &Path) -> Result<PathBuf, Error> {
    let name = format!("arriving-{}-{:?}", std::process::id(), std::thread::current().id());
    Ok(dir(state)?.join(name))
}

/// Writes what comes from `from` plain into the file `path` of the state directory.
///
/// # Errors
/// [`Error::Image`] for what no reader knows or is too large; [`Error::Io`].
pub(crate) fn arrive(
    path: PathBuf,
    shown: &str,
    from: impl Read,
    limits: &Limits,
) -> Result<Arrived, Error> {
    let io = |doing, source| Error::Io { doing, path: path.clone(), source };
    // A process of this number that was killed may have left one.
    drop(fs::remove_file(&path));
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .map_err(|source| io("make", source))?;
    let arrived = Arrived { file: Arc::new(file), path: path.clone() };
    let mut to = BufWriter::with_capacity(1 << 20, arrived.file.as_ref());
    unpack::plain(from, limits, &mut to).map_err(|source| {
        Error::Image(Unusable::Archive { image: shown.to_owned(), source: Box::new(source) })
    })?;
    to.flush().map_err(|source| io("write", source))?;
    drop(to);
    Ok(arrived)
}

/// Opens an archive that is a file; one that is compressed is written plain first, and the copy has no name.
///
/// # Errors
/// [`Error::Image`], [`Error::Io`].
pub(crate) fn open(state: &Path, path: &Path, limits: &Limits) -> Result<Arc<File>, Error> {
    let io = |doing, source| Error::Io { doing, path: path.to_owned(), source };
    let shown = path.display().to_string();
    let file = OpenOptions::new()
        .read(true)
        // A fifo must not be waited for.
        .custom_flags(nix::libc::O_NONBLOCK)
        .open(path)
        .map_err(|source| io("open the archive", source))?;
    let kind = file.metadata().map_err(|source| io("look at", source))?.file_type();
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
        Some(unpack::Compression::Plain) => Ok(Arc::new(file)),
        Some(unpack::Compression::Gzip | unpack::Compression::Zstd) => {
            let arrived = arrive(arriving(state)?, &shown, &file, limits)?;
            Ok(arrived.file.clone())
        }
        None => {
            let found = "no tar, and not compressed by gzip or zstd";
            Err(Error::Image(Unusable::Strange { path: path.into(), found }))
        }
    }
}
