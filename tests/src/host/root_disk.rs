//! A second machine, whose root disk is what a scenario left on its first: it has nothing of this harness but the
//! kernel and an initramfs that finds the disk, and says on its console what it has come to.

use std::fs::OpenOptions;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::initramfs;
use super::places::Places;
use super::qemu::{self, Machine};
use super::results::{Finished, Results};
use crate::protocol::Figures;

/// The figure of the scenario that has the kernel's command line.
pub const COMMAND_LINE: &str = "kernel_command_line";

/// From QEMU's start to the machine's end, on a busy host.
const BOUND: Duration = Duration::from_secs(300);

/// What the harness adds to the command line: a busy host starves the emulated timer while the kernel tests it.
const ADDED: &str = "loglevel=5 no_timer_check random.trust_cpu=on";

/// Boots it, if the scenario passed. It is to say this line and then to end by itself.
///
/// # Errors
/// Something is missing (the message says what to run), or QEMU does not start.
pub fn boot(
    places: &Places,
    machine: &Machine,
    disk: &Path,
    says: &str,
    last: Finished,
    results: &Results,
) -> Result<()> {
    let line = last.figures.get(COMMAND_LINE).and_then(|line| line.as_str());
    let line = line.with_context(|| format!("{} has no {COMMAND_LINE}", last.scenario))?;
    let small = places.work.join("initramfs-disk.cpio");
    std::fs::write(&small, initramfs::pack_for_disk(places, &machine.kernel)?)?;
    let console = machine.kernel.file(&places.work, "console-root-disk", "log");
    let drive = format!("file={},format=raw,if=none,id=root", disk.display());
    let mut child = qemu::bare(machine.accel)?
        .args(["-m", "256", "-monitor", "none", "-append", &format!("{line} {ADDED}")])
        .arg("-kernel")
        .arg(machine.kernel.image())
        .arg("-initrd")
        .arg(&small)
        .args(["-drive", &drive, "-device", "virtio-blk-pci,drive=root"])
        .arg("-serial")
        .arg(format!("file:{}", console.display()))
        .stdin(Stdio::null())
        .stderr(OpenOptions::new().create(true).append(true).open(&console)?)
        .spawn()
        .context("start QEMU")?;
    let started = Instant::now();
    let mut ended = false;
    while !ended && started.elapsed() < BOUND {
        std::thread::sleep(Duration::from_millis(100));
        ended = child.try_wait()?.is_some();
    }
    if !ended {
        child.kill()?;
        child.wait()?;
    }
    let text = std::fs::read(&console)?;
    let text = String::from_utf8_lossy(&text);
    let said = text.lines().any(|line| line.trim_end() == says);
    let why = match (said, ended) {
        (true, true) => None,
        (true, false) => Some(format!("it said {says:?} and did not end")),
        (false, _) => Some(format!("its console never said {says:?}")),
    };
    results.add(&Finished {
        scenario: format!("{}, its disk as a root disk", last.scenario),
        kernel: last.kernel,
        passed: why.is_none(),
        why,
        seconds: started.elapsed().as_secs_f64(),
        figures: Figures::new(),
        output: text.into_owned(),
        kernel_log: Vec::new(),
    })
}
