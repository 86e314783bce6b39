//! Keys that are lent, and keys that are set and cannot be used: never silently none, never told.

mod fault;

use std::fs;
use std::process::{Command, Output};
use std::sync::Arc;

use fault::{Reply, Request, Server};

fn program(url: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fetch"));
    command.env_clear().env("HOME", "/nonexistent").env("AWS_ENDPOINT_URL", url);
    command
}

fn run(command: &mut Command) -> (Option<i32>, Vec<u8>, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    (status.code(), stdout, String::from_utf8_lossy(&stderr).into_owned())
}

fn serve(plan: impl Fn(&Request, Reply) -> Reply + Send + Sync + 'static) -> Server {
    Server::start(b"hello".to_vec(), Arc::new(plan))
}

fn lent(access_key: &str, expires: &str) -> Reply {
    let text = format!(
        "{{\"Code\":\"Success\",\"AccessKeyId\":\"{access_key}\",\"SecretAccessKey\":\"SK\",\
         \"Token\":\"TOK\",\"Expiration\":\"{expires}\"}}"
    );
    Reply::new(200, text.as_bytes())
}

#[test]
fn containers_and_instances_lend_keys() {
    let s3 = serve(|_, reply| reply);
    let container = serve(|q, _| match q.headers.get("authorization").map(String::as_str) {
        Some("let-me") => lent("CONTAINER", "2099-01-01T00:00:00Z"),
        _ => Reply::error(403, "no"),
    });
    let instance = serve(|q, _| match (q.method.as_str(), q.path.as_str()) {
        ("PUT", "/latest/api/token") => Reply::new(200, b"T2"),
        (_, _) if q.headers.get("x-aws-ec2-metadata-token").is_none_or(|t| t != "T2") => {
            Reply::error(401, "version 1")
        }
        (_, "/latest/meta-data/iam/security-credentials/") => Reply::new(200, b"my-role"),
        (_, "/latest/meta-data/iam/security-credentials/my-role") => {
            lent("INSTANCE", "2099-01-01T00:00:00Z")
        }
        _ => Reply::error(404, "x"),
    });
    let signed_by = |server: &Server| {
        let headers = server.requests.lock().unwrap().last().unwrap().headers.clone();
        assert_eq!(headers.get("x-amz-security-token").map(String::as_str), Some("TOK"));
        headers["authorization"].clone()
    };
    let url = format!("{}/v1/credentials", container.url());
    let (code, _, said) = run(program(&s3.url())
        .env("AWS_CONTAINER_CREDENTIALS_FULL_URI", &url)
        .env("AWS_CONTAINER_AUTHORIZATION_TOKEN", "let-me")
        .arg("s3://bkt/key"));
    assert_eq!(code, Some(0), "{said}");
    assert!(signed_by(&s3).contains("CONTAINER/"));
    let (code, _, said) = run(program(&s3.url())
        .env("AWS_EC2_METADATA_SERVICE_ENDPOINT", instance.url())
        .arg("s3://bkt/key"));
    assert_eq!(code, Some(0), "{said}");
    assert!(signed_by(&s3).contains("INSTANCE/"));
    // A token is not sent to just anybody, and a refusal does not turn into anonymity.
    for (url, says) in [("http://192.0.2.7/x", "loopback"), (url.as_str(), "refuses")] {
        let (code, _, said) = run(program(&s3.url())
            .env("AWS_CONTAINER_CREDENTIALS_FULL_URI", url)
            .env("AWS_CONTAINER_AUTHORIZATION_TOKEN", "hunter2")
            .arg("s3://bkt/key"));
        assert!(code == Some(100) && said.contains(says), "{said}");
        assert!(!said.contains("hunter2"), "{said}");
    }
}

