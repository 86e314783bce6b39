//! A fleet's document on this host: believed and kept, also by the state directory for a start without a server; and
//! what is so here, as rows and store have it, for what follows from it.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use registry::{
    Activation, ActivationState, CatalogFact, Digest, NewCatalog, Run, RunId, RunState, Verb,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::error::Error;
use crate::error::class::Class;
use crate::error::leaves::whole;
use crate::error::quote::quoted;
use crate::fleet::belief::is_for;
use crate::fleet::converge::{Act, ActivationFact, Facts, Failure, ImageFact, Live, look};
use crate::fleet::document::{BYTES_MAX, Document};
use crate::fleet::{Dice, Faults, Member, Refused, Status, follows, public_keys, read};
use crate::host::Host;
use crate::host::order;
use crate::store::dir_files::replace;
use crate::verbs::catalog::bounds::now_s;

/// The file of the state directory that keeps the last good document.
const KEPT: &str = "fleet.json";

/// Bytes of that file: the document as a text of JSON, in which a byte may take six.
const KEPT_BYTES_MAX: u64 = 8 * BYTES_MAX;

/// Under which name it is kept when the document was last found to be the newest.
pub(crate) const ASKED_OK: &str = "fleet_ok_milliseconds";

/// A document with its signature, in one file: no half of it is ever there.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    url: String,
    document: String,
    signature: String,
}

/// A moment at which everything has come that waits for one.
const LATER: Duration = Duration::from_secs(1 << 30);

/// What a document would do.
#[derive(Clone, Debug, Serialize)]
pub struct Planned {
    /// What it names, as it is here.
    #[serde(flatten)]
    pub status: Status,
    /// What is done first.
    pub acts: Vec<Act>,
}

/// A document in a file, whoever is to sign it; or everything that is wrong with it.
///
/// # Errors
/// [`Error::Usage`] where there is no such file, [`Error::Io`] naming it.
pub fn document_of(file: &Path) -> Result<Result<Document, Faults>, Error> {
    bytes_of(file).map(|bytes| Document::parse(&bytes))
}

fn bytes_of(file: &Path) -> Result<Vec<u8>, Error> {
    let fail = |source| Error::Io { doing: "read", path: file.into(), source };
    let opened = match std::fs::File::open(file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let shown = file.display().to_string();
            return Err(Error::Usage(format!("there is no file {}", quoted(&shown))));
        }
        opened => opened.map_err(fail)?,
    };
    let mut bytes = Vec::new();
    // One more than may be: that it is too large is told as a fault.
    opened.take(BYTES_MAX + 1).read_to_end(&mut bytes).map_err(fail)?;
    Ok(bytes)
}

/// What a daemon remembers from one look to the next.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// When the document came.
    pub(crate) since: Duration,
    /// When the last image went by it.
    pub(crate) lost: Duration,
    /// Of each subject, the number of the last run that failed, and how.
    failures: BTreeMap<String, (RunId, Failure)>,
}

impl Memory {
    /// Of a document that came then, where the last image went at that other moment.
    pub(crate) fn new(since: Duration, lost: Duration) -> Memory {
        Memory { since, lost, failures: BTreeMap::new() }
    }
}

/// A document that is in force.
#[derive(Clone, Debug)]
pub(crate) struct InForce {
    pub(crate) document: Document,
    pub(crate) digest: Digest,
}

/// sha256 of a document's bytes.
pub(crate) fn digest(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}

impl Host {
    /// Believes a signed document and keeps it, or says why not.
    ///
    /// # Errors
    /// Those of the registry and of the state directory: then what was in force stays.
    pub(crate) fn take_document(
        &mut self,
        member: &Member,
        bytes: &[u8],
        signature: &[u8],
    ) -> Result<Result<InForce, Refused>, Error> {
        let keys = public_keys(&member.keys).map_err(Error::Usage)?;
        let signature = String::from_utf8_lossy(signature);
        let document = match read(bytes, &signature, &keys, &member.me) {
            Ok(document) => document,
            Err(refused) => return Ok(Err(refused)),
        };
        let (url, serial, digest) = (member.url.as_str(), document.serial, digest(bytes));
        let known = self.registry.catalog(url)?;
        let last = known.as_ref().map(|known| (known.serial, known.digest));
        if let Err(refused) = follows(last, serial, digest) {
            return Ok(Err(refused));
        }
        // Before the row: one that is believed is there after a kill, too.
        keep(&self.settings.state, url, bytes, &signature)?;
        let stored = self.tell_store_of_fleet(url, serial, digest);
        if known.is_some_and(|known| known.serial == serial) {
            if stored {
                self.registry.write(|write| write.catalog_stored(url, serial))?;
            }
            return Ok(Ok(InForce { document, digest }));
        }
        let images = BTreeMap::new();
        let new = NewCatalog { url, serial, digest, expires_s: None, images };
        let put = self.commit_told_soon(|write| {
            let put = write.put_catalog(&new)?;
            if put && stored {
                write.catalog_stored(url, serial)?;
            }
            Ok(put)
        })?;
        match put {
            true => Ok(Ok(InForce { document, digest })),
            false => {
                let known = self.registry.catalog(url)?.map_or(serial, |known| known.serial);
                Ok(Err(Refused::Older { serial, known }))
            }
        }
    }

