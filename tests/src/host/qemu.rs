//! One QEMU process: the kernel log goes to a file, results come by a virtio serial port on its
//! stdout, and it ends with the guest's reboot or when this process ends.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::initramfs;
use super::kernel::Kernel;
use super::places::{Places, host_program, read_needed};
use crate::protocol::{Event, Plan};

/// How the guest's processor is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accel {
    /// By the host's.
    Kvm,
    /// By software.
    Tcg,
}

/// The machine of one boot.
#[derive(Debug, Clone)]
pub struct Machine {
    /// See [`Accel`].
    pub accel: Accel,
    /// Its kernel.
    pub kernel: Kernel,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Processors. Emulated ones wait for each other's locks when the host has fewer of its own than all VMs together.
    pub processors: u32,
    /// Its disks.
    pub disks: Vec<Disk>,
}

/// A disk of the guest.
#[derive(Debug, Clone)]
pub struct Disk {
    /// Serial number, by which the guest finds it.
    pub serial: String,
    /// Its content.
    pub file: PathBuf,
    /// What it keeps.
    pub keeps: Keeps,
}

/// What a disk keeps of what the guest writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keeps {
    /// Nothing: each boot begins with the same.
    Nothing,
    /// All that has come to it.
    Written,
    /// At a power cut only what was flushed, for sure: see `volatile.rs`, which serves it here.
    Flushed(PathBuf),
}

/// A VM that runs scenarios.
#[derive(Debug)]
pub struct Vm {
    child: Child,
    lines: Receiver<String>,
}

/// What came out of the results port, or why nothing did.
#[derive(Debug)]
pub enum Heard {
    /// An event.
    Event(Event),
    /// QEMU ended.
    Ended,
    /// Nothing in time.
    Silence,
}

