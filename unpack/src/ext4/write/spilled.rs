//! Tests: whether names are in memory or in runs changes nothing that anybody sees.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use tar::{Builder, EntryType, Header};

use crate::archive::pipeline;
use crate::ext4::apply::{Before, finish, make_blank};
use crate::ext4::format::geometry::Geometry;
use crate::ext4::format::hash::{HASH_SEED, half_md4};
use crate::ext4::write::entry::Entry;
use crate::ext4::write::image::Image;
use crate::ext4::write::names::Names;
use crate::limits::Limits;
use crate::record::place::{Spill, unnamed_file};
use crate::tree::apply::{Work, write};

/// A seeded source of numbers.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        usize::try_from(self.0 >> 33).unwrap() % n
    }
}

fn spill() -> Arc<Spill> {
    Spill::new(unnamed_file(None).unwrap().expect("TMPDIR, /var/tmp or /tmp"), 1 << 30)
}

/// All that can be asked of names, beside a plain map.
#[test]
fn names_are_what_was_said_of_them_last() {
    for most in [1, 5, 64, 1000] {
        let mut names = Names::small(spill(), most);
        let mut plain: BTreeMap<(u32, u32, Vec<u8>), Entry> = BTreeMap::new();
        let mut dice = Dice(most as u64);
        for inode in 0..6000 {
            let directory = 2 + u32::try_from(dice.below(40)).unwrap();
            let name = format!("{:01$}", dice.below(120), dice.below(9));
            let key = (directory, half_md4(name.as_bytes(), HASH_SEED), name.clone().into_bytes());
            let known = names.get(directory, name.as_bytes()).unwrap();
            assert_eq!(known, plain.get(&key).copied(), "{most}: {directory} {name}");
            if dice.below(3) > 0 {
                let inode = if dice.below(5) == 0 { 0 } else { inode };
                let entry = Entry { inode, kind: 1 };
                names.set(directory, name.as_bytes(), entry).unwrap();
                plain.insert(key, entry);
            }
        }
        assert!(names.run_count() > 0, "{most}");
        // Merged so often that there are a few for every factor of eight.
        assert!(names.run_count() < 8 * 5, "{most}: {}", names.run_count());
        for directory in 0..50 {
            let mut got = BTreeMap::new();
            let mut after = None;
            while let Some(last) = {
                let some = names.in_runs(directory, after.as_ref()).unwrap();
                for row in &some {
                    assert_eq!(row.directory(), directory);
                    if !names.is_fresh(directory, &row.name) {
                        let key = (directory, row.hash(), row.name.clone());
                        assert_eq!(got.insert(key, row.entry), None);
                    }
                }
                some.last().map(|row| (row.hash(), row.name.clone()))
            } {
                after = Some(last);
            }
            let mut chain = names.chain(directory);
            while let Some((name, entry)) = names.next(&mut chain) {
                let key = (directory, half_md4(name, HASH_SEED), name.to_vec());
                assert_eq!(got.insert(key, entry), None);
            }
            let wanted = plain.iter().filter(|(key, _)| key.0 == directory);
            assert!(wanted.eq(got.iter()), "{most}: {directory}");
        }
        let mut all = names.in_order().unwrap();
        // Those of some directories are asked for, as those that were removed are not.
        for directory in (0..50).filter(|directory| directory % 3 != 1) {
            let mut wanted = plain.iter().filter(|(key, _)| key.0 == directory);
            while all.of(directory).unwrap().is_some() {
                let row = all.take();
                let got = (&(row.directory(), row.hash(), row.name.clone()), &row.entry);
                assert_eq!(wanted.next(), Some(got), "{most}");
            }
            assert_eq!(wanted.next(), None, "{most}: {directory}");
        }
    }
}

