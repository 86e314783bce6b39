//! Where a push goes, and what it did there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fetch::{Client, ObjectRef};
use serde::Serialize;

use crate::error::Error;
use crate::host::client::client_of;
use crate::host::settings::Settings;

/// What a push did.
#[derive(Clone, Debug, Serialize)]
pub struct Pushed {
    /// The image as it is named now.
    pub image: String,
    /// The manifests or indexes that the name stands for; none of numbered layers.
    pub digests: Vec<String>,
    /// Every object that the image needs.
    pub objects: Vec<PushedObject>,
    /// Bytes of objects that were sent.
    pub bytes_sent: u64,
    /// Bytes that were there already.
    pub bytes_there: u64,
    /// Whether the index was changed; no where the name stood for this already.
    pub index_written: bool,
}

/// One object of a pushed image.
#[derive(Clone, Debug, Serialize)]
pub struct PushedObject {
    /// Its key.
    pub key: String,
    /// Its size, bytes.
    pub bytes: u64,
    /// Bytes that were sent; none where it was there.
    pub bytes_sent: u64,
    /// Bytes that were there: all, or parts of an upload that an earlier push did not finish.
    pub bytes_there: u64,
}

/// Whom an image is pushed to.
pub(crate) struct Goal {
    pub(crate) client: Client,
    pub(crate) bucket: String,
    /// With its last `/`, or empty.
    pub(crate) prefix: String,
    pub(crate) settings: Settings,
    /// One part of the work has failed, and the others are not wanted any more.
    pub(crate) failed: Arc<AtomicBool>,
}

impl Goal {
    pub(crate) fn new(settings: &Settings, bucket: &str, prefix: &str) -> Result<Goal, Error> {
        let failed = Arc::new(AtomicBool::new(false));
        let (cancel, other) = (settings.cancel.clone(), failed.clone());
        let stop = fetch::Stop::new(move || cancel.is_set() || other.load(Ordering::Acquire));
        let client = client_of(settings, stop)?;
        let goal = Goal {
            client,
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
            settings: settings.clone(),
            failed,
        };
        let first = goal.object("oci-layout")?;
        goal.heed(goal.client.may_write(&first))?;
        Ok(goal)
    }

    /// An object below the prefix.
    pub(crate) fn object(&self, name: &str) -> Result<ObjectRef, Error> {
        Ok(ObjectRef::new(&self.bucket, &format!("{}{name}", self.prefix))?)
    }

    /// What came of a request. Where somebody asked to stop, that is why it failed.
    pub(crate) fn heed<T>(&self, done: Result<T, fetch::Error>) -> Result<T, Error> {
        done.map_err(|error| match self.settings.cancel.check() {
            Err(cancelled) => cancelled,
            Ok(()) => Error::Fetch(error),
        })
    }
}
