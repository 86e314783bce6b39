//! A real registry (distribution's own, `docker-registry` of Debian) as a child process on the loopback.

use std::fs::{self, File};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::port::Port;

/// Beside its configuration.
const LOG: &str = "log";

/// A running registry, open to everybody. It ends when this is dropped.
#[derive(Debug)]
pub struct Registry {
    child: Child,
    port: Port,
    dir: PathBuf,
}

impl Registry {
    /// Starts it over this folder, which gets its configuration, its blobs and its log.
    ///
    /// # Errors
    /// It does not start, or does not listen within half a minute.
    pub fn start(program: &Path, dir: &Path) -> Result<Registry> {
        let port = Port::claim().context("no port of the loopback is free")?;
        fs::create_dir_all(dir)?;
        let config = dir.join("config.yml");
        let (at, number) = (dir.display(), port.number);
        let text = format!(
            "version: 0.1\nlog: {{level: info, formatter: json, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: {at}/data}}}}\n\
             http: {{addr: \"127.0.0.1:{number}\"}}\n"
        );
        fs::write(&config, text)?;
        let said = File::create(dir.join(LOG))?;
        let child = Command::new(program)
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(said.try_clone()?)
            .stderr(said)
            .spawn()
            .with_context(|| format!("start {}: run ./bootstrap", program.display()))?;
        let mut registry = Registry { child, port, dir: dir.to_owned() };
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", number)).is_err() {
            if let Some(status) = registry.child.try_wait()? {
                bail!("the registry ended with {status}: see {}", dir.join(LOG).display());
            }
            if started.elapsed() > Duration::from_secs(30) {
                bail!("the registry does not listen on port {number}");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(registry)
    }

    /// Puts the image of a layout of one manifest into its storage, under a name and a tag: written as the registry writes
    /// it (distribution 2.8, registry/storage/paths.go), so that nothing is needed that pushes.
    ///
    /// # Errors
    /// The layout cannot be read, or the storage not be written.
    pub fn put(&self, layout: &Path, name: &str, tag: &str) -> Result<()> {
        let root = self.dir.join("data/docker/registry/v2");
        let image = root.join("repositories").join(name);
        let index: Value = serde_json::from_slice(&fs::read(layout.join("index.json"))?)?;
        let digest = |described: &Value| -> Result<String> {
            let digest = described["digest"].as_str().and_then(|text| text.strip_prefix("sha256:"));
            digest.map(str::to_owned).context("a digest of the layout's")
        };
        let blob = |hex: &str| -> Result<Vec<u8>> {
            let bytes = fs::read(layout.join("blobs/sha256").join(hex))?;
            let dir = root.join("blobs/sha256").join(&hex[..2]).join(hex);
            fs::create_dir_all(&dir)?;
            fs::write(dir.join("data"), &bytes)?;
            Ok(bytes)
        };
        let link = |at: &str, hex: &str| -> Result<()> {
            let dir = image.join(at);
            fs::create_dir_all(&dir)?;
            fs::write(dir.join("link"), format!("sha256:{hex}")).map_err(Into::into)
        };
        let top = digest(&index["manifests"][0])?;
        let manifest: Value = serde_json::from_slice(&blob(&top)?)?;
        for described in
            manifest["layers"].as_array().into_iter().flatten().chain([&manifest["config"]])
        {
            let hex = digest(described)?;
            blob(&hex)?;
            link(&format!("_layers/sha256/{hex}"), &hex)?;
        }
        link(&format!("_manifests/revisions/sha256/{top}"), &top)?;
        link(&format!("_manifests/tags/{tag}/index/sha256/{top}"), &top)?;
        link(&format!("_manifests/tags/{tag}/current"), &top)
    }

    /// Puts a manifest or index with its blobs into its storage, under a name and perhaps a tag.
    ///
    /// # Errors
    /// The storage cannot be written.
    pub fn put_manifest(
        &self,
        name: &str,
        tag: Option<&str>,
        manifest: &[u8],
        blobs: &[Vec<u8>],
    ) -> Result<()> {
        let root = self.dir.join("data/docker/registry/v2");
        let image = root.join("repositories").join(name);
        let blob = |bytes: &[u8]| -> Result<String> {
            let hex = crate::cosign::hex(bytes);
            let dir = root.join("blobs/sha256").join(&hex[..2]).join(&hex);
            fs::create_dir_all(&dir)?;
            fs::write(dir.join("data"), bytes)?;
            Ok(hex)
        };
        let link = |at: &str, hex: &str| -> Result<()> {
            let dir = image.join(at);
            fs::create_dir_all(&dir)?;
            fs::write(dir.join("link"), format!("sha256:{hex}")).map_err(Into::into)
        };
        for bytes in blobs {
            let hex = blob(bytes)?;
            link(&format!("_layers/sha256/{hex}"), &hex)?;
        }
        let top = blob(manifest)?;
        link(&format!("_manifests/revisions/sha256/{top}"), &top)?;
        let Some(tag) = tag else { return Ok(()) };
        link(&format!("_manifests/tags/{tag}/index/sha256/{top}"), &top)?;
        link(&format!("_manifests/tags/{tag}/current"), &top)
    }

    /// Where it listens, as references have it.
    #[must_use]
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port.number)
    }

    /// Bytes of all bodies that it has sent so far, by its own log.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn sent(&self) -> Result<u64> {
        let log = fs::read_to_string(self.dir.join(LOG)).context("the registry's log")?;
        Ok(written(&log))
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It may be gone already, which is what is wanted.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The sum over a log's answers. A line that is no JSON is none of the registry's own.
fn written(log: &str) -> u64 {
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let answers = lines.filter(|line| line["msg"] == "response completed");
    answers.filter_map(|line| line["http.response.written"].as_u64()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_answers_count() {
        let log = "{\"msg\":\"listening\"}\nnot JSON\n\
            {\"msg\":\"response completed\",\"http.response.written\":7}\n\
            {\"msg\":\"authorized request\",\"http.response.written\":100}\n\
            {\"msg\":\"response completed\",\"http.response.written\":35}\n";
        assert_eq!(written(log), 42);
    }
}
