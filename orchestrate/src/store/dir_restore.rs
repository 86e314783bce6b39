//! The two files of a directory store that are not in any volume: its identity and its transaction id. What a
//! lost one is put back from is decided in `rebuild`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use registry::VolumeId;

use crate::error::Error;
use crate::process::cancel::Cancel;
use crate::store::dir_files::{OWN_MAX, io_error, read_own, replace};
use crate::store::dir_place::{free, making, own_dir};
use crate::store::seal::{Key, SealRecord};

/// The file of the identity.
pub(super) const HEADER: &str = "veneer-store";
/// Digits of an identity.
const IDENTITY: usize = 32;
/// The file of the transaction id.
const TRANSACTION: &str = "transaction";

/// A store that lacks one of its files or both.
#[derive(Debug)]
pub(crate) struct Lacking {
    path: PathBuf,
    /// The identity that it says, where it does.
    pub(crate) id: Option<String>,
    /// The transaction id that it says, where it does.
    pub(crate) transaction: Option<u64>,
    /// The key in its template's record.
    pub(crate) key: Option<Key>,
    /// The latest number at which a volume was made.
    pub(crate) made: u64,
}

/// Whether this directory was a store: it has volumes that one has made.
fn was_store(path: &Path) -> bool {
    let has = |name: &str| fs::read_dir(path.join(name)).is_ok_and(|mut all| all.next().is_some());
    has("volumes") && (has("made") || has("notes"))
}

/// That a directory without an identity is to be made a store.
///
/// # Errors
/// Where it was one: that is never begun anew.
pub(super) fn never_was(path: &Path) -> Result<(), Error> {
    // Somebody may have made it since the caller looked.
    match was_store(path) && !path.join(HEADER).exists() {
        true => Err(advice(path, HEADER)),
        false => Ok(()),
    }
}

/// An identity is 32 hexadecimal digits; what else a file of that name has is nobody's.
fn is_identity(text: &str) -> bool {
    text.len() == IDENTITY && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The identity of a store that has one.
pub(super) fn identity(path: &Path) -> Result<String, Error> {
    let header = path.join(HEADER);
    let bytes = read_own(&header)?.unwrap_or_default();
    let id = std::str::from_utf8(&bytes).ok().map(str::trim).filter(|id| is_identity(id));
    match (id, was_store(path)) {
        (Some(id), _) => Ok(id.into()),
        (None, true) => Err(advice(path, HEADER)),
        (None, false) => Err(Error::Usage(format!(
            "{} is {}, and the identity of a veneer store is {IDENTITY} hexadecimal digits: name another --store",
            header.display(),
            match bytes.len() as u64 {
                0 => "empty".to_owned(),
                OWN_MAX.. => format!("of {OWN_MAX} bytes or more"),
                len => format!("of {len} bytes"),
            }
        ))),
    }
}

/// The transaction id.
pub(super) fn number(path: &Path) -> Result<u64, Error> {
    let file = path.join(TRANSACTION);
    let text = read_own(&file)?.unwrap_or_default();
    let number = std::str::from_utf8(&text).ok().and_then(|text| text.trim().parse().ok());
    number.ok_or_else(|| advice(path, TRANSACTION))
}

/// The advice for who meets a store without one of its files.
fn advice(path: &Path, name: &str) -> Error {
    let text = format!(
        "{} is gone or garbled, and this directory was a veneer store. Nothing was changed. `orchestrate rebuild` \
         puts it back, where this state directory knows the store; restore it from a backup else, or `orchestrate \
         rebuild --take-over`",
        path.join(name).display()
    );
    Error::Usage(text)
}

impl Lacking {
    /// Looks at the directory; none where it is a whole store, or never was one.
    pub(crate) fn look(path: &Path) -> Result<Option<Lacking>, Error> {
        free(path)?;
        let text = |name: &str| -> Result<Option<String>, Error> {
            let bytes = read_own(&path.join(name))?;
            let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
            Ok(text.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()))
        };
        let id = text(HEADER)?.filter(|id| is_identity(id));
        let transaction = text(TRANSACTION)?.and_then(|text| text.parse().ok());
        if (id.is_some() && transaction.is_some()) || !(id.is_some() || was_store(path)) {
            return Ok(None);
        }
        let mut lacking = Lacking { path: path.into(), id, transaction, key: None, made: 0 };
        for id in numbers(&path.join("made"))? {
            let record = read_own(&path.join("made").join(id.to_string())).ok().flatten();
            let number = record.and_then(|text| String::from_utf8(text).ok()?.trim().parse().ok());
            lacking.made = lacking.made.max(number.unwrap_or(0));
        }
        for id in numbers(&path.join("notes"))? {
            let record = read_own(&path.join("notes").join(id.to_string())).ok().flatten();
            let seal_record = record.and_then(|bytes| SealRecord::read(&bytes, None));
            lacking.key = seal_record
                .filter(|seal_record| seal_record.id == id)
                .and_then(|seal_record| seal_record.own_key());
            if lacking.key.is_some() {
                break;
            }
        }
        Ok(Some(lacking))
    }

    /// Puts back what is lacking; gives the files.
    pub(crate) fn put_back(
        &self,
        id: &str,
        transaction: u64,
        wait: Duration,
        cancel: &Cancel,
    ) -> Result<Vec<PathBuf>, Error> {
        let _making = making(&self.path, own_dir(&self.path)?, wait, cancel)?;
        let mut done = Vec::new();
        // The identity last: without it the directory is no store yet.
        if self.transaction.is_none() {
            replace(&self.path, TRANSACTION, transaction.to_string().as_bytes())?;
            done.push(self.path.join(TRANSACTION));
        }
        if self.id.is_none() {
            replace(&self.path, HEADER, id.as_bytes())?;
            done.push(self.path.join(HEADER));
        }
        Ok(done)
    }
}

/// The files of a directory whose names are ids, in order; none where there is no directory.
fn numbers(path: &Path) -> Result<Vec<VolumeId>, Error> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(io_error("list", path)(source)),
    };
    let mut ids: Vec<VolumeId> =
        entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    ids.sort_unstable();
    Ok(ids)
}
