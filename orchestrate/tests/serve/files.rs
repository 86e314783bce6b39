//! Local images and files to be copied, through the daemon: it opens no path for a client, and takes what the client
//! opened. What it holds is closed, and is not missed in silence after a restart.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::bench::{Bench, names};
use crate::daemon::{Answer, Daemon, PATIENCE, exchange, log_of, receive, until};
use crate::gate::{TOKEN, address, tcp, token_file};
use crate::layout::{Family, Image, Layout, Packing, Saved, archive, gzip, saved, sha};

const A: &str = "s3://bucket/a/";

fn image() -> Image {
    Image::of(&[1, 2, 3])
}

fn docker() -> Vec<u8> {
    archive(&saved(&image(), Saved::Podman, &["app:v1"]))
}

/// The same image in a directory and in archives; their references.
fn places(bench: &Bench) -> Vec<String> {
    let layout = Layout::one(&image(), Packing::Gzip, Family::Oci);
    layout.write(&bench.path("layout"));
    fs::write(bench.path("oci.tar"), layout.tar()).unwrap();
    fs::write(bench.path("oci.tar.gz"), gzip(&layout.tar())).unwrap();
    fs::write(bench.path("docker.tar"), docker()).unwrap();
    let path = |name: &str| bench.path(name).display().to_string();
    vec![
        format!("oci:{}:v1", path("layout")),
        format!("oci-archive:{}:v1", path("oci.tar")),
        format!("oci-archive:{}:v1", path("oci.tar.gz")),
        format!("docker-archive:{}:app:v1", path("docker.tar")),
    ]
}

fn pipe() -> String {
    format!("sha256:{}", sha(image().config().to_string().as_bytes()))
}

/// One request with these open files.
fn ask(daemon: &Daemon, target: &str, body: &Value, files: &[BorrowedFd<'_>]) -> Answer {
    let (method, body) =
        if target.starts_with("/v1/images") { ("PUT", body) } else { ("POST", body) };
    let body = body.to_string();
    let text = format!(
        "{method} {target} HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = daemon.connect();
    tests::descriptors::send(&stream, text.as_bytes(), files).unwrap();
    receive(&mut stream).unwrap()
}

fn said(answer: &Answer) -> String {
    String::from_utf8_lossy(&answer.body).into_owned()
}

/// Open files of the daemon that lead to a path which ends so.
fn held(daemon: &Daemon, end: &str) -> usize {
    let dir = format!("/proc/{}/fd", daemon.pid());
    let links = fs::read_dir(dir).unwrap().flatten();
    let links = links.filter_map(|entry| fs::read_link(entry.path()).ok());
    links.filter(|link| link.to_string_lossy().ends_with(end)).count()
}

fn piped(mut command: Command, bytes: &[u8]) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut to = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || drop(to.write_all(bytes)));
        child.wait_with_output().unwrap()
    })
}

#[test]
fn the_daemon_does_what_a_command_opens_for_it() {
    let bench = Bench::new(&[], 4, 2000);
    let host = bench.host("host");
    let daemon = Daemon::start(&host, &[]);
    let all = places(&bench);
    for (at, reference) in all.iter().enumerate() {
        assert_eq!(host.ok(&["ensure", reference, "--dry-run"])["dry_run"], true, "{reference}");
        let done = host.ok(&["ensure", reference]);
        assert_eq!(done["chain"], image().chain().as_str(), "{reference}");
        let name = format!("a-{at}");
        let done = host.ok(&["activate", reference, "--name", &name]);
        assert_eq!((&done["image"], &done["already"]), (&json!(reference), &json!(false)));
        host.check_tree(&name, 3);
    }
    // It was the daemon, and all of it is closed again.
    let by_daemon = r#"SELECT count(*) FROM runs WHERE input LIKE '%"descriptors":1%'"#;
    assert_eq!(host.rows(by_daemon), [(2 * all.len()).to_string()]);
    assert_eq!(host.rows("SELECT count(*) FROM runs"), [(2 * all.len()).to_string()]);
    until("the files to be closed", || (held(&daemon, ".tar") == 0).then_some(()));
    // What is up needs no file.
    fs::remove_dir_all(bench.path("layout")).unwrap();
    assert_eq!(host.ok(&["activate", &all[0], "--name", "a-0"])["already"], true);
    let (code, said) = host.said(&["activate", &all[0], "--name", "more"]);
    assert_eq!(code, 100, "{said}");
    assert!(said.contains("there is nothing of this name"), "{said}");
    daemon.stop();
    host.check();
}

