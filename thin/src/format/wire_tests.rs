//! Golden bytes of the ioctl buffers, and replies that are cut, full or hostile.

use crate::format::wire::*;

fn le(value: u32) -> [u8; 4] {
    value.to_le_bytes()
}

#[test]
fn request_numbers_are_the_kernels() {
    let numbers = [
        (Command::Version, 0xc138_fd00_u32),
        (Command::ListDevices, 0xc138_fd02),
        (Command::DevCreate, 0xc138_fd03),
        (Command::DevRemove, 0xc138_fd04),
        (Command::DevRename, 0xc138_fd05),
        (Command::DevSuspend, 0xc138_fd06),
        (Command::DevStatus, 0xc138_fd07),
        (Command::TableLoad, 0xc138_fd09),
        (Command::TableClear, 0xc138_fd0a),
        (Command::TableStatus, 0xc138_fd0c),
        (Command::TargetMsg, 0xc138_fd0e),
        (Command::DevArmPoll, 0xc138_fd10),
        (Command::GetTargetVersion, 0xc138_fd11),
    ];
    for (command, number) in numbers {
        assert_eq!(command.request(), number, "{}", command.name());
        // 1 is DM_REMOVE_ALL: no variant may ever reach it.
        assert_ne!(command.request() & 0xff, 1);
    }
}

/// A short answer is asked for again with more room: that must never apply a change twice.
#[test]
fn only_what_changes_nothing_may_be_sent_again() {
    use Command as C;
    for command in [C::Version, C::ListDevices, C::DevStatus, C::TableStatus, C::GetTargetVersion] {
        assert!(command.repeatable(), "{}", command.name());
    }
    for command in [
        C::DevCreate,
        C::DevRemove,
        C::DevSuspend,
        C::TableLoad,
        C::TableClear,
        C::TargetMsg,
        C::DevArmPoll,
    ] {
        assert!(!command.repeatable(), "{}", command.name());
    }
}

#[test]
fn create_is_header_only() {
    let buf = Request::new(Command::DevCreate, Key::Both("vol", "VENEER-a-7")).encode(0);
    let mut want = vec![0; 312];
    want[0..4].copy_from_slice(&le(4));
    want[12..16].copy_from_slice(&le(312));
    want[16..20].copy_from_slice(&le(312));
    want[48..51].copy_from_slice(b"vol");
    want[176..186].copy_from_slice(b"VENEER-a-7");
    assert_eq!(buf, want);
}

#[test]
fn table_load_of_the_reference_pool() {
    let mut request = Request::new(Command::TableLoad, Key::Name("pool"));
    request.target_count = 1;
    request.payload = targets(&[Target::whole(4_194_304, "thin-pool", "7:0 7:1 2048 32768")]);
    let buf = request.encode(0);
    let mut want = vec![0; 312 + 64];
    want[0..4].copy_from_slice(&le(4));
    want[12..16].copy_from_slice(&le(376));
    want[16..20].copy_from_slice(&le(312));
    want[20..24].copy_from_slice(&le(1));
    want[48..52].copy_from_slice(b"pool");
    want[320..328].copy_from_slice(&4_194_304_u64.to_le_bytes());
    want[332..336].copy_from_slice(&le(64));
    want[336..345].copy_from_slice(b"thin-pool");
    want[352..370].copy_from_slice(b"7:0 7:1 2048 32768");
    assert_eq!(buf, want);
}

#[test]
fn a_load_of_two_targets_counts_next_from_each() {
    let second = Target { start: 8, ..Target::whole(92, "error", "") };
    let payload = targets(&[Target::whole(8, "linear", "7:0 0"), second]);
    assert_eq!(&payload[20..24], &le(48));
    assert_eq!(&payload[48..56], &8_u64.to_le_bytes());
    assert_eq!(&payload[48 + 20..48 + 24], &le(48));
    assert_eq!(payload.len(), 96);
}

#[test]
fn message_is_sector_zero_and_nul_terminated() {
    let mut request = Request::new(Command::TargetMsg, Key::Name("pool"));
    request.payload = message("create_snap 8 7");
    let buf = request.encode(0);
    assert_eq!(buf.len(), 312 + 8 + 16);
    assert_eq!(&buf[4..8], &le(2));
    assert_eq!(&buf[312..], b"\0\0\0\0\0\0\0\0create_snap 8 7\0");
}

#[test]
fn a_new_name_is_nul_terminated() {
    let mut request = Request::new(Command::DevRename, Key::Name("web"));
    request.payload = text("web-2");
    let buf = request.encode(0);
    assert_eq!(&buf[48..52], b"web\0");
    assert_eq!(&buf[312..318], b"web-2\0");
}

#[test]
fn resume_carries_udev_flags_with_an_empty_base() {
    let mut request = Request::new(Command::DevSuspend, Key::Uuid("u"));
    request.event_nr = 0x004f_0000;
    let buf = request.encode(0);
    assert_eq!(&buf[28..32], &le(0));
    assert_eq!(&buf[32..36], &le(0x004f_0000));
    assert_eq!(buf[48], 0, "a name beside a uuid is EINVAL");
}

