//! Damages on a pool that stand until somebody mends them: what is done, what has to be named, and how it
//! is mended, by hand or by our own commands. Not a scenario.

use std::fmt;
use std::fs::File;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::wedge_host::{Kept, NAMES, REFERENCES, Wedge};
use crate::guest::{Cmd, Ran, Running};
use crate::told::names_it;

/// Every kind, once in a deck.
pub(crate) const KINDS: &[Kind] = &[
    Kind::Held,
    Kind::Renamed,
    Kind::Removed,
    Kind::NameTaken,
    Kind::ThinGone,
    Kind::LayerGone,
    Kind::LayerLookedAt,
    Kind::ForeignName,
    Kind::ForeignThin,
    Kind::ForeignActive,
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An activation is mounted in another mount namespace.
    Held,
    /// Its device is renamed.
    Renamed,
    /// Its device is removed.
    Removed,
    /// Its device is removed, and another of somebody else's has its name.
    NameTaken,
    /// Its thin is deleted.
    ThinGone,
    /// A sealed layer is deleted.
    LayerGone,
    /// A sealed layer is mapped read-only by hand, and open.
    LayerLookedAt,
    /// A device of somebody else's has a name that an activation may want.
    ForeignName,
    /// A thin of somebody else's has a coming id, and data.
    ForeignThin,
    /// And one that is mapped.
    ForeignActive,
}

pub(crate) struct Harm {
    pub(crate) kind: Kind,
    name: Option<String>,
    volume: u32,
    images: Vec<usize>,
    /// The device that was made or renamed for it.
    device: String,
    /// Whether that has a uuid of ours.
    known: bool,
    holder: Option<Running>,
    open: Option<File>,
}

impl fmt::Display for Harm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name.as_deref().unwrap_or("-");
        write!(f, "{:?} {name} {} {}", self.kind, self.volume, self.device)
    }
}

impl Harm {
    /// Does one of this kind, where there is something left to do it to.
    pub(crate) fn inflict(kind: Kind, wedge: &mut Wedge<'_>) -> Result<Option<Harm>> {
        let (images, device) = (Vec::new(), String::new());
        let (name, volume, holder, open) = (None, 0, None, None);
        let mut harm = Harm { kind, name, volume, images, device, known: true, holder, open };
        let there = match kind {
            Kind::Held | Kind::Renamed | Kind::Removed | Kind::NameTaken | Kind::ThinGone => {
                harm.hurt_activation(wedge)?
            }
            Kind::LayerGone | Kind::LayerLookedAt => harm.hurt_layer(wedge)?,
            Kind::ForeignName => {
                harm.device = wedge.fresh("x");
                wedge.plant_device(&harm.device)?;
                true
            }
            Kind::ForeignThin | Kind::ForeignActive => harm.foreign_thin(wedge)?,
        };
        Ok(there.then_some(harm))
    }

    fn hurt_activation(&mut self, wedge: &mut Wedge<'_>) -> Result<bool> {
        let mut may = wedge.well();
        // One at least stays well.
        if may.len() < 2 {
            return Ok(false);
        }
        may.retain(|name| wedge.acts[name].up);
        let Some(name) = wedge.one_of(&may) else { return Ok(false) };
        self.volume = wedge.acts[&name].volume;
        self.name = Some(name.clone());
        match self.kind {
            Kind::Held => self.hold(wedge, &name)?,
            Kind::Renamed => {
                self.device = wedge.fresh("moved");
                wedge.dmsetup(&["rename", &name, &self.device])?.expect(0)?;
            }
            Kind::NameTaken => {
                wedge.dmsetup(&["remove", &name])?.expect(0)?;
                self.device.clone_from(&name);
                wedge.plant_device(&name)?;
            }
            Kind::ThinGone => {
                wedge.dmsetup(&["remove", &name])?.expect(0)?;
                delete(wedge, self.volume)?;
            }
            _ => drop(wedge.dmsetup(&["remove", &name])?.expect(0)?),
        }
        Ok(true)
    }

