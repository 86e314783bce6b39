//! The device of an activation is given to a user who is not root, with a node in a jail: whoever that is opens it;
//! the node goes with the device and comes again with it, also where another device has the old one's number by now.
//! And files of the caller's are copied into an activation on a pool.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use rustix::mount::{MountFlags, UnmountFlags};
use serde_json::json;

use crate::guest::Guest;
use crate::guest::daemon::{Daemon, wait};
use crate::guest::veneer::Veneer;
use crate::layer;
use crate::scenario::{Needs, Report, Scenario};

/// See the module.
pub const SCENARIO: Scenario =
    Scenario { name: "given_away", needs: Needs { timeout_s: 300, ..Needs::DEFAULT }, run };

const IMAGE: &str = "s3://given/app/";

/// Owner, group, mode and device number of a node.
type Node = (u32, u32, u32, u64);

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path of this test's")
}

/// What a path leads to, which has to be a block device.
fn node(path: &Path) -> Result<Node> {
    let is = fs::metadata(path).with_context(|| format!("look at {}", path.display()))?;
    ensure!(is.file_type().is_block_device(), "{} is no device", path.display());
    Ok((is.uid(), is.gid(), is.mode() & 0o7777, is.rdev()))
}

/// Files of the caller's, read through the device.
fn copies(guest: &Guest, veneer: &Veneer) -> Result<()> {
    let init = guest.scratch().join("init");
    fs::write(&init, vec![b'#'; 3 << 20])?;
    let copy = format!("{}:/sbin/init:0755", text(&init)?);
    let large = ["activate", IMAGE, "--name", "copied", "--size", "3G", "--copy", &copy];
    ensure!(veneer.ok(&large)?["copied"] == 1, "not copied");
    ensure!(veneer.ok(&large)?["copied"] == 0, "copied twice");
    veneer.check()?;
    let at = guest.scratch().join("copied");
    fs::create_dir(&at)?;
    veneer.ok(&["mount", "copied", text(&at)?])?;
    let is = fs::metadata(at.join("usr/sbin/init"))?;
    ensure!((is.uid(), is.gid(), is.mode() & 0o7777) == (0, 0, 0o755), "another owner or mode");
    ensure!(fs::read(at.join("sbin/init"))? == vec![b'#'; 3 << 20], "other bytes");
    let blocks = rustix::fs::statvfs(&at)?;
    ensure!(blocks.f_blocks * blocks.f_frsize > 5 << 29, "the file system did not grow");
    veneer.ok(&["umount", "copied"])?;
    veneer.ok(&["rm", "copied"]).map(drop)
}

/// The daemon gives the device away, and commands make and remove the node.
fn beside_a_daemon(guest: &Guest, veneer: &Veneer, jail: &Path) -> Result<()> {
    let (device, inside) = (Path::new("/dev/mapper/web"), jail.join("web"));
    let words = ["activate", IMAGE, "--name", "web"];
    let daemon = Daemon::start(veneer, &[])?;
    let given = ["--device-owner", "77:88", "--device-mode", "0600", "--node", text(&inside)?];
    veneer.ok(&[&words[..], &given].concat())?;
    let is = node(&inside)?;
    ensure!((is.0, is.1, is.2) == (77, 88, 0o600) && node(device)? == is, "{is:?}");
    veneer.ok(&["deactivate", "web"])?;
    ensure!(!inside.exists() && !device.exists(), "left behind by a daemon's work");
    veneer.ok(&words)?;
    ensure!(node(device)?.0 == 77, "the daemon does not give it away");
    ensure!(!inside.exists(), "the daemon has made a node");
    veneer.ok(&["recover"])?;
    ensure!(node(&inside)? == node(device)?, "recover has made no node");
    daemon.stop()?;
    // As at a boot.
    guest.cmd("dmsetup").args(["remove", "web"]).run()?.expect(0)?;
    let daemon = Daemon::start(veneer, &[])?;
    wait(|| Ok(node(device).is_ok_and(|is| (is.0, is.1, is.2) == (77, 88, 0o600))))?;
    veneer.ok(&["recover"])?;
    // It is on its way out: nobody opens it anew, and nobody makes the node again.
    let open = fs::File::open(&inside)?;
    veneer.ok(&["rm", "web", "--when-closed"])?;
    ensure!(!inside.exists() && device.exists(), "a node of what is on its way out");
    veneer.ok(&["recover"])?;
    ensure!(!inside.exists(), "made again");
    drop(open);
    wait(|| Ok(!device.exists()))?;
    daemon.stop()
}

/// As the `/run` of most hosts is mounted.
fn no_node_where_no_device_opens(guest: &Guest, veneer: &Veneer, words: &[&str]) -> Result<()> {
    let at = guest.scratch().join("nodev");
    fs::create_dir(&at)?;
    rustix::mount::mount("tmpfs", &at, "tmpfs", MountFlags::NODEV, c"mode=755")?;
    let refused = veneer.cmd(&[words, &["--node", text(&at.join("rootfs"))?]].concat()).run();
    rustix::mount::unmount(&at, UnmountFlags::empty())?;
    refused?.expect_message(100, "is mounted nodev").map(drop)
}

