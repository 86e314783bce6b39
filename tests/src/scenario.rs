//! What a scenario is: a name, what it needs of the VM, and a function that runs in the guest.

use std::time::Duration;

use crate::guest::Guest;
use crate::protocol::Figures;

/// One end-to-end test.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// Name on the command line and in results; that of its file.
    pub name: &'static str,
    /// What the VM must have.
    pub needs: Needs,
    /// Runs in a process of its own in the guest; an error, a panic or a leftover fails it.
    pub run: fn(&mut Guest) -> anyhow::Result<Report>,
}

/// What a scenario needs of its VM. Those without disks and without `own_boot`
/// share a boot.
#[derive(Debug, Clone, Copy)]
pub struct Needs {
    /// Sizes in MiB of empty virtio disks (sparse files on the host) that survive a reboot.
    pub disks: &'static [u64],
    /// Which image set the S3 servers hold.
    pub images: Images,
    /// Memory of the VM, at least. Scratch files live in it unless they are put on a disk.
    pub memory_mib: u32,
    /// Boot for this scenario alone.
    pub own_boot: bool,
    /// Bound on one phase in seconds of wall time, under emulation on a busy host of two cores.
    pub timeout_s: u32,
    /// The host cuts the power at random moments.
    pub power_cuts: Option<PowerCuts>,
    /// Of a scenario that has a long form, the bound on one phase of that; `just soak-thin` runs
    /// those, and [`Guest::long`] tells.
    pub soak_timeout_s: Option<u32>,
    /// Variables of the host's environment that it takes a number from, by [`Guest::given`].
    pub numbers: &'static [&'static str],
    /// When it has passed, its first disk is the root disk of a machine by itself, which is to say this on its console:
    /// see [`root_disk`](crate::host::root_disk).
    pub then_says: Option<&'static str>,
}

/// Power cuts at moments of the host's choosing.
///
/// `run` is called in one boot after the other, with [`Guest::phase`] counting from 0. It looks at
/// what the cut before has left on its [`Needs::disks`]; then, as long as `phase < count`, it calls
/// [`Guest::arm_power_cut`] and works until it is gone. In phase `count` it looks once more, and ends.
/// A phase that ends by itself after arming fails. What it must remember it keeps, synced, on a disk:
/// figures of a phase that was cut do not come through.
///
/// The moments come from `VENEER_SEED` (default 1), so that a run can be had again, as far as the
/// guest's timing allows; `VENEER_POWER_CUTS` overrides `count`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PowerCuts {
    /// How many.
    pub count: u32,
    /// How many in the long form.
    pub soak: u32,
    /// Each at a random moment within so many milliseconds after arming.
    pub within_ms: u32,
}

impl Needs {
    /// A shared boot with 2 GiB of memory, no disk, no images, and two minutes.
    pub const DEFAULT: Needs = Needs {
        disks: &[],
        images: Images::None,
        memory_mib: 2048,
        own_boot: false,
        timeout_s: 120,
        power_cuts: None,
        soak_timeout_s: None,
        numbers: &[],
        then_says: None,
    };

    /// The bound on one phase.
    pub(crate) fn bound(&self, long: bool) -> Duration {
        let seconds = self.soak_timeout_s.filter(|_| long).unwrap_or(self.timeout_s);
        Duration::from_secs(u64::from(seconds))
    }
}

/// An image set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Images {
    /// None needed: the store may be empty, or hold those of a scenario in the same boot.
    None,
    /// `just images small`: some 50 MiB distinct.
    Small,
    /// `just images full`: as large as the reference bucket; only in `just e2e-full`.
    Full,
}

/// What a scenario that did not fail gives back.
#[derive(Debug, Default)]
pub struct Report {
    pub(crate) figures: Figures,
    pub(crate) next: Next,
}

/// What follows a scenario's phase.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Nothing: it passed.
    #[default]
    Passed,
    /// A clean reboot, then the next phase.
    Reboot,
    /// A power cut: no sync, nothing torn down, then the next phase.
    PowerCut,
}

impl Report {
    /// Passed.
    #[must_use]
    pub fn new() -> Report {
        Report::default()
    }

    /// Adds one figure to the results.
    #[must_use]
    pub fn figure(mut self, name: &str, value: impl Into<serde_json::Value>) -> Report {
        self.figures.insert(name.to_owned(), value.into());
        self
    }

    /// The VM reboots cleanly and the scenario runs again with [`Guest::phase`] one higher.
    #[must_use]
    pub fn reboot(mut self) -> Report {
        self.next = Next::Reboot;
        self
    }

    /// The VM loses power (pages not yet written to a virtio disk are lost) and the scenario runs
    /// again with [`Guest::phase`] one higher. What is mounted or active may stay so.
    #[must_use]
    pub fn power_cut(mut self) -> Report {
        self.next = Next::PowerCut;
        self
    }
}
