//! The form in which a store keeps the believed serials of catalogs.

use registry::{CatalogFact, VolumeId};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::store::seal::{self, Key, SERIALS_MAGIC};
use crate::store::seam::COPY_BYTES;

pub(crate) const TEXT_AT: usize = 52;

/// What the store keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Serials {
    /// The volume that it is on, so that a copy elsewhere counts for nothing; none: a file.
    pub(crate) volume: Option<VolumeId>,
    /// Grows with each copy: the larger is the newer.
    pub(crate) generation: u64,
    /// The newest catalog of each place, the one that was believed last first.
    pub(crate) catalogs: Vec<CatalogFact>,
}

impl Serials {
    /// The bytes of one copy. Of places that do not fit the one that was not asked longest goes.
    pub(crate) fn seal(&self, key: &Key) -> Result<Vec<u8>, Error> {
        let mut kept = self.clone();
        loop {
            let text = serde_json::to_vec(&kept).unwrap_or_default();
            if TEXT_AT + text.len() <= COPY_BYTES {
                let mut bytes = SERIALS_MAGIC.to_vec();
                bytes.extend(u32::try_from(text.len()).unwrap_or(0).to_le_bytes());
                bytes.extend(seal::mac(key, &[SERIALS_MAGIC, text.as_slice()].concat()));
                bytes.extend(text);
                return Ok(bytes);
            }
            if kept.catalogs.len() < 2 {
                let text =
                    format!("catalog.url is too long to be kept: at most {COPY_BYTES} bytes");
                return Err(Error::Usage(text));
            }
            kept.catalogs.pop();
        }
    }

    /// Reads one copy; none for whatever is not whole, of this store and of this volume.
    pub(crate) fn read(bytes: &[u8], key: &Key, volume: Option<VolumeId>) -> Option<Serials> {
        let rest = bytes.strip_prefix(SERIALS_MAGIC)?;
        let (length, rest) = rest.split_at_checked(4)?;
        let (seal, rest) = rest.split_at_checked(32)?;
        let length = u32::from_le_bytes(length.try_into().ok()?);
        let text = rest.get(..usize::try_from(length).ok()?)?;
        if !seal::is_mac(key, &[SERIALS_MAGIC, text].concat(), seal) {
            return None;
        }
        let found: Serials = serde_json::from_slice(text).ok()?;
        (found.volume == volume).then_some(found)
    }

    /// The newest of these copies, and which it is.
    pub(crate) fn newest(
        copies: &[Vec<u8>],
        key: &Key,
        volume: Option<VolumeId>,
    ) -> Option<(usize, Serials)> {
        let read = |(at, bytes): (usize, &Vec<u8>)| Some((at, Serials::read(bytes, key, volume)?));
        let found = copies.iter().enumerate().filter_map(read);
        found.max_by_key(|(_, serials)| serials.generation)
    }

    /// With this catalog as the last one that was believed of its place; none where that changes nothing.
    /// A serial goes back only by a `reset`.
    pub(crate) fn with(&self, fact: &CatalogFact, reset: bool) -> Option<Serials> {
        let before = self.catalogs.iter().find(|known| known.url == fact.url);
        let newer = before.is_none_or(|known| known.serial < fact.serial);
        if before == Some(fact) || !(newer || reset) {
            return None;
        }
        let others = self.catalogs.iter().filter(|known| known.url != fact.url);
        let catalogs = [fact].into_iter().chain(others).cloned().collect();
        Some(Serials { catalogs, generation: self.generation + 1, ..self.clone() })
    }
}

#[cfg(test)]
mod tests {
    use registry::Digest;

    use super::*;

    const KEY: Key = Key([7; 32]);
    const VOLUME: VolumeId = VolumeId::new(5);

    fn fact(url: &str, serial: u64) -> CatalogFact {
        CatalogFact { url: url.into(), serial, digest: Digest([1; 32]), expires_s: Some(9) }
    }

