//! The files of a directory store: read and written so that nothing which somebody put in their place is
//! followed, waited for or written through.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use registry::VolumeId;

use crate::error::Error;
use crate::store::seam::Space;

/// No file of ours is longer.
pub(super) const OWN_MAX: u64 = 1 << 20;

/// The volume that a link of `active` leads to; none where there is no such link of ours.
pub(super) fn linked(link: &Path) -> Result<Option<VolumeId>, Error> {
    match fs::read_link(link) {
        Ok(target) => {
            Ok(target.strip_prefix("../volumes").ok().and_then(|id| id.to_str()?.parse().ok()))
        }
        // It is no link, so it is not ours.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error("look at", link)(error)),
    }
}

/// Write, sync, rename, sync: the file is the old one or the new one, and nothing else of it is left behind.
pub(crate) fn replace(dir: &Path, name: &str, content: &[u8]) -> Result<(), Error> {
    let (new, path) = (dir.join(format!(".{name}.new")), dir.join(name));
    // What a killed run left, or what somebody put there: nothing is written through it.
    remove(&new)?;
    let written = create_new(&new)
        .and_then(|mut file| file.write_all(content).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&new, &path))
        .and_then(|()| fs::File::open(dir)?.sync_all());
    written.map_err(|source| {
        drop(fs::remove_file(&new));
        io_error("write", &path)(source)
    })
}

/// A new file that only its owner can write to, also under a umask of 0.
fn create_new(path: &Path) -> io::Result<fs::File> {
    fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(path)
}

/// The number comes to disk also where there is no room for a second file: what makes room moves it.
pub(super) fn put_number(dir: &Path, number: u64) -> Result<(), Error> {
    match replace(dir, "transaction", number.to_string().as_bytes()) {
        Err(Error::Io { source, .. })
            if matches!(
                source.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            ) =>
        {
            overwrite(&dir.join("transaction"), format!("{number:<20}").as_bytes())
        }
        replaced => replaced,
    }
}

/// Writes over the beginning of a file that is there, in the block that it has: one write of one sector.
fn overwrite(path: &Path, content: &[u8]) -> Result<(), Error> {
    let flags = nix::libc::O_NOFOLLOW | nix::libc::O_CLOEXEC;
    let mut options = fs::OpenOptions::new();
    let written = options
        .write(true)
        .custom_flags(flags)
        .open(path)
        .and_then(|mut file| file.write_all(content).and_then(|()| file.sync_all()));
    written.map_err(io_error("write", path))
}

pub(super) fn is_there(path: &Path) -> Result<bool, Error> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(io_error("look at", path)(source)),
    }
}

/// Whether that is a directory itself. What cannot be looked at is not taken for something else.
pub(super) fn is_dir(path: &Path) -> Result<bool, Error> {
    match fs::symlink_metadata(path) {
        Ok(found) => Ok(found.is_dir()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(io_error("look at", path)(source)),
    }
}

/// Removes a file; an absent one is fine.
pub(super) fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(io_error("remove", path)(error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The root of a volume is a directory that no layer names: 0755 whatever the umask, of time 0.
pub(super) fn make_tree(path: &Path) -> Result<(), Error> {
    use std::os::unix::fs::PermissionsExt as _;
    let epoch = std::time::UNIX_EPOCH;
    let times = fs::FileTimes::new().set_accessed(epoch).set_modified(epoch);
    fs::create_dir(path)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o755)))
        .and_then(|()| fs::File::open(path)?.set_times(times))
        .map_err(io_error("make", path))
}

pub(super) fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { doing, path, source }
}

pub(super) fn tree_error(doing: &'static str) -> impl FnOnce(unpack::Error) -> Error {
    move |source| Error::Tree { doing, source }
}

/// Writes a file that must not be there yet, a link least of all.
pub(super) fn write_new(path: &Path, content: &[u8]) -> Result<(), Error> {
    let written = create_new(path).and_then(|mut file| file.write_all(content));
    written.map_err(io_error("write", path))
}

/// Whether [`read_own`] met what is no file.
pub(super) fn is_no_file(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::InvalidData
}

/// What is in the place of a file of ours, and the way out: what was put there is not ours to remove.
fn no_file(what: &str) -> io::Error {
    let text = format!(
        "it is {what} and no file, which a store has there: look who put it there, remove it, then \
         `orchestrate rebuild`"
    );
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// Reads a file of ours; none where there is none.
///
/// # Errors
/// Also for what is no file: a link is not followed, and a pipe not waited for.
pub(super) fn read_own(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    let flags = (nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK) | nix::libc::O_CLOEXEC;
    let file = match fs::OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.raw_os_error() == Some(nix::libc::ELOOP) => {
            return Err(io_error("read", path)(no_file("a symbolic link")));
        }
        // A socket.
        Err(error) if error.raw_os_error() == Some(nix::libc::ENXIO) => {
            return Err(io_error("read", path)(no_file("a socket")));
        }
        Err(source) => return Err(io_error("open", path)(source)),
    };
    let found = file.metadata().map_err(io_error("look at", path))?;
    if !found.is_file() {
        let what = if found.is_dir() { "a directory" } else { "a device or a pipe" };
        return Err(io_error("read", path)(no_file(what)));
    }
    let mut content = Vec::new();
    let read = file.take(OWN_MAX).read_to_end(&mut content);
    read.map_err(io_error("read", path))?;
    Ok(Some(content))
}

/// The room of the file system that the store is in.
pub(super) fn space(path: &Path) -> Result<Space, Error> {
    let stat = nix::sys::statvfs::statvfs(path)
        .map_err(|errno| io_error("measure", path)(errno.into()))?;
    let block = stat.fragment_size();
    let (total, free) = (stat.blocks() * block, stat.blocks_available() * block);
    Ok(Space { total, used: total.saturating_sub(free), block })
}
