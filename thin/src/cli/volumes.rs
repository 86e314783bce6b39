//! The verbs about thins and their devices.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use thin::template::{self, FormatOptions};
use thin::{
    Access, Bytes, Error, Garbled, Removal, SECTOR_BYTES, Sectors, ThinId, ThinRecord, loopdev,
    mount,
};

use crate::cli::report::Report;
use crate::cli::{Context, args};

/// The shell's own codes for a program that cannot be run, and the base for signals.
const NOT_RUN: u8 = 126;
const SIGNALLED: u8 = 128;

pub(crate) fn list(context: &Context) -> Result<Report, Error> {
    let pool = context.pool()?;
    let block = pool.block_sectors() * SECTOR_BYTES;
    let usage = pool.usage()?;
    let records: Vec<ThinRecord> = usage.iter().map(|row| row.record.clone()).collect();
    let notes = pool.notes(&records);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let mut rows: BTreeMap<ThinId, Value> = BTreeMap::new();
    for usage in usage {
        let note = notes.get(&usage.record.id);
        let mapped = usage.record.mapped_blocks * block;
        let made_at = note.map(|note| note.made_at);
        let mut row = json!({
            "state": "inactive",
            "name": null,
            "sectors": note.and_then(|note| known_sectors(note.sectors, mapped)),
            "mapped_bytes": mapped,
            "exclusive_bytes": usage.exclusive_blocks * block,
            "parent": note.and_then(|note| note.parent),
            "made_at": made_at,
            "age_s": made_at.map(|at| now.saturating_sub(at)),
            "owner": note.map(|note| &note.owner),
        });
        merge(&mut row, &usage);
        rows.insert(usage.record.id, row);
    }
    for active in pool.active()? {
        let state = match (active.has_table, active.suspended) {
            (false, _) => "no table",
            (true, true) => "suspended",
            (true, false) => "active",
        };
        // One activated between the two looks has no figures yet.
        let row = rows.entry(active.id).or_insert_with(|| json!({}));
        let known = row.get("sectors").and_then(Value::as_u64);
        merge(row, &active);
        // Who only reads may have a part of it.
        if let Some(known) = known.filter(|known| active.read_only && *known > active.sectors.0) {
            merge(row, &json!({"sectors": known}));
        }
        merge(row, &json!({"state": state}));
    }
    let columns: &[&str] =
        &["id", "name", "state", "size", "mapped", "exclusive", "parent", "age", "owner"];
    let rows: Vec<Value> = rows.into_values().collect();
    let text = rows.iter().map(for_people).collect();
    Ok(Report::Listing(columns, text, rows))
}

/// A noted length, unless the thin maps more than that: then it is a part that somebody once read.
fn known_sectors(noted: Option<u64>, mapped_bytes: u64) -> Option<u64> {
    noted.filter(|noted| Sectors(*noted).bytes() >= mapped_bytes)
}

/// The same row with sizes and ages that one can read.
fn for_people(row: &Value) -> Value {
    let number = |field: &str| row.get(field).and_then(Value::as_u64);
    let bytes = |bytes: u64| Value::String(Bytes(bytes).to_string());
    let size = number("sectors").map(|sectors| Sectors(sectors).bytes());
    json!({
        "id": row.get("id"),
        "name": row.get("name"),
        "state": row.get("state"),
        "size": size.map(bytes),
        "mapped": number("mapped_bytes").map(bytes),
        "exclusive": number("exclusive_bytes").map(bytes),
        "parent": row.get("parent"),
        "age": number("age_s").map(age),
        "owner": row.get("owner"),
    })
}

/// In the largest unit of which there is one.
fn age(seconds: u64) -> String {
    let units = [(86400, "d"), (3600, "h"), (60, "min")];
    let unit = units.iter().find(|(length, _)| seconds >= *length);
    unit.map_or_else(
        || format!("{seconds} s"),
        |(length, name)| format!("{} {name}", seconds / length),
    )
}

fn merge(row: &mut Value, more: &impl serde::Serialize) {
    if let (Value::Object(all), Ok(Value::Object(fields))) = (row, serde_json::to_value(more)) {
        all.extend(fields);
    }
}

pub(crate) fn create(context: &Context, verb: &args::Create) -> Result<Report, Error> {
    let id = ThinId::new(verb.id)?;
    context.pool()?.create_thin(id)?;
    Ok(Report::Spoken(json!({"id": id}), format!("made thin {id}")))
}

