//! What the crash scenarios share: tiny images that share layers, and what must hold of a host whenever
//! nothing runs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};
use thin::{Access, DataBlockSize, DmName, InitOptions, Pool, ThinId};

use crate::guest::{Cmd, Guest, PoolSize, S3, ScratchPool};
use crate::layer;
use crate::tree::Tree;

/// The bucket of these images.
const BUCKET: &str = "crash";

/// The images: `a` and `b` share their first two layers.
pub(crate) const IMAGES: [&str; 2] = ["s3://crash/a/", "s3://crash/b/"];

/// An image of the first of these layers alone.
pub(crate) const ONE: &str = "s3://crash/one/";

/// Files in a layer.
const FILES: usize = 12;

/// Puts the images there.
pub(crate) fn put_images(s3: &S3) -> Result<()> {
    // A scenario before this one in the boot may have made it.
    if let Err(error) = s3.make_bucket(BUCKET) {
        ensure!(error.to_string().contains("409"), "{error:#}");
    }
    let images: [(&str, &[u8]); 3] = [("a", &[1, 2, 3]), ("b", &[1, 2, 4]), ("one", &[1])];
    for (image, numbers) in images {
        for (pos, number) in numbers.iter().enumerate() {
            s3.put(
                BUCKET,
                &format!("{image}/{}.tar", pos + 1),
                &layer::stacked(*number, FILES, 20_000),
            )?;
        }
    }
    Ok(())
}

/// A host on a pool of its own, on which both images were ensured.
pub(crate) struct Ready<'a> {
    pub(crate) host: CrashHost<'a>,
    /// The trees of the four layers, by chain id.
    pub(crate) right: BTreeMap<String, String>,
    /// How long the two took.
    pub(crate) whole: Duration,
}

/// A pool on the first two disks of the machine, data and metadata, for scenarios whose power goes.
pub(crate) fn on_disks(guest: &Guest) -> Result<InitOptions> {
    Ok(InitOptions {
        name: DmName::new("veneer")?,
        data_bytes: 0,
        metadata_bytes: None,
        block: DataBlockSize::new(128)?,
        data_device: Some(guest.disk(0)?),
        metadata_device: Some(guest.disk(1)?),
        sparse: false,
    })
}

/// Makes one, has `work` done on it, and takes it down: nothing may be left.
pub(crate) fn on_a_pool<T>(guest: &Guest, work: impl FnOnce(&Ready<'_>) -> Result<T>) -> Result<T> {
    let scratch = ScratchPool::open(guest.scratch(), "veneer", POOL)?;
    let s3 = guest.s3()?;
    put_images(&s3)?;
    let pool = scratch.pool();
    let host = CrashHost { state: guest.scratch().join("state"), pool, s3: &s3 };
    let begun = Instant::now();
    for image in IMAGES {
        host.ok(&["ensure", image])?;
    }
    let whole = begun.elapsed();
    let right = host.trees()?;
    ensure!(right.len() == 4, "four layers are distinct: {right:?}");
    let ready = Ready { host, right, whole };
    let done = work(&ready)?;
    ready.host.remove_all()?;
    ready.host.check()?;
    for record in pool.ids()? {
        pool.delete(record.id)?;
    }
    scratch.close()?;
    Ok(done)
}

/// In memory: blocks that were given back are taken again only when the last has been used.
const POOL: PoolSize = PoolSize { data_mib: 768, metadata_kib: 4096, block_sectors: 128 };

/// A command; what is done before, and whether it finds nothing to do when it was done already.
pub(crate) struct Case {
    before: &'static [&'static [&'static str]],
    pub(crate) words: &'static [&'static str],
    gone_after: bool,
}

const ACTIVATE: [&str; 4] = ["activate", IMAGES[0], "--name", "a-1"];

/// What goes wrong in the middle of a command goes wrong in these.
pub(crate) const CASES: [Case; 5] = [
    Case { before: &[], words: &ACTIVATE, gone_after: false },
    Case { before: &[&["ensure", IMAGES[1]]], words: &ACTIVATE, gone_after: false },
    Case { before: &[&ACTIVATE], words: &["deactivate", "a-1"], gone_after: false },
    Case { before: &[&ACTIVATE, &["deactivate", "a-1"]], words: &ACTIVATE, gone_after: false },
    Case { before: &[&ACTIVATE], words: &["rm", "a-1"], gone_after: true },
];

impl Case {
    /// An empty host, and what is done before.
    pub(crate) fn prepare(&self, host: &CrashHost<'_>) -> Result<()> {
        host.remove_all()?;
        for words in self.before {
            host.ok(words)?;
        }
        Ok(())
    }

    /// The same command after what went wrong: it ends well, nothing is left over, and the layers have the
    /// trees of their chains.
    pub(crate) fn again(
        &self,
        host: &CrashHost<'_>,
        right: &BTreeMap<String, String>,
    ) -> Result<()> {
        let again = host.cmd(self.words).run()?;
        let gone = self.gone_after && again.stderr.contains("no activation or image");
        if !(gone && again.code == Some(100)) {
            again.expect(0)?;
        }
        host.check()?;
        host.check_trees(right)?;
        Ok(())
    }
}

/// A pool with a registry, and the programs on them.
#[derive(Debug)]
pub(crate) struct CrashHost<'a> {
    pub(crate) state: PathBuf,
    pub(crate) pool: &'a Pool,
    pub(crate) s3: &'a S3,
}

