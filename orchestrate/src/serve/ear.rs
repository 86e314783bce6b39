//! How the daemon hears of its fleet's document: from its sources, as a site's cache, and from the bucket itself.
//!
//! The signature says what is good, so it does not matter who gives it; who keeps an old one back does matter. So the
//! sources come first, and the bucket does each tenth time; by a tag that it has given itself, since one of a source could be
//! that of a newer document beside an older one's bytes.

use std::time::Duration;

use fetch::{Client, ObjectRef, Small};
use registry::Digest;

use crate::error::Error;
use crate::fleet::document::{BYTES_MAX, Document, SIGNATURE_BYTES_MAX};
use crate::fleet::{Member, Refused};
use crate::host::settings::Settings;
use crate::serve::daemon::Daemon;
use crate::verbs::fleet::{InForce, digest};

/// How soon a pair that does not fit is asked for once more: its other half may be on its way up.
const TORN: Duration = Duration::from_secs(1);

/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The bucket comes first each so many questions: every five minutes, where a document is asked for each 30 s.
const BUCKET_EVERY: u32 = 10;

/// What a question came to.
pub(super) enum Heard {
    /// The document in force is the newest.
    Same,
    /// Another one is in force now.
    New(InForce),
    /// What is there is not believed.
    Refused(Refused),
    /// There is none.
    Absent(Error),
}

/// What is kept from one question to the next.
#[derive(Default)]
pub(super) struct Ear {
    client: Option<Client>,
    /// What a source gave last.
    source: Seen,
    /// What the bucket gave last.
    bucket: Seen,
    /// Questions since the bucket came first.
    asked: u32,
}

/// An entity tag, and the document that it was given with.
#[derive(Clone, Default)]
struct Seen {
    etag: Option<String>,
    document: Option<Digest>,
}

/// Who is asked.
#[derive(Clone, Copy)]
enum Whom {
    Source,
    Bucket,
}

impl Ear {
    /// Asks whether there is another document than the `known` one.
    ///
    /// # Errors
    /// Nobody answers; those of the registry and of the state directory.
    pub(super) fn hear(
        &mut self,
        daemon: &Daemon,
        settings: &Settings,
        member: &Member,
        known: Option<Digest>,
    ) -> Result<Heard, Error> {
        let heard = match self.hear_once(daemon, settings, member, known) {
            Ok(Heard::Refused(Refused::Unsigned(_))) => {
                daemon.pause(TORN);
                self.hear_once(daemon, settings, member, known)
            }
            heard => heard,
        };
        if heard.is_err() {
            // Whatever is wrong with it: the next one asks anew for names and keys.
            self.client = None;
        }
        heard
    }

    fn hear_once(
        &mut self,
        daemon: &Daemon,
        settings: &Settings,
        member: &Member,
        known: Option<Digest>,
    ) -> Result<Heard, Error> {
        let client = self.client(settings)?;
        let of_known = |seen: &Seen| seen.etag.clone().filter(|_| seen.document == known);
        let tags = [of_known(&self.source), of_known(&self.bucket)];
        let question = Question { daemon, member, known, tags };
        self.asked += 1;
        let mut first = None;
        if self.asked >= BUCKET_EVERY {
            self.asked = 0;
            first = Some(question.ask(&client, Whom::Bucket));
        }
        let mut whom = Whom::Bucket;
        let (heard, etag) = match first {
            Some(Ok(said @ (Heard::Same | Heard::New(_), _))) => said,
            Some(Err(error)) if !matches!(error, Error::Fetch(_)) => return Err(error),
            // Hosts without keys get nothing out of the bucket, and none is needed while a source knows.
            first => match question.by_sources(&client)? {
                Some(said) => {
                    whom = Whom::Source;
                    said
                }
                None => first.unwrap_or_else(|| question.ask(&client, Whom::Bucket))?,
            },
        };
        let document = match &heard {
            Heard::Same => known,
            Heard::New(in_force) => Some(in_force.digest),
            Heard::Refused(_) | Heard::Absent(_) => return Ok(heard),
        };
        match whom {
            Whom::Source => self.source = Seen { etag, document },
            Whom::Bucket => self.bucket = Seen { etag, document },
        }
        Ok(heard)
    }

