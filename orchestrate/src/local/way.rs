//! By whose right a file of this host is opened. A command opens what its caller named, with the caller's rights. A
//! daemon has other rights than who asks it, so it opens no path for a client: it takes the descriptor that the client
//! opened, or what lies beneath a directory that the settings name.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::OFlag;
use serde_json::{Value, json};

use crate::error::Error;
use crate::error::image::Unusable;

/// Open files of a client, until its run has ended. Clones are the same files.
#[derive(Clone, Debug, Default)]
pub(crate) struct Given {
    /// The archive, or the layout's directory.
    pub(crate) image: Option<Arc<File>>,
    /// What is copied into the activation, by the path there.
    pub(crate) copies: BTreeMap<String, Arc<File>>,
}

impl Given {
    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        usize::from(self.image.is_some()) + self.copies.len()
    }
}

/// By whose right a run opens files of this host.
#[derive(Clone, Debug, Default)]
pub(crate) enum Way {
    /// The caller is this process: paths are opened as they are named.
    #[default]
    Own,
    /// For a client of a daemon: what it opened itself, or what lies beneath one of these directories.
    Client {
        /// What came with the request.
        given: Given,
        /// `sources.local_roots`.
        roots: Vec<PathBuf>,
        /// What is kept of it with the run.
        opens: Value,
    },
    /// For a client of a daemon that is gone, and what it opened with it.
    Gone {
        /// As in [`Way::Client`].
        opens: Value,
    },
}

impl Way {
    /// Of a run that is taken up, by what its row says: `given` is what the daemon holds for it.
    pub(crate) fn of_run(opens: &Value, given: Option<Given>, roots: &[PathBuf]) -> Way {
        let (roots, opens) = (roots.to_vec(), opens.clone());
        let descriptors = opens["descriptors"].as_u64().unwrap_or(0);
        match given {
            _ if opens.is_null() => Way::Own,
            Some(given) => Way::Client { given, roots, opens },
            None if descriptors > 0 => Way::Gone { opens },
            None => Way::Client { given: Given::default(), roots, opens },
        }
    }

    /// For a client that has just asked.
    pub(crate) fn client(given: Given, roots: Vec<PathBuf>) -> Way {
        let found = |file: &Arc<File>| {
            let is = file.metadata().ok()?;
            let modified = (is.mtime(), is.mtime_nsec());
            Some(
                json!({"device": is.dev(), "inode": is.ino(), "bytes": is.len(), "modified": modified}),
            )
        };
        let image = given.image.as_ref().and_then(found);
        let opens = json!({"descriptors": given.count(), "image": image});
        Way::Client { given, roots, opens }
    }

    /// What is kept of it with the run, so that whoever takes that up later opens no more; none where the caller is
    /// this process. Two requests with the same files have the same.
    pub(crate) fn opens(&self) -> Option<&Value> {
        match self {
            Way::Own => None,
            Way::Client { opens, .. } | Way::Gone { opens } => Some(opens),
        }
    }

    /// The archive of an image, or the directory of a layout.
    ///
    /// # Errors
    /// [`Error::Image`] where it may not be opened, or there is none; [`Error::Io`].
    pub(crate) fn image(&self, path: &Path, image: &str) -> Result<Arc<File>, Error> {
        match self {
            Way::Client { given: Given { image: Some(file), .. }, .. } => Ok(file.clone()),
            Way::Own | Way::Client { .. } | Way::Gone { .. } => self.path(path, image),
        }
    }

    /// A file that is to be copied to `to`; none where its path is to be opened by the caller's own right.
    pub(crate) fn copy(&self, path: &Path, to: &str) -> Result<Option<Arc<File>>, Error> {
        match self {
            Way::Own => Ok(None),
            Way::Client { given, .. } => match given.copies.get(to) {
                Some(file) => Ok(Some(file.clone())),
                None => self.path(path, &path.to_string_lossy()).map(Some),
            },
            Way::Gone { .. } => self.path(path, &path.to_string_lossy()).map(Some),
        }
    }

    fn path(&self, path: &Path, image: &str) -> Result<Arc<File>, Error> {
        let roots = match self {
            Way::Own => return opened(path).map(Arc::new),
            Way::Client { roots, .. } => roots,
            Way::Gone { .. } => {
                return Err(Error::Image(Unusable::Gone { image: image.to_owned() }));
            }
        };
        let (root, rest) = beneath(roots, path)
            .ok_or_else(|| Error::Image(Unusable::Daemon { image: image.to_owned() }))?;
        let io = |source| Error::Io { doing: "open", path: path.into(), source };
        let dir = OpenOptions::new()
            .read(true)
            .custom_flags((OFlag::O_DIRECTORY | OFlag::O_PATH).bits())
            .open(root)
            .map_err(|source| Error::Io { doing: "open", path: root.into(), source })?;
        match unpack::open_beneath(dir.as_fd(), rest) {
            Ok(file) => Ok(Arc::new(file.into())),
            Err(error) => Err(match strange_place(&error) {
                Some(found) => Error::Image(Unusable::Strange { path: path.into(), found }),
                None if error.raw_os_error() == Some(nix::libc::EXDEV) => {
                    let found = "a link that leads out of sources.local_roots";
                    Error::Image(Unusable::Strange { path: path.into(), found })
                }
                None => io(error),
            }),
        }
    }
}

