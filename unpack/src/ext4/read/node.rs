//! One inode as a record: what a mounted file system would show of it.

use crate::archive::entry::ours;
use crate::archive::pax::Time;
use crate::error::Fault;
use crate::error::image::{Flaw, FlawKind};
use crate::ext4::format::decode_bytes::le32;
use crate::ext4::format::decode_inode::{Inode, Kind};
use crate::ext4::format::decode_xattr::{Attributes, in_block, in_inode};
use crate::ext4::read::content::{hashed, target};
use crate::ext4::read::image::Image;
use crate::ext4::read::map::named;
use crate::record::{Record, What};

/// When the content of a regular file is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contents {
    /// With its inode.
    Read,
    /// Not yet: the digest in its record is void.
    Later,
}

/// The record of an inode at `path`.
pub(crate) fn record(
    image: &mut Image<'_>,
    inode: &Inode,
    path: Vec<u8>,
    contents: Contents,
) -> Result<Record, Fault> {
    let (major, minor) = inode.device();
    let what = match inode.kind {
        Kind::File => match contents {
            Contents::Read => {
                let (size, sha256) = hashed(image, inode)?;
                What::File { size, sha256 }
            }
            Contents::Later => What::File { size: inode.size, sha256: [0; 32] },
        },
        Kind::Dir => What::Dir,
        Kind::Symlink => What::Symlink { target: target(image, inode)? },
        Kind::Char => What::Char { major, minor },
        Kind::Block => What::Block { major, minor },
        Kind::Fifo => What::Fifo,
        Kind::Socket => {
            let rule = "there is a socket, which no layer has";
            return Err(Flaw::new(FlawKind::Inode, rule).in_inode(inode.number).into());
        }
    };
    let xattrs = match inode.kind {
        // No layer sets one on a symlink.
        Kind::Symlink => Vec::new(),
        _ => attributes(image, inode)?,
    };
    let (sec, nsec) = inode.mtime;
    Ok(Record {
        path,
        what,
        mode: inode.mode,
        uid: inode.uid,
        gid: inode.gid,
        mtime: Time { sec, nsec },
        xattrs,
    })
}

/// The attributes that a layer can set, in name order, each as a system call gives it.
fn attributes(image: &mut Image<'_>, inode: &Inode) -> Result<Attributes, Fault> {
    let mut all = Vec::new();
    let found = in_inode(&inode.xattrs, &mut all);
    found.map_err(|flaw| flaw.in_inode(inode.number))?;
    if inode.xattr_block != 0 {
        let (block, seed) = (inode.xattr_block, image.sup.checksums);
        if !image.sup.may_hold(block, 1) {
            let rule = "a block of attributes lies outside the device";
            let flaw = Flaw::new(FlawKind::Attribute, rule).value(block).limit(image.sup.blocks);
            return Err(flaw.in_inode(inode.number).into());
        }
        let found = in_block(image.kept(block)?, block, seed, &mut all);
        found.map_err(|flaw| flaw.in_inode(inode.number).in_block(block))?;
    }
    all.sort();
    if all.windows(2).any(|pair| pair[0].0 == pair[1].0) {
        let rule = "an attribute is there twice";
        return Err(Flaw::new(FlawKind::Attribute, rule).in_inode(inode.number).into());
    }
    let mut shown = Vec::new();
    for (key, value) in all {
        let has_user = matches!(inode.kind, Kind::File | Kind::Dir);
        let is_acl = key.starts_with(b"system.posix_acl_");
        if !ours(&key) || (key.starts_with(b"user.") && !has_user) || (is_acl && value.is_empty()) {
            continue;
        }
        let value = match key.as_slice() {
            b"security.capability" => {
                capability(&value).map_err(|fault| named(fault, inode.number))?
            }
            _ => value,
        };
        shown.push((key, value));
    }
    Ok(shown)
}

/// File capabilities as getxattr(2) gives them to the host's root (`security/commoncap.c`,
/// `cap_inode_getsecurity`): those of the host's own root in the second form, whichever they have.
fn capability(value: &[u8]) -> Result<Vec<u8>, Fault> {
    const SECOND: u32 = 0x0200_0000;
    const THIRD: u32 = 0x0300_0000;
    const EFFECTIVE: u32 = 1;
    let magic = le32(value, 0);
    let (form, root) = match (magic & 0xff00_0000, value.len()) {
        (SECOND, 20) => (SECOND, None),
        (THIRD, 24) if le32(value, 20) == 0 => (SECOND, None),
        (THIRD, 24) if le32(value, 20) != u32::MAX => (THIRD, Some(&value[20..])),
        _ => {
            let rule = "file capabilities are of no form that there is";
            return Err(Flaw::new(FlawKind::Attribute, rule).value(value.len() as u64).into());
        }
    };
    let mut shown = (form | (magic & EFFECTIVE)).to_le_bytes().to_vec();
    shown.extend_from_slice(&value[4..20]);
    shown.extend_from_slice(root.unwrap_or_default());
    Ok(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_of_the_hosts_root_have_the_second_form() {
        let form = |magic: u32, rest: &[u8]| [&magic.to_le_bytes(), rest].concat();
        let second = form(0x0200_0001, &[7; 16]);
        assert_eq!(capability(&second).unwrap(), second);
        assert_eq!(
            capability(&form(0x0300_0001, &[&[7; 16][..], &[0; 4]].concat())).unwrap(),
            second
        );
        let third = form(0x0300_0000, &[&[7; 16][..], &[1, 0, 0, 0]].concat());
        assert_eq!(capability(&third).unwrap(), third);
        for bad in [&b""[..], &form(0x0100_0000, &[0; 8]), &form(0x0200_0000, &[0; 20])] {
            assert!(capability(bad).is_err());
        }
    }
}
