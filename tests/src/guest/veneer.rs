//! A host inside the guest: a reference pool, a state directory, an S3 server, and `orchestrate` on it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use rustix::mount::{MountFlags, UnmountFlags};

use super::{Cmd, Guest, Ran, S3, ScratchPool};
use crate::oracle;
use crate::s3::BUCKET;
use crate::tree::Tree;

/// The families of the image sets.
pub const FAMILIES: [&str; 3] = ["golang", "node", "python"];

/// A program of each image, and the line it writes first (a beginning).
pub const PROGRAMS: [(&str, &[&str], &str); 3] = [
    ("golang", &["/usr/bin/fzf", "--version"], "0."),
    ("node", &["/usr/bin/duk", "/srv/app/hello.js"], "hello from node"),
    ("python", &["/usr/bin/python3", "/srv/app/hello.py"], "hello from python 45"),
];

/// The image of a family.
#[must_use]
pub fn image(family: &str) -> String {
    format!("s3://{BUCKET}/images/{family}/")
}

/// One host.
#[derive(Debug)]
pub struct Veneer {
    /// The state directory.
    pub state: PathBuf,
    /// The pool, `veneer`.
    pub pool: ScratchPool,
    /// The server, with its counters.
    pub s3: S3,
}

impl Veneer {
    /// A fresh pool with the reference table line, an empty state directory, an anonymous server.
    ///
    /// # Errors
    /// The pool or the server does not start.
    pub fn new(guest: &Guest) -> Result<Veneer> {
        let pool = guest.pool("veneer")?;
        Ok(Veneer { state: guest.scratch().join("state"), pool, s3: guest.s3()? })
    }

    /// `orchestrate`, told of this host.
    #[must_use]
    pub fn cmd(&self, args: &[&str]) -> Cmd {
        let cmd = Cmd::new("orchestrate").args(args).env("VENEER_STATE", &self.state);
        self.s3.environment(cmd.env("VENEER_STORE", "thin:veneer"))
    }

    /// Runs it to an exit code of 0 and gives its JSON.
    ///
    /// # Errors
    /// It ends otherwise.
    pub fn ok(&self, args: &[&str]) -> Result<serde_json::Value> {
        self.cmd(args).arg("--json").run()?.expect(0)?.json()
    }

    /// Activates a family's image.
    ///
    /// # Errors
    /// It does not end well.
    pub fn activate(&self, family: &str, name: &str) -> Result<serde_json::Value> {
        self.ok(&["activate", &image(family), "--name", name])
    }

    /// Data blocks of the pool that are in use.
    ///
    /// # Errors
    /// The pool does not work.
    pub fn used_blocks(&self) -> Result<u64> {
        let status = self.pool.pool().status()?;
        Ok(status.working().context("the pool has failed")?.used_data.0)
    }

