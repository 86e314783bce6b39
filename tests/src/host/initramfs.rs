//! What the guest has on its first and only root: our programs, real tools with their shared
//! libraries, busybox for the rest, kernel modules, and the plan. No root needed: device nodes come
//! from devtmpfs.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::cpio::Cpio;
use super::modules;
use super::places::{Places, host_program, read_needed};
use crate::protocol::{MODULES, PLAN, Plan};

const PROGRAMS: [&str; 5] = ["fetch", "unpack", "thin", "registry", "orchestrate"];

/// Real tools: the outside program of the product (mkfs.ext4), the oracle's, and checkers.
const TOOLS: [&str; 10] = [
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
pub fn pack(places: &Places, plan: &Plan) -> Result<Vec<u8>> {
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

    tools(&mut cpio)?;
    if plan.stages.iter().any(|stage| stage.name.starts_with("bench")) {
        peers(&mut cpio, &places.peers())?;
    }
    udev(&mut cpio, &places.udev())?;
    busybox(&mut cpio)?;
    for (path, content) in SMALL_FILES {
        cpio.file(path, 0o644, content.as_bytes());
    }
    // mke2fs takes its defaults from here, as it does on a user's machine.
    cpio.file(
        "etc/mke2fs.conf",
        0o644,
        &read_needed(Path::new("/etc/mke2fs.conf"), "./bootstrap")?,
    );

    let mut order = String::new();
    for path in modules::in_load_order(&places.modules())? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        cpio.file(&format!("modules/{name}"), 0o644, &std::fs::read(&path)?);
        order.push_str(&name);
        order.push('\n');
    }
    cpio.file(MODULES, 0o644, order.as_bytes());
    cpio.file(PLAN, 0o644, &serde_json::to_vec(plan)?);
    Ok(cpio.finish())
}

fn tools(cpio: &mut Cpio) -> Result<()> {
    let mut libraries = BTreeSet::new();
    for name in TOOLS {
        let path = host_program(name)?;
        let sbin = path.parent().is_some_and(|dir| dir.ends_with("sbin"));
        let dir = if sbin { "usr/sbin" } else { "usr/bin" };
        cpio.file(&format!("{dir}/{name}"), 0o755, &std::fs::read(&path)?);
        libraries.extend(shared_libraries(&path, None)?);
    }
    for (alias, tool) in ALIASES {
        cpio.link(alias, tool);
    }
    for library in libraries {
        // The loader looks in the same places; /lib is a link to /usr/lib in the guest.
        let merged = library.trim_start_matches('/').trim_start_matches("usr/");
        cpio.file(&format!("usr/{merged}"), 0o755, &std::fs::read(&library)?);
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

/// Only a scenario starts it: `systemd-udevd` is what `udevadm` is called then.
fn udev(cpio: &mut Cpio, dir: &Path) -> Result<()> {
    let program = dir.join("udevadm");
    let content = read_needed(&program, "./bootstrap")?;
    cpio.file("usr/bin/udevadm", 0o755, &content);
    cpio.dir("usr/lib/systemd");
    cpio.link("usr/lib/systemd/systemd-udevd", "/usr/bin/udevadm");
    for library in shared_libraries(&program, Some(dir))? {
        let name = Path::new(&library).file_name().unwrap_or_default().to_string_lossy();
        cpio.file(&format!("usr/lib/x86_64-linux-gnu/{name}"), 0o755, &std::fs::read(&library)?);
    }
    let mut rules: Vec<_> = std::fs::read_dir(dir.join("rules.d"))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    let dm = ["55-dm.rules", "60-persistent-storage-dm.rules", "95-dm-notify.rules"];
    rules.extend(dm.map(|name| Path::new("/usr/lib/udev/rules.d").join(name)));
    for rule in rules {
        let name = rule.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let content = read_needed(&rule, "./bootstrap")?;
        cpio.file(&format!("usr/lib/udev/rules.d/{name}"), 0o644, &content);
    }
    Ok(())
}

/// Absolute paths of what the loader would load for this program, `also` from this folder.
fn shared_libraries(program: &Path, also: Option<&Path>) -> Result<Vec<String>> {
    let mut ldd = Command::new("ldd");
    ldd.arg(program).envs(also.map(|dir| ("LD_LIBRARY_PATH", dir)));
    let output = ldd.output().context("run ldd")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if text.contains("not found") {
        bail!("{} lacks a shared library: {text}", program.display());
    }
    // "libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x..)", "/lib64/ld-linux-x86-64.so.2 (0x..)"
    Ok(text
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .map(str::to_owned)
        .collect())
}

/// Its applets go last in PATH, and only where no real tool has the name.
fn busybox(cpio: &mut Cpio) -> Result<()> {
    let path = host_program("busybox")?;
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
