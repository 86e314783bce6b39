//! Where the signed catalog comes from: a source, as a site's cache, or the bucket, and only where it has changed.
//!
//! Its signature says what is good, so it does not matter who gives it; who keeps a newer one back does matter. So what
//! a source has counts only where it is no older than what was believed before and has not expired, and the bucket itself
//! is asked as well where it was not in the last minutes. What was believed last is kept in the state directory, with its
//! entity tags: so the next question costs no body. The bucket is never asked by a tag that a source gave, which could be
//! that of a newer catalog beside an older one's bytes: the bucket would say of both that nothing has changed.

use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use fetch::{Client, Kind, ObjectRef, Options};
use minisign_verify::PublicKey;
use registry::Digest;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::error::Error;
use crate::error::leaves::whole;
use crate::host::Host;
use crate::host::client::heard;
use crate::process::cancel::heedfully;
use crate::process::clock::now_ms;
use crate::store::dir_files::replace;
use crate::trust::catalog::Catalog;
use crate::trust::keys::Distrust;
use crate::verbs::catalog::bounds::{allowed, expired, now_s};

/// Bytes of a catalog: some hundred thousand layers.
pub(super) const BYTES_MAX: u64 = 32 << 20;

/// Bytes of a signature; minisign's are about 300.
pub(super) const SIGNATURE_BYTES_MAX: u64 = 16 << 10;

/// The file of the state directory that keeps the last catalog that was believed.
const KEPT: &str = "catalog.json";

/// Bytes of what that file says of the catalog, before it.
const HEAD_BYTES_MAX: u64 = 64 << 10;

/// Under which name it is kept when the bucket itself was last asked, where there are sources.
const ASKED: &str = "catalog_asked_milliseconds";

/// For so long sources may answer in the place of the bucket.
const BUCKET_EVERY: Duration = Duration::from_secs(300);

/// How long somebody is waited for who need not answer: another one may.
const PATIENCE: Duration = Duration::from_secs(5);

/// A catalog that a key has signed.
#[derive(Clone, Debug)]
pub(super) struct Signed {
    pub(super) catalog: Catalog,
    pub(super) digest: Digest,
}

/// Whose word counts, and after which catalog.
#[derive(Clone, Debug)]
pub(super) struct Judge {
    pub(super) keys: Vec<PublicKey>,
    /// Serial and digest of the one that was believed last.
    pub(super) last: Option<(u64, Digest)>,
    pub(super) step: u64,
    pub(super) grace_s: u64,
}

impl Judge {
    /// What a key has signed, whatever its serial.
    pub(super) fn signed(&self, bytes: &[u8], signature: &[u8]) -> Result<Signed, Distrust> {
        let signature = String::from_utf8_lossy(signature);
        let catalog = Catalog::read(bytes, &signature, &self.keys)?;
        Ok(Signed { catalog, digest: Digest(Sha256::digest(bytes).into()) })
    }

    fn believes(&self, signed: Signed) -> Result<Signed, Error> {
        let (serial, digest) = (signed.catalog.serial, signed.digest);
        allowed(self.last, serial, digest, self.step).map_err(Error::Catalog)?;
        Ok(signed)
    }

    fn is_over(&self, signed: &Signed) -> bool {
        expired(signed.catalog.expires_s, self.grace_s, now_s())
    }
}

/// What is kept of the last one.
#[derive(Clone, Debug)]
struct Kept {
    tags: Tags,
    /// md5 of its bytes, which is what S3 gives an object of one part as its entity tag.
    md5: String,
    signed: Signed,
}

/// The entity tags of a catalog.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Tags {
    /// Of whoever gave its bytes last.
    last: Option<String>,
    /// Of the bucket itself, where that has given them.
    bucket: Option<String>,
}

/// Who is asked.
#[derive(Clone, Copy, Debug)]
enum Whom {
    /// A source, which gets the tag that was seen last.
    Source,
    /// The bucket, which gets a tag of its own, or the md5 of what is here.
    Bucket,
}

