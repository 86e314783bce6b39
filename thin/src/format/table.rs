//! The text of `thin-pool` and `thin` tables: pure, both ways.
//!
//! A table names devices by `major:minor`, as the kernel itself prints them, so no path is
//! needed; a table given by hand may name paths, and `pool.rs` looks those up.

use std::fmt;

use crate::format::garbled::Garbled;
use crate::format::units::{DataBlockSize, Dev, Sectors, ThinId};
use crate::format::wire::Target;

/// A device in a table: its number, or a path that is still to be looked up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DeviceRef {
    /// `major:minor`.
    Number(Dev),
    /// An absolute path.
    Path(String),
}

impl DeviceRef {
    fn parse(word: &str) -> Option<DeviceRef> {
        match word.parse() {
            Ok(dev) => Some(DeviceRef::Number(dev)),
            Err(()) if word.starts_with('/') => Some(DeviceRef::Path(word.to_owned())),
            Err(()) => None,
        }
    }
}

impl fmt::Display for DeviceRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceRef::Number(dev) => dev.fmt(f),
            DeviceRef::Path(path) => path.fmt(f),
        }
    }
}

/// The five words a pool's table may end with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Features {
    /// New blocks keep their old bytes: one volume could read another's. Never set by this crate.
    pub skip_block_zeroing: bool,
    /// Discards are dropped.
    pub ignore_discard: bool,
    /// Discards unmap but do not reach the data device.
    pub no_discard_passdown: bool,
    /// No change is taken and nothing is formatted.
    pub read_only: bool,
    /// A write without a free block fails at once instead of waiting in the kernel.
    pub error_if_no_space: bool,
}

impl Features {
    const WORDS: [&'static str; 5] = [
        "skip_block_zeroing",
        "ignore_discard",
        "no_discard_passdown",
        "read_only",
        "error_if_no_space",
    ];

    /// What this crate makes its pools with: zeroing on, errors at once, holes kept allocated.
    pub fn safe() -> Features {
        Features { no_discard_passdown: true, error_if_no_space: true, ..Features::default() }
    }

    fn bits(self) -> [bool; 5] {
        [
            self.skip_block_zeroing,
            self.ignore_discard,
            self.no_discard_passdown,
            self.read_only,
            self.error_if_no_space,
        ]
    }

    fn set(&mut self, word: &str) -> Option<()> {
        let field = match word {
            "skip_block_zeroing" => &mut self.skip_block_zeroing,
            "ignore_discard" => &mut self.ignore_discard,
            "no_discard_passdown" => &mut self.no_discard_passdown,
            "read_only" => &mut self.read_only,
            "error_if_no_space" => &mut self.error_if_no_space,
            _ => return None,
        };
        *field = true;
        Some(())
    }
}

/// One `thin-pool` line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PoolTable {
    /// Length of the pool.
    pub sectors: Sectors,
    /// Metadata device.
    pub metadata: DeviceRef,
    /// Data device.
    pub data: DeviceRef,
    /// Data block size.
    pub block: DataBlockSize,
    /// Free data blocks at which the kernel raises an event, once per resume.
    pub low_water: u64,
    /// The optional words.
    pub features: Features,
}

impl PoolTable {
    /// Reads a whole line as `dmsetup` takes it: `0 <sectors> thin-pool <params>`.
    ///
    /// # Errors
    /// [`Garbled::Text`] with the line; [`Garbled::Unit`] for a block size no pool can have.
    pub fn parse_line(line: &str) -> Result<PoolTable, Garbled> {
        let garbled = || Garbled::Text { what: "pool table", text: line.to_owned() };
        let mut words = line.split_ascii_whitespace();
        let start = words.next().ok_or_else(garbled)?;
        let sectors = words.next().and_then(|w| w.parse().ok()).ok_or_else(garbled)?;
        if start != "0" || words.next() != Some("thin-pool") {
            return Err(garbled());
        }
        let params: Vec<&str> = words.collect();
        PoolTable::parse(Sectors(sectors), &params.join(" "))
    }

    /// Reads the parameters of a `thin-pool` target.
    ///
    /// # Errors
    /// As [`PoolTable::parse_line`].
    pub fn parse(sectors: Sectors, params: &str) -> Result<PoolTable, Garbled> {
        let garbled = || Garbled::Text { what: "pool table", text: params.to_owned() };
        let mut words = params.split_ascii_whitespace();
        let metadata = words.next().and_then(DeviceRef::parse).ok_or_else(garbled)?;
        let data = words.next().and_then(DeviceRef::parse).ok_or_else(garbled)?;
        let block = words.next().and_then(|w| w.parse().ok()).ok_or_else(garbled)?;
        let low_water = words.next().and_then(|w| w.parse().ok()).ok_or_else(garbled)?;
        let mut features = Features::default();
        if let Some(count) = words.next() {
            let count: usize = count.parse().map_err(|_| garbled())?;
            let given: Vec<&str> = words.collect();
            if given.len() != count {
                return Err(garbled());
            }
            for word in given {
                features.set(word).ok_or_else(garbled)?;
            }
        }
        let block = DataBlockSize::new(block)?;
        Ok(PoolTable { sectors, metadata, data, block, low_water, features })
    }

