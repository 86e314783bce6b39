//! The plain form: `1.tar`, `2.tar`, .. below a prefix. It has no index that could be written last, so the lowest layer
//! is: without it nobody takes what is there for an image. Nothing that is there is replaced.

use std::fs::File;

use fetch::Reference;
use fetch::image::Packed;

use crate::error::Error;
use crate::verbs::push::gather::{Blob, layers};
use crate::verbs::push::send::Sender;
use crate::verbs::push::{Goal, Pushed, PushedObject};

/// Writes the layers of one image.
pub(crate) fn numbered(
    goal: &Goal,
    from: &Reference,
    to: &Reference,
    standard: File,
) -> Result<Pushed, Error> {
    let blobs = layers(&goal.settings, from, standard)?;
    let names = blobs.iter().zip(1..).map(|(blob, number)| name(blob, number));
    let names: Vec<String> = names.collect::<Result<_, _>>()?;
    let occupied = |key: &str| {
        Error::Usage(format!(
            "s3://{}/{}: it is there already and is no layer of this image; numbered layers cannot be \
             replaced all at once: name a prefix that is empty",
            goal.bucket,
            key.escape_debug()
        ))
    };
    for found in goal.heed(goal.client.list(&goal.bucket, &goal.prefix))? {
        let key = &found.object.key;
        let own = key.strip_prefix(&goal.prefix).unwrap_or_default();
        // A console makes an object of a folder's own name.
        if !own.is_empty() && !names.iter().any(|name| name == own) {
            return Err(occupied(key));
        }
    }
    let sender = Sender::new(goal);
    let mut objects: Vec<PushedObject> = Vec::new();
    for (blob, name) in blobs.iter().zip(&names).rev() {
        let object = goal.object(name)?;
        let key = object.key.clone();
        let done = sender.one(blob, object, false).map_err(|error| match error {
            Error::Fetch(fetch::Error::Changed { .. }) => occupied(&key),
            other => other,
        });
        objects.push(done?);
    }
    objects.reverse();
    Ok(Pushed {
        image: to.to_string(),
        digests: Vec::new(),
        bytes_sent: objects.iter().map(|one| one.bytes_sent).sum(),
        bytes_there: objects.iter().map(|one| one.bytes_there).sum(),
        objects,
        index_written: false,
    })
}

fn name(blob: &Blob, number: u64) -> Result<String, Error> {
    let end = match blob.packed()? {
        Packed::Plain => "",
        Packed::Gzip => ".gz",
        Packed::Zstd => ".zst",
    };
    Ok(format!("{number}.tar{end}"))
}
