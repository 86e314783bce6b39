//! Who has asked for what is here: people, or the document of a fleet. It is kept for good: a document takes away
//! only what a document brought and no person has asked for since. A run says in its input, as `by`, that a document
//! has asked for it; where it says nothing, a person has.

use std::collections::BTreeMap;

use crate::error::Error;
use crate::file::schema::Registry;
use crate::ids::RunId;
use crate::rows::get;
use crate::run::{Run, Verb};
use crate::write::Write;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker {
    /// A person, or a program that a person runs.
    Person,
    /// The document of a fleet.
    Document,
}

impl Asker {
    /// The word in a run's input.
    pub const DOCUMENT: &'static str = "document";

    /// Who has asked for a run of this input.
    pub fn of_input(input: &str) -> Asker {
        let input: serde_json::Value = serde_json::from_str(input).unwrap_or_default();
        Asker::of(input["by"].as_str())
    }

    fn of(word: Option<&str>) -> Asker {
        if word == Some(Asker::DOCUMENT) { Asker::Document } else { Asker::Person }
    }
}

/// Who has asked for something so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Whether a person has.
    pub person: bool,
    /// Whether a document has.
    pub document: bool,
}

impl Asked {
    /// What is not known for sure is a person's: nobody takes that away.
    fn of(word: &str) -> Asked {
        Asked { person: word != "document", document: matches!(word, "document" | "both") }
    }
}

impl Run {
    /// Who has asked for it.
    pub fn asker(&self) -> Asker {
        Asker::of_input(&self.input)
    }
}

impl Registry {
    /// Who has asked for each image.
    pub fn image_askers(&self) -> Result<BTreeMap<String, Asked>, Error> {
        self.askers("SELECT reference, asked FROM images ORDER BY reference")
    }

    /// Who has asked for each activation.
    pub fn activation_askers(&self) -> Result<BTreeMap<String, Asked>, Error> {
        self.askers("SELECT name, asked FROM activations ORDER BY name")
    }

    fn askers(&self, sql: &str) -> Result<BTreeMap<String, Asked>, Error> {
        let rows = self.all(sql, [], |row| {
            Ok((get::<String>(row, 0, "asker")?, get::<String>(row, 1, "asker")?))
        })?;
        Ok(rows.into_iter().map(|(subject, word)| (subject, Asked::of(&word))).collect())
    }

    /// The last run about this subject that has ended, of whatever verb.
    pub fn last_run(&self, subject: &str) -> Result<Option<Run>, Error> {
        let id: Option<RunId> = self
            .one(
                "SELECT max(id) FROM runs WHERE subject = ?1 AND finished_ms IS NOT NULL",
                [subject],
                |row| get::<Option<RunId>>(row, 0, "run"),
            )?
            .flatten();
        id.map_or(Ok(None), |id| self.run(id))
    }
}

