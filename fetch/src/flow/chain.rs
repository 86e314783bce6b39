//! Whom to ask for the bytes of one object: its sources in order, then the origin.
//!
//! Who gives the bytes does not matter where a digest judges them, and matters where none does: then only the
//! origin is asked. A source that says no is out for this object; one that is away has its pause
//! (`breaker.rs`); one that is busy is waited for by whoever reads from it (`retry.rs`).

use std::sync::PoisonError;
use std::time::Duration;

use crate::client::Client;
use crate::client::blame::{Blamed, Shun, Shunned};
use crate::error::kind::Kind;
use crate::error::{Error, wording};
use crate::flow::breaker::{Breaker, Last};
use crate::flow::leave::wait;
use crate::http::retry::{LOOK, PROGRESS_BYTES, dice};
use crate::http::vigil::Waiting;
use crate::name::locator::Locator;
use crate::s3::fallback::Fallback;
use crate::s3::options::Event;

/// Failures that nobody has come back for are forgotten beyond this number.
const BLAMED_MAX: usize = 256;

/// The order of one object.
#[derive(Debug)]
pub(crate) struct Chain {
    client: Client,
    object: Locator,
    /// Of each source, whether it is out for this object.
    out: Vec<bool>,
    /// Who is asked now; none is the origin.
    current: Option<usize>,
    /// The same, while it is told that what it keeps is wrong.
    anew: Option<Client>,
    /// Of each source, whether it was told that.
    told: Vec<bool>,
    /// Whether a byte has come of it.
    proven: bool,
    /// Who has given bytes.
    gave: Vec<usize>,
    /// When the origin may be asked.
    origin_at: Option<Duration>,
    /// Since when nobody can be asked for it.
    away: Option<Duration>,
    /// When the last progress was made, and what has come since.
    since: Duration,
    came: u64,
}

impl Chain {
    pub(crate) fn new(client: &Client, object: &Locator, judged: bool) -> Chain {
        let inner = &client.inner;
        let out =
            |source: &Client| !judged || inner.shunned.get(source.endpoint()) == Some(&Shun::Not);
        Chain {
            client: client.clone(),
            object: object.clone(),
            out: inner.sources.iter().map(out).collect(),
            current: None,
            anew: None,
            told: vec![false; inner.sources.len()],
            proven: false,
            gave: Vec::new(),
            // Without a digest there is nobody else.
            origin_at: (!judged || inner.sources.is_empty()).then_some(Duration::ZERO),
            away: None,
            since: inner.options.clock.now(),
            came: 0,
        }
    }

    /// Whether the origin is asked now.
    pub(crate) fn is_at_origin(&self) -> bool {
        self.current.is_none()
    }

    /// Who is asked now.
    pub(crate) fn client(&self) -> &Client {
        let sources = &self.client.inner.sources;
        let current = self.current.and_then(|index| sources.get(index));
        self.anew.as_ref().or(current).unwrap_or(&self.client)
    }

    /// Whether all that came is the origin's.
    pub(crate) fn is_of_the_origin(&self) -> bool {
        self.gave.is_empty()
    }

    /// Whether whoever is asked has given a byte.
    pub(crate) fn is_proven(&self) -> bool {
        self.proven
    }

    /// Who has given bytes, in words.
    pub(crate) fn givers(&self) -> String {
        let sources = &self.client.inner.sources;
        let mut all: Vec<&str> = self
            .all_that_gave()
            .filter_map(|index| sources.get(index))
            .map(Client::endpoint)
            .collect();
        if self.is_at_origin() {
            all.push(self.client.endpoint());
        }
        all.join(", ")
    }

    /// The sources that have given bytes, or none where there should have been some.
    fn all_that_gave(&self) -> impl Iterator<Item = usize> {
        let empty = self.current.filter(|_| !self.proven);
        self.gave.iter().copied().chain(empty)
    }

    /// So many bytes have come.
    pub(crate) fn went_well(&mut self, bytes: usize) {
        self.came += bytes as u64;
        if self.came >= PROGRESS_BYTES {
            (self.since, self.came) = (self.client.inner.options.clock.now(), 0);
        }
        if !self.proven && bytes > 0 {
            self.proven = true;
            if let Some(index) = self.current {
                self.breaker(index).went_well();
                self.gave.push(index);
            }
        }
    }

    /// Time until a source may be asked again; none where all have said no.
    fn next_probe(&self, now: Duration) -> Option<Duration> {
        let away = self.out.iter().enumerate().filter(|(_, out)| !**out);
        away.map(|(index, _)| self.breaker(index).pause(now)).min()
    }

