//! The kinds of failure: what a caller may do about one.

/// The classes of failure, for callers that decide what to do next. Exhaustive on purpose: a new
/// kind must be classed by every caller before it compiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The request makes no sense: a malformed reference, option or credentials file, or a place
    /// that cannot be written.
    Usage,
    /// No such bucket or object, or nothing under the prefix.
    NotFound,
    /// The server says no: credentials, permission, clock, or the wrong region.
    Denied,
    /// The server, or what the bucket holds, breaks the rules; nothing of it is used.
    Refused,
    /// The object is not, or is no longer, the one that was pinned.
    Changed,
    /// All bytes came and they are not the promised ones.
    Digest,
    /// The name, the connection or the stream failed.
    Network,
    /// The server asks for patience (429, 503) or failed inside (5xx).
    Throttled,
    /// Nothing, or too little, came in time.
    Timeout,
    /// A local file or pipe failed.
    Io,
}
