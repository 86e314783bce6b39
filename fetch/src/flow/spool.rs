//! A file that holds what has come of an object so far, for the process after a crash.
//!
//! The name says what the bytes are of: server, object, and the version (digest, or ETag and size).
//! A spool of another version is therefore never continued, it is removed. Bytes without a digest
//! to judge them count only within one boot: after a power cut a file may have its length and not
//! its contents, after `kill -9` it has both. One process at a time, by `flock`.
//!
//! A spool is an extra, so it never takes the last room of a disk: it ends, and gives back what it
//! has, before that. Nothing is synced: bytes that a power cut takes are fetched again, and a spool
//! that is removed before the kernel writes it back never reaches the disk at all.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::flow::pin::Pin;
use crate::name::locator::Locator;
use crate::text::digest::Sha256;

/// Whose bytes a spool holds, as the two halves of its name.
#[derive(Debug)]
pub(crate) struct Identity {
    object: String,
    version: Option<String>,
}

impl Identity {
    /// `pin` is what the object is known to be, if that is known yet.
    pub(crate) fn new(
        server: &str,
        object: &Locator,
        pin: Option<&Pin>,
        sha256: Option<&[u8; 32]>,
    ) -> Identity {
        Identity::in_boot(server, object, pin, sha256, &boot_id())
    }

    fn in_boot(
        server: &str,
        object: &Locator,
        pin: Option<&Pin>,
        sha256: Option<&[u8; 32]>,
        boot: &str,
    ) -> Identity {
        let version = match (sha256, pin.map(|pin| (pin.etag.strong(), pin.size))) {
            (Some(digest), _) => Some(name(&["sha256", &hex::encode(digest)])),
            (None, Some((Some(etag), size))) => {
                Some(name(&["etag", etag, &size.to_string(), boot]))
            }
            (None, Some((None, _)) | None) => None,
        };
        let object = match object {
            Locator::Object(object) => name(&[server, &object.bucket, &object.key]),
            Locator::Blob(blob) => name(&[server, &blob.name, &blob.digest.to_string()]),
        };
        Identity { object, version }
    }
}

impl Identity {
    /// How the names of all spools of this object begin, whatever their version.
    pub(crate) fn stem(&self, stem: &str) -> String {
        format!("{stem}{}-", self.object)
    }
}

/// 16 hex digits of all parts; a zero byte keeps them apart, since none can hold one.
fn name(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.as_bytes());
        hash.update(&[0]);
    }
    let mut name = hex::encode(hash.finish());
    name.truncate(16);
    name
}

/// Changes with every boot (random(4)); empty where /proc is absent.
fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default()
}

/// Where spools of one object lie and how they are called: `<stem><object>-<version>.partial`.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    pub(crate) dir: &'a Path,
    pub(crate) stem: String,
    /// Whether the file is what the caller wants, so that failing to write it is an error.
    pub(crate) strict: bool,
    /// Bytes of the file system that are left free; only where it is not strict.
    pub(crate) reserve: u64,
}

/// How the files of a spool directory begin.
pub(crate) const STEM: &str = "fetch-";
pub(crate) const ENDING: &str = ".partial";

impl Place<'_> {
    /// The spools of this object, whatever their version.
    fn of_object(&self, identity: &Identity) -> Vec<PathBuf> {
        let start = identity.stem(&self.stem);
        let Ok(entries) = fs::read_dir(self.dir) else { return Vec::new() };
        let named = entries.filter_map(Result::ok).filter(|entry| {
            entry.file_name().to_str().is_some_and(|n| n.starts_with(&start) && n.ends_with(ENDING))
        });
        named.map(|entry| entry.path()).collect()
    }

    /// Whether there is anything to continue.
    pub(crate) fn has_any(&self, identity: &Identity) -> bool {
        !self.of_object(identity).is_empty()
    }
}

/// How often somebody else's file in the place of a spool is removed before that is given up.
const STRANGERS_MAX: u32 = 8;

/// Whether nobody else can change the file, now or by a handle that they kept: what is in it counts, and
/// what is verified in it stays so.
fn is_ours(meta: &fs::Metadata) -> bool {
    // No link is left where its last owner has removed it meanwhile.
    let alone = meta.nlink() <= 1 && meta.mode() & 0o022 == 0;
    meta.is_file() && alone && meta.uid() == nix::unistd::geteuid().as_raw()
}