impl CrashHost<'_> {
    /// `orchestrate`, told of this host.
    pub(crate) fn cmd(&self, words: &[&str]) -> Cmd {
        let cmd = Cmd::new("orchestrate").args(words).env("VENEER_STATE", &self.state);
        let store = format!("thin:{}", self.pool.name());
        self.s3.environment(cmd.env("VENEER_STORE", store)).arg("--json")
    }

    /// To an exit code of 0, and its JSON.
    pub(crate) fn ok(&self, words: &[&str]) -> Result<serde_json::Value> {
        self.cmd(words).run()?.expect(0)?.json()
    }

    /// Recovers, and gives what that said. A run that was to be refused is refused when it is taken up
    /// too; nothing else may fail.
    pub(crate) fn recover(&self) -> Result<serde_json::Value> {
        let ran = self.cmd(&["recover"]).run()?;
        let said = ran.json()?;
        let resumed = said["resumed"].as_array().into_iter().flatten();
        let failed: Vec<_> = resumed.filter(|run| run["state"] == "failed").collect();
        for run in &failed {
            let refused = run["class"] == "usage" || run["class"] == "not_found";
            ensure!(refused, "taken up: {said}");
        }
        ran.expect(if failed.is_empty() { 0 } else { 100 })?;
        Ok(said)
    }

    fn rows(&self, what: &str) -> Result<Vec<serde_json::Value>> {
        let registry = Cmd::new("registry").arg("--state").arg(&self.state);
        registry.args(["ls", what, "--json"]).run()?.expect(0)?.json_lines()
    }

    /// Rows and pool agree; nothing is half done.
    pub(crate) fn check(&self) -> Result<()> {
        self.check_with(&[])
    }

    /// As [`CrashHost::check`], beside these ids of others.
    pub(crate) fn check_with(&self, others: &[u32]) -> Result<()> {
        let registry = Cmd::new("registry").arg("--state").arg(&self.state);
        registry.arg("check").run()?.expect(0)?;
        let mut rows = Vec::new();
        for volume in self.rows("volumes")? {
            ensure!(volume["state"] == "sealed", "left behind: {volume}");
            rows.push(id(&volume)?);
        }
        for row in self.rows("activations")? {
            let settled = row["state"] == "active" || row["state"] == "inactive";
            ensure!(settled, "left behind: {row}");
            rows.push(id(&row)?);
        }
        rows.extend(self.serials()?);
        rows.extend(others);
        super::thin_invariants::check(self.pool, &rows)?;
        let recover = self.ok(&["recover", "--dry-run"])?;
        ensure!(recover["repairs"] == serde_json::json!([]), "not settled: {recover}");
        Ok(())
    }

    /// The volume that keeps which catalog is believed, where there is one.
    pub(crate) fn serials(&self) -> Result<Option<u32>> {
        let registry = Cmd::new("registry").arg("--state").arg(&self.state);
        let rows = registry.arg("export").run()?.expect(0)?.json_lines()?;
        rows.iter().find(|row| row["table"] == "serial_volume").map(id).transpose()
    }

    /// How many volumes the registry says are sealed, the template among them.
    pub(crate) fn sealed(&self) -> Result<usize> {
        let volumes = self.rows("volumes")?;
        Ok(volumes.iter().filter(|volume| volume["state"] == "sealed").count())
    }

    /// The tree of every sealed layer by its chain id, read from the pool.
    pub(crate) fn trees(&self) -> Result<BTreeMap<String, String>> {
        let mut trees = BTreeMap::new();
        for volume in self.rows("volumes")? {
            let Some(chain) = volume["seal"]["chain"].as_str() else { continue };
            let bytes = volume["bytes"].as_u64().context("a size")?;
            let tree = self.tree(id(&volume)?, bytes).with_context(|| volume.to_string())?;
            trees.insert(chain.to_owned(), tree);
        }
        Ok(trees)
    }

    fn tree(&self, id: u32, bytes: u64) -> Result<String> {
        let thin = ThinId::new(u64::from(id))?;
        let volume = self.pool.activate(thin, "look", bytes / 512, Access::ReadOnly)?;
        let looked = read(&volume.path());
        self.pool.deactivate("look")?;
        looked
    }

    /// Every sealed layer has the tree of its chain.
    pub(crate) fn check_trees(&self, right: &BTreeMap<String, String>) -> Result<usize> {
        let trees = self.trees()?;
        for (chain, tree) in &trees {
            ensure!(right.get(chain) == Some(tree), "the tree of {chain} is {tree}: {right:?}");
        }
        Ok(trees.len())
    }

    /// Every activation and image goes.
    pub(crate) fn remove_all(&self) -> Result<()> {
        for row in self.rows("activations")? {
            self.ok(&["rm", row["name"].as_str().context("a name")?])?;
        }
        let listing = self.ok(&["ls"])?;
        for line in listing["images"].as_array().into_iter().flatten() {
            self.ok(&["rm", line["image"].as_str().context("an image")?])?;
        }
        Ok(())
    }
}

/// Mounts a device with no mount point left to anybody and reads what is on it.
fn read(device: &Path) -> Result<String> {
    use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
    let point = Path::new("/run/look");
    std::fs::create_dir_all(point)?;
    mount(device, point, "ext4", MountFlags::RDONLY, c"noload").context("mount")?;
    let tree = Tree::read_volume(point);
    unmount(point, UnmountFlags::empty())?;
    Ok(format!("{:x}", Sha256::digest(format!("{:?}", tree?))))
}

fn id(row: &serde_json::Value) -> Result<u32> {
    let id = row["id"].as_u64().with_context(|| format!("an id in {row}"))?;
    Ok(u32::try_from(id)?)
}