    /// As a container would have it: a mount that only its own namespace sees.
    fn hold(&mut self, wedge: &Wedge<'_>, name: &str) -> Result<()> {
        let point = wedge.scratch().join(format!("held-{name}"));
        std::fs::create_dir_all(&point)?;
        let script = format!(
            "mount -t ext4 /dev/mapper/{name} {point} && echo y > {point}.is && exec sleep 1000000",
            point = point.display()
        );
        let sign = point.with_extension("is");
        drop(std::fs::remove_file(&sign));
        self.holder = Some(Cmd::new("unshare").args(["-m", "sh", "-c", &script]).spawn()?);
        crate::guest::daemon::wait(|| Ok(sign.exists()))
    }

    /// A layer that the third image has not: that one is to stay well.
    fn hurt_layer(&mut self, wedge: &mut Wedge<'_>) -> Result<bool> {
        if wedge.standing.iter().any(|harm| !harm.images.is_empty()) {
            return Ok(false);
        }
        let (one, two, kept) = (wedge.layers(0)?, wedge.layers(1)?, wedge.layers(2)?);
        let mut all: Vec<u32> = one.iter().chain(&two).copied().collect();
        all.retain(|id| !kept.contains(id));
        let Some(volume) = wedge.one_of(&all) else { return Ok(false) };
        self.volume = volume;
        self.images = if one.contains(&volume) { vec![0] } else { Vec::new() };
        self.images.extend(two.contains(&volume).then_some(1));
        if self.kind == Kind::LayerGone {
            delete(wedge, volume)?;
            return Ok(true);
        }
        self.device = wedge.fresh("look");
        // By our own program, which gives it a uuid, or by dmsetup, by which nobody can know it for ours.
        self.known = wedge.dice.roll(2) == 0;
        if self.known {
            let words = ["activate", &volume.to_string(), &self.device, "--size", "4G", "--ro"];
            wedge.thin(&words)?.expect(0)?;
        } else {
            let table = format!("0 131072 thin /dev/mapper/veneer {volume}");
            let words = ["create", &self.device, "--readonly", "--table", &table];
            wedge.dmsetup(&words)?.expect(0)?;
        }
        self.open = Some(File::open(format!("/dev/mapper/{}", self.device))?);
        Ok(true)
    }

