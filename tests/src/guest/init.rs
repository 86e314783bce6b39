//! Process 1: brings the guest up, runs the plan's scenarios each in a process of its own, tells the
//! host how they ended, and reboots (QEMU takes that as the end).

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::mount::MountFlags;
use rustix::process::{Pid, Signal, WaitOptions};
use rustix::system::RebootCommand;
use serde::{Deserialize, Serialize};

use super::hang;
use super::kmsg::KernelLog;
use super::leftovers::{Seen, processes};
use super::store::S3;
use crate::protocol::{Ended, Event, Figures, MODULES, Outcome, PLAN, Plan, Stage};
use crate::s3::{BUCKET, KEYS};
use crate::scenario::{Next, Report};

/// The running scenario's directory.
pub(crate) const SCRATCH: &str = "/run/scratch";
const REPORT: &str = "/run/report.json";
/// Made by a scenario that may lose its power from then on.
pub(crate) const ARMED: &str = "/run/armed";
const OUTPUT: &str = "/run/output";
const RESULTS: &str = "/dev/virtio-ports/results";
const PATH: &str = "/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin:/busybox";

/// What a scenario's process hands to process 1.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ChildReport {
    Passed(Figures),
    Reboot(Figures),
    PowerCut(Figures),
    Failed(String),
}

impl From<Result<Report>> for ChildReport {
    fn from(outcome: Result<Report>) -> ChildReport {
        match outcome {
            Err(error) => ChildReport::Failed(format!("{error:#}")),
            Ok(report) => match report.next {
                Next::Passed => ChildReport::Passed(report.figures),
                Next::Reboot => ChildReport::Reboot(report.figures),
                Next::PowerCut => ChildReport::PowerCut(report.figures),
            },
        }
    }
}

/// Process 1 without arguments; `guest scenario NAME PHASE` is one scenario.
#[must_use]
pub fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let words: Vec<&str> = args.iter().skip(1).map(String::as_str).collect();
    if let Some(code) = crate::walls::main(&words) {
        return code;
    }
    let done = match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [_, "scenario", stage] => serde_json::from_str(stage)
            .context("stage")
            .and_then(|stage| super::run_scenario(&stage, Path::new(REPORT))),
        _ if std::process::id() == 1 => init(),
        _ => Err(anyhow::anyhow!("this is /init of the test VM: run `just e2e` or `just vm`")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("guest: fatal: {error:#}");
            if std::process::id() == 1 {
                restart();
            }
            ExitCode::from(111)
        }
    }
}

fn init() -> Result<()> {
    mount_all().context("mount the guest's own file systems")?;
    load_modules().context("load kernel modules")?;
    Command::new("/busybox/ip").args(["link", "set", "lo", "up"]).status().context("loopback")?;
    super::store::mount()?;
    let plan: Plan = serde_json::from_slice(&std::fs::read(PLAN).context(PLAN)?)?;
    if plan.shell {
        shell()?;
    } else {
        let mut results = open_results()?;
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned();
        say(&mut results, &Event::Booted { seconds: uptime()?, kernel })?;
        for stage in &plan.stages {
            if !run_stage(stage, &mut results)? {
                restart();
            }
        }
        say(&mut results, &Event::Done)?;
    }
    restart()
}

fn mount_all() -> Result<()> {
    let none = MountFlags::empty();
    for (kind, point, options) in [
        ("devtmpfs", "/dev", c"mode=755"),
        ("proc", "/proc", c""),
        ("sysfs", "/sys", c""),
        ("tmpfs", "/run", c"mode=755,size=95%"),
        ("tmpfs", "/tmp", c"mode=1777,size=95%"),
    ] {
        std::fs::create_dir_all(point)?;
        rustix::mount::mount(kind, point, kind, none, options).context(point)?;
    }
    std::fs::create_dir_all("/dev/pts")?;
    rustix::mount::mount("devpts", "/dev/pts", "devpts", none, c"")?;
    Ok(())
}

