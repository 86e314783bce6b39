//! Rows as the program sees them, and their decoding: a row that does not decode is an error.

use rusqlite::Row;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::Error;
use crate::error::quote::beginning;
use crate::ids::VolumeId;
use crate::state::{ActivationState, Seal, VolumeState};

/// What a volume is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The empty file system from which each first layer is a snapshot.
    Template,
    /// One layer on top of its parent.
    Layer,
}

impl Role {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Role::Template => "template",
            Role::Layer => "layer",
        }
    }
}

/// How a blob's digest became known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum KnownBy {
    /// This object was read to its end.
    Read,
    /// Another object of the same bucket, ETag and size was: a guess.
    Etag,
}

/// Which store this registry is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreBinding {
    /// `thin` or `dir`.
    pub kind: String,
    /// The pool's or the directory's identity.
    pub id: String,
}

/// A volume: the template or a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// The thin id; 1 to 16777215.
    pub id: VolumeId,
    /// What it is for.
    pub role: Role,
    /// The volume it is a snapshot of; none for the template.
    pub parent: Option<VolumeId>,
    /// What is built on the parent; names the build's lock.
    pub build: String,
    /// Size of the volume in bytes.
    pub bytes: u64,
    /// Its state with the state's facts.
    pub state: VolumeState,
    /// Why it is never built on or handed out again; none: nothing was found wrong with it.
    pub condemned: Option<String>,
}

impl Volume {
    /// Whether its layer was written into an image: only then there is a digest of its blocks.
    pub fn is_image(&self) -> bool {
        match &self.state {
            VolumeState::Sealed(seal) => seal.blocks.is_some(),
            VolumeState::Building | VolumeState::Deleting => false,
        }
    }
}

/// A blob that was read to its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Blob {
    /// sha256 of the bytes as they came.
    pub digest: Digest,
    /// sha256 of the plain tar in them.
    pub diff: Digest,
    /// Bytes as they came.
    pub size: u64,
    /// Bytes of the plain tar.
    pub diff_size: u64,
}

/// What names a blob before it is read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Source {
    /// The server, in canonical form.
    pub endpoint: String,
    /// The bucket.
    pub bucket: String,
    /// The entity tag as the server gave it.
    pub etag: String,
    /// Bytes.
    pub size: u64,
}

/// An image: its layers, all sealed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Image {
    /// `s3://bucket/prefix/`, or one object.
    pub reference: String,
    /// The server it came from.
    pub endpoint: String,
    /// The chain id of the whole stack.
    pub chain: Digest,
    /// From the lowest up.
    pub layers: Vec<ImageLayer>,
    /// Whether it is kept whatever room is needed.
    pub pinned: bool,
    /// The history's number when it was last asked for: the order of use.
    pub used: u64,
}

/// One layer of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ImageLayer {
    /// The object's key.
    pub key: String,
    /// Its ETag, where the server has one.
    pub etag: Option<String>,
    /// Bytes as stored in the bucket.
    pub size: u64,
    /// sha256 of the blob.
    pub digest: Digest,
    /// The sealed volume that has this layer on top.
    pub volume: VolumeId,
}

/// A writable snapshot of an image's top layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Activation {
    /// Chosen by the caller; the device's name.
    pub name: String,
    /// The image that was asked for.
    pub reference: String,
    /// The sealed volume it is a snapshot of.
    pub origin: VolumeId,
    /// The thin id.
    pub id: VolumeId,
    /// Size in bytes.
    pub bytes: u64,
    /// Its state.
    pub state: ActivationState,
    /// The boot of the kernel in which its device was last seen up; none where it was taken down
    /// since, and where an older program made the row.
    pub boot: Option<String>,
    /// Whether it was up when the host went down, and nobody has said since that its file system is
    /// in order.
    pub unchecked: bool,
    /// What becomes of it as soon as nobody has its device open.
    pub when_closed: Option<WhenClosed>,
    /// The server that its image came from; none where an older program made the row, or a rebuild.
    pub endpoint: Option<String>,
    /// For how long it is kept; none: until somebody removes it.
    pub ttl: Option<Ttl>,
    /// Whether its device refuses writes.
    pub read_only: bool,
    /// Whether its file system was made without a journal.
    pub no_journal: bool,
    /// The name that its device or link may still have, from before it was renamed.
    pub former: Option<String>,
}

/// For how long an activation is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ttl {
    /// Seconds.
    pub seconds: u64,
    /// Since when they count: wall clock, milliseconds since 1970 UTC.
    pub from_ms: i64,
}

/// What becomes of an activation as soon as nobody has its device open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WhenClosed {
    /// It is removed.
    Rm,
    /// Its device is taken down, and what was written is kept.
    Deactivate,
}

