//! Image indexes: a layout's `index.json`, and lists of platforms (image-spec, image-index.md and
//! image-layout.md).

use serde::Deserialize;

use crate::image::cosign::marks::is_signatures;
use crate::image::descriptor::{Descriptor, Media, Raw};
use crate::image::digest::Digest;
use crate::image::error::{Document, Error};
use crate::image::json::{self, Few};
use crate::image::platform::Platform;

/// Entries of an index. A list of platforms has a dozen; a layout of many tags some hundred.
pub(super) const ENTRIES_MAX: usize = 4096;

/// Names that a message has.
const SHOWN_MAX: usize = 8;

/// Which of the images of a layout.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Pick {
    /// The only one.
    Only,
    /// The one of this name, in the very spelling.
    Name(String),
    /// The manifest or index of this digest, listed or not.
    Digest(Digest),
}

/// All that an index or a manifest needs to be whole, whatever its kind: what of it is no image, too.
///
/// # Errors
/// [`Error::Json`], [`Error::Field`], [`Error::Digest`], [`Error::TooMany`].
pub fn named(bytes: &[u8]) -> Result<Vec<Descriptor>, Error> {
    #[derive(Deserialize)]
    struct Parts {
        #[serde(default)]
        manifests: Option<Vec<Raw>>,
        #[serde(default)]
        layers: Option<Vec<Raw>>,
        #[serde(default)]
        config: Option<Raw>,
    }
    let document = Document::Manifest;
    let parts: Parts = json::read(document, bytes)?;
    let lists = [parts.manifests, parts.layers, parts.config.map(|config| vec![config])];
    let all: Vec<Raw> = lists.into_iter().flatten().flatten().collect();
    if all.len() > ENTRIES_MAX {
        let (got, max) = (all.len() as u64, ENTRIES_MAX as u64);
        return Err(Error::TooMany { document, what: "descriptors", got, max });
    }
    all.iter().map(|raw| raw.read(document)).collect()
}

/// Manifests, and further indexes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    entries: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Text {
    #[serde(rename = "schemaVersion")]
    schema_version: Option<i64>,
    #[serde(default, rename = "mediaType")]
    media_type: Option<String>,
    #[serde(default)]
    manifests: Option<Few<Raw, ENTRIES_MAX>>,
    #[serde(default)]
    layers: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    config: Option<serde::de::IgnoredAny>,
}

impl Index {
    /// One of these entries.
    pub fn of(entries: Vec<Descriptor>) -> Index {
        Index { entries }
    }

    /// Reads an index. What is of an unknown type or cannot be checked is passed over.
    ///
    /// # Errors
    /// [`Error::Json`], [`Error::Field`], [`Error::TooMany`].
    pub fn read(bytes: &[u8]) -> Result<Index, Error> {
        let document = Document::Index;
        let text: Text = json::read(document, bytes)?;
        let field = |field, got: String, why| Error::Field { document, field, got, why };
        if text.schema_version != Some(2) {
            let got = text.schema_version.map_or("none".to_owned(), |version| version.to_string());
            return Err(field("schemaVersion", got, "it has to be 2"));
        }
        if text.layers.is_some() || text.config.is_some() {
            let why = "a document that is both, index and manifest, is nobody's image";
            return Err(field("layers or config", "beside manifests".to_owned(), why));
        }
        if let Some(own) = text.media_type.filter(|own| Media::of(own) != Media::Index) {
            let why = "its place says that it is an index";
            return Err(field("mediaType", own, why));
        }
        let raw = text.manifests.unwrap_or_default().all(document, "entries")?;
        let usable = raw.iter().filter(|raw| matches!(raw.media(), Media::Index | Media::Manifest));
        // What stands beside an image as its signature is no image.
        let usable = usable.filter(|raw| !is_signatures(raw));
        let entries = usable.filter_map(|raw| raw.read(document).ok());
        let entries = entries.filter(|entry| {
            !entry.attestation && !entry.platform.as_ref().is_some_and(Platform::is_unknown)
        });
        Ok(Index { entries: entries.collect() })
    }

