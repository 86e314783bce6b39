//! One frame of `top`: facts and a size in, lines out. Pure. What comes from outside is escaped, and no
//! line is wider than the terminal, nor are there more of them than fit.

#[cfg(test)]
#[path = "frame_tests.rs"]
pub(crate) mod tests;

use std::collections::BTreeMap;

use orchestrate::health::Check;
use orchestrate::store::seam::{Condition, Space};
use orchestrate::{ActivationLine, ImageLine, Listing, RunLine};
use registry::{Event, RunState, VolumeId};

/// Columns of one layer in the stacks.
const CELL: usize = 9;

/// Columns of a bar.
const BAR: usize = 24;

/// What there is to be drawn. What could not be found out says why.
#[derive(Debug, Default)]
pub(super) struct Facts {
    /// Who told it: mode of the daemon and why, or that there is none.
    pub(super) head: String,
    pub(super) store: Option<Condition>,
    pub(super) listing: Option<Listing>,
    pub(super) checks: Vec<Check>,
    pub(super) runs: Vec<RunLine>,
    /// The last first.
    pub(super) events: Vec<Event>,
    /// Why what is shown is old.
    pub(super) trouble: Option<String>,
    pub(super) now_ms: i64,
}

/// How a piece is to look where there are colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    Plain,
    Quiet,
    Strong,
    Good,
    Warn,
    Bad,
    Shared,
}

impl Look {
    /// Select graphic rendition (ECMA-48, 8.3.117), of the sixteen colours that a terminal's owner has chosen.
    fn code(self) -> &'static str {
        match self {
            Look::Plain => "",
            Look::Quiet => "2",
            Look::Strong => "1",
            Look::Good => "32",
            Look::Warn => "33",
            Look::Bad => "31",
            Look::Shared => "36",
        }
    }
}

/// One line in pieces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Line(Vec<(Look, String)>);

impl Line {
    fn of(look: Look, text: impl Into<String>) -> Line {
        Line(vec![(look, text.into())])
    }

    fn and(mut self, look: Look, text: impl Into<String>) -> Line {
        self.0.push((look, text.into()));
        self
    }

    /// As it is written, cut to `width` columns.
    pub(super) fn text(&self, width: usize, colours: bool) -> String {
        let (mut text, mut left) = (String::new(), width);
        for (look, piece) in &self.0 {
            let shown: String = piece.chars().take(left).collect();
            left -= shown.chars().count();
            match look.code() {
                code if colours && !code.is_empty() && !shown.is_empty() => {
                    text.push_str(&format!("\x1b[{code}m{shown}\x1b[0m"));
                }
                _ => text.push_str(&shown),
            }
        }
        text
    }
}

/// Every character one column wide, and none that does anything.
pub(super) fn safe(text: &str) -> String {
    let mut safe = String::new();
    for character in text.chars() {
        match character {
            ' '..='~' => safe.push(character),
            // Letters of Latin alphabets; what is beyond may be wide, narrow or turned around.
            '\u{c0}'..='\u{24f}' if character.is_alphabetic() => safe.push(character),
            other => safe.extend(other.escape_unicode()),
        }
    }
    safe
}

/// `text` in exactly `width` columns.
fn fit(text: &str, width: usize) -> String {
    let safe = safe(text);
    match safe.chars().count() > width {
        true => safe.chars().take(width.saturating_sub(1)).chain(['~']).collect(),
        false => format!("{safe:<width$}"),
    }
}

fn size(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let (mut value, mut at) = (bytes as f64, 0);
    while value >= 1024.0 && at + 1 < units.len() {
        (value, at) = (value / 1024.0, at + 1);
    }
    if at == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", units[at]) }
}

/// As [`size`], in a layer's cell.
fn short(bytes: u64) -> String {
    let size = size(bytes);
    let unit = size.find(' ').map_or("", |at| &size[at + 1..=at + 1]);
    format!("{}{unit}", size.split(' ').next().unwrap_or_default())
}

