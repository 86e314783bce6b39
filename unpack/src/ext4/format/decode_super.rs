//! The superblock, read and judged (`Documentation/filesystems/ext4/super.rst`; the checks are those of
//! `fs/ext4/super.c`, `ext4_fill_super` and what it calls, and stricter where a reader can be).

use crate::error::image::{Flaw, FlawKind};
use crate::ext4::format::crc::{START, crc32c};
use crate::ext4::format::decode_bytes::{be32, join32, le16, le32, sixteen};

/// Where the superblock begins, and how long it is, in bytes.
pub(crate) const AT: u64 = 1024;
pub(crate) const LEN: usize = 1024;

const MAGIC: u16 = 0xef53;

/// Words of features: bits, and names as mke2fs has them.
mod bit {
    pub(super) const HAS_JOURNAL: u32 = 0x4;
    pub(super) const SPARSE_SUPER2: u32 = 0x200;
    pub(super) const RECOVER: u32 = 0x4;
    pub(super) const META_BG: u32 = 0x10;
    pub(super) const SIXTY_FOUR: u32 = 0x80;
    pub(super) const CSUM_SEED: u32 = 0x2000;
    pub(super) const SPARSE_SUPER: u32 = 0x1;
    pub(super) const GDT_CSUM: u32 = 0x10;
    pub(super) const BIGALLOC: u32 = 0x200;
    pub(super) const METADATA_CSUM: u32 = 0x400;
}

/// Incompatible features that are read: filetype, extents, mmp, flex_bg and those above.
const INCOMPAT: u32 =
    0x2 | bit::META_BG | 0x40 | bit::SIXTY_FOUR | 0x100 | 0x200 | bit::CSUM_SEED | bit::RECOVER;

/// Incompatible features that are refused by their name.
const REFUSED: [(u32, &str); 9] = [
    (0x1, "it uses compression, which is not read"),
    (0x8, "it is the journal of another file system (journal_dev)"),
    (0x400, "it uses ea_inode, which is not read"),
    (0x1000, "it uses dirdata, which is not read"),
    (0x4000, "it uses large_dir, which is not read"),
    (0x8000, "it uses inline_data, which is not read"),
    (0x10000, "it uses encrypt, which is not read"),
    (0x20000, "it uses casefold, which is not read"),
    (0x20, "it uses an incompatible feature that is not known (0x20)"),
];

/// Features that change only what a writer has to do: sparse_super to extra_isize, quota, bigalloc,
/// metadata_csum, read-only, project, shared_blocks, verity, orphan_present.
const RO_COMPAT: u32 = 0x7f | 0x100 | 0x200 | 0x400 | 0x1000 | 0x2000 | 0x4000 | 0x8000 | 0x10000;

/// What a superblock says, after it was found to fit its device.
#[derive(Clone, Debug)]
pub(crate) struct Super {
    /// Bytes of a block: 1 to 64 KiB.
    pub(crate) block_size: u32,
    pub(crate) blocks: u64,
    /// The block that the first group begins with.
    pub(crate) first: u64,
    pub(crate) blocks_per_group: u32,
    pub(crate) inodes_per_group: u32,
    pub(crate) inodes: u32,
    pub(crate) groups: u32,
    pub(crate) inode_size: u32,
    /// The first inode that a name may have, but for the root.
    pub(crate) first_inode: u32,
    pub(crate) desc_size: u32,
    /// Descriptor blocks from this one on lie in their own groups; `None` if all are in one table.
    pub(crate) first_meta_bg: Option<u32>,
    /// Groups with a copy of the superblock: by a rule, all, or two that are named.
    backups: Backups,
    /// Whether metadata has checksums, and what they begin with.
    pub(crate) checksums: Option<u32>,
    /// Whether group descriptors have the older checksum.
    pub(crate) gdt_csum: bool,
    pub(crate) uuid: [u8; 16],
    pub(crate) hash_seed: [u32; 4],
    /// Whether the bytes of a name count as signed in its hash.
    pub(crate) hash_signed: bool,
    /// The journal's inode, where there is one.
    pub(crate) journal: Option<u32>,
    /// Whether the journal has to be replayed before anything else is true.
    pub(crate) recover: bool,
    /// Bytes of a cluster.
    pub(crate) cluster_size: u32,
}

