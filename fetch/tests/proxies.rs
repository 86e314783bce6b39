//! Proxies: plain http is asked of them by the whole URL, what they refuse is theirs and final, and what is no
//! proxy for us is said in words.

mod fault;

use std::process::{Command, Output};
use std::sync::Arc;

use fault::{Reply, Request, Server};

fn program(url: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fetch"));
    command.env_clear().env("HOME", "/nonexistent").env("AWS_ENDPOINT_URL", url);
    command.env("AWS_EC2_METADATA_DISABLED", "true").env("VENEER_FETCH_TRIES", "3");
    command.args(["--anonymous", "s3://bkt/key"]);
    command
}

fn run(command: &mut Command) -> (Option<i32>, Vec<u8>, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    (status.code(), stdout, String::from_utf8_lossy(&stderr).into_owned())
}

fn serve(plan: impl Fn(&Request, Reply) -> Reply + Send + Sync + 'static) -> Server {
    Server::start(b"hello".to_vec(), Arc::new(plan))
}

#[test]
fn plain_http_is_asked_by_the_whole_url() {
    let proxy = serve(|q, reply| {
        let named = q.headers.get("proxy-authorization").map(String::as_str);
        match named == Some("Basic bWU6cEBzcw==") {
            true => reply,
            false => Reply::new(407, b"").with("Proxy-Authenticate", "Basic realm=\"p\""),
        }
    });
    // A name that only the proxy knows.
    let at = |who: &str| format!("http://{who}127.0.0.1:{}", proxy.port);
    let url = "http://objects.invalid:9000";
    let (code, out, said) = run(program(url).env("HTTP_PROXY", at("me:p%40ss@")));
    assert!(code == Some(0) && out == b"hello", "{said}");
    let asked = proxy.requests.lock().unwrap()[0].clone();
    assert_eq!(
        (asked.method.as_str(), asked.path.as_str()),
        ("GET", "http://objects.invalid:9000/bkt/key")
    );
    assert_eq!(asked.headers["host"], "objects.invalid:9000");
    // Who it is asks once, and nobody reads the password.
    let before = proxy.count();
    for who in ["", "me:hunter2@"] {
        let (code, _, said) = run(program(url).env("http_proxy", at(who)));
        assert!(code == Some(100) && said.contains("a name and a password"), "{said}");
        assert!(
            said.contains(&format!("the proxy 127.0.0.1:{} answered 407", proxy.port)),
            "{said}"
        );
        assert!(!said.contains("hunter2"), "{said}");
    }
    assert_eq!(proxy.count(), before + 2);
}

#[test]
fn one_connection_carries_many_requests_each_with_its_url() {
    let proxy = Server::start(fault::noise(40 << 20, 1), Arc::new(|_, reply| reply));
    let (code, out, said) = run(program("http://objects.invalid")
        .env("HTTP_PROXY", format!("http://127.0.0.1:{}", proxy.port)));
    assert!(code == Some(0) && out == fault::noise(40 << 20, 1), "{said}");
    let requests = proxy.requests.lock().unwrap();
    assert!(requests.len() > 4);
    assert!(requests.iter().all(|q| q.path == "http://objects.invalid/bkt/key"), "{requests:?}");
}

#[test]
fn what_a_proxy_forbids_is_final_and_the_proxys() {
    let rules = |status: u16| {
        serve(move |_, _| {
            Reply::new(status, b"<html>no</html>").with("X-Squid-Error", "ERR_ACCESS_DENIED 0")
        })
    };
    let proxy = rules(403);
    let variable = format!("http://127.0.0.1:{}", proxy.port);
    let (code, _, said) = run(program("http://objects.invalid").env("HTTP_PROXY", &variable));
    assert!(code == Some(100) && said.contains("its rules forbid"), "{said}");
    assert_eq!(proxy.count(), 1);
    // By CONNECT as well.
    for (status, says) in [(403, "its rules forbid"), (407, "a name and a password")] {
        let proxy = rules(status);
        let variable = format!("http://127.0.0.1:{}", proxy.port);
        let (code, _, said) = run(program("https://objects.invalid").env("HTTPS_PROXY", &variable));
        assert!(code == Some(100) && said.contains(says), "{said}");
        assert_eq!(
            (proxy.count(), proxy.requests.lock().unwrap()[0].method.as_str()),
            (1, "CONNECT")
        );
    }
    // A server's own no stays the server's; a proxy that is only busy is asked again.
    let proxy = serve(|_, _| Reply::error(403, "AccessDenied"));
    let variable = format!("http://127.0.0.1:{}", proxy.port);
    let (code, _, said) = run(program("http://objects.invalid").env("HTTP_PROXY", &variable));
    assert!(code == Some(100) && said.contains("the server answered 403"), "{said}");
    let proxy = serve(|q, reply| if q.number == 0 { Reply::new(503, b"") } else { reply });
    let variable = format!("http://127.0.0.1:{}", proxy.port);
    let (code, out, said) = run(program("http://objects.invalid").env("HTTP_PROXY", &variable));
    assert!(code == Some(0) && out == b"hello", "{said}");
}

#[test]
fn a_socks_proxy_is_refused_in_words() {
    for name in ["ALL_PROXY", "all_proxy", "HTTP_PROXY"] {
        for url in
            ["socks5://u:hunter2@127.0.0.1:1", "socks5h://127.0.0.1:1", "socks4://127.0.0.1:1"]
        {
            let (code, _, said) = run(program("http://127.0.0.1:1").env(name, url));
            assert!(code == Some(100) && said.contains("SOCKS") && said.contains(name), "{said}");
            assert!(!said.contains("hunter2") && !said.contains("panicked"), "{said}");
        }
    }
}

#[test]
fn no_proxy_has_networks() {
    let server = serve(|_, reply| reply);
    for list in ["127.0.0.0/8", "10.0.0.0/8 127.0.0.1/32", &format!("127.0.0.1:{}", server.port)] {
        let (code, _, said) = run(program(&server.url())
            .env("HTTP_PROXY", "http://127.0.0.1:1")
            .env("NO_PROXY", list));
        assert_eq!(code, Some(0), "{list}: {said}");
    }
}
