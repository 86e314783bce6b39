//! A stand-in for a server of objects that is strict where a real one is: each write is one step, conditions are
//! judged in it, and parts are held to their ETags. It counts requests, and can kill who sends one. It checks no
//! signature (the real server does), only that there is one.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// What becomes of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// 503, and nothing is done.
    Busy,
    /// The connection ends after the head of the request.
    Cut,
    /// It is done, and the connection ends without an answer.
    Lost,
}

/// When who sends a request is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    /// When the head of the request has come, and nothing is done.
    Before,
    /// When it is done, and nothing is answered.
    After,
}

/// By number, with their ETags.
type Parts = BTreeMap<u32, (Vec<u8>, String)>;

#[derive(Default)]
struct State {
    /// By key, with their ETags.
    objects: BTreeMap<String, (Vec<u8>, String)>,
    /// By id: the key, and the parts.
    uploads: BTreeMap<String, (String, Parts)>,
    next: u32,
    /// Method, path and query of each request, and its status.
    requests: Vec<(String, u16)>,
    /// Writes although a condition does not hold.
    ignores: bool,
    fault: Option<(usize, Fault)>,
    kills: Option<(usize, When)>,
    victim: Option<i32>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// A running stand-in; its threads end with the tests' process.
pub(crate) struct StandIn {
    shared: Arc<Shared>,
    pub(crate) address: SocketAddr,
}

struct Request {
    method: String,
    key: String,
    query: BTreeMap<String, String>,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    /// Sent as the length of a HEAD.
    length: Option<usize>,
}

fn answer(status: u16, body: impl Into<Vec<u8>>) -> Answer {
    Answer { status, headers: Vec::new(), body: body.into(), length: None }
}

fn error(status: u16, code: &str) -> Answer {
    answer(status, format!("<Error><Code>{code}</Code><Message>by the stand-in</Message></Error>"))
}

fn etag(bytes: &[u8]) -> String {
    format!("\"{:x}\"", md5::compute(bytes))
}

fn decoded(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((first, after)) = rest.split_first() {
        match (first, after) {
            (b'%', [high, low, after @ ..]) => {
                let hex = [*high, *low];
                bytes.push(u8::from_str_radix(std::str::from_utf8(&hex).unwrap(), 16).unwrap());
                rest = after;
            }
            (byte, after) => {
                bytes.push(*byte);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).unwrap()
}

impl StandIn {
    /// With one bucket, `bkt`.
    pub(crate) fn start() -> StandIn {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let own = shared.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let own = own.clone();
                std::thread::spawn(move || drop(serve(&client, &own)));
            }
        });
        StandIn { shared, address }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn ignore_conditions(&self) {
        self.state().ignores = true;
    }

    /// Who sends the request of this number, counted from 0 and from now, is killed.
    pub(crate) fn kill_at(&self, number: usize, when: When) {
        let mut state = self.state();
        state.requests.clear();
        (state.kills, state.victim) = (Some((number, when)), None);
    }

    /// The request of this number, counted from 0 and from now, comes to grief.
    pub(crate) fn fail_at(&self, number: usize, fault: Fault) {
        let mut state = self.state();
        state.requests.clear();
        state.fault = Some((number, fault));
    }

    /// Who is to be killed.
    pub(crate) fn victim(&self, pid: u32) {
        self.state().victim = i32::try_from(pid).ok();
        self.shared.changed.notify_all();
    }

    pub(crate) fn spare(&self) {
        let mut state = self.state();
        state.requests.clear();
        (state.kills, state.fault) = (None, None);
    }

    pub(crate) fn requests(&self) -> Vec<(String, u16)> {
        self.state().requests.clone()
    }

    pub(crate) fn keys(&self) -> Vec<String> {
        self.state().objects.keys().cloned().collect()
    }

    pub(crate) fn get(&self, key: &str) -> Option<Vec<u8>> {
        self.state().objects.get(key).map(|(bytes, _)| bytes.clone())
    }

    pub(crate) fn put(&self, key: &str, bytes: &[u8]) {
        self.state().objects.insert(key.to_owned(), (bytes.to_vec(), etag(bytes)));
    }

    pub(crate) fn unfinished(&self) -> usize {
        self.state().uploads.len()
    }

    /// One byte of a part of an unfinished upload is another.
    pub(crate) fn damage_part(&self, number: u32) {
        let mut state = self.state();
        let (_, parts) = state.uploads.values_mut().next().unwrap();
        let (bytes, tag) = parts.get_mut(&number).unwrap();
        bytes[0] ^= 1;
        *tag = etag(bytes);
    }
}

/// Waits for who it is, and kills.
fn strike(shared: &Shared) {
    let state = shared.state.lock().unwrap_or_else(PoisonError::into_inner);
    let state = shared.changed.wait_while(state, |state| state.victim.is_none());
    let pid = state.unwrap_or_else(PoisonError::into_inner).victim.unwrap();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
}

fn serve(client: &TcpStream, shared: &Shared) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    let mut reader = BufReader::new(client);
    loop {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            match line.trim_end() {
                "" => break,
                text => lines.push(text.to_owned()),
            }
        }
        let mut words = lines[0].split(' ');
        let (method, target) = (words.next().unwrap(), words.next().unwrap());
        let number = {
            let mut state = shared.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.requests.push((format!("{method} {target}"), 0));
            state.requests.len() - 1
        };
        let (kills, fault) = {
            let state = shared.state.lock().unwrap_or_else(PoisonError::into_inner);
            (state.kills, state.fault)
        };
        let fault = fault.filter(|(at, _)| *at == number).map(|(_, fault)| fault);
        if fault == Some(Fault::Cut) {
            return Ok(());
        }
        if kills == Some((number, When::Before)) {
            strike(shared);
            return Ok(());
        }
        let headers: BTreeMap<String, String> = lines[1..]
            .iter()
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let query = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(name), decoded(value))
        });
        let bucket = path.strip_prefix("/bkt").unwrap();
        let request = Request {
            method: method.to_owned(),
            key: decoded(bucket.strip_prefix('/').unwrap_or_default()),
            query: query.collect(),
            headers,
            body,
        };
        let done = {
            let mut state = shared.state.lock().unwrap_or_else(PoisonError::into_inner);
            let done = match request.headers.contains_key("authorization") {
                _ if fault == Some(Fault::Busy) => error(503, "SlowDown"),
                true => state.answer(&request),
                false => error(403, "AccessDenied"),
            };
            if let Some(entry) = state.requests.get_mut(number) {
                entry.1 = done.status;
            }
            done
        };
        if kills == Some((number, When::After)) {
            strike(shared);
            return Ok(());
        }
        if fault == Some(Fault::Lost) {
            return Ok(());
        }
        let mut head = format!("HTTP/1.1 {} X\r\n", done.status);
        head += &format!("Content-Length: {}\r\n", done.length.unwrap_or(done.body.len()));
        for (name, value) in &done.headers {
            head += &format!("{name}: {value}\r\n");
        }
        let mut client = client;
        client.write_all((head + "\r\n").as_bytes())?;
        if request.method != "HEAD" {
            client.write_all(&done.body)?;
        }
    }
}