/// The first line of the file that keeps it; its bytes follow.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    url: String,
    etag: Option<String>,
    /// None in the files of earlier versions.
    #[serde(default)]
    bucket_etag: Option<String>,
    signature: String,
}

/// What a question came to.
struct Answer {
    signed: Signed,
    /// Bytes, signature and entity tags, where they are to be kept.
    new: Option<(Vec<u8>, Vec<u8>, Tags)>,
    /// Whether the bucket itself was asked.
    asked: bool,
    /// Why the kept one has to do, where nobody answers.
    aged: Option<String>,
}

/// For whoever can be done without: as `options`, with little patience.
pub(super) fn hasty(options: &Options) -> Options {
    let shorter = |time: Duration| time.min(PATIENCE);
    Options {
        patience: shorter(options.patience),
        tries_max: Some(options.tries_max.map_or(2, |tries| tries.min(2))),
        deadline: Some(PATIENCE * 2),
        connect_timeout: shorter(options.connect_timeout),
        first_byte_timeout: shorter(options.first_byte_timeout),
        stall_timeout: shorter(options.stall_timeout),
        answer_timeout: options.answer_timeout.min(PATIENCE * 2),
        ..options.clone()
    }
}

impl Host {
    pub(super) fn catalog_judge(&self) -> Result<Judge, Error> {
        let trust = &self.settings.trust;
        let url = trust.url.clone().unwrap_or_default();
        Ok(Judge {
            keys: trust.public_keys().map_err(Error::Catalog)?,
            last: self.registry.catalog(&url)?.map(|known| (known.serial, known.digest)),
            step: trust.serial_step,
            grace_s: trust.grace_s,
        })
    }

    /// The newest catalog that is to be had, which a key has signed and which may follow the last one.
    ///
    /// # Errors
    /// [`Error::Catalog`] for what the bucket has; [`Error::Fetch`], and [`Error::Unheard`] where there are sources, where
    /// nobody has one.
    pub(super) fn newest_catalog(&mut self, client: &Client, url: &str) -> Result<Signed, Error> {
        let judge = self.catalog_judge()?;
        let kept = kept(&self.settings.state, url, &judge);
        let by_sources = client.has_sources();
        let due = by_sources && self.bucket_is_due(kept.is_some())?;
        let cancel = self.settings.cancel.clone();
        let options = heard(&self.settings, fetch::Stop::new(move || cancel.is_set()));
        let question = Question { url: url.to_owned(), judge, kept };
        let client = client.clone();
        let answer = heedfully(&self.settings.cancel, move || match by_sources {
            true => question.of_sources(&client, &Client::new(&hasty(&options))?, due),
            false => question.of_server(&client),
        })??;
        let Answer { signed, new, asked, aged } = answer;
        if asked && by_sources {
            let now = now_ms().unsigned_abs();
            self.registry.write(|write| write.keep_moment(ASKED, now))?;
        }
        if let Some(why) = aged {
            let serial = signed.catalog.serial;
            self.warn(&format!("the catalog of serial {serial} has to do: {why}"), &[]);
        }
        if let Some((bytes, signature, tags)) = new {
            let signature = String::from_utf8_lossy(&signature).into_owned();
            let Tags { last: etag, bucket: bucket_etag } = tags;
            let head = Head { url: url.to_owned(), etag, bucket_etag, signature };
            // It only spares a body, and lasts while nobody answers: no reason to fail what it is asked for.
            if let Err(error) = keep(&self.settings.state, &head, &bytes) {
                self.say(1, format_args!("the catalog is not kept: {}", whole(&error)));
            }
        }
        Ok(signed)
    }