#[derive(Clone, Debug)]
enum Backups {
    All,
    Sparse,
    Named([u32; 2]),
}

fn flaw(kind: FlawKind, rule: &'static str) -> Flaw {
    Flaw::new(kind, rule)
}

fn geometry(rule: &'static str, value: impl Into<u64>) -> Flaw {
    Flaw::new(FlawKind::Geometry, rule).value(value)
}

impl Super {
    /// Judges the 1,024 bytes at 1,024 of a device of so many bytes.
    pub(crate) fn read(raw: &[u8], device_bytes: u64) -> Result<Super, Flaw> {
        if raw.len() < LEN || le16(raw, 0x38) != MAGIC {
            return Err(flaw(FlawKind::Foreign, "there is no ext4 superblock"));
        }
        let [compat, incompat, ro_compat] = features(raw)?;
        if ro_compat & bit::METADATA_CSUM != 0 {
            sum(raw)?;
        }
        let block_size = block_size(raw)?;
        let dynamic = le32(raw, 0x4c) > 0;
        let (inode_size, first_inode) = match dynamic {
            true => (u32::from(le16(raw, 0x58)), le32(raw, 0x54)),
            false => (128, 11),
        };
        if !inode_size.is_power_of_two() || !(128..=block_size).contains(&inode_size) {
            return Err(geometry(
                "an inode's size is no power of two from 128 to a block",
                inode_size,
            ));
        }
        if first_inode < 11 {
            return Err(geometry("the first inode is a reserved one", first_inode));
        }
        let desc_size = match incompat & bit::SIXTY_FOUR {
            0 => 32,
            _ => u32::from(le16(raw, 0xfe)),
        };
        if !desc_size.is_power_of_two()
            || desc_size > 1024
            || (desc_size < 64 && incompat & bit::SIXTY_FOUR != 0)
        {
            return Err(geometry(
                "a group descriptor's size is no power of two from 64 to 1024",
                desc_size,
            ));
        }
        let metadata_csum = ro_compat & bit::METADATA_CSUM != 0;
        let uuid = sixteen(raw, 0x68);
        let mut this = Super {
            block_size,
            blocks: 0,
            first: u64::from(le32(raw, 0x14)),
            blocks_per_group: le32(raw, 0x20),
            inodes_per_group: le32(raw, 0x28),
            inodes: le32(raw, 0),
            groups: 0,
            inode_size,
            first_inode,
            desc_size,
            first_meta_bg: (incompat & bit::META_BG != 0).then(|| le32(raw, 0x104)),
            backups: match (compat & bit::SPARSE_SUPER2, ro_compat & bit::SPARSE_SUPER) {
                (0, 0) => Backups::All,
                (0, _) => Backups::Sparse,
                _ => Backups::Named([le32(raw, 0x24c), le32(raw, 0x250)]),
            },
            checksums: metadata_csum.then(|| match incompat & bit::CSUM_SEED {
                0 => crc32c(START, &uuid),
                _ => le32(raw, 0x270),
            }),
            gdt_csum: ro_compat & bit::GDT_CSUM != 0 && !metadata_csum,
            uuid,
            hash_seed: [0, 4, 8, 12].map(|at| le32(raw, 0xec + at)),
            hash_signed: le32(raw, 0x160) & 1 != 0,
            journal: journal(raw, compat)?,
            recover: incompat & bit::RECOVER != 0,
            cluster_size: block_size,
        };
        this.clusters(raw, ro_compat & bit::BIGALLOC != 0)?;
        this.groups(raw, incompat & bit::SIXTY_FOUR != 0, device_bytes)?;
        Ok(this)
    }

