//! The guest's S3 servers over one store: anonymous and signed, each behind a counting [`Proxy`].

use std::path::Path;

use anyhow::{Context, Result};

use super::cmd::Cmd;
use super::proxy::{Exchange, Proxy};
use crate::s3::{self, Keys, Server};

/// Where the store's disk is mounted, or an empty folder without one. An object is the file
/// `<bucket>/<key>` below it.
pub const STORE: &str = "/srv/s3";
const PROGRAM: &str = "/usr/local/bin/s3s-fs";

/// One server. It ends when this is dropped.
#[derive(Debug)]
pub struct S3 {
    server: Server,
    keys: Option<Keys>,
    /// Sees every request that comes by [`S3::url`].
    pub proxy: Proxy,
}

impl S3 {
    /// Starts a server over the store; with keys it takes only requests that they sign.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(keys: Option<Keys>) -> Result<S3> {
        let server = Server::start(Path::new(PROGRAM), Path::new(STORE), keys)?;
        let proxy = Proxy::start(server.address)?;
        Ok(S3 { server, keys, proxy })
    }

    /// `http://127.0.0.1:port`, for `--endpoint` or `AWS_ENDPOINT_URL`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.proxy.address)
    }

    /// Tells a program where this server is, and the keys if it has some.
    #[must_use]
    pub fn environment(&self, cmd: Cmd) -> Cmd {
        let cmd = cmd.env("AWS_ENDPOINT_URL", self.url()).env("AWS_REGION", "us-east-1");
        match self.keys {
            None => cmd,
            Some(Keys { access, secret }) => {
                cmd.env("AWS_ACCESS_KEY_ID", access).env("AWS_SECRET_ACCESS_KEY", secret)
            }
        }
    }

    /// The GETs of objects so far, listings left out.
    #[must_use]
    pub fn object_gets(&self) -> Vec<Exchange> {
        self.proxy.exchanges().into_iter().filter(Exchange::is_object).collect()
    }

    /// Makes a bucket. The store is this boot's own: nothing of it outlives the VM, but the
    /// scenarios that share the boot see it, so use a bucket named for the scenario.
    ///
    /// # Errors
    /// The server is a signed one, or says no.
    pub fn make_bucket(&self, bucket: &str) -> Result<()> {
        s3::make_bucket(self.server.address, bucket)
    }

    /// Puts an object; not counted.
    ///
    /// # Errors
    /// The server is a signed one, or says no.
    pub fn put(&self, bucket: &str, key: &str, content: &[u8]) -> Result<()> {
        let length = content.len() as u64;
        s3::put(self.server.address, bucket, key, &mut &*content, length)
            .with_context(|| format!("put {bucket}/{key}"))
    }

    /// Deletes an object; not counted.
    ///
    /// # Errors
    /// The server is a signed one, or says no.
    pub fn delete(&self, bucket: &str, key: &str) -> Result<()> {
        s3::delete(self.server.address, bucket, key)
    }
}

/// Mounts the store's disk if the VM has it; else there is an empty folder.
pub(crate) fn mount() -> Result<()> {
    std::fs::create_dir_all(STORE)?;
    if let Ok(disk) = super::virtio_disk("store") {
        let none = rustix::mount::MountFlags::NOATIME;
        rustix::mount::mount(&disk, STORE, "ext4", none, c"").context("mount the image store")?;
    }
    Ok(())
}
