//! Layers that are to cost as much as they can: by kind of entry, each a few operations that are
//! repeated until the layer is as long as is wanted, and changed by a seed. Used by the example
//! `cost`, which measures, and by the short form among the tests, which counts.
#![allow(dead_code, reason = "each user needs its own part")]

use std::io::{self, Write};

const BLOCK: usize = 512;

/// xorshift64*: the same seed gives the same layers.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % sides
    }
}

/// What one operation makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    File,
    Dir,
    Symlink,
    /// Another name of the one file `t`.
    Link,
    Fifo,
    Null,
    Whiteout,
    Opaque,
}

/// One entry, made again in every round with the number of the round in its name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Op {
    pub(crate) what: What,
    /// Directories above it that are the same in every round.
    pub(crate) deep: u64,
    /// Directories above it that are new in every round.
    pub(crate) fresh: u64,
    /// Rounds after which names come again; never if none.
    pub(crate) again: u64,
    /// Bytes added to its name.
    pub(crate) long: u64,
    /// By way of a symbolic link of so many steps.
    pub(crate) through: bool,
    /// Bytes of a file; components of a link's target.
    pub(crate) size: u64,
    pub(crate) xattrs: u64,
    /// PAX records that say nothing.
    pub(crate) records: u64,
}

pub(crate) const fn op(what: What) -> Op {
    Op {
        what,
        deep: 0,
        fresh: 0,
        again: 0,
        long: 0,
        through: false,
        size: 0,
        xattrs: 0,
        records: 0,
    }
}

/// One kind of layer.
#[derive(Clone, Debug)]
pub(crate) struct Recipe {
    pub(crate) name: &'static str,
    /// What the layer below has, as often as the layer has rounds.
    pub(crate) below: Vec<Op>,
    pub(crate) ops: Vec<Op>,
    /// Steps of the symbolic link that entries may go through.
    pub(crate) steps: u64,
}

/// Every kind of entry, each as somebody would begin.
pub(crate) fn kinds() -> Vec<Recipe> {
    use What::{Dir, Fifo, File, Link, Null, Opaque, Symlink, Whiteout};
    let new = |what| op(what);
    let again = |what| Op { again: 1, ..op(what) };
    let recipe = |name, ops: &[Op]| Recipe { name, below: Vec::new(), ops: ops.to_vec(), steps: 0 };
    let over =
        |name, below: &[Op], ops: &[Op]| Recipe { below: below.to_vec(), ..recipe(name, ops) };
    let fresh = |what, fresh| Op { fresh, ..op(what) };
    vec![
        recipe("new files", &[new(File)]),
        recipe("one file again and again", &[again(File)]),
        recipe("content", &[Op { size: 1 << 20, ..new(File) }]),
        recipe("hard links", &[new(Link)]),
        recipe("one hard link again", &[again(Link)]),
        recipe("symbolic links", &[new(Symlink)]),
        recipe("directories", &[new(Dir)]),
        recipe("FIFOs and devices", &[new(Fifo), new(Null)]),
        recipe("types that replace each other", &[again(File), again(Dir), again(Symlink)]),
        Recipe {
            steps: 20,
            ..recipe("walks behind links", &[again(Symlink), Op { through: true, ..new(File) }])
        },
        recipe("deep names", &[Op { deep: 200, ..new(File) }, again(Symlink)]),
        recipe("implicit parents", &[fresh(File, 1)]),
        recipe("trees made and removed", &[Op { fresh: 1, again: 4, ..op(File) }, again(File)]),
        over("whiteouts", &[new(File)], &[new(Whiteout)]),
        over("opaque directories", &[fresh(File, 1)], &[fresh(Opaque, 1)]),
        over("new names below", &[new(Dir)], &[fresh(File, 1)]),
        over("lower directories replaced", &[fresh(File, 2)], &[new(File)]),
        recipe("attributes", &[Op { xattrs: 12, ..new(File) }]),
        recipe("one directory's attributes", &[Op { xattrs: 30, ..again(Dir) }]),
        recipe("PAX records", &[Op { records: 100, ..again(File) }]),
        recipe("long names", &[Op { long: 3000, ..new(File) }]),
    ]
}

