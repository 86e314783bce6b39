//! Who gets in, and what a client that means harm, or is only broken, can do: little, and for a while.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use tests::dice::Dice;

use crate::bench::{Bench, Host};
use crate::daemon::{Answer, Daemon, PATIENCE, exchange, log_of, receive, until};

pub(crate) const TOKEN: &str = "0123456789abcdef0123456789abcdef";

pub(crate) fn token_file(host: &Host<'_>, token: &str) -> String {
    fs::create_dir_all(&host.dir).unwrap();
    let path = host.dir.join("token");
    fs::write(&path, token).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Where it listens, as its log says.
pub(crate) fn address(host: &Host<'_>) -> SocketAddr {
    until("the address in the log", || {
        let log = log_of(host);
        let (_, rest) = log.split_once("msg=listening address=")?;
        rest.split_whitespace().next()?.parse().ok()
    })
}

pub(crate) fn tcp(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// The status that this user gets over the socket, with no group but this one. Connecting is left to a
/// program of that user's own.
fn status_as(user: u32, group: u32, socket: &Path) -> String {
    let script = "import socket,sys\ns=socket.socket(socket.AF_UNIX)\ntry:\n s.connect(sys.argv[1])\n \
                  try: s.sendall(b'GET /v1/status HTTP/1.1\\r\\nHost: h\\r\\n\\r\\n')\n except BrokenPipeError: pass\n \
                  print(s.recv(12).decode()[-3:])\nexcept PermissionError:\n print('EACCES')\n";
    let mut command = Command::new("python3");
    command.args(["-c", script]).arg(socket).uid(user).gid(group);
    let output = command.stdin(Stdio::null()).output().expect("python3, as ./bootstrap wants it");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn on_the_socket_only_root_and_who_is_named_get_in() {
    let bench = Bench::small();
    let host = bench.host("host");
    let daemon = Daemon::start(&host, &["--allow", "user:1234", "--allow", "group:4321"]);
    // The file's own rights come first; here they shall not be what keeps anybody out.
    for path in [bench.path(""), host.dir.clone(), host.state()] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    assert_eq!(status_as(1234, 1234, &daemon.socket), "EACCES");
    fs::set_permissions(&daemon.socket, fs::Permissions::from_mode(0o666)).unwrap();
    for (user, group, status) in
        [(0, 0, "200"), (1234, 1, "200"), (5, 4321, "200"), (5, 5, "403"), (4321, 1234, "403")]
    {
        assert_eq!(status_as(user, group, &daemon.socket), status, "user {user}, group {group}");
    }
    daemon.stop();
}

#[test]
fn over_tcp_only_the_token_opens_and_it_is_nowhere_else() {
    let bench = Bench::small();
    let host = bench.host("host");
    let file = token_file(&host, TOKEN);
    let none = host.command(&["serve", "--listen", "127.0.0.1:0"]).output().unwrap();
    assert_eq!(none.status.code(), Some(100), "TCP without a token");
    let daemon = Daemon::start(&host, &["--listen", "127.0.0.1:0", "--token-file", &file]);
    let address = address(&host);
    let status =
        |header: &str| exchange(&mut tcp(address), "GET", "/v1/status", "", header).unwrap().status;
    assert_eq!(status(&format!("Authorization: Bearer {TOKEN}\r\n")), 200);
    assert_eq!(status(&format!("authorization: bearer {TOKEN}\r\n")), 200);
    for wrong in [
        String::new(),
        "Authorization: Bearer \r\n".into(),
        format!("Authorization: Bearer {}\r\n", &TOKEN[1..]),
        format!("Authorization: Bearer {TOKEN}0\r\n"),
        format!("Authorization: Basic {TOKEN}\r\n"),
        format!("Authorization: {TOKEN}\r\n"),
        format!("X-Authorization: Bearer {TOKEN}\r\n"),
    ] {
        assert_eq!(status(&wrong), 401, "{wrong:?}");
    }
    // Nothing is told before: neither a path nor a method.
    for (method, target) in [("GET", "/healthz"), ("PUT", "/v1/images"), ("GET", "/nothing")] {
        let answer = exchange(&mut tcp(address), method, target, "", "").unwrap();
        assert_eq!(answer.status, 401, "{method} {target}");
        assert_eq!(answer.header("WWW-Authenticate"), Some("Bearer"));
    }
    let other = "ffffffffffffffffffffffffffffffff";
    fs::write(&file, other).unwrap();
    daemon.signal(nix::sys::signal::Signal::SIGHUP);
    let header = format!("Authorization: Bearer {other}\r\n");
    until("the new token to hold", || (status(&header) == 200).then_some(()));
    assert_eq!(status(&format!("Authorization: Bearer {TOKEN}\r\n")), 401);
    daemon.stop();
    let log = log_of(&host);
    assert!(!log.contains(TOKEN) && !log.contains(other), "a token is in the log");
}

#[test]
fn a_token_that_may_only_read_changes_nothing() {
    let bench = Bench::small();
    let host = bench.host("host");
    let file = token_file(&host, TOKEN);
    let (reads, reader) = (host.dir.join("reads"), "fedcba9876543210fedcba9876543210");
    let write = |token: &str| {
        fs::write(&reads, token).unwrap();
        fs::set_permissions(&reads, fs::Permissions::from_mode(0o600)).unwrap();
    };
    let words = ["serve", "--listen", "127.0.0.1:0", "--token-file", &file];
    let command = || {
        let mut command = host.command(&words);
        command.env("VENEER_SERVE_READ_TOKEN_FILE", &reads);
        command
    };
    // One token for both would be one for everything.
    write(TOKEN);
    let same = command().output().unwrap();
    let said = String::from_utf8_lossy(&same.stderr).into_owned();
    assert!(same.status.code() == Some(100) && said.contains("read_token_file"), "{said}");
    write(reader);
    let daemon = Daemon::start_command(&host, command());
    let address = address(&host);
    let ask = |method: &str, target: &str, body: &str, token: &str| {
        let header = format!("Authorization: Bearer {token}\r\n");
        exchange(&mut tcp(address), method, target, body, &header).unwrap()
    };
    for target in ["/v1/status", "/metrics", "/v1/host", "/v1/inventory", "/v1/runs"] {
        assert_eq!(ask("GET", target, "", reader).status, 200, "{target}");
    }
    let body = r#"{"image": "s3://bucket/a/"}"#;
    for (method, target, body) in [
        ("PUT", "/v1/images", body),
        ("POST", "/v1/gc", "{}"),
        ("POST", "/v1/runs/1/cancel", ""),
        ("DELETE", "/v1/activations/x", ""),
        ("POST", "/", ""),
    ] {
        let answer = ask(method, target, body, reader);
        let said = String::from_utf8_lossy(&answer.body).into_owned();
        assert_eq!(answer.status, 403, "{method} {target}: {said}");
        assert!(said.contains("may only read"), "{said}");
    }
    assert_eq!(host.rows("SELECT count(*) FROM runs"), ["0"]);
    assert_eq!(ask("PUT", "/v1/images", body, TOKEN).status, 202);
    assert_eq!(ask("GET", "/v1/status", "", &reader[1..]).status, 401);
    daemon.stop();
    assert!(!log_of(&host).contains(reader), "a token is in the log");
}

#[test]
fn a_request_that_is_none_is_named_and_the_connection_ends() {
    let bench = Bench::small();
    let host = bench.host("host");
    let daemon = Daemon::start(&host, &[]);
    let long = format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "b".repeat(9000));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(65));
    for (request, status) in [
        ("\r\nnonsense\r\n\r\n", 400),
        ("GET / HTTP/3.0\r\n\r\n", 505),
        ("PUT /v1/images HTTP/1.1\r\nHost: h\r\nContent-Length: 70000\r\n\r\n", 413),
        ("PUT /v1/images HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", 400),
        ("PUT /v1/images HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 411),
        ("GET / HTTP/1.1\r\nExpect: more\r\n\r\n", 417),
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\nHost: h\n\n", 400),
        (long.as_str(), 431),
        (many.as_str(), 431),
    ] {
        let mut stream = daemon.connect();
        stream.write_all(request.as_bytes()).unwrap();
        let answer = receive(&mut stream).expect("an answer");
        assert_eq!(answer.status, status, "{}", &request[..request.len().min(60)]);
        assert_eq!(answer.header("Connection"), Some("close"));
        let ended = stream.read(&mut [0; 1]);
        assert!(matches!(ended, Ok(0) | Err(_)), "it goes on after {status}");
    }
    // A body in pieces, several requests in one piece, and a HEAD.
    let mut stream = daemon.connect();
    stream
        .write_all(b"POST /v1/mode HTTP/1.1\r\nHost: h\r\nContent-Length: 17\r\n\r\n{\"mode\":")
        .unwrap();
    stream.write_all(b"\"normal\"}").unwrap();
    assert_eq!(receive(&mut stream).unwrap().status, 200);
    stream.write_all(&b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n".repeat(3)).unwrap();
    let mut bytes = Vec::new();
    let mut answered = 0;
    while answered < 3 {
        let mut piece = [0; 1000];
        let read = stream.read(&mut piece).unwrap();
        assert!(read > 0);
        bytes.extend_from_slice(&piece[..read]);
        while let Some((answer, rest)) = Answer::split(&bytes).map(|(a, r)| (a, r.to_vec())) {
            assert_eq!(answer.status, 200);
            answered += 1;
            bytes = rest;
        }
    }
    stream.write_all(b"HEAD /healthz HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert!(rest.starts_with("HTTP/1.1 200") && rest.ends_with("\r\n\r\n"), "{rest:?}");
    daemon.stop();
}

/// Bytes that are nearly requests, from a seed: the daemon answers each or ends the connection, and
/// lives.
#[test]
fn no_bytes_bring_it_down() {
    let bench = Bench::small();
    let host = bench.host("host");
    let daemon = Daemon::start(&host, &[]);
    let seeds = [
        "GET /v1/runs?status=all&after=1&limit=10 HTTP/1.1\r\nHost: h\r\n\r\n",
        "POST /v1/runs/1/cancel HTTP/1.1\r\nHost: h\r\nContent-Length: 11\r\n\r\n{\"why\":\"x\"}",
        "PUT /v1/images HTTP/1.1\r\nHost: h\r\nContent-Length: 37\r\n\r\n{\"image\":\"s3://bucket/a/\",\"dry_run\":1}",
        "DELETE /v1/activations/%61?dry_run=1 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
        "GET /v1/events?after=0&wait=0s HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    ];
    let mut dice = Dice::new(11);
    let mut answers = 0;
    for round in 0..400 {
        let mut bytes = seeds[round % seeds.len()].as_bytes().to_vec();
        for _ in 0..=dice.roll(3) {
            let at = usize::try_from(dice.roll(bytes.len() as u64)).unwrap();
            match dice.roll(3) {
                0 => bytes[at] = u8::try_from(dice.roll(256)).unwrap(),
                1 => bytes.truncate(at + 1),
                _ => bytes.insert(at, u8::try_from(dice.roll(256)).unwrap()),
            }
        }
        let mut stream = daemon.connect();
        drop(stream.write_all(&bytes));
        // Half closed: it will not wait for more.
        drop(stream.shutdown(std::net::Shutdown::Write));
        let mut got = Vec::new();
        drop(stream.read_to_end(&mut got));
        if let Some((answer, _)) = Answer::split(&got) {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            assert!(answer.status < 500 || answer.status == 505, "{text:?}: {}", answer.head);
            answers += 1;
        }
    }
    assert!(answers > 100, "only {answers} of 400 were answered");
    assert_eq!(daemon.ask("GET", "/healthz", "").status, 200);
    assert!(!log_of(&host).contains("panic"), "{}", log_of(&host));
    daemon.stop();
}

/// Ten thousand connections, five hundred at once, that say half a request, nothing, or promise a
/// body: threads and memory stay bounded, and the service goes on.
#[test]
fn ten_thousand_connections_take_bounded_threads_and_memory() {
    const INSIDE: u64 = 64;
    let bench = Bench::small();
    let host = bench.host("host");
    let daemon = Daemon::start(&host, &[]);
    let (threads, memory) = (daemon.status("Threads"), daemon.status("VmRSS"));
    let (mut most_threads, mut most_memory) = (threads, memory);
    for _ in 0..20 {
        let mut open: Vec<UnixStream> = Vec::new();
        for number in 0..500 {
            let mut stream = daemon.connect();
            match number % 3 {
                0 => drop(stream.write_all(b"GET /healthz HTTP/1.1\r\nA: ")),
                1 => {}
                _ => {
                    let head =
                        b"PUT /v1/images HTTP/1.1\r\nHost: h\r\nContent-Length: 60000\r\n\r\n{";
                    drop(stream.write_all(head));
                }
            }
            open.push(stream);
        }
        // They are taken in turn: when the last has an answer, each of them was.
        let last = exchange(&mut daemon.connect(), "GET", "/healthz", "", "Connection: close\r\n");
        assert!(last.is_some_and(|answer| [200, 503].contains(&answer.status)));
        most_threads = most_threads.max(daemon.status("Threads"));
        most_memory = most_memory.max(daemon.status("VmRSS"));
    }
    let text = until("a place", || {
        let answer = exchange(&mut daemon.connect(), "GET", "/metrics", "", "")?;
        (answer.status == 200).then(|| String::from_utf8(answer.body).unwrap())
    });
    let name = "veneer_http_refused_total{reason=\"full\"} ";
    let turned_away = text.lines().find_map(|line| line.strip_prefix(name)).expect(name);
    let turned_away: u64 = turned_away.parse().unwrap();
    eprintln!(
        "10,000 connections: {turned_away} turned away; threads {threads}, at most {most_threads}; \
         resident {memory} KiB, at most {most_memory} KiB"
    );
    assert!(turned_away > 5000, "only {turned_away} were turned away");
    assert!(most_threads <= threads + INSIDE, "{most_threads} threads, {threads} when idle");
    assert!(most_memory <= memory + 32 * 1024, "{most_memory} KiB, {memory} when idle");
    daemon.stop();
}

/// Who says nothing, or a byte now and then, is shown out; meanwhile others are served.
#[test]
fn the_slow_are_shown_out() {
    let bench = Bench::small();
    let host = bench.host("host");
    let daemon = Daemon::start(&host, &[]);
    let mut silent = daemon.connect();
    let mut half = daemon.connect();
    half.write_all(b"GET /heal").unwrap();
    let mut drip = daemon.connect();
    let dripping = std::thread::spawn(move || {
        let mut sent = 0;
        for byte in b"GET /healthz HTTP/1.1\r\nX: ".iter().chain(std::iter::repeat(&b'x')) {
            if drip.write_all(&[*byte]).is_err() {
                break;
            }
            sent += 1;
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
        sent
    });
    assert_eq!(daemon.ask("GET", "/healthz", "").status, 200);
    let answer = receive(&mut half).expect("an answer to half a request");
    assert_eq!(answer.status, 408);
    assert_eq!(silent.read(&mut [0; 1]).unwrap(), 0, "who says nothing hears nothing");
    assert!(dripping.join().unwrap() > 5);
    assert_eq!(daemon.ask("GET", "/healthz", "").status, 200);
    daemon.stop();
}

/// As many silent connections as there are places, and more, over TCP: who has the token is answered at once, and
/// those who have shown it keep their places.
#[test]
fn strangers_who_are_silent_keep_no_holder_of_the_token_out() {
    let bench = Bench::small();
    let host = bench.host("host");
    let file = token_file(&host, TOKEN);
    let daemon = Daemon::start(&host, &["--listen", "127.0.0.1:0", "--token-file", &file]);
    let address = address(&host);
    let header = format!("Authorization: Bearer {TOKEN}\r\n");
    let ask = |stream: &mut TcpStream| {
        exchange(stream, "GET", "/v1/status", "", &header).map(|answer| answer.status)
    };
    let mut known: Vec<TcpStream> = (0..8).map(|_| tcp(address)).collect();
    for stream in &mut known {
        assert_eq!(ask(stream), Some(200));
    }
    let mut silent = Vec::new();
    for round in 0..200 {
        let mut stream = tcp(address);
        if round % 2 == 0 {
            stream.write_all(b"GET /v1/status HTTP/1.1\r\nHost: ").unwrap();
        }
        silent.push(stream);
        if round % 20 == 0 {
            assert_eq!(ask(&mut tcp(address)), Some(200), "a new one after {round} silent ones");
        }
    }
    assert_eq!(ask(&mut tcp(address)), Some(200));
    for stream in &mut known {
        assert_eq!(ask(stream), Some(200), "who has shown the token keeps its place");
    }
    // Those that were silent longest have gone, and not the last that came.
    let mut gone = 0;
    for stream in &mut silent {
        stream.set_nonblocking(true).unwrap();
        // One that was never read from is reset.
        let ended = |error: &std::io::Error| error.kind() == std::io::ErrorKind::ConnectionReset;
        gone += usize::from(match stream.read(&mut [0; 1]) {
            Ok(0) => true,
            Err(error) => ended(&error),
            Ok(_) => false,
        });
    }
    assert!(gone >= 150, "only {gone} of 200 were shown out");
    daemon.stop();
}
