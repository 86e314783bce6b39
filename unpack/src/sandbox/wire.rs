//! What goes between parent and child: the limits down, the verdict up, both as JSON.

use std::io;

use serde::{Deserialize, Serialize};

use crate::applied::Applied;
use crate::error::{Error, Place, Refusal, Space};
use crate::limits::Limits;

#[derive(Serialize, Deserialize)]
enum Verdict {
    Applied(Box<Applied>),
    Refused { place: Place, refusal: Box<Refusal> },
    Stream { text: String },
    Fs { place: Option<Place>, call: String, name: Vec<u8>, errno: Option<i32> },
    NoSpace { place: Place, what: Space, need: u64, free: u64 },
    Sandbox { step: String, errno: Option<i32>, text: String },
}

/// The limits, and whether the second fd is a place for records.
pub(super) fn order(limits: &Limits, spill: bool) -> Vec<u8> {
    // Only maps with odd keys can fail here, and there are none.
    serde_json::to_vec(&(limits, spill)).unwrap_or_default()
}

pub(super) fn read_order(order: &[u8]) -> Option<(Limits, bool)> {
    serde_json::from_slice(order).ok()
}

pub(super) fn encode(result: &Result<Applied, Error>) -> Vec<u8> {
    let verdict = match result {
        Ok(applied) => Verdict::Applied(Box::new(applied.clone())),
        Err(Error::Refused { place, refusal }) => {
            Verdict::Refused { place: place.clone(), refusal: refusal.clone() }
        }
        Err(Error::Stream { source }) => Verdict::Stream { text: source.to_string() },
        Err(Error::Fs { place, call, name, source }) => Verdict::Fs {
            place: place.clone(),
            call: call.to_string(),
            name: name.clone(),
            errno: source.raw_os_error(),
        },
        Err(Error::NoSpace { place, what, need, free }) => {
            Verdict::NoSpace { place: place.clone(), what: *what, need: *need, free: *free }
        }
        Err(Error::Sandbox { step, source }) => Verdict::Sandbox {
            step: step.to_string(),
            errno: source.raw_os_error(),
            text: source.to_string(),
        },
    };
    serde_json::to_vec(&verdict).unwrap_or_default()
}

/// `None` if there is no verdict to be read.
pub(super) fn verdict(bytes: &[u8]) -> Option<Result<Applied, Error>> {
    let from = |errno: Option<i32>, text: String| match errno {
        Some(errno) => io::Error::from_raw_os_error(errno),
        None => io::Error::other(text),
    };
    Some(match serde_json::from_slice(bytes).ok()? {
        Verdict::Applied(applied) => Ok(*applied),
        Verdict::Refused { place, refusal } => Err(Error::Refused { place, refusal }),
        // The child reads a pipe, which does not fail; the layer's reader is the parent's.
        Verdict::Stream { text } => {
            Err(Error::Sandbox { step: "read the pipe".into(), source: io::Error::other(text) })
        }
        Verdict::Fs { place, call, name, errno } => {
            let source = from(errno, "unknown error".into());
            Err(Error::Fs { place, call: call.into(), name, source })
        }
        Verdict::NoSpace { place, what, need, free } => {
            Err(Error::NoSpace { place, what, need, free })
        }
        Verdict::Sandbox { step, errno, text } => {
            Err(Error::Sandbox { step: step.into(), source: from(errno, text) })
        }
    })
}