#[test]
fn keys_that_end_are_renewed() {
    // Lent keys in their last minutes are asked for anew with every request.
    let server = serve(|_, reply| reply);
    let container = serve(|q, _| lent(&format!("KEY{}", q.number), "2020-01-01T00:00:00Z"));
    let url = format!("{}/c", container.url());
    let (code, _, said) = run(program(&server.url())
        .env("AWS_CONTAINER_CREDENTIALS_FULL_URI", &url)
        .arg("s3://bkt/key"));
    assert_eq!(code, Some(0), "{said}");
    assert!(container.count() >= 2, "{}", container.count());
    // And when the server says so, once.
    let expired = serve(|q, reply| {
        let old = q.headers["authorization"].contains("KEY0/");
        if old { Reply::error(400, "ExpiredToken") } else { reply }
    });
    let container = serve(|q, _| lent(&format!("KEY{}", q.number), "2099-01-01T00:00:00Z"));
    let url = format!("{}/c", container.url());
    let (code, out, said) = run(program(&expired.url())
        .env("AWS_CONTAINER_CREDENTIALS_FULL_URI", &url)
        .arg("s3://bkt/key"));
    assert!(code == Some(0) && out == b"hello", "{said}");
    assert_eq!((container.count(), expired.count()), (2, 2));
}

fn sts(key: &str, expires: &str) -> Reply {
    let text = format!(
        "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
         <AssumeRoleWithWebIdentityResult><Credentials><SessionToken>TOK</SessionToken>\
         <SecretAccessKey>SK</SecretAccessKey><Expiration>{expires}</Expiration>\
         <AccessKeyId>{key}</AccessKeyId></Credentials></AssumeRoleWithWebIdentityResult>\
         </AssumeRoleWithWebIdentityResponse>"
    );
    Reply::new(200, text.as_bytes())
}

#[test]
fn a_web_identity_is_exchanged_for_keys() {
    let s3 = serve(|_, reply| reply);
    // The first keys end at once, so that those of the request are others.
    let service = serve(|q, _| {
        let year = if q.number == 0 { 2020 } else { 2099 };
        sts(&format!("WEB{}", q.number), &format!("{year}-01-01T00:00:00Z"))
    });
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    fs::write(&token, "e%y&J=hunter2\n").unwrap();
    let ask = || {
        let mut command = program(&s3.url());
        command
            .env("AWS_WEB_IDENTITY_TOKEN_FILE", &token)
            .env("AWS_ROLE_ARN", "arn:aws:iam::1:role/r")
            .env("AWS_ENDPOINT_URL_STS", service.url())
            .args(["-v", "s3://bkt/key"]);
        command
    };
    let (code, out, said) = run(&mut ask());
    assert!(code == Some(0) && out == b"hello", "{said}");
    assert!(!said.contains("hunter2"), "{said}");
    let last = s3.requests.lock().unwrap().last().unwrap().headers.clone();
    assert!(last["authorization"].contains("WEB1/"), "{last:?}");
    assert_eq!(last["x-amz-security-token"], "TOK");
    let asked = service.requests.lock().unwrap()[0].clone();
    let body = String::from_utf8(asked.body).unwrap();
    assert_eq!((asked.method.as_str(), asked.path.as_str()), ("POST", "/"));
    assert_eq!(asked.query, "", "a token in a URL ends in a log");
    assert!(body.contains("Action=AssumeRoleWithWebIdentity&Version=2011-06-15"), "{body}");
    assert!(body.contains("RoleArn=arn%3Aaws%3Aiam%3A%3A1%3Arole%2Fr"), "{body}");
    assert!(body.ends_with("WebIdentityToken=e%25y%26J%3Dhunter2"), "{body}");
    // Keys in the environment, and a profile that is named, go before it.
    let before = service.count();
    let (code, _, said) =
        run(ask().env("AWS_ACCESS_KEY_ID", "ENV").env("AWS_SECRET_ACCESS_KEY", "SK"));
    assert_eq!(code, Some(0), "{said}");
    let (code, _, said) = run(ask().env("AWS_PROFILE", "mine"));
    assert!(code == Some(100) && said.contains("mine"), "{said}");
    assert_eq!(service.count(), before);
    // What is absent is named.
    let (code, _, said) = run(ask().env_remove("AWS_ROLE_ARN"));
    assert!(code == Some(100) && said.contains("AWS_ROLE_ARN"), "{said}");
    let absent = dir.path().join("absent");
    let (code, _, said) = run(ask().env("AWS_WEB_IDENTITY_TOKEN_FILE", &absent));
    assert!(code == Some(100) && said.contains(absent.to_str().unwrap()), "{said}");
}