    /// Has the store keep the serial, so that a rebuild knows it.
    fn tell_store_of_fleet(&mut self, url: &str, serial: u64, digest: Digest) -> bool {
        let fact = CatalogFact { url: url.into(), serial, digest, expires_s: None };
        self.keep_serial(&fact, false).unwrap_or_else(|error| {
            let line = format!(
                "the store does not keep that the fleet's document of serial {serial} is in force, so a \
                 rebuild would not know it: {}",
                whole(&error)
            );
            self.warn(&line, &[]);
            false
        })
    }

    /// The document that was in force when the last daemon ended, judged as one that comes now.
    ///
    /// # Errors
    /// Those of the file and of the registry.
    pub(crate) fn kept_document(
        &mut self,
        member: &Member,
    ) -> Result<Option<Result<InForce, Refused>>, Error> {
        let Some(kept) = kept(&self.settings.state)?.filter(|kept| kept.url == member.url) else {
            return Ok(None);
        };
        let (bytes, signature) = (kept.document.as_bytes(), kept.signature.as_bytes());
        self.take_document(member, bytes, signature).map(Some)
    }

    /// Seconds since the document was last found to be the newest, by a daemon of this host.
    ///
    /// # Errors
    /// Those of the registry.
    pub(crate) fn document_age_s(&self) -> Result<Option<u64>, Error> {
        let counters = self.registry.counters()?;
        let kept = counters.iter().find(|kept| kept.name == ASKED_OK);
        let now_s = u64::try_from(now_s()).unwrap_or(0);
        Ok(kept.map(|kept| now_s.saturating_sub(kept.value / 1000)))
    }

    /// The document that a daemon has kept and this host's place in it, as far as rows tell: what a daemon waits
    /// for only the daemon knows.
    ///
    /// # Errors
    /// [`Error::Usage`] for a host without a fleet; those of the registry and the store.
    pub fn fleet_status(&self) -> Result<Status, Error> {
        let member = self.member()?;
        let mut status = Status::of(&member);
        status.age_s = self.document_age_s()?;
        let Some(kept) = kept(&self.settings.state)?.filter(|kept| kept.url == member.url) else {
            return Ok(status);
        };
        let keys = public_keys(&member.keys).map_err(Error::Usage)?;
        match read(kept.document.as_bytes(), &kept.signature, &keys, &member.me) {
            Ok(document) => drop(self.see(&member, &document, &mut status)?),
            Err(refused) => status.refused = Some(refused.to_string()),
        }
        Ok(status)
    }

    /// What a document that need not be signed would do here, once every moment that it has to wait for has come.
    ///
    /// # Errors
    /// [`Error::Told`] with what is wrong with it, or why this host would not follow it; as [`Host::fleet_status`].
    pub fn fleet_plan(&self, file: &Path) -> Result<Planned, Error> {
        let member = self.member()?;
        let told = |message| Error::Told { class: Class::Refused, message };
        let bytes = bytes_of(file)?;
        let document = Document::parse(&bytes)
            .map_err(|faults| told(format!("{}: {faults}", quoted(&file.display().to_string()))))?;
        is_for(&document, &member.me).map_err(|refused| told(refused.to_string()))?;
        let last = self.registry.catalog(&member.url)?.map(|known| (known.serial, known.digest));
        follows(last, document.serial, digest(&bytes))
            .map_err(|refused| told(format!("this host would not follow it: {refused}")))?;
        let mut status = Status::of(&member);
        let acts = self.see(&member, &document, &mut status)?;
        Ok(Planned { status, acts })
    }

    fn member(&self) -> Result<Member, Error> {
        self.settings.fleet.clone().ok_or_else(|| {
            let text = "this host is in no fleet: set fleet.url, fleet.keys and fleet.name";
            Error::Usage(text.into())
        })
    }

    fn see(
        &self,
        member: &Member,
        document: &Document,
        status: &mut Status,
    ) -> Result<Vec<Act>, Error> {
        let mut memory = Memory::default();
        let facts = self.fleet_facts(document, &mut memory, Duration::ZERO)?;
        let outlook = look(document, &facts, &member.me, LATER, Dice(0));
        status.seen(document, &outlook, LATER);
        Ok(outlook.acts)
    }

