//! The verbs that look after a pool: rescue, watch, room, doctor.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use serde_json::json;
use thin::doctor::{Level, examine};
use thin::{Error, Need, PoolStatus, Reserve, Store, Woken, parse_bytes};

use super::Context;
use super::args;
use super::report::Report;

pub(crate) fn rescue(context: &Context, verb: &args::Rescue) -> Result<Report, Error> {
    let pool = context.pool()?;
    let freed = match &verb.name {
        Some(name) => vec![pool.rescue(name)?],
        None => pool.rescue_all()?,
    };
    Ok(Report::rows(&["name", "id"], freed))
}

pub(crate) fn room(context: &Context, verb: &args::RoomArgs) -> Result<Report, Error> {
    let need = Need { bytes: parse_bytes(&verb.bytes)?, pieces: 0, volumes: verb.volumes };
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

/// Prints as it goes, so its report is empty.
pub(crate) fn watch(context: &Context, verb: &args::Watch) -> Result<Report, Error> {
    let mut pool = context.pool()?;
    let start = Instant::now();
    let limit = verb.seconds.map(Duration::from_secs);
    let grow_to = verb.grow_to.as_deref().map(parse_bytes).transpose()?;
    let grow_by = parse_bytes(&verb.grow_by)?;
    let mut events = 0;
    let mut following = pool.watch()?;
    let mut said = say(context, &pool.status()?, None);
    while said && verb.events.is_none_or(|most| events < most) {
        let left = match limit.map(|limit| limit.checked_sub(start.elapsed())) {
            None => Duration::from_secs(3600),
            Some(Some(left)) if !left.is_zero() => left,
            Some(Some(_) | None) => break,
        };
        let Woken::Event(number) = following.next(left)? else { continue };
        events += 1;
        let mut status = pool.status()?;
        said = say(context, &status, Some(number));
        if let (Some(dir), Some(most)) = (&verb.grow, grow_to)
            && let Some(working) = status.working()
            && working.free_data().0 <= pool.table().low_water
        {
            let mut store = Store::open(dir)?;
            let to = store.header().data.bytes.saturating_add(grow_by).min(most);
            if to > store.header().data.bytes {
                status = store.grow(pool.dm(), Some(to), None)?;
                pool = context.pool()?;
                said = said && say(context, &status, None);
            }
        }
    }
    Ok(Report::rows::<()>(&[], Vec::new()))
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
