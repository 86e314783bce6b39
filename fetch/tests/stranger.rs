//! The program in the hands of a stranger: each odd word, place and number has its exit code, says
//! what is wrong, and costs no request where none is needed.

mod fault;

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use fault::{ETAG, Reply, Server, noise};
use sha2::{Digest as _, Sha256};

fn run(url: &str, args: &[&str]) -> (Option<i32>, Vec<u8>, String) {
    let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_fetch"))
        .arg("--anonymous")
        .args(args)
        .env_clear()
        .env("AWS_ENDPOINT_URL", url)
        .output()
        .unwrap();
    (status.code(), stdout, String::from_utf8_lossy(&stderr).into_owned())
}

fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
    format!("sha256:{hex}")
}

fn serve(bytes: &[u8]) -> Server {
    Server::start(bytes.to_vec(), Arc::new(|_, reply| reply))
}

#[test]
fn words_that_mean_nothing_are_named_and_nothing_is_sent() {
    let server = serve(b"hello");
    let upper = digest(b"hello").to_uppercase();
    let long = "a".repeat(1025);
    let long = format!("s3://bkt/{long}");
    for (args, says) in [
        (&["s3://bkt"][..], "no key"),
        (&["s3://bkt/"], "no key"),
        (&["s3:///k"], "3 to 63"),
        (&["s3://"], "3 to 63"),
        (&[""], "expected s3://"),
        (&["http://h/k"], "expected s3://"),
        (&["S3://bkt/k"], "expected s3://"),
        (&["s3://BKT/k"], "a-z"),
        (&["s3://b@d/k"], "a-z"),
        (&["s3://bkt.evil.com:80/k"], "a-z"),
        (&["s3://bkt/../k"], "segment"),
        (&["s3://bkt/a/./k"], "segment"),
        (&[&long], "1024"),
        (&[], "name an object"),
        (&["s3://bkt/k", "s3://bkt/k2"], "k2"),
        (&["s3://bkt/k", "--digest", &upper], "lower case"),
        (&["s3://bkt/k", "--digest", &digest(b"x")[..70]], "64 hex"),
        (&["s3://bkt/k", "--digest", "md5:5d41402abc4b2a76b9719d911017c592"], "sha256"),
        (&["s3://bkt/k", "--digest", ""], "sha256"),
        (&["s3://bkt/k", "--etag", "a\nb"], "blanks"),
        (&["s3://bkt/k", "--etag", ""], "blanks"),
        (&["s3://bkt/k", "--size", "-1"], "--size"),
        (&["s3://bkt/k", "--jobs", "0"], "1 to 16"),
        (&["s3://bkt/k", "--jobs", "17"], "1 to 16"),
        (&["s3://bkt/k", "--tries", "0"], "--tries"),
        (&["s3://bkt/k", "--rate-floor", "0"], "--rate-floor"),
        (&["s3://bkt/k", "--patience", "0"], "--patience"),
        (&["s3://bkt/k", "--deadline", "-1"], "--deadline"),
        (&["s3://bkt/k", "--region", "a/b"], "region"),
        (&["s3://bkt/k", "--addressing", "x"], "virtual-host"),
        (&["s3://bkt/k", "--redirect-to", "a/b"], "redirect host"),
        (&["s3://bkt/k", "--source", "nonsense"], "nonsense"),
        (&["s3://bkt/k", "--endpoint", "nonsense"], "endpoint"),
        (&["s3://bkt/k", "--endpoint", "http://u:hunter2@h"], "credentials"),
        (&["s3://bkt/k", "--profile", "x"], "--anonymous"),
        (&["s3://bkt/k", "--all"], "--list"),
        (&["--list", "s3://bkt/p/", "--digest", "x"], "--list"),
        (&["--list", "s3://bkt/p/", "-o", "x"], "--list"),
        (&["s3://bkt/k", "-o", "x", "--spool", "y"], "-o"),
        (&["s3://bkt/k", "-o", ""], "names no file"),
        (&["s3://bkt/k", "--nonsense"], "--help"),
    ] {
        let (code, out, said) = run(&server.url(), args);
        assert_eq!((code, out.len()), (Some(100), 0), "{args:?}: {said}");
        assert!(said.contains(says), "{args:?} does not say {says:?}: {said}");
        assert!(!said.contains("hunter2"), "{said}");
        assert!(!said.trim_end().contains(|c: char| c.is_control()), "{said:?}");
    }
    assert_eq!(server.count(), 0);
}

/// Makes a device like /dev/null, so that the one of the host is left alone.
fn null(path: &Path) {
    use nix::sys::stat::{Mode, SFlag, makedev, mknod};
    let mode = Mode::from_bits_truncate(0o600);
    mknod(path, SFlag::S_IFCHR, mode, makedev(1, 3)).expect("run as root: mknod");
}

