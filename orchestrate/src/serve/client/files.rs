//! What this process opens with its caller's rights and passes to the daemon, which opens no path for a client.

use std::os::fd::{AsFd as _, OwnedFd};

use fetch::{Place, Reference};
use serde_json::{Value, json};

use crate::error::Error;
use crate::handover::copies::CopyIn;
use crate::local::way::{Way, opened};
use crate::process::cancel::Cancel;
use crate::verbs::copies::{by_path, looked_at};

/// Open files, in the order of their numbers.
#[derive(Debug, Default)]
pub(super) struct Opened {
    pub(super) files: Vec<OwnedFd>,
    /// Why one could not be opened. What is up already needs none, so this counts where the daemon does not do without.
    pub(super) failed: Option<Error>,
}

impl Opened {
    fn add(&mut self, file: Result<OwnedFd, Error>, body: &mut Value) {
        match file {
            Ok(file) => {
                body["descriptor"] = self.files.len().into();
                self.files.push(file);
            }
            Err(error) => drop(self.failed.get_or_insert(error)),
        }
    }

    /// The archive or directory of an image that is one.
    pub(super) fn image(&mut self, image: &Reference, body: &mut Value) {
        let path = match &image.place {
            Place::Layout { dir: path, .. }
            | Place::Archive { file: path, .. }
            | Place::DockerArchive { file: path, .. } => path,
            Place::Numbered(_) | Place::Bucket { .. } | Place::Registry(_) | Place::Here(_) => {
                return;
            }
        };
        let standard = || {
            let standard = std::io::stdin().as_fd().try_clone_to_owned();
            standard.map_err(|source| Error::Io { doing: "pass on", path: "-".into(), source })
        };
        let file = match image.is_stream() {
            true => standard(),
            false => opened(path).map(OwnedFd::from),
        };
        self.add(file, body);
    }

    /// Files that are to be copied, each with what it is now.
    pub(super) fn copies(&mut self, copies: &[CopyIn], cancel: &Cancel, body: &mut Value) {
        if copies.is_empty() {
            return;
        }
        let found = looked_at(copies, &Way::Own, cancel);
        let found = found.unwrap_or_else(|error| {
            self.failed.get_or_insert(error);
            copies.to_vec()
        });
        let list = found.iter().map(|copy| {
            let mut said = json!(copy);
            self.add(by_path(copy).map(OwnedFd::from), &mut said);
            said
        });
        body["copies"] = list.collect();
    }

    /// What the daemon answered, or why it was not given what it needs.
    pub(super) fn answer<T>(self, answered: Result<T, Error>) -> Result<T, Error> {
        answered.map_err(|error| self.failed.unwrap_or(error))
    }
}
