//! The proof of each wall around what unpacks: a child is told to misbehave. Without any wall it can; behind one
//! alone it can unless that wall stops it; behind all of them it cannot; and with each taken away alone it can
//! only where nothing else stops it. The same natively and in the VM, on each kernel.
//!
//! The child is this program again: its `main` has to call [`main`] first.

mod acts;
mod calls;

use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::Pid;
use unpack::sandbox::Wall::{
    self, Capabilities, Chroot, Landlock, Mount, NoNewPrivs, Rlimits, Seccomp,
};

pub use acts::main;

/// What the child tries, and each wall that stops it with no other standing.
pub const ACTS: &[(&str, &[Wall])] = &[
    ("write_much", &[Rlimits]),
    ("open_device", &[Mount]),
    ("run_unpacked", &[Mount, Landlock, Seccomp]),
    ("gain_by_unpacked", &[Mount, Chroot, Capabilities, NoNewPrivs, Landlock, Seccomp]),
    ("write_outside", &[Chroot, Landlock]),
    ("write_by_leaked", &[Landlock]),
    ("create_outside", &[Chroot, Landlock]),
    ("chown_outside", &[Chroot]),
    ("touch_outside", &[Chroot]),
    ("setxattr_outside", &[Chroot]),
    ("trusted_xattr", &[Capabilities]),
    ("mknod_outside", &[Chroot, Landlock]),
    ("mount", &[Capabilities, Landlock, Seccomp]),
    ("leave_chroot", &[Capabilities, Seccomp]),
    ("ptrace", &[Capabilities, Landlock, Seccomp]),
    ("signal", &[Landlock, Seccomp]),
    ("signal_thread", &[Landlock, Seccomp]),
    ("signal_by_fd", &[Landlock, Seccomp]),
    ("connect", &[Landlock, Seccomp]),
    ("exec", &[Chroot, Landlock, Seccomp]),
    ("map_code", &[Seccomp]),
    ("protect_code", &[Seccomp]),
    ("fork", &[Seccomp]),
    ("set_flags", &[Seccomp]),
    ("chmod_by_name", &[Seccomp]),
];

/// What Landlock learnt after its first version (ABI): before that it does not stop this.
const LANDLOCK_SINCE: &[(&str, u32)] =
    &[("connect", 4), ("signal", 6), ("signal_thread", 6), ("signal_by_fd", 6)];

/// Acts that are done when the victim is dead.
const KILLING: &[&str] = &["signal", "signal_thread", "signal_by_fd"];

/// What one run of all came to.
#[derive(Debug)]
pub struct Proven {
    /// Runs of the child.
    pub runs: usize,
    /// Of Landlock on this kernel.
    pub abi: u32,
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Got,
    Held,
}

struct Yard<'d> {
    dir: &'d Path,
    listener: TcpListener,
    runs: usize,
}