#[test]
fn a_pipe_is_taken_by_the_daemon_and_ends_with_its_client() {
    let bench = Bench::new(&[], 4, 2000);
    let host = bench.host("host");
    let daemon = Daemon::start(&host, &[]);
    let archives = host.state().join("archives");
    // A client that goes away, and one that is stopped: the writer hears of it, and nothing is left.
    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        let (from, to) = std::io::pipe().unwrap();
        let mut silent = host.command(&["activate", "docker-archive:-", "--name", "silent"]);
        let mut child = silent.stdin(from).stderr(Stdio::null()).spawn().unwrap();
        drop(silent);
        let mut to = File::from(std::os::fd::OwnedFd::from(to));
        to.write_all(&docker()[..5000]).unwrap();
        until("the daemon to have the pipe", || {
            let dir = format!("/proc/{}/fd", daemon.pid());
            let own =
                fs::read_link(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&to)));
            let own = own.unwrap();
            let links = fs::read_dir(dir).unwrap().flatten();
            links.filter_map(|entry| fs::read_link(entry.path()).ok()).find(|link| *link == own)
        });
        kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
        child.wait().unwrap();
        until("the pipe to be closed", || to.write_all(&[0; 512]).is_err().then_some(()));
        until("the archive to go", || names(&archives).is_empty().then_some(()));
    }
    assert_eq!(host.rows("SELECT id FROM runs"), [""; 0]);
    // One that comes whole is a run of the daemon's, and is kept no longer than that.
    for dry in [true, false] {
        let mut words = vec!["activate", "docker-archive:-", "--name", "piped"];
        words.extend(dry.then_some("--dry-run"));
        let done = piped(host.command(&words), &gzip(&docker()));
        assert!(done.status.success(), "{done:?}");
        let done: Value = serde_json::from_slice(&done.stdout).unwrap();
        assert_eq!((&done["image"], &done["dry_run"]), (&json!(pipe()), &json!(dry)));
        assert_eq!(names(&archives), [""; 0], "{dry}");
    }
    host.check_tree("piped", 3);
    assert!(log_of(&host).contains(&pipe()), "the daemon did it");
    // Garbage is refused by name and leaves nothing.
    let bad = piped(host.command(&["ensure", "oci-archive:-"]), &[7; 9000]);
    assert_eq!(bad.status.code(), Some(100), "{bad:?}");
    assert_eq!(names(&archives), [""; 0]);
    daemon.stop();
    host.check();
}

