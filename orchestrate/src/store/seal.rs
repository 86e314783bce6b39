//! What a sealed volume says of itself, so that a lost registry can be made again from the store.
//!
//! A thin volume has it in its first 1024 bytes, which ext4 leaves to boot loaders (kernel's
//! ext4/super.rst); a directory store beside the tree. A snapshot inherits its origin's seal record, so a
//! seal record counts only where its id is the volume's own. And since whoever has an activation may write
//! there too, a seal record counts only with its seal: an HMAC under a key that is in the registry and in
//! the template's seal record, and in no volume that is ever handed out.
//!
//! ```text
//!   0  16  magic "veneer-sealed-3\n"
//!  16   4  length of the text, little-endian
//!  20  32  HMAC-SHA256 of what follows up to the end of the text, and of the mark; of the template's own,
//!          under its own key
//!  52 160  digests of a layer: blob, diff id, chain id, tree, blocks; zeros where there is none
//! 212      the text, JSON; then zeros
//! 896 128  the mark of the writer of the image, which is unpack's
//! ```
//!
//! A volume that no writer has made, and a directory store, have the older form: magic "veneer-sealed-1\n", or
//! "veneer-sealed-2\n" where the record names a manifest; the text from byte 52 to 1023, with its digests in it;
//! the HMAC is that of the text.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use hmac::{Hmac, Mac as _};
use registry::{Digest, Role, VolumeId};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use crate::error::Error;

/// Bytes of a seal record, with the mark where there is one.
pub(crate) const RECORD_BYTES: usize = 1024;

/// The mark of an image's writer, which a seal record vouches for.
pub(crate) type Mark = [u8; 128];

const MAGIC: &[u8; 16] = b"veneer-sealed-1\n";
/// Of one that names a manifest: programs that do not know of those take it for none.
const MAGIC_2: &[u8; 16] = b"veneer-sealed-2\n";
/// Of one that vouches for the mark behind it.
const MAGIC_3: &[u8; 16] = b"veneer-sealed-3\n";
const TEXT_AT: usize = 52;
const TEXT_MAX: usize = RECORD_BYTES - TEXT_AT;
const MARK_AT: usize = RECORD_BYTES - size_of::<Mark>();
/// What the third form has in front of its text, in this order.
const DIGESTS: [&str; 5] = ["blob", "diff", "chain", "tree", "blocks"];
const DIGESTS_BYTES: usize = 32 * DIGESTS.len();

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
    pub(crate) id: VolumeId,
    /// What it is for.
    pub(crate) role: Role,
    /// The volume it is a snapshot of; none for the template.
    pub(crate) parent: Option<VolumeId>,
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
    /// Digest over the blocks of the device, where it is an image of the writer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) blocks: Option<Digest>,
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
    [MAGIC, MAGIC_2, MAGIC_3, SERIALS_MAGIC].iter().any(|magic| bytes.starts_with(*magic))
}

impl SealRecord {
    /// The seal record as it stands on a volume, up to the writer's `mark` where there is one; else
    /// [`RECORD_BYTES`] long. What does not fit of its origin is left out.
    pub(crate) fn seal(&self, key: &Key, mark: Option<&Mark>) -> Vec<u8> {
        let without_etag =
            self.origin.clone().map(|origin| Origin { etag: None, md5: None, ..origin });
        let shorter = [self.origin.clone(), without_etag, None]
            .map(|origin| SealRecord { origin, ..self.clone() });
        let form = |record: &SealRecord| match mark {
            Some(mark) => record.before_mark(key, mark),
            None => record.alone(key),
        };
        // Without an origin it always fits, as a test holds.
        shorter.iter().find_map(form).unwrap_or_default()
    }

    /// The older form; none where it does not fit.
    fn alone(&self, key: &Key) -> Option<Vec<u8>> {
        let json = serde_json::to_vec(self).ok().filter(|json| json.len() <= TEXT_MAX)?;
        let magic = match self.origin.as_ref().and_then(|origin| origin.manifest) {
            Some(_) => MAGIC_2,
            None => MAGIC,
        };
        let length = u32::try_from(json.len()).ok()?.to_le_bytes();
        let mut bytes = [&magic[..], &length, &mac(key, &json), &json].concat();
        bytes.resize(RECORD_BYTES, 0);
        Some(bytes)
    }

