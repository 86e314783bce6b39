//! The harness itself: a disk and what is synced on it outlive a reboot and a power cut.

use std::io::Write;

use anyhow::{Result, ensure};

use crate::guest::{Guest, ScratchExt4};
use crate::scenario::{Needs, Report, Scenario};

/// See the module.
pub const SCENARIO: Scenario =
    Scenario { name: "reboot", needs: Needs { disks: &[64], ..Needs::DEFAULT }, run };

fn run(guest: &mut Guest) -> Result<Report> {
    let mount = guest.scratch().join("disk");
    let disk = ScratchExt4::on_disk(&guest.disk(0)?, &mount)?;
    let log = mount.join("log");
    let phase = guest.phase();
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(&log)?;
    writeln!(file, "phase {phase}")?;
    file.sync_all()?;
    match phase {
        0 => Ok(Report::new().reboot()),
        1 => {
            // Still mounted when the power goes.
            std::mem::forget(disk);
            Ok(Report::new().power_cut())
        }
        last => {
            let text = std::fs::read_to_string(&log)?;
            ensure!(text == "phase 0\nphase 1\nphase 2\n", "the disk's log is {text:?}");
            Ok(Report::new().figure("phases", last + 1))
        }
    }
}
