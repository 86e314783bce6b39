//! What the guest has on its first and only root: our programs, real tools out of packages with their
//! shared libraries, busybox for the rest, kernel modules, and the plan. No root needed: device nodes come
//! from devtmpfs.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::cpio::Cpio;
use super::guest_root::{GuestRoot, LOADER};
use super::kernel::Kernel;
use super::modules;
use super::places::{Places, read_needed};
use crate::protocol::{MODULES, PLAN, Plan};

const PROGRAMS: [&str; 5] = ["fetch", "unpack", "thin", "registry", "orchestrate"];

/// Real tools: the outside program of the product (mkfs.ext4), the oracle's, and checkers.
const TOOLS: [&str; 12] = [
    "mke2fs",
    "e2fsck",
    "dmsetup",
    "dumpe2fs",
    "debugfs",
    "tar",
    "pdata_tools",
    "bash",
    "getfattr",
    "setfattr",
    "udevadm",
    "setpriv",
];

/// Names under which a tool is also called.
const ALIASES: [(&str, &str); 5] = [
    ("usr/sbin/mkfs.ext4", "mke2fs"),
    ("usr/sbin/thin_check", "pdata_tools"),
    ("usr/sbin/thin_dump", "pdata_tools"),
    ("usr/sbin/thin_ls", "pdata_tools"),
    ("usr/sbin/thin_repair", "pdata_tools"),
];

const SMALL_FILES: [(&str, &str); 5] = [
    ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n"),
    ("etc/group", "root:x:0:\ntty:x:5:\ndisk:x:6:\nkmem:x:15:\nnogroup:x:65534:\n"),
    ("etc/hosts", "127.0.0.1 localhost\n"),
    ("etc/resolv.conf", ""),
    ("etc/profile", "echo 'fetch, unpack, thin, registry, orchestrate are in PATH'\n"),
];

/// Packs everything but the plan.
///
/// # Errors
/// Something is missing; the message says what to run.
pub fn pack(places: &Places, kernel: &Kernel, plan: &Plan) -> Result<Vec<u8>> {
    let root = places.guest_root()?;
    let mut cpio = Cpio::default();
    for dir in ["dev", "proc", "sys", "run", "tmp", "root", "usr/bin", "usr/sbin", "usr/lib"] {
        cpio.dir(dir);
    }
    for (link, target) in [("bin", "usr/bin"), ("sbin", "usr/sbin"), ("lib", "usr/lib")] {
        cpio.link(link, target);
    }
    cpio.link("lib64", "usr/lib64");
    // Process 1 gets its stdin, stdout and stderr from this one, before devtmpfs is there.
    cpio.node("dev/console", 0o600, 5, 1);

    let build = "`just static`";
    cpio.file("init", 0o755, &read_needed(&places.programs.join("guest"), build)?);
    for name in PROGRAMS {
        let program = read_needed(&places.programs.join(name), build)?;
        cpio.file(&format!("usr/local/bin/{name}"), 0o755, &program);
    }
    let server = read_needed(&places.s3_server(), "./bootstrap")?;
    cpio.file("usr/local/bin/s3s-fs", 0o755, &server);

    tools(&mut cpio, &root)?;
    if plan.stages.iter().any(|stage| stage.name.starts_with("bench")) {
        peers(&mut cpio, &places.peers())?;
    }
    busybox(&mut cpio, &root)?;
    for (path, content) in SMALL_FILES {
        cpio.file(path, 0o644, content.as_bytes());
    }
    // mke2fs takes its defaults from here, as it does on a user's machine.
    copy(&mut cpio, &root, "etc/mke2fs.conf", 0o644)?;

    let mut order = String::new();
    for module in modules::in_load_order(&kernel.modules())? {
        let name = format!("{}.ko", module.name);
        cpio.file(&format!("modules/{name}"), 0o644, &module.content);
        order.push_str(&name);
        order.push('\n');
    }
    cpio.file(MODULES, 0o644, order.as_bytes());
    cpio.file(PLAN, 0o644, &serde_json::to_vec(plan)?);
    Ok(cpio.finish())
}