fn run(guest: &mut Guest) -> Result<Report> {
    let veneer = Veneer::new(guest)?;
    veneer.s3.make_bucket("given")?;
    let tar = layer::of_root(&[("usr/sbin/old", b"old", 0o755), ("etc/keep", b"x", 0o644)]);
    veneer.s3.put("given", "app/1.tar", &tar)?;
    veneer.s3.put("given", "app/2.tar", &layer::links(&[("sbin", "usr/sbin")]))?;
    copies(guest, &veneer)?;

    let jail = guest.scratch().join("jail");
    fs::create_dir(&jail)?;
    let (device, inside) = (Path::new("/dev/mapper/vmm"), jail.join("rootfs"));
    let at = text(&inside)?;
    let words = ["activate", IMAGE, "--name", "vmm", "--device-owner", "1234:56"];
    let all = [&words[..], &["--device-mode", "0640", "--node", at]].concat();
    let refused = |why: &str| veneer.cmd(&all).run()?.expect_message(100, why).map(drop);

    // Where others can change what is there, or something else is there, no node is made.
    fs::set_permissions(&jail, fs::Permissions::from_mode(0o777))?;
    refused("others than its owner can write")?;
    fs::set_permissions(&jail, fs::Permissions::from_mode(0o755))?;
    fs::write(&inside, "of somebody else")?;
    refused("something else than a node")?;
    ensure!(fs::read_to_string(&inside)? == "of somebody else", "it did not stay");
    fs::remove_file(&inside)?;
    no_node_where_no_device_opens(guest, &veneer, &words)?;

    // Asked for again, it is done; and it is told.
    let given = json!({"uid": 1234, "gid": 56, "mode": "0640", "node": at});
    for already in [false, true] {
        let done = veneer.ok(&all)?;
        ensure!(done["device"] == given && done["already"] == already, "{done}");
    }
    let is = node(device)?;
    ensure!((is.0, is.1, is.2) == (1234, 56, 0o640), "{is:?}");
    ensure!(node(&inside)? == is, "{:?} and {is:?}", node(&inside)?);
    let listed = veneer.ok(&["ls"])?;
    ensure!(listed["activations"][0]["device"] == given, "{listed}");
    ensure!(veneer.ok(&["show", "vmm"])?["activation"]["device"] == given, "show");
    veneer.check()?;

    // What another program has done to the device is undone by the next command.
    std::os::unix::fs::chown(device, Some(0), Some(6))?;
    veneer.ok(&["recover"])?;
    ensure!(node(device)? == is, "not given away again");

    // It goes with the device, and comes with it. What is open keeps it.
    let open = fs::File::open(&inside)?;
    veneer.cmd(&["deactivate", "vmm"]).run()?.expect_message(111, "vmm is in use")?;
    ensure!(node(&inside)? == is, "a device that stays has lost its node");
    drop(open);
    veneer.ok(&["deactivate", "vmm"])?;
    ensure!(!inside.exists() && !device.exists(), "left behind");
    veneer.ok(&["activate", IMAGE, "--name", "vmm"])?;
    ensure!(node(&inside)?.3 == node(device)?.3, "not made again");
    ensure!(node(&inside)?.2 == 0o640 && node(device)?.0 == 1234, "given away otherwise");

    // As after a boot: the device is gone, the node is not, and its number is another's.
    let before = node(&inside)?;
    guest.cmd("dmsetup").args(["remove", "vmm"]).run()?.expect(0)?;
    let squatter = ["create", "squatter", "--table", "0 8 error"];
    guest.cmd("dmsetup").args(squatter).run()?.expect(0)?;
    ensure!(node(&inside)?.3 == before.3, "the node has gone with the device");
    veneer.ok(&["recover"])?;
    let now = node(&inside)?;
    ensure!(now.3 != before.3 && now.3 == node(device)?.3, "{now:?} and {before:?}");
    ensure!((now.0, now.1, now.2) == (1234, 56, 0o640), "{now:?}");
    guest.cmd("dmsetup").args(["remove", "squatter"]).run()?.expect(0)?;

    // What somebody has put into its place stays, and keeps nothing from coming up.
    veneer.ok(&["deactivate", "vmm"])?;
    fs::write(&inside, "of somebody else")?;
    veneer.ok(&["activate", IMAGE, "--name", "vmm"])?;
    ensure!(node(device)?.0 == 1234, "not given away beside a node that cannot be");
    veneer.ok(&["rm", "vmm"])?;
    ensure!(fs::read_to_string(&inside)? == "of somebody else", "removed what is not ours");
    fs::remove_file(&inside)?;

    // Another place; and `rm` removes the node as well.
    veneer.ok(&all)?;
    let other = jail.join("other");
    veneer.ok(&["activate", IMAGE, "--name", "vmm", "--node", text(&other)?])?;
    ensure!(!inside.exists() && node(&other)?.0 == 1234, "the node has not moved");
    veneer.ok(&["rm", "vmm"])?;
    ensure!(!other.exists(), "left behind by rm");
    beside_a_daemon(guest, &veneer, &jail)?;
    veneer.check()?;
    veneer.close()?;
    Ok(Report::new())
}
