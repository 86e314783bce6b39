//! A proxy before an S3 server that sees each request and counts the bytes of each answer. It can
//! hold an answer back in the middle, so that a scenario kills a program at a known place, and spoil
//! one answer or all from one on.
//!
//! Requests and answers pass byte for byte: signatures hold, as the Host header is the client's.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// One request, and what came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    /// GET, HEAD, ...
    pub method: String,
    /// Path and query as sent.
    pub target: String,
    /// Status code of the answer; 0 until it came.
    pub status: u16,
    /// Bytes of the answer's body that have passed.
    pub bytes: u64,
}

impl Exchange {
    /// A GET of an object rather than of a listing.
    #[must_use]
    pub fn is_object(&self) -> bool {
        self.method == "GET" && !self.target.contains('?') && self.target.matches('/').count() > 1
    }
}

/// Where to hold an answer back.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Hold {
    /// The target ends so.
    suffix: String,
    /// Bytes of the body to let pass.
    after: u64,
    /// The exchange that is held back.
    reached: Option<usize>,
}

/// What becomes of an answer instead of passing on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spoil {
    /// This status with S3's error code of that name; the server is not asked.
    Status(u16, &'static str),
    /// The connection ends after this many bytes of head and body, in order (FIN) or with a reset (RST).
    Cut {
        /// Bytes that pass.
        after: u64,
        /// Whether it is a reset.
        reset: bool,
    },
    /// After so many bytes of head and body nothing more comes, and the connection stays open.
    Stall(u64),
}

/// Which answers are spoilt: from this request on, counted from 0, only it or all.
#[derive(Debug, Clone, Copy)]
struct Spoilt {
    from: usize,
    always: bool,
    how: Spoil,
}

#[derive(Debug, Default)]
struct State {
    exchanges: Vec<Exchange>,
    hold: Option<Hold>,
    spoilt: Option<Spoilt>,
    /// The exchange whose connection ends where it is.
    cut: Option<usize>,
    /// The ETags of the objects whose keys end so.
    forged: Vec<(String, String)>,
}

impl State {
    fn forged(&self, key: &str) -> Option<&str> {
        let mut forged = self.forged.iter().rev();
        forged.find(|(suffix, _)| key.ends_with(suffix)).map(|(_, etag)| etag.as_str())
    }
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The proxy; its threads end with the scenario's process.
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Proxy {
    /// Listens on a free port of the loopback and passes everything to `server`.
    ///
    /// # Errors
    /// It cannot listen.
    pub fn start(server: SocketAddr) -> Result<Proxy> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        let proxy = Proxy { shared: Arc::clone(&shared), address };
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || {
                    // A connection that breaks is the client's or the server's affair.
                    let reset = pass(&client, server, &shared).unwrap_or(false);
                    if !reset {
                        client.shutdown(Shutdown::Both).ok();
                    }
                });
            }
        });
        Ok(proxy)
    }

    /// All requests so far.
    #[must_use]
    pub fn exchanges(&self) -> Vec<Exchange> {
        self.shared.lock().exchanges.clone()
    }

    /// Forgets the requests so far.
    pub fn clear(&self) {
        let mut state = self.shared.lock();
        state.exchanges.clear();
        state.cut = None;
    }

    /// Spoils the answer to request `from` of those after the last [`Proxy::clear`], or `always` to all
    /// from there on; until [`Proxy::release`].
    pub fn spoil(&self, from: usize, always: bool, how: Spoil) {
        self.shared.lock().spoilt = Some(Spoilt { from, always, how });
    }

    /// From now on the objects whose keys end so have this ETag, in listings and in answers: 32 characters,
    /// as the server's own have.
    pub fn forge_etag(&self, suffix: &str, etag: &str) {
        assert_eq!(etag.len(), 32, "{etag}");
        self.shared.lock().forged.push((suffix.to_owned(), etag.to_owned()));
    }

    /// Holds back the answer to the next GET whose path ends so, once `after` bytes have passed.
    pub fn hold(&self, suffix: &str, after: u64) {
        let hold = Hold { suffix: suffix.to_owned(), after, reached: None };
        self.shared.lock().hold = Some(hold);
    }

    /// Waits until an answer is held back.
    ///
    /// # Errors
    /// That does not happen within `bound`.
    pub fn wait_held(&self, bound: Duration) -> Result<()> {
        let deadline = Instant::now() + bound;
        let mut state = self.shared.lock();
        while state.hold.as_ref().is_none_or(|hold| hold.reached.is_none()) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("no answer came so far that it could be held back: {:?}", state.exchanges);
            }
            let (next, _) = self
                .shared
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner);
            state = next;
        }
        Ok(())
    }

    /// Ends the connection of the answer that is held back, and lets everything else pass again.
    pub fn cut(&self) {
        {
            let mut state = self.shared.lock();
            state.cut = state.hold.take().and_then(|hold| hold.reached);
        }
        self.shared.changed.notify_all();
    }

    /// Lets everything pass again.
    pub fn release(&self) {
        {
            let mut state = self.shared.lock();
            (state.hold, state.spoilt) = (None, None);
        }
        self.shared.changed.notify_all();
    }
}

