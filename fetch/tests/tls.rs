//! TLS: whom it trusts, by which certificates, and that nothing else gets a request.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::thread;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn write(&self, path: &Path) {
        std::fs::write(path, format!("# ours\n{}", self.0.pem())).unwrap();
    }

    /// A server whose only certificate is that of an authority which it is itself.
    fn serve_itself(name: &str, expired: bool) -> (u16, String) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        if expired {
            (params.not_before, params.not_after) =
                (date_time_ymd(2001, 1, 1), date_time_ymd(2002, 1, 1));
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        (listen(certificate.der().clone(), &key), certificate.pem())
    }

    /// A server for `name` that answers every request with "hello".
    fn serve(&self, name: &str, expired: bool) -> u16 {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        if expired {
            (params.not_before, params.not_after) =
                (date_time_ymd(2001, 1, 1), date_time_ymd(2002, 1, 1));
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        listen(certificate.der().clone(), &key)
    }
}

/// Answers every request with "hello".
fn listen(certificate: CertificateDer<'static>, key: &KeyPair) -> u16 {
    let der = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], der)
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let config = config.clone();
            thread::spawn(move || answer(stream, config));
        }
    });
    port
}
fn answer(stream: TcpStream, config: Arc<ServerConfig>) -> Option<()> {
    let mut stream = StreamOwned::new(ServerConnection::new(config).ok()?, stream);
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nETag: \"e\"\r\n\r\nhello").ok()?;
    stream.flush().ok()
}

fn fetch(port: u16) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fetch"));
    command.env_clear().env("HOME", "/nonexistent");
    command.args(["s3://bkt/key", "--anonymous"]).env("VENEER_FETCH_TRIES", "3");
    command.args(["--endpoint", &format!("https://127.0.0.1:{port}")]);
    command
}

fn run(command: &mut Command) -> (Option<i32>, Vec<u8>, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    (status.code(), stdout, String::from_utf8_lossy(&stderr).into_owned())
}

#[test]
fn only_the_given_authority_is_trusted() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, other) = (dir.path().join("ours.pem"), dir.path().join("other.pem"));
    let authority = Authority::new();
    authority.write(&ours);
    Authority::new().write(&other);
    let port = authority.serve("127.0.0.1", false);

    let (code, out, said) = run(fetch(port).arg("--ca-file").arg(&ours));
    assert!(code == Some(0) && out == b"hello", "{code:?} {said}");
    for name in ["AWS_CA_BUNDLE", "SSL_CERT_FILE"] {
        let (code, out, said) = run(fetch(port).env(name, &ours));
        assert!(code == Some(0) && out == b"hello", "{name}: {code:?} {said}");
    }
    // The system's authorities do not know it, and another one does not either: at once, for ever.
    for command in [&mut fetch(port), fetch(port).arg("--ca-file").arg(&other)] {
        let (code, out, said) = run(command);
        assert_eq!((code, out.len()), (Some(100), 0), "{said}");
        assert!(said.contains("certificate") && !said.contains("gave up"), "{said}");
    }
}

#[test]
fn a_certificate_must_fit_the_name_and_the_day() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ca.pem");
    let authority = Authority::new();
    authority.write(&file);
    for port in [authority.serve("127.0.0.2", false), authority.serve("127.0.0.1", true)] {
        let (code, out, said) = run(fetch(port).arg("--ca-file").arg(&file));
        assert_eq!((code, out.len()), (Some(100), 0), "{said}");
        assert!(said.contains("certificate"), "{said}");
    }
}

#[test]
fn a_bundle_without_certificates_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("empty.pem");
    std::fs::write(&file, "no certificate").unwrap();
    let (code, _, said) = run(fetch(1).arg("--ca-file").arg(&file));
    assert!(code == Some(100) && said.contains("no PEM certificate"), "{said}");
    let (code, _, said) = run(fetch(1).arg("--ca-file").arg(dir.path().join("absent.pem")));
    assert!(code == Some(100) && said.contains("CA file"), "{said}");
    assert!(said.contains("absent.pem") && said.contains("No such file"), "{said}");
}

#[test]
fn a_server_without_tls_gets_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let heard = thread::spawn(move || {
        let mut heard: Vec<u8> = Vec::new();
        for mut stream in listener.incoming().flatten().take(1) {
            let mut bytes = [0; 1024];
            let count = stream.read(&mut bytes).unwrap_or(0);
            heard.extend(&bytes[..count]);
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").ok();
        }
        heard
    });
    let (code, out, said) = run(fetch(port).arg("--tries").arg("1"));
    assert!(code != Some(0) && out.is_empty(), "{said}");
    assert!(!heard.join().unwrap().windows(4).any(|four| four == b"GET "));
}

/// Many a private server has no other certificate than one that says it is an authority. curl takes it.
#[test]
fn a_certificate_that_is_named_is_trusted_as_the_servers_own() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("named.pem");
    let fetch_with = |port: u16, pem: &str| {
        std::fs::write(&file, pem).unwrap();
        run(fetch(port).arg("--ca-file").arg(&file))
    };
    let (port, pem) = Authority::serve_itself("127.0.0.1", false);
    let (code, out, said) = fetch_with(port, &pem);
    assert!(code == Some(0) && out == b"hello", "{said}");
    // Its name and its days count as ever, and another one of the same name is another one.
    let (elsewhere, other) = Authority::serve_itself("127.0.0.2", false);
    let (expired, past) = Authority::serve_itself("127.0.0.1", true);
    let (_, twin) = Authority::serve_itself("127.0.0.1", false);
    for (port, pem) in [(elsewhere, &other), (expired, &past), (port, &twin)] {
        let (code, out, said) = fetch_with(port, pem);
        assert_eq!((code, out.len()), (Some(100), 0), "{said}");
        assert!(said.contains("certificate"), "{said}");
    }
    // Among others it is found, too.
    let (code, _, said) = fetch_with(port, &format!("{twin}{pem}"));
    assert_eq!(code, Some(0), "{said}");
}