fn reply_with(payload: &[u8], targets: u32) -> Reply {
    let mut buf = Request::new(Command::Version, Key::None).encode(0);
    buf[20..24].copy_from_slice(&le(targets));
    buf.extend_from_slice(payload);
    Reply::new(buf)
}

fn spec(sectors: u64, next: u32, kind: &str, params: &str) -> Vec<u8> {
    let mut out = targets(&[Target::whole(sectors, kind, params)]);
    out[20..24].copy_from_slice(&le(next));
    out
}

#[test]
fn status_next_counts_from_the_first_target() {
    let mut payload = spec(8, 56, "error", "");
    payload.resize(56, 0);
    payload.extend(spec(16, 200, "thin", "1024 2047 "));
    let lines = reply_with(&payload, 2).targets().unwrap();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[1].kind, "thin");
    assert_eq!(lines[1].params, "1024 2047");
}

#[test]
fn truncated_or_wild_status_is_none_not_a_panic() {
    let good = spec(8, 64, "thin-pool", "0 1/2 3/4 - rw");
    for cut in 0..good.len() {
        let reply = reply_with(&good[..cut], 1);
        assert!(cut > 40 + 14 || reply.targets().is_none(), "cut at {cut}");
    }
    let wild = spec(8, u32::MAX, "thin", "x");
    assert!(reply_with(&wild, 2).targets().is_none());
    assert!(reply_with(&good, u32::MAX).targets().is_none());
}

fn row(dev: u64, name: &str, next: u32, tail: &[u8]) -> Vec<u8> {
    let mut out = dev.to_le_bytes().to_vec();
    out.extend(le(next));
    out.extend(name.as_bytes());
    out.push(0);
    out.resize(out.len().next_multiple_of(8), 0);
    out.extend(tail);
    out.resize(out.len().next_multiple_of(8), 0);
    out
}

#[test]
fn list_with_and_without_uuids() {
    let mut with = le(5).to_vec();
    with.extend(le(1));
    with.extend(b"VENEER-a-7\0");
    let mut without = le(6).to_vec();
    without.extend(le(2));
    let first = row(0xfd00, "pool", 0, &with);
    let mut payload = row(0xfd00, "pool", u32::try_from(first.len()).unwrap(), &with);
    payload.extend(row(0xfd01, "other", 0, &without));
    let rows = reply_with(&payload, 0).names().unwrap();
    assert_eq!(rows[0].uuid, Some(Some("VENEER-a-7".to_owned())));
    assert_eq!(rows[0].event_nr, 5);
    assert_eq!(rows[1].uuid, Some(None));
    assert_eq!(rows[1].dev, Dev { major: 253, minor: 1 });

    let old = row(0xfd00, "pool", 0, &le(9));
    assert_eq!(reply_with(&old, 0).names().unwrap()[0].uuid, None);
    assert!(reply_with(&[0; 16], 0).names().unwrap().is_empty());
}

/// Of another program: ours are checked. All rows after it must still be found.
#[test]
fn a_name_that_is_not_utf8_hides_no_other_device() {
    let mut tail = le(5).to_vec();
    tail.extend(le(1));
    tail.extend(b"VENEER-a-7\0");
    let mut odd = row(0xfd00, "aXXXXXXXXXXXXb", 0, &tail);
    for byte in &mut odd[13..25] {
        *byte = 0xff;
    }
    let length = u32::try_from(odd.len()).unwrap();
    odd[8..12].copy_from_slice(&le(length));
    odd.extend(row(0xfd01, "ours", 0, &tail));
    let rows = reply_with(&odd, 0).names().unwrap();
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[0].uuid, Some(Some("VENEER-a-7".to_owned())));
    assert_eq!(rows[1].name, "ours");
}

#[test]
fn lines_that_lead_back_are_none() {
    let loops = spec(8, 0, "thin", "x");
    assert!(reply_with(&loops, u32::MAX).targets().is_none());
    assert_eq!(reply_with(&loops, 1).targets().map(|lines| lines.len()), Some(1));
}

/// A small deterministic generator: no test here depends on a seed from outside.
fn noise(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

#[test]
fn any_bytes_decode_without_panic() {
    let mut state = 0x9e37_79b9_7f4a_7c15;
    let mut seen = 0;
    for _ in 0..20_000 {
        let length = usize::try_from(noise(&mut state) % 600).unwrap();
        let mut buf: Vec<u8> = (0..length)
            .map(|_| u8::try_from((noise(&mut state) % 7 * 37) & 0xff).unwrap())
            .collect();
        if buf.len() >= 24 {
            buf[16..20].copy_from_slice(&le(312));
            buf[20..24].copy_from_slice(&le(u32::try_from(noise(&mut state) % 4).unwrap()));
        }
        let reply = Reply::new(buf);
        seen += usize::from(reply.targets().is_some()) + usize::from(reply.names().is_some());
        reply.target_version();
        reply.uuid();
    }
    assert!(seen > 0, "the noise never reached a decoder's good path");
}
