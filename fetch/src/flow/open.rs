//! How an object is opened: one stream or several ranges, from its start or from where a spool ends.
//!
//! The decisions only; requests are `client.rs`'s, the flow of bytes is `stream.rs` and `ranges.rs`.

use std::path::Path;
use std::time::Instant;

use crate::client::Client;
use crate::client::registry::Facts;
use crate::error::Error;
use crate::flow::body::{Body, Flow, State};
use crate::flow::chain::Chain;
use crate::flow::pin::{Pin, Tag};
use crate::flow::promise::Promise;
use crate::flow::ranges::{JOBS, JOBS_MAX, PART_BYTES, Ranges, SIZE_MIN};
use crate::flow::spool::{Identity, Place, STEM, Spool, parent};
use crate::flow::stream::{Stream, check_size};
use crate::http::checksum::Checksum;
use crate::name::locator::Locator;
use crate::s3::object::Expect;
use crate::text::digest::Sha256;

impl Client {
    /// Opens an object: the first request is made here, so that what is absent, forbidden or not
    /// what was expected is known at once.
    ///
    /// # Errors
    /// As any request; [`Error::Changed`] and [`Error::TooLarge`] by `expect`.
    pub fn open(&self, place: impl Into<Locator>, expect: &Expect) -> Result<Body, Error> {
        let object = &place.into();
        object.check()?;
        let expect = &object.expect(expect)?;
        let opened = self.begin(object, expect)?;
        self.body(object, expect, opened, None)
    }

    /// As [`Client::open`], with a copy of what comes in `spool_dir`: what an earlier process left
    /// there of the same version is read again instead of fetched. A full disk ends the copy, not
    /// the body. The copy stays until [`Body::discard_spool`]. An object below
    /// [`crate::s3::options::Options::spool_min`] is not copied.
    ///
    /// # Errors
    /// As [`Client::open`]; [`Error::File`] if the spool cannot be opened.
    pub fn open_spooled(
        &self,
        place: impl Into<Locator>,
        expect: &Expect,
        spool_dir: &Path,
    ) -> Result<Body, Error> {
        let object = &place.into();
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

    /// How the names of the files begin that [`Client::open_spooled`] leaves of this object.
    pub fn spools_of(&self, place: impl Into<Locator>) -> String {
        Identity::new(self.endpoint(), &place.into(), None, None).stem(STEM)
    }

    /// As [`Client::open_spooled`], with the spool as the purpose: beside `path`, whose name it
    /// takes by [`Body::keep`] when the body has been read to its end.
    ///
    /// # Errors
    /// As [`Client::open`]; [`Error::File`]; [`Error::Busy`] if another process does the same.
    pub fn open_for_file(
        &self,
        place: impl Into<Locator>,
        expect: &Expect,
        path: &Path,
    ) -> Result<Body, Error> {
        let object = &place.into();
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

    fn open_at(&self, object: &Locator, expect: &Expect, place: &Place<'_>) -> Result<Body, Error> {
        object.check()?;
        let expect = &object.expect(expect)?;
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
                match self.begin(object, &pinned) {
                    // It answers HEAD with another tag than GET, or has just been replaced.
                    Err(Error::Changed { .. })
                        if expect.etag.is_none() && expect.size.is_none() =>
                    {
                        self.anew(object, expect, place, spool)
                    }
                    opened => self.body(object, expect, opened?, spool),
                }
            }
            kept => {
                let mut chain = self.chain(object, expect);
                let first = chain.next(None, None)?;
                let theirs = if chain.is_at_origin() { pin.clone() } else { pin.anywhere() };
                let flow = first.go_on(object, &theirs, kept)?;
                let checksum = Promise::of(checksum);
                self.body(object, expect, Opened { flow, chain, pin, checksum }, spool)
            }
        }
    }

    /// Opens as if nothing had been there, with an empty spool in the place of this one.
    fn anew(
        &self,
        object: &Locator,
        expect: &Expect,
        place: &Place<'_>,
        spool: Option<Spool>,
    ) -> Result<Body, Error> {
        let opened = self.begin(object, expect)?;
        spool.map_or(Ok(()), Spool::discard)?;
        let sha256 = expect.sha256.as_ref();
        let identity = Identity::new(self.endpoint(), object, Some(&opened.pin), sha256);
        let spool = Spool::open(place, &identity, opened.pin.size)?;
        // What somebody else has put there meanwhile is not ours.
        let spool = match spool {
            Some(spool) if spool.kept() > 0 && place.strict => {
                return Err(Error::Busy { path: spool.path().to_owned() });
            }
            spool => spool.filter(|spool| spool.kept() == 0),
        };
        self.body(object, expect, opened, spool)
    }

