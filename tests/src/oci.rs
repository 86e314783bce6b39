//! An OCI image around given layers: the JSON that the image layout has beside them (image-spec,
//! image-layout.md, config.md, manifest.md).

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// Everything that the layout has.
#[derive(Debug)]
pub struct Image {
    /// Path in the layout, and the layer to put there.
    pub layers: Vec<(String, PathBuf)>,
    /// Path in the layout, and text to put there.
    pub texts: Vec<(String, String)>,
    /// Chain id of the top, with its `sha256:`.
    pub chain: String,
}

impl Image {
    /// Of plain layers, the lowest first. `name` is an annotation of its manifest in the index.
    ///
    /// # Errors
    /// A layer cannot be read.
    pub fn new(layers: &[PathBuf], name: (&str, &str)) -> Result<Image> {
        Image::run_as(layers, name, &json!({}))
    }

    /// As [`Image::new`], with what its config says of how it is to be run.
    ///
    /// # Errors
    /// A layer cannot be read.
    pub fn run_as(layers: &[PathBuf], name: (&str, &str), own: &Value) -> Result<Image> {
        let mut image = Image { layers: Vec::new(), texts: Vec::new(), chain: String::new() };
        let (mut described, mut diffs) = (Vec::new(), Vec::new());
        for layer in layers {
            let (digest, size) = sum(layer).with_context(|| layer.display().to_string())?;
            image.chain = match image.chain.as_str() {
                "" => format!("sha256:{digest}"),
                below => format!("sha256:{:x}", Sha256::digest(format!("{below} sha256:{digest}"))),
            };
            described.push(descriptor("application/vnd.oci.image.layer.v1.tar", &digest, size));
            diffs.push(format!("sha256:{digest}"));
            image.layers.push((format!("blobs/sha256/{digest}"), layer.clone()));
        }
        let config = image.blob(
            "application/vnd.oci.image.config.v1+json",
            &json!({ "architecture": "amd64", "os": "linux", "config": own,
                "rootfs": { "type": "layers", "diff_ids": diffs } }),
        );
        let media = "application/vnd.oci.image.manifest.v1+json";
        let mut manifest = image.blob(
            media,
            &json!({ "schemaVersion": 2, "mediaType": media, "config": config, "layers": described }),
        );
        manifest["annotations"] = json!({ name.0: name.1 });
        let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
        image.texts.push(("oci-layout".into(), r#"{"imageLayoutVersion":"1.0.0"}"#.into()));
        image.texts.push(("index.json".into(), index.to_string()));
        Ok(image)
    }

    /// Makes it a layout in the directory `dir`.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, dir: &Path) -> Result<()> {
        std::fs::create_dir_all(dir.join("blobs/sha256"))?;
        for (path, layer) in &self.layers {
            std::fs::copy(layer, dir.join(path))?;
        }
        for (path, text) in &self.texts {
            std::fs::write(dir.join(path), text)?;
        }
        Ok(())
    }

    fn blob(&mut self, media: &str, value: &Value) -> Value {
        let text = value.to_string();
        let digest = format!("{:x}", Sha256::digest(&text));
        let described = descriptor(media, &digest, text.len() as u64);
        self.texts.push((format!("blobs/sha256/{digest}"), text));
        described
    }
}

fn descriptor(media: &str, digest: &str, size: u64) -> Value {
    json!({ "mediaType": media, "digest": format!("sha256:{digest}"), "size": size })
}

/// sha256 in hex, and length.
///
/// # Errors
/// It cannot be read.
pub fn sum(path: &Path) -> Result<(String, u64)> {
    let mut hash = Sha256::new();
    let size = std::io::copy(&mut File::open(path)?, &mut hash)?;
    Ok((format!("{:x}", hash.finalize()), size))
}
