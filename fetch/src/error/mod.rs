//! What can go wrong between a reference and its last byte, as data and in words.
//!
//! Nothing is opened or asked here. Not here: of which kind each is (`cause.rs`), whether to try again (`retry.rs`).

pub(crate) mod answer;
pub(crate) mod cause;
pub(crate) mod fault;
pub(crate) mod forbidden;
pub(crate) mod gate;
pub(crate) mod kind;
pub(crate) mod tunnel;
pub(crate) mod wording;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::error::answer::Answer;
use crate::error::gate::Gate;
use crate::error::wording::{Over, Transport, bare, shown, tried, version};
use crate::text::quote::quoted;

/// An error of this crate. `subject` fields are references such as `s3://bucket/key`.
///
/// Every string that came from outside is kept raw in its variant and escaped in the message. What the HTTP client,
/// the signer and the XML parser say can hold bytes of the server's, so it is part of our own text, escaped, and not
/// of the chain: `r#source` is no source.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Text that is not a reference.
    #[error("reference {}: {why}", quoted(.text))]
    Reference {
        /// The text as given.
        text: String,
        /// The rule it breaks.
        why: &'static str,
    },
    /// A setting (flag, variable or field of `Options`) with an unusable value.
    #[error("{name} {}: {why}", quoted(.value))]
    Setting {
        /// The setting.
        name: &'static str,
        /// Its value.
        value: String,
        /// The rule it breaks.
        why: &'static str,
    },
    /// A key that S3 allows but no URL can carry: it has a `.` or `..` segment (RFC 3986 5.2.4).
    #[error(
        "{}: a key with a \".\" or \"..\" segment cannot be requested by URL: copy the object to another key",
        quoted(.subject)
    )]
    Unaddressable {
        /// The object.
        subject: String,
    },
    /// A shared file of the AWS tools says what cannot be done.
    #[error("{}, line {}, {}: {}", shown(&.0.file), .0.line, bare(&.0.key), .0.why)]
    Shared(Box<crate::error::fault::Fault>),
    /// Credentials are named but unusable.
    #[error("credentials in {}: {why}", quoted(.place))]
    Credentials {
        /// Where they were looked for.
        place: String,
        /// What is wrong with them.
        why: &'static str,
    },
    /// A service that lends credentials does not answer as it should, for now.
    #[error("credentials from {place}: {why}: try again, or --anonymous")]
    Lender {
        /// The service.
        place: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The URL or signature could not be made.
    #[error("{}: unable to sign the request: {}", quoted(.subject), quoted(&.source.to_string()))]
    Sign {
        /// The object or listing asked for.
        subject: String,
        /// What the signer said.
        r#source: Box<s3::error::S3Error>,
    },
    /// The signer made a URL for something else than was asked; nothing was sent.
    #[error("{}: not sent: the URL would be {}", quoted(.subject), quoted(.url))]
    Guard {
        /// The object or listing asked for.
        subject: String,
        /// The URL that was not requested.
        url: String,
    },
    /// The server answered, and not with the object.
    #[error("{}: {answer}{}", quoted(.subject), version(.subject, .answer))]
    Answer {
        /// The object or listing asked for.
        subject: String,
        /// What it said.
        answer: Box<Answer>,
    },
    /// A registry lets nobody in, or asks for what is not done.
    #[error("{}: {gate}", quoted(.subject))]
    Gate {
        /// The blob or document asked for.
        subject: String,
        /// Why.
        gate: Box<Gate>,
    },
    /// A redirect that is not followed.
    #[error("{}: {status} redirect to {} not followed: {why}", quoted(.subject), quoted(.to))]
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
    #[error("{}: server {}: {}", quoted(.subject), quoted(.server), Transport(.source))]
    Transport {
        /// The object or listing asked for.
        subject: String,
        /// The server, as `scheme://host:port`.
        server: String,
        /// What the HTTP client said.
        r#source: Box<ureq::Error>,
    },
    /// The stream came slower than the floor.
    #[error(
        "{}: stalled at byte {at}: {bytes} bytes in {:.1} s, the floor is {floor} B/s",
        quoted(.subject),
        .over.as_secs_f64()
    )]
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
    #[error("{}: the stream ended at byte {at} of {size}", quoted(.subject))]
    Short {
        /// The object.
        subject: String,
        /// Bytes that came.
        at: u64,
        /// Bytes promised.
        size: u64,
    },
    /// The stream goes on after the promised size.
    #[error("{}: more bytes than the promised {size}", quoted(.subject))]
    Long {
        /// The object.
        subject: String,
        /// Bytes promised.
        size: u64,
    },
    /// Neither the answer nor the caller says how long the object is, so a cut would go unseen.
    #[error(
        "{}: the server sends no Content-Length, so a truncated object would go unnoticed; pass the size",
        quoted(.subject)
    )]
    NoLength {
        /// The object.
        subject: String,
    },
    /// The stream broke and the server gave no strong ETag (nor is there a digest) to go on safely.
    #[error(
        "{}: the stream broke at byte {at} and cannot be resumed: the server sends no strong ETag",
        quoted(.subject)
    )]
    Unresumable {
        /// The object.
        subject: String,
        /// Bytes that had come.
        at: u64,
        /// How it broke.
        source: Box<Error>,
    },
    /// Another range than the one asked for.
    #[error("{}: asked for {}, the server sent {}", quoted(.subject), quoted(.want), quoted(.got))]
    Range {
        /// The object.
        subject: String,
        /// The `Content-Range` that was due.
        want: String,
        /// The one that came.
        got: String,
    },
    /// The object is not the one that was pinned.
    #[error(
        "{}: the object changed: {field} is {}, pinned {}: list it again",
        quoted(.subject),
        quoted(.got),
        quoted(.want)
    )]
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
    #[error(
        "{}: digest mismatch: {} gave {algorithm}:{got}, promised {algorithm}:{want}: discard it",
        quoted(.subject),
        quoted(.server)
    )]
    Digest {
        /// The object.
        subject: String,
        /// Who gave the bytes, as `scheme://host:port`, one after the other where it was several.
        server: String,
        /// The algorithm, `sha256` or an object checksum's name.
        algorithm: &'static str,
        /// The promised digest.
        want: String,
        /// The digest of what came.
        got: String,
    },
    /// All bytes came, some of them out of a spool, and their digest is another one. Who is to blame
    /// is not known; the spool is gone, so the next try is all the server's.
    #[error(
        "{}: digest mismatch, with {reused} bytes that an earlier attempt left and that are removed now: try again",
        quoted(.subject)
    )]
    Rotten {
        /// The object.
        subject: String,
        /// Bytes that the spool had.
        reused: u64,
    },
    /// The digest is wrong, and several answers gave the bytes which nothing held to one version: the object may
    /// have been replaced in between.
    #[error(
        "{}: digest mismatch: {algorithm}:{got}, promised {algorithm}:{want}, over several answers \
         which no strong ETag holds together: the object may have changed meanwhile: try again",
        quoted(.subject)
    )]
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
    #[error("{}: {size} bytes exceed the limit {size_max}", quoted(.subject))]
    TooLarge {
        /// The object.
        subject: String,
        /// Its size, bytes.
        size: u64,
        /// The limit, bytes.
        size_max: u64,
    },
    /// An answer that cannot be made sense of.
    #[error("{}: malformed answer: {why}: {}", quoted(.subject), quoted(.got))]
    Malformed {
        /// The object or listing asked for.
        subject: String,
        /// What is wrong.
        why: &'static str,
        /// The piece in question.
        got: String,
    },
    /// A listing that is not XML.
    #[error("{}: malformed listing: {}", quoted(.subject), quoted(&.source.to_string()))]
    Xml {
        /// The listing.
        subject: String,
        /// What the parser said.
        r#source: Box<quick_xml::Error>,
    },
    /// A listing with more keys or pages than the limit.
    #[error("listing {}: more than {keys_max} keys", quoted(.subject))]
    ListingTooLong {
        /// The prefix.
        subject: String,
        /// The limit.
        keys_max: usize,
    },
    /// A listing whose keys and tags take more memory than the limit.
    #[error("listing {}: keys and ETags of more than {bytes_max} bytes", quoted(.subject))]
    ListingTooLarge {
        /// The prefix.
        subject: String,
        /// The limit, bytes.
        bytes_max: usize,
    },
    /// An image of more layers than the limit.
    #[error(
        "listing {}: more than {layers_max} layers: raise --layers, fetch.layers or \
         VENEER_FETCH_LAYERS if that is meant",
        quoted(.subject)
    )]
    TooManyLayers {
        /// The prefix.
        subject: String,
        /// The limit.
        layers_max: usize,
    },
    /// Nothing under the prefix.
    #[error("listing {}: no objects: check the prefix and its last \"/\"", quoted(.subject))]
    EmptyPrefix {
        /// The prefix.
        subject: String,
    },
    /// No such object, and objects below it: an image whose last slash is missing.
    #[error(
        "{}: no such object: did you mean {} with its last \"/\"?",
        quoted(.subject),
        quoted(&format!("{subject}/"))
    )]
    NoSlash {
        /// The reference as it was given.
        subject: String,
    },
    /// Layer numbers that are not 1, 2, 3, ...
    #[error("listing {}: layer {missing} is missing, {next} is there", quoted(.subject))]
    Gap {
        /// The prefix.
        subject: String,
        /// The first number that is absent.
        missing: u64,
        /// The next one that is there.
        next: u64,
    },
    /// A key under an image's prefix that is no layer.
    #[error(
        "{}: not a layer (<n>.tar, .tar.gz, .tgz, .tar.zst): move it out of the prefix",
        quoted(.subject)
    )]
    Stranger {
        /// The object.
        subject: String,
    },
    /// What lies under the prefix is an OCI image layout, which another form of reference names.
    #[error(
        "listing {}: this is an OCI image layout, not numbered layers: its images are named {}, with a tag \
         that its index.json has",
        quoted(.subject),
        quoted(&format!("oci:{subject}:TAG"))
    )]
    Layout {
        /// The prefix.
        subject: String,
    },
    /// Two keys for one layer number.
    #[error("layer {number} is there twice: {} and {}", quoted(.first), quoted(.second))]
    Duplicate {
        /// The number.
        number: u64,
        /// The first key.
        first: String,
        /// The second key.
        second: String,
    },
    /// A request that writes, without keys to sign it.
    #[error(
        "{}: uploads are always signed, and there are no credentials: set \
         AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or a profile, and leave --anonymous out",
        quoted(.subject)
    )]
    Unsigned {
        /// The object.
        subject: String,
    },
    /// Local bytes that are not what they are to be uploaded as.
    #[error(
        "{}: its {field} is {} but must be {}: it is not uploaded; copy or pull the image again",
        quoted(.place),
        bare(.got),
        bare(.want)
    )]
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
    #[error(
        "{}: another client aborted the multipart upload each of the {begun} times that it was \
         started: try again when nothing removes unfinished uploads there",
        quoted(.subject)
    )]
    Vanished {
        /// The object.
        subject: String,
        /// How often it was begun.
        begun: u32,
    },
    /// The budget of tries or of time is spent.
    #[error("gave up after {tries} {}{}", tried(*.tries), Over(" in", *.elapsed))]
    GaveUp {
        /// Tries since the last progress.
        tries: u32,
        /// Time since the last progress.
        elapsed: Duration,
        /// The last failure.
        #[source]
        last: Box<Error>,
    },
    /// No source of an object can be asked, and the origin may not be.
    #[error(
        "{}: no source could be reached{}, and the origin may not be asked yet: check the \
         sources, or allow the origin at once (--source-fallback now)",
        quoted(.subject),
        Over(" for", *.waited)
    )]
    Sources {
        /// The object.
        subject: String,
        /// How long they were waited for.
        waited: Duration,
        /// Why the last one that was asked gave nothing.
        #[source]
        last: Option<Box<Error>>,
    },
    /// A body was read again after it had failed.
    #[error("{}: the stream was read again after it had failed", quoted(.subject))]
    Spent {
        /// The object.
        subject: String,
    },
    /// The time for the whole object is over.
    #[error(
        "{}: at byte {at} of {size} after {:.1} s, the deadline: raise --deadline",
        quoted(.subject),
        .deadline.as_secs_f64()
    )]
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
    #[error("another process is fetching into {}: wait for it", shown(.path))]
    Busy {
        /// The partial file.
        path: PathBuf,
    },
    /// A thread could not be started, or died.
    #[error("unable to start a thread for a range")]
    Thread {
        /// What the kernel said.
        source: io::Error,
    },
    /// A file that a setting names and that cannot be read.
    #[error("{what} {}: unable to read it", shown(.path))]
    Unreadable {
        /// What it was to be.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A local file or pipe failed.
    #[error("unable to {act} {}", shown(.path))]
    File {
        /// What was tried, as a verb: `open`, `write`, ...
        act: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}