impl Vm {
    /// Boots this plan; the guest's console is written to `console`.
    ///
    /// # Errors
    /// Something is missing (the message says what to run), or QEMU does not start.
    pub fn boot(places: &Places, machine: &Machine, plan: &Plan, console: &Path) -> Result<Vm> {
        let mut command = command(places, machine, plan)?;
        command
            .arg("-serial")
            .arg(format!("file:{}", console.display()))
            .args(["-monitor", "none"])
            .args(["-chardev", "stdio,id=results,signal=off", "-device", "virtio-serial-pci"])
            .args(["-device", "virtserialport,chardev=results,name=results"])
            // Held open and never written: at its end QEMU would close the results port.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(OpenOptions::new().create(true).append(true).open(console)?);
        let mut child = command.spawn().context("start QEMU")?;
        let stdout = child.stdout.take().context("QEMU's stdout")?;
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                let Ok(line) = line else { break };
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Vm { child, lines })
    }

    /// The next event, waited for until `deadline`.
    ///
    /// # Errors
    /// A line is not an event.
    pub fn hear(&self, deadline: Instant) -> Result<Heard> {
        match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                let event = serde_json::from_str(&line);
                event.map(Heard::Event).with_context(|| format!("an odd line of results: {line}"))
            }
            Err(RecvTimeoutError::Timeout) => Ok(Heard::Silence),
            Err(RecvTimeoutError::Disconnected) => Ok(Heard::Ended),
        }
    }

    /// Waits until QEMU has ended, and ends it when it does not within a few seconds.
    ///
    /// # Errors
    /// It cannot be killed.
    pub fn end(mut self) -> Result<()> {
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(10) {
            if self.child.try_wait()?.is_some() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.kill()
    }

    /// Ends QEMU at once.
    ///
    /// # Errors
    /// It cannot be killed.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

/// Boots to a shell on this terminal and waits until it is left.
///
/// # Errors
/// Something is missing (the message says what to run), or QEMU fails.
pub fn shell(places: &Places, machine: &Machine) -> Result<()> {
    let plan = Plan { stages: Vec::new(), shell: true };
    let mut command = command(places, machine, &plan)?;
    let status = command.args(["-serial", "mon:stdio"]).status().context("start QEMU")?;
    if !status.success() {
        bail!("QEMU ended with {status}");
    }
    Ok(())
}

/// A machine without disks, kernel, console and memory, which does not outlive this program.
///
/// # Errors
/// QEMU or setpriv is not installed.
pub(super) fn bare(accel: Accel) -> Result<Command> {
    let mut command = Command::new(host_program("setpriv")?);
    command.arg("--pdeathsig=KILL").arg(host_program("qemu-system-x86_64")?);
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    command.args(["-machine", "q35", "-rtc", "base=utc"]);
    command.args(match accel {
        Accel::Kvm => ["-accel", "kvm", "-cpu", "max"],
        // What is fast in a processor is slow in software: `rep movsb` goes byte by byte, AVX by calls for each instruction.
        Accel::Tcg => ["-accel", "tcg,thread=multi", "-cpu", "max,-erms,-avx,-avx2"],
    });
    Ok(command)
}

fn command(places: &Places, machine: &Machine, plan: &Plan) -> Result<Command> {
    let kernel = machine.kernel.image();
    read_needed(&kernel, "./bootstrap")?;
    let initramfs = places.work.join("initramfs.cpio");
    std::fs::write(&initramfs, initramfs::pack(places, &machine.kernel, plan)?)?;

    let mut command = bare(machine.accel)?;
    command.arg("-m").arg(machine.memory_mib.to_string());
    command.arg("-smp").arg(machine.processors.to_string());
    command.arg("-kernel").arg(&kernel).arg("-initrd").arg(&initramfs);
    let level = if plan.shell { "loglevel=4" } else { "loglevel=5" };
    // A busy host starves the emulated timer while the kernel tests it, and it panics.
    command.arg("-append").arg(format!(
        "console=ttyS0 {level} reboot=t panic=-1 oops=panic mitigations=off random.trust_cpu=on \
         no_timer_check init_on_alloc=0"
    ));
    for (n, Disk { serial, file, keeps }) in machine.disks.iter().enumerate() {
        let path = |path: &Path| path.to_str().map(str::to_owned).context("a path is not UTF-8");
        let (file, snapshot) = match keeps {
            Keeps::Nothing => (path(file)?, "on"),
            Keeps::Written => (path(file)?, "off"),
            Keeps::Flushed(socket) => (format!("nbd+unix:///?socket={}", path(socket)?), "off"),
        };
        command.arg("-drive").arg(format!(
            "file={file},format=raw,if=none,id=d{n},snapshot={snapshot},discard=unmap"
        ));
        command.arg("-device").arg(format!("virtio-blk-pci,drive=d{n},serial={serial}"));
    }
    Ok(command)
}

/// A machine with this kernel and without disks. It has KVM where that truly works: the device opens,
/// the processor has the extension, and a guest boots (on some machines the first two hold and QEMU hangs).
///
/// # Errors
/// Something is missing; the message says what to run.
pub fn machine(places: &Places, kernel: Kernel) -> Result<Machine> {
    let mut machine =
        Machine { accel: Accel::Tcg, kernel, memory_mib: 1024, processors: 2, disks: Vec::new() };
    let opens = OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok();
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let capable = info
        .lines()
        .filter(|line| line.starts_with("flags"))
        .flat_map(str::split_whitespace)
        .any(|flag| flag == "vmx" || flag == "svm");
    if !(opens && capable) {
        return Ok(machine);
    }
    machine.accel = Accel::Kvm;
    let plan = Plan { stages: Vec::new(), shell: false };
    let console = places.work.join("console-probe.log");
    let vm = Vm::boot(places, &machine, &plan, &console)?;
    let heard = vm.hear(Instant::now() + Duration::from_secs(20))?;
    vm.kill()?;
    if !matches!(heard, Heard::Event(Event::Booted { .. })) {
        machine.accel = Accel::Tcg;
    }
    Ok(machine)
}
