//! A sha256 as the registry keeps it, and the chain id that is made of several.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

use crate::error::quote::beginning;

/// 32 bytes of sha256. Shown and parsed as `sha256:<64 lower-case hex digits>`, the form of the
/// OCI image spec, `descriptor.md`, "Digests".
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The 64 hex digits without the algorithm, as they stand in the tables.
    pub fn hex(&self) -> String {
        hex::encode(self.0)
    }

    /// The first 12 hex digits, for people.
    pub fn short(&self) -> String {
        self.hex()[..12].to_owned()
    }

    /// Parses exactly 64 lower-case hex digits.
    pub fn from_hex(text: &str) -> Option<Digest> {
        let mut bytes = [0; 32];
        let lower = !text.bytes().any(|digit| digit.is_ascii_uppercase());
        (lower && hex::decode_to_slice(text, &mut bytes).is_ok()).then_some(Digest(bytes))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for Digest {
    type Err = String;

    fn from_str(text: &str) -> Result<Digest, String> {
        text.strip_prefix("sha256:")
            .and_then(Digest::from_hex)
            .ok_or_else(|| format!("not a digest (sha256:<64 hex digits>): {:?}", beginning(text)))
    }
}

impl<'de> serde::Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
        let text: String = serde::Deserialize::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl serde::Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The chain id of a layer with diff id `diff` on top of the stack `parent`: the diff id itself for
/// the lowest layer, else the sha256 of `"<parent> <diff>"` in text (OCI image spec, `config.md`,
/// "Layer ChainID").
pub fn chain_id(parent: Option<Digest>, diff: Digest) -> Digest {
    match parent {
        None => diff,
        Some(parent) => Digest(Sha256::digest(format!("{parent} {diff}").as_bytes()).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_reads_what_it_writes() {
        let digest = Digest(std::array::from_fn(|i| u8::try_from(i * 7).unwrap()));
        assert_eq!(digest.to_string().parse(), Ok(digest));
    }

    #[test]
    fn a_digest_refuses_other_forms() {
        let good = Digest([0xab; 32]).to_string();
        for bad in [
            good.to_uppercase(),
            good[1..].to_owned(),
            good[..70].to_owned(),
            format!("{good}0"),
            good.replace("sha256", "sha512"),
            good.replace('a', "g"),
        ] {
            assert!(bad.parse::<Digest>().is_err(), "{bad} was taken");
        }
    }

    /// The value was computed with coreutils: `printf 'sha256:00.. sha256:11..' | sha256sum`.
    #[test]
    fn the_chain_id_is_the_one_of_the_spec() {
        let (lower, upper) = (Digest([0; 32]), Digest([0x11; 32]));
        assert_eq!(chain_id(None, lower), lower);
        assert_eq!(chain_id(Some(lower), upper).hex(), CHAIN);
    }

    const CHAIN: &str = "f94b891e05f6e37c90d87edfd5bb98a02d618a437c35f3a94b3b00e48e894631";
}