    /// The parameters, as `DM_TABLE_LOAD` takes them.
    pub fn params(&self) -> String {
        let mut out =
            format!("{} {} {} {}", self.metadata, self.data, self.block.sectors(), self.low_water);
        let bits = self.features.bits();
        let words: Vec<&str> =
            Features::WORDS.into_iter().zip(bits).filter(|(_, on)| *on).map(|(w, _)| w).collect();
        if !words.is_empty() {
            out.push_str(&format!(" {} {}", words.len(), words.join(" ")));
        }
        out
    }

    /// The table's one line.
    pub fn target(&self) -> Target {
        Target::whole(self.sectors.0, "thin-pool", &self.params())
    }
}

/// One `thin` line. External origins are not used here, so one in the text is an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ThinTable {
    /// Length of the volume: the pool does not store it.
    pub sectors: Sectors,
    /// The pool's device.
    pub pool: Dev,
    /// The thin.
    pub id: ThinId,
}

impl ThinTable {
    /// Reads the parameters of a `thin` target.
    ///
    /// # Errors
    /// [`Garbled::Text`] with the text.
    pub fn parse(sectors: Sectors, params: &str) -> Result<ThinTable, Garbled> {
        let words: Vec<&str> = params.split_ascii_whitespace().collect();
        match words.as_slice() {
            [pool, id] => match (pool.parse(), id.parse()) {
                (Ok(pool), Ok(id)) => Some(ThinTable { sectors, pool, id }),
                _ => None,
            },
            _ => None,
        }
        .ok_or_else(|| Garbled::Text { what: "thin table", text: params.to_owned() })
    }

    /// The parameters, as `DM_TABLE_LOAD` takes them.
    pub fn params(&self) -> String {
        format!("{} {}", self.pool, self.id)
    }

    /// The table's one line.
    pub fn target(&self) -> Target {
        Target::whole(self.sectors.0, "thin", &self.params())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_line() {
        let line = "0 4194304 thin-pool /dev/loop0 /dev/loop1 2048 32768";
        let table = PoolTable::parse_line(line).unwrap();
        assert_eq!(table.sectors, Sectors(4_194_304));
        assert_eq!(table.block.sectors(), 2048);
        assert_eq!(table.low_water, 32_768);
        assert_eq!(table.features, Features::default());
        assert_eq!(table.params(), "/dev/loop0 /dev/loop1 2048 32768");
    }

    #[test]
    fn text_and_table_are_one_to_one() {
        for bits in 0..32_u32 {
            let mut features = Features::default();
            for (at, word) in Features::WORDS.iter().enumerate() {
                if bits & (1 << at) != 0 {
                    features.set(word).unwrap();
                }
            }
            let table = PoolTable {
                sectors: Sectors(u64::from(bits) * 128),
                metadata: DeviceRef::Number(Dev { major: 7, minor: bits }),
                data: DeviceRef::Path("/dev/vdb".to_owned()),
                block: DataBlockSize::new(128).unwrap(),
                low_water: u64::from(bits),
                features,
            };
            assert_eq!(PoolTable::parse(table.sectors, &table.params()).unwrap(), table);
        }
        let thin = ThinTable {
            sectors: Sectors(2048),
            pool: Dev { major: 253, minor: 300 },
            id: ThinId::MAX,
        };
        assert_eq!(ThinTable::parse(thin.sectors, &thin.params()).unwrap(), thin);
    }

    #[test]
    fn malformed_tables_are_refused() {
        for bad in [
            "",
            "0 4194304 thin-pool",
            "0 4194304 thin 7:0 7:1 2048 32768",
            "1 4194304 thin-pool 7:0 7:1 2048 32768",
            "0 x thin-pool 7:0 7:1 2048 32768",
            "0 4194304 thin-pool loop0 7:1 2048 32768",
            "0 4194304 thin-pool 7:0 7:1 2000 32768",
            "0 4194304 thin-pool 7:0 7:1 2048 -1",
            "0 4194304 thin-pool 7:0 7:1 2048 32768 2 read_only",
            "0 4194304 thin-pool 7:0 7:1 2048 32768 1 bogus",
            "0 4194304 thin-pool 7:0 7:1 2048 32768 x",
        ] {
            assert!(PoolTable::parse_line(bad).is_err(), "{bad}");
        }
        for bad in ["", "253:0", "253:0 x", "253:0 16777216", "253:0 1 7:0", "/dev/p 1"] {
            assert!(ThinTable::parse(Sectors(1), bad).is_err(), "{bad}");
        }
    }
}