    /// The entries of a layout that are meant, with the platform to choose between them still.
    ///
    /// # Errors
    /// [`Error::Empty`], [`Error::NoName`], [`Error::Several`].
    pub fn pick(&self, pick: &Pick) -> Result<Index, Error> {
        let document = Document::Index;
        if self.entries.is_empty() && !matches!(pick, Pick::Digest(_)) {
            return Err(Error::Empty { document });
        }
        let entries: Vec<Descriptor> = match pick {
            Pick::Only => match self.entries.as_slice() {
                [first, rest @ ..] if rest.iter().all(|entry| is_one_image(first, entry)) => {
                    self.entries.clone()
                }
                _ => return Err(Error::Several { document, have: self.names() }),
            },
            Pick::Name(name) => {
                self.entries.iter().filter(|entry| entry.names.contains(name)).cloned().collect()
            }
            Pick::Digest(digest) => {
                self.entries.iter().filter(|entry| entry.digest == *digest).cloned().collect()
            }
        };
        match (entries.is_empty(), pick) {
            (true, Pick::Name(name)) => {
                Err(Error::NoName { document, name: name.clone(), have: self.names() })
            }
            (true, Pick::Digest(digest)) => {
                Err(Error::NoName { document, name: digest.to_string(), have: self.names() })
            }
            (true, Pick::Only) => Err(Error::Empty { document }),
            (false, _) => Ok(Index { entries }),
        }
    }

    /// What may be for this machine, the best first; among equals the first (image-spec). What names no
    /// platform comes last: its config decides.
    ///
    /// # Errors
    /// [`Error::Empty`], [`Error::NoPlatform`].
    pub fn candidates(&self, wanted: &Platform) -> Result<Vec<&Descriptor>, Error> {
        if self.entries.is_empty() {
            return Err(Error::Empty { document: Document::Index });
        }
        let fit = |entry: &Descriptor| match &entry.platform {
            Some(platform) if !platform.architecture.is_empty() => platform.fit(wanted),
            Some(_) | None => Some(u32::MAX),
        };
        let mut found: Vec<_> =
            self.entries.iter().filter_map(|entry| Some((fit(entry)?, entry))).collect();
        found.sort_by_key(|(fit, _)| *fit);
        match found.is_empty() {
            false => Ok(found.into_iter().map(|(_, entry)| entry).collect()),
            true => {
                let platforms = self.entries.iter().filter_map(|entry| entry.platform.as_ref());
                let have = platforms.take(SHOWN_MAX).map(Platform::to_string).collect();
                Err(Error::NoPlatform { wanted: wanted.to_string(), have })
            }
        }
    }

    /// All entries that can be used.
    pub fn entries(&self) -> &[Descriptor] {
        &self.entries
    }

    fn names(&self) -> Vec<String> {
        let names = self.entries.iter().filter_map(|entry| entry.names.first());
        names.take(SHOWN_MAX).cloned().collect()
    }
}

/// Which document these bytes are that a digest names: an index or a manifest, by their own words.
///
/// # Errors
/// [`Error::Json`], [`Error::TooLarge`].
pub fn told(bytes: &[u8]) -> Result<Media, Error> {
    #[derive(Deserialize)]
    struct Head {
        #[serde(default, rename = "mediaType")]
        media_type: Option<String>,
        #[serde(default)]
        manifests: Option<serde::de::IgnoredAny>,
    }
    let head: Head = json::read(Document::Manifest, bytes)?;
    Ok(match (head.media_type, head.manifests) {
        (Some(media_type), _) => Media::of(&media_type),
        (None, Some(_)) => Media::Index,
        (None, None) => Media::Manifest,
    })
}

/// Two entries of one name, or the same manifest twice.
fn is_one_image(a: &Descriptor, b: &Descriptor) -> bool {
    a.digest == b.digest || (!a.names.is_empty() && a.names == b.names)
}

