//! `examples/by-hand.sh`: the whole job by the four small programs in a shell, without `orchestrate`.

use std::os::unix::fs::PermissionsExt;

use anyhow::{Result, ensure};

use crate::guest::Guest;
use crate::guest::veneer::{Mounted, PROGRAMS, expected, image};
use crate::scenario::{Images, Needs, Report, Scenario};

/// See the module.
pub const SCENARIO: Scenario = Scenario {
    name: "by_hand",
    needs: Needs { images: Images::Small, timeout_s: 900, ..Needs::DEFAULT },
    run,
};

fn run(guest: &mut Guest) -> Result<Report> {
    let scratch = guest.pool("byhand")?;
    let s3 = guest.s3()?;
    let script = guest.scratch().join("by-hand.sh");
    std::fs::write(&script, include_str!("../../../examples/by-hand.sh"))?;
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755))?;
    let script_args = ["byhand", &image("node"), "node-by-hand"];
    let cmd = guest.cmd("busybox").arg("sh").arg(&script).args(script_args);
    s3.environment(cmd).run()?.expect(0)?;

    let mounted = Mounted::new(guest.scratch(), "node-by-hand")?;
    expected(guest, "node", 256)?.expect_equal(&mounted.tree()?)?;
    let (_, program, line) = PROGRAMS[1];
    let said = mounted.run(program)?;
    ensure!(said.starts_with(line), "node says {said:?}");
    drop(mounted);

    let pool = scratch.pool();
    pool.deactivate("node-by-hand")?;
    let ids = pool.ids()?;
    for record in &ids {
        pool.delete(record.id)?;
    }
    scratch.close()?;
    Ok(Report::new().figure("volumes", ids.len()))
}
