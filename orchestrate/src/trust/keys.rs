//! Whose word counts for what an image is, and why a catalog is not believed.

use std::fmt;

use fetch::image::{Pick, RegistryRef};
use fetch::{ImageRef, Place, Reference};
use minisign_verify::{PublicKey, Signature};

use crate::trust::cosign::{Cosign, Unsigned};
use crate::trust::moment::moment;
use crate::trust::strict::beginning;

/// Where the catalog is, whose word counts, and how far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    /// `s3://bucket/key`; none: nothing is asked.
    pub url: Option<String>,
    /// minisign's public keys, each as its line or as a file that has it.
    pub keys: Vec<String>,
    /// How far a serial may be above the last one.
    pub serial_step: u64,
    /// Seconds for which a catalog that has expired still does.
    pub grace_s: u64,
    /// Seconds after which a daemon asks for it again; 0: it does not by itself.
    pub refresh_s: u64,
    /// Whether an activation is revoked, too, where its image is listed with other layers now.
    pub superseded: bool,
    /// Whether what runs and is revoked is taken down.
    pub take_down: bool,
    /// Which images a key of cosign's must have signed, whatever the catalog says.
    pub cosign: Cosign,
}

/// Why an image is not believed.
#[derive(Debug)]
pub enum Distrust {
    /// A key that is none.
    Key(String),
    /// No key has signed these bytes.
    Unsigned(String),
    /// They are no catalog.
    Malformed(String),
    /// One that is older than, or other than, what was believed.
    Older {
        /// Its serial.
        serial: u64,
        /// The serial that was believed.
        known: u64,
    },
    /// One whose serial is too far above the last one.
    Far {
        /// Its serial.
        serial: u64,
        /// The serial that was believed; 0: none.
        known: u64,
        /// The last one that would be believed.
        most: u64,
    },
    /// One that is too old for anything new.
    Expired {
        /// Its serial.
        serial: u64,
        /// Since when, seconds since 1970.
        expires_s: i64,
        /// The host's clock, seconds since 1970.
        now_s: i64,
    },
    /// An image that an activation is of, and that the catalog lists no longer.
    Revoked {
        /// The image.
        image: String,
        /// The serial of the catalog.
        serial: u64,
        /// What differs.
        why: String,
    },
    /// An image that is given by its manifest.
    Manifest {
        /// The image.
        image: String,
    },
    /// An image that a key of cosign's must have signed.
    Cosign(Box<Unsigned>),
    /// An image that is not in it, or is another one.
    Unlisted {
        /// The image.
        image: String,
        /// What differs.
        why: String,
    },
}

/// That one of these keys, of the setting `setting`, has signed these bytes.
///
/// # Errors
/// Why not.
pub(crate) fn signed(
    bytes: &[u8],
    signature: &str,
    keys: &[PublicKey],
    setting: &str,
) -> Result<(), String> {
    let signature = Signature::decode(signature).map_err(|error| error.to_string())?;
    let by = |legacy| keys.iter().any(|key| key.verify(bytes, &signature, legacy).is_ok());
    // The older form hashes nothing beforehand; nobody has to write it any more.
    match by(false) {
        true => Ok(()),
        false if by(true) => Err(format!(
            "a key of {setting} has signed these bytes in minisign's older form, which is not taken: sign them again, \
             without -l, or by a minisign before 0.10 with -H"
        )),
        false => Err(format!("no key of {setting} has signed these bytes")),
    }
}

/// The name of an image in a catalog: what stands after the bucket, so that a mirror has the same catalog; for
/// registries host, name and tag. Images of this host's files, and those that are named by a digest, have none:
/// the digest of their manifest has to be in it.
pub(crate) fn name(image: &Reference) -> Option<String> {
    match &image.place {
        Place::Numbered(ImageRef::Prefix { prefix, .. }) => Some(prefix.clone()),
        Place::Numbered(ImageRef::Object(object)) => Some(object.key.clone()),
        Place::Bucket { prefix, pick: Pick::Name(tag), .. } => Some(format!("{prefix}:{tag}")),
        Place::Bucket { prefix, pick: Pick::Only, .. } => Some(prefix.clone()),
        Place::Registry(RegistryRef { host, name, tag: Some(tag), digest: None }) => {
            Some(format!("{host}/{name}:{tag}"))
        }
        Place::Bucket { pick: Pick::Digest(_), .. }
        | Place::Registry(_)
        | Place::Layout { .. }
        | Place::Archive { .. }
        | Place::DockerArchive { .. }
        | Place::Here(_) => None,
    }
}

impl Trust {
    /// The keys, read.
    ///
    /// # Errors
    /// [`Distrust::Key`] naming the one that is none.
    pub fn public_keys(&self) -> Result<Vec<PublicKey>, Distrust> {
        let one = |text: &String| {
            let bad = |why: String| Distrust::Key(format!("{:?}: {why}", beginning(text)));
            match text.contains(['/', '.']) && std::path::Path::new(text).is_absolute() {
                true => PublicKey::from_file(text).map_err(|error| bad(error.to_string())),
                false => PublicKey::from_base64(text).map_err(|error| bad(error.to_string())),
            }
        };
        self.keys.iter().map(one).collect()
    }
}

impl fmt::Display for Distrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Distrust::Key(why) => write!(f, "catalog.keys: {why}"),
            Distrust::Unsigned(why) => {
                write!(f, "the catalog's signature is not good: {}", why.escape_debug())
            }
            Distrust::Malformed(why) => {
                write!(f, "the catalog cannot be read: {}", why.escape_debug())
            }
            Distrust::Older { serial, known } => write!(
                f,
                "the catalog has serial {serial}, and another one of serial {known} was believed before: \
                 an old one is played back, or two were signed with one serial. Sign one above \
                 {known}; if that one was a mistake, `orchestrate catalog reset --to FILE`"
            ),
            Distrust::Far { serial, known, most } => write!(
                f,
                "the catalog has serial {serial}, and after {known} none above {most} is believed \
                 (catalog.serial_step): after such a one every later catalog would be an older one. Sign \
                 it with a serial from {} to {most}; if it is meant, `orchestrate catalog reset --to FILE`",
                known.saturating_add(1)
            ),
            Distrust::Expired { serial, expires_s, now_s } => write!(
                f,
                "the catalog of serial {serial} has expired at {}, and by this host's clock it is {}: \
                 nothing new is made or activated by it. Sign a newer one; a server that keeps that back \
                 shows just this",
                moment(*expires_s),
                moment(*now_s)
            ),
            Distrust::Revoked { image, serial, why } => write!(
                f,
                "{} is revoked: {why} in the catalog of serial {serial}, and no activation of it comes up \
                 again; what was written to one is kept until `orchestrate rm`",
                image.escape_debug()
            ),
            Distrust::Manifest { image } => write!(
                f,
                "{} is given by a manifest in the catalog, which this version does not read yet: a later \
                 orchestrate does, or sign it with its layers",
                image.escape_debug()
            ),
            Distrust::Cosign(unsigned) => unsigned.fmt(f),
            Distrust::Unlisted { image, why } => {
                write!(f, "{} is not as the signed catalog has it: {}", image.escape_debug(), why)
            }
        }
    }
}
