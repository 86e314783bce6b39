//! Who does not want an answer any more has the socket closed that waits for it, and is not kept waiting by a
//! server that says nothing or drips.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use fetch::{Client, CredentialsFrom, Error, Expect, ObjectRef, Options, Stop};

/// No wait ends by itself before this.
const LONG: Duration = Duration::from_secs(600);

/// What only a hang reaches.
const BOUND: Duration = Duration::from_secs(60);

fn client(listener: &TcpListener, stop: &Arc<AtomicBool>) -> Client {
    let stop = stop.clone();
    let options = Options {
        endpoint: Some(format!("http://{}", listener.local_addr().unwrap())),
        credentials: CredentialsFrom::Anonymous,
        first_byte_timeout: LONG,
        answer_timeout: LONG,
        stall_timeout: LONG,
        patience: LONG,
        stop: Stop::new(move || stop.load(Ordering::Relaxed)),
        ..Options::default()
    };
    Client::new(&options).unwrap()
}

/// Takes the request, and says so much.
fn answered(listener: &TcpListener, says: &str) -> TcpStream {
    let (mut stream, _) = listener.accept().unwrap();
    let mut request = [0; 4096];
    assert!(stream.read(&mut request).unwrap() > 0);
    stream.write_all(says.as_bytes()).unwrap();
    stream
}

/// Asks, is answered so much, and does not want the rest.
fn stopped(says: &str, ask: impl FnOnce(Client) -> Error + Send + 'static) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let client = client(&listener, &stop);
    let (to, from) = channel();
    let asking = thread::spawn(move || to.send(ask(client)));
    let mut stream = answered(&listener, says);
    let early = from.recv_timeout(Duration::from_millis(300));
    assert!(early.is_err(), "it does not wait: {early:?}");
    stop.store(true, Ordering::Relaxed);
    let asked = Instant::now();
    stream.set_read_timeout(Some(BOUND)).unwrap();
    // The end of it, or a reset; and not the bound.
    let end = stream.read(&mut [0; 64]);
    assert!(asked.elapsed() < BOUND, "the socket stays open: {end:?}");
    let error = from.recv_timeout(BOUND).expect("an end");
    eprintln!("closed after {} ms: {error}", asked.elapsed().as_millis());
    asking.join().unwrap().unwrap();
}

#[test]
fn the_socket_is_closed_wherever_it_waits() {
    let object: ObjectRef = "s3://bkt/key".parse().unwrap();
    let head = "HTTP/1.1 200 OK\r\nETag: \"1\"\r\nContent-Length: 100000\r\n\r\n";
    let of = object.clone();
    stopped("", move |client| client.head(&of).unwrap_err());
    stopped("HTTP/1.1 200 OK\r\nETa", |client| client.list("bkt", "p/").unwrap_err());
    stopped(head, |client| client.list("bkt", "p/").unwrap_err());
    stopped(head, move |client| {
        let mut body = client.open(&object, &Expect::default()).unwrap();
        let error = body.read_to_end(&mut Vec::new()).unwrap_err();
        error.downcast::<Error>().unwrap()
    });
}

/// What is read whole has its time, however it drips.
#[test]
fn a_body_that_drips_ends_in_its_time() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = client(&listener, &Arc::default());
    thread::spawn(move || {
        let mut stream = answered(&listener, "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n");
        while stream.write_all(b"x").is_ok() {
            thread::sleep(Duration::from_millis(20));
        }
    });
    let object: ObjectRef = "s3://bkt/key".parse().unwrap();
    let body = client.open(&object, &Expect::default()).unwrap();
    let error = body.within(Duration::from_millis(300)).read_to_end(&mut Vec::new()).unwrap_err();
    let error = error.downcast::<Error>().unwrap();
    assert!(matches!(error, Error::Overdue { .. }), "{error}");
}
