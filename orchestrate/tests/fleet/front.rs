//! An origin that behaves as S3 does, before the suite's server, which does not in some ways: it says that it knows
//! ranges, judges If-Match and If-None-Match, can have too much to do or be away, and has a line of a width. It
//! counts each request and each byte of a body. Caches come to it by TLS and with signatures, hosts by neither.

use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// How the origin is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    Well,
    /// Every answer is a 503 SlowDown, with so many seconds in Retry-After.
    Busy(Option<u64>),
    /// Connections end before an answer.
    Away,
}

/// A request, and what became of it.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) status: u16,
    /// Bytes of the body.
    pub(crate) bytes: u64,
    /// By a cache: by TLS.
    pub(crate) by_cache: bool,
    /// Whom it came from, as it said.
    pub(crate) authorization: Option<String>,
}

#[derive(Debug)]
struct State {
    asked: Vec<Asked>,
    mood: Mood,
    /// Bytes a second; 0 is any number.
    rate: u64,
    /// When the line is free again.
    free: Instant,
}

/// It ends with the test's process.
#[derive(Debug)]
pub(crate) struct Front {
    state: Arc<Mutex<State>>,
    /// For hosts.
    pub(crate) plain: SocketAddr,
    /// The port for caches.
    pub(crate) tls: u16,
    /// Who vouches for the name `localhost` there.
    pub(crate) authority: String,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn certificate() -> (Arc<ServerConfig>, String) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // One of the same name as its own certificate would be taken for a certificate that signed itself.
    // And of two of one name the wrong one would be asked.
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    params.distinguished_name.push(DnType::CommonName, format!("authority {number} of the lab"));
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &authority).unwrap();
    let der = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], der)
        .unwrap();
    (Arc::new(config), authority.pem())
}

impl Front {
    /// Before a server that asks for signatures and one of the same objects that does not.
    pub(crate) fn start(signed: SocketAddr, open: SocketAddr) -> Front {
        Front::start_at(Ipv4Addr::LOCALHOST, signed, open)
    }

    /// The same, at this address.
    pub(crate) fn start_at(at: Ipv4Addr, signed: SocketAddr, open: SocketAddr) -> Front {
        let (config, authority) = certificate();
        let (asked, mood) = (Vec::new(), Mood::Well);
        let state = State { asked, mood, rate: 0, free: Instant::now() };
        let state = Arc::new(Mutex::new(state));
        let plain = accept(at, &state, move |state, stream| serve(stream, open, false, state));
        let tls = accept(at, &state, move |state, stream| {
            let connection = ServerConnection::new(config.clone()).map_err(io::Error::other)?;
            serve(StreamOwned::new(connection, stream), signed, true, state)
        });
        Front { state, plain, tls: tls.port(), authority }
    }

    /// Where caches come to it.
    pub(crate) fn by_tls(&self) -> String {
        format!("{}:{}", self.plain.ip(), self.tls)
    }

    pub(crate) fn is(&self, mood: Mood) {
        lock(&self.state).mood = mood;
    }

    /// The width of the line, 10^6 bits a second; 0 is any.
    pub(crate) fn width(&self, mbit: u64) {
        lock(&self.state).rate = mbit * 1_000_000 / 8;
    }

    /// All requests so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        lock(&self.state).asked.clone()
    }

    /// Bytes of bodies so far, of the objects whose keys have this in them.
    pub(crate) fn bytes(&self, part: &str) -> u64 {
        let state = lock(&self.state);
        state.asked.iter().filter(|one| one.target.contains(part)).map(|one| one.bytes).sum()
    }

    /// Forgets them.
    pub(crate) fn forget(&self) {
        lock(&self.state).asked.clear();
    }
}

fn accept(
    at: Ipv4Addr,
    state: &Arc<Mutex<State>>,
    serve: impl Fn(&Mutex<State>, TcpStream) -> io::Result<()> + Send + Sync + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind((at, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let (state, serve) = (state.clone(), Arc::new(serve));
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (state, serve) = (state.clone(), serve.clone());
            // A connection that breaks is the affair of whoever asked.
            thread::spawn(move || stream.set_nodelay(true).and_then(|()| serve(&state, stream)));
        }
    });
    address
}

/// A first line and its headers.
struct Head {
    first: String,
    headers: Vec<(String, String)>,
}

impl Head {
    fn parse(text: &str) -> Head {
        let mut lines = text.trim_end().split("\r\n");
        let first = lines.next().unwrap_or_default().to_owned();
        let header = |line: &str| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_owned(), value.trim().to_owned()))
        };
        Head { first, headers: lines.filter_map(header).collect() }
    }

    fn word(&self, number: usize) -> &str {
        self.first.split(' ').nth(number).unwrap_or_default()
    }

    fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// As text, without how the connection is kept, and with this line.
    fn with(&self, line: &str) -> String {
        let kept = self.headers.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("connection"));
        let kept: String = kept.map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        format!("{}\r\n{kept}{line}\r\n\r\n", self.first)
    }
}

