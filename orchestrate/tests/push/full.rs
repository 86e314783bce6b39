//! A push beside a full disk: of the layout, of the state directory. It reads the one and needs nothing of the other.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use crate::image::Layout;
use crate::standin::StandIn;
use crate::{Room, url};

/// A small file system of its own, which goes when the test does.
struct Mount(std::path::PathBuf);

impl Mount {
    fn new(at: std::path::PathBuf) -> Mount {
        fs::create_dir_all(&at).unwrap();
        let options = ["-t", "tmpfs", "-o", "size=1m,nr_inodes=60,mode=0700", "none"];
        assert!(Command::new("mount").args(options).arg(&at).status().unwrap().success());
        Mount(at)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}

/// Somebody takes all bytes that are left, or all inodes.
fn fill(dir: &Path, inodes: bool) {
    let ballast = dir.join("ballast");
    fs::create_dir_all(&ballast).unwrap();
    if inodes {
        let _full = (0..).find(|n: &u32| File::create(ballast.join(n.to_string())).is_err());
        return;
    }
    let mut file = File::create(ballast.join("bytes")).unwrap();
    for size in [1 << 12, 1] {
        while file.write_all(&vec![1; size]).is_ok() {}
    }
}

#[test]
fn a_push_beside_a_full_disk_ends_well_and_leaves_nothing() {
    for inodes in [false, true] {
        let (room, standin) = (Room::new(), StandIn::start());
        let (state, disk) = (Mount::new(room.path("state")), Mount::new(room.path("disk")));
        let layout = Layout::new(&disk.0.join("layout"), "v1", &[1, 2]);
        fill(&state.0, inodes);
        fill(&disk.0, inodes);
        let from = format!("oci:{}:v1", layout.dir.display());
        let done = room.ok(&url(&standin), &["push", &from, "oci:s3://bkt/images/app/:v2"]);
        assert_eq!(done["index_written"], true, "{done}");
        let left: Vec<_> =
            fs::read_dir(&state.0).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["ballast"], "full of inodes: {inodes}");
    }
}
