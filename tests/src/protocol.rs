//! What host and guest say to each other: the plan goes in with the initramfs, events come back as
//! JSON lines on a virtio serial port. The kernel log has its own port, so neither garbles the other.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Where the plan lies in the guest's initramfs.
pub const PLAN: &str = "/plan.json";

/// Names, in load order, of the kernel modules in the guest's `/modules`.
pub const MODULES: &str = "/modules/order";

/// Figures of one scenario: a name and a number or a short text.
pub type Figures = BTreeMap<String, serde_json::Value>;

/// What one boot of the VM is for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Plan {
    /// Scenarios to run, in this order.
    pub stages: Vec<Stage>,
    /// Give a shell on the console instead of running scenarios.
    pub shell: bool,
}

/// One scenario, or one phase of a scenario that reboots the VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    /// The scenario's name.
    pub name: String,
    /// 0 in its first boot, one more in each further boot.
    pub phase: u32,
    /// Power cuts that the host makes in it, all phases together.
    pub power_cuts: u32,
    /// In its long form.
    pub long: bool,
    /// Of all that is left to chance.
    pub seed: u32,
    /// The numbers of the host's environment that the scenario asks for.
    pub given: BTreeMap<String, u64>,
}

/// One line from the guest.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The guest is up; scenarios follow.
    Booted {
        /// Seconds since the kernel started.
        seconds: f64,
        /// Its release.
        kernel: String,
    },
    /// A scenario begins; the host's watchdog starts to count.
    Start {
        /// Which.
        stage: Stage,
    },
    /// The running scenario may lose its power from now on; see `Needs::power_cuts`.
    Armed,
    /// A scenario ended.
    End(Box<Ended>),
    /// Every scenario of the plan has ended.
    Done,
}

/// How a scenario ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ended {
    /// Which.
    pub stage: Stage,
    /// Passed, failed, or wants a further boot.
    pub outcome: Outcome,
    /// Wall time in the guest.
    pub seconds: f64,
    /// What it measured.
    pub figures: Figures,
    /// The last part of what it wrote to stdout and stderr.
    pub output: String,
    /// The last lines of the kernel log since it began.
    pub kernel_log: Vec<String>,
    /// The guest is not clean any more: nothing else may run in this boot.
    pub dirty: bool,
}

/// See [`Ended::outcome`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum Outcome {
    /// All it claims was seen.
    Passed,
    /// Something was not as claimed.
    Failed {
        /// The error chain, or what was left behind.
        why: String,
    },
    /// The next phase runs after a reboot, with the same disks.
    Reboot,
}

/// A line for a terminal: control characters are escaped, the rest is as it is.
#[must_use]
pub fn printable(line: &str) -> String {
    let mut text = String::with_capacity(line.len());
    for char in line.chars() {
        if char.is_control() && char != '\t' {
            text.extend(char.escape_default());
        } else {
            text.push(char);
        }
    }
    text
}