    /// Does `work` while the kernel says that it was booted anew; devices stay as they are.
    ///
    /// # Errors
    /// Those of `work`; the boot's id cannot be covered.
    pub fn in_another_boot<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let real = Path::new("/proc/sys/kernel/random/boot_id");
        let other = self.state.join("another-boot");
        std::fs::write(&other, "00000000-0000-4000-8000-000000000001\n")?;
        rustix::mount::mount_bind(&other, real).context("another boot")?;
        let done = work();
        rustix::mount::unmount(real, UnmountFlags::empty())?;
        done
    }

    /// Rows and pool agree: no volume but sealed ones, the ids of pool and registry are the same, the
    /// transaction ids too, the registry is sound, the pool takes writes.
    ///
    /// # Errors
    /// They do not.
    pub fn check(&self) -> Result<()> {
        let registry = |args: &[&str]| -> Result<Ran> {
            Cmd::new("registry").arg("--state").arg(&self.state).args(args).run()?.expect(0)
        };
        registry(&["check"])?;
        let mut rows = Vec::new();
        for volume in registry(&["ls", "volumes", "--json"])?.json_lines()? {
            ensure!(volume["state"] == "sealed", "left behind: {volume}");
            rows.push(volume["id"].as_u64().context("an id")?);
        }
        for activation in registry(&["ls", "activations", "--json"])?.json_lines()? {
            ensure!(
                activation["state"] == "active" || activation["state"] == "inactive",
                "left behind: {activation}"
            );
            rows.push(activation["id"].as_u64().context("an id")?);
            let name = activation["name"].as_str().context("a name")?;
            for point in self.ok(&["points", name])?["points"].as_array().context("points")? {
                rows.push(point["volume"].as_u64().context("a volume")?);
            }
        }
        rows.sort_unstable();
        let pool = self.pool.pool();
        let mut ids: Vec<u64> =
            pool.ids()?.iter().map(|record| u64::from(record.id.get())).collect();
        ids.sort_unstable();
        ensure!(ids == rows, "the pool has the ids {ids:?}, the registry has {rows:?}");
        let status = pool.status()?;
        ensure!(status.is_writable(), "the pool does not take writes: {status:?}");
        for active in pool.active()? {
            ensure!(active.has_table && !active.suspended, "half made: {active:?}");
        }
        let recover = self.ok(&["recover", "--dry-run"])?;
        ensure!(recover["repairs"] == serde_json::json!([]), "not settled: {recover}");
        Ok(())
    }

    /// Removes every activation and image and takes the pool down.
    ///
    /// # Errors
    /// Something stays.
    pub fn close(self) -> Result<()> {
        let listing = self.ok(&["ls"])?;
        for (list, field) in [("activations", "name"), ("images", "image")] {
            for line in listing[list].as_array().into_iter().flatten() {
                self.ok(&["rm", line[field].as_str().context("a name")?])?;
            }
        }
        self.check()?;
        let template = self.used_blocks()?;
        ensure!(template < 64, "{template} blocks are in use after everything was removed");
        let pool = self.pool.pool();
        for record in pool.ids()? {
            pool.delete(record.id)?;
        }
        self.pool.close()
    }
}

/// A device, mounted read-write as a user would. Unmounted when dropped.
#[derive(Debug)]
pub struct Mounted(PathBuf);

impl Mounted {
    /// Mounts `/dev/mapper/<name>` below `scratch`.
    ///
    /// # Errors
    /// It cannot be mounted.
    pub fn new(scratch: &Path, name: &str) -> Result<Mounted> {
        let point = scratch.join(format!("mnt-{name}"));
        std::fs::create_dir_all(&point)?;
        Mounted::of(&Path::new("/dev/mapper").join(name), &point)
    }

    /// Mounts `device` at `point`.
    ///
    /// # Errors
    /// It cannot be mounted.
    pub fn of(device: &Path, point: &Path) -> Result<Mounted> {
        rustix::mount::mount(device, point, "ext4", MountFlags::NOATIME, c"")
            .with_context(|| format!("mount {}", device.display()))?;
        Ok(Mounted(point.to_owned()))
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The tree, without the file system's own directory.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn tree(&self) -> Result<Tree> {
        Ok(Tree::read(&self.0)?.without("lost+found"))
    }

    /// Runs a program of the image in it; gives its first line.
    ///
    /// # Errors
    /// It does not end with 0.
    pub fn run(&self, program: &[&str]) -> Result<String> {
        let ran = Cmd::new("chroot").arg(&self.0).args(program).run()?.expect(0)?;
        Ok(ran.text()?.lines().next().unwrap_or_default().to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // What stays is listed as left behind.
        rustix::mount::unmount(&self.0, UnmountFlags::empty()).ok();
    }
}

/// What an independent oracle makes of a family's layers, on an ext4 of its own.
///
/// # Errors
/// The oracle fails.
pub fn expected(guest: &Guest, family: &str, mib: u64) -> Result<Tree> {
    let disk = guest.ext4(&format!("oracle-{family}"), mib)?;
    expected_in(disk.path(), family)
}

/// [`expected`] in a directory, which is to be empty.
///
/// # Errors
/// The oracle fails.
pub fn expected_in(root: &Path, family: &str) -> Result<Tree> {
    // As the template: a root directory that no layer names is of time 0.
    let epoch = std::time::UNIX_EPOCH;
    let times = std::fs::FileTimes::new().set_accessed(epoch).set_modified(epoch);
    std::fs::File::open(root)?.set_times(times)?;
    for number in 1..=5 {
        let layer = format!("{}/{BUCKET}/images/{family}/{number}.tar", super::STORE);
        oracle::apply(Path::new(&layer), root).context(layer)?;
    }
    Ok(Tree::read(root)?.without("lost+found"))
}