/// Proves each wall in the empty directory `dir`, of a file system with `user.` attributes.
///
/// # Errors
/// A wall that does not do as the table says, or what keeps it from being tried.
pub fn prove(dir: &Path) -> Result<Proven> {
    ensure!(nix::unistd::geteuid().is_root(), "walls are about what root can do: run as root");
    fs::set_permissions(dir, Permissions::from_mode(0o755))?;
    let root = dir.join("root");
    fs::create_dir(&root)?;
    fs::copy(std::env::current_exe()?, root.join("id")).context("unpack this program")?;
    fs::set_permissions(root.join("id"), Permissions::from_mode(0o4755))?;
    mknod(&root.join("null"), SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(1, 3))?;
    let mut yard = Yard { dir, listener: TcpListener::bind("127.0.0.1:0")?, runs: 0 };
    let standing = yard.which_stand(&Wall::ALL)?;
    ensure!(standing.iter().all(|line| line.contains(" true")), "{standing:?}");
    let abi = standing.iter().find_map(|line| line.strip_prefix("landlock true abi "));
    let abi: u32 = abi.context("an ABI")?.parse()?;
    let mut wrong = Vec::new();
    for (act, stops) in ACTS {
        let too_old = |wall: &Wall| {
            let since = LANDLOCK_SINCE.iter().find(|(name, _)| name == act);
            *wall == Landlock && since.is_some_and(|(_, since)| abi < *since)
        };
        let stops: Vec<Wall> = stops.iter().filter(|wall| !too_old(wall)).copied().collect();
        yard.expect(act, "no wall", &[], Way::Got, &mut wrong)?;
        yard.expect(act, "all walls", &Wall::ALL, Way::Held, &mut wrong)?;
        for wall in Wall::ALL {
            let alone = if stops.contains(&wall) { Way::Held } else { Way::Got };
            yard.expect(act, &format!("{} alone", wall.name()), &[wall], alone, &mut wrong)?;
            if wall == NoNewPrivs {
                continue;
            }
            let others = if stops == [wall] { Way::Got } else { Way::Held };
            let all_but: Vec<Wall> = Wall::ALL.into_iter().filter(|one| *one != wall).collect();
            let case = format!("all but {}", wall.name());
            yard.expect(act, &case, &all_but, others, &mut wrong)?;
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Two walls stand on this one: without it neither can be put up by who has given up his rights.
    let all_but: Vec<Wall> = Wall::ALL.into_iter().filter(|one| *one != NoNewPrivs).collect();
    let standing = yard.which_stand(&all_but)?;
    for wall in ["landlock false", "seccomp false"] {
        ensure!(standing.iter().any(|line| line.starts_with(wall)), "{standing:?}");
    }
    // Behind noexec nosuid has no act of its own, so it is looked at.
    yard.expect("mount_flags", "mount alone", &[Mount], Way::Got, &mut wrong)?;
    yard.expect("mount_flags", "no wall", &[], Way::Held, &mut wrong)?;
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(Proven { runs: yard.runs, abi })
}

impl Yard<'_> {
    fn expect(
        &mut self,
        act: &str,
        case: &str,
        walls: &[Wall],
        way: Way,
        wrong: &mut Vec<String>,
    ) -> Result<()> {
        let found = self.run(act, walls)?;
        if found != way {
            wrong.push(format!("{act} with {case}: {found:?}, expected {way:?}"));
        }
        Ok(())
    }

    fn child(&self, act: &str, walls: &[Wall]) -> Result<Command> {
        let names: Vec<&str> = walls.iter().map(|wall| wall.name()).collect();
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["misbehave", act, &names.join(",")]).arg(self.dir).stdin(Stdio::null());
        Ok(command)
    }

    fn which_stand(&mut self, walls: &[Wall]) -> Result<Vec<String>> {
        let out = self.child("which_stand", walls)?.output()?;
        ensure!(out.status.success(), "{out:?}");
        Ok(String::from_utf8(out.stdout)?.lines().map(str::to_owned).collect())
    }

    fn run(&mut self, act: &str, walls: &[Wall]) -> Result<Way> {
        self.runs += 1;
        for name in ["new", "disk", "root/much"] {
            match fs::remove_file(self.dir.join(name)) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        fs::write(self.dir.join("secret"), "canary")?;
        let mut victim = Command::new(std::env::current_exe()?).arg("sleep").spawn()?;
        let out = self
            .child(act, walls)?
            .env("PORT", self.listener.local_addr()?.port().to_string())
            .env("VICTIM", victim.id().to_string())
            .output();
        // Who is killed already stays so.
        let pid = Pid::from_raw(i32::try_from(victim.id())?);
        kill(pid, Signal::SIGTERM)?;
        // Its tracer has left it stopped.
        kill(pid, Signal::SIGCONT)?;
        let end = victim.wait()?.signal();
        let out = out?;
        let killed = end == Some(Signal::SIGKILL as i32);
        match (out.status.code(), out.status.signal()) {
            (Some(0), _) if KILLING.contains(&act) && !killed => Ok(Way::Held),
            (Some(0), _) => Ok(Way::Got),
            (Some(3), _) | (None, Some(_)) => {
                ensure!(!killed, "{act}: the child was told no, and the victim is dead");
                Ok(Way::Held)
            }
            other => bail!("{act} behind {walls:?}: {other:?}: {out:?}"),
        }
    }
}