    fn foreign_thin(&mut self, wedge: &mut Wedge<'_>) -> Result<bool> {
        self.volume = wedge.next_id()? + u32::try_from(wedge.dice.roll(3))?;
        if wedge.ids()?.contains(&self.volume) {
            return Ok(false);
        }
        wedge.plant_thin(self.volume)?;
        if self.kind == Kind::ForeignActive {
            self.device = wedge.fresh("theirs");
            let table = format!("0 2048 thin /dev/mapper/veneer {}", self.volume);
            wedge.dmsetup(&["create", &self.device, "--table", &table])?.expect(0)?;
        }
        Ok(true)
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
    pub(crate) fn about(&self, wedge: &Wedge<'_>) -> Option<Vec<String>> {
        let kept = self.name.as_ref().and_then(|name| wedge.acts.get(name));
        match self.kind {
            // Down, it needs no name.
            Kind::NameTaken if kept.is_some_and(|kept| !kept.up) => None,
            Kind::Renamed | Kind::Removed | Kind::NameTaken | Kind::ThinGone => {
                self.name.clone().map(|name| vec![name])
            }
            Kind::LayerLookedAt if !self.known => None,
            Kind::LayerGone | Kind::LayerLookedAt => {
                let mut about = vec![self.volume.to_string(), self.device.clone()];
                about.retain(|word| !word.is_empty());
                about.extend(self.images().map(|image| REFERENCES[image].to_owned()));
                Some(about)
            }
            Kind::Held | Kind::ForeignName | Kind::ForeignThin | Kind::ForeignActive => None,
        }
    }

    /// What is foreign under an id is told by who lists ids.
    pub(crate) fn foreign_id(&self) -> Option<u32> {
        matches!(self.kind, Kind::ForeignThin | Kind::ForeignActive).then_some(self.volume)
    }

    /// The name that nobody may take meanwhile.
    pub(crate) fn taken_name(&self) -> Option<&str> {
        (self.kind == Kind::ForeignName).then_some(self.device.as_str())
    }

    /// Whether it is so still: our own commands may have mended it.
    pub(crate) fn stands(&self, wedge: &mut Wedge<'_>) -> Result<bool> {
        let kept = self.name.as_ref().map(|name| (name, wedge.acts.get(name).cloned()));
        Ok(match (self.kind, kept) {
            (Kind::Held | Kind::NameTaken, _) => true,
            (_, Some((_, None))) => false,
            (Kind::Renamed | Kind::Removed, Some((name, Some(kept)))) => {
                let elsewhere = self.kind == Kind::Renamed && device_is(wedge, &self.device)?;
                wedge.is_up(name, kept.volume)? != kept.up || elsewhere
            }
            (Kind::LayerGone, _) => {
                let mut used = false;
                for image in 0..2 {
                    used |= wedge.layers(image)?.contains(&self.volume);
                }
                used && !wedge.ids()?.contains(&self.volume)
            }
            _ => true,
        })
    }

    /// The operator mends it: by hand, or by our own commands as the guide has them.
    pub(crate) fn mend(mut self, wedge: &mut Wedge<'_>) -> Result<()> {
        let by_hand = wedge.dice.roll(2) == 0;
        let name = self.name.clone().unwrap_or_default();
        eprintln!("mend {} {self}", if by_hand { "by hand" } else { "by command" });
        match self.kind {
            Kind::Held => self.removed_while_held(wedge, &name, by_hand)?,
            Kind::Renamed if by_hand => {
                if device_is(wedge, &self.device)? && !device_is(wedge, &name)? {
                    wedge.dmsetup(&["rename", &self.device, &name])?.expect(0)?;
                }
                recovers(wedge, &name)?;
            }
            Kind::Renamed | Kind::Removed => recovers(wedge, &name)?,
            Kind::NameTaken if by_hand => {
                wedge.remove_device(&name)?;
                recovers(wedge, &name)?;
            }
            // The thin can go, and the device that has its name is left alone.
            Kind::NameTaken => {
                removed(wedge, &name, self.volume)?;
                wedge.foreign_is_as_it_was()?;
                wedge.remove_device(&name)?;
            }
            Kind::ThinGone => removed(wedge, &name, self.volume)?,
            Kind::LayerGone => {
                // Removing what stands on it is for a time when none of that is damaged itself.
                for harm in std::mem::take(&mut wedge.standing) {
                    harm.mend(wedge)?;
                }
                self.built_anew(wedge)?;
            }
            Kind::LayerLookedAt => {
                self.open = None;
                // Unless a command of ours has: nobody wrote by it.
                ensure!(device_is(wedge, &self.device)?, "{} was taken away", self.device);
                wedge.dmsetup(&["remove", &self.device])?.expect(0)?;
            }
            Kind::ForeignName => {
                let device = self.device.clone();
                wedge.remove_device(&device)?;
            }
            Kind::ForeignThin | Kind::ForeignActive => {
                if self.kind == Kind::ForeignActive {
                    let there = device_is(wedge, &self.device)?;
                    ensure!(there, "{} is not ours, and is gone", self.device);
                    wedge.dmsetup(&["remove", &self.device])?.expect(0)?;
                }
                wedge.foreign_is_as_it_was()?;
                wedge.remove_thin(self.volume)?;
            }
        }
        Ok(())
    }

    /// Refused at once, with who holds it, and nothing has changed; gone as soon as it is let go.
    fn removed_while_held(
        &mut self,
        wedge: &mut Wedge<'_>,
        name: &str,
        by_hand: bool,
    ) -> Result<()> {
        let verb = if wedge.dice.roll(2) == 0 { "rm" } else { "deactivate" };
        if !by_hand {
            let begun = wedge.pool_shape()?;
            let ran = wedge.run(&[verb, name])?;
            let holder = self.holder.as_ref().map(|holder| holder.id().to_string());
            let named = ran.stderr.contains("held-") || names_it(&ran.stderr, name);
            ensure!(ran.code == Some(111) && named, "held by {holder:?}, and not so told: {ran}");
            ensure!(!ran.stderr.contains("again in "), "waited for people: {ran}");
            ensure!(!ran.stderr.contains("recover:"), "left half done: {ran}");
            ensure!(begun == wedge.pool_shape()?, "refused, and the pool moved: {ran}");
            let line = wedge.must(&["show", name])?;
            ensure!(line["activation"]["state"] == "active", "refused, and condemned: {line}");
        }
        self.end()?;
        wedge.reads_right(name)?;
        if !by_hand && verb == "rm" {
            removed(wedge, name, self.volume)?;
        }
        Ok(())
    }

    /// `verify` finds it, and the next `ensure` builds it under another id.
    fn built_anew(&self, wedge: &mut Wedge<'_>) -> Result<()> {
        let found = wedge.run(&["verify"])?;
        let told = names_it(found.text()?, &self.volume.to_string());
        ensure!(found.code == Some(1) && told, "verify does not find {}: {found}", self.volume);
        for image in self.images() {
            way_out(wedge.run(&["ensure", REFERENCES[image]])?)?;
            let used = wedge.layers(image)?.contains(&self.volume);
            ensure!(!used, "volume {} is bad and used again", self.volume);
        }
        // What was handed out of it stays until its owner has taken out what he needs.
        let of = |kept: &Kept| self.images.contains(&kept.image);
        let old: Vec<String> =
            wedge.acts.iter().filter(|(_, kept)| of(kept)).map(|(name, _)| name.clone()).collect();
        for name in old {
            way_out(wedge.run(&["rm", &name])?)?;
            wedge.acts.remove(&name);
        }
        wedge.must(&["gc"])?;
        Ok(())
    }

    /// Nobody holds anything any more.
    pub(crate) fn end(&mut self) -> Result<()> {
        self.open = None;
        if let Some(mut holder) = self.holder.take() {
            holder.kill()?;
            holder.wait()?;
            // The namespace goes after the process that was the last in it.
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }
}

fn delete(wedge: &Wedge<'_>, volume: u32) -> Result<()> {
    let message = format!("delete {volume}");
    wedge.dmsetup(&["message", "veneer", "0", &message])?.expect(0)?;
    Ok(())
}

fn device_is(wedge: &Wedge<'_>, name: &str) -> Result<bool> {
    Ok(wedge.dmsetup(&["info", "-c", "--noheadings", "-o", "name", name])?.code == Some(0))
}

fn way_out(ran: Ran) -> Result<Ran> {
    ensure!(ran.code == Some(0), "no way out: {ran}");
    Ok(ran)
}

/// What it is about is as it should be after one more command.
fn recovers(wedge: &mut Wedge<'_>, name: &str) -> Result<()> {
    let Some(kept) = wedge.acts.get(name).cloned() else { return Ok(()) };
    if kept.up {
        way_out(wedge.run(&["activate", REFERENCES[kept.image], "--name", name])?)?;
    } else {
        wedge.run(&["recover"])?;
    }
    let up = wedge.is_up(name, kept.volume)?;
    ensure!(up == kept.up, "{name} should be up: {}, and is: {up}", kept.up);
    Ok(())
}

/// A thing that is broken for good can be removed, and then is.
fn removed(wedge: &mut Wedge<'_>, name: &str, volume: u32) -> Result<()> {
    way_out(wedge.run(&["rm", name])?)?;
    wedge.acts.remove(name);
    ensure!(!wedge.ids()?.contains(&volume), "{name} is gone, and thin {volume} is not");
    Ok(())
}

/// A name for an activation that no standing damage is about.
pub(crate) fn free_name(wedge: &mut Wedge<'_>) -> &'static str {
    let hurt: Vec<String> =
        wedge.standing.iter().filter_map(|harm| harm.name().map(str::to_owned)).collect();
    let free: Vec<&'static str> =
        NAMES.iter().copied().filter(|name| !hurt.iter().any(|one| one == name)).collect();
    wedge.one_of(&free).unwrap_or(NAMES[0])
}
