//! The checksum that an object's server promises, which may become known only while the bytes flow.
//!
//! A range comes without the checksum of the whole, so that is asked for apart, once and for a short time,
//! beside the data: it is an extra, and never keeps anybody waiting for longer.

use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::{Duration, Instant};
use std::{fmt, thread};

use crate::client::Client;
use crate::flow::pin::Pin;
use crate::http::checksum::Checksum;
use crate::name::locator::Locator;
use crate::s3::options::Event;

/// How long the question may take.
const TIME: Duration = Duration::from_secs(3);

/// What is promised.
#[derive(Debug)]
pub(crate) enum Promise {
    None,
    Known(Checksum),
    Asked(Box<Asked>),
}

/// A question that is on its way; meanwhile everything is computed that the answer could name.
pub(crate) struct Asked {
    answer: Receiver<Option<Checksum>>,
    until: Instant,
    running: [Checksum; 3],
}

impl fmt::Debug for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Asked")
    }
}

impl Promise {
    /// Of what an answer told.
    pub(crate) fn of(told: Option<Checksum>) -> Promise {
        told.map_or(Promise::None, Promise::Known)
    }

    /// Asks for the checksum of the pinned version.
    pub(crate) fn ask(client: &Client, object: &Locator, pin: &Pin) -> Promise {
        // A blob has its digest.
        let Locator::Object(object) = object else { return Promise::None };
        let (tell, answer) = channel();
        let (asking, object) = (client.clone(), object.clone());
        let etag = pin.etag.text().map(str::to_owned);
        let ask = move || {
            let told = match asking.head_briefly(&object, TIME) {
                Ok((found, told)) if found.etag == etag => told,
                Ok(_) | Err(_) => {
                    let text = "the object's checksum could not be asked for";
                    asking.inner.options.watch.tell(&Event::Note { text });
                    None
                }
            };
            // Nobody may want it any more.
            drop(tell.send(told));
        };
        let thread = thread::Builder::new().name("fetch-head".to_owned()).stack_size(512 << 10);
        match thread.spawn(ask) {
            Ok(_) => {
                let (until, running) = (Instant::now() + TIME, Checksum::running());
                Promise::Asked(Box::new(Asked { answer, until, running }))
            }
            Err(_) => Promise::None,
        }
    }

    /// More bytes have come.
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        if let Promise::Asked(asked) = self {
            match asked.answer.try_recv() {
                Ok(told) => *self = asked.settled(told),
                Err(TryRecvError::Empty) if Instant::now() < asked.until => {
                    asked.running.iter_mut().for_each(|running| running.update(bytes));
                    return;
                }
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => *self = Promise::None,
            }
        }
        if let Promise::Known(checksum) = self {
            checksum.update(bytes);
        }
    }

    /// What is promised, now that all bytes are in; an answer that is still due is waited for.
    pub(crate) fn settle(&mut self) -> Option<&Checksum> {
        if let Promise::Asked(asked) = self {
            let left = asked.until.saturating_duration_since(Instant::now());
            let told = asked.answer.recv_timeout(left).ok().flatten();
            *self = asked.settled(told);
        }
        match self {
            Promise::Known(checksum) => Some(checksum),
            Promise::None | Promise::Asked(_) => None,
        }
    }
}

impl Asked {
    /// The promise, with what has been computed for it.
    fn settled(&self, told: Option<Checksum>) -> Promise {
        Promise::of(told.map(|told| told.taken_from(&self.running)))
    }
}
