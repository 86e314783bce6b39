//! Copies of the pool's metadata at a pace: one thread takes them into the state directory and keeps the newest ones. What
//! a copy is, `thin` says; how one is put back, docs/recovery.md.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

use thin::{Dm, Pool};

use crate::error::Error;
use crate::error::leaves::whole;
use crate::host::settings::Copies;
use crate::process::clock::now_ms;
use crate::process::log::{self, Level};
use crate::serve::daemon::Daemon;
use crate::store::pool_copies;
use crate::store::pool_room::METADATA_BLOCK_BYTES;
use crate::store::seam::StoreName;

/// How often it is looked whether one is due.
const LOOK: Duration = Duration::from_secs(5);

/// Bytes of the file system that a copy leaves free, beside what it has itself.
const LEAVE: u64 = 256 << 20;

/// Starts the thread, where there is a pool.
pub(super) fn start(daemon: &Arc<Daemon>) {
    let StoreName::Thin(pool) = daemon.settings().store else { return };
    let shared = daemon.clone();
    let started = thread::Builder::new().name("copies".into()).spawn(move || {
        let mut said = None;
        let mut rest = Duration::ZERO;
        while !shared.is_stopping() {
            let settings = shared.settings();
            rest = rest.saturating_sub(LOOK);
            if rest.is_zero() {
                let found = look(&pool_copies::directory(&settings.state), &pool, settings.copies);
                // What fails is tried again at its pace, and at least each minute or so.
                if found.is_err() {
                    rest = settings.copies.every.clamp(LOOK, Duration::from_secs(60));
                }
                tell(&shared, &pool, found, &mut said);
            }
            shared.pause(LOOK);
        }
    });
    if let Err(error) = started {
        let why = error.to_string();
        log::line(
            Level::Error,
            "no copies of the pool's metadata are taken",
            &[("why", why.into())],
        );
    }
}

/// Takes a copy where one is due, and removes the oldest ones.
fn look(dir: &Path, pool: &str, copies: Copies) -> Result<Option<PathBuf>, Error> {
    if copies.every.is_zero() {
        return Ok(None);
    }
    let newest = pool_copies::newest(dir, pool);
    // A clock that was set back makes the newest one of the future: then another is taken.
    let age = newest.and_then(|at| SystemTime::now().duration_since(at).ok());
    if age.is_some_and(|age| age < copies.every) {
        return Ok(None);
    }
    let live = Pool::adopt(Dm::open()?, pool)?;
    let used = live.status()?.working().map_or(0, |now| now.used_metadata * METADATA_BLOCK_BYTES);
    let io = |doing| move |source| Error::Io { doing, path: dir.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io("make"))?;
    let room = nix::sys::statvfs::statvfs(dir).map_err(|errno| io("measure")(errno.into()))?;
    let free = room.blocks_available().saturating_mul(room.fragment_size());
    if free < used.saturating_add(LEAVE) {
        let what = format!(
            "a copy of the metadata of pool {pool:?}, which leaves {LEAVE} bytes, in {}",
            dir.display()
        );
        return Err(Error::NoSpace {
            what,
            needs: used.saturating_add(LEAVE),
            free,
            garbage: None,
        });
    }
    let to = pool_copies::file(dir, pool, now_ms() / 1000);
    live.backup(&to)?;
    let there = pool_copies::list(dir, pool);
    let keep = usize::try_from(copies.keep).unwrap_or(usize::MAX);
    for old in there.iter().take(there.len().saturating_sub(keep)) {
        fs::remove_file(old).map_err(io("remove an old copy from"))?;
    }
    Ok(Some(to))
}

fn tell(
    daemon: &Daemon,
    pool: &str,
    found: Result<Option<PathBuf>, Error>,
    said: &mut Option<String>,
) {
    let complaint = match found {
        Ok(None) => return,
        Ok(Some(path)) => {
            let path = path.display().to_string();
            log::line(Level::Debug, "the pool's metadata was copied", &[("file", path.into())]);
            let counted = daemon.with_registry(|registry| {
                registry.write(|write| write.count("pool_copies_total", "", 1))
            });
            if let Err(error) = counted {
                daemon.complain(&error);
            }
            None
        }
        Err(error) => Some(whole(&error)),
    };
    if let Some(why) = complaint.as_ref().filter(|_| complaint != *said) {
        log::line(
            Level::Warning,
            "the pool's metadata is not copied",
            &[("why", why.as_str().into())],
        );
        let subject = format!("pool {pool}");
        let detail = format!("its metadata is not copied: {why}");
        let written = daemon
            .with_registry(|registry| registry.write(|write| write.happened(&subject, &detail)));
        if let Err(error) = written {
            daemon.complain(&error);
        }
    }
    *said = complaint;
}
