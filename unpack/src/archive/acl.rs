//! POSIX ACLs as they stand in extended attributes (acl(5); the kernel's posix_acl_xattr.h).
//! Pure.
//!
//! An access ACL and a mode say the same thing twice. Where they disagree the mode wins, here,
//! so that the result does not depend on which of the two is set last.

use crate::error::refusal::{Class, Refusal};

const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// The value as the kernel will give it back: ids only where they mean something, and for an
/// access ACL the permissions of `mode`. `None` if it says no more than a mode can.
pub(crate) fn reconcile(value: &[u8], mode: Option<u32>) -> Result<Option<Vec<u8>>, Refusal> {
    if value.is_empty() {
        // As the kernel has it.
        return Ok(None);
    }
    let bad = |rule| Refusal::new(Class::Xattr, rule).bytes(value);
    let Some(entries) = value.strip_prefix(&[2, 0, 0, 0]) else {
        return Err(bad("ACL of unknown version"));
    };
    if entries.len() % 8 != 0 {
        return Err(bad("ACL of a wrong length"));
    }
    let tag = |entry: &[u8]| u16::from_le_bytes([entry[0], entry[1]]);
    let masked = entries.chunks_exact(8).any(|entry| tag(entry) == MASK);
    let mut extended = false;
    let mut out = vec![2, 0, 0, 0];
    for entry in entries.chunks_exact(8) {
        let (tag, mut perm) = (tag(entry), u16::from_le_bytes([entry[2], entry[3]]));
        if perm > 7 {
            return Err(bad("ACL permission out of range"));
        }
        let bits = |shift: u32| mode.map(|mode| ((mode >> shift) & 7) as u16);
        let named = matches!(tag, USER | GROUP);
        let from_mode = match tag {
            USER_OBJ => bits(6),
            GROUP_OBJ if !masked => bits(3),
            MASK => bits(3),
            OTHER => bits(0),
            USER | GROUP | GROUP_OBJ => None,
            _ => return Err(bad("ACL entry of unknown type")),
        };
        perm = from_mode.unwrap_or(perm);
        extended |= named || tag == MASK;
        let id: [u8; 4] = if named { [entry[4], entry[5], entry[6], entry[7]] } else { [255; 4] };
        if named && id == [255; 4] {
            return Err(bad("ACL entry without an id"));
        }
        out.extend_from_slice(&tag.to_le_bytes());
        out.extend_from_slice(&perm.to_le_bytes());
        out.extend_from_slice(&id);
    }
    let empty = entries.is_empty() || (mode.is_some() && !extended);
    Ok(if empty { None } else { Some(out) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let mut out = vec![2, 0, 0, 0];
        for (tag, perm, id) in entries {
            out.extend(tag.to_le_bytes());
            out.extend(perm.to_le_bytes());
            out.extend(id.to_le_bytes());
        }
        out
    }

    #[test]
    fn the_mode_wins() {
        let none = u32::MAX;
        let layer = [
            (USER_OBJ, 7, none),
            (USER, 7, 5),
            (GROUP_OBJ, 7, 9),
            (MASK, 7, none),
            (OTHER, 7, none),
        ];
        let kept = [
            (USER_OBJ, 6, none),
            (USER, 7, 5),
            (GROUP_OBJ, 7, none),
            (MASK, 4, none),
            (OTHER, 4, none),
        ];
        assert_eq!(reconcile(&acl(&layer), Some(0o644)).unwrap(), Some(acl(&kept)));
        let plain = [(USER_OBJ, 7, none), (GROUP_OBJ, 7, none), (OTHER, 7, none)];
        assert_eq!(reconcile(&acl(&plain), Some(0o644)).unwrap(), None);
    }

    #[test]
    fn malformed_is_refused() {
        for bad in [
            &b"\x02"[..],
            b"\x01\0\0\0",
            b"\x02\0\0\0abc",
            &acl(&[(3, 7, 0)]),
            &acl(&[(USER, 8, 0)]),
            &acl(&[(USER, 7, u32::MAX)]),
        ] {
            assert_eq!(reconcile(bad, Some(0)).unwrap_err().class, Class::Xattr);
        }
    }
}
