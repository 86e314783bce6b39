//! Damages that stand until somebody mends them, each to one activation, one image or one place: what is
//! done, what has to be named, and how it is mended, by hand or by our own commands.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tests::told::names_it;

use super::world::{Kept, REFERENCES, World};

/// Every kind, once in a deck.
pub(crate) const KINDS: &[Kind] = &[
    Kind::LinkGone,
    Kind::LinkRenamed,
    Kind::LinkElsewhere,
    Kind::LinkReplaced,
    Kind::TreeGone,
    Kind::LayerGone,
    Kind::Held,
    Kind::Mounted,
    Kind::ForeignVolume,
    Kind::ForeignNote,
    Kind::ForeignName,
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An activation's link is removed.
    LinkGone,
    /// It is renamed.
    LinkRenamed,
    /// It leads to another volume.
    LinkElsewhere,
    /// Something of somebody else's stands in its place.
    LinkReplaced,
    /// The tree of an activation is removed.
    TreeGone,
    /// The tree of a sealed layer is taken away.
    LayerGone,
    /// A process has a directory of an activation open.
    Held,
    /// Somebody else's directory is mounted inside of an activation.
    Mounted,
    /// A directory under an id that comes soon, or under the last of all.
    ForeignVolume,
    /// A file where the note of a coming id would be.
    ForeignNote,
    /// Something under a name that an activation may want.
    ForeignName,
}

/// The last thin id.
const ID_LAST: u32 = (1 << 24) - 1;

#[derive(Debug)]
pub(crate) struct Harm {
    pub(crate) kind: Kind,
    /// The activation.
    name: Option<String>,
    /// Its volume, or the layer, or the foreign one.
    volume: u32,
    images: Vec<usize>,
    /// What was put or moved where.
    path: PathBuf,
    away: PathBuf,
    holder: Option<Child>,
}

impl fmt::Display for Harm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name.as_deref().unwrap_or("-");
        write!(f, "{:?} {name} {} {}", self.kind, self.volume, self.path.display())
    }
}

impl Harm {
    /// Does one of this kind, where there is something left to do it to.
    pub(crate) fn inflict(kind: Kind, world: &mut World<'_>) -> Option<Harm> {
        let mut harm = Harm {
            kind,
            name: None,
            volume: 0,
            images: Vec::new(),
            path: PathBuf::new(),
            away: PathBuf::new(),
            holder: None,
        };
        match kind {
            Kind::LinkGone | Kind::LinkRenamed | Kind::LinkElsewhere | Kind::LinkReplaced => {
                harm.take_activation(world, true)?;
                harm.at_link(world);
            }
            Kind::TreeGone => {
                harm.take_activation(world, false)?;
                harm.path = world.volume(harm.volume);
                fs::remove_dir_all(&harm.path).unwrap();
            }
            Kind::LayerGone => harm.take_layer(world)?,
            Kind::Held => {
                harm.take_activation(world, true)?;
                harm.path = world.volume(harm.volume).join("srv");
                let mut holder = Command::new("sleep");
                let holder = holder.arg("1000000").current_dir(&harm.path).stdin(Stdio::null());
                harm.holder = Some(holder.spawn().unwrap());
            }
            Kind::Mounted => {
                harm.take_activation(world, true)?;
                harm.mount_inside(world);
            }
            Kind::ForeignVolume => {
                let next = world.next_id();
                let soon = next + u32::try_from(world.dice.roll(4)).unwrap();
                harm.volume = if world.dice.roll(6) == 0 { ID_LAST } else { soon };
                harm.path = world.volume(harm.volume);
                if harm.path.exists() {
                    return None;
                }
                world.plant_dir(&harm.path);
            }
            Kind::ForeignNote => {
                harm.volume = world.next_id() + u32::try_from(world.dice.roll(3)).unwrap();
                harm.path = world.store.join("notes").join(harm.volume.to_string());
                if harm.path.exists() {
                    return None;
                }
                let content = format!("somebody else's {}", world.dice.roll(1 << 30));
                fs::write(&harm.path, content).unwrap();
                let digest = super::world::digest_of(&harm.path);
                world.foreign.insert(harm.path.clone(), digest);
            }
            Kind::ForeignName => {
                let name = world.fresh("x");
                harm.path = world.link(&name);
                harm.away = PathBuf::from(name);
                world.plant(&harm.path);
            }
        }
        Some(harm)
    }

    fn take_activation(&mut self, world: &mut World<'_>, up: bool) -> Option<()> {
        let well = world.well();
        // One at least stays well.
        let mut may: Vec<String> = well.clone();
        may.retain(|name| !up || world.acts[name].up);
        let name = world.one_of(&may).filter(|_| well.len() > 1)?;
        self.volume = world.acts[&name].volume;
        self.name = Some(name);
        Some(())
    }

