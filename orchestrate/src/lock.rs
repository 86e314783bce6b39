//! flock(2) on files below the state directory: never a row, so a dead holder blocks nobody.
//!
//! Order, to be kept by every caller: run, activation, images, build, store. Lock files stay; removing one
//! while another process opens it would make two locks of one name.

use std::cell::RefCell;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use crate::{Cancel, Error};

/// A wait that is longer than this is told.
const TELL_AFTER: Duration = Duration::from_millis(500);

/// The locks of one state directory.
pub(crate) struct Locks {
    dir: PathBuf,
    /// How long to wait for another process.
    wait: Duration,
    /// Ends every wait but those for the store, which are short and needed to clean up.
    cancel: Cancel,
    /// Is told what is waited for, and for whom.
    waiting: RefCell<Option<Waiting>>,
}

/// Tells what is waited for, and for whom.
pub(crate) type Waiting = Box<dyn Fn(&str) + Send>;

/// A held lock; dropping it, or dying, lets it go.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl std::fmt::Debug for Locks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Locks").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl Locks {
    pub(crate) fn new(state: &Path, wait: Duration, cancel: Cancel) -> Result<Locks, Error> {
        let dir = state.join("locks");
        DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(|source| Error::Io {
            doing: "make",
            path: dir.clone(),
            source,
        })?;
        Ok(Locks { dir, wait, cancel, waiting: RefCell::new(None) })
    }

    /// From now on `tell` hears of every wait that is longer than a moment.
    pub(crate) fn on_wait(&self, tell: Option<Waiting>) {
        *self.waiting.borrow_mut() = tell;
    }

    /// Held while a run of this verb and subject is at work.
    pub(crate) fn run(&self, verb: &str, subject: &str) -> Result<Lock, Error> {
        self.wait_for(&run_file(verb, subject), &format!("{verb} {}", subject.escape_debug()))
    }

    /// The run's lock, unless a living process has it.
    pub(crate) fn try_run(&self, verb: &str, subject: &str) -> Result<Option<Lock>, Error> {
        self.try_lock(&run_file(verb, subject))
    }

    /// Held by a daemon as long as it lives.
    pub(crate) fn serve(&self) -> Result<Lock, Error> {
        self.wait_for("serve.lock", "the place of the daemon")
    }

    /// The daemon's lock; none while there is one.
    pub(crate) fn try_serve(&self) -> Result<Option<Lock>, Error> {
        self.try_lock("serve.lock")
    }

    /// Held while the store and the registry's rows about it change together: milliseconds.
    pub(crate) fn store(&self) -> Result<Lock, Error> {
        let never = Cancel::default();
        let lock = self.wait_with("store.lock", "the store", &never, File::try_lock)?;
        name_holder(&lock._file);
        Ok(lock)
    }

    /// Held for the whole of one layer's build.
    pub(crate) fn build(&self, build: &str) -> Result<Lock, Error> {
        self.wait_for(&build_file(build), "a layer that another process is building")
    }

    /// The build's lock, unless a living process has it.
    pub(crate) fn try_build(&self, build: &str) -> Result<Option<Lock>, Error> {
        self.try_lock(&build_file(build))
    }

    /// Held while one activation changes.
    pub(crate) fn activation(&self, name: &str) -> Result<Lock, Error> {
        self.wait_for(&activation_file(name), &format!("activation {name:?}"))
    }

    /// The activation's lock, unless a living process has it.
    pub(crate) fn try_activation(&self, name: &str) -> Result<Option<Lock>, Error> {
        self.try_lock(&activation_file(name))
    }

    /// Held shared by who makes or uses images, so that nothing they rely on is removed.
    pub(crate) fn images_shared(&self) -> Result<Lock, Error> {
        self.wait_with("images.lock", "a removal", &self.cancel, File::try_lock_shared)
    }

    /// Held by who removes layers.
    pub(crate) fn images_alone(&self) -> Result<Lock, Error> {
        self.wait_for("images.lock", "images that are being made or used")
    }

    fn wait_for(&self, file: &str, what: &str) -> Result<Lock, Error> {
        let lock = self.wait_with(file, what, &self.cancel, File::try_lock)?;
        name_holder(&lock._file);
        Ok(lock)
    }

    fn wait_with(
        &self,
        name: &str,
        what: &str,
        cancel: &Cancel,
        lock: impl Fn(&File) -> Result<(), TryLockError>,
    ) -> Result<Lock, Error> {
        let (mut file, path) = self.open(name)?;
        let begun = Instant::now();
        let mut pause = Duration::from_millis(1);
        let mut told = false;
        loop {
            match lock(&file) {
                Ok(()) => return Ok(Lock { _file: file }),
                Err(TryLockError::Error(source)) => {
                    return Err(Error::Io { doing: "lock", path, source });
                }
                Err(TryLockError::WouldBlock) if begun.elapsed() >= self.wait => {
                    return Err(Error::Locked {
                        what: what.into(),
                        holder: holder(&mut file),
                        waited_s: begun.elapsed().as_secs(),
                    });
                }
                Err(TryLockError::WouldBlock) => {
                    if let Some(tell) = self.waiting.borrow().as_ref()
                        && !told
                        && begun.elapsed() >= TELL_AFTER
                    {
                        told = true;
                        tell(&format!("waits for {what}, held by {}", holder(&mut file)));
                    }
                    cancel.sleep(pause)?;
                    pause = (pause * 2).min(Duration::from_millis(100));
                }
            }
        }
    }

    fn try_lock(&self, name: &str) -> Result<Option<Lock>, Error> {
        let (file, path) = self.open(name)?;
        match file.try_lock() {
            Ok(()) => {
                name_holder(&file);
                Ok(Some(Lock { _file: file }))
            }
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(source)) => Err(Error::Io { doing: "lock", path, source }),
        }
    }

    fn open(&self, name: &str) -> Result<(File, PathBuf), Error> {
        let path = self.dir.join(name);
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(|source| Error::Io { doing: "open", path: path.clone(), source })?;
        Ok((file, path))
    }
}