impl State {
    fn answer(&mut self, request: &Request) -> Answer {
        let Request { method, key, query, .. } = request;
        let upload = query.get("uploadId").cloned();
        match (method.as_str(), upload) {
            ("GET", None) if query.contains_key("list-type") => self.list(&query["prefix"]),
            ("GET", None) if query.contains_key("uploads") => {
                let mut text = "<ListMultipartUploadsResult>".to_owned();
                for (id, (own, _)) in &self.uploads {
                    if own.starts_with(&query["prefix"]) {
                        let id = id.replace('&', "&amp;");
                        text +=
                            &format!("<Upload><Key>{own}</Key><UploadId>{id}</UploadId></Upload>");
                    }
                }
                answer(200, text + "</ListMultipartUploadsResult>")
            }
            ("GET" | "HEAD", None) => self.read(request),
            ("PUT", None) => {
                if let Some(refused) = self.refuses(request) {
                    return refused;
                }
                let tag = etag(&request.body);
                self.objects.insert(key.clone(), (request.body.clone(), tag.clone()));
                Answer { headers: vec![("ETag", tag)], ..answer(200, "") }
            }
            ("DELETE", None) => {
                self.objects.remove(key);
                answer(204, "")
            }
            ("POST", None) if query.contains_key("uploads") => {
                self.next += 1;
                let id = format!("{:04}/+&=", self.next);
                self.uploads.insert(id.clone(), (key.clone(), BTreeMap::new()));
                let id = id.replace('&', "&amp;");
                answer(
                    200,
                    format!(
                        "<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"
                    ),
                )
            }
            (method, Some(id)) => match self.uploads.get(&id) {
                Some((own, _)) if own == key => self.in_parts(method, &id, request),
                Some(_) | None => error(404, "NoSuchUpload"),
            },
            _ => error(501, "NotImplemented"),
        }
    }

