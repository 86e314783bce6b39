//! Documents of images that are written: the `index.json` of a layout with one more image in it, and the manifest of
//! an image that came without one. What else stands in an index stays as it is.

use serde_json::{Map, Value, json};

use crate::image::descriptor::{Descriptor, FULL_NAME, NAME, types};
use crate::image::digest::Digest;
use crate::image::error::{Document, Error};
use crate::image::index::{ENTRIES_MAX, Index};
use crate::image::json::DOCUMENT_BYTES_MAX;
use crate::image::platform::Platform;

/// What a layout says of itself (image-spec, image-layout.md).
pub const LAYOUT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;

/// An entry of an index, with everything that it says.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry(Map<String, Value>);

impl Entry {
    /// One that says what a descriptor does.
    pub fn new(media_type: &str, digest: Digest, size: u64, platform: Option<&Platform>) -> Entry {
        let mut entry = Map::new();
        entry.insert("mediaType".into(), media_type.into());
        entry.insert("digest".into(), digest.to_string().into());
        entry.insert("size".into(), size.into());
        if let Some(platform) = platform {
            let mut own = json!({"os": platform.os, "architecture": platform.architecture});
            if let Some(variant) = &platform.variant {
                own["variant"] = variant.as_str().into();
            }
            entry.insert("platform".into(), own);
        }
        Entry(entry)
    }

    /// The one of an index that this descriptor was read from, as it is written there.
    pub fn of(index: &[u8], descriptor: &Descriptor) -> Entry {
        let index: Value = serde_json::from_slice(index).unwrap_or_default();
        let digest = descriptor.digest.to_string();
        let is_it = |entry: &&Value| {
            entry["digest"] == digest.as_str()
                && entry["mediaType"] == descriptor.media_type.as_str()
                && entry["size"] == descriptor.size
        };
        let found = index["manifests"].as_array().and_then(|all| all.iter().find(is_it));
        match found.and_then(Value::as_object) {
            Some(entry) => Entry(entry.clone()),
            None => {
                let Descriptor { media_type, digest, size, platform, .. } = descriptor;
                Entry::new(media_type, *digest, *size, platform.as_ref())
            }
        }
    }

    /// The same under this name and no other.
    fn named(&self, name: &str) -> Value {
        let mut entry = self.0.clone();
        let own = entry.get("annotations").and_then(Value::as_object).cloned();
        let mut annotations = own.unwrap_or_default();
        annotations.remove(FULL_NAME);
        annotations.insert(NAME.into(), name.into());
        entry.insert("annotations".into(), annotations.into());
        entry.into()
    }
}

/// An index with these entries under `name`, in the place of what had that name; none where it is so already.
///
/// # Errors
/// What is there and is no index; [`Error::TooMany`] and [`Error::TooLarge`] where it would be one that is not read.
pub fn with_entries(
    index: Option<&[u8]>,
    name: &str,
    entries: &[Entry],
) -> Result<Option<Vec<u8>>, Error> {
    let document = Document::Index;
    let mut whole = match index {
        Some(bytes) => {
            Index::read(bytes)?;
            super::json::read::<Map<String, Value>>(document, bytes)?
        }
        None => Map::from_iter([
            ("schemaVersion".to_owned(), Value::from(2)),
            ("mediaType".to_owned(), types::INDEX.into()),
        ]),
    };
    let before = match whole.remove("manifests") {
        Some(Value::Array(all)) => all,
        Some(_) | None => Vec::new(),
    };
    let is_named = |entry: &&Value| {
        let has = |key: &str| entry["annotations"][key] == name;
        has(NAME) || has(FULL_NAME)
    };
    let named: Vec<Value> = entries.iter().map(|entry| entry.named(name)).collect();
    if index.is_some() && before.iter().filter(is_named).eq(&named) {
        return Ok(None);
    }
    let mut all: Vec<Value> = before.iter().filter(|entry| !is_named(entry)).cloned().collect();
    all.extend(named);
    if all.len() > ENTRIES_MAX {
        let (got, max) = (all.len() as u64, ENTRIES_MAX as u64);
        return Err(Error::TooMany { document, what: "entries", got, max });
    }
    whole.insert("manifests".into(), all.into());
    let text = Value::from(whole).to_string().into_bytes();
    match text.len() as u64 {
        bytes if bytes > DOCUMENT_BYTES_MAX => {
            Err(Error::TooLarge { document, bytes, bytes_max: DOCUMENT_BYTES_MAX })
        }
        _ => Ok(Some(text)),
    }
}

