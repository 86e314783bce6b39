//! Whether a server keeps two writers apart: it is asked to write what a condition forbids. The index is never used
//! for that. What was found is believed for a day, by server and bucket.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use fetch::{Condition, ObjectRef};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::error::push::NotPushed;
use crate::process::{place, reserve};
use crate::verbs::push::gather::Blob;
use crate::verbs::push::goal::Goal;
use crate::verbs::push::index::{dice, status};

/// No object has it: the MD5 of nobody's content.
const IMPOSSIBLE: &str = "\"00000000000000000000000000000000\"";

/// What stands in a key that should not be there.
const TEXT: &[u8] = b"veneer: this server ignores If-Match; this object can be removed\n";

/// How long a finding is believed, seconds.
const DAY: u64 = 24 * 60 * 60;

/// Findings that are kept; the oldest go.
const KEPT_MAX: usize = 64;

/// No file of ours is larger, bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What was found of one server and bucket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Finding {
    endpoint: String,
    bucket: String,
    honours: bool,
    /// Seconds since 1970.
    at: u64,
}

/// What is known of the server of a push.
pub(crate) struct Conditions<'a> {
    goal: &'a Goal,
    file: PathBuf,
    /// Whether it is believed from an earlier push that conditions hold.
    known: bool,
}

impl<'a> Conditions<'a> {
    pub(crate) fn of(goal: &'a Goal) -> Conditions<'a> {
        Conditions { goal, file: goal.settings.state.join("conditions.json"), known: false }
    }

    fn ignores(&self, known: Option<(PathBuf, u64)>) -> Error {
        let endpoint = self.goal.client.endpoint().to_owned();
        NotPushed::Ignores { endpoint, bucket: self.goal.bucket.clone(), known }.into()
    }

    /// Before anything is sent: a condition on a key that nobody has. A server that honours it writes nothing.
    ///
    /// # Errors
    /// [`NotPushed::Ignores`].
    pub(crate) fn before(&mut self) -> Result<(), Error> {
        let (endpoint, bucket) = (self.goal.client.endpoint(), self.goal.bucket.as_str());
        match find(&read(&self.file), endpoint, bucket, now()) {
            Some((true, _)) => {
                self.known = true;
                return Ok(());
            }
            Some((false, age)) => return Err(self.ignores(Some((self.file.clone(), age)))),
            None => {}
        }
        let object = self.goal.object(&format!("veneer-probe-{:016x}", dice()))?;
        let client = &self.goal.client;
        let put = client.put(&object, TEXT, "text/plain", Some(Condition::Match(IMPOSSIBLE)));
        match status(&put) {
            Some(404 | 409 | 412) => Ok(()),
            // It says itself that it knows of no conditions.
            Some(501) => self.found(false),
            None if put.is_ok() => {
                self.goal.heed(client.delete(&object))?;
                self.found(false)
            }
            Some(_) | None => self.goal.heed(put).map(drop),
        }
    }

    /// When the blobs are there: both conditions on a blob that is there, with the bytes that it has, so that a
    /// server which ignores them changes nothing either.
    ///
    /// # Errors
    /// [`NotPushed::Ignores`].
    pub(crate) fn after(&self, object: &ObjectRef, blob: &Blob) -> Result<(), Error> {
        if self.known {
            return Ok(());
        }
        let bytes = blob.bytes()?;
        for condition in [Condition::Match(IMPOSSIBLE), Condition::Absent] {
            let put =
                self.goal.client.put(object, &bytes, "application/octet-stream", Some(condition));
            match status(&put) {
                Some(409 | 412) => {}
                Some(501) => return self.found(false),
                None if put.is_ok() => return self.found(false),
                Some(_) | None => return self.goal.heed(put).map(drop),
            }
        }
        self.found(true)
    }

    fn found(&self, honours: bool) -> Result<(), Error> {
        let (endpoint, bucket) = (self.goal.client.endpoint(), &self.goal.bucket);
        let finding =
            Finding { endpoint: endpoint.to_owned(), bucket: bucket.clone(), honours, at: now() };
        // Where it cannot be kept the next push finds it out again.
        drop(keep(&self.goal.settings.state, &self.file, finding));
        if honours { Ok(()) } else { Err(self.ignores(None)) }
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// What is kept; nothing where that cannot be read.
fn read(file: &Path) -> Vec<Finding> {
    let small = fs::metadata(file).is_ok_and(|found| found.len() <= FILE_BYTES_MAX);
    let bytes = if small { fs::read(file).unwrap_or_default() } else { Vec::new() };
    serde_json::from_slice(&bytes).unwrap_or_default()
}

/// What is believed, and for how many seconds it has been.
fn find(all: &[Finding], endpoint: &str, bucket: &str, now: u64) -> Option<(bool, u64)> {
    let own = all.iter().find(|one| one.endpoint == endpoint && one.bucket == bucket)?;
    let age = now.checked_sub(own.at)?;
    (age < DAY).then_some((own.honours, age))
}

fn with(mut all: Vec<Finding>, finding: Finding) -> Vec<Finding> {
    all.retain(|one| (&one.endpoint, &one.bucket) != (&finding.endpoint, &finding.bucket));
    all.push(finding);
    all.sort_by_key(|one| one.at);
    all.drain(..all.len().saturating_sub(KEPT_MAX));
    all
}

fn keep(state: &Path, file: &Path, finding: Finding) -> Result<(), Error> {
    place::make(state, place::STATE)?;
    // What is kept back there is not for this.
    reserve::spare(state)?;
    let path = file.with_extension(format!("json.{}", std::process::id()));
    let failed = |source| Error::Io { doing: "write", path: path.clone(), source };
    let text = serde_json::to_vec(&with(read(file), finding)).unwrap_or_default();
    // A process of this number that was killed may have left one.
    drop(fs::remove_file(&path));
    let mut new = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .map_err(failed)?;
    new.write_all(&text).and_then(|()| fs::rename(&path, file)).map_err(|source| {
        drop(fs::remove_file(&path));
        failed(source)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(bucket: &str, honours: bool, at: u64) -> Finding {
        Finding { endpoint: "http://h".into(), bucket: bucket.into(), honours, at }
    }

    #[test]
    fn a_finding_is_believed_for_a_day_and_by_its_bucket() {
        let all = with(vec![finding("a", true, 5)], finding("b", false, 6));
        assert_eq!(find(&all, "http://h", "a", 15), Some((true, 10)));
        assert_eq!(find(&all, "http://h", "b", 6), Some((false, 0)));
        for (endpoint, bucket, now) in [
            ("http://g", "a", 5),
            ("http://h", "c", 5),
            ("http://h", "a", 5 + DAY),
            ("http://h", "a", 4),
        ] {
            assert_eq!(find(&all, endpoint, bucket, now), None, "{endpoint} {bucket} {now}");
        }
        let again = with(all, finding("a", false, 9));
        assert_eq!((again.len(), find(&again, "http://h", "a", 9)), (2, Some((false, 0))));
        let many =
            (0..200).fold(Vec::new(), |all, at| with(all, finding(&at.to_string(), true, at)));
        assert_eq!((many.len(), many[0].at), (KEPT_MAX, 200 - KEPT_MAX as u64));
    }

    #[test]
    fn what_is_kept_is_found_again_and_garbage_is_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (state, file) = (dir.path().join("state"), dir.path().join("state/conditions.json"));
        keep(&state, &file, finding("a", true, 7)).unwrap();
        keep(&state, &file, finding("b", false, 8)).unwrap();
        assert_eq!(read(&file), [finding("a", true, 7), finding("b", false, 8)]);
        assert_eq!(fs::read_dir(&state).unwrap().count(), 1);
        fs::write(&file, "{").unwrap();
        assert_eq!(read(&file), []);
        keep(&state, &file, finding("a", true, 7)).unwrap();
        assert_eq!(read(&file).len(), 1);
    }
}