/// The types that a registry is asked for, all of them always: one that is left out is a manifest that is
/// not found, or another one in its place.
pub const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.docker.distribution.manifest.v2+json";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::descriptor::types;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn entry(hex: &str, rest: &str) -> String {
        format!(r#"{{"mediaType":"{}","digest":"sha256:{hex}","size":7{rest}}}"#, types::MANIFEST)
    }

    fn index(entries: &[String]) -> Index {
        let text = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(","));
        Index::read(text.as_bytes()).unwrap()
    }

    fn other(n: u8) -> String {
        format!("{n:02x}").repeat(32)
    }

    #[test]
    fn all_four_types_are_asked_for() {
        for media in [types::INDEX, types::LIST, types::MANIFEST, types::SCHEMA2] {
            assert!(ACCEPT.split(", ").any(|one| one == media), "{media}");
        }
    }

    #[test]
    fn what_is_no_index_is_refused() {
        for text in [
            "",
            "[]",
            r#"{"manifests":[]}"#,
            r#"{"schemaVersion":1,"manifests":[]}"#,
            r#"{"schemaVersion":2,"manifests":[],"layers":[]}"#,
            r#"{"schemaVersion":2,"manifests":[],"config":{}}"#,
            r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json"}"#,
            r#"{"schemaVersion":2,"schemaVersion":2}"#,
        ] {
            assert!(Index::read(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn null_is_empty_and_what_is_unknown_is_passed_over() {
        let empty = Index::read(br#"{"schemaVersion":2,"manifests":null}"#).unwrap();
        assert_eq!(empty.pick(&Pick::Only), Err(Error::Empty { document: Document::Index }));
        let entries = [
            r#"{"mediaType":"text/plain","digest":"sha256:x","size":-1}"#.to_owned(),
            entry(HEX, r#","platform":{"os":"unknown","architecture":"unknown"}"#),
            entry(HEX, r#","annotations":{"vnd.docker.reference.type":"attestation-manifest"}"#),
            entry(&format!("../../{}", &HEX[6..]), ""),
            entry(HEX, r#","annotations":null,"platform":null"#),
        ];
        assert_eq!(index(&entries).entries().len(), 1);
    }

    #[test]
    fn as_many_entries_as_fit_into_a_document_are_counted_and_not_kept() {
        let many = 4 << 18;
        let text = format!(r#"{{"schemaVersion":2,"manifests":[{{}}{}]}}"#, ",{}".repeat(many));
        let refused = Index::read(text.as_bytes()).unwrap_err();
        let got = many as u64 + 1;
        assert!(
            matches!(refused, Error::TooMany { got: n, max: 4096, .. } if n == got),
            "{refused}"
        );
        let text = format!(r#"{{"schemaVersion":2,"manifests":[{{}}{}]}}"#, ",{}".repeat(4095));
        assert!(Index::read(text.as_bytes()).unwrap().entries().is_empty());
    }

    #[test]
    fn a_name_is_either_annotation_in_its_very_spelling() {
        let named = |hex: &str, name: &str, value: &str| {
            entry(hex, &format!(r#","annotations":{{"{name}":"{value}"}}"#))
        };
        let index = index(&[
            named(&other(1), NAMED, "v1"),
            named(&other(2), CONTAINERD, "docker.io/library/a:v1"),
            entry(&other(3), ""),
        ]);
        let pick = |name: &str| index.pick(&Pick::Name(name.to_owned()));
        assert_eq!(pick("v1").unwrap().entries()[0].digest.hex(), other(1));
        assert_eq!(pick("docker.io/library/a:v1").unwrap().entries()[0].digest.hex(), other(2));
        assert!(matches!(pick("V1"), Err(Error::NoName { have, .. }) if have.len() == 2));
        assert!(matches!(index.pick(&Pick::Only), Err(Error::Several { .. })));
        let by_digest =
            index.pick(&Pick::Digest(Digest::parse(&format!("sha256:{}", other(3))).unwrap()));
        assert_eq!(by_digest.unwrap().entries().len(), 1);
    }

    const NAMED: &str = "org.opencontainers.image.ref.name";
    const CONTAINERD: &str = "io.containerd.image.name";

    #[test]
    fn of_several_with_one_tag_the_platform_chooses() {
        let tagged = |hex: &str, arch: &str| {
            entry(
                hex,
                &format!(
                    r#","annotations":{{"{NAMED}":"v1"}},"platform":{{"os":"linux","architecture":"{arch}"}}"#
                ),
            )
        };
        let index = index(&[tagged(&other(1), "arm64"), tagged(&other(2), "amd64")]);
        let amd64 = "linux/amd64".parse().unwrap();
        for pick in [Pick::Only, Pick::Name("v1".into())] {
            let found = index.pick(&pick).unwrap();
            assert_eq!(found.candidates(&amd64).unwrap()[0].digest.hex(), other(2));
        }
        let riscv = "linux/riscv64".parse().unwrap();
        assert!(
            matches!(index.candidates(&riscv), Err(Error::NoPlatform { have, .. }) if have.len() == 2)
        );
    }

    #[test]
    fn what_names_no_platform_comes_last() {
        let index = index(&[
            entry(&other(1), ""),
            entry(&other(2), r#","platform":{"os":"linux","architecture":"amd64"}"#),
        ]);
        let found = index.candidates(&"linux/amd64".parse().unwrap()).unwrap();
        assert_eq!(found.iter().map(|d| d.digest.hex()).collect::<Vec<_>>(), [other(2), other(1)]);
    }
}