    /// The third form; none where it does not fit.
    fn before_mark(&self, key: &Key, mark: &Mark) -> Option<Vec<u8>> {
        let mut text = serde_json::to_value(self).ok()?;
        let mut body = vec![0; DIGESTS_BYTES];
        if let Some(layer) = text.get_mut("layer").and_then(serde_json::Value::as_object_mut) {
            for (name, to) in DIGESTS.iter().zip(body.chunks_exact_mut(32)) {
                // A digest that is not known stays in the text, as null.
                let digest = layer.get(*name).cloned().map(serde_json::from_value::<Digest>);
                if let Some(Ok(digest)) = digest {
                    to.copy_from_slice(&digest.0);
                    layer.remove(*name);
                }
            }
        }
        let json = serde_json::to_vec(&text).ok()?;
        body.extend(&json);
        if TEXT_AT + body.len() > MARK_AT {
            return None;
        }
        let length = u32::try_from(json.len()).ok()?.to_le_bytes();
        let seal = mac(key, &[&body[..], mark].concat());
        let mut bytes = [&MAGIC_3[..], &length, &seal, &body].concat();
        bytes.resize(MARK_AT, 0);
        Some(bytes)
    }

    /// Reads a seal record and checks its seal. Without a key only the template's counts, which has its own.
    /// None for whatever is not a whole seal record with a good seal.
    pub(crate) fn read(bytes: &[u8], key: Option<&Key>) -> Option<SealRecord> {
        let vouching = bytes.starts_with(MAGIC_3);
        let magics = [MAGIC, MAGIC_2, MAGIC_3];
        let rest = magics.iter().find_map(|magic| bytes.strip_prefix(*magic))?;
        let (length, rest) = rest.split_at_checked(4)?;
        let (seal, rest) = rest.split_at_checked(32)?;
        let length = usize::try_from(u32::from_le_bytes(length.try_into().ok()?)).ok()?;
        let (seal_record, sealed) = match vouching {
            false => {
                let json = rest.get(..length)?;
                (serde_json::from_slice::<SealRecord>(json).ok()?, json.to_vec())
            }
            true => {
                let body = rest.get(..DIGESTS_BYTES.checked_add(length)?)?;
                let mark = bytes.get(MARK_AT..RECORD_BYTES)?;
                (from_body(body)?, [body, mark].concat())
            }
        };
        let own = match (key, seal_record.role) {
            (Some(key), _) => *key,
            (None, Role::Template) => seal_record.own_key()?,
            (None, Role::Layer) => return None,
        };
        is_mac(&own, &sealed, seal).then_some(seal_record)
    }

    /// Whether there is a good record in these bytes that is the volume's own, and vouches for the mark behind it.
    pub(crate) fn vouches(bytes: &[u8], key: Option<&Key>, volume: VolumeId) -> bool {
        let record = key.and_then(|key| SealRecord::read(bytes, Some(key)));
        bytes.starts_with(MAGIC_3) && record.is_some_and(|record| record.id == volume)
    }

    /// The key in the template's seal record.
    pub(crate) fn own_key(&self) -> Option<Key> {
        Some(Key(Digest::from_hex(self.key.as_deref()?)?.0))
    }
}

/// Puts the digests back into the text.
fn from_body(body: &[u8]) -> Option<SealRecord> {
    let (digests, json) = body.split_at_checked(DIGESTS_BYTES)?;
    let mut text: serde_json::Value = serde_json::from_slice(json).ok()?;
    if let Some(layer) = text.get_mut("layer").and_then(serde_json::Value::as_object_mut) {
        let known = DIGESTS.iter().zip(digests.as_chunks::<32>().0);
        for (name, digest) in known.filter(|(_, digest)| **digest != [0; 32]) {
            layer.entry(*name).or_insert(serde_json::to_value(Digest(*digest)).ok()?);
        }
    }
    serde_json::from_value(text).ok()
}