/// The next request's head; none at the end.
fn request(stream: &mut impl Read) -> io::Result<Option<Head>> {
    let (mut bytes, mut piece) = (Vec::new(), [0; 4096]);
    while !bytes.ends_with(b"\r\n\r\n") {
        match stream.read(&mut piece)? {
            0 => return Ok(None),
            count => bytes.extend_from_slice(&piece[..count]),
        }
    }
    Ok(Some(Head::parse(&String::from_utf8_lossy(&bytes))))
}

/// One connection. Requests have no bodies, and none is sent before the last was answered.
fn serve(
    mut stream: impl Read + Write,
    server: SocketAddr,
    by_cache: bool,
    state: &Mutex<State>,
) -> io::Result<()> {
    while let Some(asked) = request(&mut stream)? {
        let (at, mood) = {
            let mut state = lock(state);
            let (method, target) = (asked.word(0).to_owned(), asked.word(1).to_owned());
            let authorization = asked.header("authorization").map(str::to_owned);
            let (status, bytes) = (0, 0);
            state.asked.push(Asked { method, target, status, bytes, by_cache, authorization });
            (state.asked.len() - 1, state.mood)
        };
        let status = |status: u16| {
            if let Some(one) = lock(state).asked.get_mut(at) {
                one.status = status;
            }
        };
        match mood {
            Mood::Well => {}
            Mood::Away => return Ok(()),
            Mood::Busy(after) => {
                status(503);
                let after = after.map_or_else(String::new, |s| format!("Retry-After: {s}\r\n"));
                let body = "<Error><Code>SlowDown</Code></Error>";
                let length = body.len();
                let head =
                    format!("HTTP/1.1 503 Slow Down\r\nContent-Length: {length}\r\n{after}\r\n");
                stream.write_all(head.as_bytes())?;
                stream.write_all(body.as_bytes())?;
                stream.flush()?;
                continue;
            }
        }
        let mut upstream = TcpStream::connect(server)?;
        upstream.write_all(asked.with("Connection: close").as_bytes())?;
        let mut upstream = BufReader::with_capacity(64 << 10, upstream);
        let mut text = String::new();
        while !text.ends_with("\r\n\r\n") {
            if upstream.read_line(&mut text)? == 0 {
                return Ok(());
            }
        }
        let answer = Head::parse(&text);
        let tag = answer.header("etag");
        let same = |name: &str| asked.header(name).map(|wanted| Some(wanted) == tag);
        let instead = match answer.word(1) {
            "200" | "206" if same("if-match") == Some(false) => Some("412 Precondition Failed"),
            "200" | "206" if same("if-none-match") == Some(true) => Some("304 Not Modified"),
            _ => None,
        };
        if let Some(instead) = instead {
            status(instead[..3].parse().unwrap());
            let (tag, length) = (tag.unwrap_or_default(), "Content-Length: 0\r\n");
            let length = if instead.starts_with("304") { "" } else { length };
            let head = format!("HTTP/1.1 {instead}\r\nETag: {tag}\r\n{length}\r\n");
            stream.write_all(head.as_bytes())?;
            stream.flush()?;
            continue;
        }
        status(answer.word(1).parse().unwrap_or(0));
        stream.write_all(answer.with("Accept-Ranges: bytes").as_bytes())?;
        let length: Option<u64> = answer.header("content-length").and_then(|n| n.parse().ok());
        if asked.word(0) != "HEAD" {
            body(&mut upstream.take(length.unwrap_or(u64::MAX)), &mut stream, state, at)?;
        }
        stream.flush()?;
        if length.is_none() {
            return Ok(());
        }
    }
    Ok(())
}

/// A body, as wide as the line is; all who are asking share it.
fn body(
    from: &mut impl Read,
    to: &mut impl Write,
    state: &Mutex<State>,
    at: usize,
) -> io::Result<()> {
    let mut buffer = vec![0; 32 << 10];
    loop {
        let count = from.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        let due = {
            let mut state = lock(state);
            if state.mood == Mood::Away {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            if let Some(nanos) = (count as u64 * 1_000_000_000).checked_div(state.rate) {
                state.free = state.free.max(Instant::now()) + Duration::from_nanos(nanos);
            }
            state.free
        };
        thread::sleep(due.saturating_duration_since(Instant::now()));
        to.write_all(&buffer[..count])?;
        if let Some(one) = lock(state).asked.get_mut(at) {
            one.bytes += count as u64;
        }
    }
}