    /// What the object is, without its bytes.
    fn identify(
        &self,
        object: &Locator,
        expect: &Expect,
    ) -> Result<(Pin, Option<Checksum>), Error> {
        let digest = expect.sha256;
        let etag = match &expect.etag {
            Some(etag) => Tag::Known(Some(etag.clone())),
            None => Tag::Unknown,
        };
        if let Some(size) = expect.size
            && (digest.is_some() || etag.strong().is_some())
        {
            check_size(&object.to_string(), size, expect)?;
            return Ok((Pin { size, etag, modified: None, digest }, None));
        }
        let (mut chain, mut failed) = (self.chain(object, expect), None);
        let Facts { size, etag, checksum } = loop {
            let client = chain.next(failed.take(), None)?;
            match client.facts(object) {
                Ok(found) => break found,
                Err(error) => failed = Some(error),
            }
        };
        let subject = object.to_string();
        check_size(&subject, size, expect)?;
        if !chain.is_at_origin() {
            // Entity tags are the origin's own.
            return Ok((Pin { size, etag: Tag::Unknown, modified: None, digest }, None));
        }
        if expect.etag.is_some() && expect.etag != etag {
            let shown = |etag: &Option<String>| etag.clone().unwrap_or_else(|| "none".to_owned());
            let (want, got) = (shown(&expect.etag), shown(&etag));
            return Err(Error::Changed { subject, field: "ETag", want, got });
        }
        Ok((Pin { size, etag: Tag::Known(etag), modified: None, digest }, checksum))
    }

    /// Whom to ask, in order.
    fn chain(&self, object: &Locator, expect: &Expect) -> Chain {
        let judged = expect.sha256.is_some();
        if !judged && !self.inner.sources.is_empty() {
            self.note("no digest is given: the other sources are not asked");
        }
        Chain::new(self, object, judged)
    }

    /// Opens at the first byte, at the first source that can.
    fn begin(&self, object: &Locator, expect: &Expect) -> Result<Opened, Error> {
        let (mut chain, mut failed) = (self.chain(object, expect), None);
        loop {
            let client = chain.next(failed.take(), None)?;
            // Entity tags are the origin's own.
            let etag = expect.etag.clone().filter(|_| chain.is_at_origin());
            match client.begin_here(object, &Expect { etag, ..expect.clone() }) {
                Ok((flow, pin, checksum)) => return Ok(Opened { flow, chain, pin, checksum }),
                Err(error) => failed = Some(error),
            }
        }
    }

    fn begin_here(&self, object: &Locator, expect: &Expect) -> Result<(Flow, Pin, Promise), Error> {
        let jobs = self.jobs(expect.size);
        let first = (jobs > 1).then_some(PART_BYTES);
        let mut stream = Stream::open(self, object, expect, first)?;
        if stream.end() < stream.pin.size && !stream.pin.may_have_parts() {
            // Parts of different moments could be of different versions, and nobody would see it.
            drop(stream);
            self.note("no strong ETag and no digest: one stream");
            stream = Stream::open(self, object, expect, None)?;
        }
        let pin = stream.pin.clone();
        if stream.end() == pin.size {
            let checksum = Promise::of(stream.checksum.take());
            return Ok((Flow::One(Box::new(stream)), pin, checksum));
        }
        // A range comes without the checksum of the whole; that is an extra, so is its absence.
        let checksum = match pin.digest {
            Some(_) => Promise::None,
            None => Promise::ask(self, object, &pin),
        };
        let range = 0..pin.size;
        let ranges = Ranges::start(self, object, &pin, Some(stream), range, jobs)?;
        Ok((Flow::Many(ranges), pin, checksum))
    }

    /// Goes on at byte `at` of a known object; the first request is sent by the first read.
    pub(crate) fn go_on(&self, object: &Locator, pin: &Pin, at: u64) -> Result<Flow, Error> {
        let left = pin.size - at;
        let jobs = self.jobs(Some(left));
        if left == 0 {
            return Ok(Flow::None);
        }
        if jobs == 1 {
            return Ok(Flow::One(Box::new(Stream::rest(self, object, pin, at))));
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
        object: &Locator,
        expect: &Expect,
        opened: Opened,
        spool: Option<Spool>,
    ) -> Result<Body, Error> {
        let Opened { flow, chain, pin, checksum } = opened;
        let options = &self.inner.options;
        let end =
            options.deadline.and_then(|limit| Some((Instant::now().checked_add(limit)?, limit)));
        let mut body = Body {
            object: object.clone(),
            subject: object.to_string(),
            etag: pin.etag.text().map(str::to_owned),
            pin,
            flow,
            chain,
            at: 0,
            hash: Sha256::new(),
            sha256: expect.sha256,
            checksum,
            spool,
            output: None,
            deadline: end,
            watch: options.watch.clone(),
            counts: (0, 0),
            patched: false,
            state: State::Reading,
        };
        body.verify_at_end()?;
        Ok(body)
    }
}

/// An object whose bytes can flow.
struct Opened {
    flow: Flow,
    /// Who gives them, and whom to ask if that breaks for good.
    chain: Chain,
    pin: Pin,
    checksum: Promise,
}