    fn at_link(&mut self, world: &mut World<'_>) {
        let name = self.name.clone().unwrap_or_default();
        self.path = world.link(&name);
        match self.kind {
            Kind::LinkRenamed => {
                let moved = world.fresh("moved");
                self.away = world.link(&moved);
                fs::rename(&self.path, &self.away).unwrap();
            }
            Kind::LinkElsewhere => {
                // Another activation's, or a sealed layer's.
                let others = world.well().into_iter().filter(|other| *other != name);
                let mut ids: Vec<u32> = others.map(|other| world.acts[&other].volume).collect();
                ids.extend(world.layers(2));
                let other = world.one_of(&ids).unwrap();
                fs::remove_file(&self.path).unwrap();
                let target = Path::new("../volumes").join(other.to_string());
                std::os::unix::fs::symlink(target, &self.path).unwrap();
            }
            Kind::LinkReplaced => {
                fs::remove_file(&self.path).unwrap();
                world.plant(&self.path);
            }
            _ => fs::remove_file(&self.path).unwrap(),
        }
    }

    /// A layer of the first two images: the third one is to stay well.
    fn take_layer(&mut self, world: &mut World<'_>) -> Option<()> {
        if world.standing.iter().any(|harm| harm.kind == Kind::LayerGone) {
            return None;
        }
        let of = usize::try_from(world.dice.roll(2)).unwrap();
        let layers = world.layers(of);
        self.volume = world.one_of(&layers)?;
        self.images = (0..2).filter(|image| world.layers(*image).contains(&self.volume)).collect();
        self.path = world.volume(self.volume);
        self.away = world.beside("layer");
        fs::rename(&self.path, &self.away).unwrap();
        Some(())
    }

    fn mount_inside(&mut self, world: &mut World<'_>) {
        self.away = world.beside("home");
        world.plant_dir(&self.away.clone());
        self.path = world.volume(self.volume).join("srv");
        let bound = Command::new("mount").arg("--bind").args([&self.away, &self.path]).status();
        assert!(bound.unwrap().success(), "mount --bind {}", self.path.display());
    }

