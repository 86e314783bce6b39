//! flock(2) on files below the state directory: never a row, so a dead holder blocks nobody.
//!
//! Order, to be kept by every caller: registry, run, activation, images, build, store. Files of names go
//! when there are many (`lock_files`); whoever got a lock looks whether its file is still the one of that name, and
//! whether the registry's file is still the one that was opened.

use std::cell::{Cell, RefCell};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use crate::error::{Error, OfState};
use crate::process::cancel::{CLEAN, Cancel};
use crate::process::lock_files::{self, FileId};
use crate::process::{place, reserve};

/// Whether this process is the daemon of a state directory.
static SERVES: AtomicBool = AtomicBool::new(false);

/// A wait that is longer than this is told.
const TELL_AFTER: Duration = Duration::from_millis(500);

/// Held by who waits to have the images alone, for as long as it waits.
const TURN: &str = "images-turn.lock";

/// How often it is tried.
const TURN_TRIES: u32 = 20;

/// For so long its users let it go first: a program of before may hold the images for a whole download.
const GIVE_WAY: Duration = Duration::from_secs(1);

/// The locks of one state directory.
pub(crate) struct Locks {
    dir: PathBuf,
    /// How long to wait for another process.
    wait: Cell<Duration>,
    /// Ends every wait; once it is set the store is waited for a moment more, to clean up.
    cancel: Cancel,
    /// Is told what is waited for, and for whom.
    waiting: RefCell<Option<Waiting>>,
    /// The registry's file as it was opened.
    registry: RefCell<Option<(PathBuf, FileId)>>,
}

/// Tells what is waited for, and for whom.
pub(crate) type Waiting = Box<dyn Fn(&str) + Send>;

/// A held lock; dropping it, or dying, lets it go.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
    /// Where its file is, if that goes with it: it is of one name, and there is no room for such files.
    goes: Option<PathBuf>,
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Some(path) = &self.goes {
            lock_files::remove(&self.file, path);
        }
    }
}

