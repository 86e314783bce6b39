//! What a sealed volume says of itself, so that a lost registry can be made again from the store.
//!
//! A thin volume has it in its first 1024 bytes, which ext4 leaves to boot loaders (kernel's
//! ext4/super.rst); a directory store beside the tree. A snapshot inherits its origin's seal record, so a
//! seal record counts only where its id is the volume's own. And since whoever has an activation may write
//! there too, a seal record counts only with its seal: an HMAC under a key that is in the registry and in
//! the template's seal record, and in no volume that is ever handed out.
//!
//! ```text
//!   0  16  magic "veneer-sealed-1\n"
//!  16   4  length of the text, little-endian
//!  20  32  HMAC-SHA256 of the text; of the template's own, under its own key
//!  52      the text, JSON; then zeros
//! ```

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use hmac::{Hmac, Mac as _};
use registry::{Digest, Role};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use crate::error::Error;

/// Bytes of a seal record on a volume.
pub(crate) const RECORD_BYTES: usize = 1024;

const MAGIC: &[u8; 16] = b"veneer-sealed-1\n";
/// Of one that names a manifest: programs that do not know of those take it for none.
const MAGIC_2: &[u8; 16] = b"veneer-sealed-2\n";
const TEXT_AT: usize = 52;
const TEXT_MAX: usize = RECORD_BYTES - TEXT_AT;

/// The key of a store's seals.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key(pub(crate) [u8; 32]);

impl Key {
    /// A fresh one.
    pub(crate) fn random() -> Result<Key, Error> {
        let (mut key, path) = ([0; 32], Path::new("/dev/urandom"));
        File::open(path)
            .and_then(|mut file| file.read_exact(&mut key))
            .map_err(|source| Error::Io { doing: "read", path: path.into(), source })?;
        Ok(Key(key))
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(..)")
    }
}

/// What a sealed volume says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SealRecord {
    /// The volume's own id.
    pub(crate) id: u32,
    /// What it is for.
    pub(crate) role: Role,
    /// The volume it is a snapshot of; none for the template.
    pub(crate) parent: Option<u32>,
    /// Its size, bytes.
    pub(crate) bytes: u64,
    /// The store's number when the volume was made: an id may be given again where a registry was lost, and
    /// this is not. None in the template's, and in those of older programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) made: Option<u64>,
    /// The key of this store's seals; only in the template's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<String>,
    /// What was applied; none for the template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) layer: Option<Layer>,
    /// Where it came from, where that fits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) origin: Option<Origin>,
}

/// What was applied to a layer's volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Layer {
    /// sha256 of the blob.
    pub(crate) blob: Digest,
    /// Bytes of the blob.
    pub(crate) size: u64,
    /// sha256 of the plain tar.
    pub(crate) diff: Digest,
    /// Bytes of the plain tar.
    pub(crate) diff_size: u64,
    /// Chain id of the whole stack.
    pub(crate) chain: Digest,
    /// Digest over the whole tree.
    pub(crate) tree: Option<Digest>,
    /// Entries of the layer.
    pub(crate) entries: u64,
    /// Bytes of file content in the layer.
    pub(crate) content: u64,
}

/// The object a layer was read from, and the image it was made for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Origin {
    /// The server.
    pub(crate) endpoint: String,
    /// The bucket.
    pub(crate) bucket: String,
    /// The object's key.
    pub(crate) key: String,
    /// Its entity tag.
    pub(crate) etag: Option<String>,
    /// Whether that was seen to be the MD5 of what came; none where nobody looked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) md5: Option<bool>,
    /// The image, where this is its last layer.
    pub(crate) image: Option<String>,
    /// sha256 of its manifest, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) manifest: Option<Digest>,
}

/// Whether these are the bytes of a record, whoever made it and for whichever volume; or of the believed
/// serials, which no store has without a registry.
pub(crate) fn is_record(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC) || bytes.starts_with(MAGIC_2) || bytes.starts_with(SERIALS_MAGIC)
}

impl SealRecord {
    /// The seal record as it stands on a volume: [`RECORD_BYTES`] long. What does not fit of its origin is
    /// left out.
    pub(crate) fn seal(&self, key: &Key) -> Vec<u8> {
        let text = |seal_record: &SealRecord| serde_json::to_vec(seal_record).unwrap_or_default();
        let mut json = text(self);
        let mut magic = match self.origin.as_ref().and_then(|origin| origin.manifest) {
            Some(_) => MAGIC_2,
            None => MAGIC,
        };
        if json.len() > TEXT_MAX {
            magic = MAGIC;
            json = text(&SealRecord { origin: None, ..self.clone() });
        }
        let mut bytes = magic.to_vec();
        let length = u32::try_from(json.len()).unwrap_or(0);
        bytes.extend(length.to_le_bytes());
        bytes.extend(mac(key, &json));
        bytes.extend(&json);
        bytes.resize(RECORD_BYTES, 0);
        bytes
    }