fn load_modules() -> Result<()> {
    for name in std::fs::read_to_string(MODULES)?.lines() {
        let file = File::open(format!("/modules/{name}"))?;
        match rustix::system::finit_module(&file, c"", 0) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            // crc32c-intel says ENODEV on a processor without it; another one does its work.
            Err(rustix::io::Errno::NODEV) => {}
            Err(error) => return Err(error).with_context(|| name.to_owned()),
        }
    }
    Ok(())
}

fn open_results() -> Result<File> {
    let started = Instant::now();
    loop {
        for entry in std::fs::read_dir("/sys/class/virtio-ports")? {
            let entry = entry?;
            let name = std::fs::read_to_string(entry.path().join("name")).unwrap_or_default();
            if name.trim() == "results" {
                let port = Path::new("/dev").join(entry.file_name());
                return OpenOptions::new().write(true).open(&port).context(RESULTS);
            }
        }
        if started.elapsed() > Duration::from_secs(10) {
            bail!("no virtio port named \"results\"");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn say(results: &mut File, event: &Event) -> Result<()> {
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    results.write_all(&line).context("tell the host")
}

/// False when nothing more may run in this boot.
fn run_stage(stage: &Stage, results: &mut File) -> Result<bool> {
    let scenario = crate::scenarios::find(&stage.name)
        .with_context(|| format!("the plan names an unknown scenario \"{}\"", stage.name))?;
    let bound = scenario.needs.bound(stage.long);
    say(results, &Event::Start { stage: stage.clone() })?;
    std::fs::create_dir_all(SCRATCH)?;
    let before = Seen::now()?;
    let mut log = KernelLog::from_now()?;
    let started = Instant::now();

    let timed_out = run_child(stage, bound, results)?;
    let seconds = started.elapsed().as_secs_f64();
    let report = child_report(timed_out.then_some(bound));
    let power_cut = matches!(report, ChildReport::PowerCut(_));
    let left = if power_cut { Vec::new() } else { left_behind(&before)? };

    let (mut outcome, figures) = match report {
        ChildReport::Passed(figures) => (Outcome::Passed, figures),
        ChildReport::Reboot(figures) | ChildReport::PowerCut(figures) => (Outcome::Reboot, figures),
        ChildReport::Failed(why) => (Outcome::Failed { why }, Figures::new()),
    };
    if !left.is_empty() {
        let list = left.join("; ");
        let why = match outcome {
            Outcome::Failed { why } => format!("{why}\nand left behind: {list}"),
            Outcome::Passed | Outcome::Reboot => format!("left behind: {list}"),
        };
        outcome = Outcome::Failed { why };
    }
    let next_boot = power_cut || outcome == Outcome::Reboot || !left.is_empty();
    let kernel_log = log.read()?;
    say(
        results,
        &Event::End(Box::new(Ended {
            stage: stage.clone(),
            outcome,
            seconds,
            figures,
            output: output_tail()?,
            kernel_log,
            dirty: next_boot,
        })),
    )?;
    if power_cut {
        std::fs::write("/proc/sysrq-trigger", "b")?;
    }
    if next_boot {
        return Ok(false);
    }
    std::fs::remove_dir_all(SCRATCH)?;
    Ok(true)
}

/// Runs the scenario and then ends every process it left; true if it ran out of time.
fn run_child(stage: &Stage, bound: Duration, results: &mut File) -> Result<bool> {
    File::create(OUTPUT)?;
    let mut output = OpenOptions::new().append(true).open(OUTPUT)?;
    if Path::new(REPORT).exists() {
        std::fs::remove_file(REPORT)?;
    }
    let child = Command::new("/init")
        .args(["scenario", &serde_json::to_string(stage)?])
        .env_clear()
        .envs([("PATH", PATH), ("HOME", "/root"), ("RUST_BACKTRACE", "1"), ("TERM", "dumb")])
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output.try_clone()?)
        .process_group(0)
        .spawn()?;
    let child = Pid::from_child(&child);
    let started = Instant::now();
    while !reap(Some(child))? {
        if std::fs::remove_file(ARMED).is_ok() {
            say(results, &Event::Armed)?;
        }
        if started.elapsed() > bound {
            hang::report(&mut output)?;
            rustix::process::kill_process_group(child, Signal::KILL)?;
            return Ok(true);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(false)
}

/// Collects ended children (orphans come to process 1); true if `wanted` was among them.
fn reap(wanted: Option<Pid>) -> Result<bool> {
    let mut seen = false;
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some((pid, _))) => seen |= Some(pid) == wanted,
            Ok(None) | Err(rustix::io::Errno::CHILD) => return Ok(seen),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn child_report(timed_out: Option<Duration>) -> ChildReport {
    if let Some(bound) = timed_out {
        return ChildReport::Failed(format!("hang: killed after {} s", bound.as_secs()));
    }
    match std::fs::read(REPORT) {
        Err(_) => ChildReport::Failed("it panicked or was killed: see its output".to_owned()),
        Ok(bytes) => serde_json::from_slice(&bytes)
            .unwrap_or_else(|error| ChildReport::Failed(format!("its report: {error}"))),
    }
}

/// Leftovers, after two seconds in which what is on its way out may go.
fn left_behind(before: &Seen) -> Result<Vec<String>> {
    let started = Instant::now();
    loop {
        reap(None)?;
        let left = Seen::now()?.since(before);
        if left.is_empty() || started.elapsed() > Duration::from_secs(2) {
            for (id, _) in processes()? {
                if let Some(pid) = Pid::from_raw(id) {
                    // It may be gone already, which is what is wanted.
                    rustix::process::kill_process(pid, Signal::KILL).ok();
                }
            }
            return Ok(left);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn output_tail() -> Result<String> {
    const KEPT: usize = 64 << 10;
    let bytes = std::fs::read(OUTPUT)?;
    let tail = bytes.get(bytes.len().saturating_sub(KEPT)..).unwrap_or_default();
    Ok(String::from_utf8_lossy(tail).into_owned())
}

fn uptime() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/uptime")?;
    Ok(text.split(' ').next().unwrap_or_default().parse()?)
}

/// A shell on the console beside both S3 servers; ends when the shell does.
fn shell() -> Result<()> {
    let (anonymous, signed) = (S3::start(None)?, S3::start(Some(KEYS))?);
    let url = anonymous.url();
    println!(
        "S3 with the images at AWS_ENDPOINT_URL={url}, signed requests only at {}",
        signed.url()
    );
    println!("   (AWS_ACCESS_KEY_ID={} AWS_SECRET_ACCESS_KEY={})", KEYS.access, KEYS.secret);
    println!(
        "a pool to start with: thin pool init /root/pool --data 512M && thin pool up /root/pool"
    );
    println!("an image: orchestrate activate s3://{BUCKET}/images/golang/ --name golang-1");
    println!("to leave: exit");
    Command::new("/busybox/setsid")
        .args(["/busybox/sh", "-c", "exec /usr/bin/bash -l <>/dev/ttyS0 >&0 2>&1"])
        .envs([("PATH", PATH), ("HOME", "/root"), ("TERM", "vt100"), ("PS1", "vm:\\w# ")])
        .env("AWS_ENDPOINT_URL", url)
        .current_dir("/root")
        .status()
        .context("shell")?;
    Ok(())
}

/// Ends the VM: QEMU runs with -no-reboot.
fn restart() -> ! {
    rustix::fs::sync();
    let gone = rustix::system::reboot(RebootCommand::Restart);
    eprintln!("guest: fatal: reboot: {gone:?}");
    loop {
        std::thread::sleep(Duration::from_secs(1));
    }
}