impl Recipe {
    /// Changes one thing, or takes in or leaves out an operation.
    pub(crate) fn changed(&self, dice: &mut Dice) -> Recipe {
        let mut new = self.clone();
        let all = kinds();
        let at = usize::try_from(dice.roll(new.ops.len() as u64)).unwrap_or(0);
        let op = &mut new.ops[at];
        let grow = |dice: &mut Dice, n: &mut u64, most: u64| {
            *n = match dice.roll(4) {
                0 => *n / 2,
                1 => *n + 1,
                2 => *n * 2 + 1,
                _ => dice.roll(most + 1),
            }
            .min(most);
        };
        match dice.roll(11) {
            0 => grow(dice, &mut op.deep, 250),
            1 => grow(dice, &mut op.fresh, 250),
            2 => grow(dice, &mut op.again, 600),
            3 => grow(dice, &mut op.long, 3500),
            4 => grow(dice, &mut op.size, 4096),
            5 => grow(dice, &mut op.xattrs, 40),
            6 => grow(dice, &mut op.records, 600),
            7 => grow(dice, &mut new.steps, 700),
            8 => op.through = !op.through,
            9 if new.ops.len() < 6 => {
                let kind = usize::try_from(dice.roll(all.len() as u64)).unwrap_or(0);
                new.ops.extend(all[kind].ops.first().copied());
            }
            _ if new.ops.len() > 1 => drop(new.ops.remove(at)),
            _ => new.steps += 1,
        }
        new
    }

    /// Writes the layer below, of so many rounds; says whether there is one.
    pub(crate) fn below(&self, rounds: u64, to: &mut impl Write) -> io::Result<bool> {
        for round in 0..rounds {
            for op in &self.below {
                op.write(round, to)?;
            }
        }
        to.write_all(&[0; 2 * BLOCK])?;
        Ok(!self.below.is_empty())
    }

    /// Writes the layer, not longer than `bytes` by much.
    pub(crate) fn write(&self, bytes: u64, to: &mut impl Write) -> io::Result<Written> {
        let mut done = Written { bytes: 2 * BLOCK as u64, ..Written::default() };
        let target = format!("{}m", "m/../".repeat(usize::try_from(self.steps / 2).unwrap_or(0)));
        let link = [entry(b"l", b'2', 0, target.as_bytes(), &[])].concat();
        for (name, typeflag) in [(&b"t"[..], b'0'), (b"m", b'5')] {
            done.add(&entry(name, typeflag, 0, b"", &[]), 0, to)?;
        }
        done.add(&link, 0, to)?;
        while done.bytes < bytes {
            for op in &self.ops {
                let wrote = op.write(done.rounds, to)?;
                done.bytes += wrote;
                done.entries += 1;
            }
            done.rounds += 1;
        }
        to.write_all(&[0; 2 * BLOCK])?;
        Ok(done)
    }
}

/// What was written.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Written {
    pub(crate) bytes: u64,
    pub(crate) entries: u64,
    pub(crate) rounds: u64,
}

impl Written {
    fn add(&mut self, head: &[u8], body: u64, to: &mut impl Write) -> io::Result<()> {
        to.write_all(head)?;
        self.bytes += head.len() as u64 + body;
        self.entries += 1;
        Ok(())
    }
}

impl Op {
    fn name(&self, round: u64) -> Vec<u8> {
        let number = round.checked_rem(self.again).unwrap_or(round);
        let mut name = Vec::new();
        if self.through {
            name.extend(b"l/");
        }
        name.extend(b"d/".repeat(usize::try_from(self.deep).unwrap_or(0)));
        if self.fresh > 0 {
            name.extend(format!("{number:x}/").bytes());
            name.extend(b"f/".repeat(usize::try_from(self.fresh - 1).unwrap_or(0)));
        }
        for piece in 0..self.long / 200 {
            name.extend(format!("{piece}{}/", "n".repeat(195)).bytes());
        }
        name.extend(b"n".repeat(usize::try_from(self.long % 200).unwrap_or(0)));
        match self.what {
            What::Whiteout => name.extend(b".wh."),
            What::Opaque => name.extend(b".wh..wh..opq"),
            _ => {}
        }
        if self.fresh == 0 && self.what != What::Opaque {
            // A name of its own for each kind only where that is wanted.
            name.extend(format!("x{number:x}").bytes());
        } else if self.what != What::Opaque {
            name.extend(b"x");
        }
        name
    }

