//! Which block devices have a length, by one read for all of them.
//!
//! A device-mapper device gets its length with its first live table, so one that is listed here
//! came through its activation. proc(5) lists in `/proc/partitions` the block devices whose
//! length is not 0.

use std::collections::HashSet;

use crate::units::Dev;

const PATH: &str = "/proc/partitions";

/// Their numbers; empty where the file cannot be read, and then each device has to be asked.
pub(crate) fn read() -> HashSet<Dev> {
    std::fs::read_to_string(PATH).map(|text| parse(&text)).unwrap_or_default()
}

/// `major minor #blocks name`, below one line of headings.
fn parse(text: &str) -> HashSet<Dev> {
    let dev = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let (major, minor) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        let kib: u64 = fields.next()?.parse().ok()?;
        (kib > 0).then_some(Dev { major, minor })
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
        assert!(found.contains(&Dev { major: 253, minor: 5 }));
        assert!(found.contains(&Dev { major: 7, minor: 0 }));
    }

    #[test]
    fn what_does_not_parse_is_left_out_so_that_it_is_asked() {
        assert_eq!(parse("253 x 12 dm-1\n253\n-1 2 3 a\n253 1 1e3 dm\n"), HashSet::new());
    }
}
