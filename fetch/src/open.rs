//! How an object is opened: one stream or several ranges, from its start or from where a spool ends.
//!
//! The decisions only; requests are `client.rs`'s, the flow of bytes is `stream.rs` and `ranges.rs`.

use std::collections::VecDeque;
use std::path::Path;
use std::time::Instant;

use crate::body::{Body, Flow, State};
use crate::checksum::Checksum;
use crate::client::Client;
use crate::digest::Sha256;
use crate::error::Error;
use crate::object::{Expect, ObjectRef};
use crate::options::Event;
use crate::ranges::{JOBS, JOBS_MAX, PART_BYTES, Ranges, SIZE_MIN};
use crate::spool::{Identity, Place, STEM, Spool, parent};
use crate::stream::{Pin, Stream, Tag, check_size};
use crate::wording;

impl Client {
    /// Opens an object: the first request is made here, so that what is absent, forbidden or not
    /// what was expected is known at once.
    ///
    /// # Errors
    /// As any request; [`Error::Changed`] and [`Error::TooLarge`] by `expect`.
    pub fn open(&self, object: &ObjectRef, expect: &Expect) -> Result<Body, Error> {
        object.check()?;
        let opened = self.begin(object, expect)?;
        self.body(object, expect, opened, None)
    }

    /// As [`Client::open`], with a copy of what comes in `spool_dir`: what an earlier process left
    /// there of the same version is read again instead of fetched. A full disk ends the copy, not
    /// the body. The copy stays until [`Body::discard_spool`]. An object below
    /// [`crate::Options::spool_min`] is not copied.
    ///
    /// # Errors
    /// As [`Client::open`]; [`Error::File`] if the spool cannot be opened.
    pub fn open_spooled(
        &self,
        object: &ObjectRef,
        expect: &Expect,
        spool_dir: &Path,
    ) -> Result<Body, Error> {
        if expect.size.is_some_and(|size| size < self.inner.options.spool_min) {
            return self.open(object, expect);
        }
        let reserve = self.inner.options.spool_reserve;
        let place = Place { dir: spool_dir, stem: STEM.to_owned(), strict: false, reserve };
        let body = self.open_at(object, expect, &place)?;
        if body.spool.as_ref().is_some_and(Spool::is_broken) {
            self.note("no room for a spool: what is fetched now is fetched again after a crash");
        }
        Ok(body)
    }

    /// As [`Client::open_spooled`], with the spool as the purpose: beside `path`, whose name it
    /// takes by [`Body::keep`] when the body has been read to its end.
    ///
    /// # Errors
    /// As [`Client::open`]; [`Error::File`]; [`Error::Busy`] if another process does the same.
    pub fn open_for_file(
        &self,
        object: &ObjectRef,
        expect: &Expect,
        path: &Path,
    ) -> Result<Body, Error> {
        let Some(name) = path.file_name() else {
            let why = "it names no file";
            return Err(Error::Setting { name: "output", value: path.display().to_string(), why });
        };
        let stem = format!(".{}.", name.to_string_lossy());
        let place = Place { dir: parent(path), stem, strict: true, reserve: 0 };
        let mut body = self.open_at(object, expect, &place)?;
        body.output = Some(path.to_owned());
        Ok(body)
    }

    fn open_at(
        &self,
        object: &ObjectRef,
        expect: &Expect,
        place: &Place<'_>,
    ) -> Result<Body, Error> {
        object.check()?;
        let sha256 = expect.sha256.as_ref();
        let identify = |pin: Option<&Pin>| Identity::new(self.endpoint(), object, pin, sha256);
        if !place.has_any(&identify(None)) {
            let opened = self.begin(object, expect)?;
            if !place.strict && opened.pin.size < self.inner.options.spool_min {
                return self.body(object, expect, opened, None);
            }
            let spool = Spool::open(place, &identify(Some(&opened.pin)), opened.pin.size)?;
            // Somebody else may have begun and ended meanwhile; what is kept then is not ours.
            if spool.as_ref().is_none_or(|spool| spool.kept() == 0) {
                return self.body(object, expect, opened, spool);
            }
        }
        let (pin, checksum) = self.identify(object, expect)?;
        let spool = Spool::open(place, &identify(Some(&pin)), pin.size)?;
        match spool.as_ref().map_or(0, Spool::kept) {
            0 => {
                // The version that was looked at is the one to get.
                let pinned = Expect {
                    size: Some(pin.size),
                    etag: pin.etag.text().map(str::to_owned),
                    ..expect.clone()
                };
                let opened = self.begin(object, &pinned)?;
                self.body(object, expect, opened, spool)
            }
            kept => {
                let mut rest = self.chain(expect);
                let first = rest.pop_front().unwrap_or_else(|| self.clone());
                let theirs = if rest.is_empty() { pin.clone() } else { pin.anywhere() };
                let flow = first.go_on(object, &theirs, kept)?;
                self.body(object, expect, Opened { flow, rest, pin, checksum }, spool)
            }
        }
    }

