//! An image that has an init is the root disk of a machine: activated on a pool, told to a machine by `show --vm`, and
//! its device's content put on a disk, which the host then boots from.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::guest::Guest;
use crate::guest::veneer::Veneer;
use crate::host::root_disk::COMMAND_LINE;
use crate::layer;
use crate::oci::Image;
use crate::scenario::{Needs, Report, Scenario};

const MIB: u64 = 128;

/// See the module.
pub const SCENARIO: Scenario = Scenario {
    name: "boots",
    needs: Needs {
        disks: &[MIB],
        timeout_s: 300,
        then_says: Some("root is /dev/vda, ext4, of two layers and a copy, and I am process 1"),
        ..Needs::DEFAULT
    },
    run,
};

/// Of the lower layer; the upper one has another.
const LOWER: &str = "not this";

/// Tells what is there, from every place that a file can have come from, and ends the machine.
const INIT: &str = r#"#!/bin/busybox sh
export PATH=/bin
for name in cat sync awk mount poweroff; do busybox ln -s busybox /bin/$name; done
mount -t proc proc /proc
at=$(awk '$2 == "/" && $1 != "rootfs" { print $1 ", " $3 }' /proc/mounts)
[ -e /etc/gone ] && at="what a layer has removed is there: $at"
echo written > /etc/written && sync
echo
echo "root is $at, of $(cat /etc/layers) and $(cat /etc/copy), and I am process $$"
sync
mount -o remount,ro /
poweroff -f
"#;

fn run(guest: &mut Guest) -> Result<Report> {
    let veneer = Veneer::new(guest)?;
    let (below, above) = (guest.scratch().join("below.tar"), guest.scratch().join("above.tar"));
    let busybox = std::fs::read("/busybox/busybox")?;
    let lower = layer::of_root(&[
        ("bin/busybox", &busybox, 0o755),
        ("etc/layers", LOWER.as_bytes(), 0o644),
        ("etc/gone", b"", 0o644),
        ("proc/.keep", b"", 0o644),
        ("dev/.keep", b"", 0o644),
    ]);
    std::fs::write(&below, lower)?;
    let upper = layer::of_root(&[
        ("sbin/init", INIT.as_bytes(), 0o755),
        ("etc/layers", b"two layers", 0o644),
        ("etc/.wh.gone", b"", 0o644),
    ]);
    std::fs::write(&above, upper)?;
    let (layout, copy) = (guest.scratch().join("layout"), guest.scratch().join("copy"));
    std::fs::write(&copy, "a copy")?;
    let name = ("org.opencontainers.image.ref.name", "v1");
    let own = json!({"Entrypoint": ["/sbin/init"]});
    Image::run_as(&[below, above], name, &own)?.write(&layout)?;
    let image = format!("oci:{}:v1", layout.display());
    let copied = format!("{}:/etc/copy:0644", copy.display());
    let bytes = (MIB << 20).to_string();
    let words =
        ["activate", &image, "--name", "boots", "--copy", &copied, "--volume-bytes", &bytes];
    veneer.ok(&words)?;
    let machine = veneer.ok(&["show", "boots", "--vm"])?;
    ensure!(machine["args"] == json!(["/sbin/init"]) && machine["fstype"] == "ext4", "{machine}");
    let text = |field: &str| machine[field].as_str().context("a field of the machine's");
    let copied = write_out(Path::new(text("device")?), &guest.disk(0)?)?;
    ensure!(machine["bytes"] == copied, "{copied} bytes of {machine}");
    let line = text("kernel_command_line")?.to_owned();
    veneer.ok(&["rm", "boots"])?;
    veneer.close()?;
    Ok(Report::new().figure(COMMAND_LINE, line).figure("bytes", copied))
}

/// Copies a device to an empty disk, whose zeros it leaves alone; gives its size.
fn write_out(from: &Path, to: &Path) -> Result<u64> {
    let mut from = File::open(from).with_context(|| from.display().to_string())?;
    let mut to =
        OpenOptions::new().write(true).open(to).with_context(|| to.display().to_string())?;
    let (mut block, mut at) = (vec![0; 1 << 20], 0);
    loop {
        let read = from.read(&mut block)?;
        if read == 0 {
            break;
        }
        if block[..read].iter().any(|byte| *byte != 0) {
            to.seek(SeekFrom::Start(at))?;
            to.write_all(&block[..read])?;
        }
        at += read as u64;
    }
    to.sync_all()?;
    Ok(at)
}