    /// Whether sources have answered in the bucket's place for long enough.
    fn bucket_is_due(&self, kept: bool) -> Result<bool, Error> {
        let counters = self.registry.counters()?;
        let asked = counters.iter().find(|kept| kept.name == ASKED).map(|kept| kept.value);
        // A clock that was set back does not make it later.
        let since = asked.and_then(|asked| now_ms().unsigned_abs().checked_sub(asked));
        Ok(!kept || since.is_none_or(|ms| Duration::from_millis(ms) >= BUCKET_EVERY))
    }
}

/// What is asked, of whomever.
struct Question {
    url: String,
    judge: Judge,
    kept: Option<Kept>,
}

impl Question {
    /// Asks the server alone.
    fn of_server(self, client: &Client) -> Result<Answer, Error> {
        let answer = self.ask(client, Whom::Bucket, self.kept.as_ref());
        answer.map(|answer| Answer { asked: true, ..answer })
    }

    /// Asks the sources, and the bucket where none of them has one; where it is `due`, the bucket is asked as well, whether
    /// it has another than they have. So the body comes of the source, and a site's cache has it for the next host.
    fn of_sources(self, client: &Client, hasty: &Client, due: bool) -> Result<Answer, Error> {
        let mut others = Vec::new();
        let found = self.by_sources(hasty, &mut others);
        let mut failed = None;
        if due {
            // Where nothing is new, it is the kept one.
            let base = found.as_ref().and_then(Answer::as_kept);
            match self.ask(hasty, Whom::Bucket, base.as_ref().or(self.kept.as_ref())) {
                Ok(answer) => {
                    let serial = |answer: &Answer| answer.signed.catalog.serial;
                    let best = found.filter(|found| serial(found) >= serial(&answer));
                    return Ok(Answer { asked: true, ..best.unwrap_or(answer) });
                }
                Err(error) => failed = Some(error),
            }
        }
        if let Some(answer) = found {
            return Ok(Answer { asked: due, ..answer });
        }
        // The signer has said for how long it does.
        let does = |kept: &&Kept| {
            kept.signed.catalog.expires_s.is_some() && !self.judge.is_over(&kept.signed)
        };
        let kept = self.kept.as_ref().filter(does).map(|kept| kept.signed.clone());
        let kept = kept.and_then(|signed| self.judge.believes(signed).ok());
        let error = match failed {
            Some(error) if kept.is_some() || !is_away(&error) => error,
            Some(_) | None => {
                let patient = if kept.is_some() { hasty } else { client };
                match self.ask(patient, Whom::Bucket, self.kept.as_ref()) {
                    Ok(answer) => return Ok(Answer { asked: true, ..answer }),
                    Err(error) => error,
                }
            }
        };
        let away = is_away(&error);
        let error = Error::Unheard { url: self.url, others, source: Box::new(error) };
        match kept {
            Some(signed) if away => {
                Ok(Answer { signed, new: None, asked: true, aged: Some(whole(&error)) })
            }
            Some(_) | None => Err(error),
        }
    }

    /// What the first source has that has one which is believed and not over; and why each before it has none.
    fn by_sources(&self, hasty: &Client, others: &mut Vec<(String, String)>) -> Option<Answer> {
        hasty.by_sources(|source| {
            let mut told = |why: String| others.push((source.endpoint().to_owned(), why));
            match self.ask(source, Whom::Source, self.kept.as_ref()) {
                Ok(answer) if !self.judge.is_over(&answer.signed) => Ok(Some(answer)),
                Ok(_) => {
                    told("it has expired".into());
                    Ok(None)
                }
                Err(Error::Fetch(error)) => {
                    told(whole(&error));
                    Err(error)
                }
                // What is wrong at a source is right in the bucket, perhaps.
                Err(error) => {
                    told(whole(&error));
                    Ok(None)
                }
            }
        })
    }

