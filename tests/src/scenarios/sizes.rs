//! Volumes that are too small: a plain layer's volume grows before the apply, a compressed one's after
//! a try that filled it, and an activation may be larger than its image.

use std::fs::File;

use anyhow::{Context, Result, ensure};

use crate::guest::Guest;
use crate::guest::veneer::{Mounted, Veneer, image};
use crate::scenario::{Images, Needs, Report, Scenario};

/// See the module.
pub const SCENARIO: Scenario = Scenario {
    name: "sizes",
    needs: Needs { images: Images::Small, timeout_s: 600, ..Needs::DEFAULT },
    run,
};

const MIB: u64 = 1 << 20;
const SMALL: u64 = 32 * MIB;
/// Of one byte, so that its gzip says nothing of its size.
const LARGE: u64 = 120 * MIB;

fn run(guest: &mut Guest) -> Result<Report> {
    let veneer = Veneer::new(guest)?;
    let activate = |image: &str, name: &str, more: &[&str]| -> Result<serde_json::Value> {
        let words = ["activate", image, "--name", name, "--json"];
        let cmd = veneer.cmd(&words).args(more).env("VENEER_VOLUME_BYTES", SMALL.to_string());
        cmd.run()?.expect(0)?.json()
    };

    let grown = activate(&image("golang"), "golang-1", &[])?;
    let bytes = grown["bytes"].as_u64().context("bytes")?;
    ensure!(bytes > SMALL, "a volume of {bytes} bytes holds 39 MiB of layers");
    let large = activate(&image("golang"), "golang-2", &["--size", &(512 * MIB).to_string()])?;
    let mounted = Mounted::new(guest.scratch(), "golang-2")?;
    let stat = rustix::fs::statvfs(mounted.path())?;
    let size = stat.f_blocks * stat.f_frsize;
    ensure!(size > 400 * MIB, "the file system has {size} bytes: {large}");
    drop(mounted);

    veneer.s3.make_bucket("sizes-bucket")?;
    veneer.s3.put("sizes-bucket", "one/1.tar.gz", &zipped(guest)?)?;
    activate("s3://sizes-bucket/one/", "one", &[])?;
    let mounted = Mounted::new(guest.scratch(), "one")?;
    let length = std::fs::metadata(mounted.path().join("large"))?.len();
    ensure!(length == LARGE, "the large file has {length} bytes");
    drop(mounted);
    veneer.check()?;
    veneer.close()?;
    Ok(Report::new().figure("grown_bytes", bytes).figure("sized_bytes", size))
}

/// A layer of one large file, as gzip.
fn zipped(guest: &Guest) -> Result<Vec<u8>> {
    let path = guest.scratch().join("large.tar");
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1);
    header.set_size(LARGE);
    let mut tar = tar::Builder::new(File::create(&path)?);
    tar.append_data(&mut header, "large", std::io::Read::take(std::io::repeat(b'x'), LARGE))?;
    tar.finish()?;
    let gzip = guest.cmd("busybox").args(["gzip", "-c"]).stdin(File::open(&path)?);
    let ran = gzip.run()?.expect(0)?;
    std::fs::remove_file(&path)?;
    Ok(ran.stdout)
}
