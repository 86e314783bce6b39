//! Interim answers (RFC 9110 15.2) are taken away before ureq sees them: it takes one that comes in the same
//! packets as a large body for a head that is too big.

use ureq::Error;
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, NextTimeout, Transport};

/// Wraps a connection.
#[derive(Debug)]
pub(crate) struct SkipInterim;

impl<In: Transport> Connector<In> for SkipInterim {
    type Out = Skipping<In>;

    fn connect(
        &self,
        _: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Skipping<In>>, Error> {
        Ok(chained.map(|inner| Skipping { inner, at_head: false }))
    }
}

/// A connection whose answers begin with their last head.
#[derive(Debug)]
pub(crate) struct Skipping<In> {
    inner: In,
    /// Whether the next bytes are a head, and not a body that looks like one.
    at_head: bool,
}

impl<In: Transport> Transport for Skipping<In> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.at_head = true;
        self.inner.transmit_output(amount, timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        let came = self.inner.await_input(timeout)?;
        while self.at_head {
            match head(self.inner.buffers().input()) {
                Head::Interim(bytes) => self.inner.buffers().input_consume(bytes),
                Head::Last => self.at_head = false,
                Head::Unknown => break,
            }
        }
        Ok(came)
    }

    fn is_open(&mut self) -> bool {
        self.inner.is_open()
    }

    fn is_tls(&self) -> bool {
        self.inner.is_tls()
    }
}

/// What stands at the beginning of an answer.
#[derive(Debug, PartialEq, Eq)]
enum Head {
    /// An interim answer of so many bytes.
    Interim(usize),
    /// Anything else.
    Last,
    /// More has to come.
    Unknown,
}

/// An interim head is no longer than this.
const HEAD_BYTES_MAX: usize = 16 << 10;

fn head(input: &[u8]) -> Head {
    const START: &[u8] = b"HTTP/1.1 1";
    if !START.starts_with(&input[..input.len().min(START.len())]) {
        return Head::Last;
    }
    let Some(status) = input.get(START.len()..START.len() + 2) else { return Head::Unknown };
    // 101 is no interim answer: what follows is another protocol.
    if status == b"01" || !status.iter().all(u8::is_ascii_digit) {
        return Head::Last;
    }
    let ended = input.windows(4).take(HEAD_BYTES_MAX).position(|four| four == b"\r\n\r\n");
    match ended {
        Some(at) => Head::Interim(at + 4),
        None if input.len() > HEAD_BYTES_MAX => Head::Last,
        None => Head::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_interim_heads_are_skipped() {
        let early = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n";
        assert_eq!(head(early), Head::Interim(early.len()));
        let both = [&early[..], b"HTTP/1.1 200 OK\r\n\r\n"].concat();
        assert_eq!(head(&both), Head::Interim(early.len()));
        for cut in 0..early.len() {
            assert_eq!(head(&early[..cut]), Head::Unknown, "{cut}");
        }
        for last in
            [&b"HTTP/1.1 200 OK\r\n\r\n"[..], b"HTTP/1.1 101 X\r\n\r\n", b"HTTP/1.1 1xx", b"x"]
        {
            assert_eq!(head(last), Head::Last);
        }
        let long = [&b"HTTP/1.1 103 X\r\n"[..], &[b'a'; HEAD_BYTES_MAX]].concat();
        assert_eq!(head(&long), Head::Last, "ureq refuses it");
    }
}