/// A layer that meets what is below it, and itself: paths of few parts, and a wide directory.
fn layer(dice: &mut Dice, entries: usize) -> Vec<u8> {
    let mut tar = Builder::new(Vec::new());
    let mut files: Vec<String> = Vec::new();
    for _ in 0..entries {
        let parts = ["a", "b", "c"];
        let depth = dice.below(4);
        let mut dir: String = (0..depth).map(|_| [parts[dice.below(3)], "/"].concat()).collect();
        if dice.below(3) == 0 {
            dir = "wide/".into();
        }
        let name = format!("{dir}{}", dice.below(if dir == "wide/" { 400 } else { 4 }));
        let mut header = Header::new_ustar();
        header.set_mode(0o644);
        header.set_size(0);
        if dice.below(60) == 0 {
            // What was a directory gives way, and is a directory again.
            let name = if dir == "wide/" { "wide".into() } else { format!("{dir}a") };
            files.clear();
            tar.append_data(&mut header, &name, &[][..]).unwrap();
            header.set_entry_type(EntryType::Directory);
            tar.append_data(&mut header, &name, &[][..]).unwrap();
            continue;
        }
        match dice.below(16) {
            0..8 => {
                let body = vec![b'b'; dice.below(5000)];
                header.set_size(body.len() as u64);
                tar.append_data(&mut header, &name, &*body).unwrap();
                files.push(name);
            }
            8 | 9 => {
                header.set_entry_type(EntryType::Directory);
                let name = if dice.below(3) == 0 { name } else { format!("{dir}a") };
                tar.append_data(&mut header, &name, &[][..]).unwrap();
            }
            10 => {
                header.set_entry_type(EntryType::Symlink);
                tar.append_link(&mut header, &name, "t/".repeat(40)).unwrap();
            }
            11 | 12 if !files.is_empty() => {
                header.set_entry_type(EntryType::Link);
                let target = &files[dice.below(files.len())];
                tar.append_link(&mut header, &name, target).unwrap();
            }
            13 => {
                let hidden = dice.below(if dir == "wide/" { 400 } else { 4 });
                let hidden = if dice.below(6) == 0 { "a".into() } else { hidden.to_string() };
                tar.append_data(&mut header, format!("{dir}.wh.{hidden}"), &[][..]).unwrap();
            }
            14 if dice.below(4) == 0 => {
                tar.append_data(&mut header, format!("{dir}.wh..wh..opq"), &[][..]).unwrap();
            }
            _ => {
                let name = format!("{dir}deep/{}/f", dice.below(30));
                tar.append_data(&mut header, &name, &[][..]).unwrap();
            }
        }
    }
    tar.into_inner().unwrap()
}

/// Applies a layer with so many names in memory. Says what was refused.
fn apply(file: &File, layer: &[u8], most: usize) -> Result<(), String> {
    let limits = Limits::default();
    let spill = spill();
    let mut image = Image::open(file.try_clone().unwrap(), Some(spill.clone())).unwrap();
    image.names = Names::small(spill.clone(), most);
    let work = Work { manifest: None, spill: Some(spill), alone: false };
    let apply = |archive: crate::archive::Archive<'_, _>, digests| {
        write(archive, digests, image, &limits, work)
    };
    let done = pipeline::run(layer, &limits, apply, |(done, _)| done.entries);
    let ((mut applied, _), blob, diff) = done.map_err(|error| error.to_string())?;
    applied.sealed(&blob, &diff);
    finish(file, &limits, &applied).unwrap();
    Ok(())
}

/// What is in runs changes no byte, and no refusal.
#[test]
fn an_image_is_the_same_however_few_names_are_in_memory() {
    let (mut refused, mut applied) = (0, 0);
    for seed in 0..8 {
        let geometry = Geometry::new(24 << 20, 2048, 8000, 1 << 20).unwrap();
        let images: Vec<(usize, File)> = [1 << 15, 2, 40]
            .map(|most| {
                let file = tempfile::tempfile().unwrap();
                file.set_len(24 << 20).unwrap();
                make_blank(&file, geometry, Before::Unknown).unwrap();
                (most, file)
            })
            .into();
        let mut dice = Dice(seed);
        for number in 0..3 {
            let entries = 20 + dice.below(500);
            let layer = layer(&mut dice, entries);
            let mut said = images.iter().map(|(most, file)| apply(file, &layer, *most));
            let first = said.next().unwrap();
            for other in said {
                assert_eq!(first, other, "seed {seed}, layer {number}");
            }
            let bytes = |file: &File| {
                let mut bytes = vec![0; 24 << 20];
                file.read_exact_at(&mut bytes, 0).unwrap();
                bytes
            };
            let all = bytes(&images[0].1);
            applied += 1;
            if first.is_err() {
                refused += 1;
                break;
            }
            for (most, file) in &images[1..] {
                assert!(all == bytes(file), "seed {seed}, layer {number}, {most} names in memory");
            }
        }
    }
    assert!(refused * 2 < applied && applied > 12, "{refused} of {applied}");
}