/// How a layer is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packed {
    /// A plain tar.
    Plain,
    /// By gzip.
    Gzip,
    /// By zstd.
    Zstd,
}

impl Packed {
    /// The media type of such a layer (image-spec, media-types.md).
    fn media_type(self) -> &'static str {
        match self {
            Packed::Plain => "application/vnd.oci.image.layer.v1.tar",
            Packed::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Packed::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }

    /// The media type of such a layer in a manifest of this type: Docker's own has Docker's layers
    /// (distribution, manifest-v2-2.md).
    pub(crate) fn media_type_in(self, manifest: &str) -> &'static str {
        match (manifest.starts_with("application/vnd.docker."), self) {
            (false, packed) => packed.media_type(),
            (true, Packed::Plain) => "application/vnd.docker.image.rootfs.diff.tar",
            (true, Packed::Gzip) => "application/vnd.docker.image.rootfs.diff.tar.gzip",
            (true, Packed::Zstd) => "application/vnd.docker.image.rootfs.diff.tar.zstd",
        }
    }
}

/// The manifest of an image that came without one, and the entry of it in an index.
pub fn manifest_of(
    config: (Digest, u64, &Platform),
    layers: &[(Digest, u64, Packed)],
) -> (Vec<u8>, Entry) {
    let described = |media: &str, digest: Digest, size: u64| json!({"mediaType": media, "digest": digest.to_string(), "size": size});
    let all =
        layers.iter().map(|(digest, size, packed)| described(packed.media_type(), *digest, *size));
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": types::MANIFEST,
        "config": described(types::CONFIG, config.0, config.1),
        "layers": all.collect::<Vec<_>>(),
    });
    let text = manifest.to_string().into_bytes();
    let entry = Entry::new(types::MANIFEST, Digest::of(&text), text.len() as u64, Some(config.2));
    (text, entry)
}