#[test]
fn a_run_whose_files_are_gone_says_so_after_a_restart() {
    let bench = Bench::small();
    let host = bench.host("host");
    let all = places(&bench);
    let daemon = Daemon::start(&host, &["--concurrency", "1"]);
    bench.proxy.hold("a/3.tar", 100);
    daemon.activate("slow", A);
    bench.proxy.wait_held(PATIENCE).unwrap();
    let file = File::open(bench.path("docker.tar")).unwrap();
    let body = json!({"image": all[3], "descriptor": 0});
    let queued = ask(&daemon, "/v1/images", &body, &[file.as_fd()]);
    assert_eq!(queued.status, 202, "{}", said(&queued));
    let run = queued.json()["id"].as_u64().unwrap();
    let one_is_held = || (held(&daemon, "docker.tar") == 1).then_some(());
    until("one to be held", one_is_held);
    // The same file again joins it and holds no more; another of that name stands against it.
    let again = ask(&daemon, "/v1/images", &body, &[file.as_fd()]);
    assert_eq!(
        (again.json()["id"].as_u64(), again.header("Veneer-Joined")),
        (Some(run), Some("yes"))
    );
    until("the second to be closed", one_is_held);
    let other = File::open(bench.path("oci.tar")).unwrap();
    let against = ask(&daemon, "/v1/images", &body, &[other.as_fd()]);
    assert_eq!(against.status, 409, "{}", said(&against));
    assert!(said(&against).contains("another open file"), "{}", said(&against));
    // Cancelled, it holds nothing.
    let body = json!({"id": "x", "image": all[1], "descriptor": 0});
    let cancelled = ask(&daemon, "/v1/activations", &body, &[other.as_fd()]);
    let cancelled = cancelled.json()["id"].as_u64().unwrap();
    daemon.ask("POST", &format!("/v1/runs/{cancelled}/cancel?wait=60s"), "");
    until("it to be closed", || (held(&daemon, "oci.tar") == 0).then_some(()));
    daemon.kill();
    bench.proxy.release();
    let daemon = Daemon::start(&host, &[]);
    let line = daemon.end_of(run);
    assert_eq!((&line["state"], &line["class"]), (&json!("failed"), &json!("temporary")), "{line}");
    assert!(line["message"].as_str().unwrap().contains("went with the daemon"), "{line}");
    let retry = daemon.ask("POST", &format!("/v1/runs/{run}/retry"), "");
    assert_eq!(retry.status, 409);
    assert!(said(&retry).contains("send the request again"), "{}", said(&retry));
    assert_eq!(host.ok(&["ensure", &all[3]])["chain"], image().chain().as_str());
    // What a process opened by its own right is not opened again for whoever asks.
    let secret = bench.path("secret");
    fs::create_dir(&secret).unwrap();
    let (code, _) = host.said(&["--no-daemon", "ensure", &format!("oci:{}", secret.display())]);
    assert_eq!(code, 100);
    let own = host.rows("SELECT max(id) FROM runs")[0].clone();
    let retry = daemon.ask("POST", &format!("/v1/runs/{own}/retry"), "");
    assert_eq!(retry.status, 409, "{}", said(&retry));
    assert!(said(&retry).contains("by the right of its own process"), "{}", said(&retry));
    daemon.stop();
    host.check();
}

#[test]
fn what_is_not_named_is_closed_and_too_many_are_refused() {
    let bench = Bench::new(&[], 4, 2000);
    let host = bench.host("host");
    let daemon = Daemon::start(&host, &[]);
    let all = places(&bench);
    let file = File::open(bench.path("oci.tar")).unwrap();
    let body = json!({"image": all[1], "descriptor": 0});
    let (mut from, to) = std::io::pipe().unwrap();
    let done = ask(&daemon, "/v1/images?wait=60s", &body, &[file.as_fd(), to.as_fd()]);
    assert_eq!(done.json()["state"], "done", "{}", said(&done));
    drop(to);
    // It ends only where nobody has the other end.
    assert_eq!(from.read(&mut [0; 8]).unwrap(), 0);
    for (target, body, files, why) in [
        ("/v1/images", json!({"image": all[1], "descriptor": 1}), 1, "descriptor 1: 1 open files"),
        ("/v1/images", json!({"image": all[1], "descriptor": -1}), 1, "descriptor -1"),
        ("/v1/images", json!({"image": A, "descriptor": 0}), 1, "is read from no file"),
        ("/v1/images", json!({"image": all[1], "descriptor": 0}), 66, "more open files"),
        (
            "/v1/images",
            json!({"image": "oci-archive:oci.tar", "descriptor": 0}),
            1,
            "absolute path",
        ),
        ("/v1/images", json!({"image": "oci-archive:-"}), 1, "opens no path"),
        ("/v1/gc", json!({}), 1, "takes no open files"),
        (
            "/v1/activations",
            json!({"id": "x", "image": A, "copies": [{"from": "/etc/passwd", "to": "/x"}]}),
            1,
            "/etc/passwd: the daemon opens no path",
        ),
        (
            "/v1/activations",
            json!({"id": "x", "image": A, "copies": [{"from": "/f", "to": "/../x", "descriptor": 0}]}),
            1,
            "has .. in it",
        ),
    ] {
        let answer = ask(&daemon, target, &body, &vec![file.as_fd(); files]);
        assert_eq!(answer.status, 400, "{body}: {}", said(&answer));
        assert!(said(&answer).contains(why), "{body}: {}", said(&answer));
    }
    let flags = nix::fcntl::OFlag::O_PATH;
    let path = nix::fcntl::open(&bench.path("oci.tar"), flags, nix::sys::stat::Mode::empty());
    let writes = File::options().append(true).open(bench.path("oci.tar")).unwrap();
    for closed in [path.unwrap().as_fd(), writes.as_fd()] {
        let answer = ask(&daemon, "/v1/images", &body, &[closed]);
        assert_eq!(answer.status, 400, "{}", said(&answer));
        assert!(said(&answer).contains("not open for reading"), "{}", said(&answer));
    }
    until("them to be closed", || (held(&daemon, "oci.tar") == 0).then_some(()));
    daemon.stop();
    host.check();
}

