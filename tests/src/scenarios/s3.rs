//! The S3 servers of the VM, through the program `fetch`: an anonymous and a signed one over the
//! same store, a wrong secret, and that what passes is counted.

use anyhow::{Result, ensure};
use sha2::{Digest, Sha256};

use crate::guest::Guest;
use crate::scenario::{Images, Needs, Report, Scenario};

/// See the module.
pub const SCENARIO: Scenario =
    Scenario { name: "s3", needs: Needs { images: Images::Small, ..Needs::DEFAULT }, run };

const IMAGE: &str = "s3://images-bucket/images/node/";
const LAYER: &str = "s3://images-bucket/images/node/5.tar";

fn run(guest: &mut Guest) -> Result<Report> {
    let anonymous = guest.s3()?;
    let signed = guest.s3_signed()?;
    let mut digests = Vec::new();
    for server in [&anonymous, &signed] {
        let list = server.environment(guest.cmd("fetch").args(["--list", "--json", IMAGE]));
        let list = list.run()?.expect(0)?;
        ensure!(list.json_lines()?.len() == 5, "five layers: {list}");

        let object = server.environment(guest.cmd("fetch").arg(LAYER)).run()?.expect(0)?;
        digests.push((object.stdout.len() as u64, Sha256::digest(&object.stdout)));
        let gets = server.object_gets();
        ensure!(gets.len() == 1, "one GET of one object: {gets:?}");
        let sent = object.stdout.len() as u64;
        ensure!(gets[0].bytes == sent, "{sent} bytes arrived, counted: {gets:?}");
    }
    ensure!(digests[0] == digests[1], "both servers give the same object");

    let wrong = signed.environment(guest.cmd("fetch").arg(LAYER));
    wrong.env("AWS_SECRET_ACCESS_KEY", "wrong").run()?.expect(100)?;
    Ok(Report::new().figure("bytes", digests[0].0))
}
