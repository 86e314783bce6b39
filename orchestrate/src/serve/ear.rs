//! How the daemon hears of its fleet's document: from its sources, as a site's cache, and from the bucket itself.
//!
//! The signature says what is good, so it does not matter who gives it; who keeps an old one back does matter. So the
//! sources come first, and the bucket does each tenth time.

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
    /// Of the document in force, where the server told one.
    etag: Option<String>,
    /// Questions since the bucket came first.
    asked: u32,
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
        let question = Question { daemon, member, known, etag: self.etag.clone() };
        self.asked += 1;
        let mut first = None;
        if self.asked >= BUCKET_EVERY {
            self.asked = 0;
            first = Some(question.ask(&client));
        }
        let (heard, etag) = match first {
            Some(Ok(said @ (Heard::Same | Heard::New(_), _))) => said,
            Some(Err(error)) if !matches!(error, Error::Fetch(_)) => return Err(error),
            // Hosts without keys get nothing out of the bucket, and none is needed while a source knows.
            first => match question.by_sources(&client)? {
                Some(said) => said,
                None => first.unwrap_or_else(|| question.ask(&client))?,
            },
        };
        if matches!(heard, Heard::Same | Heard::New(_)) {
            self.etag = etag;
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
    etag: Option<String>,
}

impl Question<'_> {
    /// What the first source says that has the document in force or a better one; none where that has to be asked
    /// of the bucket itself.
    fn by_sources(&self, client: &Client) -> Result<Option<(Heard, Option<String>)>, Error> {
        let mut broken = None;
        let heard = client.by_sources(|source| match self.ask(source) {
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
    fn ask(&self, client: &Client) -> Result<(Heard, Option<String>), Error> {
        let place: ObjectRef = self.member.url.parse().map_err(Error::Fetch)?;
        let Small { bytes, etag } =
            match client.read_changed(&place, BYTES_MAX, self.etag.as_deref()) {
                Ok(Some(small)) => small,
                Ok(None) => return Ok((Heard::Same, self.etag.clone())),
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