#[test]
fn a_token_service_that_fails_is_not_anonymity() {
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    fs::write(&token, "hunter2").unwrap();
    let no = |status: u16, code: &'static str| {
        let text = format!(
            "<ErrorResponse><Error><Code>{code}</Code><Message>hunter2</Message></Error>\
             </ErrorResponse>"
        );
        Reply::new(status, text.as_bytes())
    };
    for (reply, due, says) in [
        (no(400, "ExpiredTokenException"), 100, "expired"),
        (no(403, "AccessDenied"), 100, "AWS_ROLE_ARN"),
        (no(400, "InvalidIdentityToken"), 100, "does not accept"),
        (no(503, "Slow"), 111, "out of order"),
        (Reply::new(200, b"<html>hunter2"), 100, "XML"),
        (sts("", "2099-01-01T00:00:00Z"), 100, "access key"),
        (Reply::raw(b""), 111, "does not answer"),
        (Reply::new(302, b"").with("Location", "http://127.0.0.2:1/"), 100, "refuses"),
    ] {
        let s3 = serve(|_, reply| reply);
        let service = serve(move |_, _| reply.clone());
        let (code, _, said) = run(program(&s3.url())
            .env("AWS_WEB_IDENTITY_TOKEN_FILE", &token)
            .env("AWS_ROLE_ARN", "arn:aws:iam::1:role/r")
            .env("AWS_ENDPOINT_URL_STS", service.url())
            .arg("s3://bkt/key"));
        assert!(code == Some(due) && said.contains(says), "due {due}, {says:?}: {said}");
        assert!(!said.contains("hunter2"), "{said}");
        assert_eq!(s3.count(), 0, "{said}");
    }
}

#[test]
fn profiles_give_keys_or_say_why_not() {
    let s3 = serve(|_, reply| reply);
    let dir = tempfile::tempdir().unwrap();
    let aws = dir.path().join(".aws");
    fs::create_dir(&aws).unwrap();
    fs::write(
        aws.join("credentials"),
        "[default]\naws_access_key_id = DEF\naws_secret_access_key = hunter2\n\
         [other]\naws_access_key_id = OTHER\naws_secret_access_key = hunter2\n",
    )
    .unwrap();
    let mut config = String::new();
    for (name, line) in [
        ("sso", "sso_session = s"),
        ("legacy", "sso_start_url = https://x"),
        ("process", "credential_process = /bin/true"),
        ("web", "web_identity_token_file = /x\nrole_arn = r"),
        ("mfa", "role_arn = r\nsource_profile = default\nmfa_serial = m"),
        ("login", "login_session = arn"),
    ] {
        config.push_str(&format!("[profile {name}]\n{line}\n"));
    }
    fs::write(aws.join("config"), config).unwrap();
    let ask = |args: &[&str]| {
        let mut command = program(&s3.url());
        command.env("HOME", dir.path()).args(args).arg("s3://bkt/key");
        command
    };
    let signed = || s3.requests.lock().unwrap().last().unwrap().headers["authorization"].clone();
    let (code, _, said) = run(&mut ask(&[]));
    assert!(code == Some(0) && signed().contains("DEF/"), "{said}");
    let (code, _, said) = run(ask(&[]).env("AWS_PROFILE", "other"));
    assert!(code == Some(0) && signed().contains("OTHER/"), "{said}");
    let (code, _, said) = run(&mut ask(&["--profile", "other"]));
    assert!(code == Some(0) && !said.contains("hunter2"), "{said}");
    let before = s3.count();
    for (name, says) in [
        ("sso", "line 2, sso_session: keys by SSO or by a login are not supported"),
        ("legacy", "line 4, sso_start_url: keys by SSO or by a login are not supported"),
        ("process", "line 6, credential_process: it did not print the JSON"),
        ("web", "web identity token \"/x\""),
        ("mfa", "line 13, mfa_serial: a code is to be typed in"),
        ("login", "line 15, login_session: keys by SSO or by a login are not supported"),
    ] {
        let (code, _, said) = run(&mut ask(&["--profile", name]));
        assert!(code == Some(100) && said.contains(says), "{name}: {said}");
    }
    let (code, _, said) = run(&mut ask(&["--profile", "absent"]));
    assert!(code == Some(100) && said.contains("absent"), "{said}");
    assert_eq!(s3.count(), before, "nothing was sent anonymously");
    // Files that are there and no use are named.
    fs::write(aws.join("credentials"), "[default]\naws_access_key_id = hunter2\n").unwrap();
    let (code, _, said) = run(&mut ask(&[]));
    assert!(code == Some(100) && said.contains("half a key pair"), "{said}");
    assert!(said.contains(".aws/credentials\", line 2, aws_access_key_id"), "{said}");
    let (code, _, said) = run(ask(&[]).env("AWS_SHARED_CREDENTIALS_FILE", dir.path()));
    assert!(code == Some(100) && said.contains("credentials file"), "{said}");
    assert_eq!(s3.count(), before);
}

