//! Small layers, made in memory.

/// A layer of these files.
///
/// # Panics
/// A path is too long for a header.
#[must_use]
pub fn of(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o640);
        header.set_uid(1000);
        header.set_gid(50);
        header.set_mtime(1_700_000_000);
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, path, content.as_slice()).expect("a short path");
    }
    tar.into_inner().expect("memory takes all")
}

/// A layer of these files, each with its mode, of root.
///
/// # Panics
/// A path is too long for a header.
#[must_use]
pub fn of_root(files: &[(&str, &[u8], u32)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, content, mode) in files {
        let mut header = tar::Header::new_ustar();
        header.set_mode(*mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, path, *content).expect("a short path");
    }
    tar.into_inner().expect("memory takes all")
}

/// A layer of these symbolic links, each with its target, of root.
///
/// # Panics
/// A path is too long for a header.
#[must_use]
pub fn links(links: &[(&str, &str)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, target) in links {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_mode(0o777);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        header.set_size(0);
        tar.append_link(&mut header, path, target).expect("short paths");
    }
    tar.into_inner().expect("memory takes all")
}

/// Layer `number` of a stack: `files` files of about `bytes` bytes, and the first file of the layer before it
/// is gone.
#[must_use]
pub fn stacked(number: u8, files: usize, bytes: usize) -> Vec<u8> {
    let file = |file| (format!("srv/layer-{number}/{file}"), vec![number; bytes - file]);
    let mut all: Vec<_> = (0..files).map(file).collect();
    if number > 1 {
        all.push((format!("srv/layer-{}/.wh.0", number - 1), Vec::new()));
    }
    of(&all)
}

/// A layer whose one entry, an empty file, has this very name, however hostile.
///
/// # Panics
/// It has more than 100 bytes.
#[must_use]
pub fn named(name: &str) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(0);
    header.set_cksum();
    let mut tar = tar::Builder::new(Vec::new());
    tar.append(&header, &[][..]).expect("memory takes all");
    tar.into_inner().expect("memory takes all")
}

/// A layer whose one entry is a hard link to what only a layer below may have.
///
/// # Panics
/// A path is too long for a header.
#[must_use]
pub fn hard_link(name: &str, target: &str) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Link);
    header.set_mode(0o640);
    header.set_uid(1000);
    header.set_gid(50);
    header.set_mtime(1_700_000_000);
    header.set_size(0);
    let mut tar = tar::Builder::new(Vec::new());
    tar.append_link(&mut header, name, target).expect("short paths");
    tar.into_inner().expect("memory takes all")
}
