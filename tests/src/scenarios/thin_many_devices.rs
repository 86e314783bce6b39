//! Many devices (two thousand in the long form) with the longest names: their list is larger than any first buffer, and each
//! is found.

use anyhow::{Result, ensure};
use thin::{By, Dm};

use crate::guest::Guest;
use crate::scenario::{Needs, Report, Scenario};

/// See the module.
pub const SCENARIO: Scenario = Scenario {
    name: "thin_many_devices",
    needs: Needs { soak_timeout_s: Some(300), ..Needs::DEFAULT },
    run,
};

fn run(guest: &mut Guest) -> Result<Report> {
    let devices = if guest.long() { 2000 } else { 100 };
    let dm = Dm::open()?;
    let name = |n: usize| format!("{n:0>127}");
    let mut made = 0;
    let result = (|| -> Result<u64> {
        for n in 0..devices {
            dm.create(&name(n), &format!("TEST-{n:0>120}"))?;
            made = n + 1;
        }
        let before = Dm::ioctls();
        let list = dm.list()?;
        let ioctls = Dm::ioctls() - before;
        ensure!(ioctls > 1, "the buffer was never too small: nothing was tested");
        let ours: Vec<_> = list.iter().filter(|entry| entry.name.len() == 127).collect();
        ensure!(ours.len() == devices, "{} of {devices} were listed", ours.len());
        for n in [0, devices / 2, devices - 1] {
            let found = ours.iter().find(|entry| entry.name == name(n));
            let uuid = found.and_then(|entry| entry.uuid.clone());
            ensure!(uuid == Some(format!("TEST-{n:0>120}")), "device {n}: {found:?}");
        }
        Ok(ioctls)
    })();
    for n in 0..made {
        dm.remove(By::Name(&name(n)))?;
    }
    Ok(Report::new().figure("devices", devices).figure("ioctls_to_list_them", result?))
}