    fn client(&mut self, settings: &Settings) -> Result<Client, Error> {
        if let Some(client) = &self.client {
            return Ok(client.clone());
        }
        let mut options = settings.fetch.clone();
        let shorter = |time: Duration| time.min(PATIENCE);
        options.patience = shorter(options.patience);
        // The next question is the next try: one that comes sooner would be no answer to Retry-After.
        options.tries_max = Some(1);
        options.deadline = Some(PATIENCE * 2);
        options.connect_timeout = shorter(options.connect_timeout);
        options.first_byte_timeout = shorter(options.first_byte_timeout);
        options.answer_timeout = shorter(options.answer_timeout);
        options.stall_timeout = shorter(options.stall_timeout);
        let client = Client::new(&options)?;
        self.client = Some(client.clone());
        Ok(client)
    }
}

struct Question<'a> {
    daemon: &'a Daemon,
    member: &'a Member,
    known: Option<Digest>,
    /// Of the known one: a source's, and the bucket's.
    tags: [Option<String>; 2],
}

impl Question<'_> {
    /// What the first source says that has the document in force or a better one; none where that has to be asked
    /// of the bucket itself.
    fn by_sources(&self, client: &Client) -> Result<Option<(Heard, Option<String>)>, Error> {
        let mut broken = None;
        let heard = client.by_sources(|source| match self.ask(source, Whom::Source) {
            Ok((heard @ (Heard::Same | Heard::New(_)), etag)) => Ok(Some((heard, etag))),
            // What is wrong at a source is right in the bucket, perhaps.
            Ok((Heard::Refused(_) | Heard::Absent(_), _)) => Ok(None),
            Err(Error::Fetch(error)) => Err(error),
            Err(error) => {
                broken = Some(error);
                Ok(None)
            }
        });
        broken.map_or(Ok(heard), Err)
    }

    /// What one server says, with the entity tag of what it has.
    fn ask(&self, client: &Client, whom: Whom) -> Result<(Heard, Option<String>), Error> {
        let place: ObjectRef = self.member.url.parse().map_err(Error::Fetch)?;
        let [of_source, of_bucket] = &self.tags;
        let seen = match whom {
            Whom::Source => of_source,
            Whom::Bucket => of_bucket,
        };
        let Small { bytes, etag } = match client.read_changed(&place, BYTES_MAX, seen.as_deref()) {
            Ok(Some(small)) => small,
            Ok(None) => return Ok((Heard::Same, seen.clone())),
            Err(error) if is_absent(&error) => {
                return Ok((Heard::Absent(Error::Fetch(error)), None));
            }
            Err(fetch::Error::TooLarge { .. }) => {
                return Ok((Heard::Refused(too_large()), None));
            }
            Err(error) => return Err(Error::Fetch(error)),
        };
        if self.known == Some(digest(&bytes)) {
            return Ok((Heard::Same, etag));
        }
        let place: ObjectRef =
            format!("{}.minisig", self.member.url).parse().map_err(Error::Fetch)?;
        let unsigned = |why: String| Ok((Heard::Refused(Refused::Unsigned(why)), None));
        let signature = match client.read_small(&place, SIGNATURE_BYTES_MAX) {
            Ok(Some(small)) => small.bytes,
            Ok(None) => return unsigned("there is no signature beside it".into()),
            Err(fetch::Error::TooLarge { .. }) => {
                return unsigned(format!("it is longer than {SIGNATURE_BYTES_MAX} bytes"));
            }
            Err(error) => return Err(Error::Fetch(error)),
        };
        let taken =
            self.daemon.with_host(|host| host.take_document(self.member, &bytes, &signature))?;
        Ok(match taken {
            Ok(in_force) => (Heard::New(in_force), etag),
            Err(refused) => (Heard::Refused(refused), None),
        })
    }
}

/// Whether the server says that there is none, or none for us: servers that list nothing say the latter.
fn is_absent(error: &fetch::Error) -> bool {
    matches!(error.kind(), fetch::Kind::NotFound | fetch::Kind::Denied)
}

fn too_large() -> Refused {
    let bytes = vec![b' '; usize::try_from(BYTES_MAX).unwrap_or(0) + 1];
    match Document::parse(&bytes) {
        Err(faults) => Refused::Malformed(faults),
        Ok(_) => Refused::Unsigned("it is too large".into()),
    }
}
