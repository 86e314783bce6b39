//! Many at once: what they share is fetched and unpacked once, nobody is lost, and who asked to hear of
//! it hears.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::mpsc::channel;
use std::time::Duration;

use hmac::{Hmac, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::bench::Bench;
use crate::daemon::{Daemon, exchange, until};

const IMAGES: &[(&str, &[u8])] = &[("a", &[1, 2, 3]), ("b", &[1, 2, 4]), ("c", &[1, 5])];

/// Five hundred clients at once, each on a connection of its own, for three images that share layers;
/// the daemon is killed in the middle, and started again.
#[test]
fn five_hundred_at_once_fetch_and_unpack_each_layer_once_over_a_kill() {
    const CLIENTS: usize = 500;
    let bench = Bench::new(IMAGES, 20, 5000);
    let host = bench.host("host");
    let daemon = Daemon::start(&host, &["--concurrency", "4"]);
    let image = |n: usize| format!("s3://bucket/{}/", ["a", "b", "c"][n % 3]);
    let ask = |daemon: &Daemon, n: usize| -> Option<u64> {
        let body = json!({"id": format!("n-{n}"), "image": image(n)}).to_string();
        until("a place", || {
            let stream = std::os::unix::net::UnixStream::connect(&daemon.socket);
            let mut stream = stream.ok()?;
            stream.set_read_timeout(Some(crate::daemon::PATIENCE)).unwrap();
            let answer = exchange(&mut stream, "POST", "/v1/activations", &body, "")?;
            match answer.status {
                // Up already, or a run.
                200 | 202 => Some(answer.json()["id"].as_u64()),
                503 => None,
                other => panic!("{other}: {}", answer.json()),
            }
        })
    };
    // All of them twice: the second time by the same name, which is the same wish.
    let all = |daemon: &Daemon| -> Vec<Option<u64>> {
        std::thread::scope(|scope| {
            let asking: Vec<_> = (0..CLIENTS)
                .map(|n| {
                    let small = std::thread::Builder::new().stack_size(256 << 10);
                    small.spawn_scoped(scope, move || ask(daemon, n)).unwrap()
                })
                .collect();
            asking.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    };
    let first = all(&daemon);
    until("some to be up", || {
        let ended = daemon.get("/v1/runs?status=done&limit=1000")["runs"].as_array()?.len();
        (ended > 20).then_some(())
    });
    daemon.kill();
    let daemon = Daemon::start(&host, &["--concurrency", "4"]);
    let second = all(&daemon);
    for (first, second) in first.iter().zip(&second) {
        if let Some(second) = second.filter(|second| *first != Some(*second)) {
            // The first had just ended: there was nothing left to do.
            assert_eq!(daemon.end_of(second)["result"]["already"], true, "run {second}");
        }
    }
    until("all to end", || {
        let live = daemon.get("/v1/runs?status=live")["runs"].as_array()?.len();
        (live == 0).then_some(())
    });
    let failed = daemon.get("/v1/runs?status=failed");
    assert_eq!(failed["runs"], json!([]));
    let gets = bench.gets();
    // What was on its way when it was killed may have come in two pieces.
    let mut keys = gets.clone();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), 5, "each blob comes by one name: {gets:?}");
    let built = host.rows("SELECT count(*) FROM volumes WHERE role = 'layer' AND state = 'sealed'");
    assert_eq!(built, ["5"]);
    let sealed = host.rows("SELECT count(*) FROM events WHERE to_state = 'sealed'");
    assert_eq!(sealed, ["6"], "five layers and the template are sealed, once each");
    daemon.stop();
    host.check();
    for n in (0..CLIENTS).filter(|n| n % 3 < 2) {
        host.check_tree(&format!("n-{n}"), [3, 4][n % 3]);
    }
}

#[test]
fn who_asked_to_hear_of_the_end_hears_it_sealed_and_again_when_he_was_out() {
    let bench = Bench::small();
    let host = bench.host("host");
    std::fs::create_dir_all(&host.dir).unwrap();
    let secret = host.dir.join("secret");
    std::fs::write(&secret, "key of the seal\n").unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/hook", listener.local_addr().unwrap());
    let (heard, hears) = channel();
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let mut stream = stream.unwrap();
            let mut bytes = Vec::new();
            let (head, body) = loop {
                let mut piece = [0; 4096];
                let read = stream.read(&mut piece).unwrap();
                bytes.extend_from_slice(&piece[..read]);
                let text = String::from_utf8_lossy(&bytes).into_owned();
                let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                let lower = head.to_ascii_lowercase();
                let length = lower.split("content-length: ").nth(1).unwrap();
                let length: usize = length.lines().next().unwrap().parse().unwrap();
                if body.len() >= length {
                    break (lower, body.to_owned());
                }
            };
            // The first time he is not in the mood.
            let status = if number == 0 { "500 No" } else { "204 Yes" };
            let answer =
                format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            stream.write_all(answer.as_bytes()).unwrap();
            heard.send((head, body)).unwrap();
        }
    });
    let settings = [
        ("VENEER_SERVE_WEBHOOK_SECRET_FILE", secret.to_str().unwrap()),
        ("VENEER_SERVE_WEBHOOK_LOOPBACK", "yes"),
    ];
    let daemon = Daemon::start_with(&host, &[], &settings);
    let body = json!({"id": "one", "image": "s3://bucket/a/", "webhook": address});
    let run = daemon.begin("POST", "/v1/activations", &body);
    for _ in 0..2 {
        let (head, body) = hears.recv_timeout(crate::daemon::PATIENCE).unwrap();
        let header = |name: &str| {
            let found = head.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
            found.unwrap_or_else(|| panic!("{name}: {head}")).to_owned()
        };
        let told: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((&told["id"], &told["state"]), (&json!(run), &json!("done")));
        assert_eq!(told["result"]["name"], "one");
        let mut mac = Hmac::<Sha256>::new_from_slice(b"key of the seal").unwrap();
        mac.update(format!("{}.{body}", header("veneer-timestamp")).as_bytes());
        let sealed = mac.finalize().into_bytes();
        let hex: String = sealed.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(header("veneer-signature"), format!("sha256={hex}"));
    }
    until("the end to be told", || {
        let events = daemon.ask("GET", &format!("/v1/events?subject=run%20{run}"), "");
        String::from_utf8(events.body).unwrap().contains("its end was told").then_some(())
    });
    assert!(hears.recv_timeout(Duration::from_millis(300)).is_err(), "told once more than needed");
    daemon.stop();
}

#[test]
fn an_address_of_the_host_or_its_cloud_is_not_told() {
    let bench = Bench::small();
    let host = bench.host("host");
    let daemon = Daemon::start(&host, &[]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let refused = json!({"image": "s3://bucket/a/", "webhook": "ftp://h/"});
    assert_eq!(daemon.ask("PUT", "/v1/images", &refused.to_string()).status, 400);
    let own = format!("http://{}/", listener.local_addr().unwrap());
    let body = json!({"image": "s3://bucket/a/", "webhook": own});
    let run = daemon.begin("PUT", "/v1/images", &body);
    assert_eq!(daemon.end_of(run)["state"], "done");
    // The next one is told of after it, or would be.
    let body = json!({"image": "s3://bucket/b/", "webhook": "http://169.254.169.254/latest"});
    assert_eq!(daemon.end_of(daemon.begin("PUT", "/v1/images", &body))["state"], "done");
    std::thread::sleep(Duration::from_millis(1500));
    assert!(listener.accept().is_err(), "the host itself was told");
    daemon.stop();
}