    fn breaker(&self, index: usize) -> std::sync::Arc<Breaker> {
        let url = self.client.inner.sources.get(index).map_or("", Client::endpoint);
        Breaker::of(&self.client.inner.options.clock, url)
    }

    /// Whoever is asked has failed for good, at this byte if any was due.
    fn leave(&mut self, index: usize, error: &Error, at: Option<u64>) {
        let Some(source) = self.client.inner.sources.get(index) else { return };
        let options = &self.client.inner.options;
        let breaker = Breaker::of(&options.clock, source.endpoint());
        let pause = match error.kind() {
            Kind::Network | Kind::Timeout | Kind::Throttled => {
                let eager = options.source_fallback != Fallback::Now;
                breaker.failed(options.clock.now(), eager, dice())
            }
            Kind::Usage
            | Kind::NotFound
            | Kind::Denied
            | Kind::Refused
            | Kind::Changed
            | Kind::Digest
            | Kind::Io => {
                // It answers, and with this it cannot help.
                breaker.went_well();
                if let Some(out) = self.out.get_mut(index) {
                    *out = true;
                }
                None
            }
        };
        let at = at.map_or_else(String::new, |at| format!(" at byte {at}"));
        let pause = pause.map_or_else(String::new, |pause| {
            format!("; not asked again for {:.0} s", pause.as_secs_f64())
        });
        let text = format!("source {}{at}: {}{pause}", source.endpoint(), wording::chain(error));
        options.watch.tell(&Event::Left { text: &text });
    }

    /// The source itself, told that what it keeps is wrong, where that is plain before a byte is passed on: under a
    /// digest there is but one object, of one size.
    fn once_more(
        &mut self,
        index: usize,
        error: &Error,
        at: Option<u64>,
    ) -> Result<Option<Client>, Error> {
        let other = matches!(error, Error::Changed { .. } | Error::TooLarge { .. });
        let (sources, told) = (&self.client.inner.sources, self.told.get_mut(index));
        let (Some(source), Some(told), None, true) = (sources.get(index), told, at, other) else {
            return Ok(None);
        };
        if std::mem::replace(told, true) || source.inner.is_source == Some(Shun::Anew) {
            return Ok(None);
        }
        source.tell_wrong(error);
        let source = source.told_wrong()?;
        self.anew = Some(source.clone());
        Ok(Some(source))
    }

    /// Whom to ask next, after the last one `failed` at byte `at`.
    ///
    /// # Errors
    /// That of the last one, where there is nobody else; [`Error::Sources`].
    pub(crate) fn next(&mut self, failed: Option<Error>, at: Option<u64>) -> Result<Client, Error> {
        let (mut last, mut told) = (None, false);
        if let Some(error) = failed {
            let Some(index) = self.current else { return Err(error) };
            if let Some(source) = self.once_more(index, &error, at)? {
                return Ok(source);
            }
            (self.current, self.anew) = (None, None);
            self.leave(index, &error, at);
            last = Some(error);
        }
        self.proven = false;
        let client = self.client.clone();
        let options = &client.inner.options;
        let subject = self.object.to_string();
        let _waiting = Waiting::begin(options, &client.inner.http, &subject);
        loop {
            let now = options.clock.now();
            for (index, source) in client.inner.sources.iter().enumerate() {
                let out = self.out.get(index).copied().unwrap_or(true);
                if !out && Breaker::of(&options.clock, source.endpoint()).admits(now) {
                    self.current = Some(index);
                    return Ok(source.clone());
                }
            }
            let nobody = self.out.iter().all(|out| *out);
            let origin_at = self.origin_at.or_else(|| match options.source_fallback {
                Fallback::Now => {
                    self.origin_at = Some(now);
                    self.origin_at
                }
                Fallback::Never => None,
                Fallback::Within(time) if nobody => {
                    self.origin_at = Some(now + time.mul_f64((dice() % 1024) as f64 / 1024.0));
                    self.origin_at
                }
                Fallback::Within(time) => Some(self.leave_at(now, time)),
            });
            let waited = now.saturating_sub(self.since);
            let left = options.patience.saturating_sub(waited);
            let hopeless = nobody || left.is_zero();
            let wait = match origin_at {
                Some(due) if due <= now => match self.last_look(now) {
                    Last::Look => return Ok(self.client().clone()),
                    Last::Wait if !options.stop.is_set() => LOOK,
                    Last::Wait | Last::Leave => return Ok(client.clone()),
                },
                Some(due) if !options.stop.is_set() => (due - now).min(LOOK),
                None if !hopeless && !options.stop.is_set() => LOOK,
                Some(_) | None => {
                    return Err(match last {
                        Some(last) if nobody || options.stop.is_set() => last,
                        last => Error::Sources { subject, waited, last: last.map(Box::new) },
                    });
                }
            };
            if !told {
                told = true;
                let again = self.next_probe(now);
                let origin = origin_at.map(|due| due.saturating_sub(now));
                let error = last.as_ref();
                let event = Event::Away { subject: &subject, error, again, origin, left };
                options.watch.tell(&event);
            }
            options.clock.sleep(wait);
        }
    }