fn run_file(verb: &str, subject: &str) -> String {
    format!("run-{verb}-{}.lock", hashed(subject))
}

fn build_file(build: &str) -> String {
    format!("build-{}.lock", hashed(build))
}

fn activation_file(name: &str) -> String {
    format!("activation-{}.lock", hashed(name))
}

/// Keys hold bytes that a file name may not.
fn hashed(key: &str) -> String {
    let hash = Sha256::digest(key.as_bytes());
    hash.iter().take(12).map(|byte| format!("{byte:02x}")).collect()
}

/// For the message of who waits; a lock is held with or without it.
fn name_holder(mut file: &File) {
    let named = file
        .set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| write!(file, "process {}", std::process::id()));
    drop(named);
}

fn holder(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.rewind().and_then(|()| file.take(64).read_to_string(&mut text));
    match read {
        Ok(_) if !text.is_empty() => text.escape_debug().to_string(),
        Ok(_) | Err(_) => "another process".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn locks(dir: &Path) -> Locks {
        Locks::new(dir, Duration::from_millis(50), Cancel::default()).unwrap()
    }

    #[test]
    fn a_held_lock_names_its_holder_and_a_dropped_one_is_free() {
        let dir = tempfile::tempdir().unwrap();
        let locks = locks(dir.path());
        let held = locks.build("a").unwrap();
        assert!(locks.try_build("a").unwrap().is_none());
        let refused = locks.build("a").unwrap_err();
        let said = refused.to_string();
        assert!(said.contains(&format!("process {}", std::process::id())), "{said}");
        drop(held);
        assert!(locks.try_build("a").unwrap().is_some());
    }

    #[test]
    fn a_removal_waits_for_users_and_users_do_not_wait_for_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let locks = locks(dir.path());
        let first = locks.images_shared().unwrap();
        let second = locks.images_shared().unwrap();
        assert!(locks.images_alone().is_err());
        drop((first, second));
        let alone = locks.images_alone().unwrap();
        assert!(locks.images_shared().is_err());
        drop(alone);
    }
}
