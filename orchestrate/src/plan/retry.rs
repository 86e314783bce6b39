//! Whether, and after how long, a failed step is tried again. Pure; the classes are in `error`.

use std::time::Duration;

use crate::error::Error;
use crate::error::class::Class;
use crate::error::leaves::stream_error;
use crate::plan::class::class;

/// What failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The layers of an image: sealed ones stay, so each try begins where the last one ended.
    Image,
    /// A device, on its way up or down.
    Device,
}

/// How patient a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// How often it is begun at most without coming forward.
    pub tries: u32,
    /// The longest first pause.
    pub base: Duration,
    /// The longest pause.
    pub cap: Duration,
    /// No new try begins when this has passed since it last came forward.
    pub deadline: Duration,
}

/// The table of steps.
pub fn policy(step: Step) -> Policy {
    match step {
        Step::Image => Policy {
            tries: 4,
            base: Duration::from_millis(500),
            cap: Duration::from_secs(10),
            deadline: Duration::from_secs(600),
        },
        Step::Device => Policy {
            tries: 3,
            base: Duration::from_millis(100),
            cap: Duration::from_secs(1),
            deadline: Duration::from_secs(30),
        },
    }
}

/// The pause before the next try of `step`, which was begun `tries` times without coming forward
/// and failed with `error`; none when there is no next try. `random` is in 0.0..1.0: full jitter.
pub fn again(
    step: Step,
    error: &Error,
    tries: u32,
    elapsed: Duration,
    random: f64,
) -> Option<Duration> {
    let policy = policy(step);
    let patient = match class(error) {
        Class::Temporary | Class::Throttled => !is_spent(error),
        // Only somebody else's removal helps.
        Class::NoSpace => false,
        Class::NotFound
        | Class::Usage
        | Class::Refused
        | Class::Denied
        | Class::HostBroken
        | Class::Cancelled
        | Class::Bug => false,
    };
    if !patient || tries >= policy.tries || elapsed >= policy.deadline {
        return None;
    }
    let longest = policy.base.saturating_mul(1 << tries.saturating_sub(1).min(16)).min(policy.cap);
    Some(longest.mul_f64(random.clamp(0.0, 1.0)))
}

/// Whether the patience for this failure is used up already: a download tried again by itself, and
/// a lock was waited for as long as the caller wished.
pub(crate) fn is_spent(error: &Error) -> bool {
    let fetch = match error {
        Error::Unheard { source, .. } => return is_spent(source),
        Error::Fetch(source) => Some(source),
        Error::Unpack { source, .. } => stream_error(source),
        // Who has a device open, or looks at it, does as long as people do.
        Error::Locked { .. } | Error::Held { .. } | Error::LookedAt { .. } => return true,
        Error::Making(_) => return true,
        Error::Tree { .. }
        | Error::Volume { .. }
        | Error::Image(_)
        | Error::Push(_)
        | Error::Export(_)
        | Error::Travel(_)
        | Error::Thin(_)
        | Error::Registry(_)
        | Error::Io { .. }
        | Error::Usage(_)
        | Error::Unknown { .. }
        | Error::Amiss(_)
        | Error::NotHere { .. }
        | Error::Taken { .. }
        | Error::Stranger { .. }
        | Error::Gone { .. }
        | Error::NoSpace { .. }
        | Error::Filling(_)
        | Error::Mismatch { .. }
        | Error::Quarantined { .. }
        | Error::Fence { .. }
        | Error::Catalog(_)
        | Error::Scan(_)
        | Error::Blocked { .. }
        | Error::Owner(_)
        | Error::State(_)
        | Error::Full(_)
        | Error::Away { .. }
        | Error::Condemned { .. }
        | Error::Unseen(_)
        | Error::NotOurs { .. }
        | Error::NoVolumes { .. }
        | Error::Lost { .. }
        | Error::NoNotes { .. }
        | Error::Cancelled { .. }
        | Error::Told { .. }
        | Error::Unfit(_)
        | Error::CrashLoop { .. } => None,
    };
    match fetch.map(fetch::Error::kind) {
        // Listed anew, it is another object.
        None | Some(fetch::Kind::Changed) => false,
        Some(
            fetch::Kind::Usage
            | fetch::Kind::NotFound
            | fetch::Kind::Denied
            | fetch::Kind::Refused
            | fetch::Kind::Digest
            | fetch::Kind::Network
            | fetch::Kind::Timeout
            | fetch::Kind::Throttled
            | fetch::Kind::Io,
        ) => true,
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    fn io_error(kind: io::ErrorKind) -> Error {
        Error::Io { doing: "write", path: "x".into(), source: kind.into() }
    }

    #[test]
    fn pauses_grow_to_the_cap_and_end() {
        let error = io_error(io::ErrorKind::Other);
        let pause = |tries| again(Step::Image, &error, tries, Duration::ZERO, 1.0);
        assert_eq!(pause(1), Some(Duration::from_millis(500)));
        assert_eq!(pause(2), Some(Duration::from_secs(1)));
        assert_eq!(pause(3), Some(Duration::from_secs(2)));
        assert_eq!(pause(4), None);
        assert_eq!(again(Step::Image, &error, 2, Duration::ZERO, 0.0), Some(Duration::ZERO));
        assert_eq!(again(Step::Image, &error, 1, Duration::from_secs(600), 1.0), None);
    }

    #[test]
    fn what_will_not_go_away_is_not_tried_again() {
        for error in [
            io_error(io::ErrorKind::PermissionDenied),
            io_error(io::ErrorKind::StorageFull),
            Error::Usage("x".into()),
            Error::Cancelled { why: "x".into() },
            Error::Fence { registry: 3, store: 1 },
            Error::Locked { what: "x".into(), holder: "y".into(), waited_s: 1 },
        ] {
            for step in [Step::Image, Step::Device] {
                assert_eq!(again(step, &error, 1, Duration::ZERO, 1.0), None, "{error}");
            }
        }
    }
}