    /// What is so here.
    ///
    /// # Errors
    /// Those of the registry and of the store.
    pub(crate) fn fleet_facts(
        &self,
        document: &Document,
        memory: &mut Memory,
        now: Duration,
    ) -> Result<Facts, Error> {
        let (registry, store) = (&self.registry, self.store());
        let askers = registry.image_askers()?;
        let image = |row: registry::Image| {
            let asked = askers.get(&row.reference);
            let fact = ImageFact {
                pinned: row.pinned,
                person: asked.is_none_or(|asked| asked.person),
                document: asked.is_some_and(|asked| asked.document),
            };
            (row.reference, fact)
        };
        let images: BTreeMap<_, _> = registry.images()?.into_iter().map(image).collect();
        let askers = registry.activation_askers()?;
        let activation = |row: Activation| {
            let named = document.activations.contains_key(&row.name);
            let fact = ActivationFact {
                up: row.state == ActivationState::Active && row.when_closed.is_none(),
                // What cannot be told is taken for open: nothing is done to it.
                open: named && store.held(row.id).map_or(true, |held| held.is_some()),
                person: askers.get(&row.name).is_none_or(|asked| asked.person),
                image: row.reference,
            };
            (row.name, fact)
        };
        let activations = registry.activations()?.into_iter().map(activation).collect();
        let space = store.space()?;
        let url = self.settings.trust.url.as_deref();
        let catalog = url.map(|url| registry.catalog(url)).transpose()?.flatten();
        Ok(Facts {
            failures: self.failures(document, &images, memory, now)?,
            images,
            activations,
            live: registry.runs(false)?.into_iter().map(live).collect(),
            catalog: catalog.map(|catalog| catalog.serial),
            used: space.used.saturating_mul(100).checked_div(space.total).unwrap_or(100),
            since: memory.since,
            lost: memory.lost,
        })
    }

    /// How the last run about each thing failed that is not as the document has it.
    fn failures(
        &self,
        document: &Document,
        images: &BTreeMap<String, ImageFact>,
        memory: &mut Memory,
        now: Duration,
    ) -> Result<BTreeMap<String, Failure>, Error> {
        let entries = document.images.values();
        let wanted =
            entries.flat_map(|entry| [Some(&entry.image), entry.before.as_ref()]).flatten();
        let missing = wanted.filter(|image| !images.contains_key(*image));
        let stays = document.remove.iter().filter(|image| images.contains_key(*image));
        let mut found = BTreeMap::new();
        for subject in missing.chain(stays).chain(document.activations.keys()) {
            let Some(run) = self.registry.last_run(subject)? else { continue };
            let Some((class, serial)) = failed(&run) else { continue };
            let before = memory.failures.get(subject);
            let failure = match before {
                Some((id, failure)) if *id == run.id => *failure,
                Some((_, failure)) => {
                    Failure { serial, class, tries: failure.tries.saturating_add(1), at: now }
                }
                None => Failure { serial, class, tries: 1, at: now },
            };
            found.insert(subject.clone(), (run.id, failure));
        }
        memory.failures.clone_from(&found);
        Ok(found.into_iter().map(|(subject, (_, failure))| (subject, failure)).collect())
    }
}

/// How a run failed, and for which document; none where it did not.
fn failed(run: &Run) -> Option<(Class, Option<u64>)> {
    let class = match &run.state {
        RunState::Failed { class, .. } => Class::from_word(class).unwrap_or(Class::HostBroken),
        RunState::Cancelled => Class::Cancelled,
        RunState::Queued | RunState::Running | RunState::Done => return None,
    };
    let input: Value = serde_json::from_str(&run.input).unwrap_or_default();
    Some((class, input["document"].as_u64()))
}

fn live(run: Run) -> Live {
    Live {
        image: order::image_of(&run),
        document: run.asker() == registry::Asker::Document,
        takes_away: matches!(run.verb, Verb::Rm | Verb::Deactivate | Verb::Gc),
        subject: run.subject,
    }
}

/// By rename: what was there before stays whole until the new one is.
fn keep(state: &Path, url: &str, document: &[u8], signature: &str) -> Result<(), Error> {
    let path = state.join(KEPT);
    let fail =
        |source| Error::Io { doing: "keep the fleet's document in", path: path.clone(), source };
    let kept = Kept {
        url: url.into(),
        document: String::from_utf8_lossy(document).into_owned(),
        signature: signature.into(),
    };
    let text = serde_json::to_vec(&kept).map_err(|error| fail(error.into()))?;
    if std::fs::read(&path).is_ok_and(|there| there == text) {
        return Ok(());
    }
    replace(state, KEPT, &text)
}

fn kept(state: &Path) -> Result<Option<Kept>, Error> {
    let path: PathBuf = state.join(KEPT);
    let fail =
        |source| Error::Io { doing: "read the fleet's document in", path: path.clone(), source };
    let file = match std::fs::File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fail(error)),
    };
    let mut bytes = Vec::new();
    file.take(KEPT_BYTES_MAX).read_to_end(&mut bytes).map_err(fail)?;
    // What somebody has written over is none; the next one that comes takes its place.
    Ok(serde_json::from_slice(&bytes).ok())
}
