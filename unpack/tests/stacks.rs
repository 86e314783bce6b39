//! Random stacks of layers, to a directory and to an image: equal trees, digests and refusals, and e2fsck has
//! no word against the image. The long form is `just soak-images`.

mod forge;
mod fuzzer;

use forge::{Head, Pen, Tar, octal, tar};
use fuzzer::Dice;
use unpack::{Geometry, Limits};

/// A path of a few that meet one another, or one of many in a wide directory.
fn path(dice: &mut Dice) -> String {
    const DIRS: [&str; 4] = ["a", "b", "c", "\u{e9}\u{e9}"];
    const LEAVES: [&str; 6] = ["f", "g", "h", "link", "x.y", "\u{fc}"];
    if dice.below(4) == 0 {
        return format!("wide/{}{}", dice.below(600), "n".repeat(dice.below(200)));
    }
    let mut parts: Vec<&str> = (0..dice.below(4)).map(|_| DIRS[dice.below(4)]).collect();
    // Now and then what is a directory elsewhere becomes something else, and the other way round.
    let leaf = if dice.below(25) == 0 { DIRS[dice.below(4)] } else { LEAVES[dice.below(6)] };
    parts.push(leaf);
    parts.join("/")
}

/// Before an entry, sometimes, attributes: so many and so large that each form is met.
fn attributes(tar: Tar, dice: &mut Dice) -> Tar {
    if dice.below(6) != 0 {
        return tar;
    }
    let long = vec![b'v'; dice.below(900)];
    let short = vec![b's'; dice.below(60)];
    tar.pax(&[("SCHILY.xattr.user.long", &long), ("SCHILY.xattr.user.s", &short)])
}

fn entry(tar: Tar, dice: &mut Dice, made: &mut Vec<String>) -> Tar {
    let name = path(dice);
    let owner = |dice: &mut Dice, head: &mut Head| {
        head.uid = octal(dice.roll() % 70_000, 8);
        head.gid = octal(dice.roll() % 3, 8);
        head.mode = octal([0o644, 0o755, 0o4755, 0o2711, 0o1777, 0][dice.below(6)], 8);
        head.mtime = octal(dice.roll() % (1 << 33), 12);
    };
    match dice.below(20) {
        0..8 => {
            let most = [0, 1, 100, 4095, 4096, 4097, 20_000, 300_000][dice.below(8)];
            let body = vec![b'b'; dice.below(most + 1)];
            let tar = attributes(tar, dice);
            made.push(name.clone());
            tar.with(Head::new(name, b'0', body.len() as u64), body, |head| owner(dice, head))
        }
        8..11 => {
            let tar = attributes(tar, dice);
            let name = name.rsplit_once('/').map_or("d", |(dir, _)| dir);
            tar.with(Head::new(name, b'5', 0), "", |head| owner(dice, head))
        }
        11 => tar.sym(name, path(dice)),
        12 => {
            let target = "t/".repeat(20 + dice.below(60));
            tar.pax(&[("linkpath", target.as_bytes())]).sym(name, "t")
        }
        13 => match made.get(dice.below(made.len() + 1)) {
            Some(target) => tar.hard(name, target),
            None => tar,
        },
        14 => tar.node("node", b'3', 1, 3),
        15 => tar.with(Head::new(name, b'6', 0), "", |head| owner(dice, head)),
        16 => {
            let (dir, name) = name.rsplit_once('/').unwrap_or(("", &name));
            let slash = if dir.is_empty() { "" } else { "/" };
            tar.file(format!("{dir}{slash}.wh.{name}"), "")
        }
        17 => tar.file(format!("{name}/.wh..wh..opq"), ""),
        18 => {
            let mut tar = tar;
            for _ in 0..dice.below(40) {
                tar = tar.file(format!("wide/{}", dice.below(3000)), "w");
            }
            tar
        }
        _ => tar.file(format!("deep/{}f", "p/".repeat(dice.below(40))), "deep"),
    }
}

fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|e| panic!("{name} {text:?}: {e}")),
        Err(_) => default,
    }
}

#[test]
fn random_stacks_are_the_same_in_an_image_and_in_a_directory() {
    let (stacks, seed) = (number("VENEER_STACKS", 60), number("VENEER_SEED", 20_261_129));
    let (mut layers, mut refused) = (0u64, 0u64);
    for stack in 0..stacks {
        let mut dice = Dice((seed + stack).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let pen = Pen::new();
        let mut made = Vec::new();
        for _ in 0..1 + dice.below(5) {
            let mut layer = tar();
            for _ in 0..1 + dice.below(60) {
                layer = entry(layer, &mut dice, &mut made);
            }
            layers += 1;
            // What is refused is compared by the pen; the tree is worth nothing then.
            if let Err(error) = pen.apply(&layer.end(), &Limits::default()) {
                refused += 1;
                assert!(error.class().is_some(), "stack {stack}: {error:?}");
                break;
            }
        }
    }
    println!("{stacks} stacks, {layers} layers, {refused} refused; seed {seed}");
    assert!(stacks < 20 || (refused > 0 && refused < layers * 4 / 5), "{refused} of {layers}");
}

/// The same with an image that is small and becomes larger, where a layer does not fit and at any time.
#[test]
fn random_stacks_are_the_same_in_an_image_that_grows() {
    let (stacks, seed) = (number("VENEER_STACKS", 60) / 3, number("VENEER_SEED", 20_261_130));
    let (mut layers, mut doublings) = (0, 0);
    for stack in 0..stacks {
        let mut dice = Dice((seed + stack).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let (block, align) = ([2048, 4096][dice.below(2)], [1 << 16, 1 << 20][dice.below(2)]);
        let bytes = (8 + dice.roll() % 40) << 20 | (dice.roll() % 256) << 12;
        let inodes = 100 + dice.roll() % 1000;
        let Ok(geometry) = Geometry::new(bytes, block, inodes, align) else { continue };
        let pen = Pen::growing(geometry);
        let mut made = Vec::new();
        for _ in 0..2 + dice.below(6) {
            if dice.below(6) == 0 && pen.doublings() < 3 {
                pen.grow();
            }
            let mut layer = tar();
            for _ in 0..1 + dice.below(25) {
                layer = entry(layer, &mut dice, &mut made);
            }
            if dice.below(2) == 0 {
                let body = vec![b'l'; dice.below(24 << 20)];
                layer = layer.file(format!("large{}", dice.below(4)), body);
            }
            layers += 1;
            if pen.apply(&layer.end(), &Limits::default()).is_err() {
                break;
            }
            doublings += u64::from(pen.doublings() > 0);
        }
    }
    println!("{stacks} stacks, {layers} layers, {doublings} of them in images that had grown");
    assert!(stacks < 20 || doublings > stacks, "{doublings} of {layers}");
}
