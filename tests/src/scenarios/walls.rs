//! The walls around what unpacks, each alone and each taken away alone, on this kernel; and that `orchestrate` has
//! all of them here and says so.

use anyhow::{Result, ensure};

use crate::guest::Guest;
use crate::guest::veneer::Veneer;
use crate::scenario::{Images, Needs, Report, Scenario};
use crate::walls;

/// See the module.
pub const SCENARIO: Scenario = Scenario {
    name: "walls",
    needs: Needs { images: Images::Small, timeout_s: 900, ..Needs::DEFAULT },
    run,
};

fn run(guest: &mut Guest) -> Result<Report> {
    let ext4 = guest.ext4("walls", 64)?;
    let proven = walls::prove(&ext4.path().join("."))?;
    drop(ext4);
    let veneer = Veneer::new(guest)?;
    let doctor = veneer.cmd(&["doctor", "--json"]).run()?;
    let said = String::from_utf8_lossy(&doctor.stdout).into_owned();
    let walls = serde_json::from_str::<serde_json::Value>(&said)?["walls"].clone();
    let walls = walls.as_array().cloned().unwrap_or_default();
    ensure!(walls.len() == 7 && walls.iter().all(|wall| wall["stands"] == true), "{said}");
    veneer.close()?;
    Ok(Report::new().figure("runs", proven.runs).figure("landlock_abi", proven.abi))
}
