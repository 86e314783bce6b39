//! The length of every block device that has one, by one read for all of them.
//!
//! A device-mapper device gets its length with its first live table, so one that is listed here
//! came through its activation. proc(5) lists in `/proc/partitions` the block devices whose
//! length is not 0.

use std::collections::HashMap;

use crate::format::units::Dev;

const PATH: &str = "/proc/partitions";

/// By number, in bytes rounded down to 1024; empty where the file cannot be read, and then each device
/// has to be asked.
pub(crate) fn read() -> HashMap<Dev, u64> {
    std::fs::read_to_string(PATH).map(|text| parse(&text)).unwrap_or_default()
}

/// `major minor #blocks name`, below one line of headings.
fn parse(text: &str) -> HashMap<Dev, u64> {
    let dev = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let (major, minor) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        let kib: u64 = fields.next()?.parse().ok()?;
        (kib > 0).then_some((Dev { major, minor }, kib.saturating_mul(1024)))
    };
    text.lines().filter_map(dev).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headings_and_empty_lines_are_no_devices() {
        let text = "major minor  #blocks  name\n\n   7        0       4096 loop0\n 253  5  2097152 dm-5\n 253 6 0 dm-6\n";
        let found = parse(text);
        assert_eq!(found.len(), 2);
        assert_eq!(found.get(&Dev { major: 253, minor: 5 }), Some(&(2 << 30)));
        assert_eq!(found.get(&Dev { major: 7, minor: 0 }), Some(&(4 << 20)));
    }

    #[test]
    fn what_does_not_parse_is_left_out_so_that_it_is_asked() {
        assert_eq!(parse("253 x 12 dm-1\n253\n-1 2 3 a\n253 1 1e3 dm\n"), HashMap::new());
    }
}