/// A home with the two shared files.
fn home(credentials: &str, config: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let aws = dir.path().join(".aws");
    fs::create_dir(&aws).unwrap();
    fs::write(aws.join("credentials"), credentials).unwrap();
    fs::write(aws.join("config"), config).unwrap();
    dir
}

/// Whose keys of whom the last request to a server has.
fn signed_by(server: &Server) -> String {
    let headers = server.requests.lock().unwrap().last().unwrap().headers.clone();
    headers.get("authorization").cloned().unwrap_or_default()
}

#[test]
fn a_private_servers_keys_go_to_that_server() {
    let private = serve(|_, reply| reply);
    let dir = home(
        "[default]\n  AWS_ACCESS_KEY_ID = OURS\n  AWS_SECRET_ACCESS_KEY = S\n",
        &format!(
            "[default]\nservices = mine\nregion = here\n[services mine]\ns3 =\n  endpoint_url = {}\n",
            private.url()
        ),
    );
    // A proxy that nobody runs: whoever asked anybody else would fail.
    let mut command = program("");
    command.env_remove("AWS_ENDPOINT_URL").env("HOME", dir.path());
    command.env("HTTPS_PROXY", "http://127.0.0.1:1").arg("s3://bkt/key");
    let (code, out, said) = run(&mut command);
    assert!(code == Some(0) && out == b"hello", "{said}");
    let signed = signed_by(&private);
    assert!(signed.contains("OURS/") && signed.contains("/here/s3/"), "{signed}");
}

