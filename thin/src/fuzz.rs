//! All that this crate reads of what others wrote (kernel replies, status lines, tables, metadata blocks,
//! our own files after somebody's editor), from seeds that are spoiled: nothing may panic, loop, or
//! let a control character into a message. `VENEER_FUZZ_ROUNDS` makes it longer and `VENEER_FUZZ_SEED`
//! another one.

use crate::format::ondisk::{Details, Node, Superblock, resealed};
use crate::format::status::{PoolStatus, ThinStatus};
use crate::format::table::{PoolTable, ThinTable};
use crate::format::units::{DmName, Sectors, ThinId, parse_bytes};
use crate::format::wire::{Reply, Target, targets};
use crate::store::header::Header;

/// xorshift64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 11).unwrap_or(0) % below.max(1)
    }

    fn byte(&mut self) -> u8 {
        u8::try_from(self.roll(256)).unwrap_or(0)
    }
}

const LINES: [&str; 7] = [
    "5 213/2048 17/1024 - rw no_discard_passdown error_if_no_space - 512",
    "5 213/2048 17/1024 88 out_of_data_space discard_passdown queue_if_no_space needs_check 512",
    "Fail",
    "1024 2047",
    "0 4194304 thin-pool 7:0 7:1 2048 32768 2 no_discard_passdown error_if_no_space",
    "7:0 /dev/loop1 128 100 1 skip_block_zeroing",
    "253:0 77",
];

fn header() -> String {
    let part = |name: &str| crate::store::header::Part {
        path: name.into(),
        bytes: 1 << 24,
        inode: Some(7),
    };
    let id = "0123456789abcdef0123456789abcdef".to_owned();
    let header = Header::new(id, "pool".to_owned(), 128, [part("data"), part("metadata")]);
    serde_json::to_string(&header).unwrap_or_default()
}

fn spoil(dice: &mut Dice, bytes: &mut Vec<u8>) {
    for _ in 0..dice.roll(6) {
        let at = dice.roll(bytes.len() + 1);
        match dice.roll(6) {
            0 if at < bytes.len() => bytes[at] = dice.byte(),
            1 if at < bytes.len() => bytes[at] ^= 1 << dice.roll(8),
            2 => bytes.truncate(at),
            3 => bytes.insert(at, dice.byte()),
            4 => {
                let word =
                    [&b"-1"[..], b"18446744073709551616", b" ", b"\x1b[2J", b"0/0"][dice.roll(5)];
                bytes.splice(at..at, word.iter().copied());
            }
            _ => {
                // A whole field, where counts and offsets are.
                let value = [0, 1, u32::MAX, u32::MAX / 8, 4096, 312][dice.roll(6)];
                let at = at / 4 * 4;
                if let Some(field) = bytes.get_mut(at..at + 4) {
                    field.copy_from_slice(&value.to_le_bytes());
                }
            }
        }
    }
}

/// How many were read as something.
fn try_text(text: &str) -> usize {
    let mut messages = Vec::new();
    let mut taken = 0;
    let mut note = |read: Result<(), crate::error::Error>| match read {
        Ok(()) => taken += 1,
        Err(error) => messages.push(error.to_string()),
    };
    note(PoolStatus::parse(text).map(drop).map_err(crate::Error::from));
    note(ThinStatus::parse(text).map(drop).map_err(crate::Error::from));
    note(PoolTable::parse_line(text).map(drop).map_err(crate::Error::from));
    note(PoolTable::parse(Sectors(1 << 20), text).map(drop).map_err(crate::Error::from));
    note(ThinTable::parse(Sectors(1 << 20), text).map(drop).map_err(crate::Error::from));
    note(parse_bytes(text).map(drop).map_err(crate::Error::from));
    note(DmName::new(text).map(drop).map_err(crate::Error::from));
    note(text.parse::<ThinId>().map(drop).map_err(crate::Error::from));
    for message in messages {
        assert!(!message.chars().any(char::is_control), "{message:?}");
    }
    taken + usize::from(serde_json::from_str::<Header>(text).is_ok())
}

fn try_reply(bytes: Vec<u8>) -> usize {
    let reply = Reply::new(bytes);
    reply.target_version();
    reply.uuid();
    reply.name();
    reply.dev();
    usize::from(reply.targets().is_some()) + usize::from(reply.names().is_some())
}

fn reply(dice: &mut Dice) -> Vec<u8> {
    let lines: Vec<Target> =
        (0..dice.roll(4)).map(|n| Target::whole(8, "thin", LINES[n])).collect();
    let mut buf = vec![0; 312];
    buf[16..20].copy_from_slice(&312_u32.to_le_bytes());
    buf[20..24].copy_from_slice(&u32::try_from(lines.len()).unwrap_or(0).to_le_bytes());
    buf.extend(targets(&lines));
    buf
}

/// A node or a superblock whose checksum is good whatever else is in it: what a kernel bug, or
/// somebody who means ill, may have on a disk.
fn block(dice: &mut Dice) -> Vec<u8> {
    let mut block = vec![0; 4096];
    for (at, value) in [(4, 1 + dice.roll(2)), (16, dice.roll(300)), (20, 126 * (1 + dice.roll(2)))]
    {
        block[at..at + 4].copy_from_slice(&u32::try_from(value).unwrap_or(0).to_le_bytes());
    }
    block[24] = [8, 24][dice.roll(2)];
    if dice.roll(3) == 0 {
        block[32..40].copy_from_slice(&27_022_010_u64.to_le_bytes());
        block[40] = 2;
    }
    block
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

#[test]
fn fuzz() {
    let seed = number("VENEER_FUZZ_SEED", 0x0074_6869);
    let header = header();
    let mut taken = [0_usize; 3];
    for round in 0..number("VENEER_FUZZ_ROUNDS", 20_000) {
        // Each round has its own seed, so that a failure is repeated by one round.
        let mut dice = Dice(seed.wrapping_add(round).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let mut text = match dice.roll(LINES.len() + 1) {
            n if n < LINES.len() => LINES[n].as_bytes().to_vec(),
            _ => header.clone().into_bytes(),
        };
        let (mut buf, mut node) = (reply(&mut dice), block(&mut dice));
        for bytes in [&mut text, &mut buf, &mut node] {
            spoil(&mut dice, bytes);
        }
        node.resize(4096, 0);
        let text = String::from_utf8_lossy(&text).into_owned();
        let tried = std::panic::catch_unwind(|| {
            let superblock = Superblock::parse(&resealed(&node, true), 0);
            let node = Node::parse(&resealed(&node, false), 0);
            if let Ok(Node::Leaf(rows)) = &node {
                let whole = |(_, value): &(u64, Vec<u8>)| {
                    Details::parse(value).is_some() == (value.len() >= 24)
                };
                assert!(rows.iter().all(whole));
            }
            let blocks = usize::from(superblock.is_ok()) + usize::from(node.is_ok());
            [try_text(&text), try_reply(buf), blocks]
        });
        assert!(tried.is_ok(), "VENEER_FUZZ_SEED={} breaks", seed + round);
        for (sum, more) in taken.iter_mut().zip(tried.unwrap_or_default()) {
            *sum += more;
        }
    }
    // A fuzz that is refused at the door finds nothing.
    assert!(taken.iter().all(|kind| *kind > 1000), "too little was accepted: {taken:?}");
}