    fn write(&self, round: u64, to: &mut impl Write) -> io::Result<u64> {
        let name = self.name(round);
        let mut pax = Vec::new();
        for n in 0..self.xattrs {
            pax.extend(record(&format!("SCHILY.xattr.user.{n:x}"), b"1"));
        }
        for _ in 0..self.records {
            pax.extend(b"5 a=\n");
        }
        let target =
            format!("{}m", "m/../".repeat(usize::try_from(self.size / 2).unwrap_or(0).min(700)));
        let (typeflag, link, size): (u8, &[u8], u64) = match self.what {
            What::File => (b'0', b"", self.size),
            What::Whiteout | What::Opaque => (b'0', b"", 0),
            What::Dir => (b'5', b"", 0),
            What::Symlink => (b'2', target.as_bytes(), 0),
            What::Link => (b'1', b"t", 0),
            What::Fifo => (b'6', b"", 0),
            What::Null => (b'3', b"", 0),
        };
        let head = entry(&name, typeflag, size, link, &pax);
        to.write_all(&head)?;
        let padded = size.next_multiple_of(BLOCK as u64);
        io::copy(&mut io::Read::take(io::repeat(7), size), to)?;
        io::copy(&mut io::Read::take(io::repeat(0), padded - size), to)?;
        Ok(head.len() as u64 + padded)
    }
}

fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut len = rest + 1;
    while len != rest + len.to_string().len() {
        len = rest + len.to_string().len();
    }
    [format!("{len} {key}=").as_bytes(), value, b"\n"].concat()
}

/// The blocks before a body: of the PAX header where one is needed, and of the entry.
fn entry(name: &[u8], typeflag: u8, size: u64, link: &[u8], pax: &[u8]) -> Vec<u8> {
    let mut pax = pax.to_vec();
    if name.len() > 100 {
        pax.extend(record("path", name));
    }
    if link.len() > 100 {
        pax.extend(record("linkpath", link));
    }
    let mut blocks = Vec::with_capacity(BLOCK);
    if !pax.is_empty() {
        blocks.extend(block(b"p", b'x', pax.len() as u64, b""));
        blocks.extend(&pax);
        blocks.resize(blocks.len().next_multiple_of(BLOCK), 0);
    }
    blocks.extend(block(
        &name[..name.len().min(100)],
        typeflag,
        size,
        &link[..link.len().min(100)],
    ));
    blocks
}

fn block(name: &[u8], typeflag: u8, size: u64, link: &[u8]) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    block[..name.len()].copy_from_slice(name);
    block[100..108].copy_from_slice(b"0000644\0");
    block[108..116].copy_from_slice(b"0000000\0");
    block[116..124].copy_from_slice(b"0000000\0");
    block[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
    block[136..148].copy_from_slice(b"00000001750\0");
    block[156] = typeflag;
    block[157..157 + link.len()].copy_from_slice(link);
    block[257..265].copy_from_slice(b"ustar\x0000");
    if typeflag == b'3' {
        block[329..337].copy_from_slice(b"0000001\0");
        block[337..345].copy_from_slice(b"0000003\0");
    }
    block[148..156].copy_from_slice(b"        ");
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

/// What the bound is held against: as many entries and bytes, all new small files.
pub(crate) fn plain_files(written: Written, to: &mut impl Write) -> io::Result<()> {
    let each = (written.bytes / written.entries.max(1)).saturating_sub(BLOCK as u64);
    for n in 0..written.entries {
        to.write_all(&block(format!("f{n}").as_bytes(), b'0', each, b""))?;
        io::copy(&mut io::Read::take(io::repeat(7), each), to)?;
        let padding = each.next_multiple_of(BLOCK as u64) - each;
        io::copy(&mut io::Read::take(io::repeat(0), padding), to)?;
    }
    to.write_all(&[0; 2 * BLOCK])
}