    /// What the object is, without its bytes.
    fn identify(
        &self,
        object: &ObjectRef,
        expect: &Expect,
    ) -> Result<(Pin, Option<Checksum>), Error> {
        let digest = expect.sha256.is_some();
        let etag = match &expect.etag {
            Some(etag) => Tag::Known(Some(etag.clone())),
            None => Tag::Unknown,
        };
        if let Some(size) = expect.size
            && (digest || etag.strong().is_some())
        {
            check_size(&object.to_string(), size, expect)?;
            return Ok((Pin { size, etag, digest }, None));
        }
        let (found, checksum) = self.head_with_checksum(object)?;
        let subject = object.to_string();
        check_size(&subject, found.size, expect)?;
        if expect.etag.is_some() && expect.etag != found.etag {
            let shown = |etag: &Option<String>| etag.clone().unwrap_or_else(|| "none".to_owned());
            let (want, got) = (shown(&expect.etag), shown(&found.etag));
            return Err(Error::Changed { subject, field: "ETag", want, got });
        }
        Ok((Pin { size: found.size, etag: Tag::Known(found.etag), digest }, checksum))
    }

    /// Whom to ask, in order. Who gives the bytes does not matter where a digest judges them, and
    /// matters where none does.
    fn chain(&self, expect: &Expect) -> VecDeque<Client> {
        let mut chain = VecDeque::new();
        if expect.sha256.is_some() {
            chain.extend(self.inner.sources.iter().cloned());
        } else if !self.inner.sources.is_empty() {
            self.note("no digest is given: the other sources are not asked");
        }
        chain.push_back(self.clone());
        chain
    }

    fn note(&self, text: &str) {
        self.inner.options.watch.tell(&Event::Note { text });
    }

    /// Opens at the first byte, at the first source that can.
    fn begin(&self, object: &ObjectRef, expect: &Expect) -> Result<Opened, Error> {
        let mut chain = self.chain(expect);
        loop {
            let Some(client) = chain.pop_front() else {
                return Err(Error::Spent { subject: object.to_string() });
            };
            if chain.is_empty() {
                return client.begin_here(object, expect, chain);
            }
            // Entity tags are the origin's own.
            let expect = Expect { etag: None, ..expect.clone() };
            match client.begin_here(object, &expect, chain.clone()) {
                Ok(opened) => return Ok(opened),
                Err(error) => {
                    self.note(&format!("source {}: {}", client.endpoint(), wording::chain(&error)));
                }
            }
        }
    }

    fn begin_here(
        &self,
        object: &ObjectRef,
        expect: &Expect,
        rest: VecDeque<Client>,
    ) -> Result<Opened, Error> {
        let jobs = self.jobs(expect.size);
        let first = (jobs > 1).then_some(PART_BYTES);
        let mut stream = Stream::open(self, object, expect, first)?;
        let pin = stream.pin.clone();
        let mut checksum = stream.checksum.take();
        if stream.end() == pin.size {
            return Ok(Opened { flow: Flow::One(Box::new(stream)), rest, pin, checksum });
        }
        if !pin.digest {
            // A range comes without the checksum of the whole; that is an extra, so is its absence.
            match self.head_with_checksum(object) {
                Ok((found, told)) if found.etag.as_deref() == pin.etag.text() => checksum = told,
                Ok(_) | Err(_) => self.note("no object checksum"),
            }
        }
        let range = 0..pin.size;
        let ranges = Ranges::start(self, object, &pin, Some(stream), range, jobs)?;
        Ok(Opened { flow: Flow::Many(ranges), rest, pin, checksum })
    }

    /// Goes on at byte `at` of a known object; the first request is sent by the first read.
    pub(crate) fn go_on(&self, object: &ObjectRef, pin: &Pin, at: u64) -> Result<Flow, Error> {
        let left = pin.size - at;
        let jobs = self.jobs(Some(left));
        if left == 0 {
            return Ok(Flow::None);
        }
        if jobs == 1 {
            return Ok(Flow::One(Box::new(Stream::part(self, object, pin, at..pin.size))));
        }
        Ok(Flow::Many(Ranges::start(self, object, pin, None, at..pin.size, jobs)?))
    }

    /// Ranges in flight for so many bytes; an unknown size may be a large one.
    fn jobs(&self, size: Option<u64>) -> usize {
        match (self.inner.options.jobs, size) {
            (_, Some(size)) if size <= PART_BYTES => 1,
            (Some(jobs), _) => jobs.clamp(1, JOBS_MAX),
            (None, Some(size)) if size < SIZE_MIN => 1,
            (None, _) => JOBS,
        }
    }

    fn body(
        &self,
        object: &ObjectRef,
        expect: &Expect,
        opened: Opened,
        spool: Option<Spool>,
    ) -> Result<Body, Error> {
        let Opened { flow, rest, pin, checksum } = opened;
        let options = &self.inner.options;
        let end =
            options.deadline.and_then(|limit| Some((Instant::now().checked_add(limit)?, limit)));
        let mut body = Body {
            object: object.clone(),
            subject: object.to_string(),
            etag: pin.etag.text().map(str::to_owned),
            pin,
            flow,
            rest,
            at: 0,
            hash: Sha256::new(),
            sha256: expect.sha256,
            checksum,
            spool,
            output: None,
            deadline: end,
            watch: options.watch.clone(),
            counts: (0, 0),
            state: State::Reading,
        };
        body.verify_at_end()?;
        Ok(body)
    }
}

/// An object whose bytes can flow.
struct Opened {
    flow: Flow,
    /// Whom to ask if that breaks for good.
    rest: VecDeque<Client>,
    pin: Pin,
    checksum: Option<Checksum>,
}
