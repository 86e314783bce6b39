//! The form of a catalog, versions 1 and 2. Pure: what of it is believed is decided in `verbs::catalog::believe`.
//!
//! ```text
//!   version 1   {"version": 1, "serial": 7, "images": {"images/golang/": [LAYER, ..]}}
//!   version 2   {"version": 2, "serial": 8, "expires": "2027-01-01T00:00:00Z", "images": {
//!                  "images/golang/": {"layers": [LAYER, ..], "blocks": {"CHAIN ID/GEOMETRY": "sha256:.."}},
//!                  "images/node/":   {"manifest": "sha256:..", "blocks": {..}}}}
//!   LAYER       {"key": "images/golang/1.tar", "etag": "..", "size": 1, "sha256": ".."}
//! ```
//!
//! `expires` may be left out; it is a time of RFC 3339, or seconds since 1970. A block digest is that of a
//! list of chunk digests, so that a single chunk can be checked; nothing reads `blocks` yet.

use std::collections::BTreeMap;
use std::fmt;

use registry::Digest;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::ser::SerializeMap as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

use crate::trust::keys::Distrust;
use crate::trust::moment::{moment, seconds};
use crate::trust::strict::beginning;

/// The last serial there is: far from what a row can hold, so that there is always one above.
pub const SERIAL_MAX: u64 = 1 << 62;

/// What a catalog says.
#[derive(Clone, Debug, PartialEq)]
pub struct Catalog {
    /// Of this form; 1 or 2.
    pub version: u64,
    /// Grows with each catalog.
    pub serial: u64,
    /// Seconds since 1970 after which it is too old; none: never.
    pub expires_s: Option<i64>,
    /// Images by what stands after the bucket.
    pub images: BTreeMap<String, Image>,
}

/// One image.
#[derive(Clone, Debug, PartialEq)]
pub struct Image {
    /// What it is made of.
    pub made_of: MadeOf,
    /// By chain id and geometry, the digest of a list of chunk digests. Carried along, and not read.
    pub blocks: Option<serde_json::Map<String, serde_json::Value>>,
}

/// What an image is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MadeOf {
    /// From its lowest layer up.
    Layers(Vec<Entry>),
    /// What a manifest of this digest says.
    Manifest(Digest),
}

/// One layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Its key.
    pub key: String,
    /// Its entity tag, where it is to be just this upload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// Its size, bytes.
    pub size: u64,
    /// sha256 of the object.
    pub sha256: Digest,
}

impl MadeOf {
    /// A digest over it, by which two are told apart.
    pub fn content(&self) -> Digest {
        match self {
            MadeOf::Layers(layers) => content(layers.iter().map(|entry| entry.sha256)),
            // No list of layers hashes to that.
            MadeOf::Manifest(digest) => Digest(Sha256::digest(format!("manifest {digest}")).into()),
        }
    }
}

/// The digest over a stack of these blobs, from the lowest up.
pub fn content(blobs: impl IntoIterator<Item = Digest>) -> Digest {
    let mut hash = Sha256::new();
    hash.update(b"layers");
    blobs.into_iter().for_each(|blob| hash.update(blob.0));
    Digest(hash.finalize().into())
}

impl Catalog {
    /// Reads what somebody has signed.
    ///
    /// # Errors
    /// [`Distrust::Malformed`], naming what is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Catalog, Distrust> {
        #[derive(Deserialize)]
        struct Head {
            version: Whole,
        }
        let bad = |error: serde_json::Error| Distrust::Malformed(error.to_string());
        let Head { version: Whole(version) } = serde_json::from_slice(bytes).map_err(bad)?;
        let catalog = match version {
            1 => serde_json::from_slice::<Text<Vec<Entry>>>(bytes).map_err(bad)?.into(),
            2 => serde_json::from_slice::<Text<ImageText>>(bytes).map_err(bad)?.into(),
            version => {
                let why = format!("version {version}, and 1 and 2 are what is read");
                return Err(Distrust::Malformed(why));
            }
        };
        match catalog {
            Catalog { version: 1, expires_s: Some(_), .. } => {
                Err(Distrust::Malformed("version 1 has no `expires`: sign one of version 2".into()))
            }
            catalog => Ok(catalog),
        }
    }
}

/// The text of one version, with its form of an image.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, bound(deserialize = "I: Deserialize<'de>"))]
struct Text<I> {
    version: Whole,
    serial: Whole,
    #[serde(default)]
    expires: Option<Time>,
    images: Once<I>,
}

impl<I: Into<Image>> From<Text<I>> for Catalog {
    fn from(text: Text<I>) -> Catalog {
        let images = text.images.0.into_iter().map(|(name, image)| (name, image.into()));
        Catalog {
            version: text.version.0,
            serial: text.serial.0,
            expires_s: text.expires.map(|time| time.0),
            images: images.collect(),
        }
    }
}

