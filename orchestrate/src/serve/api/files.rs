//! Images that are files, and files that are to be copied: which of what came with a request stands for which.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fetch::{Place, Reference};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use registry::Digest;
use serde::Deserialize;
use serde_json::{Number, Value};

use crate::error::Error;
use crate::error::image::Unusable;
use crate::handover::copies::{CopyIn, judge};
use crate::local::way::{Given, Way, beneath};
use crate::serve::api::params::short;
use crate::serve::api::{bytes, whole};
use crate::serve::daemon::Daemon;
use crate::serve::http::request::Request;
use crate::verbs::named::reference;

/// A file that is to be copied, in a request.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CopyBody {
    from: PathBuf,
    to: String,
    mode: Option<Number>,
    bytes: Option<Number>,
    sha256: Option<Digest>,
    descriptor: Option<Number>,
}

/// What a request asks for, and what came with it.
pub(super) struct Asked<'d> {
    daemon: &'d Daemon,
    /// The image by its name.
    pub(super) image: Reference,
    pub(super) copies: Vec<CopyIn>,
    given: Given,
    /// Whether anything is opened on this host.
    opens: bool,
    /// Why nothing is opened for it. What is up already needs no file.
    refused: Option<Error>,
    /// Whether it came through a pipe just now.
    arrived: bool,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        if self.arrived {
            self.daemon.archive_goes(&self.image);
        }
    }
}

/// The open file of this number that came with a request.
fn named(request: &Request, number: Option<&Number>) -> Result<Option<Arc<File>>, Error> {
    let Some(number) = number else { return Ok(None) };
    let at = number.as_u64().and_then(|at| usize::try_from(at).ok());
    match at.and_then(|at| request.files.get(at)) {
        Some(file) if is_readable(file) => Ok(Some(file.clone())),
        Some(_) => {
            Err(Error::Usage(format!("descriptor {number}: the file is not open for reading")))
        }
        None => Err(Error::Usage(format!(
            "descriptor {number}: {} open files came with this request, counted from 0; they come over the unix \
             socket alone",
            request.files.count()
        ))),
    }
}

fn is_readable(file: &File) -> bool {
    let flags = fcntl(file, FcntlArg::F_GETFL).map(OFlag::from_bits_truncate);
    flags.is_ok_and(|flags| {
        !flags.contains(OFlag::O_PATH) && flags & OFlag::O_ACCMODE != OFlag::O_WRONLY
    })
}