#[test]
fn copied_files_are_opened_by_the_command() {
    let bench = Bench::small();
    let host = bench.host("host");
    let daemon = Daemon::start(&host, &[]);
    let path = bench.path("init");
    fs::write(&path, "#!init\n").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o4751)).unwrap();
    let (one, two) =
        (format!("{}:/sbin/init", path.display()), format!("{}:/opt/app:0700", path.display()));
    let words = ["activate", A, "--name", "web", "--copy", &one, "--copy", &two];
    assert_eq!(host.ok(&[&words[..], &["--dry-run"]].concat())["copied"], 0);
    let done = host.ok(&words);
    assert_eq!((&done["copied"], &done["already"]), (&json!(2), &json!(false)));
    let opens = r#"SELECT count(*) FROM runs WHERE input LIKE '%"descriptors":2%'"#;
    assert_eq!(host.rows(opens), ["1"], "the daemon did it");
    let web = host.store().join("active/web").canonicalize().unwrap();
    for (name, mode) in [("sbin/init", 0o751), ("opt/app", 0o700)] {
        assert_eq!(fs::read_to_string(web.join(name)).unwrap(), "#!init\n");
        let is = fs::metadata(web.join(name)).unwrap().permissions().mode() & 0o7777;
        assert_eq!(is, mode, "{name}");
    }
    until("them to be closed", || (held(&daemon, "/init") == 0).then_some(()));
    // What is there already is left as it is, also where the file is gone.
    fs::remove_file(&path).unwrap();
    let again = host.ok(&words);
    assert_eq!((&again["copied"], &again["already"]), (&json!(0), &json!(true)));
    let (code, said) = host.said(&["activate", A, "--name", "other", "--copy", &one]);
    assert!(code == 100 && said.contains("there is no such file"), "{code}: {said}");
    // One that is another by the time its turn comes is told of.
    fs::write(&path, "as it was").unwrap();
    let file = File::open(&path).unwrap();
    let sha256 = format!("sha256:{}", sha(b"as it is"));
    let copy = json!({"from": path, "to": "/x", "mode": 493, "bytes": 9, "sha256": sha256, "descriptor": 0});
    let body = json!({"id": "changed", "image": A, "copies": [copy]});
    let answer = ask(&daemon, "/v1/activations?wait=60s", &body, &[file.as_fd()]);
    assert_eq!(answer.json()["state"], "failed", "{}", self::said(&answer));
    assert!(self::said(&answer).contains("has changed"), "{}", self::said(&answer));
    daemon.stop();
    host.check();
}

