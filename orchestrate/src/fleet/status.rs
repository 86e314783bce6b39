//! What a host tells of its fleet: the document in force, its own place in it, what is missing and what that waits
//! for. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::fleet::converge::{Line, Outlook, State};
use crate::fleet::document::Document;
use crate::fleet::member::Member;
use crate::fleet::why::Why;

/// A host and its document.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Where the document is.
    pub url: String,
    /// The fleet.
    pub fleet: String,
    /// The class of this host.
    pub class: Option<String>,
    /// Its id.
    pub host: String,
    /// Its site.
    pub site: Option<String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Whether it only looks.
    pub hold: bool,
    /// Whether the document is paused.
    pub paused: bool,
    /// The serial of the document in force; none: there is none.
    pub serial: Option<u64>,
    /// Seconds since the document was last found to be the newest; none: never.
    pub age_s: Option<u64>,
    /// Why what is there now is not in force, or cannot be asked for.
    pub refused: Option<String>,
    /// Seconds until something is done by itself; none: nothing waits for a moment.
    pub wait_s: Option<u64>,
    /// Images.
    pub images: Vec<StatusLine>,
    /// Activations.
    pub activations: Vec<StatusLine>,
    /// Images that are to go and are here.
    pub remove: Vec<StatusLine>,
}

/// One thing that the document names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusLine {
    /// Its name in the document.
    pub name: String,
    /// The image that this host is to have for it.
    pub image: Option<String>,
    /// Whether the roll-out has come to this host; none: it is not for this host.
    pub in_rollout: Option<bool>,
    /// `ready`, `wanted`, `failed`, `not_here`, `left`.
    pub state: String,
    /// Why no more is done now.
    pub why: Option<String>,
    /// Seconds until that is over, where it is known.
    pub wait_s: Option<u64>,
}

/// The words of the states, for people and for metrics.
pub(crate) fn word(state: State) -> &'static str {
    match state {
        State::Ready => "ready",
        State::Wanted => "wanted",
        State::Failed => "failed",
        State::NotHere => "not_here",
        State::Left => "left",
    }
}

impl Status {
    /// What is so of a host without a document.
    pub fn of(member: &Member) -> Status {
        let me = member.me.clone();
        Status {
            url: member.url.clone(),
            fleet: me.fleet,
            class: me.class,
            host: me.host,
            site: me.site,
            labels: me.labels,
            hold: me.hold,
            ..Status::default()
        }
    }

    /// With the document in force, as it looks from here at this moment.
    pub fn seen(&mut self, document: &Document, outlook: &Outlook, now: Duration) {
        let line = |line: &Line| of(line, now);
        self.serial = Some(document.serial);
        self.paused = document.paused;
        self.images = outlook.images.iter().map(line).collect();
        self.activations = outlook.activations.iter().map(line).collect();
        self.remove = outlook.remove.iter().map(line).collect();
        let all = self.images.iter().chain(&self.activations).chain(&self.remove);
        self.wait_s = all.filter_map(|line| line.wait_s).min();
    }

    /// How many of what the document wants of this host are in this state: images and activations.
    pub fn count(&self, state: &str) -> u64 {
        let all = self.images.iter().chain(&self.activations);
        all.filter(|line| line.state == state).count() as u64
    }
}

fn of(line: &Line, now: Duration) -> StatusLine {
    let until = line.why.as_ref().and_then(Why::until);
    StatusLine {
        name: line.name.clone(),
        image: line.image.clone(),
        in_rollout: line.inside,
        state: word(line.state).into(),
        why: line.why.as_ref().map(ToString::to_string),
        wait_s: until.map(|until| until.saturating_sub(now).as_secs()),
    }
}
