//! Says of an error that comes of a full file system which one that is, and what to do: the state directory's, the
//! store's, that of temporary records, that of a file. So it does where files may not be as long, or where an attribute
//! lets nobody change a directory.

use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::libc;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};

use crate::error::full::{Full, Lacks, Of};
use crate::error::{Error, OfState};
use crate::process::{reserve, sys};

/// Where a command writes.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// The state directory.
    pub state: PathBuf,
    /// The store, where it is a directory.
    pub store: Option<PathBuf>,
    /// Where temporary records are, if that was said.
    pub records: Option<PathBuf>,
}

/// How the path of standard output is written in an error.
pub const STANDARD_OUTPUT: &str = "standard output";

/// Whether standard output was closed when this process was started (`>&-`), so that what is written to it goes nowhere.
pub fn output_was_closed() -> bool {
    sys::output_was_closed()
}

/// Says of an error that comes of a place where nothing can be written which one that is.
pub fn told(error: Error, places: &Places) -> Error {
    match cause(&error, places) {
        None => error,
        Some(Cause::State) => {
            let (what, kept) = (
                reserve::lacks(&places.state).unwrap_or("bytes"),
                reserve::has_some(&places.state),
            );
            let path = places.state.clone();
            OfState::Full { path, what, kept, source: Box::new(error) }.into()
        }
        Some(Cause::Of(of, path, lacks)) => {
            Error::Full(Box::new(Full { of, path, lacks, source: Box::new(error) }))
        }
    }
}

enum Cause {
    State,
    Of(Of, PathBuf, Lacks),
}

fn cause(error: &Error, places: &Places) -> Option<Cause> {
    match error {
        Error::Registry(source) => of_registry(source.kind(), places),
        Error::Io { path, source, .. } => of_file(path, source, places),
        Error::Unpack { source, .. } | Error::Tree { source, .. } => of_tree(source, places),
        _ => None,
    }
}

fn of_registry(kind: registry::Kind, places: &Places) -> Option<Cause> {
    let state = &places.state;
    let full = || reserve::lacks(state).map(|_| Cause::State);
    let database = || state.join("registry.db");
    // SQLite says no more of a file that may not be longer, or of one that it cannot make.
    let long = || length_max().map(|max| of(Of::File(None), database(), Lacks::Length(Some(max))));
    let fixed = || {
        let parts = ["registry.db", "registry.db-wal", "registry.db-shm"];
        let mut places = parts.iter().map(|part| state.join(part)).chain([state.clone()]);
        places.find_map(|path| attribute(&path).map(|lacks| of(Of::File(None), path, lacks)))
    };
    match kind {
        registry::Kind::NoSpace => full().or_else(long).or(Some(Cause::State)),
        registry::Kind::Io => full().or_else(long).or_else(fixed),
        registry::Kind::Denied => fixed(),
        registry::Kind::Busy
        | registry::Kind::Conflict
        | registry::Kind::Refused
        | registry::Kind::Bug => None,
    }
}

fn of(of: Of, path: PathBuf, lacks: Lacks) -> Cause {
    Cause::Of(of, path, lacks)
}

fn of_file(path: &Path, source: &io::Error, places: &Places) -> Option<Cause> {
    let file = |lacks| of(Of::File(None), path.into(), lacks);
    match source.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {}
        ErrorKind::FileTooLarge => return Some(file(Lacks::Length(length_max()))),
        // What is made or removed needs the right to the directory above.
        ErrorKind::PermissionDenied => {
            let mut near = path.ancestors().take(2).filter(|path| path.is_absolute());
            return near.find_map(|near| {
                attribute(near).map(|lacks| of(Of::File(None), near.into(), lacks))
            });
        }
        _ => return None,
    }
    let quota = source.kind() == ErrorKind::QuotaExceeded;
    let lacks = |at: &Path| if quota { Lacks::Quota } else { lacks(at) };
    match &places.store {
        Some(store) if is_below(path, store) => Some(of(Of::Store, store.clone(), lacks(store))),
        Some(_) | None if is_below(path, &places.state) => Some(Cause::State),
        Some(_) | None if path == Path::new(STANDARD_OUTPUT) => {
            Some(file(lacks(Path::new("/dev/stdout"))))
        }
        Some(_) | None => {
            let there = there(path);
            Some(of(Of::File(mounted_at(&there)), path.into(), lacks(&there)))
        }
    }
}

fn of_tree(source: &unpack::Error, places: &Places) -> Option<Cause> {
    let raw = match source {
        unpack::Error::Fs { source, .. } => source.raw_os_error(),
        _ => None,
    };
    if raw == Some(libc::EFBIG) {
        let path = places.store.clone().unwrap_or_else(|| places.state.clone());
        return Some(of(Of::File(None), path, Lacks::Length(length_max())));
    }
    if source.kind() != unpack::Kind::NoSpace {
        return None;
    }
    let quota = raw == Some(libc::EDQUOT);
    let lacks = |at: &Path| if quota { Lacks::Quota } else { lacks(at) };
    if source.is_of_records() {
        let path = places.records.clone().unwrap_or_else(usual_place);
        let lacks = lacks(&path);
        return Some(of(Of::Records, path, lacks));
    }
    // A manifest is written where the registry is.
    if reserve::lacks(&places.state).is_some() || source.is_of_manifest() {
        return Some(Cause::State);
    }
    // What was begun is gone again, so that there may be room by now. A pool has words of its own.
    let store = places.store.clone()?;
    let lacks = lacks(&store);
    Some(of(Of::Store, store, lacks))
}

