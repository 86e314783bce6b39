//! The documents of an image with one layer more than another: everything else that they say stays as it is.

use serde_json::{Map, Value, json};

use crate::image::descriptor::types;
use crate::image::digest::Digest;
use crate::image::edit::{Entry, Packed};
use crate::image::error::{Document, Error};
use crate::image::json::read;
use crate::image::manifest::LAYERS_MAX;
use crate::image::{Config, Manifest};

/// A layer that is new.
#[derive(Clone, Debug)]
pub struct Above<'a> {
    /// The digest of its plain tar.
    pub diff_id: Digest,
    /// The digest of it as it is stored.
    pub digest: Digest,
    /// Its bytes as it is stored.
    pub size: u64,
    /// How it is stored.
    pub packed: Packed,
    /// When it was made, as the config has it (RFC 3339).
    pub created: &'a str,
    /// What made it.
    pub created_by: &'a str,
}

/// The documents of an image that were made of another's.
#[derive(Clone, Debug)]
pub struct WithLayer {
    /// The config.
    pub config: Vec<u8>,
    /// The manifest.
    pub manifest: Vec<u8>,
    /// What stands in an index for it.
    pub entry: Entry,
}

/// Puts a layer on an image. What neither document is known for is kept; a config without a history gets none.
///
/// # Errors
/// What is no manifest or no config, or does not belong together; [`Error::TooMany`] layers.
pub fn with_layer(manifest: &[u8], config: &[u8], above: &Above<'_>) -> Result<WithLayer, Error> {
    let (read_manifest, read_config) = (Manifest::read(manifest, None)?, Config::read(config)?);
    let layers = read_manifest.layers.len();
    read_config.is_for(layers)?;
    if layers >= LAYERS_MAX {
        let (got, max) = (layers as u64 + 1, LAYERS_MAX as u64);
        return Err(Error::TooMany { document: Document::Manifest, what: "layers", got, max });
    }
    let mut own: Map<String, Value> = read(Document::Config, config)?;
    own.insert("created".into(), above.created.into());
    if let Some(Value::Object(rootfs)) = own.get_mut("rootfs")
        && let Some(Value::Array(diff_ids)) = rootfs.get_mut("diff_ids")
    {
        diff_ids.push(above.diff_id.to_string().into());
    }
    if let Some(Value::Array(history)) = own.get_mut("history") {
        history.push(json!({"created": above.created, "created_by": above.created_by}));
    }
    let config = Value::from(own).to_string().into_bytes();
    let mut own: Map<String, Value> = read(Document::Manifest, manifest)?;
    let media = own.get("mediaType").and_then(Value::as_str).unwrap_or(types::MANIFEST).to_owned();
    if let Some(Value::Object(described)) = own.get_mut("config") {
        described.insert("digest".into(), Digest::of(&config).to_string().into());
        described.insert("size".into(), config.len().into());
        // What was the content of the other one, and where that is.
        described.retain(|key, _| !matches!(key.as_str(), "data" | "urls"));
    }
    if let Some(Value::Array(layers)) = own.get_mut("layers") {
        layers.push(json!({
            "mediaType": above.packed.media_type_in(&media),
            "digest": above.digest.to_string(),
            "size": above.size,
        }));
    }
    let manifest = Value::from(own).to_string().into_bytes();
    let (digest, size) = (Digest::of(&manifest), manifest.len() as u64);
    let entry = Entry::new(&media, digest, size, Some(&read_config.platform));
    // Whoever reads the image next reads these.
    Manifest::read(&manifest, Some(&media))?;
    Config::read(&config)?.is_for(layers + 1)?;
    Ok(WithLayer { config, manifest, entry })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABOVE: Above<'_> = Above {
        diff_id: Digest([7; 32]),
        digest: Digest([8; 32]),
        size: 9,
        packed: Packed::Gzip,
        created: "2026-01-02T03:04:05Z",
        created_by: "orchestrate export web",
    };

    fn documents(media: &str, history: &str) -> (String, String) {
        let digest = Digest([1; 32]);
        let config = format!(
            r#"{{"os":"linux","architecture":"arm64","variant":"v8","x":[1],"config":{{"Cmd":["a"]}},
            "rootfs":{{"type":"layers","diff_ids":["{digest}"]}}{history}}}"#
        );
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"{media}","annotations":{{"k":"v"}},"config":{{"mediaType":"{}",
            "digest":"{digest}","size":1,"data":"e30="}},"layers":[{{"mediaType":"{}","digest":"{digest}","size":2}}]}}"#,
            types::CONFIG,
            "application/vnd.oci.image.layer.v1.tar"
        );
        (manifest, config)
    }

    #[test]
    fn a_layer_more_and_all_else_as_it_was() {
        let (manifest, config) = documents(types::MANIFEST, r#","history":[{"created_by":"x"}]"#);
        let made = with_layer(manifest.as_bytes(), config.as_bytes(), &ABOVE).unwrap();
        let config: Value = serde_json::from_slice(&made.config).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"][1], ABOVE.diff_id.to_string());
        assert_eq!(config["history"][1]["created_by"], ABOVE.created_by);
        assert_eq!((&config["x"], &config["config"]["Cmd"]), (&json!([1]), &json!(["a"])));
        assert_eq!(config["created"], ABOVE.created);
        let manifest: Value = serde_json::from_slice(&made.manifest).unwrap();
        assert_eq!(manifest["annotations"]["k"], "v");
        assert_eq!(manifest["config"]["digest"], Digest::of(&made.config).to_string());
        assert!(manifest["config"].get("data").is_none());
        let layer = &manifest["layers"][1];
        assert_eq!(layer["mediaType"], "application/vnd.oci.image.layer.v1.tar+gzip");
        assert_eq!(
            (&layer["size"], &layer["digest"]),
            (&json!(9), &json!(ABOVE.digest.to_string()))
        );
    }

    #[test]
    fn a_manifest_of_docker_stays_one() {
        let docker = "application/vnd.docker.distribution.manifest.v2+json";
        let (manifest, config) = documents(docker, "");
        let made = with_layer(manifest.as_bytes(), config.as_bytes(), &ABOVE).unwrap();
        let manifest: Value = serde_json::from_slice(&made.manifest).unwrap();
        let media = "application/vnd.docker.image.rootfs.diff.tar.gzip";
        assert_eq!(manifest["layers"][1]["mediaType"], media);
        assert!(serde_json::from_slice::<Value>(&made.config).unwrap().get("history").is_none());
    }

    #[test]
    fn what_does_not_belong_together_is_refused() {
        let (manifest, config) = documents(types::MANIFEST, "");
        let more = config.replace("diff_ids\":[", "diff_ids\":[\"sha256:00\",");
        assert!(with_layer(manifest.as_bytes(), more.as_bytes(), &ABOVE).is_err());
        assert!(with_layer(b"{}", config.as_bytes(), &ABOVE).is_err());
    }
}