impl Write<'_> {
    /// Who has asked for this run, as this transaction sees it; without a run, a person.
    pub fn asker(&self, run: Option<RunId>) -> Result<Asker, Error> {
        let Some(run) = run else { return Ok(Asker::Person) };
        let word: Option<Option<String>> =
            self.ask("SELECT json_extract(input, '$.by') FROM runs WHERE id = ?1", [run])?;
        Ok(Asker::of(word.flatten().as_deref()))
    }

    /// Whether there is no image of this name yet.
    pub fn is_new_image(&self, reference: &str) -> Result<bool, Error> {
        let sql = "SELECT 1 FROM images WHERE reference = ?1";
        Ok(self.ask::<i64>(sql, [reference])?.is_none())
    }

    /// Somebody has asked for an image, which is there; with `fresh` it was made for that.
    pub fn image_asked(&self, reference: &str, by: Asker, fresh: bool) -> Result<(), Error> {
        let sql = match (by, fresh) {
            (Asker::Person, _) => {
                "UPDATE images SET asked = 'both' WHERE reference = ?1 AND asked = 'document'"
            }
            (Asker::Document, true) => "UPDATE images SET asked = 'document' WHERE reference = ?1",
            (Asker::Document, false) => {
                "UPDATE images SET asked = 'both' WHERE reference = ?1 AND asked = 'person'"
            }
        };
        self.run(sql, [reference]).map(drop)
    }

    /// As [`Write::image_asked`], of an activation.
    pub fn activation_asked(&self, name: &str, by: Asker, fresh: bool) -> Result<(), Error> {
        let sql = match (by, fresh) {
            (Asker::Person, _) => {
                "UPDATE activations SET asked = 'both' WHERE name = ?1 AND asked = 'document'"
            }
            (Asker::Document, true) => "UPDATE activations SET asked = 'document' WHERE name = ?1",
            (Asker::Document, false) => {
                "UPDATE activations SET asked = 'both' WHERE name = ?1 AND asked = 'person'"
            }
        };
        self.run(sql, [name]).map(drop)
    }

    /// A person has done something to an activation that lasts, such as a name, a label or a point: it counts as asked for.
    ///
    /// # Errors
    /// [`Error::Sqlite`].
    pub fn person_has(&self, name: &str) -> Result<(), Error> {
        self.activation_asked(name, Asker::Person, false)
    }

    /// Whether a document may take this image or activation away: only a document has asked for it, and nobody has
    /// pinned it.
    pub fn is_documents_alone(&self, subject: &str) -> Result<bool, Error> {
        let sql = "SELECT asked = 'document' AND NOT pinned FROM images WHERE reference = ?1
                   UNION ALL SELECT asked = 'document' FROM activations WHERE name = ?1";
        Ok(self.ask::<bool>(sql, [subject])?.unwrap_or(false))
    }

    /// Somebody has asked for what a live run makes. From now on a run of a document is a person's where that is one.
    pub(crate) fn joins(&self, live: &Run, input: &str) -> Result<(), Error> {
        if Asker::of_input(input) == Asker::Document {
            return Ok(());
        }
        self.run(
            "UPDATE runs SET input = json_remove(input, '$.by')
             WHERE id = ?1 AND json_extract(input, '$.by') IS NOT NULL",
            [live.id],
        )?;
        match live.verb {
            // It may have made it already, and not have come to its end.
            Verb::Ensure => self.image_asked(&live.subject, Asker::Person, false),
            Verb::Activate => self.activation_asked(&live.subject, Asker::Person, false),
            Verb::Deactivate | Verb::Rm | Verb::Gc => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::{Enqueued, NewRun};

    fn row(registry: &Registry, subject: &str) -> Option<Asked> {
        registry.image_askers().unwrap().get(subject).copied()
    }

    fn put(registry: &mut Registry, by: Asker) {
        let chain = crate::digest::Digest([7; 32]);
        let image = crate::rows::Image {
            reference: "s3://bkt/a/".into(),
            endpoint: "http://h".into(),
            chain,
            layers: Vec::new(),
            pinned: false,
            used: 0,
        };
        let done = registry.write(|write| {
            let fresh = write.is_new_image(&image.reference)?;
            write.put_image(&image)?;
            write.image_asked(&image.reference, by, fresh)
        });
        done.unwrap();
    }

    #[test]
    fn who_asked_is_kept_and_a_document_owns_only_what_it_brought() {
        let (person, document) = (Asker::Person, Asker::Document);
        for (askers, wanted) in [
            (&[document][..], (false, true)),
            (&[person], (true, false)),
            (&[document, document], (false, true)),
            (&[document, person], (true, true)),
            (&[person, document], (true, true)),
            (&[document, person, document], (true, true)),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let mut registry = Registry::open(&dir.path().join("registry.db")).unwrap();
            askers.iter().for_each(|by| put(&mut registry, *by));
            let found = row(&registry, "s3://bkt/a/").unwrap();
            assert_eq!((found.person, found.document), wanted, "{askers:?}");
            let alone = registry.write(|write| write.is_documents_alone("s3://bkt/a/")).unwrap();
            assert_eq!(alone, wanted == (false, true), "{askers:?}");
            registry.write(|write| write.pin_image("s3://bkt/a/", true)).unwrap();
            assert!(!registry.write(|write| write.is_documents_alone("s3://bkt/a/")).unwrap());
            // To pin is to ask, and that is not forgotten with the pin.
            registry.write(|write| write.pin_image("s3://bkt/a/", false)).unwrap();
            assert!(row(&registry, "s3://bkt/a/").unwrap().person, "{askers:?}");
        }
    }

    #[test]
    fn who_joins_a_documents_run_makes_it_a_persons() {
        let dir = tempfile::tempdir().unwrap();
        let mut registry = Registry::open(&dir.path().join("registry.db")).unwrap();
        let input = r#"{"image": "s3://bkt/a/", "by": "document", "document": 7}"#;
        let new = |input: &'static str, priority| NewRun {
            verb: Verb::Ensure,
            subject: "s3://bkt/a/",
            input,
            priority,
            webhook: None,
        };
        let enqueue = |registry: &mut Registry, new: NewRun<'_>| {
            registry.write(|write| write.enqueue_run(&new, |_| None)).unwrap()
        };
        let Enqueued::Fresh(id) = enqueue(&mut registry, new(input, -10)) else { panic!("joined") };
        let asker = |registry: &Registry| registry.run(id).unwrap().unwrap().asker();
        assert_eq!(enqueue(&mut registry, new(input, -10)), Enqueued::Joined(id));
        assert_eq!(asker(&registry), Asker::Document);
        // Taken up, it is still whose it was; also by who has read its row before a person joined.
        let run = registry.run(id).unwrap().unwrap();
        registry.write(|write| write.take_up_run(&run, input)).unwrap();
        assert_eq!(asker(&registry), Asker::Document);
        registry.write(|write| write.suspend_run(id, "test")).unwrap();
        let run = registry.run(id).unwrap().unwrap();
        let joined = enqueue(&mut registry, new(r#"{"image": "s3://bkt/a/"}"#, 0));
        assert_eq!((joined, asker(&registry)), (Enqueued::Joined(id), Asker::Person));
        assert_eq!(registry.run(id).unwrap().unwrap().priority, 0);
        registry.write(|write| write.take_up_run(&run, input)).unwrap();
        assert_eq!(asker(&registry), Asker::Person);
        assert_eq!(registry.write(|write| write.asker(Some(id))).unwrap(), Asker::Person);
    }
}