#[test]
fn only_a_file_is_replaced() {
    let bytes = noise(3_000_000, 41);
    let server = serve(&bytes);
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let names = || {
        let mut names: Vec<String> = fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    // Folders, and places that are not there, are known before a byte is asked for.
    fs::create_dir(at("folder")).unwrap();
    for (place, says) in [
        (at("folder"), "it is a folder"),
        (at("folder/"), "names a folder"),
        (at("absent/"), "names a folder"),
        (at("absent/f"), "No such file"),
        (at("folder/../../.."), "it is a folder"),
    ] {
        let (code, out, said) = run(&server.url(), &["s3://bkt/k", "-o", &place]);
        assert_eq!((code, out.len()), (Some(100), 0), "{place}: {said}");
        assert!(said.contains(says), "{place}: {said}");
        assert_eq!(names(), ["folder"]);
    }
    // A device gets the bytes and stays a device.
    null(dir.path().join("null").as_path());
    let (code, out, said) = run(&server.url(), &["s3://bkt/k", "-o", &at("null")]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(String::from_utf8(out).unwrap().trim(), digest(&bytes));
    assert!(fs::metadata(at("null")).unwrap().file_type().is_char_device(), "it was replaced");
    // So does a pipe with a name.
    let pipe = dir.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let reader = thread::spawn({
        let pipe = pipe.clone();
        move || fs::read(pipe).unwrap()
    });
    let (code, _, said) = run(&server.url(), &["s3://bkt/k", "-o", &at("pipe")]);
    assert_eq!(code, Some(0), "{said}");
    assert!(reader.join().unwrap() == bytes);
    assert!(fs::metadata(&pipe).unwrap().file_type().is_fifo(), "it was replaced");
    // An old file is replaced, a link as well and not what it leads to.
    fs::write(at("old"), "old").unwrap();
    fs::write(at("other"), "other").unwrap();
    symlink(at("other"), at("link")).unwrap();
    for name in ["old", "link"] {
        let (code, _, said) = run(&server.url(), &["s3://bkt/k", "-o", &at(name)]);
        assert!(code == Some(0) && fs::read(at(name)).unwrap() == bytes, "{said}");
    }
    assert_eq!(fs::read(at("other")).unwrap(), b"other");
    assert_eq!(names(), ["folder", "link", "null", "old", "other", "pipe"]);
    // Where it fails, what was there stays.
    fs::write(at("old"), "old").unwrap();
    let wrong = ["s3://bkt/k", "-o", &at("old"), "--digest", &digest(b"x")];
    let (code, _, said) = run(&server.url(), &wrong);
    assert_eq!((code, fs::read(at("old")).unwrap().as_slice()), (Some(100), &b"old"[..]), "{said}");
    assert_eq!(names().len(), 6, "{:?}", names());
    // "-" is stdout, as everywhere.
    let (code, out, said) = run(&server.url(), &["s3://bkt/k", "-o", "-"]);
    assert!(code == Some(0) && out == bytes, "{said}");
}

#[test]
fn a_partial_file_of_something_else_is_not_continued() {
    let (bytes, others) = (noise(3_000_000, 42), noise(3_000_000, 43));
    let (server, other) = (serve(&bytes), serve(&others));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("f").display().to_string();
    // Another object's, of another server, cut in the middle by a deadline.
    let slow =
        Server::start(others, Arc::new(|_, reply: Reply| reply.pace(fault::Pace::Hang(1_000_000))));
    let cut = ["s3://bkt/k", "-o", &file, "--stall-timeout", "0.5", "--tries", "1"];
    let (code, _, said) = run(&slow.url(), &cut);
    assert_eq!(code, Some(111), "{said}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    let (code, _, said) = run(&server.url(), &["s3://bkt/k", "-o", &file]);
    assert!(code == Some(0) && fs::read(&file).unwrap() == bytes, "{said}");
    let (code, _, said) = run(&other.url(), &["s3://bkt/k", "-o", &file, "--json"]);
    assert!(code == Some(0) && fs::read(&file).unwrap() != bytes, "{said}");
}

/// In a folder that others may write to, the file's name can be known beforehand. Whoever can write to it,
/// or keeps another name of it, could change what was verified in it.
#[test]
fn a_partial_file_that_others_can_change_is_begun_anew() {
    assert!(nix::unistd::geteuid().is_root(), "run as root: sudo -E cargo test -p fetch");
    let bytes = noise(3_000_000, 45);
    let hangs = Arc::new(AtomicBool::new(false));
    let plan = Arc::clone(&hangs);
    let server = Server::start(
        bytes.clone(),
        Arc::new(move |_, reply: Reply| match plan.load(Ordering::SeqCst) {
            true => reply.pace(fault::Pace::Hang(1_000_000)),
            false => reply,
        }),
    );
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let file = at("f").display().to_string();
    let address = server.url();
    // The same object of the same server, cut in the middle: what its partial file is called.
    let cut = ["s3://bkt/k", "-o", &file, "--stall-timeout", "0.5", "--tries", "1"];
    let begun = |how: fn(&Path)| {
        hangs.store(true, Ordering::SeqCst);
        let (code, _, said) = run(&address, &cut);
        assert_eq!(code, Some(111), "{said}");
        let entries = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path());
        let partial: Vec<_> =
            entries.filter(|path| path.extension().is_some_and(|end| end == "partial")).collect();
        assert_eq!(partial.len(), 1, "{partial:?}");
        let before = fs::metadata(&partial[0]).unwrap();
        assert!(before.len() > 0);
        how(&partial[0]);
        hangs.store(false, Ordering::SeqCst);
        let (code, out, said) = run(&address, &["s3://bkt/k", "-o", &file, "--json"]);
        assert!(code == Some(0) && fs::read(&file).unwrap() == bytes, "{said}");
        let kept = fs::metadata(&file).unwrap();
        assert_eq!((kept.uid(), kept.nlink(), kept.mode() & 0o022), (0, 1, 0));
        fs::remove_file(&file).unwrap();
        let out = String::from_utf8(out).unwrap();
        assert!(out.contains("\"reused\":"), "{out}");
        !out.contains("\"reused\":0,")
    };
    assert!(begun(|_| {}), "ours is continued");
    let same = begun(|partial| std::os::unix::fs::chown(partial, Some(65534), None).unwrap());
    assert!(!same, "another's");
    let same = begun(|partial| fs::hard_link(partial, partial.with_file_name("also")).unwrap());
    assert!(!same, "it has another name");
    fs::remove_file(at("also")).unwrap();
    let same = begun(|partial| {
        fs::set_permissions(partial, fs::Permissions::from_mode(0o666)).unwrap();
    });
    assert!(!same, "others may write to it");
    let same = begun(|partial| {
        let other = partial.with_file_name("other");
        fs::rename(partial, &other).unwrap();
        symlink(&other, partial).unwrap();
    });
    assert!(!same, "a link leads elsewhere");
    assert!(fs::metadata(at("other")).unwrap().len() > 0, "what it led to stays");
}

#[test]
fn places_that_cannot_be_written_are_told_apart_from_full_ones() {
    let server = serve(&noise(3_000_000, 44));
    let dir = tempfile::tempdir().unwrap();
    // Nobody may write there, root included.
    let (code, _, said) = run(&server.url(), &["s3://bkt/k", "-o", "/proc/f"]);
    assert!(code == Some(100) && said.contains("/proc/"), "{said}");
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    for spool in [dir.path().join("absent"), file] {
        let spool = spool.display().to_string();
        let (code, out, said) = run(&server.url(), &["s3://bkt/k", "--spool", &spool]);
        assert!(code == Some(100) && out.is_empty() && said.contains(&spool), "{said}");
    }
    let full = Command::new("sh")
        .args(["-c", "exec \"$@\" > /dev/full", "sh", env!("CARGO_BIN_EXE_fetch")])
        .args(["--anonymous", "--endpoint", &server.url(), "s3://bkt/k"])
        .env_clear()
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&full.stderr);
    assert_eq!(full.status.code(), Some(111), "{said}");
    assert!(said.contains("unable to write \"stdout\""), "{said}");
}

#[test]
fn sizes_at_the_edges_of_ranges() {
    let part = 2 << 20;
    for size in [0, 1, part - 1, part, part + 1, 4 * part, 4 * part + 1] {
        let bytes = noise(size, 45);
        let server = serve(&bytes);
        for jobs in ["1", "16"] {
            let known = size.to_string();
            for args in [&[][..], &["--size", &known], &["--digest", &digest(&bytes)]] {
                let mut all = vec!["s3://bkt/k", "--jobs", jobs];
                all.extend(args);
                let (code, out, said) = run(&server.url(), &all);
                assert!(code == Some(0) && out == bytes, "{size} {jobs} {args:?}: {said}");
            }
        }
    }
}

#[test]
fn pins_of_the_caller_hold_for_good() {
    let server = serve(b"hello");
    let bare = ETAG.trim_matches('"');
    let (code, _, said) = run(&server.url(), &["s3://bkt/k", "--etag", bare]);
    assert_eq!(code, Some(0), "{said}");
    for args in [["--etag", "fff"], ["--size", "6"], ["--size-max", "4"]] {
        let (code, out, said) = run(&server.url(), &[&["s3://bkt/k"][..], &args].concat());
        assert_eq!((code, out.len()), (Some(100), 0), "{args:?}: {said}");
    }
}

#[test]
fn a_prefix_without_its_slash_is_hinted_at() {
    let server = Server::start(Vec::new(), Arc::new(|_, _| Reply::error(404, "NoSuchKey")));
    let (code, _, said) = run(&server.url(), &["--list", "s3://bkt/images/golang"]);
    assert!(code == Some(100) && said.contains("would end with \"/\""), "{said}");
}

#[test]
fn a_dead_proxy_is_told_from_a_dead_server() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_fetch"))
        .args(["--anonymous", "--endpoint", "http://127.0.0.2:9", "--tries", "1", "s3://bkt/k"])
        .env_clear()
        .env("HTTP_PROXY", "http://u:hunter2@127.0.0.1:1")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(111));
    assert!(said.contains("by the proxy") && !said.contains("hunter2"), "{said}");
}

