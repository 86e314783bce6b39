//! The VM boots, and has what the other scenarios stand on.

use std::path::Path;

use anyhow::{Result, ensure};

use crate::guest::Guest;
use crate::scenario::{Needs, Report, Scenario};

/// See the module.
pub const SCENARIO: Scenario = Scenario { name: "boot", needs: Needs::DEFAULT, run };

const PROGRAMS: [&str; 5] = ["fetch", "unpack", "thin", "registry", "orchestrate"];

fn run(guest: &mut Guest) -> Result<Report> {
    ensure!(Path::new("/dev/mapper/control").exists(), "no device-mapper in this kernel");
    ensure!(Path::new("/dev/loop-control").exists(), "no loop devices in this kernel");
    for program in PROGRAMS {
        guest.cmd(program).arg("--version").run()?.expect(0)?;
    }
    for tool in ["mkfs.ext4", "e2fsck", "tar", "thin_check"] {
        let ran = guest.cmd(tool).arg("--version").run()?;
        ensure!(ran.code != Some(127), "{tool} does not start: {ran}");
    }
    Ok(Report::new())
}
