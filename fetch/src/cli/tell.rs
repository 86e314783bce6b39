//! What is said on stderr while bytes are waited for.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use fetch::Event;

use crate::cli::output;

pub(crate) fn all(event: &Event<'_>) {
    match event {
        Event::Retry { error, tries, wait, left, .. } => {
            let (wait, left) = (wait.as_secs_f64(), left.as_secs_f64());
            let error = fetch::chain(error);
            output::complain(&format!(
                "fetch: try {tries} failed, next in {wait:.2} s, patience for {left:.0} s: {error}"
            ));
        }
        Event::Resume { subject, at } => {
            output::complain(&format!("fetch: {subject:?}: going on at byte {at}"));
        }
        Event::Left { text } | Event::Note { text } => output::complain(&format!("fetch: {text}")),
        Event::Waiting { .. } | Event::Away { .. } | Event::Anonymous | Event::Warning { .. } => {
            waits(event)
        }
    }
}

/// What is said without `-v` too: nobody should wonder what a silent program does.
pub(crate) fn waits(event: &Event<'_>) {
    match event {
        Event::Waiting { subject, waited } => {
            let seconds = waited.as_secs();
            output::complain(&format!(
                "fetch: {subject:?}: nothing has arrived for {seconds} s, waiting"
            ));
        }
        Event::Away { error, again, origin, left, .. } => {
            let seconds = |time: &Duration| format!("{:.1} s", time.as_secs_f64());
            let next = match (origin, again) {
                (Some(time), _) => format!("the origin is asked in {}", seconds(time)),
                (None, Some(time)) => format!(
                    "asked again in {}, patience for {:.0} s",
                    seconds(time),
                    left.as_secs_f64()
                ),
                (None, None) => format!("patience for {:.0} s", left.as_secs_f64()),
            };
            let why = error.map_or_else(String::new, |e| format!(": {}", fetch::chain(e)));
            output::complain(&format!("fetch: no source can be asked now: {next}{why}"));
        }
        Event::Anonymous => output::complain(
            "fetch: no keys in the environment, ~/.aws or this machine's metadata: requests are not \
             signed (--anonymous says that this is meant)",
        ),
        Event::Warning { server, text } => {
            output::complain(&format!("fetch: {server} warns: {text}"));
        }
        // Many streams may break at once; one of them tells it.
        Event::Retry { .. } => {
            static TOLD: Mutex<Option<Instant>> = Mutex::new(None);
            let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
            if event.is_news() || told.is_none_or(|told| told.elapsed() >= Duration::from_secs(1)) {
                *told = Some(Instant::now());
                all(event);
            }
        }
        Event::Resume { .. } | Event::Left { .. } | Event::Note { .. } => {}
    }
}
