//! The names in a directory, read block by block, whatever its index says.

use crate::error::Fault;
use crate::error::image::{Flaw, FlawKind};
use crate::ext4::format::decode_bytes::index;
use crate::ext4::format::decode_dir::{Entry, Pairs, check, entries, is_index};
use crate::ext4::format::decode_inode::{Inode, flag};
use crate::ext4::read::image::Image;
use crate::ext4::read::map::{Run, named, runs};

/// Blocks of a directory. The kernel takes none larger without `large_dir`, which is not read.
pub(crate) fn blocks(image: &Image<'_>, dir: &Inode) -> Result<u64, Fault> {
    let size = u64::from(image.sup.block_size);
    match dir.size / size {
        blocks @ 1.. if dir.size.is_multiple_of(size) => Ok(blocks),
        _ => {
            let rule = "the size of a directory is not that of blocks";
            let flaw = Flaw::new(FlawKind::Directory, rule).value(dir.size);
            Err(flaw.in_inode(dir.number).into())
        }
    }
}

/// What takes a block of a directory, by its place in it.
pub(crate) type EachBlock<'a> = dyn FnMut(u32, &[u8]) -> Result<(), Fault> + 'a;

/// Hands every block of a directory to `each`, by its place in it; its checksum was right.
pub(crate) fn dir_blocks(
    image: &mut Image<'_>,
    dir: &Inode,
    each: &mut EachBlock<'_>,
) -> Result<(), Fault> {
    let mut raw = vec![0; image.block_size()];
    let indexed = dir.flags & flag::INDEX != 0;
    let blocks = blocks(image, dir)?;
    runs(image, dir, blocks, &mut |image: &mut Image<'_>, run: Run| {
        let Some(start) = run.at else {
            return Err(Flaw::new(FlawKind::Directory, "a directory has a hole").into());
        };
        for n in 0..run.len {
            let (logical, block) = (run.logical + n, start + n);
            image.read_file(block, &mut raw)?;
            let logical = u32::try_from(logical).unwrap_or(u32::MAX);
            let sum = match indexed && is_index(&raw, logical) {
                // Without checksums an empty block of names looks like this too.
                true if dir.seed.is_none() => Ok(()),
                true => Pairs::find(&raw).and_then(|pairs| pairs.check(&raw, dir.seed)),
                false => check(&raw, dir.seed),
            };
            sum.map_err(|flaw| flaw.in_block(block))?;
            each(logical, &raw)?;
        }
        Ok(())
    })
}

/// Hands every name of `dir` to `each`, but for itself and `parent`, which have to be its first two.
pub(crate) fn names(
    image: &mut Image<'_>,
    dir: &Inode,
    parent: u32,
    each: &mut dyn FnMut(Entry<'_>) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let has_tail = dir.seed.is_some();
    let (number, mut seen) = (dir.number, 0u64);
    let done = dir_blocks(image, dir, &mut |_, raw| {
        let mut failed = Ok(());
        entries(raw, has_tail, |entry| {
            seen += 1;
            let right = match seen {
                1 => entry.name == b"." && entry.inode == number,
                2 => entry.name == b".." && entry.inode == parent,
                _ => entry.name != b"." && entry.name != b"..",
            };
            if !right {
                let rule = "a directory's names of itself and its parent are wrong";
                return Err(Flaw::new(FlawKind::Directory, rule).value(entry.inode));
            }
            if seen > 2 && failed.is_ok() {
                failed = each(entry);
            }
            Ok(())
        })?;
        failed
    });
    done.map_err(|fault| named(fault, number))?;
    match seen {
        0 | 1 => {
            let rule = "a directory has no name of itself or its parent";
            Err(Flaw::new(FlawKind::Directory, rule).in_inode(number).into())
        }
        _ => Ok(()),
    }
}

/// The type byte of an entry, where it says one, is that of the inode.
pub(crate) fn same_kind(entry: u8, inode: &Inode) -> Result<(), Flaw> {
    use crate::ext4::format::decode_inode::Kind;
    let kind = match inode.kind {
        Kind::File => 1,
        Kind::Dir => 2,
        Kind::Char => 3,
        Kind::Block => 4,
        Kind::Fifo => 5,
        Kind::Socket => 6,
        Kind::Symlink => 7,
    };
    match entry {
        0 => Ok(()),
        other if other == kind => Ok(()),
        other => {
            let rule = "a name and its inode are of different kinds";
            Err(Flaw::new(FlawKind::Directory, rule)
                .value(index(other) as u64)
                .in_inode(inode.number))
        }
    }
}
