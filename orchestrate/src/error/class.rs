//! What a failure means for whoever asked: the classes, their words and exit codes. Which failure is of
//! which class is decided in `error`.

/// What a failure means for whoever asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// May go away by itself: network, timeouts, busy devices, locks.
    Temporary,
    /// The server asked for patience.
    Throttled,
    /// May go away when room is made.
    NoSpace,
    /// What was asked for does not exist.
    NotFound,
    /// The words or settings are wrong.
    Usage,
    /// Hostile or damaged input: the same bytes will be refused again.
    Refused,
    /// No right to it.
    Denied,
    /// Somebody took it back.
    Cancelled,
    /// The host needs hands: no device-mapper, damaged pool or registry.
    HostBroken,
    /// A mistake of ours.
    Bug,
}

impl Class {
    /// Whether the same command may succeed later with nobody having changed anything.
    pub fn may_retry(self) -> bool {
        match self {
            Class::Temporary | Class::Throttled | Class::NoSpace | Class::Cancelled => true,
            Class::NotFound
            | Class::Usage
            | Class::Refused
            | Class::Denied
            | Class::HostBroken
            | Class::Bug => false,
        }
    }

    /// 111 for what may be retried, else 100.
    pub fn exit_code(self) -> u8 {
        if self.may_retry() { 111 } else { 100 }
    }

    /// The class of a word in a run's row.
    pub fn from_word(word: &str) -> Option<Class> {
        use Class::{
            Bug, Cancelled, Denied, HostBroken, NoSpace, NotFound, Refused, Temporary, Throttled,
            Usage,
        };
        [
            Temporary, Throttled, NoSpace, NotFound, Usage, Refused, Denied, Cancelled, HostBroken,
            Bug,
        ]
        .into_iter()
        .find(|class| class.word() == word)
    }

    /// The word in JSON and logs.
    pub fn word(self) -> &'static str {
        match self {
            Class::Temporary => "temporary",
            Class::Throttled => "throttled",
            Class::NoSpace => "no_space",
            Class::NotFound => "not_found",
            Class::Usage => "usage",
            Class::Refused => "refused",
            Class::Denied => "denied",
            Class::Cancelled => "cancelled",
            Class::HostBroken => "host_broken",
            Class::Bug => "bug",
        }
    }
}