    /// Blocks a group, as the bitmaps of clusters allow it.
    fn clusters(&mut self, raw: &[u8], bigalloc: bool) -> Result<(), Flaw> {
        let (log_block, log_cluster) = (le32(raw, 0x18), le32(raw, 0x1c));
        let shift = log_cluster.wrapping_sub(log_block);
        if bigalloc {
            // The kernel's own bound is a cluster of 2^30 bytes (EXT4_MAX_CLUSTER_LOG_SIZE).
            if log_cluster < log_block || log_cluster > 20 {
                return Err(geometry("a cluster's size is out of range", log_cluster));
            }
            self.cluster_size = 1024 << log_cluster;
        } else if log_cluster != log_block && le32(raw, 0x24) != 0 && shift != 0 {
            return Err(geometry("a cluster is no block, without bigalloc", log_cluster));
        }
        let clusters = match bigalloc {
            true => le32(raw, 0x24),
            false => self.blocks_per_group,
        };
        let most = 8 * self.block_size;
        let ratio = if bigalloc { shift } else { 0 };
        if clusters == 0 || clusters > most {
            return Err(geometry(
                "blocks a group are none or more than a bitmap has bits",
                clusters,
            )
            .limit(most));
        }
        if u64::from(self.blocks_per_group) != u64::from(clusters) << ratio {
            return Err(geometry("blocks and clusters a group differ", self.blocks_per_group));
        }
        // With clusters the first group begins at 0 (mke2fs); the kernel takes both at 1 KiB.
        let first_ok = match (self.block_size, bigalloc) {
            (1024, true) => self.first <= 1,
            (1024, false) => self.first == 1,
            _ => self.first == 0,
        };
        match first_ok {
            true => Ok(()),
            false => Err(geometry("the first data block is not where it has to be", self.first)),
        }
    }

    /// Counts of blocks, groups and inodes, against one another and the device.
    fn groups(&mut self, raw: &[u8], wide: bool, device_bytes: u64) -> Result<(), Flaw> {
        self.blocks = join32(le32(raw, 4), if wide { le32(raw, 0x150) } else { 0 });
        let most = device_bytes / u64::from(self.block_size);
        if self.blocks <= self.first || self.blocks > most {
            return Err(
                geometry("blocks are none or more than the device has", self.blocks).limit(most)
            );
        }
        let groups = (self.blocks - self.first).div_ceil(u64::from(self.blocks_per_group));
        self.groups = u32::try_from(groups).map_err(|_| geometry("too many groups", groups))?;
        let (each, per_block) = (self.inodes_per_group, self.block_size / self.inode_size);
        if each < per_block || each > 8 * self.block_size || each % 8 != 0 {
            return Err(geometry("inodes a group are no multiple of 8 that a bitmap has", each)
                .limit(8 * self.block_size));
        }
        if u64::from(each) * groups != u64::from(self.inodes) {
            return Err(geometry("inodes are not those of all groups", self.inodes)
                .limit(u64::from(each) * groups));
        }
        // The tables alone have to fit: so nothing that grows with inodes grows beyond the device.
        let tables = u64::from(self.table_blocks()) * groups;
        if tables >= self.blocks {
            return Err(
                geometry("the inode tables are larger than the device", tables).limit(self.blocks)
            );
        }
        if self.first_meta_bg.is_some_and(|first| u64::from(first) > self.desc_blocks()) {
            return Err(geometry("meta_bg begins behind the last descriptor", groups));
        }
        Ok(())
    }

    /// Blocks of one group's inode table.
    pub(crate) fn table_blocks(&self) -> u32 {
        self.inodes_per_group.div_ceil(self.block_size / self.inode_size)
    }

    fn per_desc_block(&self) -> u32 {
        self.block_size / self.desc_size
    }

    fn desc_blocks(&self) -> u64 {
        u64::from(self.groups.div_ceil(self.per_desc_block()))
    }

    /// The block with a group's descriptor, and the offset in it (`descriptor_loc`).
    pub(crate) fn descriptor(&self, group: u32) -> (u64, u32) {
        let nr = group / self.per_desc_block();
        let at = group % self.per_desc_block() * self.desc_size;
        let holder = AT / u64::from(self.block_size);
        let block = match self.first_meta_bg {
            Some(first) if nr >= first => {
                let group = nr * self.per_desc_block();
                let odd = self.block_size == 1024 && nr == 0 && self.first == 0;
                self.group_start(group) + u64::from(self.has_super(group)) + u64::from(odd)
            }
            Some(_) | None => holder + 1 + u64::from(nr),
        };
        (block, at)
    }

