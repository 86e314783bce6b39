//! What a child that was taken over would do, behind the walls that it is told to put up. It exits 0 if it got
//! its way, and 3 if it was told no.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::net::TcpStream;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail, ensure};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::{
    FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmodat, makedev, mknodat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Pid, Uid, fchownat};
use unpack::sandbox::{Wall, confine};
use unpack::{Limits, Root};

use super::calls;

/// The program that says who it is, where it has been unpacked.
const ID: &str = "id";

/// Words of the command line: `misbehave ACT WALLS DIR`, `euid`, `sleep`. None: this is somebody else.
#[must_use]
pub fn main(words: &[&str]) -> Option<ExitCode> {
    match words {
        ["misbehave", act, walls, dir] => Some(match misbehave(act, walls, Path::new(dir)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::from(3),
        }),
        ["euid"] => {
            println!("{}", nix::unistd::geteuid());
            Some(ExitCode::SUCCESS)
        }
        ["sleep"] => loop {
            std::thread::sleep(std::time::Duration::from_secs(60));
        },
        _ => None,
    }
}

fn victim() -> Result<i32> {
    Ok(std::env::var("VICTIM")?.parse()?)
}

/// Whether the unpacked program, which is root's and set-id, is root when somebody else runs it.
fn gains(mut program: Command) -> Result<()> {
    let out = program.arg("euid").uid(65534).output()?;
    ensure!(out.stdout.trim_ascii() == b"0", "no gain");
    Ok(())
}

#[allow(clippy::too_many_lines, reason = "a list")]
fn misbehave(act: &str, walls: &str, dir: &Path) -> Result<()> {
    let which: Vec<Wall> = Wall::ALL
        .into_iter()
        .filter(|wall| walls.split(',').any(|name| name == wall.name()))
        .collect();
    let limits = Limits { file_bytes_max: 1 << 20, ..Limits::default() };
    let outside = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
    if act == "mount" {
        use rustix::mount::{MountPropagationFlags, mount_change};
        // In a place of its own: the host has to stay as it is where this succeeds.
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)?;
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    }
    // What a careless parent would have left open.
    let leaked: OwnedFd = nix::fcntl::open(dir, outside, Mode::empty())?;
    let root = Root::open(&dir.join("root")).context("root")?;
    let (root, standing) = confine(root, &limits, &which).context("confine")?;
    if act == "which_stand" {
        // Not an act: says what the harness asks for.
        for wall in standing {
            println!("{} {} {}", wall.wall.name(), wall.stands, wall.note);
        }
        return Ok(());
    }
    if let Some(down) = standing.iter().find(|wall| !wall.stands) {
        eprintln!("{down:?}");
        std::process::exit(4);
    }
    let secret = dir.join("secret");
    let inside = |flags| openat(&root, ID, flags, Mode::empty());
    let by_fd = || format!("/proc/self/fd/{}/{ID}", root.as_fd().as_raw_fd());
    let time = TimeSpec::new(7, 7);
    match act {
        "write_much" => {
            let flags = OFlag::O_WRONLY | OFlag::O_CREAT;
            let file = openat(&root, "much", flags, Mode::from_bits_truncate(0o600))?;
            fs::File::from(file).write_at(b"x", 5 << 30)?;
        }
        "open_device" => drop(openat(&root, "null", OFlag::O_RDONLY, Mode::empty())?),
        "run_unpacked" => {
            let words = [c"id", c"euid"];
            let none: [&std::ffi::CStr; 0] = [];
            let Err(error) = nix::unistd::execveat(&root, c"id", &words, &none, AtFlags::empty());
            // It was let through, and has no loader where it is.
            ensure!(error == Errno::ENOENT, error);
        }
        "gain_by_unpacked" => gains(Command::new(by_fd()))?,
        "write_outside" => drop(OpenOptions::new().write(true).open(secret)?),
        "write_by_leaked" => drop(openat(&leaked, "secret", OFlag::O_WRONLY, Mode::empty())?),
        "create_outside" => drop(fs::File::create(dir.join("new"))?),
        "chown_outside" => {
            let (uid, gid) = (Uid::from_raw(7), Gid::from_raw(7));
            fchownat(AT_FDCWD, &secret, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)?;
        }
        "touch_outside" => {
            utimensat(AT_FDCWD, &secret, &time, &time, UtimensatFlags::NoFollowSymlink)?;
        }
        "setxattr_outside" => {
            rustix::fs::lsetxattr(&secret, "user.a", b"1", rustix::fs::XattrFlags::empty())?;
        }
        "trusted_xattr" => {
            let file = inside(OFlag::O_RDONLY)?;
            rustix::fs::fsetxattr(file, "trusted.a", b"1", rustix::fs::XattrFlags::empty())?;
        }
        "mknod_outside" => {
            let mode = Mode::from_bits_truncate(0o600);
            mknodat(AT_FDCWD, &dir.join("disk"), SFlag::S_IFBLK, mode, makedev(7, 0))?;
        }
        "mount" => {
            let flags = rustix::mount::MountFlags::empty();
            rustix::mount::mount("none", "/", "tmpfs", flags, None)?;
        }
        "leave_chroot" => nix::unistd::chroot(".")?,
        "ptrace" => nix::sys::ptrace::attach(Pid::from_raw(victim()?))?,
        "signal" => kill(Pid::from_raw(victim()?), Signal::SIGKILL)?,
        "signal_thread" => calls::tgkill(victim()?, Signal::SIGKILL as i32)?,
        "signal_by_fd" => {
            let (ours, mut theirs) = UnixStream::pair()?;
            calls::signal_by_fd(ours.as_fd(), victim()?, Signal::SIGKILL as i32)?;
            theirs.write_all(b"x")?;
        }
        "connect" => {
            drop(TcpStream::connect(("127.0.0.1", std::env::var("PORT")?.parse::<u16>()?))?);
        }
        "exec" => return Err(Command::new(dir.join("root/id")).arg("euid").exec().into()),
        "map_code" => calls::map_code()?,
        "protect_code" => calls::protect_code()?,
        "fork" => {
            std::thread::spawn(|| ()).join().ok().context("threads stay allowed")?;
            calls::fork()?;
        }
        // An allowed call with another command than those that are used.
        "set_flags" => {
            let flags = nix::fcntl::FcntlArg::F_SETFL(OFlag::O_NONBLOCK);
            nix::fcntl::fcntl(&root, flags)?;
        }
        // The call that would follow a link at the end of a name.
        "chmod_by_name" => {
            let mode = Mode::from_bits_truncate(0o4777);
            fchmodat(&root, ID, mode, FchmodatFlags::FollowSymlink)?;
        }
        "mount_flags" => {
            use nix::sys::statvfs::{FsFlags, fstatvfs};
            let wanted = FsFlags::ST_NODEV | FsFlags::ST_NOSUID | FsFlags::ST_NOEXEC;
            ensure!(fstatvfs(&root)?.flags().contains(wanted), Errno::EPERM);
        }
        other => bail!("no act {other}"),
    }
    Ok(())
}