/// An open, locked spool.
#[derive(Debug)]
pub(crate) struct Spool {
    file: File,
    path: PathBuf,
    /// Bytes of an earlier process.
    kept: u64,
    /// Of those, bytes handed out.
    read: u64,
    strict: bool,
    reserve: u64,
    /// Bytes written since the room was last looked at.
    unseen: u64,
    /// Nothing is written any more.
    broken: bool,
}

/// The room is looked at after so many bytes.
const LOOK_BYTES: u64 = 16 << 20;

impl Spool {
    /// Opens or makes the spool; none if another process has it and the place is not strict.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::Busy`].
    pub(crate) fn open(
        place: &Place<'_>,
        identity: &Identity,
        size: u64,
    ) -> Result<Option<Spool>, Error> {
        // An object without any version is spooled as well, but never continued.
        let version = identity.version.as_deref().unwrap_or("unknown");
        let path = place.dir.join(format!("{}{}-{version}{ENDING}", place.stem, identity.object));
        let failed = |act| {
            let path = path.clone();
            move |source| Error::File { act, path, source }
        };
        let mut strangers = 0;
        let file = loop {
            // Whoever may put strange files there can do so for ever.
            let again = strangers < STRANGERS_MAX;
            let opened = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o644)
                .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
                .open(&path);
            let file = match opened {
                Err(source) if source.raw_os_error() == Some(libc::ELOOP) && again => {
                    fs::remove_file(&path).map_err(failed("remove the link"))?;
                    strangers += 1;
                    continue;
                }
                opened => opened.map_err(failed("open"))?,
            };
            let opened = file.metadata().map_err(failed("stat"))?;
            if !is_ours(&opened) {
                if !again {
                    let source = ErrorKind::PermissionDenied.into();
                    return Err(failed("start over, because another process keeps replacing")(
                        source,
                    ));
                }
                let same = |there: fs::Metadata| {
                    (there.dev(), there.ino()) == (opened.dev(), opened.ino())
                };
                if fs::symlink_metadata(&path).is_ok_and(same) {
                    fs::remove_file(&path).map_err(failed("remove what is another's,"))?;
                }
                strangers += 1;
                continue;
            }
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) if place.strict => return Err(Error::Busy { path }),
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(source)) => return Err(failed("lock")(source)),
            }
            // Its last owner may have renamed or removed it while we waited at the door.
            let ours = file.metadata().map_err(failed("stat"))?;
            match fs::symlink_metadata(&path) {
                Ok(there) if (there.dev(), there.ino()) == (ours.dev(), ours.ino()) => break file,
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Err(source) => return Err(failed("stat")(source)),
            }
        };
        for old in place.of_object(identity) {
            if old != path {
                remove_unlocked(&old);
            }
        }
        let mut kept = file.metadata().map_err(failed("stat"))?.len();
        if kept > size || identity.version.is_none() {
            file.set_len(0).map_err(failed("truncate"))?;
            kept = 0;
        }
        let (strict, reserve) = (place.strict, place.reserve);
        let mut spool =
            Spool { file, path, kept, read: 0, strict, reserve, unseen: 0, broken: false };
        // What is kept is of use also where nothing more may be.
        spool.broken = !strict && !spool.has_room(size - kept);
        Ok(Some(spool))
    }

    /// Whether `bytes` more leave the reserve alone. A file system that cannot say has no room: one
    /// in memory without a limit says 0.
    fn has_room(&self, bytes: u64) -> bool {
        free(&self.file).is_ok_and(|free| free >= bytes.saturating_add(self.reserve))
    }

    /// Where it lies.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether what comes is no longer written to it.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken
    }

    /// Bytes that need not be fetched.
    pub(crate) fn kept(&self) -> u64 {
        self.kept
    }

    /// Reads kept bytes; 0 when all are through.
    ///
    /// # Errors
    /// [`Error::File`].
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        let room = usize::try_from(self.kept - self.read).unwrap_or(usize::MAX).min(buffer.len());
        if room == 0 {
            return Ok(0);
        }
        let count = match self.file.read(&mut buffer[..room]) {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            other => other,
        }
        .map_err(|source| self.failed("read", source))?;
        self.read += count as u64;
        Ok(count)
    }

    /// Appends what came. The file's position is behind the kept bytes by then.
    ///
    /// # Errors
    /// [`Error::File`] if the file is the purpose; a mere spool is given up (`true`: just now).
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<bool, Error> {
        if self.broken {
            return Ok(false);
        }
        let written = self.file.write_all(bytes);
        self.unseen += bytes.len() as u64;
        match written {
            Err(source) if self.strict => Err(self.failed("write", source)),
            Ok(()) if self.strict || self.unseen < LOOK_BYTES => Ok(false),
            Ok(()) if self.has_room(0) => {
                self.unseen = 0;
                Ok(false)
            }
            Ok(()) | Err(_) => {
                self.broken = true;
                // Whoever needs the room gets it at once. A file that keeps it all the same is
                // removed by its owner in the end.
                self.file.set_len(0).ok();
                Ok(true)
            }
        }
    }

    /// Makes the whole, verified file appear under its final name, durably.
    ///
    /// # Errors
    /// [`Error::File`].
    pub(crate) fn keep_as(self, path: &Path) -> Result<(), Error> {
        self.file.sync_all().map_err(|source| self.failed("sync", source))?;
        let failed = |act| move |source| Error::File { act, path: path.to_owned(), source };
        fs::rename(&self.path, path).map_err(failed("rename to"))?;
        let dir = parent(path);
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed("sync the folder of"))
    }

    /// Removes the file, whose bytes are worth nothing (any more). It may be gone already.
    pub(crate) fn discard(self) -> Result<(), Error> {
        match fs::remove_file(&self.path) {
            Err(source) if source.kind() != ErrorKind::NotFound => {
                Err(self.failed("remove", source))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn failed(&self, act: &'static str, source: std::io::Error) -> Error {
        Error::File { act, path: self.path.clone(), source }
    }
}

/// The folder that a file is in.
pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        Some(_) | None => Path::new("."),
    }
}