#[test]
fn over_tcp_only_what_lies_beneath_a_root_is_opened() {
    let bench = Bench::new(&[], 4, 2000);
    let host = bench.host("host");
    let all = places(&bench);
    let (roots, outside) = (bench.path("roots"), bench.path("layout"));
    fs::create_dir(&roots).unwrap();
    Layout::one(&image(), Packing::Plain, Family::Oci).write(&roots.join("layout"));
    fs::rename(bench.path("docker.tar"), roots.join("docker.tar")).unwrap();
    symlink(&outside, roots.join("away")).unwrap();
    symlink("layout", roots.join("within")).unwrap();
    let file = token_file(&host, TOKEN);
    let env = [("VENEER_SOURCES_LOCAL_ROOTS", roots.to_str().unwrap())];
    let words = ["--listen", "127.0.0.1:0", "--token-file", &file];
    let daemon = Daemon::start_with(&host, &words, &env);
    let ask = |path: &str, body: Value| {
        let mut stream = tcp(address(&host));
        let bearer = format!("Authorization: Bearer {TOKEN}\r\n");
        let method = if path.starts_with("/v1/images") { "PUT" } else { "POST" };
        exchange(&mut stream, method, path, &body.to_string(), &bearer).unwrap()
    };
    let at = |form: &str, name: &str| format!("{form}:{}", roots.join(name).display());
    for reference in
        [at("oci", "layout:v1"), at("oci", "within:v1"), at("docker-archive", "docker.tar")]
    {
        let answer = ask("/v1/images?wait=60s", json!({"image": reference}));
        assert_eq!(answer.json()["state"], "done", "{reference}: {}", said(&answer));
        assert_eq!(answer.json()["result"]["chain"], image().chain().as_str());
    }
    fs::write(roots.join("init"), "init").unwrap();
    let copies = json!([{"from": roots.join("init"), "to": "/init"}]);
    let body = json!({"id": "web", "image": at("oci", "layout:v1"), "copies": copies});
    let answer = ask("/v1/activations?wait=60s", body);
    assert_eq!(answer.json()["result"]["copied"], 1, "{}", said(&answer));
    assert_eq!(fs::read_to_string(host.store().join("active/web/init")).unwrap(), "init");
    let away = ask("/v1/images?wait=60s", json!({"image": at("oci", "away:v1")}));
    assert_eq!(away.json()["class"], "refused", "{}", said(&away));
    assert!(said(&away).contains("leads out of sources.local_roots"), "{}", said(&away));
    for body in
        [json!({"image": all[0]}), json!({"image": all[1]}), json!({"image": "docker-archive:-"})]
    {
        let answer = ask("/v1/images", body);
        assert_eq!(answer.status, 400, "{}", said(&answer));
        assert!(said(&answer).contains("opens no path"), "{}", said(&answer));
    }
    let none = ask("/v1/images", json!({"image": all[1], "descriptor": 0}));
    assert!(said(&none).contains("come over the unix socket alone"), "{}", said(&none));
    daemon.stop();
    host.check();
}

#[test]
fn another_user_gets_no_more_than_that_user_can_open() {
    const NOBODY: u32 = 65534;
    let bench = Bench::new(&[], 4, 2000);
    let host = bench.host("host");
    let all = places(&bench);
    let open = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let top = bench.path("");
    for dir in [top.as_path(), &host.dir, dir.path()] {
        fs::create_dir_all(dir).unwrap();
        open(dir);
    }
    let socket = dir.path().join("serve.sock");
    let words = ["--socket", socket.to_str().unwrap(), "--allow", "user:65534"];
    let mut command = host.command(&[&["serve"][..], &words[2..], &words[..2]].concat());
    let mut daemon = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    until("the daemon to listen", || socket.exists().then_some(()));
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).unwrap();
    let program = dir.path().join("orchestrate");
    fs::copy(env!("CARGO_BIN_EXE_orchestrate"), &program).unwrap();
    open(&program);
    let nobody = |image: &str, stdin: Stdio| {
        let own = host.command(&["ensure", image, "--socket", socket.to_str().unwrap()]);
        let mut command = Command::new(&program);
        command.args(own.get_args()).uid(NOBODY).gid(NOBODY).stdin(stdin);
        let ran = command.output().unwrap();
        (ran.status.code(), String::from_utf8_lossy(&ran.stderr).into_owned())
    };
    let archive = bench.path("oci.tar");
    fs::set_permissions(&archive, fs::Permissions::from_mode(0o600)).unwrap();
    let (code, said) = nobody(&all[1], Stdio::null());
    assert!(code != Some(0) && said.contains("Permission denied"), "{said}");
    let (code, said) = nobody(&all[0], Stdio::null());
    assert!(
        code == Some(100) && said.contains("from root and from the daemon's own user"),
        "{said}"
    );
    fs::set_permissions(&archive, fs::Permissions::from_mode(0o644)).unwrap();
    let (code, said) = nobody(&all[1], Stdio::null());
    assert_eq!(code, Some(0), "{said}");
    let piped = File::open(bench.path("docker.tar")).unwrap();
    assert_eq!(nobody("docker-archive:-", piped.into()).0, Some(0), "a pipe");
    kill(Pid::from_raw(i32::try_from(daemon.id()).unwrap()), Signal::SIGTERM).unwrap();
    assert!(daemon.wait().unwrap().success());
    host.check();
}
