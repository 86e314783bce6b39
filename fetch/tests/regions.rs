//! What a server says about where and how it wants to be asked is followed once, or passed on.

mod fault;

use std::process::{Command, Output};
use std::sync::Arc;

use fault::{Reply, Request, Server};

fn program(server: &Server) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fetch"));
    command.env_clear().env("HOME", "/nonexistent").env("AWS_ENDPOINT_URL", server.url());
    command.env("AWS_ACCESS_KEY_ID", "A").env("AWS_SECRET_ACCESS_KEY", "S");
    command
}

fn run(command: &mut Command) -> (Option<i32>, Vec<u8>, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    (status.code(), stdout, String::from_utf8_lossy(&stderr).into_owned())
}

fn serve(plan: impl Fn(&Request, Reply) -> Reply + Send + Sync + 'static) -> Server {
    Server::start(fault::noise(20 << 20, 1), Arc::new(plan))
}

fn is_signed_for(request: &Request, region: &str) -> bool {
    request.headers["authorization"].contains(&format!("/{region}/s3/"))
}

#[test]
fn the_region_that_the_server_names_is_followed_once() {
    let wrong = || {
        let document =
            b"<Error><Code>AuthorizationHeaderMalformed</Code><Region>here</Region></Error>";
        Reply::new(400, document)
    };
    let server = serve(move |q, reply| if is_signed_for(q, "here") { reply } else { wrong() });
    let (code, out, said) = run(program(&server).args(["-v", "s3://bkt/key"]));
    assert!(code == Some(0) && out == fault::noise(20 << 20, 1), "{said}");
    assert!(said.contains("is in here"), "{said}");
    let requests = server.requests.lock().unwrap();
    let lost = requests.iter().filter(|q| !is_signed_for(q, "here")).count();
    assert_eq!(lost, 1, "it is kept for the other ranges");
    drop(requests);
    // By the header alone, after HEAD too.
    let by_header = Reply::new(301, b"").with("x-amz-bucket-region", "here");
    let server =
        serve(move |q, reply| if is_signed_for(q, "here") { reply } else { by_header.clone() });
    let (code, _, said) = run(program(&server).args(["--list", "s3://bkt/1.tar"]));
    assert_eq!(code, Some(0), "{said}");
    // A server that always names another is asked twice, and what it said is passed on.
    let server = serve(move |q, _| {
        let next = format!("r{}", q.number);
        Reply::new(301, b"").with("x-amz-bucket-region", &next)
    });
    let (code, _, said) = run(program(&server).arg("s3://bkt/key"));
    assert!(code == Some(100) && said.contains("pass --region r1"), "{said}");
    assert_eq!(server.count(), 2);
    // What is no region is nobody's host.
    let server = serve(move |_, _| Reply::new(301, b"").with("x-amz-bucket-region", "evil.com/x"));
    let (code, _, said) = run(program(&server).arg("s3://bkt/key"));
    assert!(code == Some(100) && server.count() == 1, "{said}");
}

#[test]
fn a_version_is_asked_for_everywhere() {
    let server = serve(|q, reply| match q.query == "versionId=3%2Fx%2B" {
        true => reply,
        false => Reply::error(404, "NoSuchVersion"),
    });
    let (code, out, said) = run(program(&server).args(["--version-id", "3/x+", "s3://bkt/key"]));
    assert!(code == Some(0) && out == fault::noise(20 << 20, 1), "{said}");
    let (code, _, said) = run(program(&server).args(["--version-id", "4", "s3://bkt/key"]));
    assert!(code == Some(100) && said.contains("check --version-id"), "{said}");
    let (code, _, said) =
        run(program(&server).args(["--list", "--version-id", "4", "s3://bkt/k/"]));
    assert!(code == Some(100) && said.contains("--version-id"), "{said}");
    // Where other tools have it in the reference, the key has it here: said where that is not found.
    let server = serve(|_, _| Reply::error(404, "NoSuchKey"));
    let (code, _, said) = run(program(&server).arg("s3://bkt/key?versionId=4"));
    assert!(code == Some(100) && said.contains("--version-id 4"), "{said}");
}

#[test]
fn who_pays_says_so_in_each_request() {
    let pays = |q: &Request| q.headers.get("x-amz-request-payer").is_some_and(|v| v == "requester");
    let server =
        serve(move |q, reply| if pays(q) { reply } else { Reply::error(403, "AccessDenied") });
    let (code, _, said) = run(program(&server).arg("s3://bkt/key"));
    assert!(code == Some(100) && said.contains("--requester-pays"), "{said}");
    let (code, _, said) = run(program(&server).args(["--requester-pays", "s3://bkt/key"]));
    assert_eq!(code, Some(0), "{said}");
    let (code, _, said) =
        run(program(&server).env("VENEER_FETCH_REQUESTER_PAYS", "yes").arg("s3://bkt/key"));
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn an_express_bucket_is_refused_by_name() {
    let server = serve(|_, reply| reply);
    let (code, _, said) = run(program(&server).arg("s3://images--usw2-az1--x-s3/key"));
    assert!(code == Some(100) && said.contains("S3 Express"), "{said}");
    assert_eq!(server.count(), 0);
}