impl From<Vec<Entry>> for Image {
    fn from(layers: Vec<Entry>) -> Image {
        Image { made_of: MadeOf::Layers(layers), blocks: None }
    }
}

/// An image of version 2, as it is read.
struct ImageText(Image);

impl From<ImageText> for Image {
    fn from(text: ImageText) -> Image {
        text.0
    }
}

impl<'de> Deserialize<'de> for ImageText {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<ImageText, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Fields {
            #[serde(default)]
            layers: Option<Vec<Entry>>,
            #[serde(default)]
            manifest: Option<Digest>,
            #[serde(default)]
            blocks: Option<serde_json::Map<String, serde_json::Value>>,
        }
        let Fields { layers, manifest, blocks } = Fields::deserialize(from)?;
        let made_of = match (layers, manifest) {
            (Some(layers), None) => MadeOf::Layers(layers),
            (None, Some(manifest)) => MadeOf::Manifest(manifest),
            (Some(_), Some(_)) => {
                return Err(D::Error::custom(
                    "an image has either `layers` or a `manifest`, not both",
                ));
            }
            (None, None) => return Err(D::Error::custom("an image has `layers` or a `manifest`")),
        };
        Ok(ImageText(Image { made_of, blocks }))
    }
}

/// A map in which no name is there twice: of two it would be the last that counts, unseen.
struct Once<V>(BTreeMap<String, V>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Once<V> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Once<V>, D::Error> {
        struct Each<V>(std::marker::PhantomData<V>);
        impl<'de, V: Deserialize<'de>> Visitor<'de> for Each<V> {
            type Value = Once<V>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("images by name")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Once<V>, A::Error> {
                let mut all = BTreeMap::new();
                while let Some(name) = map.next_key::<String>()? {
                    if all.contains_key(&name) {
                        return Err(A::Error::custom(format!(
                            "the image {:?} is in it twice",
                            beginning(&name)
                        )));
                    }
                    let value = map.next_value().map_err(|error| {
                        A::Error::custom(format!("the image {:?}: {error}", beginning(&name)))
                    })?;
                    all.insert(name, value);
                }
                Ok(Once(all))
            }
        }
        from.deserialize_map(Each(std::marker::PhantomData))
    }
}

/// A whole number, refused in words where it is none that can be.
struct Whole(u64);

impl<'de> Deserialize<'de> for Whole {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Whole, D::Error> {
        struct Number;
        impl Number {
            fn no<E: serde::de::Error>(found: impl fmt::Display) -> E {
                E::custom(format!("{found} is no whole number from 0 to {SERIAL_MAX}"))
            }
        }
        impl Visitor<'_> for Number {
            type Value = Whole;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a whole number from 0 to {SERIAL_MAX}")
            }

            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Whole, E> {
                if number <= SERIAL_MAX { Ok(Whole(number)) } else { Err(Number::no(number)) }
            }

            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Whole, E> {
                u64::try_from(number).map(Whole).map_err(|_| Number::no(number))
            }

            fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Whole, E> {
                Err(Number::no(number))
            }
        }
        from.deserialize_any(Number)
    }
}

/// A moment, seconds since 1970.
struct Time(i64);

/// The end of the year 9999.
const TIME_MAX: i64 = 253_402_300_799;

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Time, D::Error> {
        struct Moment;
        impl Visitor<'_> for Moment {
            type Value = Time;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a time such as \"2027-01-01T00:00:00Z\", or seconds since 1970")
            }

            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Time, E> {
                let time = i64::try_from(number).ok().filter(|time| *time <= TIME_MAX);
                time.map(Time).ok_or_else(|| {
                    E::custom(format!("`expires` {number} is beyond the year 9999: it is seconds"))
                })
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Time, E> {
                seconds(text).map(Time).ok_or_else(|| {
                    E::custom(format!(
                        "`expires` {:?} is no time such as \"2027-01-01T00:00:00Z\"",
                        beginning(text)
                    ))
                })
            }
        }
        from.deserialize_any(Moment)
    }
}

impl Serialize for Catalog {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(None)?;
        map.serialize_entry("version", &self.version)?;
        map.serialize_entry("serial", &self.serial)?;
        if let Some(expires_s) = self.expires_s {
            map.serialize_entry("expires", &moment(expires_s))?;
        }
        let images: BTreeMap<&String, Shown<'_>> =
            self.images.iter().map(|(name, image)| (name, Shown(self.version, image))).collect();
        map.serialize_entry("images", &images)?;
        map.end()
    }
}

/// An image in a catalog of this version.
struct Shown<'a>(u64, &'a Image);

