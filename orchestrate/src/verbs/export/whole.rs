//! A file that is there when all of it is, or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::libc;

use crate::error::Error;
use crate::error::export::NotExported;

/// See the module. It has no name while it grows, so that a killed process leaves nothing; where the file system knows
/// no such files it has one that begins with a dot.
#[derive(Debug)]
pub(crate) struct Whole {
    file: File,
    /// A name in the same directory.
    beside: PathBuf,
    has_name: bool,
}

impl Whole {
    /// Begins a file that is to be at `path`.
    ///
    /// # Errors
    /// [`NotExported::NoFile`] where something else is there; [`Error::Io`].
    pub(crate) fn new(path: &Path) -> Result<Whole, Error> {
        match fs::symlink_metadata(path) {
            Ok(found) if !found.is_file() => {
                return Err(NotExported::NoFile { path: path.into() }.into());
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {}
            Err(source) => return Err(Error::Io { doing: "look at", path: path.into(), source }),
        }
        let io = |source| Error::Io { doing: "write", path: path.into(), source };
        let Some(name) = path.file_name() else {
            return Err(io(io::ErrorKind::IsADirectory.into()));
        };
        let dir = match path.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            Some(_) | None => Path::new("."),
        };
        // Cut, so that it is a name whatever the other's length is.
        let name: String = name.to_string_lossy().chars().take(40).collect();
        let beside = dir.join(format!(".{name}.{}.part", std::process::id()));
        let mut options = OpenOptions::new();
        options.read(true).write(true).mode(0o666);
        match options.clone().custom_flags(libc::O_TMPFILE).open(dir) {
            Ok(file) => Ok(Whole { file, beside, has_name: false }),
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::EOPNOTSUPP | libc::EISDIR | libc::EINVAL)
                ) =>
            {
                let file = options.create_new(true).open(&beside).map_err(io)?;
                Ok(Whole { file, beside, has_name: true })
            }
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                Err(NotExported::NoDirectory { path: path.into() }.into())
            }
            Err(source) => Err(io(source)),
        }
    }

    /// Puts it at `path`, with all of it on disk, in the place of what is there.
    ///
    /// # Errors
    /// [`Error::Io`]: nothing is changed then.
    pub(crate) fn keep(mut self, path: &Path) -> Result<(), Error> {
        let kept = self.file.sync_all().and_then(|()| {
            if !self.has_name {
                let from = format!("/proc/self/fd/{}", self.file.as_raw_fd());
                let flags = AtFlags::AT_SYMLINK_FOLLOW;
                nix::unistd::linkat(AT_FDCWD, from.as_str(), AT_FDCWD, &self.beside, flags)?;
                self.has_name = true;
            }
            fs::rename(&self.beside, path)?;
            self.has_name = false;
            let dir = self.beside.parent().filter(|dir| !dir.as_os_str().is_empty());
            File::open(dir.unwrap_or(Path::new(".")))?.sync_all()
        });
        kept.map_err(|source| Error::Io { doing: "write", path: path.into(), source })
    }
}

impl Write for Whole {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Whole {
    fn drop(&mut self) {
        if self.has_name {
            // What stays is in nobody's way.
            drop(fs::remove_file(&self.beside));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_there_when_all_of_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("layer");
        let names = || fs::read_dir(dir.path()).unwrap().count();
        let mut whole = Whole::new(&path).unwrap();
        whole.write_all(b"half").unwrap();
        drop(whole);
        assert_eq!(names(), 0);
        for text in ["first", "second"] {
            let mut whole = Whole::new(&path).unwrap();
            whole.write_all(text.as_bytes()).unwrap();
            whole.keep(&path).unwrap();
            assert_eq!((fs::read_to_string(&path).unwrap().as_str(), names()), (text, 1));
        }
        for odd in ["/dev/null", dir.path().to_str().unwrap()] {
            let error = Whole::new(Path::new(odd)).unwrap_err();
            assert!(error.to_string().contains("no regular file"), "{error}");
        }
        assert!(Whole::new(&dir.path().join("none/layer")).is_err());
    }
}