/// The media type that an index or a manifest has for others, by its own words.
pub fn media_type_of(bytes: &[u8]) -> String {
    let value: Value = serde_json::from_slice(bytes).unwrap_or_default();
    match (value["mediaType"].as_str(), value.get("manifests").is_some()) {
        (Some(own), _) => own.to_owned(),
        (None, true) => types::INDEX.to_owned(),
        (None, false) => types::MANIFEST.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{Manifest, Pick};

    fn entry(byte: u8) -> Entry {
        let amd64 = "linux/amd64".parse().unwrap();
        Entry::new(types::MANIFEST, Digest([byte; 32]), 7, Some(&amd64))
    }

    fn names(index: &[u8], name: &str) -> Vec<u8> {
        let index = Index::read(index).unwrap();
        match index.pick(&Pick::Name(name.into())) {
            Ok(found) => found.entries().iter().map(|entry| entry.digest.0[0]).collect(),
            Err(_) => Vec::new(),
        }
    }

    #[test]
    fn a_tag_is_added_and_the_same_one_is_replaced() {
        let first = with_entries(None, "v1", &[entry(1)]).unwrap().unwrap();
        let second = with_entries(Some(&first), "v2", &[entry(2)]).unwrap().unwrap();
        assert_eq!((names(&second, "v1"), names(&second, "v2")), (vec![1], vec![2]));
        let third = with_entries(Some(&second), "v1", &[entry(3), entry(4)]).unwrap().unwrap();
        assert_eq!((names(&third, "v1"), names(&third, "v2")), (vec![3, 4], vec![2]));
        assert_eq!(with_entries(Some(&third), "v1", &[entry(3), entry(4)]).unwrap(), None);
        let fourth = with_entries(Some(&third), "v1", &[entry(3)]).unwrap().unwrap();
        assert_eq!(names(&fourth, "v1"), [3]);
    }

    #[test]
    fn what_else_stands_in_an_index_stays() {
        let text =
            br#"{"schemaVersion":2,"annotations":{"a":"b"},"unknown":[1.5,18446744073709551615],
            "manifests":[{"mediaType":"x/y","digest":"sha512:00","size":1,"data":"eA=="},
            {"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:00","size":1,
             "annotations":{"io.containerd.image.name":"v1"}}]}"#;
        let after = with_entries(Some(text), "v1", &[entry(1)]).unwrap().unwrap();
        let value: Value = serde_json::from_slice(&after).unwrap();
        assert_eq!(value["unknown"], json!([1.5, u64::MAX]));
        assert_eq!(value["annotations"], json!({"a": "b"}));
        assert_eq!(value["manifests"].as_array().unwrap().len(), 2, "v1 had another place");
        assert_eq!(value["manifests"][0]["data"], "eA==");
        assert!(value.get("mediaType").is_none());
    }

    #[test]
    fn an_entry_keeps_what_it_says_and_loses_its_other_names() {
        let text = format!(
            r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{}","digest":"{}","size":7,"artifactType":"t",
            "annotations":{{"k":"v","{NAME}":"old","{FULL_NAME}":"r/x:old"}}}}]}}"#,
            types::MANIFEST,
            Digest([9; 32])
        );
        let index = Index::read(text.as_bytes()).unwrap();
        let entry = Entry::of(text.as_bytes(), &index.entries()[0]);
        let value = entry.named("new");
        assert_eq!(value["annotations"], json!({"k": "v", NAME: "new"}));
        assert_eq!(value["artifactType"], "t");
    }

    #[test]
    fn no_index_is_made_that_would_not_be_read() {
        for text in [&b"[]"[..], b"{}", b"{\"schemaVersion\":2,\"manifests\":[],\"layers\":[]}"] {
            assert!(with_entries(Some(text), "v1", &[entry(1)]).is_err());
        }
        let many = vec![entry(1); ENTRIES_MAX + 1];
        assert!(matches!(with_entries(None, "v1", &many), Err(Error::TooMany { .. })));
        let long = Entry::new(&"x".repeat(4 << 20), Digest([1; 32]), 7, None);
        assert!(matches!(with_entries(None, "v1", &[long]), Err(Error::TooLarge { .. })));
        let null =
            with_entries(Some(br#"{"schemaVersion":2,"manifests":null}"#), "v1", &[entry(1)]);
        assert_eq!(names(&null.unwrap().unwrap(), "v1"), [1]);
        assert!(crate::image::is_layout(LAYOUT.as_bytes()).is_ok());
    }

    #[test]
    fn a_manifest_that_is_made_is_one_that_is_read() {
        let amd64: Platform = "linux/amd64".parse().unwrap();
        let layers = [Packed::Plain, Packed::Gzip, Packed::Zstd];
        let layers: Vec<_> = layers.into_iter().map(|kind| (Digest([1; 32]), 9, kind)).collect();
        let (text, entry) = manifest_of((Digest([2; 32]), 5, &amd64), &layers);
        let read = Manifest::read(&text, Some(types::MANIFEST)).unwrap();
        assert_eq!((read.layers.len(), read.config.size), (3, 5));
        assert_eq!(entry.0["digest"], Digest::of(&text).to_string());
        assert_eq!(media_type_of(&text), types::MANIFEST);
    }
}