    fn of(serial: u64, generation: u64) -> Serials {
        Serials { volume: Some(VOLUME), generation, catalogs: vec![fact("s3://b/c", serial)] }
    }

    #[test]
    fn the_newer_of_two_copies_counts_and_a_torn_one_leaves_the_other() {
        let copies = [of(7, 1).seal(&KEY).unwrap(), of(8, 2).seal(&KEY).unwrap()];
        let newest = |copies: &[Vec<u8>]| {
            Serials::newest(copies, &KEY, Some(VOLUME)).map(|(at, s)| (at, s.catalogs[0].serial))
        };
        assert_eq!(newest(&copies), Some((1, 8)));
        // The next is written over the older; whatever is on disk of it, one stands.
        let next = of(9, 3).seal(&KEY).unwrap();
        for torn in 0..=next.len() {
            let mut bytes = copies[0].clone();
            bytes.resize(next.len().max(bytes.len()), 0);
            bytes[..torn].copy_from_slice(&next[..torn]);
            let found = newest(&[bytes, copies[1].clone()]).unwrap();
            assert!([(1, 8), (0, 9)].contains(&found), "{torn}: {found:?}");
            assert!(torn < next.len() || found == (0, 9));
        }
        assert_eq!(newest(&[Vec::new(), vec![0; 4096]]), None);
    }

    #[test]
    fn a_copy_counts_only_whole_under_its_key_and_on_its_volume() {
        let sealed = of(7, 1).seal(&KEY).unwrap();
        assert_eq!(Serials::read(&sealed, &KEY, Some(VOLUME)), Some(of(7, 1)));
        assert_eq!(Serials::read(&sealed, &Key([8; 32]), Some(VOLUME)), None);
        assert_eq!(Serials::read(&sealed, &KEY, Some(VolumeId::new(6))), None);
        assert_eq!(Serials::read(&sealed, &KEY, None), None);
        for at in 0..sealed.len() {
            let mut forged = sealed.clone();
            forged[at] ^= 1;
            assert_eq!(Serials::read(&forged, &KEY, Some(VOLUME)), None, "byte {at}");
            assert_eq!(Serials::read(&sealed[..at], &KEY, Some(VOLUME)), None);
        }
        // A seal record's HMAC is no word for this, nor the other way round.
        assert!(!seal::is_record(&sealed) || seal::SealRecord::read(&sealed, Some(&KEY)).is_none());
    }

    #[test]
    fn a_serial_goes_back_only_by_a_reset_and_what_does_not_fit_goes() {
        let serials = of(7, 1);
        assert_eq!(serials.with(&fact("s3://b/c", 7), false), None);
        assert_eq!(serials.with(&fact("s3://b/c", 6), false), None);
        assert_eq!(serials.with(&fact("s3://b/c", 8), false), Some(of(8, 2)));
        assert_eq!(serials.with(&fact("s3://b/c", 6), true), Some(of(6, 2)));
        let two = serials.with(&fact("s3://b/d", 1), false).unwrap();
        assert_eq!(two.catalogs, [fact("s3://b/d", 1), fact("s3://b/c", 7)]);
        let mut many = of(7, 1);
        for number in 0..1000 {
            many = many.with(&fact(&format!("s3://bucket/{number}"), number), false).unwrap();
        }
        let sealed = many.seal(&KEY).unwrap();
        assert!(sealed.len() <= COPY_BYTES);
        let read = Serials::read(&sealed, &KEY, Some(VOLUME)).unwrap();
        assert_eq!(read.catalogs[0], fact("s3://bucket/999", 999));
        let long = "x".repeat(COPY_BYTES);
        assert!(
            many.with(&fact(&long, 1), false)
                .map(|s| Serials { catalogs: s.catalogs[..1].to_vec(), ..s })
                .unwrap()
                .seal(&KEY)
                .is_err()
        );
    }
}
