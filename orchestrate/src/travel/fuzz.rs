//! Streams that were written are read back, and whatever is wrong with one is refused: every byte that may be flipped,
//! every place where it may end, and streams whose digests were made to fit.

use std::io::{Cursor, Read, Seek, SeekFrom};

use registry::{Digest, DiskState};
use sha2::{Digest as _, Sha256};

use crate::travel::entry::{Entry, What};
use crate::travel::fault::Fault;
use crate::travel::head::{BLOCK_MIN, Basis, Head, HeadPoint};
use crate::travel::read::{Next, StreamReader, Whole};
use crate::travel::write::{END_MAGIC, Sent, StreamWriter};

const BLOCK: usize = 65536;

fn head(from: u64) -> Head {
    Head {
        stream: Digest([7; 32]),
        name: "vm-1".into(),
        image: "s3://bucket/image/".into(),
        chain: Digest([1; 32]),
        block_bytes: BLOCK_MIN,
        disk_bytes: 100 * BLOCK_MIN,
        basis: Basis::Image { blocks: Digest([2; 32]) },
        point: Some(HeadPoint {
            name: "monday".into(),
            identity: Digest([3; 32]),
            consistency: DiskState::Clean,
        }),
        from,
    }
}

fn block(number: u64) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    block[..8].copy_from_slice(&number.to_le_bytes());
    block[40_000..40_003].copy_from_slice(b"abc");
    block
}

/// Blocks 0, 3 and 99 with data, 4 to 10 of zeros.
fn written(from: u64) -> (Vec<u8>, Sent) {
    let head = head(from);
    let mut writer = StreamWriter::new(Vec::new(), Cursor::new(Vec::new()), &head).unwrap();
    writer.data(0, &block(0)).unwrap();
    writer.data(3, &block(3)).unwrap();
    writer.zeros(4, 7).unwrap();
    writer.data(99, &block(99)).unwrap();
    let (sent, out) = writer.finish(|aside| aside.seek(SeekFrom::Start(0)).map(drop)).unwrap();
    assert_eq!(out.len() as u64, sent.bytes);
    (out, sent)
}

/// Reads, and remembers how much at once was asked for.
struct Asked<'a> {
    bytes: &'a [u8],
    most: usize,
}

impl Read for Asked<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        self.most = self.most.max(into.len());
        self.bytes.read(into)
    }
}

type Came = (Vec<Next>, Vec<Entry>, Whole);

fn read(bytes: &[u8]) -> Result<Came, Fault> {
    let mut asked = Asked { bytes, most: 0 };
    let came = through(&mut asked);
    assert!(asked.most <= zstd::zstd_safe::compress_bound(BLOCK), "{} bytes", asked.most);
    came
}

fn through(input: &mut Asked<'_>) -> Result<Came, Fault> {
    let mut reader = StreamReader::new(input)?;
    let (mut buffer, mut records, mut entries) = (Vec::new(), Vec::new(), Vec::new());
    let mut odd = false;
    loop {
        let next = reader.next(&mut buffer)?;
        assert!(buffer.len() <= BLOCK);
        match next {
            Next::End => break,
            // A number that was flipped is found by the index, at the end.
            Next::Data(number) if block(number) != buffer => odd = true,
            Next::Data(_) | Next::Zeros(..) => {}
        }
        records.push(next);
    }
    let whole = reader.finish(|entry| -> Result<(), Fault> {
        entries.push(*entry);
        Ok(())
    })?;
    assert!(!odd, "a whole stream with the data of another block");
    Ok((records, entries, whole))
}

#[test]
fn what_was_written_is_read_and_a_later_beginning_has_the_same_content() {
    let all = [Next::Data(0), Next::Data(3), Next::Zeros(4, 7), Next::Data(99)];
    let (bytes, sent) = written(0);
    let (records, entries, whole) = read(&bytes).unwrap();
    assert_eq!(records, all);
    assert_eq!((whole.content, whole.bytes, whole.entries), (sent.content, sent.bytes, 4));
    assert_eq!((sent.data_blocks, sent.zero_blocks, sent.sent_blocks), (3, 7, 3));
    // Each record is where its entry says.
    for entry in &entries {
        let at = usize::try_from(entry.place).unwrap();
        assert_eq!(bytes[at..at + 64], entry.bytes());
    }
    for (from, left) in [(1, 1), (4, 2), (5, 3), (99, 3), (100, 4)] {
        let (bytes, later) = written(from);
        let (records, entries, whole) = read(&bytes).unwrap();
        assert_eq!(records, all[left..], "from {from}");
        assert_eq!((whole.content, later.content), (sent.content, sent.content));
        assert_eq!(entries.len(), 4);
    }
}

#[test]
fn every_flipped_byte_and_every_end_is_refused() {
    for from in [0, 4] {
        let (bytes, _) = written(from);
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1 << (at % 8);
            assert!(read(&bad).is_err(), "byte {at} of {}", bytes.len());
            let cut = read(&bytes[..at]).unwrap_err();
            assert!(cut.is_cut(), "{at}: {cut}");
        }
        let more = [bytes.as_slice(), b"x"].concat();
        assert!(matches!(read(&more), Err(Fault::Longer { .. })));
    }
}