pub(crate) fn snap(context: &Context, verb: &args::Snap) -> Result<Report, Error> {
    let (id, origin) = (ThinId::new(verb.id)?, ThinId::new(verb.origin)?);
    context.pool()?.create_snap(id, origin)?;
    let text = format!("made thin {id}, a snapshot of {origin}");
    Ok(Report::Spoken(json!({"id": id, "origin": origin}), text))
}

pub(crate) fn delete(context: &Context, verb: &args::Delete) -> Result<Report, Error> {
    let id = ThinId::new(verb.id)?;
    let pool = context.pool()?;
    if verb.dry_run {
        let there = pool.exists(id)?;
        let text =
            format!("would delete thin {id}: {}", if there { "it exists" } else { "absent" });
        return Ok(Report::Spoken(json!({"id": id, "exists": there, "dry_run": true}), text));
    }
    let deleted = match pool.delete(id) {
        Ok(()) => true,
        Err(Error::ThinAbsent { .. }) if verb.if_exists => false,
        Err(err) => return Err(err),
    };
    let text = if deleted { format!("deleted thin {id}") } else { format!("no thin {id}") };
    Ok(Report::Spoken(json!({"id": id, "deleted": deleted}), text))
}

pub(crate) fn exists(context: &Context, verb: &args::Exists) -> Result<Report, Error> {
    let id = ThinId::new(verb.id)?;
    let there = context.pool()?.exists(id)?;
    Ok(Report::Answer(there, json!({"id": id, "exists": there})))
}

pub(crate) fn activate(context: &Context, verb: &args::Activate) -> Result<Report, Error> {
    let sectors = verb.size.0;
    let access = if verb.ro { Access::ReadOnly } else { Access::ReadWrite };
    let volume = context.pool()?.activate(ThinId::new(verb.id)?, &verb.name, sectors.0, access)?;
    let mut row = json!({"path": volume.path(), "mapper_path": volume.mapper_path()});
    merge(&mut row, &volume);
    Ok(Report::Spoken(row, volume.mapper_path().display().to_string()))
}

pub(crate) fn look(context: &Context, verb: &args::Look) -> Result<Report, Error> {
    let sectors = verb.size.map(|length| length.0.0);
    let volume = context.pool()?.look(ThinId::new(verb.id)?, sectors)?;
    let mut row = json!({"path": volume.path(), "mapper_path": volume.mapper_path()});
    merge(&mut row, &volume);
    Ok(Report::Spoken(row, volume.mapper_path().display().to_string()))
}

pub(crate) fn deactivate(context: &Context, verb: &args::Deactivate) -> Result<Report, Error> {
    let was = context.pool()?.deactivate(&verb.name)? == Removal::Removed;
    let text = format!("{} {}", verb.name, if was { "is inactive" } else { "was not active" });
    Ok(Report::Spoken(json!({"name": verb.name, "was_active": was}), text))
}

pub(crate) fn grow(context: &Context, verb: &args::Grow) -> Result<Report, Error> {
    let pool = context.pool()?;
    let sectors = verb.size.0;
    let volume = pool.volume(&verb.name)?.grow(&pool, sectors.0)?;
    if !verb.device_only {
        let mounted = mount::detached(&volume.path(), "ext4", &[("noexec", None)], false)?;
        mount::grow_ext4(mounted.as_fd(), volume.sectors.bytes())?;
        mount::sync(mounted.as_fd())?;
    }
    let text = format!(
        "{} has {} now{}\nif it is a volume of orchestrate's, its next command takes that size over: \
         nothing else has to be done",
        volume.name,
        Bytes(volume.sectors.bytes()),
        if verb.device_only { "; what is on it is as large as before" } else { ", its ext4 too" },
    );
    Ok(Report::Spoken(json!(volume), text))
}

pub(crate) fn usage(context: &Context) -> Result<Report, Error> {
    let columns: &[&str] =
        &["id", "mapped_blocks", "exclusive_blocks", "shared_blocks", "transaction_id"];
    Ok(Report::rows(columns, context.pool()?.usage()?))
}

