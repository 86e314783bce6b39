//! How one entry's metadata becomes tar headers, in either flavour. Pure: no archive is written here.

use anyhow::Result;
use sha2::{Digest, Sha256};
use tar::{EntryType, Header};

use super::recipe::Format;

/// Metadata of an entry to write.
#[derive(Debug, Clone, Copy)]
pub(super) struct Meta {
    pub(super) mode: u32,
    pub(super) uid: u64,
    pub(super) gid: u64,
    pub(super) mtime: u64,
    /// A generated entry gets a fraction of a second, as files made by a build have.
    pub(super) fraction: bool,
}

/// One entry's headers.
pub(super) struct Encoded {
    /// The entry's own header, its checksum not yet set.
    pub(super) header: Header,
    /// PAX records that go before it.
    pub(super) records: Vec<(String, Vec<u8>)>,
    /// GNU extension entries that go before it.
    pub(super) long: Vec<(EntryType, String)>,
}

/// Encodes one entry; names that do not fit go to a PAX record or a GNU extension entry.
///
/// # Errors
/// A device number does not fit its field.
pub(super) fn encode(
    format: Format,
    path: &str,
    kind: EntryType,
    meta: Meta,
    link: Option<&str>,
    device: Option<(u32, u32)>,
    size: u64,
) -> Result<Encoded> {
    let mut name = match format {
        Format::Pax => path.to_owned(),
        Format::Gnu => format!("./{path}"),
    };
    if kind == EntryType::Directory {
        name.push('/');
    }
    let mut header = match format {
        Format::Pax => Header::new_ustar(),
        Format::Gnu => Header::new_gnu(),
    };
    header.set_entry_type(kind);
    header.set_mode(meta.mode);
    header.set_uid(meta.uid);
    header.set_gid(meta.gid);
    header.set_mtime(meta.mtime);
    header.set_size(size);
    header.set_device_major(device.map_or(0, |(major, _)| major))?;
    header.set_device_minor(device.map_or(0, |(_, minor)| minor))?;

    let mut records: Vec<(String, Vec<u8>)> = Vec::new();
    let mut long = Vec::new();
    match format {
        Format::Pax => {
            if header.set_path(&name).is_err() || !name.is_ascii() {
                header.set_path(short(&name))?;
                records.push(("path".to_owned(), name.into_bytes()));
            }
            if let Some(target) = link
                && header.set_link_name_literal(target).is_err()
            {
                header.set_link_name_literal(short(target))?;
                records.push(("linkpath".to_owned(), target.as_bytes().to_vec()));
            }
            if meta.fraction {
                let nanoseconds = fraction(path);
                records.push((
                    "mtime".to_owned(),
                    format!("{}.{nanoseconds:09}", meta.mtime).into_bytes(),
                ));
            }
        }
        Format::Gnu => {
            if header.set_path(&name).is_err() {
                long.push((EntryType::GNULongName, name.clone()));
                header.set_path(short(&name))?;
            }
            let target = match (kind, link) {
                (EntryType::Link, Some(target)) => Some(format!("./{target}")),
                (_, link) => link.map(str::to_owned),
            };
            if let Some(target) = target
                && header.set_link_name_literal(&target).is_err()
            {
                long.push((EntryType::GNULongLink, target.clone()));
                header.set_link_name_literal(short(&target))?;
            }
        }
    }

    Ok(Encoded { header, records, long })
}

/// What an old reader sees where the real name is in an extension: its first 100 bytes at most, cut at a character.
fn short(name: &str) -> &str {
    let ascii = name.bytes().take(100).take_while(u8::is_ascii).count();
    let cut = name[..ascii].trim_end_matches('/');
    if cut.is_empty() { "long" } else { cut }
}

/// The same fraction of a second for the same path at every build.
fn fraction(path: &str) -> u32 {
    let hash = Sha256::digest(path.as_bytes());
    u32::from_le_bytes([hash[0], hash[1], hash[2], hash[3]]) % 1_000_000_000
}
