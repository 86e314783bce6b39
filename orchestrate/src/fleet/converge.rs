//! What is to be done on this host for a document: rows in, acts out. Pure; each act is a request that waits in
//! the queue behind people's. What forbids one is in `guards`.

use std::time::Duration;

use serde::Serialize;

use crate::fleet::cohort::{Dice, elsewhere, reached};
use crate::fleet::document::{Document, Entry, OnChange, Wanted};
use crate::fleet::guards::{Case, LIVE_MAX};
use crate::fleet::member::Me;
use crate::fleet::why::Why;

pub use crate::fleet::guards::{ActivationFact, Facts, Failure, ImageFact, Live};

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "act", rename_all = "snake_case")]
pub enum Act {
    /// Every layer of an image is to be here.
    Ensure {
        /// The image.
        image: String,
    },
    /// An image that is here is to be writable under a name.
    Activate {
        /// The name.
        name: String,
        /// The image.
        image: String,
    },
    /// An activation of another image makes room for the one that follows it.
    Replace {
        /// The name.
        name: String,
    },
    /// An image is to go.
    Remove {
        /// The image.
        image: String,
    },
    /// Nothing before this moment, by the clock of the facts.
    Wait {
        /// The moment.
        #[serde(skip)]
        until: Duration,
    },
}

/// How far something is that the document names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It is as the document has it.
    Ready,
    /// It is not, and will be.
    Wanted,
    /// It is not, and will not be by this document.
    Failed,
    /// The document does not want it of this host.
    NotHere,
    /// It is otherwise, and stays so.
    Left,
}

/// One thing that the document names, on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The name in the document: of an entry, of an activation; of what is to go, its reference.
    pub name: String,
    /// The image that this host is to have for it; none: none.
    pub image: Option<String>,
    /// Whether the roll-out has come to this host; none where it is not for this host at all.
    pub inside: Option<bool>,
    /// How far it is.
    pub state: State,
    /// Why no more is done now; none: it is done, or is begun now.
    pub why: Option<Why>,
}

/// The document, seen from this host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outlook {
    /// Images.
    pub images: Vec<Line>,
    /// Activations.
    pub activations: Vec<Line>,
    /// Images that are to go and are here.
    pub remove: Vec<Line>,
    /// What is done now.
    pub acts: Vec<Act>,
}

/// What is to be done now, the most urgent first; with a moment to wait for at the end, where there is one.
pub fn converge(
    document: &Document,
    facts: &Facts,
    me: &Me,
    now: Duration,
    dice: Dice,
) -> Vec<Act> {
    look(document, facts, me, now, dice).acts
}

/// As [`converge`], with a line for everything that the document names.
pub fn look(document: &Document, facts: &Facts, me: &Me, now: Duration, dice: Dice) -> Outlook {
    let mut view = View {
        case: Case { document, facts, me, now, dice },
        outlook: Outlook::default(),
        begun: 0,
    };
    for (name, entry) in &document.images {
        view.image(name, entry);
    }
    for (name, wanted) in &document.activations {
        view.activation(name, wanted);
    }
    for image in &document.remove {
        view.removal(image);
    }
    let Outlook { images, activations, remove, .. } = &view.outlook;
    let whys = images.iter().chain(activations).chain(remove).filter_map(|line| line.why.as_ref());
    let until = whys.filter_map(Why::until).filter(|until| *until > now).min();
    view.outlook.acts.extend(until.map(|until| Act::Wait { until }));
    view.outlook
}

/// What a host is to have for an entry.
struct Target<'d> {
    image: Option<&'d str>,
    /// What was wanted before it and has failed for good.
    failed: Option<(&'d str, Why)>,
    inside: Option<bool>,
    /// Why it is not the image itself.
    why: Option<Why>,
}

struct View<'a> {
    case: Case<'a>,
    outlook: Outlook,
    /// Acts that bring something, of this look.
    begun: usize,
}

