//! The verbs that look after a pool: rescue, watch, room, doctor.

use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;
use thin::doctor::{Level, examine};
use thin::{
    Bytes, Dm, Error, Garbled, Growth, Low, Need, PoolStatus, Reserve, Store, Which, Woken,
};

use crate::cli::report::Report;
use crate::cli::{Context, args};

pub(crate) fn rescue(context: &Context, verb: &args::Rescue) -> Result<Report, Error> {
    let pool = context.pool()?;
    let freed = match &verb.name {
        Some(name) => vec![pool.rescue(name)?],
        None => pool.rescue_all()?,
    };
    Ok(Report::rows(&["name", "id"], freed))
}

pub(crate) fn room(context: &Context, verb: &args::RoomArgs) -> Result<Report, Error> {
    let need = Need { bytes: verb.bytes.0, pieces: 0, volumes: verb.volumes };
    let reserve = Reserve { data_percent: verb.reserve, ..Reserve::default() };
    let room = context.pool()?.room(need, reserve)?;
    let mut row = serde_json::to_value(room).unwrap_or_default();
    if let serde_json::Value::Object(fields) = &mut row {
        fields.insert("suffices".to_owned(), json!(room.suffices()));
    }
    Ok(Report::Answer(room.suffices(), row))
}

pub(crate) fn doctor(verb: &args::Doctor) -> Result<Report, Error> {
    let findings = examine(verb.dir.as_deref())?;
    let well = findings.iter().all(|finding| finding.level != Level::Bad);
    Ok(Report::Verdict(
        well,
        &["level", "check", "found", "advice"],
        findings.into_iter().map(|f| serde_json::to_value(f).unwrap_or_default()).collect(),
    ))
}

/// How often a watcher that makes the pool larger looks without an event.
const LOOK: Duration = Duration::from_secs(5);

/// Prints as it goes, so its report is empty.
pub(crate) fn watch(context: &Context, verb: &args::Watch) -> Result<Report, Error> {
    let pool = context.pool()?;
    let start = Instant::now();
    let limit = verb.seconds.map(Duration::from_secs);
    let mut grower = Grower::new(verb)?;
    let mut events = 0;
    let mut following = pool.watch()?;
    let mut said = say(context, &pool.status()?, None);
    while said && verb.events.is_none_or(|most| events < most) {
        // By the state, so also at the start and when an event was missed.
        if let Some(grower) = &mut grower
            && grower.look(pool.dm())
        {
            said = say(context, &pool.status()?, None);
        }
        let longest = if grower.is_some() { LOOK } else { Duration::from_secs(3600) };
        let left = match limit.map(|limit| limit.checked_sub(start.elapsed())) {
            None => longest,
            Some(Some(left)) if !left.is_zero() => left.min(longest),
            Some(Some(_) | None) => break,
        };
        let Woken::Event(number) = following.next(left)? else { continue };
        events += 1;
        said = said && say(context, &pool.status()?, Some(number));
    }
    Ok(Report::rows::<()>(&[], Vec::new()))
}

/// Makes the pool of a directory larger.
struct Grower<'a> {
    dir: &'a Path,
    growth: Growth,
    /// Its last words, so that they are not said every time.
    complaint: String,
}

impl Grower<'_> {
    fn new(verb: &args::Watch) -> Result<Option<Grower<'_>>, Error> {
        let metadata_to = verb.grow_metadata_to.map(|size| size.0);
        match (&verb.grow, verb.grow_to.map(|size| size.0)) {
            (Some(dir), Some(data_to)) => {
                let low = Low::default();
                let growth = Growth { low, data_to, data_by: verb.grow_by.0, metadata_to };
                Ok(Some(Grower { dir, growth, complaint: String::new() }))
            }
            (None, None) => Ok(None),
            (Some(_), None) | (None, Some(_)) => Err(Garbled::Unit {
                what: "--grow without --grow-to, or the other way round",
                value: String::new(),
                rule: "given together: the pool's directory, and how large its data may become",
            }
            .into()),
        }
    }

    /// Whether it has made something larger. What went wrong is said, and tried again the next time.
    fn look(&mut self, dm: &Dm) -> bool {
        let found = Store::open(self.dir).and_then(|mut store| store.keep_room(dm, &self.growth));
        let (grew, complaint) = match found {
            Ok(found) => {
                let at_bound: Vec<String> = found
                    .iter()
                    .filter(|grown| grown.is_at_bound())
                    .map(|grown| {
                        let (flag, what) = match grown.which {
                            Which::Data => ("--grow-to", "data"),
                            Which::Metadata => ("--grow-metadata-to", "metadata"),
                        };
                        let size = Bytes(grown.to);
                        format!("its {what} is filling and has all {size} that {flag} lets it have")
                    })
                    .collect();
                (found.len() > at_bound.len(), at_bound.join("; "))
            }
            Err(err) => (false, err.to_string()),
        };
        if !complaint.is_empty() && complaint != self.complaint {
            let dir = self.dir.display().to_string();
            eprintln!("thin: warning: pool in {}: {complaint}", dir.escape_debug());
        }
        self.complaint = complaint;
        grew
    }
}

/// `false` when the reader has gone.
fn say(context: &Context, status: &PoolStatus, event: Option<u32>) -> bool {
    let mut row = serde_json::to_value(status).unwrap_or_default();
    if let serde_json::Value::Object(fields) = &mut row {
        fields.insert("event".to_owned(), json!(event));
    }
    let text = match status.working() {
        Some(w) if !context.json => format!(
            "event {}: data {}/{} metadata {}/{} {:?}{}",
            event.map_or("-".to_owned(), |n| n.to_string()),
            w.used_data,
            w.total_data,
            w.used_metadata,
            w.total_metadata,
            w.mode,
            if w.needs_check { " needs a check" } else { "" }
        ),
        Some(_) | None => row.to_string(),
    };
    let mut out = io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).is_ok()
}
