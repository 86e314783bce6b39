//! A small S3-shaped HTTP server that does what it is told, right or wrong.
//!
//! It answers as a good server would; a test's plan may then spoil the reply. Not a mock of ours:
//! it speaks over a socket to the real program. It checks no signatures (`real_server.rs` does).

#![allow(dead_code, unreachable_pub)]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};

/// What was asked.
#[derive(Clone, Debug)]
pub struct Request {
    pub number: usize,
    pub method: String,
    pub path: String,
    pub query: String,
    pub headers: HashMap<String, String>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn range(&self) -> Option<(usize, usize)> {
        let (first, last) = self.headers.get("range")?.strip_prefix("bytes=")?.split_once('-')?;
        Some((first.parse().ok()?, last.parse().unwrap_or(usize::MAX)))
    }
}

/// How the body goes out.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    Whole,
    /// So many bytes, then FIN.
    Cut(usize),
    /// So many bytes, then RST.
    Reset(usize),
    /// So many bytes, then silence until the client goes.
    Hang(usize),
    /// So many bytes, then one every 100 ms.
    Drip(usize),
    /// All, with so many microseconds after each 64 KiB.
    Steady(u64),
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub pace: Pace,
    /// Sent instead of everything else.
    pub raw: Option<Vec<u8>>,
    /// Do not answer at all.
    pub mute: bool,
    pub delay: Duration,
}

impl Reply {
    pub fn new(status: u16, body: &[u8]) -> Reply {
        let headers = vec![("Content-Length".to_owned(), body.len().to_string())];
        let (pace, raw, delay) = (Pace::Whole, None, Duration::ZERO);
        Reply { status, headers, body: body.to_vec(), pace, raw, mute: false, delay }
    }

    /// An S3 error document.
    pub fn error(status: u16, code: &str) -> Reply {
        let text = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code></Error>");
        Reply::new(status, text.as_bytes())
    }

    pub fn raw(bytes: &[u8]) -> Reply {
        Reply { raw: Some(bytes.to_vec()), ..Reply::new(200, b"") }
    }

    pub fn without(mut self, name: &str) -> Reply {
        self.headers.retain(|(n, _)| !n.eq_ignore_ascii_case(name));
        self
    }

    pub fn with(self, name: &str, value: &str) -> Reply {
        let mut reply = self.without(name);
        reply.headers.push((name.to_owned(), value.to_owned()));
        reply
    }

    pub fn pace(self, pace: Pace) -> Reply {
        Reply { pace, ..self }
    }

    /// The body in chunks instead of with a length; `whole` with its end.
    pub fn chunked(mut self, whole: bool) -> Reply {
        let mut coded = Vec::new();
        for chunk in self.body.chunks(10_000) {
            coded.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
            coded.extend(chunk);
            coded.extend(b"\r\n");
        }
        if whole {
            coded.extend(b"0\r\n\r\n");
        }
        self.body = coded;
        let close = self.without("content-length").with("Transfer-Encoding", "chunked");
        close.with("Connection", "close")
    }
}

pub type Plan = Arc<dyn Fn(&Request, Reply) -> Reply + Send + Sync>;

/// A running server with one object, whatever the key, and one ETag.
pub struct Server {
    pub port: u16,
    pub requests: Arc<Mutex<Vec<Request>>>,
    /// Bytes of bodies that were put on the wire.
    pub sent: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the accepting thread.
        TcpStream::connect(("127.0.0.1", self.port)).ok();
    }
}

pub const ETAG: &str = "\"0123456789abcdef0123456789abcdef\"";

/// The answer of a good server.
pub fn good(request: &Request, object: &[u8]) -> Reply {
    if request.headers.get("if-match").is_some_and(|etag| etag != ETAG) {
        return Reply::error(412, "PreconditionFailed");
    }
    let reply = match request.range() {
        Some((first, _)) if first >= object.len() => Reply::error(416, "InvalidRange"),
        Some((first, last)) => {
            let last = last.min(object.len() - 1);
            let range = format!("bytes {first}-{last}/{}", object.len());
            Reply::new(206, &object[first..=last]).with("Content-Range", &range)
        }
        None => Reply::new(200, object),
    };
    reply.with("ETag", ETAG)
}