/// One connection: request, answer, request, answer, until one side has enough. Gives whether it is to
/// end in a reset.
fn pass(client: &TcpStream, server: SocketAddr, shared: &Shared) -> Result<bool> {
    let upstream = TcpStream::connect(server)?;
    // Head and body are two writes: without this the second waits until the first is acknowledged (RFC 896).
    client.set_nodelay(true)?;
    upstream.set_nodelay(true)?;
    let mut from_client = BufReader::new(client);
    let mut from_server = BufReader::new(&upstream);
    loop {
        let Some(request) = Head::read(&mut from_client)? else { return Ok(false) };
        let mut words = request.first.split(' ');
        let (method, target) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        let (at, spoil) = {
            let mut state = shared.lock();
            state.exchanges.push(Exchange {
                method: method.to_owned(),
                target: target.to_owned(),
                status: 0,
                bytes: 0,
            });
            let at = state.exchanges.len() - 1;
            let hit = |spoilt: &Spoilt| at == spoilt.from || at > spoilt.from && spoilt.always;
            (at, state.spoilt.filter(hit).map(|spoilt| spoilt.how))
        };
        if let Some(Spoil::Status(status, code)) = spoil {
            let document = format!("<Error><Code>{code}</Code></Error>");
            let length = document.len();
            let head = format!("HTTP/1.1 {status} Spoilt\r\nContent-Length: {length}\r\n\r\n");
            let none = if method == "HEAD" { "" } else { &document };
            (&*client).write_all(format!("{head}{none}").as_bytes())?;
            if let Some(exchange) = shared.lock().exchanges.get_mut(at) {
                exchange.status = status;
            }
            continue;
        }
        let forged = {
            let state = shared.lock();
            let path = target.split('?').next().unwrap_or(target);
            (state.forged(path).map(str::to_owned), !state.forged.is_empty())
        };
        match &forged.0 {
            // The server knows of no such ETag.
            Some(_) => (&upstream).write_all(&request.without("if-match"))?,
            None => (&upstream).write_all(&request.bytes)?,
        }
        std::io::copy(&mut (&mut from_client).take(request.length.unwrap_or(0)), &mut &upstream)?;

        let Some(answer) = Head::read(&mut from_server)? else { return Ok(false) };
        let status = answer.first.split(' ').nth(1).and_then(|code| code.parse().ok());
        if let Some(exchange) = shared.lock().exchanges.get_mut(at) {
            exchange.status = status.unwrap_or(0);
        }
        if let Some(spoil) = spoil {
            let length = if method == "HEAD" { 0 } else { answer.length.unwrap_or(0) };
            let whole = answer.bytes.as_slice().chain((&mut from_server).take(length));
            return spoil_answer(spoil, whole, client);
        }
        let mut head = answer.bytes.clone();
        if let Some(etag) = &forged.0 {
            forge_after(&mut head, b"\netag:", etag);
        }
        (&*client).write_all(&head)?;
        let none = method == "HEAD" || matches!(status, Some(204 | 304));
        match answer.length {
            _ if none => {}
            Some(length) if forged.1 && target.contains("list-type") => {
                let mut listing = Vec::new();
                (&mut from_server).take(length).read_to_end(&mut listing)?;
                forge_listing(&mut listing, &shared.lock());
                body(&mut listing.as_slice(), client, shared, at)?;
            }
            Some(length) => body(&mut (&mut from_server).take(length), client, shared, at)?,
            // Framed in another way: pass everything on until the server closes.
            None => {
                body(&mut from_server, client, shared, at)?;
                return Ok(false);
            }
        }
        if answer.close {
            return Ok(false);
        }
    }
}

/// Writes an ETag over the one that stands after `mark`, which is in lower case.
fn forge_after(text: &mut [u8], mark: &[u8], etag: &str) {
    let lower = text.to_ascii_lowercase();
    let Some(at) = lower.windows(mark.len()).position(|part| part == mark) else { return };
    let from = at + mark.len();
    let hex = |byte: &u8| byte.is_ascii_hexdigit();
    let runs = lower[from..].windows(32).position(|part| part.iter().all(hex));
    if let Some(run) = runs {
        text[from + run..][..32].copy_from_slice(etag.as_bytes());
    }
}