impl std::fmt::Debug for Locks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Locks").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl Locks {
    pub(crate) fn new(state: &Path, wait: Duration, cancel: Cancel) -> Result<Locks, Error> {
        if state.symlink_metadata().is_ok() {
            place::own(state, place::STATE, true)?;
        }
        let dir = state.join("locks");
        place::make(&dir, place::LOCKS)?;
        place::own(&dir, place::LOCKS, false)?;
        Ok(Locks {
            dir,
            wait: Cell::new(wait),
            cancel,
            waiting: RefCell::new(None),
            registry: RefCell::new(None),
        })
    }

    /// Sleeps for so long, or until somebody asks to stop.
    pub(crate) fn sleep(&self, time: Duration) -> Result<(), Error> {
        self.cancel.sleep(time)
    }

    /// From now on another process is waited for so long; gives how long it was.
    pub(crate) fn set_wait(&self, wait: Duration) -> Duration {
        self.wait.replace(wait)
    }

    /// How long another process is waited for.
    pub(crate) fn wait(&self) -> Duration {
        self.wait.get()
    }

    /// From now on `tell` hears of every wait that is longer than a moment.
    pub(crate) fn on_wait(&self, tell: Option<Waiting>) {
        *self.waiting.borrow_mut() = tell;
    }

    /// From now on who gets a lock finds out whether the registry's file is the one of now.
    pub(crate) fn watch_registry(&self, path: &Path) {
        let now = FileId::of_path(path).ok().map(|id| (path.to_owned(), id));
        *self.registry.borrow_mut() = now;
    }

    /// Whether the registry's file is the one that was opened.
    ///
    /// # Errors
    /// [`OfState::Replaced`].
    pub(crate) fn same_registry(&self) -> Result<(), Error> {
        match self.registry.borrow().as_ref() {
            Some((path, opened)) if FileId::of_path(path).ok() != Some(*opened) => {
                Err(OfState::Replaced { path: path.clone() }.into())
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Held shared by who has the registry open and may change something, so that it is not made anew
    /// under it.
    pub(crate) fn registry_shared(&self) -> Result<Lock, Error> {
        self.wait_with(
            REGISTRY,
            "the registry, which is being rebuilt",
            &self.cancel,
            File::try_lock_shared,
        )
    }

    /// Held by who makes the registry anew.
    pub(crate) fn registry_alone(&self) -> Result<Lock, Error> {
        self.wait_for(REGISTRY, "the registry, which other commands have open")
    }

    /// The processes that have the registry open, as far as the kernel shows them (proc(5), locks).
    pub(crate) fn registry_holders(&self) -> Vec<u32> {
        let file = std::fs::metadata(self.dir.join(REGISTRY)).map(|found| found.ino());
        let (Ok(inode), Ok(text)) = (file, std::fs::read_to_string("/proc/locks")) else {
            return Vec::new();
        };
        let pid = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [_, "FLOCK", _, _, pid, place, ..] = words.as_slice() else { return None };
            let here = place.rsplit(':').next().and_then(|found| found.parse().ok()) == Some(inode);
            pid.parse().ok().filter(|pid| here && *pid > 0 && *pid != std::process::id())
        };
        let mut pids: Vec<u32> = text.lines().filter_map(pid).collect();
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// Who is at work on a run, by its lock; none where nobody is.
    pub(crate) fn run_holder(&self, verb: &str, subject: &str) -> Result<Option<String>, Error> {
        if !self.is_run_held(verb, subject)? {
            return Ok(None);
        }
        let file = File::open(self.dir.join(run_file(verb, subject)));
        Ok(Some(file.map_or_else(|_| "another process".into(), |mut file| holder(&mut file))))
    }

    /// Removes the lock files that dead processes left, where there are many.
    pub(crate) fn sweep(&self) {
        lock_files::sweep(&self.dir);
    }

    /// Held while a run of this verb and subject is at work.
    pub(crate) fn run(&self, verb: &str, subject: &str) -> Result<Lock, Error> {
        self.wait_for(&run_file(verb, subject), &format!("{verb} {}", subject.escape_debug()))
    }

    /// The run's lock, unless a living process has it.
    pub(crate) fn try_run(&self, verb: &str, subject: &str) -> Result<Option<Lock>, Error> {
        self.try_lock(&run_file(verb, subject))
    }

    /// Whether a living process has the run's lock, by a look.
    pub(crate) fn is_run_held(&self, verb: &str, subject: &str) -> Result<bool, Error> {
        self.is_held(&run_file(verb, subject))
    }

    /// Held by a daemon as long as it lives.
    pub(crate) fn serve(&self) -> Result<Lock, Error> {
        let lock = self.wait_for("serve.lock", "the place of the daemon")?;
        SERVES.store(true, Ordering::Relaxed);
        Ok(lock)
    }

    /// Whether there is a daemon, by a look.
    pub(crate) fn is_served(&self) -> Result<bool, Error> {
        self.is_held("serve.lock")
    }

    /// The daemon, as far as it said, if there is one and it is not this very process.
    pub(crate) fn other_daemon(&self) -> Result<Option<String>, Error> {
        if SERVES.load(Ordering::Relaxed) || !self.is_served()? {
            return Ok(None);
        }
        let file = File::open(self.dir.join("serve.lock"));
        Ok(Some(file.map_or_else(|_| "another process".into(), |mut file| holder(&mut file))))
    }

    /// The daemon's lock; none while there is one.
    pub(crate) fn try_serve(&self) -> Result<Option<Lock>, Error> {
        self.try_lock("serve.lock")
    }

    /// Held while the store and the registry's rows about it change together: milliseconds.
    pub(crate) fn store(&self) -> Result<Lock, Error> {
        let lock = match self.cancel.is_set() {
            false => self.wait_with("store.lock", "the store", &self.cancel, File::try_lock)?,
            // To clean up; what has to wait for that is left to recovery.
            true => {
                let (never, wait) = (Cancel::default(), self.wait.get());
                self.wait.set(wait.min(CLEAN));
                let lock = self.wait_with("store.lock", "the store", &never, File::try_lock);
                self.wait.set(wait);
                lock?
            }
        };
        name_holder(&lock.file);
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

    /// Whether a living process is building this, by a look.
    pub(crate) fn is_build_held(&self, build: &str) -> Result<bool, Error> {
        self.is_held(&build_file(build))
    }

    /// Held while one activation changes.
    pub(crate) fn activation(&self, name: &str) -> Result<Lock, Error> {
        self.wait_for(&activation_file(name), &format!("activation {name:?}"))
    }

    /// The activation's lock, unless a living process has it.
    pub(crate) fn try_activation(&self, name: &str) -> Result<Option<Lock>, Error> {
        self.try_lock(&activation_file(name))
    }

    /// Whether a living process is changing this activation, by a look.
    pub(crate) fn is_activation_held(&self, name: &str) -> Result<bool, Error> {
        self.is_held(&activation_file(name))
    }

    /// Held shared by who makes or uses images, so that nothing they rely on is removed. Who waits to remove
    /// something goes first, so that many users do not keep it waiting for ever.
    pub(crate) fn images_shared(&self) -> Result<Lock, Error> {
        let begun = Instant::now();
        let (turn, _) = self.open(TURN)?;
        while begun.elapsed() < GIVE_WAY.min(self.wait.get()) && turn.try_lock_shared().is_err() {
            self.cancel.sleep(Duration::from_millis(5))?;
        }
        drop(turn);
        self.wait_with("images.lock", "a removal", &self.cancel, File::try_lock_shared)
    }

    /// Held by who removes layers.
    pub(crate) fn images_alone(&self) -> Result<Lock, Error> {
        let mut turn = None;
        // A user has it for a moment; without it, it is only less fair.
        for _ in 0..TURN_TRIES {
            turn = self.try_lock(TURN)?;
            if turn.is_some() {
                break;
            }
            self.cancel.sleep(Duration::from_millis(1))?;
        }
        let alone = self.wait_for("images.lock", "images that are being made or used");
        drop(turn);
        alone
    }

    fn wait_for(&self, file: &str, what: &str) -> Result<Lock, Error> {
        let lock = self.wait_with(file, what, &self.cancel, File::try_lock)?;
        name_holder(&lock.file);
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
                Ok(()) if lock_files::is_at(&file, &path) => return self.got(file, path),
                // It went with who held it: the one of that name is another by now.
                Ok(()) => (file, _) = self.open(name)?,
                Err(TryLockError::Error(source)) => {
                    return Err(Error::Io { doing: "lock", path, source });
                }
                Err(TryLockError::WouldBlock) if begun.elapsed() >= self.wait.get() => {
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
        loop {
            let (file, path) = self.open(name)?;
            match file.try_lock() {
                Ok(()) if lock_files::is_at(&file, &path) => {
                    name_holder(&file);
                    return self.got(file, path).map(Some);
                }
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(source)) => {
                    return Err(Error::Io { doing: "lock", path, source });
                }
            }
        }
    }

    /// Who got a lock may have waited for it, and much may have been put in another place meanwhile.
    fn got(&self, file: File, path: PathBuf) -> Result<Lock, Error> {
        let named = path.file_name().and_then(|name| name.to_str());
        let is_named = named.is_some_and(lock_files::is_named);
        let state = self.dir.parent().filter(|_| is_named);
        let full = state.is_some_and(|state| reserve::short_of(state).is_some());
        let lock = Lock { file, goes: full.then_some(path) };
        self.same_registry().map(|()| lock)
    }

    /// A look that makes no file: where there is none, nobody holds it.
    fn is_held(&self, name: &str) -> Result<bool, Error> {
        let path = self.dir.join(name);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(source) => return Err(Error::Io { doing: "open", path, source }),
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(false),
            Err(TryLockError::WouldBlock) => Ok(true),
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

/// The lock of those who have the registry open.
const REGISTRY: &str = "registry.lock";

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
        // Who waits to be alone goes first, and is waited for only so long.
        let turn = locks.try_lock(TURN).unwrap();
        let begun = Instant::now();
        let shared = locks.images_shared();
        assert!(shared.is_ok() && begun.elapsed() >= locks.wait.get().min(GIVE_WAY));
        drop((turn, shared));
    }
}
