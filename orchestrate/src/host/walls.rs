//! Which walls stand around what reads a layer, and in which words that is told. What they are and how they are
//! put up is `unpack`'s.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use unpack::sandbox::{Standing, Wall};
use unpack::{Root, Walls};

use crate::error::leaves;
use crate::host::settings::Settings;
use crate::process::log::{self, Level};

/// A process has the rights that it was started with: one look is enough, for each value of the setting.
static KNOWN: Mutex<Vec<(Walls, Vec<Standing>)>> = Mutex::new(Vec::new());

/// The walls that a layer would be unpacked behind, by a child that puts them up and ends. A text is why that
/// cannot be told.
///
/// # Errors
/// A text.
pub fn standing(settings: &Settings) -> Result<Vec<Standing>, String> {
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let limits = &settings.limits;
    if let Some((_, found)) = known.iter().find(|(walls, _)| *walls == limits.walls) {
        return Ok(found.clone());
    }
    // Any directory does: what is asked for is the right to wall it in.
    let place = if settings.state.is_dir() { settings.state.clone() } else { std::env::temp_dir() };
    let found = look(&place, limits).map_err(|error| leaves::whole(&error))?;
    known.push((limits.walls, found.clone()));
    Ok(found)
}

fn look(place: &Path, limits: &unpack::Limits) -> Result<Vec<Standing>, unpack::Error> {
    unpack::sandbox::standing(&Root::open(place)?, limits)
}

/// Whether layers can be unpacked as the setting wants it.
pub(crate) fn judged(settings: &Settings) -> Result<String, String> {
    judge(settings.limits.walls, &standing(settings)?)
}

/// Pure.
fn judge(walls: Walls, standing: &[Standing]) -> Result<String, String> {
    let down = lacking(standing);
    match (walls, down.is_empty()) {
        (_, true) => Ok(told(standing)),
        (Walls::Require, false) => Err(format!(
            "no layer is unpacked, since not all walls can be put up: {down}; sandbox = \"on\" does with \
             those that stand"
        )),
        (Walls::On | Walls::Off, false) => {
            Ok(format!("sandbox = \"{}\": {}", walls.word(), told(standing)))
        }
    }
}

/// Those that stand, and those that do not with what they lack.
pub(crate) fn told(standing: &[Standing]) -> String {
    let up: Vec<String> =
        standing.iter().filter(|wall| wall.stands).map(|wall| named(wall, " (", ")")).collect();
    let up = if up.is_empty() { "none".to_owned() } else { up.join(", ") };
    match lacking(standing) {
        none if none.is_empty() => format!("walls: {up}"),
        down => format!("walls: {up}; lacking {down}"),
    }
}

/// Those that do not stand, with what they lack; empty where all do.
fn lacking(standing: &[Standing]) -> String {
    let down = standing.iter().filter(|wall| !wall.stands);
    down.map(|wall| named(wall, ": ", "")).collect::<Vec<_>>().join("; ")
}

fn named(wall: &Standing, before: &str, after: &str) -> String {
    match wall.note.as_str() {
        "" => wall.wall.name().to_owned(),
        note => format!("{}{before}{note}{after}", wall.wall.name()),
    }
}

/// Says so where not all of them stood around something.
pub(crate) fn warn(what: &str, standing: &[Standing]) {
    let down = lacking(standing);
    if !down.is_empty() {
        let line = format!("{what} without all walls: {down}");
        log::line(Level::Warning, &line, &[]);
    }
}

/// Says so where a daemon begins that cannot do its work, or does it with less.
pub(crate) fn warn_at_start(settings: &Settings) {
    match (standing(settings), judged(settings)) {
        (Ok(standing), Ok(_)) => warn("layers are unpacked", &standing),
        (_, Err(why)) | (Err(why), _) => log::line(Level::Warning, &why, &[]),
    }
}

/// Each wall's name, and whether it stands; none where that cannot be told.
pub(crate) fn series(settings: &Settings) -> Vec<(&'static str, bool)> {
    let found = standing(settings).unwrap_or_default();
    let of = |wall: Wall| found.iter().find(|found| found.wall == wall);
    Wall::ALL.into_iter().filter_map(|wall| Some((wall.name(), of(wall)?.stands))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lacks_is_no_work_or_is_told() {
        let mut standing: Vec<Standing> =
            Wall::ALL.map(|wall| Standing { wall, stands: true, note: String::new() }).to_vec();
        standing[5].note = "abi 2".into();
        let all =
            "walls: rlimits, mount, chroot, capabilities, no_new_privs, landlock (abi 2), seccomp";
        assert_eq!(judge(Walls::Require, &standing), Ok(all.into()));
        standing[1] = Standing {
            wall: Wall::Mount,
            stands: false,
            note: "EPERM: it needs CAP_SYS_ADMIN".into(),
        };
        let said = judge(Walls::Require, &standing).unwrap_err();
        assert!(said.contains("mount: EPERM: it needs CAP_SYS_ADMIN; sandbox = \"on\""), "{said}");
        let said = judge(Walls::On, &standing).unwrap();
        assert!(said.starts_with("sandbox = \"on\": walls: rlimits, chroot, "), "{said}");
        assert!(said.ends_with("; lacking mount: EPERM: it needs CAP_SYS_ADMIN"), "{said}");
    }
}