/// A listing in which objects have other ETags: as many bytes as before.
fn forge_listing(listing: &mut [u8], state: &State) {
    let find = |text: &[u8], part: &str| {
        text.windows(part.len()).position(|found| found == part.as_bytes())
    };
    let mut from = 0;
    while let Some(at) = find(&listing[from..], "<Contents>") {
        let start = from + at;
        let Some(length) = find(&listing[start..], "</Contents>") else { return };
        let entry = &mut listing[start..start + length];
        let key = find(entry, "<Key>").zip(find(entry, "</Key>"));
        let key = key.map(|(at, end)| String::from_utf8_lossy(&entry[at + 5..end]).into_owned());
        if let Some(etag) = key.and_then(|key| state.forged(&key).map(str::to_owned)) {
            forge_after(entry, b"<etag>", &etag);
        }
        from = start + length;
    }
}

/// A part of the whole answer, and an end that is none; gives whether that is a reset.
fn spoil_answer(spoil: Spoil, whole: impl Read, mut client: &TcpStream) -> Result<bool> {
    let after = match spoil {
        Spoil::Status(..) => 0,
        Spoil::Cut { after, .. } | Spoil::Stall(after) => after,
    };
    std::io::copy(&mut whole.take(after), &mut client)?;
    match spoil {
        Spoil::Status(..) | Spoil::Cut { reset: false, .. } => Ok(false),
        Spoil::Cut { reset: true, .. } => {
            // Closed without waiting for what is not sent yet: a reset (SO_LINGER, socket(7)).
            rustix::net::sockopt::set_socket_linger(client, Some(Duration::ZERO))?;
            Ok(true)
        }
        Spoil::Stall(_) => {
            // Until the client has enough of waiting.
            std::io::copy(&mut client, &mut std::io::sink())?;
            Ok(false)
        }
    }
}

fn body(from: &mut impl Read, mut client: &TcpStream, shared: &Shared, at: usize) -> Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let Some(room) = wait_room(shared, at, buffer.len()) else { bail!("cut") };
        let length = from.read(&mut buffer[..room])?;
        if length == 0 {
            return Ok(());
        }
        client.write_all(&buffer[..length])?;
        if let Some(exchange) = shared.lock().exchanges.get_mut(at) {
            exchange.bytes += length as u64;
        }
    }
}

/// How many bytes may pass now, or none any more; waits while the answer is held back.
fn wait_room(shared: &Shared, at: usize, most: usize) -> Option<usize> {
    let mut state = shared.lock();
    loop {
        let State { exchanges, hold, cut, .. } = &mut *state;
        if *cut == Some(at) {
            return None;
        }
        let (Some(exchange), Some(hold)) = (exchanges.get(at), hold.as_mut()) else {
            return Some(most);
        };
        if !exchange.target.ends_with(&hold.suffix) {
            return Some(most);
        }
        let left = hold.after.saturating_sub(exchange.bytes);
        if left > 0 {
            return Some(usize::try_from(left).map_or(most, |left| left.min(most)));
        }
        hold.reached = Some(at);
        shared.changed.notify_all();
        state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
    }
}

/// A request's or an answer's first line and headers.
struct Head {
    bytes: Vec<u8>,
    first: String,
    length: Option<u64>,
    close: bool,
}

impl Head {
    /// The bytes without this header, whose name is in lower case.
    fn without(&self, name: &str) -> Vec<u8> {
        let lines = self.bytes.split_inclusive(|byte| *byte == b'\n');
        let is = |line: &&[u8]| {
            line.split(|byte| *byte == b':')
                .next()
                .is_some_and(|start| start.eq_ignore_ascii_case(name.as_bytes()))
        };
        lines.filter(|line| !is(line)).flatten().copied().collect()
    }

    /// None at the end of the stream.
    fn read(from: &mut impl BufRead) -> Result<Option<Head>> {
        let mut head = Head { bytes: Vec::new(), first: String::new(), length: None, close: false };
        loop {
            let start = head.bytes.len();
            if from.read_until(b'\n', &mut head.bytes)? == 0 {
                return Ok(None);
            }
            let line = String::from_utf8_lossy(&head.bytes[start..]).trim_end().to_owned();
            if start == 0 {
                head.first = line;
            } else if line.is_empty() {
                return Ok(Some(head));
            } else if let Some((name, value)) = line.split_once(':') {
                match name.to_ascii_lowercase().as_str() {
                    "content-length" => head.length = value.trim().parse().ok(),
                    "connection" => head.close = value.trim().eq_ignore_ascii_case("close"),
                    _ => {}
                }
            }
        }
    }
}