/// What came of a file stays for the next try, and nobody has to find it.
#[test]
fn a_part_that_stays_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("1.tar");
    let plan = |_: &fault::Request, reply: fault::Reply| reply.pace(fault::Pace::Hang(100_000));
    let server = Server::start(fault::noise(400_000, 1), Arc::new(plan));
    // Whatever this test was started with: a shell's script has what it runs in the background ignore SIGINT.
    let begin = |sigint: &str, tries: &str| {
        let mut command = Command::new("/usr/bin/env");
        command.env_clear().env("HOME", "/nonexistent").stderr(Stdio::piped());
        command.args([sigint, env!("CARGO_BIN_EXE_fetch")]);
        command.args(["--anonymous", "--endpoint", &server.url(), "--stall-timeout", "60"]);
        command.args(["--tries", tries, "s3://bkt/1.tar", "-o"]).arg(&out);
        command.spawn().unwrap()
    };
    let part = || {
        let mut names = std::fs::read_dir(dir.path()).unwrap().flatten();
        names.find_map(|one| Some(one.path()).filter(|_| one.metadata().unwrap().len() > 0))
    };
    // Somebody loses patience.
    let mut child = begin("--default-signal=INT", "1");
    let part = loop {
        match part() {
            Some(part) => break part,
            None => std::thread::sleep(std::time::Duration::from_millis(20)),
        }
    };
    let pid = nix::unistd::Pid::from_raw(child.id().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    let status = child.wait().unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(2), "{said}");
    assert!(said.contains(part.to_str().unwrap()) && said.contains("resumes there"), "{said}");

    // One that is to ignore it goes on, and says nothing of a part that stays.
    std::fs::remove_file(&part).unwrap();
    let mut child = begin("--ignore-signal=INT", "1");
    while !part.exists() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let pid = nix::unistd::Pid::from_raw(child.id().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(child.try_wait().unwrap().is_none());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    child.wait().unwrap();
    assert!(!said.contains("resumes there"), "{said}");
}

