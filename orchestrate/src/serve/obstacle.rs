//! Why the pool does not grow, for whoever asks.

use std::sync::{Mutex, PoisonError};

use crate::view::health::judge::Facts;

/// Why the pool could not grow when it was last looked at.
#[derive(Debug, Default)]
pub(crate) struct InTheWay(pub(crate) Mutex<Option<String>>);

impl InTheWay {
    pub(crate) fn set(&self, why: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    /// Says so in what readiness is judged by.
    pub(super) fn tell(&self, facts: &mut Facts) {
        if let Some(why) = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            facts.growth = Err(why);
        }
    }
}
