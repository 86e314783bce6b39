//! Image manifests (image-spec, manifest.md; distribution's manifest-v2-2).

use serde::Deserialize;

use crate::image::descriptor::{Descriptor, Media, Raw};
use crate::image::error::{Document, Error};
use crate::image::json::{self, Few};

/// Layers of an image, as everywhere in this project.
pub const LAYERS_MAX: usize = 1000;

/// What an image is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Its config.
    pub config: Descriptor,
    /// From the lowest up.
    pub layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Text {
    #[serde(rename = "schemaVersion")]
    schema_version: Option<i64>,
    #[serde(default, rename = "mediaType")]
    media_type: Option<String>,
    #[serde(default)]
    manifests: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    config: Option<Raw>,
    #[serde(default)]
    layers: Option<Few<Raw, LAYERS_MAX>>,
}

impl Manifest {
    /// Reads the manifest of an image; `media_type` is what its descriptor or the server says that it is, where
    /// that says something.
    ///
    /// # Errors
    /// [`Error::Json`], [`Error::Field`], [`Error::TooMany`], [`Error::NotAnImage`], [`Error::Digest`].
    pub fn read(bytes: &[u8], media_type: Option<&str>) -> Result<Manifest, Error> {
        let document = Document::Manifest;
        if let Some(outer) = media_type
            && let Media::Refused(why) = Media::of(outer)
        {
            let media_type = outer.to_owned();
            return Err(Error::NotAnImage { what: "manifest", media_type, why });
        }
        let text: Text = json::read(document, bytes)?;
        let field = |field, got: String, why| Error::Field { document, field, got, why };
        if let Some(own) = &text.media_type {
            if let Media::Refused(why) = Media::of(own) {
                let media_type = own.clone();
                return Err(Error::NotAnImage { what: "manifest", media_type, why });
            }
            if Media::of(own) != Media::Manifest {
                return Err(field(
                    "mediaType",
                    own.clone(),
                    "its place says that it is a manifest",
                ));
            }
        }
        if text.schema_version != Some(2) {
            let got = text.schema_version.map_or("none".to_owned(), |version| version.to_string());
            return Err(field("schemaVersion", got, "it has to be 2"));
        }
        if text.manifests.is_some() {
            let why = "a document that is both, index and manifest, is nobody's image";
            return Err(field("manifests", "beside layers".to_owned(), why));
        }
        let Some(config) = text.config else {
            return Err(field("config", "none".to_owned(), "an image has a config"));
        };
        let layers = text.layers.unwrap_or_default().all(document, "layers")?;
        let config = config.read(document)?;
        if config.media() != Media::Config {
            let why = "this is an artifact, or an image of another kind";
            return Err(Error::NotAnImage { what: "config", media_type: config.media_type, why });
        }
        let layers: Vec<_> =
            layers.iter().map(|raw| raw.read(document)).collect::<Result<_, _>>()?;
        for layer in &layers {
            let why = match layer.media() {
                Media::Layer => continue,
                Media::Refused(why) => why,
                Media::Index | Media::Manifest | Media::Config | Media::Unknown => {
                    "this is no type of a layer"
                }
            };
            let media_type = layer.media_type.clone();
            return Err(Error::NotAnImage { what: "layer", media_type, why });
        }
        match layers.is_empty() {
            false => Ok(Manifest { config, layers }),
            true => Err(field("layers", "none".to_owned(), "an image has at least one layer")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

    fn manifest(config: &str, layers: &[&str], rest: &str) -> Result<Manifest, Error> {
        let one =
            |media: &str| format!(r#"{{"mediaType":"{media}","digest":"sha256:{HEX}","size":1}}"#);
        let layers: Vec<_> = layers.iter().map(|media| one(media)).collect();
        let text = format!(
            r#"{{"schemaVersion":2,"config":{},"layers":[{}]{rest}}}"#,
            one(config),
            layers.join(",")
        );
        Manifest::read(text.as_bytes(), None)
    }

    #[test]
    fn every_kind_of_layer_in_use_is_taken() {
        let docker = "application/vnd.docker.image.rootfs";
        let oci = "application/vnd.oci.image.layer";
        for layer in [
            format!("{oci}.v1.tar"),
            format!("{oci}.v1.tar+gzip"),
            format!("{oci}.v1.tar+zstd"),
            format!("{oci}.nondistributable.v1.tar+gzip"),
            format!("{docker}.diff.tar"),
            format!("{docker}.diff.tar.gzip"),
            format!("{docker}.diff.tar.zstd"),
            format!("{docker}.foreign.diff.tar.gzip"),
        ] {
            assert!(manifest(CONFIG, &[&layer], "").is_ok(), "{layer}");
        }
        let docker_config = "application/vnd.docker.container.image.v1+json";
        assert!(manifest(docker_config, &[LAYER], "").is_ok(), "mixed manifests happen");
    }

    #[test]
    fn what_is_no_image_is_named() {
        for (config, layer, named) in [
            ("application/vnd.cncf.helm.config.v1+json", LAYER, "helm"),
            (CONFIG, "application/vnd.in-toto+json", "in-toto"),
            (CONFIG, "application/vnd.oci.image.layer.v1.tar+gzip+encrypted", "encrypted"),
            (CONFIG, "application/vnd.erofs.layer.v1", "EROFS"),
            (CONFIG, "application/vnd.oci.image.layer.v1.tarball", "tarball"),
            (CONFIG, "", "no type of a layer"),
        ] {
            let refused = manifest(config, &[layer], "").unwrap_err();
            assert!(matches!(refused, Error::NotAnImage { .. }), "{refused}");
            assert!(refused.to_string().contains(named), "{refused}");
        }
        let old = "application/vnd.docker.distribution.manifest.v1+prettyjws";
        assert!(matches!(Manifest::read(b"{}", Some(old)), Err(Error::NotAnImage { .. })));
    }

    #[test]
    fn a_manifest_that_is_an_index_too_is_refused() {
        assert!(manifest(CONFIG, &[LAYER], r#","manifests":[]"#).is_err());
        let media = r#","mediaType":"application/vnd.oci.image.index.v1+json""#;
        assert!(manifest(CONFIG, &[LAYER], media).is_err());
    }

    #[test]
    fn an_image_has_layers_and_not_too_many() {
        assert!(manifest(CONFIG, &[], "").is_err());
        assert!(manifest(CONFIG, &[LAYER; LAYERS_MAX], "").is_ok());
        let refused = manifest(CONFIG, &[LAYER; LAYERS_MAX + 1], "").unwrap_err();
        assert!(matches!(refused, Error::TooMany { got: 1001, max: 1000, .. }), "{refused}");
    }

    #[test]
    fn digests_that_cannot_be_checked_are_refused_by_name() {
        let sha512 = format!("sha512:{HEX}{HEX}");
        for digest in [sha512.as_str(), "sha256:../../etc/passwd", "", "sha256:E3B0"] {
            let text = format!(
                r#"{{"schemaVersion":2,"config":{{"mediaType":"{CONFIG}","digest":"{digest}","size":1}},"layers":[]}}"#
            );
            assert!(matches!(Manifest::read(text.as_bytes(), None), Err(Error::Digest { .. })));
        }
    }
}