    /// The first block of a group.
    pub(crate) fn group_start(&self, group: u32) -> u64 {
        self.first + u64::from(group) * u64::from(self.blocks_per_group)
    }

    /// Whether a group has a copy of the superblock (`ext4_bg_has_super`).
    pub(crate) fn has_super(&self, group: u32) -> bool {
        let power = |base: u32| {
            let mut power = base;
            while power < group {
                power = power.saturating_mul(base);
            }
            power == group
        };
        match (&self.backups, group) {
            (_, 0) => true,
            (Backups::Named(named), _) => named.contains(&group),
            (Backups::All, _) | (Backups::Sparse, 1) => true,
            (Backups::Sparse, _) => [3, 5, 7].into_iter().any(power),
        }
    }

    /// Whether an entry of a directory may lead to this inode (`ext4_valid_inum`).
    pub(crate) fn may_be_named(&self, inode: u32) -> bool {
        inode == ROOT || (inode >= self.first_inode && inode <= self.inodes)
    }

    /// Whether `len` blocks from `start` on may be part of a file (`ext4_inode_block_valid`).
    pub(crate) fn may_hold(&self, start: u64, len: u64) -> bool {
        start > self.first && start.checked_add(len).is_some_and(|end| end <= self.blocks)
    }
}

/// The inode of the root directory.
pub(crate) const ROOT: u32 = 2;

/// The three words, each bit of them known and read.
fn features(raw: &[u8]) -> Result<[u32; 3], Flaw> {
    let [compat, incompat, ro_compat] = [0x5c, 0x60, 0x64].map(|at| le32(raw, at));
    if let Some((_, rule)) = REFUSED.into_iter().find(|(bit, _)| incompat & bit != 0) {
        return Err(flaw(FlawKind::Feature, rule));
    }
    if incompat & !INCOMPAT != 0 {
        let rule = "it uses incompatible features that are not known";
        return Err(flaw(FlawKind::Feature, rule).value(incompat & !INCOMPAT));
    }
    if ro_compat & !RO_COMPAT != 0 {
        let rule = "it uses features that are not known";
        return Err(flaw(FlawKind::Feature, rule).value(ro_compat & !RO_COMPAT));
    }
    Ok([compat, incompat, ro_compat])
}

fn block_size(raw: &[u8]) -> Result<u32, Flaw> {
    match le32(raw, 0x18) {
        log @ ..=6 => Ok(1024 << log),
        log => {
            Err(geometry("a block is larger than 64 KiB, in powers of two of 1 KiB", log)
                .limit(6u32))
        }
    }
}

/// The superblock's own checksum.
fn sum(raw: &[u8]) -> Result<(), Flaw> {
    if raw[0x175] != 1 {
        return Err(flaw(FlawKind::Feature, "its checksums are not CRC-32C").value(raw[0x175]));
    }
    match crc32c(START, &raw[..LEN - 4]) == le32(raw, LEN - 4) {
        true => Ok(()),
        false => Err(flaw(FlawKind::Checksum, "the superblock's checksum does not match")),
    }
}

/// The inode of the journal. One in another device cannot be read.
fn journal(raw: &[u8], compat: u32) -> Result<Option<u32>, Flaw> {
    if compat & bit::HAS_JOURNAL == 0 {
        return match le32(raw, 0x60) & bit::RECOVER {
            0 => Ok(None),
            _ => Err(flaw(FlawKind::Journal, "it wants a journal replayed and has none")),
        };
    }
    match (le32(raw, 0xe0), le32(raw, 0xe4)) {
        (0, _) => {
            Err(flaw(FlawKind::Journal, "its journal is in another device").value(be32(raw, 0xd0)))
        }
        // The kernel takes any; what mke2fs and the kernel make is 8.
        (8, _) => Ok(Some(8)),
        (inode, _) => Err(flaw(FlawKind::Journal, "its journal is not inode 8").value(inode)),
    }
}
