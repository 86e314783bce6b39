//! A real S3 server (s3s-fs) as a child process, and requests just large enough to fill it. Used on
//! the host, to make the store, and in the guest, where the scenarios' servers run.

use std::fmt;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::port::Port;

/// The bucket that the families are in, as `images/<family>/<n>.tar`.
pub const BUCKET: &str = "images-bucket";

/// An access key and its secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keys {
    /// Access key id.
    pub access: &'static str,
    /// Secret access key.
    pub secret: &'static str,
}

/// The keys of the signed server.
pub const KEYS: Keys = Keys { access: "AKIAVENEERTEST", secret: "not-a-secret/of+anyone" };

/// A running server. It ends when this is dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    /// Where it listens.
    pub address: SocketAddr,
    _port: Port,
}

impl Server {
    /// Starts a server over this folder: signed requests only when there are keys, and anonymous
    /// ones only when there are none.
    ///
    /// # Errors
    /// It does not start, or does not listen within half a minute.
    pub fn start(program: &Path, root: &Path, keys: Option<Keys>) -> Result<Server> {
        let port = Port::claim().context("no port of the loopback is free")?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port.number));
        let mut command = Command::new(program);
        command.args(["--host", "127.0.0.1", "--port", &address.port().to_string()]);
        if let Some(keys) = keys {
            command.args(["--access-key", keys.access, "--secret-key", keys.secret]);
        }
        let child = command
            .arg(root)
            .env("RUST_LOG", "error")
            .stdin(Stdio::null())
            .spawn()
            .with_context(|| format!("start {}: run ./bootstrap", program.display()))?;
        let mut server = Server { child, address, _port: port };
        let started = Instant::now();
        while TcpStream::connect(address).is_err() {
            if let Some(status) = server.child.try_wait()? {
                bail!("the S3 server ended with {status}");
            }
            if started.elapsed() > Duration::from_secs(30) {
                bail!("the S3 server does not listen on {address}");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may be gone already, which is what is wanted.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Makes a bucket at an anonymous server.
///
/// # Errors
/// The server says no.
pub fn make_bucket(server: SocketAddr, bucket: &str) -> Result<()> {
    request(server, "PUT", &format!("/{bucket}"), &mut std::io::empty(), 0)
}

/// Puts an object at an anonymous server, through its API, so that it knows the ETag.
///
/// # Errors
/// The body cannot be read, or the server says no.
pub fn put(
    server: SocketAddr,
    bucket: &str,
    key: &str,
    body: &mut dyn Read,
    length: u64,
) -> Result<()> {
    let target = format!("/{bucket}/{}", Escaped(key));
    request(server, "PUT", &target, body, length)
}

/// Deletes an object at an anonymous server.
///
/// # Errors
/// The server says no.
pub fn delete(server: SocketAddr, bucket: &str, key: &str) -> Result<()> {
    let target = format!("/{bucket}/{}", Escaped(key));
    request(server, "DELETE", &target, &mut std::io::empty(), 0)
}

fn request(
    server: SocketAddr,
    method: &str,
    target: &str,
    body: &mut dyn Read,
    length: u64,
) -> Result<()> {
    let what = format!("{method} {target}");
    let mut stream = TcpStream::connect(server).with_context(|| what.clone())?;
    let head = format!(
        "{method} {target} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\
         Content-Length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes())?;
    let sent = std::io::copy(&mut body.take(length), &mut stream).with_context(|| what.clone())?;
    if sent != length {
        bail!("{what}: the body has {sent} bytes, not {length}");
    }
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).with_context(|| what.clone())?;
    match answer.split(' ').nth(1) {
        Some(code) if code.starts_with('2') => Ok(()),
        Some(_) | None => bail!("{what}: the server answers {}", answer.trim_end().escape_debug()),
    }
}

/// A key as it stands in a URL (RFC 3986 unreserved characters and the slash as they are).
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
                write!(f, "{}", char::from(byte))?;
            } else {
                write!(f, "%{byte:02X}")?;
            }
        }
        Ok(())
    }
}
