//! Asking the sources of a client for what no digest is known of beforehand, by a caller that judges the answer itself.

use crate::client::Client;
use crate::error::Error;
use crate::error::kind::Kind;
use crate::flow::breaker::Breaker;
use crate::http::retry::dice;
use crate::s3::fallback::Fallback;

impl Client {
    /// Whether there is anybody to be asked before the server itself.
    pub fn has_sources(&self) -> bool {
        !self.inner.sources.is_empty()
    }

    /// Asks the sources that are not known to be away, in order, and gives what the first of them has that `ask` makes
    /// something of. Nothing vouches for what they say: what is believed of it is up to the caller.
    ///
    /// A source that does not answer is remembered as for bytes: it has a pause, here and for all transfers.
    pub fn by_sources<T>(
        &self,
        mut ask: impl FnMut(&Client) -> Result<Option<T>, Error>,
    ) -> Option<T> {
        let options = &self.inner.options;
        self.inner.sources.iter().find_map(|source| {
            let breaker = Breaker::of(&options.clock, source.endpoint());
            if !breaker.admits(options.clock.now()) {
                return None;
            }
            match ask(source) {
                Ok(found) => {
                    breaker.went_well();
                    found
                }
                Err(error) => {
                    match error.kind() {
                        Kind::Network | Kind::Timeout => {
                            let eager = options.source_fallback != Fallback::Now;
                            breaker.failed(options.clock.now(), eager, dice());
                        }
                        // Its origin is busy, perhaps: that is no reason to do without it.
                        Kind::Throttled => {}
                        Kind::Usage
                        | Kind::NotFound
                        | Kind::Denied
                        | Kind::Refused
                        | Kind::Changed
                        | Kind::Digest
                        | Kind::Io => breaker.went_well(),
                    }
                    None
                }
            }
        })
    }
}
