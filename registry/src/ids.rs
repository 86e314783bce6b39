//! What volumes and runs are called by: two kinds of number, so that one never stands where the other belongs.

use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;

use rusqlite::types::{FromSql, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use serde::{Deserialize, Serialize};

/// The number of a volume in its store: of the template, a layer, an activation, a point, an arrival or the
/// volume of the serials. All are given from one sequence, and none is given twice.
///
/// What is given is from 1 to [`VolumeId::MAX`]. What a store turns out to have, and what a registry says, may
/// be any number.
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct VolumeId(u32);

/// The number of a run. It grows with each, and none is given twice.
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct RunId(u64);

impl VolumeId {
    /// The last one: 24 bits (kernel's thin-provisioning.rst).
    pub const MAX: VolumeId = VolumeId(16_777_215);

    /// The one after it; of the last number of all that number itself.
    pub const fn next(self) -> VolumeId {
        VolumeId(self.0.saturating_add(1))
    }
}

/// What both kinds have: the number, its text, and its column.
macro_rules! id {
    ($id:ident, $number:ty) => {
        impl $id {
            /// What this number is the id of.
            pub const fn new(number: $number) -> $id {
                $id(number)
            }

            /// The number.
            pub const fn get(self) -> $number {
                self.0
            }
        }

        impl fmt::Display for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $id {
            type Err = ParseIntError;

            fn from_str(text: &str) -> Result<$id, ParseIntError> {
                text.parse().map($id)
            }
        }

        impl FromSql for $id {
            fn column_result(value: ValueRef<'_>) -> FromSqlResult<$id> {
                <$number>::column_result(value).map($id)
            }
        }

        impl ToSql for $id {
            fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
                self.0.to_sql()
            }
        }
    };
}

id!(VolumeId, u32);
id!(RunId, u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_written_as_its_number() {
        let (volume, run) = (VolumeId::new(7), RunId::new(u64::MAX));
        assert_eq!(serde_json::to_string(&(volume, run)).unwrap(), format!("[7,{}]", u64::MAX));
        assert_eq!(serde_json::from_str::<VolumeId>("7").unwrap(), volume);
        assert!(serde_json::from_str::<VolumeId>("-7").is_err());
        assert_eq!(format!("{volume:>3}"), "  7");
        assert_eq!(run.to_string().parse(), Ok(run));
        assert_eq!(
            "4294967296".parse::<VolumeId>().unwrap_err(),
            "4294967296".parse::<u32>().unwrap_err()
        );
    }
}