impl Server {
    pub fn start(object: Vec<u8>, plan: Plan) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind a port on loopback");
        let port = listener.local_addr().unwrap().port();
        let requests: Arc<Mutex<Vec<Request>>> = Arc::default();
        let (sent, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let object = Arc::new(object);
        let shared = (requests.clone(), sent.clone(), stop.clone());
        thread::spawn(move || {
            let (requests, sent, stop) = shared;
            for stream in listener.incoming() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let (plan, object, requests) = (plan.clone(), object.clone(), requests.clone());
                let (sent, stop) = (sent.clone(), stop.clone());
                thread::spawn(move || serve(stream, &plan, &object, &requests, &sent, &stop));
            }
        });
        Server { port, requests, sent, stop }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn count(&self) -> usize {
        self.requests.lock().unwrap().len()
    }
}

fn serve(
    stream: TcpStream,
    plan: &Plan,
    object: &[u8],
    requests: &Mutex<Vec<Request>>,
    sent: &AtomicU64,
    stop: &AtomicBool,
) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut out = stream;
    while let Some(mut request) = read_request(&mut reader) {
        {
            let mut requests = requests.lock().unwrap();
            request.number = requests.len();
            requests.push(request.clone());
        }
        let reply = plan(&request, good(&request, object));
        if !send(&mut out, &request, &reply, sent, stop) {
            return;
        }
    }
}

fn read_request(reader: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
    let mut words = line.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let (path, query) = (path.to_owned(), query.to_owned());
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").map_or(0, |text| text.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Request { number: 0, method, path, query, headers, body })
}

/// False when the connection is over.
fn send(
    out: &mut TcpStream,
    request: &Request,
    reply: &Reply,
    sent: &AtomicU64,
    stop: &AtomicBool,
) -> bool {
    thread::sleep(reply.delay);
    if reply.mute {
        wait_for_the_end(out, stop);
        return false;
    }
    if let Some(raw) = &reply.raw {
        out.write_all(raw).ok();
        return false;
    }
    let mut head = format!("HTTP/1.1 {} X\r\n", reply.status);
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    let mut body: &[u8] = if request.method == "HEAD" { b"" } else { &reply.body };
    let whole = body;
    match reply.pace {
        Pace::Whole | Pace::Steady(_) => {}
        Pace::Cut(n) | Pace::Reset(n) | Pace::Hang(n) | Pace::Drip(n) => {
            body = &body[..n.min(body.len())];
        }
    }
    if out.write_all(head.as_bytes()).is_err() {
        return false;
    }
    for piece in body.chunks(64 << 10) {
        if out.write_all(piece).is_err() {
            return false;
        }
        sent.fetch_add(piece.len() as u64, Ordering::SeqCst);
        if let Pace::Steady(micros) = reply.pace {
            thread::sleep(Duration::from_micros(micros));
        }
    }
    match reply.pace {
        Pace::Whole | Pace::Steady(_) => {
            // One that does not say where it ends says so by closing.
            let close = |(n, v): &(String, String)| n == "Connection" && v == "close";
            let length = |(n, _): &(String, String)| n == "Content-Length";
            !reply.headers.iter().any(close) && reply.headers.iter().any(length)
        }
        Pace::Cut(_) => false,
        Pace::Reset(_) => {
            let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
            // The client must have the bytes before the reset overtakes them.
            thread::sleep(Duration::from_millis(50));
            setsockopt(&*out, sockopt::Linger, &linger).unwrap();
            false
        }
        Pace::Hang(_) => {
            wait_for_the_end(out, stop);
            false
        }
        Pace::Drip(_) => {
            for byte in &whole[body.len()..] {
                thread::sleep(Duration::from_millis(100));
                if stop.load(Ordering::SeqCst) || out.write_all(&[*byte]).is_err() {
                    return false;
                }
                sent.fetch_add(1, Ordering::SeqCst);
            }
            true
        }
    }
}

fn wait_for_the_end(out: &mut TcpStream, stop: &AtomicBool) {
    out.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    while !stop.load(Ordering::SeqCst) {
        match out.read(&mut [0; 64]) {
            Ok(0) => return,
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

/// Bytes that look random and are the same every time (xorshift64*).
pub fn noise(size: usize, seed: u64) -> Vec<u8> {
    let mut dice = Dice(seed);
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        bytes.extend(dice.next().to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

/// A seeded generator.
pub struct Dice(pub u64);

impl Dice {
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap()
    }
}