impl<'a> View<'a> {
    fn target(&self, entry: &'a Entry) -> Target<'a> {
        let Case { facts, me, .. } = self.case;
        if let Some(why) = elsewhere(&entry.only, me) {
            return Target { image: None, failed: None, inside: None, why: Some(why) };
        }
        let before = entry.before.as_deref();
        let later = reached(&entry.rollout, me).err();
        // What a document brought is taken back by one that names what is to be there instead.
        let has_it = facts.images.get(&entry.image).is_some_and(|here| here.document);
        match later {
            Some(_) if has_it => {
                let image = Some(entry.image.as_str());
                Target { image, failed: None, inside: Some(false), why: Some(Why::HasIt) }
            }
            Some(why) => {
                Target { image: before, failed: None, inside: Some(false), why: Some(why) }
            }
            None => {
                let here = facts.images.contains_key(&entry.image);
                let failure = facts.failures.get(&entry.image).filter(|_| !here);
                let failed = failure
                    .filter(|failure| self.case.is_final(failure))
                    .map(|failure| (entry.image.as_str(), Why::Final(failure.class)));
                let image = if failed.is_some() { before } else { Some(entry.image.as_str()) };
                Target { image, failed, inside: Some(true), why: None }
            }
        }
    }

    /// Whether one more may be begun in this look; counts it.
    fn may_begin(&mut self) -> bool {
        let may = self.case.bringing() + self.begun < LIVE_MAX;
        self.begun += usize::from(may);
        may
    }

    fn image(&mut self, name: &str, entry: &'a Entry) {
        let target = self.target(entry);
        let line = |image: Option<&str>, state, why| Line {
            name: name.into(),
            image: image.map(str::to_owned),
            inside: target.inside,
            state,
            why,
        };
        if let Some((image, why)) = target.failed.clone() {
            self.outlook.images.push(line(Some(image), State::Failed, Some(why)));
            if target.image.is_none() {
                return;
            }
        }
        let Some(image) = target.image else {
            self.outlook.images.push(line(None, State::NotHere, target.why.clone()));
            return;
        };
        let (state, why) = if self.case.facts.images.contains_key(image) {
            (State::Ready, target.why.clone())
        } else if let Some(why) = self.case.begins(image) {
            let state = if matches!(why, Why::Final(_)) { State::Failed } else { State::Wanted };
            (state, Some(why))
        } else {
            let act = Act::Ensure { image: image.into() };
            // Two entries may name one image.
            match self.outlook.acts.contains(&act) || !self.may_begin() {
                true => (State::Wanted, Some(Why::Busy)),
                false => {
                    self.outlook.acts.push(act);
                    (State::Wanted, None)
                }
            }
        };
        self.outlook.images.push(line(Some(image), state, why));
    }

    fn activation(&mut self, name: &str, wanted: &'a Wanted) {
        let Case { document, facts, .. } = self.case;
        let Some(entry) = document.images.get(&wanted.image) else { return };
        let target = self.target(entry);
        let line = |image: Option<&str>, (state, why)| Line {
            name: name.into(),
            image: image.map(str::to_owned),
            inside: target.inside,
            state,
            why,
        };
        let Some(image) = target.image else {
            let why = target.failed.clone().map_or(target.why.clone(), |(_, why)| Some(why));
            self.outlook.activations.push(line(None, (State::NotHere, why)));
            return;
        };
        let is = match facts.activations.get(name) {
            None => self.made(name, image),
            // One of the entry's own image, where the roll-out is behind this host: nothing is taken from it.
            Some(row) if row.image == entry.image || row.image == image => match row.up {
                true => (State::Ready, target.why.clone()),
                false => (State::Left, Some(Why::TakenDown)),
            },
            Some(row) if row.person => (State::Left, Some(Why::Person)),
            Some(row) => match wanted.on_change {
                OnChange::Keep => (State::Left, Some(Why::Kept)),
                OnChange::Replace if row.open => (State::Wanted, Some(Why::Open)),
                OnChange::Replace => self.replaced(name, image),
            },
        };
        self.outlook.activations.push(line(Some(image), is));
    }

    fn made(&mut self, name: &str, image: &str) -> (State, Option<Why>) {
        if !self.case.facts.images.contains_key(image) {
            return (State::Wanted, Some(Why::NoImage));
        }
        match self.case.begins(name) {
            Some(why @ Why::Final(_)) => (State::Failed, Some(why)),
            Some(why) => (State::Wanted, Some(why)),
            None if self.case.is_live(image) => (State::Wanted, Some(Why::UnderWay)),
            None if !self.may_begin() => (State::Wanted, Some(Why::Busy)),
            None => {
                let (name, image) = (name.into(), image.into());
                self.outlook.acts.push(Act::Activate { name, image });
                (State::Wanted, None)
            }
        }
    }

    /// Nothing goes before what follows it is here.
    fn replaced(&mut self, name: &str, image: &str) -> (State, Option<Why>) {
        if !self.case.facts.images.contains_key(image) {
            return (State::Wanted, Some(Why::NoImage));
        }
        match self.case.begins(name) {
            Some(why @ Why::Final(_)) => (State::Failed, Some(why)),
            Some(why) => (State::Wanted, Some(why)),
            None if !self.may_begin() => (State::Wanted, Some(Why::Busy)),
            None => {
                self.outlook.acts.push(Act::Replace { name: name.into() });
                (State::Wanted, None)
            }
        }
    }

    fn removal(&mut self, image: &str) {
        if !self.case.facts.images.contains_key(image) {
            return;
        }
        let going = self.outlook.acts.iter().any(|act| matches!(act, Act::Remove { .. }));
        let why = match self.case.goes(image) {
            None if going => Some(Why::Pace(self.case.now + crate::fleet::guards::REMOVAL_PAUSE)),
            why => why,
        };
        let state = match &why {
            None => State::Wanted,
            Some(Why::Person | Why::Pinned | Why::InUse | Why::Named | Why::NoImage) => State::Left,
            Some(Why::Final(_)) => State::Failed,
            Some(_) => State::Wanted,
        };
        if why.is_none() {
            self.outlook.acts.push(Act::Remove { image: image.into() });
        }
        let (name, image) = (image.to_owned(), Some(image.to_owned()));
        self.outlook.remove.push(Line { name, image, inside: None, state, why });
    }
}
