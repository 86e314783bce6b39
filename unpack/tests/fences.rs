//! A proof for each fence of the sandbox: a child is told to misbehave. Without any fence it can;
//! with that one fence alone it cannot; with all of them it cannot either.
//!
//! The child is this program again. It exits 0 if it got its way, 3 if it was told no.

use std::fs::{self, OpenOptions, Permissions};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, ExitCode};

use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, makedev, mknod, utimensat};
use nix::sys::time::TimeSpec;
use unpack::sandbox::{Fence, confine};
use unpack::{Limits, Root};

/// What the child tries, and every fence that stops it on its own. What no single fence stops is
/// not here.
const ACTS: &[(&str, &[Fence])] = &[
    ("write_much", &[Fence::Rlimits]),
    ("open_device", &[Fence::Mount]),
    ("run_unpacked", &[Fence::Mount, Fence::Landlock, Fence::Seccomp]),
    ("write_outside", &[Fence::Chroot, Fence::Landlock]),
    ("create_outside", &[Fence::Chroot, Fence::Landlock]),
    ("chmod_outside", &[Fence::Chroot]),
    ("chown_outside", &[Fence::Chroot]),
    ("touch_outside", &[Fence::Chroot]),
    ("setxattr_outside", &[Fence::Chroot]),
    ("mknod_outside", &[Fence::Chroot, Fence::Landlock]),
    ("mount", &[Fence::Capabilities, Fence::Seccomp]),
    ("leave_chroot", &[Fence::Capabilities, Fence::Seccomp]),
    ("ptrace", &[Fence::Capabilities, Fence::Seccomp]),
    ("gain_by_setuid", &[Fence::NoNewPrivs, Fence::Seccomp]),
    ("gain_by_unpacked", &[Fence::Mount, Fence::NoNewPrivs, Fence::Landlock, Fence::Seccomp]),
    ("signal", &[Fence::Landlock, Fence::Seccomp]),
    ("trusted_xattr", &[Fence::Capabilities]),
    ("connect", &[Fence::Landlock, Fence::Seccomp]),
    ("exec", &[Fence::Seccomp, Fence::Landlock, Fence::Chroot]),
    ("fork", &[Fence::Seccomp]),
];

fn main() -> ExitCode {
    unpack::sandbox::child_entry();
    let args: Vec<String> = std::env::args().collect();
    if args.get(1).is_some_and(|arg| arg == "--misbehave") {
        return match misbehave(&args[2], &args[3], Path::new(&args[4])) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::from(3),
        };
    }
    if args.iter().any(|arg| arg == "--list") {
        println!("fences: test");
        return ExitCode::SUCCESS;
    }
    assert!(
        nix::unistd::geteuid().is_root(),
        "the fences are about what root can do: run as root (sudo -E cargo test -p unpack)"
    );
    for (act, fences) in ACTS {
        let free = run(act, &[]);
        assert_eq!(free.as_deref(), Ok("done"), "{act} has to work without any fence");
        for fence in *fences {
            let held = run(act, &[*fence]);
            assert!(held.is_err(), "{act} with {} alone: {held:?}", fence.name());
            println!("{act:<16} {:<14} {}", fence.name(), held.unwrap_err());
        }
        let held = run(act, &Fence::ALL);
        assert!(held.is_err(), "{act} with all fences: {held:?}");
    }
    // What Landlock has no right for, which is why it does not stand alone.
    for act in ["chmod_outside", "chown_outside", "touch_outside", "setxattr_outside"] {
        assert_eq!(run(act, &[Fence::Landlock]).as_deref(), Ok("done"), "{act}");
    }
    // Behind noexec nosuid has no act of its own, so it is looked at.
    assert_eq!(run("mount_flags", &[Fence::Mount]).as_deref(), Ok("done"));
    assert!(run("mount_flags", &[]).is_err());
    println!("fences: {} acts held", ACTS.len());
    ExitCode::SUCCESS
}

fn set_xattr(path: &Path, name: &str) -> Result<(), Box<dyn std::error::Error>> {
    Ok(rustix::fs::lsetxattr(path, name, b"1", rustix::fs::XattrFlags::empty())?)
}

