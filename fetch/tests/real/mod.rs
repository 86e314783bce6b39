//! The real S3 server of the tests, s3s-fs: it checks signatures and knows multipart uploads.

#![allow(dead_code, unreachable_pub)]

use std::env;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use s3::creds::Credentials;
use s3::{Bucket, Region};

#[path = "../../../tests/src/port.rs"]
mod port;

use port::Port;

pub const ACCESS_KEY: &str = "AKVENEER";
pub const SECRET_KEY: &str = "veneer/secret+key";

/// A running server over a folder, `<root>/<bucket>/<key>`.
pub struct RealServer {
    pub root: tempfile::TempDir,
    pub port: u16,
    child: Child,
    _claimed: Port,
}

impl Drop for RealServer {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn binary() -> PathBuf {
    let given = env::var_os("VENEER_S3S_FS").map(PathBuf::from);
    let home = PathBuf::from(env::var_os("HOME").unwrap_or_default());
    let path = given.unwrap_or_else(|| home.join(".cache/veneer/tools/bin/s3s-fs"));
    assert!(path.is_file(), "no S3 server at {}: run ./bootstrap", path.display());
    path
}

impl RealServer {
    /// Signed requests only, or with `signed` false anonymous ones only.
    pub fn start(signed: bool) -> RealServer {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("bkt")).unwrap();
        let claimed = Port::claim().expect("a port of the loopback");
        let port = claimed.number;
        let mut command = Command::new(binary());
        command.args(["--host", "127.0.0.1", "--port", &port.to_string()]);
        command.args(["--domain", &format!("s3.test:{port}")]);
        if signed {
            command.args(["--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY]);
        }
        let child = command
            .arg(root.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start s3s-fs");
        let server = RealServer { root, port, child, _claimed: claimed };
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(start.elapsed() < Duration::from_secs(20), "s3s-fs does not listen");
            thread::sleep(Duration::from_millis(20));
        }
        server
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn file(&self, key: &str) -> PathBuf {
        self.root.path().join("bkt").join(key)
    }

    pub fn drop_file(&self, key: &str, bytes: &[u8]) {
        let path = self.file(key);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    /// A client for putting objects; for reading there is ours.
    pub fn bucket(&self) -> Box<Bucket> {
        let region = Region::Custom { region: "us-east-1".into(), endpoint: self.url() };
        let keys = Credentials::new(Some(ACCESS_KEY), Some(SECRET_KEY), None, None, None).unwrap();
        Bucket::new("bkt", region, keys).unwrap().with_path_style()
    }

    /// The program against this server, signed.
    pub fn fetch(&self) -> Command {
        let mut command = program(&self.url());
        command.env("AWS_ACCESS_KEY_ID", ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
        command
    }
}

/// The program with nothing of this machine's environment.
pub fn program(url: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fetch"));
    command.env_clear().env("HOME", "/nonexistent").env("AWS_ENDPOINT_URL", url);
    command
}

/// A CONNECT proxy that leads everybody to `port` of loopback, whatever the name; it is also the
/// DNS of the tests. Says what was asked for.
pub fn proxy(port: u16) -> (u16, std::sync::mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let own = listener.local_addr().unwrap().port();
    let (tell, told) = std::sync::mpsc::channel();
    thread::spawn(move || {
        for client in listener.incoming() {
            let (Ok(mut client), tell) = (client, tell.clone()) else { continue };
            thread::spawn(move || {
                let mut head = Vec::new();
                let mut byte = [0];
                while !head.ends_with(b"\r\n\r\n") {
                    match client.read(&mut byte) {
                        Ok(1) => head.push(byte[0]),
                        _ => return,
                    }
                }
                let head = String::from_utf8_lossy(&head).into_owned();
                tell.send(head.lines().next().unwrap_or("").to_owned()).ok();
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else { return };
                if head.starts_with("CONNECT ") {
                    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
                } else {
                    (&server).write_all(head.as_bytes()).unwrap();
                }
                let (mut up, mut down) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                thread::spawn(move || {
                    std::io::copy(&mut up, &mut down).ok();
                    down.shutdown(std::net::Shutdown::Both).ok();
                });
                let mut server = server;
                std::io::copy(&mut server, &mut client).ok();
                client.shutdown(std::net::Shutdown::Both).ok();
            });
        }
    });
    (own, told)
}

pub fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    sha2::Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// Writes a file of the kind that needs a folder.
pub fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
}
