//! `push`: an image of this host's files becomes one in a bucket. Blobs first, each under its digest; then the
//! documents, from the innermost out; the index last. Whoever reads meanwhile finds an index whose blobs are all
//! there, and a push that was killed is gone on with by the same push.
//!
//! It is no run: nothing of this host is changed by it, and neither registry nor store is opened.

pub(crate) mod conditions;
pub(crate) mod gather;
pub(crate) mod goal;
pub(crate) mod index;
pub(crate) mod numbered;
pub(crate) mod send;

use std::fs::File;

use fetch::image::{LAYOUT, Pick, is_layout};
use fetch::{ImageRef, Place, Reference};

use crate::error::Error;
use crate::error::leaves::unusable;
use crate::host::settings::Settings;
use crate::verbs::push::conditions::Conditions;
use crate::verbs::push::gather::gather;
use crate::verbs::push::goal::{Goal, Pushed, PushedObject};
use crate::verbs::push::index::Tagged;
use crate::verbs::push::numbered::numbered;
use crate::verbs::push::send::Sender;

/// No honest `oci-layout` has more bytes.
const LAYOUT_BYTES_MAX: u64 = 4096;

/// How an image is pushed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PushOptions {
    /// Write `1.tar`, `2.tar`, .. below a plain prefix, and no layout.
    pub numbered: bool,
    /// Write `index.json` also where the server does not keep two writers apart.
    pub unsafe_index: bool,
}

/// Pushes the image of a layout or archive into a bucket; `standard` is read where its file is `-`.
///
/// # Errors
/// [`Error::Usage`] for references that cannot be pushed from or to, [`Error::Image`] for what is no whole image,
/// [`Error::Push`], [`Error::Cancelled`]; [`Error::Fetch`] of the server, and for local bytes that are not what they
/// are called.
pub fn push(
    settings: &Settings,
    from: &Reference,
    to: &Reference,
    options: PushOptions,
    standard: File,
) -> Result<Pushed, Error> {
    if to.platform.is_some() {
        return Err(Error::Usage(format!("{to}: --platform chooses of what is pushed")));
    }
    match &to.place {
        Place::Bucket { bucket, prefix, pick: Pick::Name(tag) } if !options.numbered => {
            let goal = Goal::new(settings, bucket, prefix)?;
            tagged(&goal, from, to, tag, options, standard)
        }
        Place::Numbered(ImageRef::Prefix { bucket, prefix }) if options.numbered => {
            if options.unsafe_index {
                let text = "--unsafe-index: numbered layers have no index";
                return Err(Error::Usage(text.into()));
            }
            if prefix.is_empty() {
                let text =
                    format!("{to}: numbered layers need a prefix of their own in the bucket");
                return Err(Error::Usage(text));
            }
            let goal = Goal::new(settings, bucket, prefix)?;
            numbered(&goal, from, to, standard)
        }
        Place::Bucket { .. } if options.numbered => Err(Error::Usage(format!(
            "{to}: --numbered writes to the plain form s3://bucket/prefix/"
        ))),
        Place::Numbered(_) => Err(Error::Usage(format!(
            "{to}: expected oci:s3://bucket/prefix/:TAG; or s3://bucket/prefix/ with --numbered, which \
             writes 1.tar, 2.tar, .."
        ))),
        Place::Bucket { .. } => Err(Error::Usage(format!(
            "{to}: an image is pushed under a tag: oci:s3://bucket/prefix/:TAG"
        ))),
        Place::Layout { .. }
        | Place::Archive { .. }
        | Place::DockerArchive { .. }
        | Place::Registry(_)
        | Place::Here(_) => Err(Error::Usage(format!(
            "{to}: an image is pushed into a bucket: oci:s3://bucket/prefix/:TAG"
        ))),
    }
}

/// Into a layout below a prefix.
fn tagged(
    goal: &Goal,
    from: &Reference,
    to: &Reference,
    tag: &str,
    options: PushOptions,
    standard: File,
) -> Result<Pushed, Error> {
    let gathered = gather(&goal.settings, from, standard)?;
    let index =
        Tagged { goal, tag, entries: &gathered.entries, unsafe_index: options.unsafe_index };
    // What cannot end well is told before anything is sent.
    index.look()?;
    layout(goal, false)?;
    let mut conditions = Conditions::of(goal);
    if !options.unsafe_index {
        conditions.before()?;
    }
    let named =
        |digest: fetch::image::Digest| goal.object(&format!("blobs/sha256/{}", digest.hex()));
    let sender = Sender::new(goal);
    let mut objects = sender.all(&gathered.blobs, &named)?;
    for document in &gathered.documents {
        objects.push(sender.one(document, named(document.digest)?, true)?);
    }
    if let (false, Some(last)) = (options.unsafe_index, gathered.documents.last()) {
        conditions.after(&named(last.digest)?, last)?;
    }
    layout(goal, true)?;
    let index_written = index.write()?;
    let sum = |of: fn(&PushedObject) -> u64| objects.iter().map(of).sum();
    Ok(Pushed {
        image: to.to_string(),
        digests: gathered.digests.iter().map(ToString::to_string).collect(),
        bytes_sent: sum(|one| one.bytes_sent),
        bytes_there: sum(|one| one.bytes_there),
        objects,
        index_written,
    })
}

/// Looks at `oci-layout`, or makes it where it is not there.
fn layout(goal: &Goal, make: bool) -> Result<(), Error> {
    let object = goal.object("oci-layout")?;
    match goal.heed(goal.client.read_small(&object, LAYOUT_BYTES_MAX))? {
        Some(found) => is_layout(&found.bytes).map_err(unusable(object.to_string())),
        None if make => {
            let put = goal.client.put(&object, LAYOUT.as_bytes(), "application/json", None);
            goal.heed(put).map(drop)
        }
        None => Ok(()),
    }
}