/// `Ok("done")` if the child got its way, else how it was stopped.
fn run(act: &str, fences: &[Fence]) -> Result<&'static str, String> {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    let root = dir.path().join("root");
    fs::create_dir(&root).unwrap();
    fs::write(dir.path().join("secret"), "canary").unwrap();
    fs::copy("/usr/bin/id", root.join("id")).unwrap();
    fs::set_permissions(root.join("id"), Permissions::from_mode(0o4755)).unwrap();
    mknod(&root.join("null"), SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(1, 3))
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut victim = Command::new("sleep").arg("60").spawn().unwrap();
    let names: Vec<&str> = fences.iter().map(|fence| fence.name()).collect();
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--misbehave", act, &names.join(",")])
        .arg(dir.path())
        .env("PORT", listener.local_addr().unwrap().port().to_string())
        .env("VICTIM", victim.id().to_string())
        .status()
        .unwrap();
    victim.kill().unwrap();
    victim.wait().unwrap();
    match (status.code(), status.signal()) {
        (Some(0), _) => Ok("done"),
        (Some(3), _) => Err("told no".into()),
        (None, Some(signal)) => Err(format!("killed by signal {signal}")),
        other => panic!("{act}: {other:?}"),
    }
}

fn misbehave(act: &str, fences: &str, dir: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let which: Vec<Fence> = Fence::ALL
        .into_iter()
        .filter(|fence| fences.split(',').any(|name| name == fence.name()))
        .collect();
    let limits = Limits { file_bytes_max: 1 << 20, ..Limits::default() };
    let root = Root::open(&dir.join("root")).expect("root");
    let (root, standing) = confine(root, &limits, &which).expect("confine");
    assert!(standing.iter().all(|fence| fence.stands), "{standing:?}");
    let secret = dir.join("secret");
    let port: u16 = std::env::var("PORT")?.parse()?;
    let inside = |name: &str| {
        format!(
            "/proc/self/fd/{}/{name}",
            std::os::fd::AsRawFd::as_raw_fd(&std::os::fd::AsFd::as_fd(&root))
        )
    };
    match act {
        "write_much" => {
            let file = dir.join("root/much");
            let file = OpenOptions::new().write(true).create_new(true).open(file)?;
            file.set_len(5 << 30)?;
        }
        "open_device" => {
            drop(OpenOptions::new().read(true).open(inside("null"))?);
        }
        "run_unpacked" => {
            let error = Command::new(inside("id")).arg("-u").exec();
            return Err(error.into());
        }
        "write_outside" => drop(OpenOptions::new().write(true).open(secret)?),
        "create_outside" => drop(fs::File::create(dir.join("new"))?),
        "chmod_outside" => fs::set_permissions(secret, Permissions::from_mode(0o777))?,
        "chown_outside" => chown(secret, Some(7), Some(7))?,
        "touch_outside" => {
            let time = TimeSpec::new(7, 7);
            let here = nix::fcntl::AT_FDCWD;
            utimensat(here, &secret, &time, &time, UtimensatFlags::NoFollowSymlink)?;
        }
        "setxattr_outside" => set_xattr(&secret, "user.a")?,
        "trusted_xattr" => set_xattr(Path::new(&inside("id")), "trusted.overlay.opaque")?,
        "mount_flags" => {
            use nix::sys::statvfs::{FsFlags, fstatvfs};
            let wanted = FsFlags::ST_NODEV | FsFlags::ST_NOSUID | FsFlags::ST_NOEXEC;
            if !fstatvfs(&root)?.flags().contains(wanted) {
                return Err("flags are missing".into());
            }
        }
        "gain_by_unpacked" => {
            let out = Command::new(inside("id")).arg("-u").uid(65534).output()?;
            if out.stdout.trim_ascii() != b"0" {
                return Err("no gain".into());
            }
        }
        "signal" => {
            let victim: i32 = std::env::var("VICTIM")?.parse()?;
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(victim), None)?;
        }
        "mknod_outside" => {
            mknod(
                &dir.join("disk"),
                SFlag::S_IFBLK,
                Mode::from_bits_truncate(0o600),
                makedev(7, 0),
            )?;
        }
        "mount" => {
            let none: Option<&str> = None;
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)?;
            mount(Some("none"), "/", Some("tmpfs"), MsFlags::empty(), none)?;
        }
        "leave_chroot" => nix::unistd::chroot(".")?,
        "ptrace" => {
            let victim: i32 = std::env::var("VICTIM")?.parse()?;
            nix::sys::ptrace::attach(nix::unistd::Pid::from_raw(victim))?;
        }
        "gain_by_setuid" => {
            let out = Command::new(dir.join("root/id")).arg("-u").uid(65534).output()?;
            if out.stdout.trim_ascii() != b"0" {
                return Err("no gain".into());
            }
        }
        "connect" => drop(TcpStream::connect(("127.0.0.1", port))?),
        "exec" => {
            let error = Command::new("/usr/bin/true").exec();
            return Err(error.into());
        }
        "fork" => {
            std::thread::spawn(|| ()).join().expect("threads stay allowed");
            Command::new("/usr/bin/true").spawn()?.wait()?;
        }
        other => panic!("no act {other}"),
    }
    Ok(())
}
