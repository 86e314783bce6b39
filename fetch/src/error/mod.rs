//! What can go wrong between a reference and its last byte, as data.
//!
//! Data only: nothing is opened or asked here. Not here: how it is said (`wording.rs`), whether to try again (`retry.rs`).

pub(crate) mod answer;
mod cause;
pub(crate) mod fault;
pub(crate) mod forbidden;
pub(crate) mod gate;
pub(crate) mod kind;
pub(crate) mod tunnel;
pub(crate) mod wording;

use std::path::PathBuf;
use std::time::Duration;
use std::{error, io};

use crate::error::answer::Answer;
use crate::error::cause::{file_kind, transport_kind};
use crate::error::gate::Gate;
use crate::error::kind::Kind;

/// An error of this crate. `subject` fields are references such as `s3://bucket/key`.
#[derive(Debug)]
pub enum Error {
    /// Text that is not a reference.
    Reference {
        /// The text as given.
        text: String,
        /// The rule it breaks.
        why: &'static str,
    },
    /// A setting (flag, variable or field of `Options`) with an unusable value.
    Setting {
        /// The setting.
        name: &'static str,
        /// Its value.
        value: String,
        /// The rule it breaks.
        why: &'static str,
    },
    /// A key that S3 allows but no URL can carry: it has a `.` or `..` segment (RFC 3986 5.2.4).
    Unaddressable {
        /// The object.
        subject: String,
    },
    /// A shared file of the AWS tools says what cannot be done.
    Shared(Box<crate::error::fault::Fault>),
    /// Credentials are named but unusable.
    Credentials {
        /// Where they were looked for.
        place: String,
        /// What is wrong with them.
        why: &'static str,
    },
    /// A service that lends credentials does not answer as it should, for now.
    Lender {
        /// The service.
        place: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The URL or signature could not be made.
    Sign {
        /// The object or listing asked for.
        subject: String,
        /// What the signer said.
        source: Box<s3::error::S3Error>,
    },
    /// The signer made a URL for something else than was asked; nothing was sent.
    Guard {
        /// The object or listing asked for.
        subject: String,
        /// The URL that was not requested.
        url: String,
    },
    /// The server answered, and not with the object.
    Answer {
        /// The object or listing asked for.
        subject: String,
        /// What it said.
        answer: Box<Answer>,
    },
    /// A registry lets nobody in, or asks for what is not done.
    Gate {
        /// The blob or document asked for.
        subject: String,
        /// Why.
        gate: Box<Gate>,
    },
    /// A redirect that is not followed.
    Redirect {
        /// The object or listing asked for.
        subject: String,
        /// 301, 302, 303, 307 or 308.
        status: u16,
        /// The `Location`, empty if there was none.
        to: String,
        /// The rule that forbids it.
        why: &'static str,
    },
    /// The HTTP exchange failed: name, connection, TLS, protocol or time.
    Transport {
        /// The object or listing asked for.
        subject: String,
        /// The server, as `scheme://host:port`.
        server: String,
        /// What the HTTP client said.
        source: Box<ureq::Error>,
    },
    /// The stream came slower than the floor.
    Slow {
        /// The object.
        subject: String,
        /// Bytes of the object that had come.
        at: u64,
        /// Bytes within `over`.
        bytes: u64,
        /// Time spent waiting for the server.
        over: Duration,
        /// The floor, bytes per second.
        floor: u64,
    },
    /// The stream ended before the promised size.
    Short {
        /// The object.
        subject: String,
        /// Bytes that came.
        at: u64,
        /// Bytes promised.
        size: u64,
    },
    /// The stream goes on after the promised size.
    Long {
        /// The object.
        subject: String,
        /// Bytes promised.
        size: u64,
    },
    /// Neither the answer nor the caller says how long the object is, so a cut would go unseen.
    NoLength {
        /// The object.
        subject: String,
    },
    /// The stream broke and the server gave no strong ETag (nor is there a digest) to go on safely.
    Unresumable {
        /// The object.
        subject: String,
        /// Bytes that had come.
        at: u64,
        /// How it broke.
        source: Box<Error>,
    },
    /// Another range than the one asked for.
    Range {
        /// The object.
        subject: String,
        /// The `Content-Range` that was due.
        want: String,
        /// The one that came.
        got: String,
    },
    /// The object is not the one that was pinned.
    Changed {
        /// The object.
        subject: String,
        /// `ETag` or `size`.
        field: &'static str,
        /// The pinned value.
        want: String,
        /// The present value.
        got: String,
    },
    /// All bytes came and their digest is another one.
    Digest {
        /// The object.
        subject: String,
        /// The algorithm, `sha256` or an object checksum's name.
        algorithm: &'static str,
        /// The promised digest.
        want: String,
        /// The digest of what came.
        got: String,
    },
    /// All bytes came, some of them out of a spool, and their digest is another one. Who is to blame
    /// is not known; the spool is gone, so the next try is all the server's.
    Rotten {
        /// The object.
        subject: String,
        /// Bytes that the spool had.
        reused: u64,
    },
    /// The digest is wrong, and several answers gave the bytes which nothing held to one version: the object may
    /// have been replaced in between.
    Mixed {
        /// The object.
        subject: String,
        /// `sha256`, or what a server's checksum is.
        algorithm: &'static str,
        /// The promised one, hex.
        want: String,
        /// The computed one, hex.
        got: String,
    },
    /// Larger than the limit.
    TooLarge {
        /// The object.
        subject: String,
        /// Its size, bytes.
        size: u64,
        /// The limit, bytes.
        size_max: u64,
    },
    /// An answer that cannot be made sense of.
    Malformed {
        /// The object or listing asked for.
        subject: String,
        /// What is wrong.
        why: &'static str,
        /// The piece in question.
        got: String,
    },
    /// A listing that is not XML.
    Xml {
        /// The listing.
        subject: String,
        /// What the parser said.
        source: Box<quick_xml::Error>,
    },
    /// A listing with more keys or pages than the limit.
    ListingTooLong {
        /// The prefix.
        subject: String,
        /// The limit.
        keys_max: usize,
    },
    /// A listing whose keys and tags take more memory than the limit.
    ListingTooLarge {
        /// The prefix.
        subject: String,
        /// The limit, bytes.
        bytes_max: usize,
    },
    /// An image of more layers than the limit.
    TooManyLayers {
        /// The prefix.
        subject: String,
        /// The limit.
        layers_max: usize,
    },
    /// Nothing under the prefix.
    EmptyPrefix {
        /// The prefix.
        subject: String,
    },
    /// No such object, and objects below it: an image whose last slash is missing.
    NoSlash {
        /// The reference as it was given.
        subject: String,
    },
    /// Layer numbers that are not 1, 2, 3, ...
    Gap {
        /// The prefix.
        subject: String,
        /// The first number that is absent.
        missing: u64,
        /// The next one that is there.
        next: u64,
    },
    /// A key under an image's prefix that is no layer.
    Stranger {
        /// The object.
        subject: String,
    },
    /// What lies under the prefix is an OCI image layout, which another form of reference names.
    Layout {
        /// The prefix.
        subject: String,
    },
    /// Two keys for one layer number.
    Duplicate {
        /// The number.
        number: u64,
        /// The first key.
        first: String,
        /// The second key.
        second: String,
    },
    /// A request that writes, without keys to sign it.
    Unsigned {
        /// The object.
        subject: String,
    },
    /// Local bytes that are not what they are to be uploaded as.
    Local {
        /// Where they are.
        place: String,
        /// `sha256` or `bytes`.
        field: &'static str,
        /// What it has to be.
        want: String,
        /// What it is.
        got: String,
    },
    /// An upload in parts that somebody else ended, however often it was begun anew.
    Vanished {
        /// The object.
        subject: String,
        /// How often it was begun.
        begun: u32,
    },
    /// The budget of tries or of time is spent.
    GaveUp {
        /// Tries since the last progress.
        tries: u32,
        /// Time since the last progress.
        elapsed: Duration,
        /// The last failure.
        last: Box<Error>,
    },
    /// No source of an object can be asked, and the origin may not be.
    Sources {
        /// The object.
        subject: String,
        /// How long they were waited for.
        waited: Duration,
        /// Why the last one that was asked gave nothing.
        last: Option<Box<Error>>,
    },
    /// A body was read again after it had failed.
    Spent {
        /// The object.
        subject: String,
    },
    /// The time for the whole object is over.
    Overdue {
        /// The object.
        subject: String,
        /// Bytes that had come.
        at: u64,
        /// Its size, bytes.
        size: u64,
        /// The limit.
        deadline: Duration,
    },
    /// Another process is at the same partial file.
    Busy {
        /// The partial file.
        path: PathBuf,
    },
    /// A thread could not be started, or died.
    Thread {
        /// What the kernel said.
        source: io::Error,
    },
    /// A file that a setting names and that cannot be read.
    Unreadable {
        /// What it was to be.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A local file or pipe failed.
    File {
        /// What was tried, as a verb: `open`, `write`, ...
        act: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

impl Error {
    /// The class of this error.
    pub fn kind(&self) -> Kind {
        match self {
            Error::Reference { .. }
            | Error::Setting { .. }
            | Error::Unaddressable { .. }
            | Error::Shared(..)
            | Error::Credentials { .. }
            | Error::Unreadable { .. }
            | Error::Sign { .. }
            | Error::Unsigned { .. }
            | Error::Spent { .. } => Kind::Usage,
            Error::Answer { answer, .. } => answer.kind(),
            Error::Gate { gate, .. } => gate.kind(),
            Error::EmptyPrefix { .. } | Error::NoSlash { .. } => Kind::NotFound,
            Error::Guard { .. }
            | Error::Redirect { .. }
            | Error::Long { .. }
            | Error::NoLength { .. }
            | Error::Range { .. }
            | Error::TooLarge { .. }
            | Error::Malformed { .. }
            | Error::Xml { .. }
            | Error::ListingTooLong { .. }
            | Error::ListingTooLarge { .. }
            | Error::TooManyLayers { .. }
            | Error::Gap { .. }
            | Error::Stranger { .. }
            | Error::Local { .. }
            | Error::Layout { .. }
            | Error::Duplicate { .. } => Kind::Refused,
            Error::Changed { .. } | Error::Vanished { .. } => Kind::Changed,
            Error::Digest { .. } => Kind::Digest,
            Error::Transport { source, .. } => transport_kind(source),
            Error::Slow { .. } | Error::Overdue { .. } => Kind::Timeout,
            Error::Short { .. }
            | Error::Unresumable { .. }
            | Error::Lender { .. }
            | Error::Sources { .. } => Kind::Network,
            Error::GaveUp { last, .. } => last.kind(),
            Error::File { source, .. } => file_kind(source),
            Error::Busy { .. }
            | Error::Rotten { .. }
            | Error::Mixed { .. }
            | Error::Thread { .. } => Kind::Io,
        }
    }
}

/// The causes that are ours to word. What the HTTP client, the signer and the XML parser say can
/// hold bytes of the server's, so it is part of our own text, escaped, and not of the chain.
impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Error::Unresumable { source, .. } => Some(source.as_ref()),
            Error::Sources { last, .. } => {
                last.as_deref().map(|e| e as &(dyn error::Error + 'static))
            }
            Error::GaveUp { last, .. } => Some(last.as_ref()),
            Error::File { source, .. }
            | Error::Unreadable { source, .. }
            | Error::Thread { source } => Some(source),
            Error::Reference { .. }
            | Error::Setting { .. }
            | Error::Unaddressable { .. }
            | Error::Shared(..)
            | Error::Credentials { .. }
            | Error::Lender { .. }
            | Error::Sign { .. }
            | Error::Guard { .. }
            | Error::Answer { .. }
            | Error::Gate { .. }
            | Error::Redirect { .. }
            | Error::Transport { .. }
            | Error::Xml { .. }
            | Error::Slow { .. }
            | Error::Short { .. }
            | Error::Long { .. }
            | Error::NoLength { .. }
            | Error::Range { .. }
            | Error::Changed { .. }
            | Error::Digest { .. }
            | Error::Rotten { .. }
            | Error::Mixed { .. }
            | Error::TooLarge { .. }
            | Error::Malformed { .. }
            | Error::ListingTooLong { .. }
            | Error::ListingTooLarge { .. }
            | Error::TooManyLayers { .. }
            | Error::EmptyPrefix { .. }
            | Error::NoSlash { .. }
            | Error::Gap { .. }
            | Error::Stranger { .. }
            | Error::Layout { .. }
            | Error::Duplicate { .. }
            | Error::Unsigned { .. }
            | Error::Local { .. }
            | Error::Vanished { .. }
            | Error::Spent { .. }
            | Error::Overdue { .. }
            | Error::Busy { .. } => None,
        }
    }
}

/// Whether nobody is there who could answer: no such host, or a refused connection.
pub(crate) fn is_unreachable(error: &Error) -> bool {
    match error {
        Error::Transport { source, .. } => match source.as_ref() {
            ureq::Error::HostNotFound | ureq::Error::ConnectionFailed => true,
            ureq::Error::Io(source) => source.kind() == io::ErrorKind::ConnectionRefused,
            _ => false,
        },
        _ => false,
    }
}