    /// What one server has, of which `base` is known. Whether the bucket was asked, the caller says.
    fn ask(&self, client: &Client, whom: Whom, base: Option<&Kept>) -> Result<Answer, Error> {
        let place: ObjectRef = self.url.parse().map_err(Error::Fetch)?;
        let same = |base: &Kept| {
            let signed = self.judge.believes(base.signed.clone())?;
            Ok(Answer { signed, new: None, asked: false, aged: None })
        };
        let seen = base.and_then(|base| base.tag(whom));
        let found = match (client.read_changed(&place, BYTES_MAX, seen)?, base) {
            (Some(found), _) => found,
            (None, Some(base)) => return same(base),
            // It was not asked whether it has changed.
            (None, None) => return Err(Error::Catalog(Distrust::Malformed("it is empty".into()))),
        };
        let is_base = |base: &&Kept| base.signed.digest.0[..] == Sha256::digest(&found.bytes)[..];
        let base = base.filter(is_base);
        let bucket = match whom {
            Whom::Source => base.and_then(|base| base.tags.bucket.clone()),
            Whom::Bucket => found.etag.clone(),
        };
        let tags = Tags { last: found.etag, bucket };
        if let Some(base) = base.filter(|base| base.tags == tags) {
            return same(base);
        }
        let beside: ObjectRef = format!("{place}.minisig").parse().map_err(Error::Fetch)?;
        let signature = client.read_changed(&beside, SIGNATURE_BYTES_MAX, None)?;
        let signature = signature.map(|small| small.bytes).unwrap_or_default();
        let signed = self.judge.signed(&found.bytes, &signature).map_err(Error::Catalog)?;
        let signed = self.judge.believes(signed)?;
        let new = Some((found.bytes, signature, tags));
        Ok(Answer { signed, new, asked: false, aged: None })
    }
}

impl Answer {
    /// As it would be kept; none where nothing is to be.
    fn as_kept(&self) -> Option<Kept> {
        let (bytes, _, tags) = self.new.as_ref()?;
        Some(Kept { tags: tags.clone(), md5: md5_tag(bytes), signed: self.signed.clone() })
    }
}

impl Kept {
    fn tag(&self, whom: Whom) -> Option<&str> {
        match whom {
            Whom::Source => self.tags.last.as_deref(),
            Whom::Bucket => Some(self.tags.bucket.as_deref().unwrap_or(&self.md5)),
        }
    }
}

/// The entity tag of these bytes as an object of one part (S3 API, "Common response headers").
fn md5_tag(bytes: &[u8]) -> String {
    format!("\"{}\"", hex::encode(md5::compute(bytes).0))
}

/// Whether somebody could not be asked, rather than said something.
fn is_away(error: &Error) -> bool {
    match error {
        Error::Fetch(error) => {
            matches!(error.kind(), Kind::Network | Kind::Timeout | Kind::Throttled)
        }
        _ => false,
    }
}

/// By rename: what was there before stays whole until the new one is.
fn keep(state: &Path, head: &Head, bytes: &[u8]) -> Result<(), Error> {
    let path = state.join(KEPT);
    let mut text = serde_json::to_vec(head).map_err(|error| Error::Io {
        doing: "keep the catalog in",
        path,
        source: error.into(),
    })?;
    text.push(b'\n');
    text.extend_from_slice(bytes);
    replace(state, KEPT, &text)
}

/// The one that was kept from this place, if a key that is trusted now has signed it. One that cannot be read or was
/// written over is none: the next one takes its place.
fn kept(state: &Path, url: &str, judge: &Judge) -> Option<Kept> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(state.join(KEPT)).ok()?;
    file.take(HEAD_BYTES_MAX + BYTES_MAX).read_to_end(&mut bytes).ok()?;
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let (head, rest) = bytes.split_at_checked(end)?;
    let head: Head = serde_json::from_slice(head).ok()?;
    let bytes = rest.get(1..)?;
    let signed = judge.signed(bytes, head.signature.as_bytes()).ok()?;
    let tags = Tags { last: head.etag, bucket: head.bucket_etag };
    (head.url == url).then(|| Kept { tags, md5: md5_tag(bytes), signed })
}
