//! The units of the pool as types: sectors, data blocks, thin ids, device numbers, names.
//!
//! Everything here is pure and checked on construction, so that no later file compares a count
//! of sectors with a count of blocks. What they are used for is in `table.rs` and `pool.rs`.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use crate::format::garbled::Garbled;

/// Bytes in a device-mapper sector, whatever the disk's own sector is.
pub const SECTOR_BYTES: u64 = 512;

/// A count of 512-byte sectors.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize)]
#[serde(transparent)]
pub struct Sectors(pub u64);

impl Sectors {
    /// The same length in bytes; saturates, which no real device reaches.
    pub fn bytes(self) -> u64 {
        self.0.saturating_mul(SECTOR_BYTES)
    }

    /// As many whole sectors as fit into `bytes`.
    pub fn within(bytes: u64) -> Sectors {
        Sectors(bytes / SECTOR_BYTES)
    }
}

impl fmt::Display for Sectors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A length in whole sectors, read as [`parse_bytes`] does.
///
/// # Errors
/// [`Garbled::Unit`] for one that is none, is 0, or has a part of a sector.
pub fn parse_length(text: &str) -> Result<Sectors, Garbled> {
    match parse_bytes(text)? {
        bytes if bytes > 0 && bytes % SECTOR_BYTES == 0 => Ok(Sectors::within(bytes)),
        _ => Err(Garbled::Unit {
            what: "length",
            value: text.to_owned(),
            rule: "at least 512 bytes, and a multiple of 512",
        }),
    }
}

/// A number of bytes, for people: `512 B`, `1.5 GiB`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut tenths, mut units) = (u128::from(self.0) * 10, ["KiB", "MiB", "GiB"].iter());
        let mut unit = "B";
        while tenths >= 10_240 {
            let Some(next) = units.next() else { break };
            (tenths, unit) = (tenths.div_ceil(1024), next);
        }
        match tenths % 10 {
            0 => write!(f, "{} {unit}", tenths / 10),
            tenth => write!(f, "{}.{tenth} {unit}", tenths / 10),
        }
    }
}

/// A count of pool data blocks; the size of one is the pool's [`DataBlockSize`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize)]
#[serde(transparent)]
pub struct DataBlocks(pub u64);

impl fmt::Display for DataBlocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The size of a pool's data block in sectors: 128 to 2097152 and a multiple of 128
/// (64 KiB to 1 GiB; kernel docs, thin-provisioning). It is fixed for the pool's life.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(transparent)]
pub struct DataBlockSize(u32);

impl DataBlockSize {
    /// Checks the kernel's rule.
    ///
    /// # Errors
    /// [`Garbled::Unit`] when it is out of range or not a multiple of 128.
    pub fn new(sectors: u64) -> Result<DataBlockSize, Garbled> {
        match u32::try_from(sectors) {
            Ok(n) if (128..=2_097_152).contains(&n) && n.is_multiple_of(128) => {
                Ok(DataBlockSize(n))
            }
            _ => Err(Garbled::Unit {
                what: "data block size in sectors",
                value: sectors.to_string(),
                rule: "128 to 2097152, a multiple of 128",
            }),
        }
    }

    /// The size in sectors.
    pub fn sectors(self) -> u64 {
        u64::from(self.0)
    }

    /// The size in bytes.
    pub fn bytes(self) -> u64 {
        self.sectors() * SECTOR_BYTES
    }
}

/// Reads a size such as `64K`, `20G` or `4194304s`: powers of 1024, `s` for sectors, bytes
/// without a suffix.
///
/// # Errors
/// [`Garbled::Unit`].
pub fn parse_bytes(text: &str) -> Result<u64, Garbled> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, suffix) = text.split_at(digits);
    let unit: Option<u64> = match suffix {
        "" | "B" => Some(1),
        "s" => Some(SECTOR_BYTES),
        "K" | "KiB" => Some(1 << 10),
        "M" | "MiB" => Some(1 << 20),
        "G" | "GiB" => Some(1 << 30),
        "T" | "TiB" => Some(1 << 40),
        _ => None,
    };
    let bytes = unit.and_then(|unit| number.parse::<u64>().ok()?.checked_mul(unit));
    bytes.ok_or_else(|| Garbled::Unit {
        what: "size",
        value: text.to_owned(),
        rule: "a number with K, M, G, T (powers of 1024) or s (sectors), below 16 EiB",
    })
}

/// The number of a thin device within its pool: 24 bits (kernel docs, thin-provisioning,
/// "Internal snapshots"). The pool does not hand them out: the caller does.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Deserialize, Serialize,
)]
#[serde(try_from = "u64", into = "u32")]
pub struct ThinId(u32);

impl ThinId {
    /// The largest id.
    pub const MAX: ThinId = ThinId((1 << 24) - 1);

    /// Checks the 24 bits.
    ///
    /// # Errors
    /// [`Garbled::Unit`] when it is larger than [`ThinId::MAX`].
    pub fn new(id: u64) -> Result<ThinId, Garbled> {
        match u32::try_from(id) {
            Ok(n) if n <= ThinId::MAX.0 => Ok(ThinId(n)),
            _ => Err(Garbled::Unit {
                what: "thin id",
                value: id.to_string(),
                rule: "0 to 16777215 (24 bits)",
            }),
        }
    }

    /// The number.
    pub fn get(self) -> u32 {
        self.0
    }
}

impl From<ThinId> for u32 {
    fn from(id: ThinId) -> u32 {
        id.0
    }
}

impl fmt::Display for ThinId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for ThinId {
    type Err = Garbled;