/// A terminal, as `script` makes one.
fn in_terminal(server: &Server, args: &str) -> (Option<i32>, String) {
    let line =
        format!("{} --anonymous --endpoint {} {args}", env!("CARGO_BIN_EXE_fetch"), server.url());
    let ran = Command::new("script")
        .args(["-q", "-e", "-c", &line, "/dev/null"])
        .env("HOME", "/nonexistent")
        .stdin(Stdio::null())
        .output()
        .expect("script of util-linux");
    (ran.status.code(), String::from_utf8_lossy(&ran.stdout).into_owned())
}

#[test]
fn a_terminal_gets_text_and_nothing_else_unasked() {
    let binary = Server::start(b"a\0b".to_vec(), Arc::new(|_, reply| reply));
    let (code, shown) = in_terminal(&binary, "s3://bkt/1.tar");
    assert!(code == Some(100) && shown.contains("-o -") && !shown.contains('\0'), "{shown:?}");
    let (code, shown) = in_terminal(&binary, "-o - s3://bkt/1.tar");
    assert!(code == Some(0) && shown.contains("a\0b"), "{shown:?}");
    let text = Server::start(b"hello\n".to_vec(), Arc::new(|_, reply| reply));
    let (code, shown) = in_terminal(&text, "s3://bkt/1.txt");
    assert!(code == Some(0) && shown.contains("hello"), "{shown:?}");
}

#[test]
fn a_retry_is_shown_unasked() {
    let stumbles = |q: &fault::Request, reply| match q.number {
        0 => fault::Reply::error(503, "SlowDown"),
        _ => reply,
    };
    let server = Server::start(b"hello".to_vec(), Arc::new(stumbles));
    let (code, _, said) = run(&server.url(), &["s3://bkt/k"]);
    assert!(code == Some(0) && said.contains("SlowDown"), "{said}");
}