/// The mark in the first bytes of a device; none where no writer has made what is on it.
pub(crate) fn mark(bytes: &[u8]) -> Option<&Mark> {
    if !unpack::is_marked(bytes) {
        return None;
    }
    bytes.get(MARK_AT..RECORD_BYTES)?.first_chunk()
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
            id: VolumeId::MAX,
            role: Role::Layer,
            parent: Some(VolumeId::new(16_777_214)),
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
                blocks: Some(Digest([5; 32])),
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

    const MARK: Mark = [0x5a; 128];

    /// As they stand on a device, the mark behind the record.
    fn with_mark(record: &SealRecord, key: &Key) -> Vec<u8> {
        [&record.seal(key, Some(&MARK))[..], &MARK].concat()
    }

    #[test]
    fn a_record_reads_back_and_what_is_too_long_of_its_origin_is_left_out() {
        let usual = seal_record("images/golang/5.tar");
        let forms: [fn(&SealRecord) -> Vec<u8>; 2] =
            [|record| record.seal(&KEY, None), |record| with_mark(record, &KEY)];
        for form in forms {
            let sealed = form(&usual);
            assert_eq!(sealed.len(), RECORD_BYTES);
            assert_eq!(SealRecord::read(&sealed, Some(&KEY)), Some(usual.clone()));
            let long = form(&seal_record(&"k".repeat(1024)));
            let bare = SealRecord { origin: None, ..usual.clone() };
            assert_eq!(SealRecord::read(&long, Some(&KEY)), Some(bare));
            let mut longer = seal_record("k");
            while SealRecord::read(&form(&longer), Some(&KEY)) == Some(longer.clone()) {
                longer.origin.as_mut().unwrap().key.push('k');
            }
            let read = SealRecord::read(&form(&longer), Some(&KEY)).unwrap();
            let origin =
                longer.origin.clone().map(|origin| Origin { etag: None, md5: None, ..origin });
            assert_eq!(read, SealRecord { origin, ..longer });
        }
        let unknown = SealRecord {
            layer: usual.layer.clone().map(|layer| Layer { tree: None, blocks: None, ..layer }),
            ..usual
        };
        assert_eq!(SealRecord::read(&with_mark(&unknown, &KEY), Some(&KEY)), Some(unknown));
    }

    #[test]
    fn nothing_counts_that_was_not_sealed_here() {
        let record = seal_record("k");
        for sealed in [record.seal(&KEY, None), with_mark(&record, &KEY)] {
            assert_eq!(SealRecord::read(&sealed, Some(&Key([8; 32]))), None);
            assert_eq!(SealRecord::read(&sealed, None), None, "only the template has its own key");
            for at in [0, 14, 16, 20, 51, 60, 200] {
                let mut forged = sealed.clone();
                forged[at] ^= 1;
                assert_eq!(SealRecord::read(&forged, Some(&KEY)), None, "byte {at}");
            }
            for cut in [0, 15, 19, 51, 100] {
                assert_eq!(SealRecord::read(&sealed[..cut], Some(&KEY)), None);
            }
        }
        assert_eq!(SealRecord::read(&[0; RECORD_BYTES], Some(&KEY)), None);
    }

    /// Whoever changes a byte of the mark has no record any more; without one behind it there is none either.
    #[test]
    fn a_record_vouches_for_every_byte_of_the_mark() {
        let sealed = with_mark(&seal_record("k"), &KEY);
        for at in MARK_AT..RECORD_BYTES {
            let mut forged = sealed.clone();
            forged[at] ^= 1;
            assert_eq!(SealRecord::read(&forged, Some(&KEY)), None, "byte {at}");
        }
        assert_eq!(SealRecord::read(&sealed[..MARK_AT], Some(&KEY)), None);
        let older = seal_record("k").seal(&KEY, None);
        let id = seal_record("k").id;
        assert!(SealRecord::vouches(&sealed, Some(&KEY), id));
        assert!(
            !SealRecord::vouches(&sealed, Some(&KEY), VolumeId::new(id.get() - 1)),
            "a snapshot has that of its origin"
        );
        assert!(
            !SealRecord::vouches(&sealed, None, id) && !SealRecord::vouches(&older, Some(&KEY), id)
        );
        assert!(is_record(&sealed) && is_record(&older));
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
        for sealed in [blank.seal(&KEY, None), with_mark(&blank, &KEY)] {
            let read = SealRecord::read(&sealed, None).unwrap();
            assert_eq!(read.own_key(), Some(KEY));
        }
        for wrong in [blank.seal(&Key([9; 32]), None), with_mark(&blank, &Key([9; 32]))] {
            assert_eq!(SealRecord::read(&wrong, None), None);
        }
    }
}