    fn from_str(text: &str) -> Result<ThinId, Garbled> {
        match text.parse::<u64>() {
            Ok(n) => ThinId::new(n),
            Err(_) => Err(Garbled::Unit {
                what: "thin id",
                value: text.to_owned(),
                rule: "0 to 16777215 (24 bits)",
            }),
        }
    }
}

impl TryFrom<u64> for ThinId {
    type Error = Garbled;

    fn try_from(id: u64) -> Result<ThinId, Garbled> {
        ThinId::new(id)
    }
}

/// The number of a block device.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Dev {
    /// Major number, 12 bits.
    pub major: u32,
    /// Minor number, 20 bits.
    pub minor: u32,
}

impl Dev {
    /// From the kernel's `huge_encode_dev` form that `struct dm_ioctl.dev` and the lists carry
    /// (`include/linux/kdev_t.h`).
    pub fn from_kernel(encoded: u64) -> Dev {
        let low = encoded & 0xff;
        let high = (encoded >> 12) & 0x000f_ff00;
        Dev {
            major: u32::try_from((encoded >> 8) & 0xfff).unwrap_or(0),
            minor: u32::try_from(low | high).unwrap_or(0),
        }
    }

    /// From a `stat` field.
    pub fn from_stat(rdev: libc::dev_t) -> Dev {
        Dev { major: libc::major(rdev), minor: libc::minor(rdev) }
    }

    /// As `mknod` takes it.
    pub fn to_stat(self) -> libc::dev_t {
        libc::makedev(self.major, self.minor)
    }
}

impl fmt::Display for Dev {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

impl FromStr for Dev {
    type Err = ();

    fn from_str(text: &str) -> Result<Dev, ()> {
        let (major, minor) = text.split_once(':').ok_or(())?;
        Ok(Dev { major: decimal(major)?, minor: decimal(minor)? })
    }
}

impl Serialize for Dev {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

/// `str::parse` takes a leading `+`, which the kernel never writes.
fn decimal(text: &str) -> Result<u32, ()> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(());
    }
    text.parse().map_err(|_| ())
}

/// A device-mapper name that needs no mangling anywhere: 1 to 127 bytes of
/// `0-9 A-Z a-z # + - . : = @ _` (libdm's list of what is safe under udev), and none of the
/// names the kernel refuses (`.`, `..`, `control`).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(transparent)]
pub struct DmName(String);

impl DmName {
    /// Bytes a name may have, without the NUL (`DM_NAME_LEN` - 1).
    pub const MAX_BYTES: usize = 127;

    /// Checks the rule above.
    ///
    /// # Errors
    /// [`Garbled::Unit`] when it does not hold.
    pub fn new(name: &str) -> Result<DmName, Garbled> {
        let safe = |b: u8| b.is_ascii_alphanumeric() || b"#+-.:=@_".contains(&b);
        let good = !name.is_empty()
            && name.len() <= DmName::MAX_BYTES
            && name.bytes().all(safe)
            && !matches!(name, "." | ".." | "control");
        if good {
            Ok(DmName(name.to_owned()))
        } else {
            Err(Garbled::Unit {
                what: "device name",
                value: name.to_owned(),
                rule: "1 to 127 of [0-9A-Za-z#+-.:=@_], not \".\", \"..\" or \"control\"",
            })
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DmName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thin_ids_are_24_bits() {
        assert_eq!(ThinId::new(16_777_215).unwrap(), ThinId::MAX);
        assert!(ThinId::new(16_777_216).is_err());
        assert!(ThinId::new(u64::MAX).is_err());
        assert!("-1".parse::<ThinId>().is_err());
        assert_eq!("7".parse::<ThinId>().unwrap().get(), 7);
    }

    #[test]
    fn block_size_follows_the_kernels_rule() {
        for bad in [0, 127, 129, 192, 2_097_153, 2_097_280, 1 << 40] {
            assert!(DataBlockSize::new(bad).is_err(), "{bad}");
        }
        for good in [128, 256, 2048, 2_097_152] {
            assert_eq!(DataBlockSize::new(good).unwrap().sectors(), good);
        }
    }

    #[test]
    fn bytes_for_people_never_say_less_than_there_is() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1025, "1.1 KiB"),
            (200 << 20, "200 MiB"),
            ((1 << 30) + 1, "1.1 GiB"),
            (u64::MAX, "17179869184 GiB"),
        ] {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
    }

    #[test]
    fn names_are_those_udev_leaves_alone() {
        for bad in ["", ".", "..", "control", "a/b", "a b", "é", "a\n", "a\\x2f"] {
            assert!(DmName::new(bad).is_err(), "{bad:?}");
        }
        assert!(DmName::new(&"n".repeat(128)).is_err());
        assert!(DmName::new(&"n".repeat(127)).is_ok());
        assert!(DmName::new("golang-1.22:a@b=c#d+e_f").is_ok());
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_bytes("64K").unwrap(), 65536);
        assert_eq!(parse_bytes("4194304s").unwrap(), 2 << 30);
        assert_eq!(parse_bytes("512").unwrap(), 512);
        for bad in ["", "K", "-1", "+1", "1.5G", "1Q", "99999999999T", "1 G"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn kernel_device_numbers_round_trip() {
        for (major, minor) in [(253, 0), (253, 255), (253, 256), (7, 4095), (4095, 0xf_ffff)] {
            let m = u64::from(minor);
            let encoded = (m & 0xff) | (u64::from(major) << 8) | ((m & !0xff) << 12);
            assert_eq!(Dev::from_kernel(encoded), Dev { major, minor });
        }
        assert_eq!("253:17".parse(), Ok(Dev { major: 253, minor: 17 }));
        for bad in ["", "253", "253:", ":1", "+1:2", "1:2:3", "a:b"] {
            assert!(bad.parse::<Dev>().is_err(), "{bad}");
        }
    }
}