impl WhenClosed {
    /// The word in the table: that of the command that wished it.
    pub fn word(self) -> &'static str {
        match self {
            WhenClosed::Rm => "rm",
            WhenClosed::Deactivate => "deactivate",
        }
    }

    fn from_word(word: &str) -> Option<WhenClosed> {
        [WhenClosed::Rm, WhenClosed::Deactivate].into_iter().find(|wish| wish.word() == word)
    }
}

/// One line of history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Grows by one or more with each event.
    pub seq: u64,
    /// Wall clock, milliseconds since 1970 UTC.
    pub at_ms: i64,
    /// Which row.
    pub subject: String,
    /// The state before; none when the row is new.
    pub from: Option<String>,
    /// The state after; none when the row is gone.
    pub to: Option<String>,
    /// More, for people.
    pub detail: String,
}

/// Columns of `volumes` in the order [`volume`] reads them.
pub(crate) const VOLUME: &str = "id, role, parent, build, bytes, state, ifnull(sealed_chain, chain), diff, \
                                 blob, tree, own_bytes, entries, content_bytes, condemned, blocks";

/// Columns of `activations` in the order [`activation`] reads them.
pub(crate) const ACTIVATION: &str = "name, reference, origin, id, bytes, state, boot, unchecked, \
                                     when_closed, endpoint, ttl_s, ttl_from_ms, read_only, former, \
                                     no_journal";

pub(crate) fn volume(row: &Row<'_>) -> Result<Volume, Error> {
    let id: VolumeId = get(row, 0, "volume")?;
    let subject = format!("volume {id}");
    let role: String = get(row, 1, &subject)?;
    let role = match role.as_str() {
        "template" => Role::Template,
        "layer" => Role::Layer,
        other => return Err(corrupt(&subject, "role", other)),
    };
    let word: String = get(row, 5, &subject)?;
    let state = match word.as_str() {
        "building" => VolumeState::Building,
        "deleting" => VolumeState::Deleting,
        "sealed" => VolumeState::Sealed(Seal {
            chain: digest(row, 6, &subject)?,
            diff: digest(row, 7, &subject)?,
            blob: digest(row, 8, &subject)?,
            tree: digest(row, 9, &subject)?,
            blocks: digest(row, 14, &subject)?,
            own_bytes: get(row, 10, &subject)?,
            entries: get::<Option<u64>>(row, 11, &subject)?.unwrap_or(0),
            content_bytes: get::<Option<u64>>(row, 12, &subject)?.unwrap_or(0),
        }),
        other => return Err(corrupt(&subject, "state", other)),
    };
    Ok(Volume {
        id,
        role,
        parent: get(row, 2, &subject)?,
        build: get(row, 3, &subject)?,
        bytes: get(row, 4, &subject)?,
        state,
        condemned: get(row, 13, &subject)?,
    })
}

pub(crate) fn activation(row: &Row<'_>) -> Result<Activation, Error> {
    let name: String = get(row, 0, "activation")?;
    let subject = format!("activation {name}");
    let word: String = get(row, 5, &subject)?;
    let state =
        ActivationState::from_word(&word).ok_or_else(|| corrupt(&subject, "state", &word))?;
    let when_closed = get::<Option<String>>(row, 8, &subject)?;
    let when_closed = when_closed.map(|word| {
        WhenClosed::from_word(&word).ok_or_else(|| corrupt(&subject, "when_closed", &word))
    });
    Ok(Activation {
        reference: get(row, 1, &subject)?,
        origin: get(row, 2, &subject)?,
        id: get(row, 3, &subject)?,
        bytes: get(row, 4, &subject)?,
        state,
        boot: get(row, 6, &subject)?,
        unchecked: get(row, 7, &subject)?,
        when_closed: when_closed.transpose()?,
        endpoint: get(row, 9, &subject)?,
        ttl: get::<Option<u64>>(row, 10, &subject)?
            .zip(get::<Option<i64>>(row, 11, &subject)?)
            .map(|(seconds, from_ms)| Ttl { seconds, from_ms }),
        read_only: get(row, 12, &subject)?,
        former: get(row, 13, &subject)?,
        no_journal: get(row, 14, &subject)?,
        name,
    })
}

pub(crate) fn get<T: rusqlite::types::FromSql>(
    row: &Row<'_>,
    column: usize,
    subject: &str,
) -> Result<T, Error> {
    row.get(column)
        .map_err(|source| Error::Corrupt { subject: subject.into(), what: source.to_string() })
}

pub(crate) fn digest(row: &Row<'_>, column: usize, subject: &str) -> Result<Option<Digest>, Error> {
    match get::<Option<String>>(row, column, subject)? {
        None => Ok(None),
        Some(hex) => match Digest::from_hex(&hex) {
            Some(digest) => Ok(Some(digest)),
            None => Err(corrupt(subject, "digest", &hex)),
        },
    }
}

fn corrupt(subject: &str, column: &str, value: &str) -> Error {
    Error::Corrupt { subject: subject.into(), what: format!("{column} {:?}", beginning(value)) }
}