impl Serialize for Shown<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let Shown(version, image) = self;
        if let (1, MadeOf::Layers(layers)) = (version, &image.made_of) {
            return layers.serialize(to);
        }
        let mut map = to.serialize_map(None)?;
        match &image.made_of {
            MadeOf::Layers(layers) => map.serialize_entry("layers", layers)?,
            MadeOf::Manifest(digest) => map.serialize_entry("manifest", digest)?,
        }
        if let Some(blocks) = &image.blocks {
            map.serialize_entry("blocks", blocks)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYER: &str = r#"{"key": "a/1.tar", "size": 1, "sha256": "sha256:1111111111111111111111111111111111111111111111111111111111111111"}"#;

    fn said(text: &str) -> String {
        Catalog::parse(text.as_bytes()).expect_err(text).to_string()
    }

    #[test]
    fn both_versions_are_read_and_printed_as_they_are() {
        let one = format!(r#"{{"version":1,"serial":7,"images":{{"a/":[{LAYER}]}}}}"#);
        let digest = format!("sha256:{}", "7".repeat(64));
        let two = format!(
            r#"{{"version":2,"serial":8,"expires":"2027-01-01T00:00:00Z","images":{{"a/":{{"layers":
               [{LAYER}],"blocks":{{"c/4096":"{digest}"}}}},"b/":{{"manifest":"{digest}"}}}}}}"#
        );
        for text in [one, two] {
            let catalog = Catalog::parse(text.as_bytes()).unwrap();
            let printed = serde_json::to_string(&catalog).unwrap();
            let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
            assert_eq!(value(&printed), value(&text));
            assert_eq!(Catalog::parse(printed.as_bytes()).unwrap(), catalog);
        }
    }

    #[test]
    fn what_is_wrong_is_said_in_words() {
        let twice =
            format!(r#"{{"version":1,"serial":1,"images":{{"a/":[{LAYER}],"a\u002f":[]}}}}"#);
        assert!(said(&twice).contains("\"a/\\\" is in it twice") || said(&twice).contains("twice"));
        for serial in
            ["9223372036854775808", "18446744073709551616", "-1", "1.5", "9223372036854775807"]
        {
            let text = format!(r#"{{"version":1,"serial":{serial},"images":{{}}}}"#);
            assert!(said(&text).contains("whole number from 0 to 4611686018427387904"), "{text}");
        }
        for (text, wanted) in [
            (r#"{"version":3,"serial":1,"images":{},"more":1}"#, "version 3"),
            (r#"{"version":2,"serial":1,"images":{},"more":1}"#, "more"),
            (r#"{"version":2,"serial":1,"images":{"a/":[]}}"#, "a/"),
            (r#"{"version":2,"serial":1,"images":{"a/":{}}}"#, "`layers` or a `manifest`"),
            (r#"{"version":2,"serial":1,"serial":2,"images":{}}"#, "duplicate field"),
            (r#"{"version":2,"serial":1,"expires":"soon","images":{}}"#, "no time such as"),
            (r#"{"version":2,"serial":1,"expires":1767225600000,"images":{}}"#, "it is seconds"),
            (r#"{"version":1,"serial":1,"expires":1,"images":{}}"#, "version 1 has no `expires`"),
        ] {
            assert!(said(text).contains(wanted), "{text}: {}", said(text));
        }
    }

    #[test]
    fn moments_are_read_and_written() {
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T12:00:00Z", 951_825_600),
            ("2027-01-01T00:00:00Z", 1_798_761_600),
            ("9999-12-31T23:59:59Z", TIME_MAX),
        ] {
            assert_eq!(seconds(text), Some(expected), "{text}");
            assert_eq!(moment(expected), text);
        }
        assert_eq!(seconds("2027-01-01T01:00:00.5+01:00"), Some(1_798_761_600));
        assert_eq!(seconds("2026-12-31t23:30:00-00:30"), Some(1_798_761_600));
        for bad in [
            "",
            "2027-01-01",
            "2027-13-01T00:00:00Z",
            "2027-02-29T00:00:00Z",
            "2027-01-01T00:00:00",
            "2027-01-01T24:00:00Z",
            "2027-01-01T00:00:00.Z",
            "2027-01-01T00:00:00+1:00",
            "é027-01-01T00:00:00Z",
        ] {
            assert_eq!(seconds(bad), None, "{bad}");
        }
    }

    #[test]
    fn contents_are_told_apart() {
        let layers = |numbers: &[u8]| content(numbers.iter().map(|n| Digest([*n; 32])));
        assert_ne!(layers(&[1, 2]), layers(&[2, 1]));
        assert_ne!(layers(&[1]), MadeOf::Manifest(Digest([1; 32])).content());
    }
}
