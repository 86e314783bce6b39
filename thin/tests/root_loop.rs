//! Loop devices on this very machine: size and flags are what the kernel says, a file is found by what
//! it is and not by its name, and nothing stays attached. Needs root and the loop module.

use std::fs::{File, rename};
use std::path::PathBuf;

use thin::loopdev::{LoopOptions, attach, find_by_backing};

fn scratch(name: &str, bytes: u64) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("veneer-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a scratch directory");
    let file = dir.join("file");
    File::create(&file).and_then(|f| f.set_len(bytes)).expect("a scratch file");
    file
}

const HOW: &str = "needs root and loop devices: `modprobe loop`, then run as root";

#[test]
fn attached_found_by_inode_grown_and_gone() {
    let file = scratch("life", 1 << 20);
    let options = LoopOptions { direct_io: false, ..LoopOptions::default() };
    let mut device = attach(&file, options).expect(HOW);
    assert_eq!(device.bytes(), 1 << 20);
    assert!(device.autoclear() && !device.direct_io());

    // The name it was attached by is gone; what it is has not changed.
    let moved = file.with_file_name("moved");
    rename(&file, &moved).unwrap();
    let found = find_by_backing(&moved).unwrap().expect("found by device and inode");
    assert_eq!(found.dev(), device.dev());

    File::options().write(true).open(&moved).unwrap().set_len(3 << 20).unwrap();
    assert_eq!(device.refresh_size().unwrap(), 3 << 20);

    // The last descriptor takes it away: nothing was detached by hand.
    drop((device, found));
    assert!(find_by_backing(&moved).unwrap().is_none(), "it outlived its descriptors");
    std::fs::remove_dir_all(moved.parent().unwrap()).unwrap();
}

#[test]
fn a_read_only_one_and_a_file_cut_below_it() {
    let file = scratch("cut", 2 << 20);
    let options = LoopOptions { direct_io: false, read_only: true, ..LoopOptions::default() };
    let device = attach(&file, options).expect(HOW);
    File::options().write(true).open(&file).unwrap().set_len(1 << 20).unwrap();
    let err = find_by_backing(&file).expect_err("its device is larger than the file now");
    assert!(err.to_string().contains("cut while attached"), "{err}");
    device.detach().unwrap();
    std::fs::remove_dir_all(file.parent().unwrap()).unwrap();
}