    fn refuses(&self, request: &Request) -> Option<Answer> {
        if self.ignores {
            return None;
        }
        let found = self.objects.get(&request.key);
        if let Some(due) = request.headers.get("if-match") {
            match found {
                None => return Some(error(404, "NoSuchKey")),
                Some((_, tag)) if tag != due => return Some(error(412, "PreconditionFailed")),
                Some(_) => {}
            }
        }
        let absent = request.headers.get("if-none-match").is_some_and(|due| due == "*");
        (absent && found.is_some()).then(|| error(412, "PreconditionFailed"))
    }

    fn read(&self, request: &Request) -> Answer {
        let Some((bytes, tag)) = self.objects.get(&request.key) else {
            return error(404, "NoSuchKey");
        };
        let mut headers = vec![("ETag", tag.clone())];
        if request.headers.get("if-none-match") == Some(tag) && !self.ignores {
            return Answer { headers, ..answer(304, "") };
        }
        let range = request.headers.get("range").and_then(|range| range.strip_prefix("bytes="));
        let (status, bytes) = match range.and_then(|range| range.split_once('-')) {
            Some((first, last)) => {
                let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
                let size = bytes.len();
                // A range may end behind the object, and begin in it (RFC 9110 14.1.2).
                let last = last.min(size - 1);
                headers.push(("Content-Range", format!("bytes {first}-{last}/{size}")));
                (206, &bytes[first..=last])
            }
            None => (200, bytes.as_slice()),
        };
        Answer { status, headers, length: Some(bytes.len()), body: bytes.to_vec() }
    }

    fn list(&self, prefix: &str) -> Answer {
        let mut text = "<ListBucketResult><EncodingType>url</EncodingType>".to_owned();
        text += "<IsTruncated>false</IsTruncated>";
        for (key, (bytes, tag)) in &self.objects {
            if key.starts_with(prefix) {
                let size = bytes.len();
                text += &format!(
                    "<Contents><Key>{key}</Key><Size>{size}</Size><ETag>{tag}</ETag></Contents>"
                );
            }
        }
        answer(200, text + "</ListBucketResult>")
    }

    fn in_parts(&mut self, method: &str, id: &str, request: &Request) -> Answer {
        let (key, parts) = self.uploads.get_mut(id).unwrap();
        match method {
            "PUT" => {
                let number = request.query["partNumber"].parse().unwrap();
                let tag = etag(&request.body);
                parts.insert(number, (request.body.clone(), tag.clone()));
                Answer { headers: vec![("ETag", tag)], ..answer(200, "") }
            }
            "GET" => {
                // Pages of two.
                let marker = request.query.get("part-number-marker");
                let after: u32 = marker.map_or(0, |marker| marker.parse().unwrap());
                let page: Vec<_> = parts.range(after + 1..).take(2).collect();
                let last = page.last().map_or(after, |(number, _)| **number);
                let mut text = "<ListPartsResult>".to_owned();
                for (number, (bytes, tag)) in page {
                    let size = bytes.len();
                    text += &format!(
                        "<Part><PartNumber>{number}</PartNumber><Size>{size}</Size><ETag>{tag}</ETag></Part>"
                    );
                }
                let more = parts.range(last + 1..).next().is_some();
                text += &format!(
                    "<IsTruncated>{more}</IsTruncated><NextPartNumberMarker>{last}</NextPartNumberMarker>"
                );
                answer(200, text + "</ListPartsResult>")
            }
            "DELETE" => {
                self.uploads.remove(id);
                answer(204, "")
            }
            "POST" => {
                let text = String::from_utf8(request.body.clone()).unwrap();
                let (mut whole, mut sums, mut count) = (Vec::new(), Vec::new(), 0);
                for part in text.split("<Part>").skip(1) {
                    let field = |name: &str| {
                        let rest = part.split(&format!("<{name}>")).nth(1).unwrap();
                        rest.split('<').next().unwrap().to_owned()
                    };
                    let number: u32 = field("PartNumber").parse().unwrap();
                    count += 1;
                    match parts.get(&number) {
                        Some((bytes, tag)) if *tag == field("ETag") && number == count => {
                            whole.extend_from_slice(bytes);
                            sums.extend(md5::compute(bytes).0);
                        }
                        Some(_) | None => return error(400, "InvalidPart"),
                    }
                }
                let (key, tag) = (key.clone(), format!("\"{:x}-{count}\"", md5::compute(&sums)));
                self.uploads.remove(id);
                self.objects.insert(key, (whole, tag));
                answer(
                    200,
                    " \n<CompleteMultipartUploadResult><ETag>x</ETag></CompleteMultipartUploadResult>",
                )
            }
            _ => error(501, "NotImplemented"),
        }
    }
}
