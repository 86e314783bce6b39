//! How a local file becomes an object whose bytes are known: looked for first, then written whole, or in parts that
//! the next process goes on with where this one is killed. The digest is known before an object of that name is there.

use std::cell::Cell;
use std::io::{self, Read};
use std::path::PathBuf;

use crate::client::Client;
use crate::error::Error;
use crate::error::kind::Kind;
use crate::http::retry::may_retry;
use crate::s3::object::ObjectRef;
use crate::s3::write::{Content, OBJECT_BYTES_MAX, PART_BYTES, Part, part_bytes};
use crate::text::digest::{Sha256, write_digest};

/// What layers and documents are stored as; what they are stands in the documents.
const MEDIA: &str = "application/octet-stream";

/// How often an upload that somebody else ended is begun anew.
const BEGUN_MAX: u32 = 3;

/// Unfinished uploads of one key that are looked at.
const UPLOADS_MAX: usize = 4;

/// Local bytes, and the object that they become.
#[derive(Clone, Debug)]
pub struct Upload {
    /// The object.
    pub object: ObjectRef,
    /// Bytes.
    pub size: u64,
    /// Their digest.
    pub sha256: [u8; 32],
    /// Where they are, as a message has it.
    pub place: String,
    /// Whether the object's name has the digest in it: one of the same size is the same then. Else it is the same
    /// where its ETag is the MD5 of the bytes, or of their parts as they are cut here.
    pub named: bool,
}

/// What an upload did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Uploaded {
    /// Bytes that were sent.
    pub sent: u64,
    /// Bytes that the server had already: all of them, or parts of an upload that was not finished.
    pub there: u64,
}

/// Opens the bytes from their start; asked again where an upload has to be begun anew.
pub type Opening<'a> = dyn Fn() -> io::Result<Box<dyn Read>> + 'a;

impl Client {
    /// Makes sure that the object is there and has these bytes. `tell` is told of bytes as they are sent or found.
    ///
    /// # Errors
    /// [`Error::Local`] for bytes that have not the digest or size: nothing of them stays. [`Error::TooLarge`] beyond
    /// 625 GiB; [`Error::Changed`] for another object of this name where the name does not tell the content;
    /// [`Error::Vanished`]; [`Error::File`] for what cannot be read; else as any request.
    pub fn upload(
        &self,
        upload: &Upload,
        open: &Opening<'_>,
        tell: &dyn Fn(Uploaded),
    ) -> Result<Uploaded, Error> {
        let subject = upload.object.to_string();
        let part_bytes = part_bytes(upload.size).ok_or_else(|| Error::TooLarge {
            subject: subject.clone(),
            size: upload.size,
            size_max: OBJECT_BYTES_MAX,
        })?;
        self.may_write(&upload.object)?;
        let sent = Cell::new(0);
        let counted = |step: Uploaded| {
            sent.set(sent.get() + step.sent);
            tell(step);
        };
        // What was sent by a try whose answer was lost is there by now.
        let found = || Uploaded { sent: sent.get(), there: upload.size.saturating_sub(sent.get()) };
        if self.has(upload, open, part_bytes)? {
            tell(found());
            return Ok(found());
        }
        if upload.size <= PART_BYTES {
            let done = self.whole(upload, open)?;
            tell(done);
            return Ok(done);
        }
        for _ in 0..BEGUN_MAX {
            match self.in_parts(upload, open, part_bytes, &counted)? {
                Some(done) if self.is_of_size(upload)? => return Ok(done),
                // Somebody else ended it: by making the object of it, or by giving it up.
                Some(_) | None if self.has(upload, open, part_bytes)? => return Ok(found()),
                Some(_) | None => {}
            }
        }
        Err(Error::Vanished { subject, begun: BEGUN_MAX })
    }

