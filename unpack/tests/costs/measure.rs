//! Runs a program on a layer, onto a new ext4 as a volume has it, and says what that took: processor
//! time of all its processes, their memory together, temporary records, blocks of the tree.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::statvfs::statvfs;

/// What one run took.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Took {
    /// Seconds of the processor, user and system, of all processes.
    pub(crate) processor: f64,
    /// KiB of all processes together at their most, what they share counted once.
    pub(crate) memory: u64,
    /// Bytes of temporary records.
    pub(crate) spill: u64,
    /// Bytes of the file system that were taken.
    pub(crate) tree: u64,
    /// Whether the layer was accepted.
    pub(crate) accepted: bool,
}

/// A place for runs: a file system of its own, made anew for each, so that none pays for another.
pub(crate) struct Place {
    dir: tempfile::TempDir,
    mounted: bool,
    /// Images so far: each has a name of its own, so that no loop device of the last is taken again.
    images: u64,
}

fn tool(program: &str, args: &[&str]) {
    let ran = Command::new(program).args(args).output();
    let ran =
        ran.unwrap_or_else(|e| panic!("{program}: {e}; it has to be there, and this be root"));
    assert!(ran.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&ran.stderr));
}

impl Place {
    pub(crate) fn new() -> Place {
        let shm = Path::new("/dev/shm");
        let under = if shm.is_dir() { shm.to_path_buf() } else { std::env::temp_dir() };
        Place { dir: tempfile::tempdir_in(under).expect("a directory"), mounted: false, images: 0 }
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn image(&self) -> PathBuf {
        self.file(&format!("image-{}", self.images))
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.file("tree").join("root")
    }

    /// An empty root on a new file system with room for so many inodes.
    pub(crate) fn fresh(&mut self, inodes: u64) {
        self.close();
        self.images += 1;
        let (image, tree) = (self.image(), self.file("tree"));
        File::create(&image).and_then(|file| file.set_len(6 << 30)).expect("an image");
        fs::create_dir_all(&tree).expect("a mount point");
        let (image, tree) = (image.display().to_string(), tree.display().to_string());
        let made = "nodiscard,assume_storage_prezeroed=1,lazy_itable_init=0";
        let inodes = inodes.to_string();
        let options = ["-q", "-F", "-O", "^has_journal", "-N", &inodes, "-E", made, &image];
        tool("mkfs.ext4", &options);
        tool("mount", &["-o", "loop,noatime", &image, &tree]);
        self.mounted = true;
        fs::create_dir(self.root()).expect("a root");
    }

    pub(crate) fn close(&mut self) {
        if std::mem::take(&mut self.mounted) {
            tool("umount", &[&self.file("tree").display().to_string()]);
            fs::remove_file(self.image()).expect("the image");
        }
    }

    /// Bytes that the file system has in use, once all is written out.
    fn used(&self) -> u64 {
        let file = File::open(self.root()).expect("the root");
        nix::unistd::syncfs(&file).expect("syncfs");
        let stat = statvfs(&self.root()).expect("statvfs");
        (stat.blocks() - stat.blocks_free()) * stat.fragment_size()
    }

    /// Runs `program` with a layer at its standard input.
    pub(crate) fn run(&self, program: &Path, args: &[&str], layer: &Path) -> Took {
        let (used, before) = (self.used(), processor());
        let mut child = Command::new(program)
            .args(args)
            .stdin(File::open(layer).expect("the layer"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|e| panic!("{}: {e}", program.display()));
        let (accepted, memory, spill) = watched(&mut child, self.dir.path());
        let processor = processor() - before;
        Took { processor, memory, spill, tree: self.used().saturating_sub(used), accepted }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.close();
    }
}

/// Of all children that have ended, and theirs, seconds.
fn processor() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).expect("getrusage");
    let seconds =
        |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    seconds(usage.user_time()) + seconds(usage.system_time())
}

/// Looks at a process and its child until it ends: whether that was well, most memory, most records.
fn watched(child: &mut Child, records: &Path) -> (bool, u64, u64) {
    let (mut memory, mut spill) = (0, 0);
    let device = fs::metadata(records).map_or(0, |there| there.dev());
    loop {
        if let Some(status) = child.try_wait().expect("wait") {
            return (status.success(), memory, spill);
        }
        let pid = child.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        let mut all = vec![pid.to_string()];
        all.extend(children.unwrap_or_default().split_whitespace().map(str::to_owned));
        let (mut sum, mut shared) = (0, 0);
        for pid in &all {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let field = |name: &str| {
                let line = status.lines().find_map(|line| line.strip_prefix(name));
                line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
                    .unwrap_or(0)
            };
            // The program's own pages and the stream are the same in both.
            let both = field("RssFile:") + field("RssShmem:");
            shared = both.max(shared);
            sum += field("VmHWM:").saturating_sub(both);
            spill = spill.max(nameless(pid, device));
        }
        memory = memory.max(sum + shared);
        sleep(Duration::from_millis(10));
    }
}

/// Bytes of the largest file without a name that a process has open on that device.
fn nameless(pid: &str, device: u64) -> u64 {
    let Ok(fds) = fs::read_dir(format!("/proc/{pid}/fd")) else { return 0 };
    let files = fds.flatten().filter_map(|fd| fs::metadata(fd.path()).ok());
    files
        .filter(|file| file.dev() == device && file.nlink() == 0)
        .map(|file| file.len())
        .max()
        .unwrap_or(0)
}