    /// The activation that it is about.
    pub(crate) fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    pub(crate) fn images(&self) -> impl Iterator<Item = usize> + '_ {
        self.images.iter().copied()
    }

    /// After a rebuild an activation may have another name.
    pub(crate) fn renamed(&mut self, from: &str, to: &str) {
        if self.name.as_deref() == Some(from) {
            self.name = Some(to.to_owned());
        }
    }

    /// What `health` or `ls` has to name while it stands; none for what harms nobody.
    pub(crate) fn about(&self, world: &World<'_>) -> Option<Vec<String>> {
        let kept = self.name.as_ref().and_then(|name| world.acts.get(name));
        match self.kind {
            // Down, it needs no link.
            Kind::LinkReplaced if kept.is_some_and(|kept| !kept.up) => None,
            Kind::LinkGone
            | Kind::LinkRenamed
            | Kind::LinkElsewhere
            | Kind::LinkReplaced
            | Kind::TreeGone => self.name.clone().map(|name| vec![name]),
            Kind::LayerGone => {
                let mut about = vec![self.volume.to_string()];
                about.extend(self.images().map(|image| REFERENCES[image].to_owned()));
                Some(about)
            }
            Kind::Held
            | Kind::Mounted
            | Kind::ForeignVolume
            | Kind::ForeignNote
            | Kind::ForeignName => None,
        }
    }

    /// What is foreign under an id is told by who lists ids.
    pub(crate) fn foreign_id(&self) -> Option<u32> {
        (self.kind == Kind::ForeignVolume).then_some(self.volume)
    }

    /// The name that nobody may take meanwhile.
    pub(crate) fn taken_name(&self) -> Option<&str> {
        (self.kind == Kind::ForeignName).then(|| self.away.to_str()).flatten()
    }

    /// Whether it is so still: our own commands may have mended it.
    pub(crate) fn stands(&self, world: &World<'_>) -> bool {
        let kept = self.name.as_ref().map(|name| (name, world.acts.get(name)));
        match (self.kind, kept) {
            (_, Some((_, None))) if self.kind != Kind::LinkReplaced => {
                self.holder.is_some() || self.kind == Kind::Mounted
            }
            (Kind::LinkReplaced, _) => world.foreign.contains_key(&self.path),
            (
                Kind::LinkGone | Kind::LinkRenamed | Kind::LinkElsewhere,
                Some((name, Some(kept))),
            ) => world.link_is_right(name, kept.volume) != kept.up,
            (Kind::TreeGone, _) => !world.volume(self.volume).exists(),
            (Kind::LayerGone, _) => {
                let gone = !world.volume(self.volume).exists();
                gone && (0..2).any(|image| world.layers(image).contains(&self.volume))
            }
            _ => true,
        }
    }

    /// The operator mends it: by hand, or by our own commands as the guide has them.
    pub(crate) fn mend(self, world: &mut World<'_>) {
        let mut by_hand = world.dice.roll(2) == 0;
        if self.kind == Kind::LayerGone {
            // Removing what stands on it is for a time when none of that is damaged itself.
            let of = |kept: &Kept| self.images.contains(&kept.image);
            let kept = |harm: &Harm| harm.name().and_then(|name| world.acts.get(name));
            by_hand |= world.standing.iter().filter_map(kept).any(of);
        }
        let name = self.name.clone().unwrap_or_default();
        world.say(format!("mend {} {self}", if by_hand { "by hand" } else { "by command" }));
        match self.kind {
            Kind::LinkReplaced if by_hand => {
                let path = self.path.clone();
                world.move_away(&path);
                self.recovers(world);
            }
            Kind::LinkRenamed if by_hand => {
                // Unless a command of ours has taken the strange name away meanwhile.
                let stays = fs::symlink_metadata(&self.away).is_ok();
                let free = fs::symlink_metadata(&self.path).is_err();
                if stays && free && world.acts[&name].up {
                    fs::rename(&self.away, &self.path).unwrap();
                }
            }
            Kind::LinkGone | Kind::LinkRenamed | Kind::LinkElsewhere => self.recovers(world),
            Kind::LinkReplaced | Kind::TreeGone => self.removed(world),
            Kind::LayerGone if by_hand => fs::rename(&self.away, &self.path).unwrap(),
            Kind::LayerGone => self.built_anew(world),
            Kind::Held | Kind::Mounted => {
                self.removed_while_in_use(world, by_hand);
            }
            Kind::ForeignVolume | Kind::ForeignNote | Kind::ForeignName => {
                let path = self.path.clone();
                world.move_away(&path);
            }
        }
    }

    /// What it is about is as it should be after one more command.
    fn recovers(&self, world: &mut World<'_>) {
        let name = self.name.clone().unwrap_or_default();
        let Some(kept) = world.acts.get(&name).cloned() else { return };
        if kept.up {
            let words = ["activate", REFERENCES[kept.image], "--name", &name];
            let ran = world.run(&words);
            world.holds(ran.code == Some(0), || format!("no way out: {ran}"));
        } else {
            world.run(&["recover"]);
        }
        let right = world.link_is_right(&name, kept.volume) == kept.up;
        world.holds(right, || format!("{name} is not as it should be after that"));
    }

    /// A thing that is broken for good can be removed.
    fn removed(&self, world: &mut World<'_>) {
        let name = self.name.clone().unwrap_or_default();
        let ran = world.run(&["rm", &name]);
        if ran.code == Some(0) {
            world.acts.remove(&name);
            let gone = !world.volume(self.volume).exists();
            world.holds(gone, || format!("{name} is gone and its volume is not"));
            world.foreign_is_as_it_was();
            let path = self.path.clone();
            world.move_away(&path);
            return;
        }
        // What stands in the way is somebody else's: then it is named, and nothing has changed.
        let place = self.path.display().to_string();
        let named = ran.err.contains(&place) || names_it(&ran.err, &name);
        world.holds(self.kind == Kind::LinkReplaced && named, || format!("no way out: {ran}"));
        let whole = world.volume(self.volume).join("mark").exists();
        world.holds(whole, || format!("refused, and yet {name} has lost its volume: {ran}"));
        let path = self.path.clone();
        world.move_away(&path);
        self.recovers(world);
    }

    /// `verify` finds it, and the next `ensure` builds it under another id.
    fn built_anew(&self, world: &mut World<'_>) {
        let found = world.run(&["verify"]);
        let told = names_it(&found.out, &self.volume.to_string());
        world.holds(found.code == Some(1) && told, || format!("verify does not find it: {found}"));
        for image in self.images() {
            let ran = world.run(&["ensure", REFERENCES[image]]);
            world.holds(ran.code == Some(0), || format!("no way out: {ran}"));
            let used = world.layers(image).contains(&self.volume);
            world.holds(!used, || format!("volume {} is bad and used again", self.volume));
        }
        // What was handed out of it stays until its owner has taken out what he needs.
        let of = |kept: &Kept| self.images.contains(&kept.image);
        let old: Vec<String> =
            world.acts.iter().filter(|(_, kept)| of(kept)).map(|(name, _)| name.clone()).collect();
        for name in old {
            let ran = world.run(&["rm", &name]);
            world.holds(ran.code == Some(0), || format!("no way out: {ran}"));
            world.acts.remove(&name);
        }
        world.must(&["gc"]);
    }

    /// Somebody is at work in it: it goes at once, or is refused at once and stays whole; and it goes
    /// when nobody is any more.
    fn removed_while_in_use(mut self, world: &mut World<'_>, by_hand: bool) {
        let name = self.name.clone().unwrap_or_default();
        if !by_hand && world.acts.contains_key(&name) {
            let ran = world.run(&["rm", &name]);
            if ran.code == Some(0) {
                world.acts.remove(&name);
            } else {
                let named = ran.code == Some(111) && names_it(&ran.err, &name);
                world.holds(named && !ran.waited(), || format!("not refused at once: {ran}"));
            }
        }
        self.end();
        world.untouched();
    }

    fn end(&mut self) {
        if let Some(mut holder) = self.holder.take() {
            drop(holder.kill());
            drop(holder.wait());
        }
        if self.kind == Kind::Mounted {
            drop(Command::new("umount").arg("-l").arg(&self.path).status());
        }
    }

    /// At the end of the search, whatever it came to.
    pub(crate) fn let_go(mut self) {
        self.end();
    }
}