/// A stream whose digests are right, of these entries and this index. The frames are those of block 0.
fn forged(records: &[Entry], index: &[Entry], entries: u64) -> Vec<u8> {
    let mut out = head(0).bytes().unwrap();
    let frame = zstd::bulk::compress(&block(0), 3).unwrap();
    let mut places = Vec::new();
    for entry in records {
        places.push(out.len() as u64);
        out.extend(placed(entry, out.len() as u64, &frame).bytes());
        if let What::Data { .. } = entry.what {
            out.extend(&frame);
        }
    }
    let at = out.len() as u64;
    let end =
        Entry { what: What::End, begin: 0, blocks: entries, place: at, sha256: Digest([0; 32]) };
    out.extend(end.bytes());
    let mut content = head(0).begins_digest().unwrap();
    for (number, entry) in index.iter().enumerate() {
        let place = places.get(number).copied().unwrap_or(77);
        let entry = placed(entry, place, &frame);
        content.update(entry.content());
        out.extend(entry.bytes());
    }
    out.extend(END_MAGIC);
    out.extend(at.to_le_bytes());
    out.extend(entries.to_le_bytes());
    out.extend(content.finalize());
    let all = Sha256::digest(&out);
    out.extend(all);
    out
}

fn placed(entry: &Entry, place: u64, frame: &[u8]) -> Entry {
    let what = match entry.what {
        What::Data { .. } => What::Data { frame: u32::try_from(frame.len()).unwrap() },
        other => other,
    };
    Entry { what, place, ..*entry }
}

#[test]
fn streams_that_were_made_to_fit_are_refused_by_what_they_say() {
    let sha256 = Digest(Sha256::digest(block(0)).into());
    let none = Digest([0; 32]);
    let data = |begin| Entry { what: What::Data { frame: 1 }, begin, blocks: 1, place: 0, sha256 };
    let zeros = |begin, blocks| Entry { what: What::Zeros, begin, blocks, place: 0, sha256: none };
    let good = [data(0), zeros(1, 4)];
    let told = |records: &[Entry], index: &[Entry], entries| {
        read(&forged(records, index, entries)).map(drop).map_err(|fault| fault.to_string())
    };
    told(&good, &good, 2).unwrap();
    for (records, index, entries, words) in [
        (vec![data(0), data(0)], vec![], 0, "its blocks were there before"),
        (vec![zeros(5, 2), zeros(6, 1)], vec![], 0, "its blocks were there before"),
        (vec![zeros(3, 98)], vec![], 0, "beyond the end of the disk"),
        (vec![zeros(3, u64::MAX)], vec![], 0, "beyond the end of the disk"),
        (vec![zeros(3, 0)], vec![], 0, "a stretch of no blocks"),
        (vec![], vec![], 101, "the entries of the index is 101, and may be at most 100"),
        (good.to_vec(), vec![data(0)], 1, "its index is not of its records"),
        (good.to_vec(), vec![data(0), zeros(1, 5)], 2, "its index is not of its records"),
        (good.to_vec(), vec![zeros(1, 4), data(0)], 2, "its blocks were there before"),
        (vec![Entry { sha256: none, ..data(0) }], vec![], 0, "block 0 is not what its sha256"),
        (vec![Entry { blocks: 2, ..data(0) }], vec![], 0, "a frame is of one block"),
        (vec![Entry { sha256, ..zeros(0, 1) }], vec![], 0, "it has no data, and a frame or a"),
    ] {
        let fault = told(&records, &index, entries).unwrap_err();
        assert!(fault.contains(words), "{fault} instead of {words}");
    }
}

#[test]
fn a_head_says_nothing_that_would_take_room() {
    let of = |change: &dyn Fn(&mut Head)| {
        let mut head = head(0);
        change(&mut head);
        head.bytes().map(drop).map_err(|fault| fault.to_string())
    };
    of(&|_| {}).unwrap();
    for (change, words) in [
        (
            Box::new(|head: &mut Head| head.block_bytes = 128 << 20) as Box<dyn Fn(&mut Head)>,
            "134217728, and may be at most 67108864",
        ),
        (Box::new(|head| head.block_bytes = 4096), "not a multiple of 65536"),
        (Box::new(|head| head.block_bytes = 0), "not a multiple of 65536"),
        (Box::new(|head| head.disk_bytes = u64::MAX), "may be at most 1125899906842624"),
        (Box::new(|head| head.disk_bytes = 65537), "not whole blocks"),
        (Box::new(|head| head.disk_bytes = 0), "not whole blocks"),
        (Box::new(|head| head.from = 101), "the block that it begins at is 101"),
        (Box::new(|head| head.image = "x".repeat(70_000)), "may be at most 65536"),
    ] {
        let fault = of(&change).unwrap_err();
        assert!(fault.contains(words), "{fault} instead of {words}");
    }
    let mut long = b"VNRDISK\x01".to_vec();
    long.extend(u32::MAX.to_le_bytes());
    assert!(matches!(read(&long), Err(Fault::Beyond { .. })));
    assert!(matches!(read(b"GIF89a------"), Err(Fault::NoStream)));
}