/// Bytes that this process may still write to the file system of `file`.
fn free(file: &File) -> std::io::Result<u64> {
    let stat = nix::sys::statvfs::fstatvfs(file)?;
    Ok(stat.blocks_available().saturating_mul(stat.fragment_size()))
}

/// Removes a leftover unless a process is at it. One that cannot be opened or removed stays: it is
/// in nobody's way.
fn remove_unlocked(path: &Path) {
    remove_if_unlocked(path).ok();
}

/// Whether it is gone now.
pub(crate) fn remove_if_unlocked(path: &Path) -> std::io::Result<bool> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let gone = |result: std::io::Result<()>| match result {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
        Ok(()) | Err(_) => Ok(true),
    };
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(e) => return gone(Err(e)),
    };
    match file.try_lock() {
        Ok(()) => gone(fs::remove_file(path)),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(e)) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::pin::Tag;

    #[test]
    fn only_a_digest_outlives_a_boot() {
        let object: Locator = "s3://bkt/key".parse().unwrap();
        let pin = |etag: &str| Pin {
            size: 5,
            etag: Tag::Known(Some(etag.to_owned())),
            modified: None,
            digest: None,
        };
        let version = |etag: &str, sha256: Option<&[u8; 32]>, boot: &str| {
            Identity::in_boot("http://h", &object, Some(&pin(etag)), sha256, boot).version
        };
        assert_eq!(version("\"a\"", None, "1"), version("\"a\"", None, "1"));
        assert_ne!(version("\"a\"", None, "1"), version("\"a\"", None, "2"));
        assert_ne!(version("\"a\"", None, "1"), version("\"b\"", None, "1"));
        assert_eq!(version("W/\"a\"", None, "1"), None, "a weak tag pins nothing");
        let digest = Some(&[7; 32]);
        assert_eq!(version("\"a\"", digest, "1"), version("\"b\"", digest, "2"));
        assert_ne!(boot_id(), "", "this kernel does not tell its boots apart");
    }

    #[test]
    fn a_spool_gives_its_room_back_when_the_disk_runs_full() {
        let dir = tempfile::tempdir().unwrap();
        let object: Locator = "s3://bkt/key".parse().unwrap();
        let identity = Identity::new("http://h", &object, None, Some(&[7; 32]));
        let place = |strict| Place { dir: dir.path(), stem: STEM.to_owned(), strict, reserve: 0 };
        let piece = vec![1; 1 << 20];
        for strict in [false, true] {
            let mut spool = Spool::open(&place(strict), &identity, 1 << 30).unwrap().unwrap();
            assert!(!spool.is_broken());
            // As if somebody else had taken all that was free.
            spool.reserve = u64::MAX;
            let mut told = 0;
            for _ in 0..40 {
                told += usize::from(spool.write(&piece).unwrap());
            }
            let size = fs::metadata(spool.path()).unwrap().len();
            // What the caller wants as a file is written for as long as the kernel lets us.
            assert_eq!(
                (told, spool.is_broken(), size),
                if strict { (0, false, 40 << 20) } else { (1, true, 0) }
            );
            spool.discard().unwrap();
        }
    }
}