fn ago(now_ms: i64, at_ms: i64) -> String {
    let s = (now_ms.saturating_sub(at_ms) / 1000).max(0);
    match s {
        0..90 => format!("{s} s"),
        90..5400 => format!("{} min", s / 60),
        5400..172_800 => format!("{} h", s / 3600),
        _ => format!("{} d", s / 86400),
    }
}

fn meter(name: &str, space: &Space) -> Line {
    let percent = (space.used.min(space.total) * 100).checked_div(space.total).unwrap_or(0);
    let filled = usize::try_from(percent).unwrap_or(0) * BAR / 100;
    let look = match percent {
        95.. => Look::Bad,
        80.. => Look::Warn,
        _ => Look::Good,
    };
    Line::of(Look::Plain, format!("{name:<9}"))
        .and(look, "#".repeat(filled))
        .and(Look::Quiet, ".".repeat(BAR - filled))
        .and(Look::Strong, format!("{percent:>4} %"))
        .and(Look::Plain, format!("   {} of {}", size(space.used), size(space.total)))
}

fn head(facts: &Facts) -> Vec<Line> {
    let mut lines = vec![Line::of(Look::Strong, "veneer  ").and(Look::Plain, safe(&facts.head))];
    if let Some(trouble) = &facts.trouble {
        lines.push(Line::of(Look::Bad, safe(trouble)));
    }
    if let Some(store) = &facts.store {
        lines.push(meter("data", &store.data));
        lines.extend(store.metadata.as_ref().map(|space| meter("metadata", space)));
        if !["rw", "directory"].contains(&store.mode.as_str()) {
            lines.push(Line::of(Look::Bad, format!("the pool is {}", safe(&store.mode))));
        }
    }
    let failed = facts.checks.iter().filter(|check| !check.ok);
    lines.extend(
        failed.map(|check| Line::of(Look::Bad, safe(&format!("{}: {}", check.name, check.reason)))),
    );
    lines
}

fn run(line: &RunLine, now_ms: i64) -> Line {
    let run = &line.run;
    let (word, look) = match &run.state {
        _ if run.cancel.is_some() => ("cancelling", Look::Warn),
        _ if line.interrupted => ("interrupted", Look::Warn),
        RunState::Running => ("running", Look::Good),
        state @ (RunState::Queued
        | RunState::Done
        | RunState::Failed { .. }
        | RunState::Cancelled) => (state.word(), Look::Quiet),
    };
    let step = match (&run.state, run.step.as_str()) {
        (RunState::Queued, "") if line.interrupted => {
            "no daemon runs; `recover` takes it up".into()
        }
        (RunState::Queued, "") => "waits for its turn".into(),
        (_, step) => safe(step),
    };
    Line::of(Look::Plain, format!("{:>5}  {:<10} ", run.id, run.verb.word()))
        .and(Look::Plain, fit(&run.subject, 36))
        .and(look, format!(" {word:<11} "))
        .and(Look::Quiet, format!("{:>6}  ", ago(now_ms, run.created_ms)))
        .and(Look::Plain, step)
}

/// Images so that those with the same beginning are neighbours, in the order of their names otherwise.
fn by_kin(images: &[ImageLine]) -> Vec<&ImageLine> {
    // The place of a volume among those that it was met beside: what was met first goes first.
    let mut places: BTreeMap<VolumeId, usize> = BTreeMap::new();
    for image in images {
        for layer in &image.layers {
            let next = places.len();
            places.entry(layer.volume).or_insert(next);
        }
    }
    let mut order: Vec<&ImageLine> = images.iter().collect();
    order.sort_by_cached_key(|image| {
        image.layers.iter().map(|layer| places[&layer.volume]).collect::<Vec<_>>()
    });
    order
}