/// The first of the roots that a path lies beneath, and its rest.
pub(crate) fn beneath<'p>(roots: &'p [PathBuf], path: &'p Path) -> Option<(&'p Path, &'p Path)> {
    roots.iter().find_map(|root| Some((root.as_path(), path.strip_prefix(root).ok()?)))
}

/// What the caller named, opened by the caller's own right. A pipe is not waited for.
pub(crate) fn opened(path: &Path) -> Result<File, Error> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags((OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits())
        .open(path);
    file.map_err(|source| match strange_place(&source) {
        Some(found) => Error::Image(Unusable::Strange { path: path.into(), found }),
        None => Error::Io { doing: "open", path: path.into(), source },
    })
}

/// What is wrong with the place that somebody named for an image, where it does not mend itself.
fn strange_place(error: &std::io::Error) -> Option<&'static str> {
    match nix::Error::from_raw(error.raw_os_error()?) {
        nix::Error::ENOENT => Some("there is nothing of this name"),
        nix::Error::ENOTDIR => Some("no directory, or it lies below what is none"),
        nix::Error::ELOOP => Some("symbolic links that lead on and on"),
        nix::Error::ENXIO => Some("a socket or device that nobody serves"),
        _ => None,
    }
}

/// What a file is, for who has to refuse it.
pub(crate) fn kind(file: &File, path: &Path) -> Result<fs::FileType, Error> {
    let io = |source| Error::Io { doing: "look at", path: path.into(), source };
    Ok(file.metadata().map_err(io)?.file_type())
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::unix::fs::symlink;

    use super::*;

    fn client(given: Given, roots: &[&Path]) -> Way {
        Way::client(given, roots.iter().map(|root| root.to_path_buf()).collect())
    }

    fn read(way: &Way, path: &Path) -> Result<String, String> {
        let file = way.image(path, "oci-archive:x").map_err(|error| error.to_string())?;
        let mut text = String::new();
        (&*file).read_to_string(&mut text).unwrap();
        Ok(text)
    }

    #[test]
    fn a_client_gets_what_it_opened_or_what_lies_beneath_a_root() {
        let dir = tempfile::tempdir().unwrap();
        let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
        fs::create_dir_all(root.join("sub")).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("secret"), "secret").unwrap();
        fs::write(root.join("sub/a.tar"), "a").unwrap();
        symlink("sub/a.tar", root.join("within")).unwrap();
        symlink("../outside/secret", root.join("up")).unwrap();
        symlink(outside.join("secret"), root.join("away")).unwrap();
        symlink(root.join("sub/a.tar"), root.join("absolute")).unwrap();
        symlink(&outside, root.join("dir")).unwrap();
        let way = client(Given::default(), &[&root]);
        for name in ["sub/a.tar", "within", "sub/../sub/a.tar"] {
            assert_eq!(read(&way, &root.join(name)).as_deref(), Ok("a"), "{name}");
        }
        for name in ["up", "away", "absolute", "dir/secret", "../outside/secret"] {
            let said = read(&way, &root.join(name)).unwrap_err();
            assert!(said.contains("leads out of sources.local_roots"), "{name}: {said}");
        }
        assert!(read(&way, &root.join("none")).unwrap_err().contains("nothing of this name"));
        for path in [outside.join("secret"), dir.path().join("rootless"), "/etc/passwd".into()] {
            let said = read(&way, &path).unwrap_err();
            assert!(said.contains("opens no path"), "{said}");
        }
        // What a client opened itself is taken whatever it is called.
        let file = Arc::new(File::open(outside.join("secret")).unwrap());
        let given = Given { image: Some(file.clone()), copies: [("/x".into(), file)].into() };
        let way = client(given, &[]);
        assert_eq!(read(&way, Path::new("/nowhere")).as_deref(), Ok("secret"));
        assert!(way.copy(Path::new("/nowhere"), "/x").unwrap().is_some());
        assert!(way.copy(Path::new("/etc/passwd"), "/y").is_err());
    }

    #[test]
    fn who_takes_a_run_up_opens_no_more_than_was_given() {
        let roots = [PathBuf::from("/srv")];
        let given =
            Given { image: Some(Arc::new(File::open("/dev/null").unwrap())), ..Given::default() };
        let kept = |given: &Given| client(given.clone(), &[]).opens().unwrap().clone();
        let (kept, roots_only) = (kept(&given), kept(&Given::default()));
        assert!(matches!(Way::of_run(&Value::Null, None, &roots), Way::Own));
        assert!(matches!(Way::of_run(&kept, None, &roots), Way::Gone { .. }));
        assert!(matches!(Way::of_run(&kept, Some(given), &roots), Way::Client { .. }));
        assert!(matches!(Way::of_run(&roots_only, None, &roots), Way::Client { .. }));
        let gone = Way::Gone { opens: Value::Null };
        let said = gone.image(Path::new("/etc/passwd"), "oci-archive:/x").unwrap_err().to_string();
        assert!(said.contains("went with the daemon"), "{said}");
        assert!(gone.copy(Path::new("/etc/passwd"), "/x").is_err());
    }
}