pub(crate) fn format(context: &Context, verb: args::Format) -> Result<Report, Error> {
    let pool = context.pool()?;
    let volume = pool.volume(&verb.name)?;
    if pool.active_as(volume.id)?.is_some_and(|active| active.read_only) {
        return Err(Error::ReadOnlyVolume { name: volume.name });
    }
    let options = FormatOptions {
        uuid: verb.uuid,
        hash_seed: verb.hash_seed,
        extra: verb.mkfs_arg,
        ..FormatOptions::default()
    };
    template::format(&volume.path(), &options)?;
    let text = format!(
        "made an ext4 on {name}; this command goes with the next release: `unpack --device /dev/mapper/{name} \
         --blank whole` makes one that layers can be written into",
        name = volume.name
    );
    Ok(Report::Spoken(json!({"name": volume.name, "fstype": "ext4"}), text))
}

pub(crate) fn transaction(context: &Context, verb: &args::Transaction) -> Result<Report, Error> {
    context.pool()?.set_transaction_id(verb.current, verb.new)?;
    let text = format!("transaction {}", verb.new);
    Ok(Report::Spoken(json!({"transaction_id": verb.new}), text))
}

pub(crate) fn run(context: &Context, verb: &args::Run) -> Result<u8, Error> {
    let volume = context.pool()?.volume(&verb.name)?;
    let Some((program, words)) = verb.command.split_first() else {
        return Err(Garbled::Unit {
            what: "program to run",
            value: String::new(),
            rule: "given after --",
        }
        .into());
    };
    let mut options: Vec<(&str, Option<&str>)> = Vec::new();
    if verb.fstype == "ext4" {
        options.push(("noinit_itable", None));
    }
    if verb.noexec {
        options.push(("noexec", None));
    }
    let device = volume.path();
    let mounted = mount::detached(&device, &verb.fstype, &options, verb.ro)?;
    // Children inherit the working directory, which keeps the mount alive for as long as they do.
    let root = mount::open_root(mounted.as_fd())?;
    nix::unistd::fchdir(&root).map_err(|errno| io("enter", &device, errno))?;
    let status = Command::new(program).args(words).status();
    if !verb.ro {
        mount::sync(mounted.as_fd())?;
    }
    // Left before the end, so that the volume is free when we have exited.
    nix::unistd::chdir("/").map_err(|errno| io("leave", &device, errno))?;
    drop((root, mounted));
    let status = match status {
        Ok(status) => status,
        Err(source) => {
            eprintln!("thin: fatal: {}", Error::NoProgram { program: program.clone(), source });
            return Ok(NOT_RUN);
        }
    };
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.unwrap_or_else(|| {
        let signal = std::os::unix::process::ExitStatusExt::signal(&status).unwrap_or(0);
        SIGNALLED.saturating_add(u8::try_from(signal).unwrap_or(0))
    }))
}

fn io(what: &'static str, path: &std::path::Path, errno: nix::errno::Errno) -> Error {
    Error::Io { what, path: path.to_owned(), source: errno.into() }
}

pub(crate) fn loops(verb: &args::LoopArgs) -> Result<Report, Error> {
    let options = loopdev::LoopOptions {
        direct_io: !verb.buffered,
        // The command ends at once, and a device that clears itself would go with it.
        autoclear: false,
        read_only: verb.ro,
    };
    let found = match verb.verb.as_str() {
        "attach" => Some(loopdev::attach(&verb.path, options)?),
        "find" => loopdev::find_by_backing(&verb.path)?,
        "detach" => {
            loopdev::detach(&verb.path)?;
            let text = format!("detached {}", verb.path.display());
            return Ok(Report::Spoken(json!({"path": verb.path, "attached": false}), text));
        }
        other => {
            return Err(Garbled::Unit {
                what: "loop command",
                value: other.to_owned(),
                rule: "attach, find or detach",
            }
            .into());
        }
    };
    match found {
        None => Ok(Report::Answer(false, json!({"file": verb.path, "attached": false}))),
        Some(device) => {
            let row = json!({
                "path": device.path(),
                "dev": device.dev().to_string(),
                "bytes": device.bytes(),
                "direct_io": device.direct_io(),
                "attached": true,
            });
            Ok(Report::Spoken(row, device.path().display().to_string()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_shorter_than_what_is_mapped_is_not_the_thins() {
        // What `orchestrate rebuild` once noted: one block, of a layer that has more.
        assert_eq!(known_sectors(Some(128), 10 << 20), None);
        assert_eq!(known_sectors(Some(128), 64 << 10), Some(128));
        assert_eq!(known_sectors(Some(8 << 20), 10 << 20), Some(8 << 20));
        assert_eq!(known_sectors(None, 0), None);
    }
}