/// One image: its layers from the lowest, each drawn in the first row that stands on it.
fn image(image: &ImageLine, above: Option<&ImageLine>) -> Line {
    let name = image.image.trim_start_matches("s3://").trim_end_matches('/');
    let active = match image.activations.len() {
        0 => String::new(),
        n => format!("{n} active"),
    };
    let mut line = Line::of(Look::Plain, format!("  {} ", fit(name, 36)))
        .and(Look::Good, format!("{active:>10}  "));
    let mut same = true;
    for (at, layer) in image.layers.iter().enumerate() {
        let below = above.and_then(|above| above.layers.get(at)).map(|below| below.volume);
        same &= below == Some(layer.volume);
        let look = if layer.shared_with > 0 { Look::Shared } else { Look::Quiet };
        let cell = if same { "|".into() } else { format!("|{}", short(layer.bytes)) };
        line = line.and(look, format!("{cell:<CELL$}"));
    }
    line
}

fn activation(line: &ActivationLine) -> Line {
    let (word, look) = match (line.state.as_str(), line.mapped) {
        ("active", false) => ("not mapped", Look::Bad),
        (state, true) => (state, Look::Good),
        (state, false) => (state, Look::Quiet),
    };
    Line::of(Look::Plain, format!("  {} ", fit(&line.name, 24)))
        .and(look, fit(word, 11))
        .and(Look::Plain, format!("{:>10}  {}", size(line.bytes), safe(&line.image)))
}

fn event(event: &Event, now_ms: i64) -> Line {
    let change = match (&event.from, &event.to) {
        (None, None) => String::new(),
        (None, Some(to)) => format!("-> {to}  "),
        (Some(from), to) => format!("{from} -> {}  ", to.as_deref().unwrap_or("gone")),
    };
    Line::of(Look::Quiet, format!("{:>8}  ", ago(now_ms, event.at_ms)))
        .and(Look::Plain, format!("{} ", fit(&event.subject, 28)))
        .and(Look::Plain, safe(&change))
        .and(Look::Quiet, safe(&event.detail))
}

/// How many rows each gets of `room`: in turns one each, until all have what they want or none is left.
fn share(room: usize, wants: &[usize]) -> Vec<usize> {
    let mut given = vec![0; wants.len()];
    let mut left = room;
    loop {
        let mut gave = false;
        for (given, want) in given.iter_mut().zip(wants) {
            if left > 0 && *given < *want {
                (*given, left, gave) = (*given + 1, left - 1, true);
            }
        }
        if !gave {
            return given;
        }
    }
}

/// The frame, at most `height` lines.
pub(super) fn frame(facts: &Facts, height: usize) -> Vec<Line> {
    let mut lines = head(facts);
    // Drawing is left until it is known how many there is room for.
    let images = facts.listing.as_ref().map_or(&[][..], |listing| &listing.images);
    let activations = facts.listing.as_ref().map_or(&[][..], |listing| &listing.activations);
    let wants = [facts.runs.len(), images.len(), activations.len(), facts.events.len()];
    let titles = ["runs", "images, the lowest layer first", "activations", "last events"];
    // A title, and an empty line above it.
    let room = height.saturating_sub(lines.len() + 2 * wants.len());
    let kin = by_kin(images);
    for (at, rows) in share(room, &wants.map(|want| want.max(1))).into_iter().enumerate() {
        lines.push(Line::default());
        let count = if at == 3 { String::new() } else { format!("  {}", wants[at]) };
        lines.push(Line::of(Look::Strong, titles[at]).and(Look::Quiet, count));
        if wants[at] == 0 && rows > 0 {
            lines.push(Line::of(Look::Quiet, "  none"));
            continue;
        }
        // History has no end; of the others it is said how many are not seen.
        let cut = rows < wants[at] && at != 3;
        let shown = if cut { rows.saturating_sub(1) } else { rows.min(wants[at]) };
        for row in 0..shown {
            lines.push(match at {
                0 => run(&facts.runs[row], facts.now_ms),
                1 => image(kin[row], row.checked_sub(1).map(|above| kin[above])),
                2 => activation(&activations[row]),
                _ => event(&facts.events[row], facts.now_ms),
            });
        }
        if cut && rows > 0 {
            lines.push(Line::of(Look::Quiet, format!("  {} more", wants[at] - shown)));
        }
    }
    lines.truncate(height);
    lines
}