#[test]
fn a_role_is_taken_on_with_the_keys_of_its_source() {
    let s3 = serve(|_, reply| reply);
    let role = |q: &Request| {
        let text = format!(
            "<AssumeRoleResponse><AssumeRoleResult><Credentials><SessionToken>TOK</SessionToken>\
             <SecretAccessKey>SK</SecretAccessKey><Expiration>2099-01-01T00:00:00Z</Expiration>\
             <AccessKeyId>ROLE{}</AccessKeyId></Credentials></AssumeRoleResult></AssumeRoleResponse>",
            q.number
        );
        Reply::new(200, text.as_bytes())
    };
    let sts = serve(move |q, _| role(q));
    let dir = home(
        "[base]\naws_access_key_id = BASE\naws_secret_access_key = hunter2\n",
        "[profile r]\nrole_arn = arn:aws:iam::1:role/r\nsource_profile = base\nexternal_id = e&x\n\
         region = eu-west-1\n",
    );
    let ask = |url: &str| {
        let mut command = program(&s3.url());
        command.env("HOME", dir.path()).env("AWS_PROFILE", "r").env("AWS_ENDPOINT_URL_STS", url);
        command.args(["-v", "s3://bkt/key"]);
        run(&mut command)
    };
    let (code, out, said) = ask(&sts.url());
    assert!(code == Some(0) && out == b"hello", "{said}");
    assert!(signed_by(&s3).contains("ROLE0/") && !said.contains("hunter2"), "{said}");
    let asked = sts.requests.lock().unwrap()[0].clone();
    let body = String::from_utf8(asked.body).unwrap();
    assert!(body.starts_with("Action=AssumeRole&Version=2011-06-15&RoleArn=arn%3A"), "{body}");
    assert!(body.ends_with("&ExternalId=e%26x") && asked.query.is_empty(), "{body}");
    let signed = &asked.headers["authorization"];
    assert!(signed.contains("Credential=BASE/") && signed.contains("/eu-west-1/sts/"), "{signed}");
    assert_eq!(asked.headers["content-type"], "application/x-www-form-urlencoded");
    // In the clear they would be anybody's.
    let before = s3.count();
    let (code, _, said) = ask("http://192.0.2.1:1");
    assert!(
        code == Some(100) && said.contains("line 2, role_arn") && said.contains("https"),
        "{said}"
    );
    assert_eq!(s3.count(), before);
}

#[test]
fn a_process_prints_keys_and_is_run_only_where_it_is_meant() {
    const LINE: &str =
        "printf '{\"Version\":1,\"AccessKeyId\":\"PROC\",\"SecretAccessKey\":\"S\"}'";
    let s3 = serve(|_, reply| reply);
    let dir = home("", &format!("[default]\ncredential_process = {LINE}\n"));
    let ask = || {
        let mut command = program(&s3.url());
        command.env("HOME", dir.path()).env("PATH", "/usr/bin:/bin").arg("s3://bkt/key");
        command
    };
    let (code, _, said) = run(&mut ask());
    assert!(code == Some(0) && signed_by(&s3).contains("PROC/"), "{said}");
    // What others may write is not run by root.
    if nix::unistd::Uid::effective().is_root() {
        let config = dir.path().join(".aws/config");
        std::os::unix::fs::chown(&config, Some(65534), None).unwrap();
        let before = s3.count();
        let (code, _, said) = run(&mut ask());
        assert!(
            code == Some(100) && said.contains("line 2, credential_process: as root"),
            "{said}"
        );
        assert_eq!(s3.count(), before);
    }
    let (code, _, said) =
        run(ask().env("VENEER_FETCH_CREDENTIAL_PROCESS", LINE.replace("PROC", "SET")));
    assert!(code == Some(0) && signed_by(&s3).contains("SET/"), "{said}");
}

#[test]
fn nobody_is_anonymous_without_being_told() {
    let s3 = serve(|_, reply| reply);
    let (code, _, said) = run(program(&s3.url()).arg("s3://bkt/key"));
    assert!(code == Some(0) && said.contains("not signed"), "{said}");
    let (code, _, said) = run(program(&s3.url()).args(["--anonymous", "s3://bkt/key"]));
    assert!(code == Some(0) && !said.contains("not signed"), "{said}");
    // Keys that are there, and for nobody who asks, are named instead.
    let dir = home("[other]\naws_access_key_id = O\naws_secret_access_key = S\n", "");
    let before = s3.count();
    let (code, _, said) = run(program(&s3.url()).env("HOME", dir.path()).arg("s3://bkt/key"));
    assert!(code == Some(100) && said.contains("line 2, aws_access_key_id"), "{said}");
    assert_eq!(s3.count(), before);
}