    /// Whether the object is there as it has to be.
    fn has(&self, upload: &Upload, open: &Opening<'_>, part_bytes: u64) -> Result<bool, Error> {
        let object = match self.head(&upload.object) {
            Ok(object) => object,
            Err(Error::Answer { answer, .. })
                if answer.status == 404 && answer.code.as_deref() != Some("NoSuchBucket") =>
            {
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        if upload.named {
            if object.size != upload.size {
                let (is, due) = (object.size, upload.size);
                self.note(&format!(
                    "{}: {is} bytes are there and not {due}: it is replaced",
                    upload.object
                ));
            }
            return Ok(object.size == upload.size);
        }
        let changed = |field, want: String, got: String| {
            let subject = upload.object.to_string();
            Err(Error::Changed { subject, field, want, got })
        };
        if object.size != upload.size {
            return changed("size", upload.size.to_string(), object.size.to_string());
        }
        let own = tag(upload, open, part_bytes)?;
        let found = object.etag.unwrap_or_default();
        match found.trim_matches('"') == own {
            true => Ok(true),
            false => changed("ETag", own, found),
        }
    }

    fn is_of_size(&self, upload: &Upload) -> Result<bool, Error> {
        match self.head(&upload.object) {
            Ok(object) => Ok(object.size == upload.size),
            Err(error) if error.kind() == Kind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn whole(&self, upload: &Upload, open: &Opening<'_>) -> Result<Uploaded, Error> {
        let mut from = Source::open(upload, open)?;
        let mut bytes = Vec::new();
        from.next(&mut bytes, PART_BYTES)?;
        from.end()?;
        let content = Content { bytes: &bytes, sha256: &upload.sha256, media: MEDIA };
        self.put_hashed(&upload.object, content, None)?;
        Ok(Uploaded { sent: upload.size, there: 0 })
    }

    /// None where the upload was gone before it was ended.
    fn in_parts(
        &self,
        upload: &Upload,
        open: &Opening<'_>,
        part_bytes: u64,
        tell: &dyn Fn(Uploaded),
    ) -> Result<Option<Uploaded>, Error> {
        let object = &upload.object;
        let begun = self.unfinished(object)?;
        let (id, kept) = match self.furthest(upload, &begun, part_bytes)? {
            Some(found) => found,
            None => (self.create(object, MEDIA)?, Vec::new()),
        };
        match self.parts_of(upload, open, (&id, &kept), part_bytes, tell) {
            Ok(done) => {
                self.clean_up(object);
                Ok(Some(done))
            }
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => {
                let is_final = !may_retry(&error) && !matches!(error, Error::GaveUp { .. });
                if is_final && !matches!(error, Error::File { .. }) {
                    // What fails here is told by what failed first.
                    drop(self.abort(object, &id));
                }
                Err(error)
            }
        }
    }

    /// Ends the other uploads of this name, which nobody needs now: those of killed processes, and one whose id was
    /// lost on its way here. Whoever is at one finds the object.
    fn clean_up(&self, object: &ObjectRef) {
        for other in self.unfinished(object).unwrap_or_default() {
            drop(self.abort(object, &other));
        }
    }

    /// Of the unfinished uploads the one with the most parts that can be of use.
    fn furthest(
        &self,
        upload: &Upload,
        ids: &[String],
        part_bytes: u64,
    ) -> Result<Option<(String, Vec<Part>)>, Error> {
        let mut best: Option<(String, Vec<Part>)> = None;
        for id in ids.iter().rev().take(UPLOADS_MAX) {
            let mut parts = match self.parts(&upload.object, id) {
                Ok(parts) => parts,
                Err(error) if error.kind() == Kind::NotFound => continue,
                Err(error) if matches!(error.kind(), Kind::Refused | Kind::Denied) => continue,
                Err(error) => return Err(error),
            };
            parts.retain(|part| {
                let before = u64::from(part.number.saturating_sub(1)).saturating_mul(part_bytes);
                part.size == upload.size.saturating_sub(before).min(part_bytes)
            });
            if best.as_ref().is_none_or(|(_, most)| parts.len() > most.len()) {
                best = Some((id.clone(), parts));
            }
        }
        Ok(best)
    }

    fn parts_of(
        &self,
        upload: &Upload,
        open: &Opening<'_>,
        (id, kept): (&str, &[Part]),
        part_bytes: u64,
        tell: &dyn Fn(Uploaded),
    ) -> Result<Uploaded, Error> {
        let mut from = Source::open(upload, open)?;
        let (mut parts, mut done) = (Vec::new(), Uploaded::default());
        let mut bytes = Vec::new();
        for number in 1.. {
            from.next(&mut bytes, part_bytes)?;
            if bytes.is_empty() {
                break;
            }
            let size = bytes.len() as u64;
            let same = |part: &&Part| {
                part.number == number
                    && part.size == size
                    && part.etag.trim_matches('"') == hex::encode(md5::compute(&bytes).0)
            };
            let step = match kept.iter().find(|part| part.number == number).filter(same) {
                Some(part) => {
                    parts.push(part.clone());
                    Uploaded { sent: 0, there: size }
                }
                None => {
                    let mut hash = Sha256::new();
                    hash.update(&bytes);
                    let content = Content { bytes: &bytes, sha256: &hash.finish(), media: MEDIA };
                    parts.push(self.put_part(&upload.object, id, number, content)?);
                    Uploaded { sent: size, there: 0 }
                }
            };
            tell(step);
            (done.sent, done.there) = (done.sent + step.sent, done.there + step.there);
        }
        // Only what has its digest becomes an object.
        from.end()?;
        self.complete(&upload.object, id, &parts)?;
        Ok(done)
    }
}

/// Whether the upload is not there any more.
fn is_gone(error: &Error) -> bool {
    match error {
        Error::Answer { answer, .. } => answer.code.as_deref() == Some("NoSuchUpload"),
        _ => false,
    }
}

/// The ETag that an object of these bytes has at a server whose ETags are MD5 digests.
fn tag(upload: &Upload, open: &Opening<'_>, part_bytes: u64) -> Result<String, Error> {
    let mut from = Source::open(upload, open)?;
    let (mut bytes, mut sums, mut count) = (Vec::new(), Vec::new(), 0);
    loop {
        from.next(&mut bytes, part_bytes)?;
        if bytes.is_empty() && count > 0 {
            break;
        }
        sums.extend(md5::compute(&bytes).0);
        count += 1;
        if upload.size <= PART_BYTES {
            from.end()?;
            return Ok(hex::encode(sums));
        }
    }
    from.end()?;
    Ok(format!("{}-{count}", hex::encode(md5::compute(&sums).0)))
}

/// Local bytes on their way, with their digest.
struct Source<'a> {
    upload: &'a Upload,
    from: Box<dyn Read>,
    read: u64,
    hash: Sha256,
}

impl<'a> Source<'a> {
    fn open(upload: &'a Upload, open: &Opening<'_>) -> Result<Source<'a>, Error> {
        let from = open().map_err(|source| failed(upload, "open", source))?;
        Ok(Source { upload, from, read: 0, hash: Sha256::new() })
    }

    /// The next so many bytes, fewer at the end.
    fn next(&mut self, bytes: &mut Vec<u8>, most: u64) -> Result<(), Error> {
        bytes.clear();
        let mut from = self.from.by_ref().take(most);
        from.read_to_end(bytes).map_err(|source| failed(self.upload, "read", source))?;
        self.read += bytes.len() as u64;
        self.hash.update(bytes);
        match self.read > self.upload.size {
            true => self.end(),
            false => Ok(()),
        }
    }

    /// All is read: whether it is what it has to be.
    fn end(&mut self) -> Result<(), Error> {
        let local = |field, want, got| {
            Err(Error::Local { place: self.upload.place.clone(), field, want, got })
        };
        let mut more = [0];
        let more =
            self.from.read(&mut more).map_err(|source| failed(self.upload, "read", source))?;
        let read = self.read + more as u64;
        if read != self.upload.size {
            return local("number of bytes", self.upload.size.to_string(), read.to_string());
        }
        let found = self.hash.clone().finish();
        match found == self.upload.sha256 {
            true => Ok(()),
            false => local("sha256", write_digest(&self.upload.sha256), write_digest(&found)),
        }
    }
}

fn failed(upload: &Upload, act: &'static str, source: io::Error) -> Error {
    Error::File { act, path: PathBuf::from(&upload.place), source }
}
