//! An object that is small enough to be held in memory, read whole: what a source has instead of it is passed by.

use std::io::Read as _;

use crate::client::Client;
use crate::error::kind::Kind;
use crate::error::{Error, wording};
use crate::name::locator::Locator;
use crate::s3::object::Expect;
use crate::s3::options::Event;

impl Client {
    /// All bytes of an object. A source that gave wrong ones is asked once more and told so, then the next one is, then
    /// the server itself, of which alone wrong bytes are final. How large it may be, `expect` says.
    ///
    /// # Errors
    /// As [`Client::open`]; [`Error::Digest`].
    pub fn read_whole(&self, place: impl Into<Locator>, expect: &Expect) -> Result<Vec<u8>, Error> {
        let object = &place.into();
        let mut client = self.clone();
        loop {
            let error = match client.read_whole_once(object, expect) {
                Ok(bytes) => return Ok(bytes),
                Err(error) => error,
            };
            let next = match error.kind() {
                Kind::Digest | Kind::Changed => client.elsewhere(object)?,
                Kind::Usage
                | Kind::NotFound
                | Kind::Denied
                | Kind::Refused
                | Kind::Network
                | Kind::Throttled
                | Kind::Timeout
                | Kind::Io => None,
            };
            let Some(next) = next else { return Err(error) };
            let what = match next.asks_anew() && !client.asks_anew() {
                true => "what a source keeps is wrong, and it is asked to fetch that again",
                false => "a source is passed by",
            };
            let text = format!("{}; {what}", wording::chain(&error));
            self.inner.options.watch.tell(&Event::Left { text: &text });
            client = next;
        }
    }

    fn read_whole_once(&self, object: &Locator, expect: &Expect) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        let mut body = self.open(object, expect)?;
        match body.read_to_end(&mut bytes) {
            Ok(_) => Ok(bytes),
            Err(source) => Err(source.downcast::<Error>().unwrap_or_else(|source| Error::File {
                act: "read",
                path: object.to_string().into(),
                source,
            })),
        }
    }
}
