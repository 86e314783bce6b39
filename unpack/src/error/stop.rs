//! A caller that does not want the end of some work any more.

use std::sync::Arc;
use std::{fmt, io};

use crate::error::Error;

/// Whether nobody wants the end of this work any more; it is asked with every name and every piece.
#[derive(Clone, Default)]
pub struct Stop(Option<Arc<dyn Fn() -> bool + Send + Sync>>);

impl Stop {
    /// Asks `f`.
    pub fn new(f: impl Fn() -> bool + Send + Sync + 'static) -> Stop {
        Stop(Some(Arc::new(f)))
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.as_ref().is_some_and(|f| f())
    }

    /// What was made under it: where it was stopped, any failure is that.
    pub(crate) fn heard<T>(&self, made: Result<T, Error>) -> Result<T, Error> {
        match made {
            Err(_) if self.is_set() => {
                Err(Error::Stream { source: io::Error::other("somebody asked to stop") })
            }
            made => made,
        }
    }
}

impl fmt::Debug for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Stop(..)" } else { "Stop" })
    }
}
