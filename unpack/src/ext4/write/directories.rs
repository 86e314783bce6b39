//! The directories that a layer has come to: a byte for each, so that a million of them are a megabyte. Pure.

use std::collections::BTreeMap;

/// Numbers in one piece; those of directories lie close together.
const PIECE: u32 = 64;

const KNOWN: u8 = 1;
const LOWER: u8 = 2;
const CHANGED: u8 = 4;

/// A directory that the layer has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Directory {
    /// Whether names that lie in the image already may be in it.
    pub(crate) lower: bool,
    /// Whether it has to be written again.
    pub(crate) changed: bool,
}

/// See the module. What was removed is not among them.
#[derive(Debug, Default)]
pub(crate) struct Directories(BTreeMap<u32, [u8; PIECE as usize]>);

impl Directories {
    pub(crate) fn get(&self, number: u32) -> Option<Directory> {
        let piece = self.0.get(&(number / PIECE))?;
        of_flags(piece[(number % PIECE) as usize])
    }

    pub(crate) fn set(&mut self, number: u32, directory: Directory) {
        let lower = if directory.lower { LOWER } else { 0 };
        let changed = if directory.changed { CHANGED } else { 0 };
        *self.flags(number) = KNOWN | lower | changed;
    }

    /// Takes note of one that lies in the image, if nothing is known of it.
    pub(crate) fn enter(&mut self, number: u32) {
        let flags = self.flags(number);
        if *flags == 0 {
            *flags = KNOWN | LOWER;
        }
    }

    pub(crate) fn remove(&mut self, number: u32) {
        *self.flags(number) = 0;
    }

    /// One that is known has to be written again.
    pub(crate) fn change(&mut self, number: u32) {
        let flags = self.flags(number);
        if *flags != 0 {
            *flags |= CHANGED;
        }
    }

    fn flags(&mut self, number: u32) -> &mut u8 {
        let piece = self.0.entry(number / PIECE).or_insert([0; PIECE as usize]);
        &mut piece[(number % PIECE) as usize]
    }

    /// Those that have to be written, in the order of their numbers.
    pub(crate) fn changed(&self) -> impl Iterator<Item = (u32, Directory)> {
        let numbered =
            |(&piece, flags): (&u32, _)| (0..PIECE).map(move |n| piece * PIECE + n).zip(flags);
        let all = self.0.iter().flat_map(numbered);
        let known = all.filter_map(|(number, &flags)| Some((number, of_flags(flags)?)));
        known.filter(|(_, directory)| directory.changed)
    }
}

fn of_flags(flags: u8) -> Option<Directory> {
    let directory = Directory { lower: flags & LOWER != 0, changed: flags & CHANGED != 0 };
    (flags & KNOWN != 0).then_some(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_of_each_is_what_was_said() {
        let mut all = Directories::default();
        for number in [2, 63, 64, 5000, u32::MAX] {
            assert_eq!(all.get(number), None);
            all.enter(number);
            assert_eq!(all.get(number), Some(Directory { lower: true, changed: false }));
        }
        all.change(64);
        all.set(5000, Directory { lower: false, changed: true });
        all.enter(5000);
        all.change(3);
        all.remove(2);
        let lower = |lower| Directory { lower, changed: true };
        let changed: Vec<_> = all.changed().collect();
        assert_eq!(changed, [(64, lower(true)), (5000, lower(false))]);
        assert_eq!((all.get(2), all.get(3)), (None, None));
    }
}