/// What a machine needs that has its root on a disk: the modules that find the disk, and a shell that mounts it where
/// the kernel's command line says and goes on with its /sbin/init.
///
/// # Errors
/// Something is missing; the message says what to run.
pub fn pack_for_disk(places: &Places, kernel: &Kernel) -> Result<Vec<u8>> {
    let root = places.guest_root()?;
    let mut cpio = Cpio::default();
    for dir in ["dev", "proc", "root", "bin", "modules"] {
        cpio.dir(dir);
    }
    cpio.node("dev/console", 0o600, 5, 1);
    let shell = read_needed(&root.path(root.program("busybox")?), "./bootstrap")?;
    cpio.file("bin/busybox", 0o755, &shell);
    cpio.link("bin/sh", "busybox");
    let mut init = String::from(FIND_DISK);
    for module in modules::in_load_order(&kernel.modules())? {
        let name = format!("modules/{}.ko", module.name);
        cpio.file(&name, 0o644, &module.content);
        // One for another processor is refused, and not needed.
        init.push_str(&format!("busybox insmod /{name} 2>/dev/null\n"));
    }
    init.push_str(GO_ON);
    cpio.file("init", 0o755, init.as_bytes());
    Ok(cpio.finish())
}

const FIND_DISK: &str = "#!/bin/sh
export PATH=/bin
busybox mount -t devtmpfs dev /dev
busybox mount -t proc proc /proc
";

const GO_ON: &str = "for word in $(busybox cat /proc/cmdline); do
    case $word in root=*) disk=${word#root=} ;; esac
done
until [ -b \"$disk\" ]; do busybox sleep 1; done
busybox mount -t ext4 \"$disk\" /root || exit 1
busybox umount /proc
exec busybox switch_root /root /sbin/init
";

fn copy(cpio: &mut Cpio, root: &GuestRoot, path: &str, mode: u32) -> Result<()> {
    cpio.file(path, mode, &read_needed(&root.path(path), "./bootstrap")?);
    Ok(())
}

/// The real tools, and a udev that only a scenario starts: `systemd-udevd` is what `udevadm` is called then.
fn tools(cpio: &mut Cpio, root: &GuestRoot) -> Result<()> {
    let mut libraries = BTreeSet::new();
    for name in TOOLS {
        let path = root.program(name)?;
        copy(cpio, root, &path, 0o755)?;
        libraries.extend(root.libraries(&path)?);
    }
    for (alias, tool) in ALIASES {
        cpio.link(alias, tool);
    }
    cpio.dir("usr/lib/systemd");
    cpio.link("usr/lib/systemd/systemd-udevd", "/usr/bin/udevadm");
    let rules = "usr/lib/udev/rules.d";
    for entry in std::fs::read_dir(root.path(rules)).context(rules)? {
        let name = entry?.file_name();
        copy(cpio, root, &format!("{rules}/{}", name.to_string_lossy()), 0o644)?;
    }
    copy(cpio, root, LOADER, 0o755)?;
    cpio.link("usr/lib64/ld-linux-x86-64.so.2", &format!("/{LOADER}"));
    for library in libraries {
        copy(cpio, root, &library.to_string_lossy(), 0o755)?;
    }
    Ok(())
}

/// containerd, where `./bootstrap --peers` has got it: too large to be in every boot.
fn peers(cpio: &mut Cpio, dir: &Path) -> Result<()> {
    for name in ["containerd", "ctr"] {
        let program = dir.join("bin").join(name);
        if program.is_file() {
            cpio.file(&format!("usr/bin/{name}"), 0o755, &std::fs::read(&program)?);
        }
    }
    Ok(())
}

/// Its applets go last in PATH, and only where no real tool has the name.
fn busybox(cpio: &mut Cpio, root: &GuestRoot) -> Result<()> {
    let path = root.path(root.program("busybox")?);
    cpio.file("busybox/busybox", 0o755, &std::fs::read(&path)?);
    let list = Command::new(&path).arg("--list").output().context("run busybox --list")?;
    for applet in String::from_utf8_lossy(&list.stdout).lines() {
        if applet != "busybox" {
            cpio.link(&format!("busybox/{applet}"), "busybox");
        }
    }
    // A shell without applets of its own, so that a script's `tar` is the real one.
    cpio.link("usr/bin/sh", "bash");
    cpio.link("usr/bin/env", "/busybox/env");
    Ok(())
}