/// Also where either leads through a link.
fn is_below(path: &Path, dir: &Path) -> bool {
    path.starts_with(dir) || dir.canonicalize().is_ok_and(|dir| path.starts_with(dir))
}

/// What of the file system at `at` there is less of: what was begun may have been removed already.
fn lacks(at: &Path) -> Lacks {
    let Ok(found) = nix::sys::statvfs::statvfs(at) else { return Lacks::Bytes };
    match found.files() > 0 && found.files_available() == 0 {
        true => Lacks::Inodes,
        false => Lacks::Bytes,
    }
}

/// The path, or what there is of it.
fn there(path: &Path) -> PathBuf {
    let found = path.ancestors().find_map(|path| match path.as_os_str().is_empty() {
        true => Path::new(".").canonicalize().ok(),
        false => path.canonicalize().ok(),
    });
    found.unwrap_or_else(|| "/".into())
}

/// Where the file system of `path` is mounted: the last directory of the same device on the way up.
fn mounted_at(path: &Path) -> Option<PathBuf> {
    let device = |path: &Path| path.metadata().ok().map(|found| found.dev());
    let own = device(path)?;
    path.ancestors().take_while(|above| device(above) == Some(own)).last().map(Into::into)
}

/// Where temporary records are unless somebody says otherwise.
fn usual_place() -> PathBuf {
    std::env::var_os("TMPDIR").map_or_else(|| "/var/tmp".into(), PathBuf::from)
}

/// How long a file this process may make, bytes; none: any.
fn length_max() -> Option<u64> {
    let (soft, _) = getrlimit(Resource::RLIMIT_FSIZE).ok()?;
    (soft != RLIM_INFINITY).then_some(soft)
}

/// The attribute by which nobody may change what is there.
fn attribute(path: &Path) -> Option<Lacks> {
    let attributes = sys::attributes(path).ok()?;
    let has = |bit: libc::c_int| attributes & u64::from(bit.unsigned_abs()) != 0;
    match () {
        () if has(libc::STATX_ATTR_IMMUTABLE) => Some(Lacks::Attribute("immutable", 'i')),
        () if has(libc::STATX_ATTR_APPEND) => Some(Lacks::Attribute("append-only", 'a')),
        () => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn io(path: &str, kind: ErrorKind) -> Error {
        Error::Io { doing: "write", path: path.into(), source: kind.into() }
    }

    fn tree(call: &'static str, name: &str, errno: i32) -> Error {
        let source = io::Error::from_raw_os_error(errno);
        let (call, name) = (call.into(), name.as_bytes().to_vec());
        let source = unpack::Error::Fs { place: None, call, name, source };
        Error::Tree { doing: "copy", source }
    }

    #[test]
    fn it_is_told_which_place_is_full() {
        let places = Places {
            state: "/nonexistent/state".into(),
            store: Some("/nonexistent/store".into()),
            records: Some("/nonexistent/records".into()),
        };
        let full = ErrorKind::StorageFull;
        for (error, wanted) in [
            (io("/nonexistent/state/locks/x", full), "the state directory is full"),
            (
                io("/nonexistent/store/made/1", full),
                "the store is full: the file system of /nonexistent/store has no",
            ),
            (
                io("/nonexistent/store/made/1", ErrorKind::QuotaExceeded),
                "within the quota of this user",
            ),
            (
                io("/nonexistent/layer.tar", full),
                "/nonexistent/layer.tar cannot be written: the file system at /",
            ),
            (io(STANDARD_OUTPUT, full), "standard output cannot be written"),
            (io("/nonexistent/layer.tar", ErrorKind::FileTooLarge), "no file as long"),
            (tree("write", "srv/a", libc::ENOSPC), "the store is full"),
            (tree("write", "manifest", libc::ENOSPC), "the state directory is full"),
            (
                tree("keep the record of", "srv/a", libc::ENOSPC),
                "no room for temporary records: the file system of /nonexistent/records",
            ),
            (tree("write", "srv/a", libc::EFBIG), "no file as long"),
        ] {
            let text = told(error, &places).to_string();
            assert!(text.contains(wanted), "{wanted:?} in {text}");
        }
        // Of a pool the kernel says more than a file system could.
        let pool = Places { store: None, ..places.clone() };
        for (error, places) in [
            (io("/nonexistent/state/x", ErrorKind::PermissionDenied), &places),
            (Error::Usage("x".into()), &places),
            (tree("open", "srv/a", libc::EIO), &places),
            (tree("write", "srv/a", libc::ENOSPC), &pool),
        ] {
            let before = error.to_string();
            assert_eq!(told(error, places).to_string(), before);
        }
    }
}