impl<'d> Asked<'d> {
    /// Reads what a request says of its image.
    pub(super) fn image(
        daemon: &'d Daemon,
        request: &Request,
        text: &str,
        descriptor: Option<&Number>,
    ) -> Result<Asked<'d>, Error> {
        let image = reference(short(text)?)?;
        let file = named(request, descriptor)?;
        let mut asked = Asked {
            daemon,
            image,
            copies: Vec::new(),
            given: Given::default(),
            opens: false,
            refused: None,
            arrived: false,
        };
        let path = match &asked.image.place {
            Place::Numbered(_) | Place::Bucket { .. } | Place::Registry(_) | Place::Here(_) => {
                let Some(number) = descriptor else { return Ok(asked) };
                return Err(Error::Usage(format!(
                    "descriptor {number}: {} is read from no file of this host",
                    asked.image
                )));
            }
            Place::Layout { dir: path, .. }
            | Place::Archive { file: path, .. }
            | Place::DockerArchive { file: path, .. } => path.clone(),
        };
        let refused = || Error::Image(Unusable::Daemon { image: text.to_owned() });
        if asked.image.is_stream() {
            let file = file.ok_or_else(refused)?;
            asked.image = daemon.take_in(&asked.image, &file, request.peer.as_ref())?;
            asked.arrived = true;
            return Ok(asked);
        }
        asked.image = in_full(asked.image.clone(), &path)?;
        let own = nix::unistd::geteuid().as_raw();
        let is_dir = file.as_ref().is_some_and(|file| file.metadata().is_ok_and(|is| is.is_dir()));
        asked.opens = true;
        // What lies beneath it would be opened with the daemon's rights, and not with its client's.
        let foreign = is_dir && !request.files.is_of_our_rights(own);
        asked.given.image = file.filter(|_| !foreign);
        if asked.given.image.is_none() && beneath(&daemon.settings().local_roots, &path).is_none() {
            asked.refused = Some(match foreign {
                true => Error::Usage(format!(
                    "{}: the directory of a layout is taken from root and from the daemon's own user alone; give it \
                     as an archive: tar -C DIR -c . | orchestrate activate oci-archive:-:TAG",
                    asked.image
                )),
                false => refused(),
            });
        }
        Ok(asked)
    }

    /// Reads what a request says of files that are to be copied.
    pub(super) fn with_copies(
        mut self,
        request: &Request,
        copies: &[CopyBody],
    ) -> Result<Asked<'d>, Error> {
        let (mut files, roots) = (BTreeMap::new(), self.daemon.settings().local_roots);
        for copy in copies {
            let mode = copy.mode.as_ref().map(|mode| whole("mode", mode, 0, 0o7777)).transpose()?;
            let mode = mode.and_then(|mode| u32::try_from(mode).ok());
            let (from, to) = (copy.from.clone(), short(&copy.to)?.to_owned());
            if !from.is_absolute() {
                return Err(Error::Usage(format!(
                    "from {}: expected an absolute path",
                    from.display()
                )));
            }
            let bytes = bytes("bytes", copy.bytes.as_ref(), 0)?;
            let read = CopyIn { from, to, mode, bytes, sha256: copy.sha256 }.checked()?;
            match named(request, copy.descriptor.as_ref())? {
                Some(file) => drop(files.insert(read.to.clone(), file)),
                None if beneath(&roots, &read.from).is_some() => {}
                None => {
                    let image = read.from.to_string_lossy().into_owned();
                    self.refused = Some(Error::Image(Unusable::Daemon { image }));
                }
            }
            self.copies.push(read);
        }
        judge(&self.copies)?;
        self.opens |= !copies.is_empty();
        self.given.copies = files;
        Ok(self)
    }

    /// By whose right a host opens what this asks for.
    pub(super) fn way(&self) -> Way {
        Way::client(self.given.clone(), self.daemon.settings().local_roots)
    }

    /// What becomes part of the run, and what is held for it.
    ///
    /// # Errors
    /// Why nothing is opened for it.
    pub(super) fn run_input(&mut self, input: &mut Value) -> Result<Given, Error> {
        if let Some(refused) = self.refused.take() {
            return Err(refused);
        }
        if let (true, Some(opens)) = (self.opens, self.way().opens()) {
            input["opens"] = opens.clone();
        }
        if !self.copies.is_empty() {
            input["copies"] = serde_json::json!(self.copies);
        }
        Ok(std::mem::take(&mut self.given))
    }

    /// Whether nothing would be opened for it.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn may_open(&mut self) -> Result<(), Error> {
        self.refused.take().map_or(Ok(()), Err)
    }
}

/// Why a run of this input is not done again for a client; none where it can be.
pub(super) fn objection(input: &Value) -> Option<&'static str> {
    let opens = &input["opens"];
    if opens["descriptors"].as_u64().is_some_and(|count| count > 0) {
        return Some("had open files of its client, which are gone");
    }
    let image = reference(input["image"].as_str().unwrap_or_default()).ok();
    let is_local = image.is_some_and(|image| match image.place {
        Place::Layout { .. } | Place::Archive { .. } | Place::DockerArchive { .. } => true,
        Place::Numbered(_) | Place::Bucket { .. } | Place::Registry(_) | Place::Here(_) => false,
    });
    // A process that did it itself had the right to open what it named, and whoever asks now may not have it.
    (opens.is_null() && (is_local || !input["copies"].is_null()))
        .then_some("opened files of this host by the right of its own process")
}

/// The path is a part of the image's name, and has to be read back as it is.
fn in_full(image: Reference, path: &Path) -> Result<Reference, Error> {
    let bad = |image: &Reference| {
        Err(Error::Usage(format!(
            "{image}: expected an absolute path without a colon, an @ or a #"
        )))
    };
    if !path.is_absolute() {
        return bad(&image);
    }
    let whole = image.absolute(Path::new("/"));
    match reference(&whole.to_string()) {
        Ok(again) if again == whole => Ok(whole),
        Ok(_) | Err(_) => bad(&whole),
    }
}