    /// Reads a seal record and checks its seal. Without a key only the template's counts, which has its own.
    /// None for whatever is not a whole seal record with a good seal.
    pub(crate) fn read(bytes: &[u8], key: Option<&Key>) -> Option<SealRecord> {
        let rest = bytes.strip_prefix(MAGIC).or_else(|| bytes.strip_prefix(MAGIC_2))?;
        let (length, rest) = rest.split_at_checked(4)?;
        let (seal, rest) = rest.split_at_checked(32)?;
        let length = u32::from_le_bytes(length.try_into().ok()?);
        let json = rest.get(..usize::try_from(length).ok()?)?;
        let seal_record: SealRecord = serde_json::from_slice(json).ok()?;
        let own = match (key, seal_record.role) {
            (Some(key), _) => *key,
            (None, Role::Template) => seal_record.own_key()?,
            (None, Role::Layer) => return None,
        };
        is_mac(&own, json, seal).then_some(seal_record)
    }

    /// The key in the template's seal record.
    pub(crate) fn own_key(&self) -> Option<Key> {
        Some(Key(Digest::from_hex(self.key.as_deref()?)?.0))
    }
}

/// The seal of a text under a key.
pub(crate) fn mac(key: &Key, text: &[u8]) -> [u8; 32] {
    hmac(key, text).finalize().into_bytes().into()
}

/// Whether that is the seal of a text under a key; takes as long wherever it differs.
pub(crate) fn is_mac(key: &Key, text: &[u8], seal: &[u8]) -> bool {
    hmac(key, text).verify_slice(seal).is_ok()
}

fn hmac(key: &Key, text: &[u8]) -> Hmac<Sha256> {
    // HMAC takes a key of any length (RFC 2104), so this is never an error.
    let mut mac = Hmac::<Sha256>::new_from_slice(&key.0).unwrap_or_else(|_| unreachable!());
    mac.update(text);
    mac
}

/// What every copy, and the volume itself, begins with.
pub(crate) const SERIALS_MAGIC: &[u8; 16] = b"veneer-serials1\n";

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key = Key([7; 32]);

    fn seal_record(key: &str) -> SealRecord {
        SealRecord {
            id: 16_777_215,
            role: Role::Layer,
            parent: Some(16_777_214),
            bytes: u64::MAX,
            made: Some(u64::MAX),
            key: None,
            layer: Some(Layer {
                blob: Digest([1; 32]),
                size: u64::MAX,
                diff: Digest([2; 32]),
                diff_size: u64::MAX,
                chain: Digest([3; 32]),
                tree: Some(Digest([4; 32])),
                entries: u64::MAX,
                content: u64::MAX,
            }),
            origin: Some(Origin {
                endpoint: "https://s3.eu-central-1.amazonaws.com".into(),
                bucket: "b".repeat(63),
                key: key.into(),
                etag: Some("\"d41d8cd98f00b204e9800998ecf8427e-9999\"".into()),
                md5: Some(false),
                image: None,
                manifest: None,
            }),
        }
    }

    #[test]
    fn a_note_reads_back_and_the_longest_fits_without_its_origin() {
        let usual = seal_record("images/golang/5.tar");
        let sealed = usual.seal(&KEY);
        assert_eq!(sealed.len(), RECORD_BYTES);
        assert_eq!(SealRecord::read(&sealed, Some(&KEY)), Some(usual.clone()));
        let long = seal_record(&"k".repeat(1024)).seal(&KEY);
        assert_eq!(SealRecord::read(&long, Some(&KEY)), Some(SealRecord { origin: None, ..usual }));
    }

    #[test]
    fn nothing_counts_that_was_not_sealed_here() {
        let sealed = seal_record("k").seal(&KEY);
        assert_eq!(SealRecord::read(&sealed, Some(&Key([8; 32]))), None);
        assert_eq!(SealRecord::read(&sealed, None), None, "only the template has its own key");
        for at in [0, 16, 20, 51, 60, 200] {
            let mut forged = sealed.clone();
            forged[at] ^= 1;
            assert_eq!(SealRecord::read(&forged, Some(&KEY)), None, "byte {at}");
        }
        for cut in [0, 15, 19, 51, 100] {
            assert_eq!(SealRecord::read(&sealed[..cut], Some(&KEY)), None);
        }
        assert_eq!(SealRecord::read(&[0; RECORD_BYTES], Some(&KEY)), None);
    }

    #[test]
    fn the_template_carries_the_key_and_is_sealed_with_it() {
        let hex = Digest(KEY.0).hex();
        let blank = SealRecord {
            role: Role::Template,
            parent: None,
            key: Some(hex),
            layer: None,
            ..seal_record("k")
        };
        let sealed = blank.seal(&KEY);
        let read = SealRecord::read(&sealed, None).unwrap();
        assert_eq!(read.own_key(), Some(KEY));
        let wrong = blank.seal(&Key([9; 32]));
        assert_eq!(SealRecord::read(&wrong, None), None);
    }
}
