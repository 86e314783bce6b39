//! Images that come through a pipe, and places of this host that are as hostile as a tar.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::symlink;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::Pid;
use serde_json::Value;

use crate::bench::{Bench, Host, names};
use crate::images::layout::{
    Family, Image, Layout, Member, Packing, Saved, archive, gzip, saved, sha, tar, zstd,
};

const PIPE: &str = "docker-archive:-";

fn image() -> Image {
    Image::of(&[1, 2, 3])
}

fn docker() -> Vec<u8> {
    archive(&saved(&image(), Saved::Podman, &["app:v1"]))
}

/// What image a pipe of `docker save` is known as.
fn known() -> String {
    format!("sha256:{}", sha(image().config().to_string().as_bytes()))
}

fn piped(mut command: Command, bytes: &[u8]) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut to = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        // Who refuses it does not read it to its end.
        scope.spawn(move || drop(to.write_all(bytes)));
        child.wait_with_output().unwrap()
    })
}

fn no_archive(host: &Host<'_>) {
    assert_eq!(names(&host.state().join("archives")), [""; 0]);
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn what_comes_through_a_pipe_is_known_by_its_digest() {
    let bench = Bench::new(&[], 4, 2000);
    let host = bench.host("host");
    let layout = Layout::one(&image(), Packing::Zstd, Family::Oci);
    let manifest = layout.manifests[0]["digest"].as_str().unwrap();
    for (form, bytes, name) in [
        (PIPE, docker(), known()),
        (PIPE, gzip(&docker()), known()),
        (PIPE, zstd(&docker()), known()),
        ("oci-archive:-", layout.tar(), manifest.to_owned()),
        ("oci-archive:-:v1", gzip(&layout.tar()), manifest.to_owned()),
    ] {
        let done = piped(host.command(&["ensure", form]), &bytes);
        assert!(done.status.success(), "{form}: {done:?}");
        let done: Value = serde_json::from_slice(&done.stdout).unwrap();
        assert_eq!((&done["image"], &done["chain"]), (&name.into(), &image().chain().into()));
        no_archive(&host);
    }
    host.ok(&["activate", &known(), "--name", "a-1"]);
    host.check_tree("a-1", 3);
    host.check();

    // An index is chosen from when it comes, and by the platform that was asked for.
    let mut layout = Layout::default();
    let own = layout.image(&image(), Packing::Gzip, Family::Oci);
    let other = Image { arch: "arm64", ..Image::of(&[4]) };
    let arm = layout.image(&other, Packing::Gzip, Family::Oci);
    let index = layout.index(&[own, arm.clone()], Family::Oci);
    layout.tag(index.clone(), "v1");
    let by_digest = format!("oci-archive:-@{}", index["digest"].as_str().unwrap());
    for form in ["oci-archive:-", by_digest.as_str()] {
        let words = ["ensure", form, "--platform", "linux/arm64"];
        let done = piped(host.command(&words), &layout.tar());
        assert!(done.status.success(), "{form}: {done:?}");
        let told = said(&done);
        let done: Value = serde_json::from_slice(&done.stdout).unwrap();
        assert_eq!(
            (&done["image"], &done["chain"]),
            (&arm["digest"], &other.chain().into()),
            "{told}"
        );
    }
    host.check();
}

#[test]
fn what_breaks_off_or_lies_in_a_pipe_leaves_nothing() {
    let bench = Bench::new(&[], 4, 2000);
    let host = bench.host("host");
    let whole = docker();
    let mut lies = image();
    lies.diffs = Some(lies.diffs().into_iter().rev().collect());
    // A member far larger than what there is of it, and a bomb: both cost nothing to send.
    let bomb = {
        let mut child = Command::new("sh")
            .args(["-c", "head -c 300000000 /dev/zero | gzip -9"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut bytes = Vec::new();
        child.stdout.take().unwrap().read_to_end(&mut bytes).unwrap();
        child.wait().unwrap();
        bytes
    };
    for (name, bytes, codes) in [
        ("nothing", &b""[..], &[100][..]),
        ("cut in a body", &whole[..whole.len() / 2], &[100, 111]),
        ("cut in a header", &whole[..100], &[100, 111]),
        ("cut in a gzip", &gzip(&whole)[..9000], &[100, 111]),
        ("noise", &[0xa5; 9000][..], &[100]),
        ("a bomb", &bomb, &[100]),
        ("a config that lies", &archive(&saved(&lies, Saved::Old, &[])), &[100]),
    ] {
        let begun = Instant::now();
        let ran = piped(host.command(&["ensure", PIPE, "--bytes-max", "100000000"]), bytes);
        let told = said(&ran);
        assert!(codes.contains(&ran.status.code().unwrap_or(-1)), "{name}: {ran:?}");
        assert!(!told.contains("panicked") && begun.elapsed().as_secs() < 30, "{name}: {told}");
        no_archive(&host);
        assert_eq!(host.rows("SELECT reference FROM images"), [""; 0], "{name}");
    }
    let (code, told) = host.said(&["activate", PIPE, "--name", "a-1"]);
    assert_eq!(code, 100, "an empty standard input: {told}");
    host.check();
}

/// It is built or not: what was written down of a pipe is not needed any more.
#[test]
fn whatever_a_command_comes_to_its_archive_goes() {
    let bench = Bench::new(&[], 4, 2000);
    let host = bench.host("host");
    let other = archive(&saved(&Image::of(&[1, 2, 4]), Saved::Old, &[]));
    let bytes = docker();
    for (bytes, words, code) in [
        (&bytes, &["ensure", PIPE, "--dry-run"][..], 0),
        (&bytes, &["activate", PIPE, "--name", "a-1", "--dry-run"], 0),
        (&bytes, &["activate", PIPE, "--name", "no name"], 100),
        (&bytes, &["activate", PIPE, "--name", "a-1", "--no-fetch"], 100),
        (&bytes, &["activate", PIPE, "--name", "a-1"], 0),
        (&bytes, &["activate", PIPE, "--name", "a-1"], 0),
        (&bytes, &["activate", PIPE, "--name", "a-2", "--no-fetch"], 0),
        (&other, &["activate", PIPE, "--name", "a-1"], 100),
        (&other, &["ensure", "docker-archive:-:nothing:v1"], 100),
        (&other, &["ensure", "docker-archive:-@7"], 100),
    ] {
        let ran = piped(host.command(words), bytes);
        assert_eq!(ran.status.code(), Some(code), "{words:?}: {ran:?}");
        no_archive(&host);
    }
    host.check_tree("a-1", 3);
    host.check();
}

fn standing(mut command: Command) -> Child {
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn a_silent_pipe_keeps_nobody_from_stopping() {
    let bench = Bench::new(&[], 4, 2000);
    let host = bench.host("host");
    host.ok(&["ls"]);
    let half = docker();
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        for bytes in [&b""[..], &half[..half.len() / 2]] {
            let mut child = standing(host.command(&["activate", PIPE, "--name", "a-1"]));
            let mut to = child.stdin.take().unwrap();
            to.write_all(bytes).unwrap();
            std::thread::sleep(Duration::from_millis(700));
            assert!(child.try_wait().unwrap().is_none(), "it waits for more");
            let begun = Instant::now();
            kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
            let ended = child.wait().unwrap();
            let took = begun.elapsed();
            assert!(took < Duration::from_secs(3), "{signal}: heard after {took:?}");
            if took > Duration::from_secs(1) {
                eprintln!("{signal}: heard after {took:?}");
            }
            assert!(
                ended.code().is_some_and(|code| code != 0),
                "{signal}: {ended:?} {:?}",
                ended.signal()
            );
            no_archive(&host);
            drop(to);
        }
    }
    host.check();
}

/// Nothing is found of it afterwards, however hard the end was.
#[test]
fn a_pipe_that_is_killed_leaves_no_file() {
    let bench = Bench::new(&[], 4, 2000);
    let host = bench.host("host");
    let mut child = standing(host.command(&["ensure", PIPE]));
    let mut to = child.stdin.take().unwrap();
    to.write_all(&docker()[..5000]).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    child.kill().unwrap();
    child.wait().unwrap();
    no_archive(&host);
    let done = piped(host.command(&["ensure", PIPE]), &docker());
    assert!(done.status.success(), "{done:?}");
    host.check();
}

#[test]
fn the_same_pipe_twice_at_once_is_one_image() {
    let bench = Bench::new(&[], 4, 2000);
    for round in 0..4 {
        let host = bench.host("host");
        host.wipe();
        host.ok(&["ls"]);
        let (bytes, host) = (&docker(), &host);
        let all = std::thread::scope(|scope| {
            let ran: Vec<_> = (0..3)
                .map(|at| {
                    let name = format!("a-{at}");
                    scope.spawn(move || {
                        let words = ["activate", PIPE, "--name", &name];
                        piped(host.command(&words), bytes)
                    })
                })
                .collect();
            ran.into_iter().map(|one| one.join().unwrap()).collect::<Vec<_>>()
        });
        for one in all {
            assert!(one.status.success(), "round {round}: {one:?}");
        }
        for at in 0..3 {
            host.check_tree(&format!("a-{at}"), 3);
        }
        no_archive(host);
        assert_eq!(host.rows("SELECT count(*) FROM volumes WHERE role = 'layer'"), ["3"]);
        host.check();
    }
}

/// A state directory on a small file system: it is no fault of the archive.
#[test]
fn a_state_directory_that_runs_full_is_told_of() {
    use nix::mount::{MntFlags, MsFlags, mount, umount2};

    let bench = Bench::new(&[], 4, 2000);
    let host = bench.host("host");
    fs::create_dir_all(host.state()).unwrap();
    mount(Some("tmpfs"), &host.state(), Some("tmpfs"), MsFlags::empty(), Some("size=8m")).unwrap();
    host.ok(&["ls"]);
    let mut large = image();
    large.layers.push(tests::layer::of(&[("large".into(), vec![7; 16 << 20])]));
    let bytes = archive(&saved(&large, Saved::Old, &[]));
    let ran = piped(host.command(&["ensure", PIPE]), &bytes);
    let (code, told) = (ran.status.code(), said(&ran) + &String::from_utf8_lossy(&ran.stdout));
    let left = names(&host.state().join("archives"));
    let small = piped(host.command(&["ensure", PIPE]), &docker());
    umount2(&host.state(), MntFlags::MNT_DETACH).unwrap();
    assert_eq!((code, &left[..]), (Some(111), &[] as &[String]), "{told}");
    assert!(told.contains("no_space"), "{told}");
    assert!(small.status.success(), "{small:?}");
}

/// Whatever lies in the place of a layout's files is opened as a file or not at all.
#[test]
fn a_layout_is_as_hostile_as_a_tar() {
    let bench = Bench::new(&[], 4, 2000);
    let host = bench.host("host");
    let dir = bench.path("layout");
    let words = format!("oci:{}:v1", dir.display());
    let (index, blobs) = (dir.join("index.json"), dir.join("blobs/sha256"));
    let layer = blobs.join(sha(&gzip(&image().layers[2])));
    type Harm<'h> = (&'static str, i32, &'static str, &'h dyn Fn());
    let again = |path: &std::path::Path| drop(fs::remove_file(path));
    let harms: &[Harm<'_>] = &[
        ("a pipe for an index", 100, "no regular file", &|| {
            again(&index);
            nix::unistd::mkfifo(&index, Mode::S_IRWXU).unwrap();
        }),
        ("a pipe for oci-layout", 100, "no regular file", &|| {
            again(&dir.join("oci-layout"));
            nix::unistd::mkfifo(&dir.join("oci-layout"), Mode::S_IRWXU).unwrap();
        }),
        ("a pipe for a layer", 100, "no regular file", &|| {
            again(&layer);
            nix::unistd::mkfifo(&layer, Mode::S_IRWXU).unwrap();
        }),
        ("a socket for a layer", 100, "a socket", &|| {
            again(&layer);
            // A socket's path is short.
            let short = bench.path("s");
            again(&short);
            drop(std::os::unix::net::UnixListener::bind(&short).unwrap());
            fs::rename(&short, &layer).unwrap();
        }),
        ("a device for a layer", 100, "no regular file", &|| {
            again(&layer);
            let zero = nix::sys::stat::makedev(1, 5);
            nix::sys::stat::mknod(&layer, nix::sys::stat::SFlag::S_IFCHR, Mode::S_IRWXU, zero)
                .unwrap();
        }),
        ("a link for a layer", 100, "a symbolic link", &|| {
            again(&layer);
            symlink("/etc/shadow", &layer).unwrap();
        }),
        ("another name of a secret", 100, "were promised", &|| {
            again(&layer);
            fs::write(dir.join("secret"), "root:x").unwrap();
            fs::hard_link(dir.join("secret"), &layer).unwrap();
        }),
        ("a link for a folder", 100, "in the way to it", &|| {
            fs::rename(dir.join("blobs"), dir.join("elsewhere")).unwrap();
            symlink("elsewhere", dir.join("blobs")).unwrap();
        }),
        ("an index without an end", 100, "at most 4194304", &|| {
            File::create(&index).unwrap().set_len(1 << 40).unwrap();
        }),
        ("a layer without an end", 100, "were promised", &|| {
            File::options().write(true).open(&layer).unwrap().set_len(1 << 40).unwrap();
        }),
        ("a directory for an index", 100, "no regular file", &|| {
            again(&index);
            fs::create_dir(&index).unwrap();
        }),
    ];
    for (name, code, wanted, harm) in harms {
        drop(fs::remove_dir_all(&dir));
        Layout::one(&image(), Packing::Gzip, Family::Oci).write(&dir);
        harm();
        let begun = Instant::now();
        let (got, told) = host.said(&["ensure", &words]);
        assert_eq!(got, *code, "{name}: {told}");
        assert!(told.contains(wanted) && !told.contains("panicked"), "{name}: {told}");
        assert!(begun.elapsed().as_secs() < 10, "{name}");
        assert_eq!(host.rows("SELECT reference FROM images"), [""; 0], "{name}");
    }
    host.check();
}

/// Replaced, cut and written over while it is read: an error that names it, and nothing of it.
#[test]
fn a_file_that_changes_under_its_reader_is_told_of() {
    let bench = Bench::new(&[], 4, 2000);
    let host = bench.host("host");
    let file = bench.path("a.tar");
    let mut large = image();
    large.layers.push(tests::layer::of(&[("large".into(), vec![7; 24 << 20])]));
    let bytes = archive(&saved(&large, Saved::Old, &[]));
    let words = format!("docker-archive:{}", file.display());
    let volumes = host.store().join("volumes");
    for (name, codes, change) in [
        (
            "cut",
            &[100, 111][..],
            &(|| File::options().write(true).open(&file).unwrap().set_len(30000).unwrap())
                as &dyn Fn(),
        ),
        ("written over", &[100, 111], &|| {
            let noise = vec![0xa5; 20 << 20];
            let to = File::options().write(true).open(&file).unwrap();
            std::os::unix::fs::FileExt::write_all_at(&to, &noise, 1 << 20).unwrap();
        }),
        // Whoever has opened it goes on with what it was.
        ("replaced", &[0], &|| {
            let other = bench.path("other");
            fs::write(&other, "no archive").unwrap();
            fs::rename(&other, &file).unwrap();
        }),
    ] {
        host.wipe();
        fs::write(&file, &bytes).unwrap();
        let child = host
            .command(&["ensure", &words])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        // The template is 1; the first layer has begun.
        while names(&volumes).len() < 2 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        change();
        let ran = child.wait_with_output().unwrap();
        let told = said(&ran);
        let code = ran.status.code().unwrap_or(-1);
        // It may have been read to its end by then.
        assert!(codes.contains(&code) || code == 0, "{name}: {ran:?}");
        assert!(!told.contains("panicked"), "{name}: {told}");
        if code != 0 {
            assert!(told.contains("a.tar"), "{name}: {told}");
            assert_eq!(host.rows("SELECT reference FROM images"), [""; 0], "{name}");
        }
        eprintln!("{name}: {code}");
        host.check();
    }
}

#[test]
fn an_archive_without_an_end_is_refused_within_its_bounds() {
    let bench = Bench::new(&[], 4, 2000);
    let host = bench.host("host");
    let file = bench.path("a.tar");
    let words = format!("docker-archive:{}", file.display());
    let one = tar([("a", Member::File(Vec::new()))]);
    // A million members.
    let mut to = std::io::BufWriter::new(File::create(&file).unwrap());
    for _ in 0..1_000_000 {
        to.write_all(&one[..512]).unwrap();
    }
    to.write_all(&[0; 1024]).unwrap();
    drop(to);
    let begun = Instant::now();
    let (code, told) = host.said(&["ensure", &words]);
    assert_eq!(code, 100, "{told}");
    assert!(told.contains("200000"), "{told}");
    assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
    // A member that ends where no file does.
    let mut head = tar([("manifest.json", Member::File(vec![b' '; 9]))]);
    head.truncate(512);
    for (size, wanted) in [("77777777777", "ends inside an entry's body"), ("00000100000", "body")]
    {
        let mut bytes = head.clone();
        bytes[124..135].copy_from_slice(size.as_bytes());
        bytes[148..156].copy_from_slice(b"        ");
        let sum: u32 = bytes.iter().map(|byte| u32::from(*byte)).sum();
        bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        fs::write(&file, &bytes).unwrap();
        let (code, told) = host.said(&["ensure", &words]);
        assert_eq!(code, 100, "{told}");
        assert!(told.contains(wanted), "{told}");
    }
    // A member that is a hole of 7 GiB costs nobody anything but its reader: it is given up at once.
    let members = saved(&image(), Saved::Podman, &["app:v1"]);
    let config =
        members.iter().find(|(name, _)| name.ends_with(".json") && name != "manifest.json");
    let listed = serde_json::json!([{
        "Config": config.unwrap().0, "RepoTags": ["app:v1"],
        "Layers": ["hole.tar", "hole.tar", "hole.tar"],
    }]);
    let mut bytes = tar([
        ("manifest.json", Member::File(listed.to_string().into())),
        (config.unwrap().0.as_str(), config.unwrap().1.clone()),
        ("hole.tar", Member::File(Vec::new())),
    ]);
    bytes.truncate(bytes.len() - 1024);
    let at = bytes.len() - 512;
    let hole: u64 = 7 << 30;
    bytes[at + 124..at + 135].copy_from_slice(format!("{hole:011o}").as_bytes());
    bytes[at + 148..at + 156].copy_from_slice(b"        ");
    let sum: u32 = bytes[at..].iter().map(|byte| u32::from(*byte)).sum();
    bytes[at + 148..at + 156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    fs::write(&file, &bytes).unwrap();
    let whole = bytes.len() as u64 + hole + 1024;
    File::options().write(true).open(&file).unwrap().set_len(whole).unwrap();
    let (code, told) = host.said(&["ensure", &words]);
    assert_eq!(code, 100, "{told}");
    assert!(told.contains("more than 64 MiB of zeros"), "{told}");
    // Neither a pipe, nor a directory, nor a device is waited for.
    fs::remove_file(&file).unwrap();
    nix::unistd::mkfifo(&file, Mode::S_IRWXU).unwrap();
    let (code, told) = host.said(&["ensure", &words]);
    assert_eq!(code, 100, "{told}");
    assert!(told.contains("standard input"), "{told}");
    for place in ["/dev/zero", "/proc", "/"] {
        let (code, told) = host.said(&["ensure", &format!("docker-archive:{place}")]);
        assert_eq!(code, 100, "{told}");
        let (code, told) = host.said(&["ensure", &format!("oci:{place}")]);
        assert_eq!(code, 100, "{told}");
    }
    host.check();
}

/// A path becomes a part of the image's name, in one way, and no other name is read out of it.
#[test]
fn a_path_is_a_name_in_one_way() {
    let bench = Bench::new(&[], 4, 2000);
    let host = bench.host("host");
    let strange = bench.path("a:b");
    Layout::one(&image(), Packing::Gzip, Family::Oci).write(&strange.join("img"));
    let plain = bench.path("plain");
    Layout::one(&image(), Packing::Gzip, Family::Oci).write(&plain.join("img"));
    for words in ["oci:img:v1", "oci:./img:v1", "oci:img/:v1", "oci:.//img/.:v1"] {
        let ran = host.command(&["ensure", words]).current_dir(&plain).output().unwrap();
        assert!(ran.status.success(), "{words}: {ran:?}");
    }
    assert_eq!(
        host.rows("SELECT reference FROM images"),
        [format!("oci:{}/img:v1", plain.display())]
    );
    let ran = host.command(&["ensure", "oci:img:v1"]).current_dir(&strange).output().unwrap();
    assert_eq!(ran.status.code(), Some(100), "{ran:?}");
    assert!(said(&ran).contains("cannot be part of a name"), "{ran:?}");
    for words in [&["pin"][..], &["unpin"], &["verify"], &["show"], &["rm"]] {
        let words: Vec<&str> = words.iter().copied().chain(["oci:./img:v1"]).collect();
        let ran = host.command(&words).current_dir(&plain).output().unwrap();
        assert!(ran.status.success(), "{words:?}: {ran:?}");
    }
    host.check();
}