    /// When the origin may be asked in the place of all sources that may come back.
    fn leave_at(&mut self, now: Duration, time: Duration) -> Duration {
        let away = *self.away.get_or_insert(now);
        let out = self.out.iter().enumerate().filter(|(_, out)| !**out);
        let due = out.map(|(index, _)| self.breaker(index).leave_at(now, || wait(time, dice)));
        // One that comes back and goes away again all the time holds no object up for longer.
        due.max().unwrap_or(now).min(away + time * 2)
    }

    /// Looks once more at a source that may have come back in its pause: then that is whom to ask.
    fn last_look(&mut self, now: Duration) -> Last {
        if self.origin_at.is_some() {
            return Last::Leave;
        }
        let mut last = Last::Leave;
        for (index, _) in self.out.iter().enumerate().filter(|(_, out)| !**out) {
            match self.breaker(index).last(now) {
                Last::Look => {
                    self.current = Some(index);
                    return Last::Look;
                }
                Last::Wait => last = Last::Wait,
                Last::Leave => {}
            }
        }
        last
    }

    /// What came is worth nothing: who gave it is remembered for [`Client::elsewhere`].
    pub(crate) fn blame(&self, changed: bool) {
        let sources = &self.client.inner.sources;
        let url = |index: usize| sources.get(index).map(|source| source.endpoint().to_owned());
        let blamed = Blamed {
            object: self.object.clone(),
            sources: self.all_that_gave().filter_map(url).collect(),
            changed,
        };
        let mut all = self.client.inner.blamed.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|old| old.object != self.object);
        if all.len() >= BLAMED_MAX {
            all.remove(0);
        }
        all.push(blamed);
    }
}

impl Client {
    /// Whom to ask after a body of `object` was wrong or of another version ([`Error::Digest`],
    /// [`Error::Changed`]): the same client, which tells the source of those bytes that what it keeps is
    /// wrong, or goes without it; none if no source had to do with it.
    ///
    /// # Errors
    /// As [`Client::new`].
    pub fn elsewhere(&self, place: impl Into<Locator>) -> Result<Option<Client>, Error> {
        let object = &place.into();
        let inner = &self.inner;
        let blamed = {
            let mut all = inner.blamed.lock().unwrap_or_else(PoisonError::into_inner);
            let at = all.iter().position(|blamed| blamed.object == *object);
            at.map(|at| all.swap_remove(at))
        };
        let mut shunned = inner.shunned.clone();
        let asked =
            |shunned: &Shunned, source: &Client| shunned.get(source.endpoint()) != Some(&Shun::Not);
        let (suspects, changed) = match blamed {
            Some(blamed) => (blamed.sources, blamed.changed),
            // Whoever had the bytes did not like them before their end: the first is the likeliest.
            None => {
                let first = inner.sources.iter().find(|source| asked(&shunned, source));
                (first.map(|source| source.endpoint().to_owned()).into_iter().collect(), false)
            }
        };
        if suspects.is_empty() {
            return Ok(None);
        }
        let alone = suspects.len() == 1;
        for url in suspects {
            let anew = alone && !changed && !shunned.contains_key(&url);
            shunned.insert(url, if anew { Shun::Anew } else { Shun::Not });
        }
        let some = inner.sources.iter().any(|source| asked(&shunned, source));
        if !some && inner.options.source_fallback == Fallback::Never {
            return Ok(None);
        }
        self.shunning(shunned).map(Some)
    }

    /// Whether a source is told that what it keeps is wrong: the last answer of [`Client::elsewhere`] was
    /// that, and not to go without it.
    pub fn asks_anew(&self) -> bool {
        self.inner.shunned.values().any(|shun| *shun == Shun::Anew)
    }
}
