//! Results as text for people. Keys and names come from outside, so they are escaped.

pub(crate) mod fleet;
pub(crate) mod handover;
pub(crate) mod naming;
pub(crate) mod push;
pub(crate) mod space;
pub(crate) mod text;
pub(crate) mod verified;

use orchestrate::catalog::Reset;
use orchestrate::config::{Origin, Setting, Value};
use orchestrate::health::Readiness;
use orchestrate::scan::Scanned;
use orchestrate::{
    Activated, ActivationLine, Deactivated, Ensured, How, ImageLine, Listing, Rebuilt, Recovered,
    Removed, RunLine, SignedLine, TakenUp, Unsettled,
};
use registry::{Digest, Event, Quarantined, Run, RunState, VolumeId};

use crate::cli::diagnosis::Diagnosis;
use crate::cli::print::text::{mib, put, safe};

pub(crate) fn ensured(done: &Ensured) -> String {
    let mut text = String::new();
    for line in &done.layers {
        let how = match line.how {
            How::Reused => "reused",
            How::Built => "built",
            How::Adopted => "adopted",
            How::Planned => "to build",
        };
        let chain = line.chain.map_or("?".into(), |chain| chain.short());
        let volume = line.volume.map_or("-".into(), |volume| volume.to_string());
        put(
            &mut text,
            format_args!(
                "{:>3}  {how:<8}  {:>12}  volume {volume:<5} chain {chain}  {}\n",
                line.number,
                mib(line.bytes),
                safe(&line.key)
            ),
        );
    }
    let verb = if done.dry_run { "would fetch" } else { "fetched" };
    put(
        &mut text,
        format_args!(
            "{}: {} layers, {verb} {} objects, {}\n",
            safe(&done.image),
            done.layers.len(),
            done.fetched_objects,
            mib(done.fetched_bytes)
        ),
    );
    text
}

/// `copies`: whether files were to be copied.
pub(crate) fn activated(done: &Activated, copies: bool) -> String {
    let mut text = done.ensured.as_ref().map_or(String::new(), ensured);
    let path = done.path.display();
    let verb = match (done.dry_run, done.already) {
        (true, _) => "would be",
        (false, true) => "is already",
        (false, false) => "is now",
    };
    put(&mut text, format_args!("{} {verb} {path}\n", safe(&done.name)));
    match done.copied {
        0 if copies && !done.dry_run => text.push_str("  copied: 0, since it was there before\n"),
        0 => {}
        copied => put(&mut text, format_args!("  copied: {copied}\n")),
    }
    if let Some(device) = &done.device {
        text.push_str(&handover::given(device));
    }
    text
}

pub(crate) fn deactivated(done: &Deactivated) -> String {
    let name = safe(&done.name);
    if done.when_closed {
        return format!("{name} is open: it goes down as soon as nobody has it open\n");
    }
    match (done.changed, done.dry_run) {
        (true, false) => format!(
            "{name} is down; what was written to it is kept (`orchestrate rm {name}` deletes it)\n"
        ),
        (true, true) => format!("{name} would be taken down\n"),
        (false, _) => format!("{name} was down already\n"),
    }
}

pub(crate) fn listing(listing: &Listing) -> String {
    let mut text = String::new();
    put(
        &mut text,
        format_args!(
            "store {} {}: {} of {} used\n",
            listing.store.kind,
            listing.store.id,
            mib(listing.space.used),
            mib(listing.space.total)
        ),
    );
    for line in &listing.images {
        text.push_str(&image(line));
    }
    for line in &listing.activations {
        text.push_str(&activation(line, &[]));
    }
    text.push_str(&unsettled(&listing.unsettled));
    text
}

pub(crate) fn image(line: &ImageLine) -> String {
    let mut text = format!("image {}  chain {}", safe(&line.image), line.chain.short());
    match (line.manifest, line.config) {
        (Some(manifest), _) => put(&mut text, format_args!("  manifest {}", manifest.short())),
        (None, Some(config)) => put(&mut text, format_args!("  config {}", config.short())),
        (None, None) => {}
    }
    if let Some(signed) = line.signed_by.first() {
        put(&mut text, format_args!("  signed by {}", signer(signed)));
    }
    text.push('\n');
    for layer in &line.layers {
        let shared = match layer.shared_with {
            0 => String::new(),
            n => format!("  shared with {n} more"),
        };
        let condemned = condemned(layer.condemned.as_deref());
        put(
            &mut text,
            format_args!(
                "  {:>12}  volume {:<5} {}{shared}{condemned}\n",
                mib(layer.bytes),
                layer.volume,
                safe(&layer.key)
            ),
        );
    }
    text
}

/// The digests of an image's documents, whole.
pub(crate) fn documents(line: &ImageLine) -> String {
    let mut text = String::new();
    for (what, digest) in [("manifest", line.manifest), ("config", line.config)] {
        if let Some(digest) = digest {
            put(&mut text, format_args!("  {what} {digest}\n"));
        }
    }
    if let Some(platform) = &line.platform {
        put(&mut text, format_args!("  platform {}\n", safe(platform)));
    }
    for signed in &line.signed_by {
        let (key, of) = (signed.key, signed.signed);
        put(
            &mut text,
            format_args!("  signed by {}: key {key}, signature of {of}\n", signer(signed)),
        );
    }
    text
}

/// Whose signature it is: the file of the key, where the settings have it still.
fn signer(signed: &SignedLine) -> String {
    match &signed.file {
        Some(file) => safe(file).to_string(),
        None => format!("{}, a key that is trusted no longer", signed.key.short()),
    }
}

pub(crate) fn activation(line: &ActivationLine, history: &[Event]) -> String {
    let mapped = if line.mapped { "" } else { " (not mapped)" };
    let mut text = format!(
        "activation {}  {}{mapped}  {}  of {}{}\n",
        safe(&line.name),
        line.state,
        line.path.display(),
        safe(&line.image),
        condemned(line.condemned.as_deref())
    );
    if let Some(why) = &line.barred {
        let word = if line.mapped { "RUNS, AND MAY NOT" } else { "may not come up" };
        put(&mut text, format_args!("  {word}: {}\n", safe(why)));
    }
    if let Some(from) = &line.forked_from {
        put(&mut text, format_args!("  a fork of {}\n", safe(from)));
    }
    if line.points > 0 {
        put(&mut text, format_args!("  points: {}\n", line.points));
    }
    if let Some(wish) = line.when_closed {
        put(&mut text, format_args!("  {}, as soon as nobody has it open\n", wish.word()));
    }
    if let Some(device) = &line.device {
        text.push_str(&handover::given(device));
    }
    text.push_str(&naming::terms(line));
    if line.unchecked {
        put(
            &mut text,
            format_args!(
                "  was up when the host went down: check its file system, then `orchestrate checked \
                 {}` (docs/recovery.md)\n",
                safe(&line.name)
            ),
        );
    }
    for event in history {
        let from = event.from.as_deref().unwrap_or("-");
        let to = event.to.as_deref().unwrap_or("-");
        put(&mut text, format_args!("  {} {from} -> {to} {}\n", event.seq, safe(&event.detail)));
    }
    text
}

/// What a line says of a condemned volume that it is about, or stands on.
fn condemned(why: Option<&str>) -> String {
    why.map_or(String::new(), |why| format!("  CONDEMNED: {}", safe(why)))
}

pub(crate) fn removed(done: &Removed) -> String {
    let mut text = String::new();
    let verb = if done.dry_run { "would remove" } else { "removed" };
    if let Some(name) = done.activation.as_ref().filter(|_| done.when_closed) {
        return format!("{} is open: it is removed as soon as nobody has it open\n", safe(name));
    }
    if let Some(name) = &done.activation {
        put(&mut text, format_args!("{verb} activation {}\n", safe(name)));
        for point in &done.points {
            put(&mut text, format_args!("{verb} its point {}\n", safe(point)));
        }
    }
    if let Some(image) = &done.image {
        put(
            &mut text,
            format_args!(
                "{verb} image {}: {} layers of its own, {} stay\n",
                safe(image),
                done.volumes.len(),
                done.kept.len()
            ),
        );
    }
    if !done.dry_run {
        put(&mut text, format_args!("freed {}\n", mib(done.freed_bytes)));
    }
    text
}

pub(crate) fn recovered(done: &Recovered, resumed: &[TakenUp], dry_run: bool) -> String {
    let verb = if dry_run { "would" } else { "done:" };
    let mut text = String::new();
    for repair in &done.repairs {
        put(&mut text, format_args!("{verb} {}\n", safe(&repair.to_string())));
    }
    text.push_str(&unsettled(&done.unsettled));
    for run in resumed {
        let end = match (&run.end, dry_run) {
            (RunState::Failed { class, message }, _) => format!("failed ({class}): {message}"),
            (_, true) => "would be resumed".into(),
            (end, false) => format!("resumed: {}", end.word()),
        };
        put(
            &mut text,
            format_args!(
                "run {} ({} {}): {}\n",
                run.run,
                run.verb.word(),
                safe(&run.subject),
                safe(&end)
            ),
        );
    }
    if done.repairs.is_empty() && done.unsettled.is_empty() && resumed.is_empty() {
        text.push_str("nothing to repair\n");
    }
    text
}

/// What is not as its row says.
pub(crate) fn unsettled(found: &[Unsettled]) -> String {
    let line = |found: &Unsettled| {
        let word = if found.kind.is_trouble() { "UNSETTLED" } else { "note" };
        format!("{word} {}: {}\n", safe(&found.subject), safe(&found.why))
    };
    found.iter().map(line).collect()
}

pub(crate) fn checked(name: &str, changed: bool) -> String {
    match changed {
        true => format!("{} is taken for in order from now on\n", safe(name)),
        false => format!("nobody had asked for {} to be checked\n", safe(name)),
    }
}

pub(crate) fn pinned(image: &str, pinned: bool) -> String {
    let verb = if pinned { "pinned" } else { "no longer pinned" };
    format!("{} is {verb}\n", safe(image))
}

pub(crate) fn readiness(found: &Readiness) -> String {
    let mut text = String::new();
    for check in &found.checks {
        let word = if check.ok { "ok" } else { "NOT OK" };
        put(&mut text, format_args!("{word:<7} {:<16} {}\n", check.name, safe(&check.reason)));
    }
    if let Some(why) = &found.why {
        let mode = found.mode.as_deref().unwrap_or_default();
        put(&mut text, format_args!("mode {mode}: {}\n", safe(why)));
    }
    text
}

pub(crate) fn diagnosis(found: &Diagnosis) -> String {
    let mut text = format!("sandbox = \"{}\"\n", found.sandbox);
    for wall in &found.walls {
        let word = if wall.stands { "stands" } else { "LACKS" };
        let (name, note) = (wall.wall.name(), safe(&wall.note));
        put(&mut text, format_args!("{word:<7} {name:<16} {note}\n"));
    }
    for check in &found.wrong {
        put(&mut text, format_args!("NOT OK  {:<16} {}\n", check.name, safe(&check.reason)));
    }
    if found.wrong.is_empty() {
        text.push_str("nothing is wrong\n");
    }
    text
}

pub(crate) fn run_line(line: &RunLine) -> String {
    run(&line.run, line.interrupted)
}

pub(crate) fn run(run: &Run, interrupted: bool) -> String {
    let state = match &run.state {
        RunState::Running if run.cancel.is_some() => "being cancelled".to_owned(),
        RunState::Running if interrupted => {
            "interrupted (`orchestrate recover` takes it up)".to_owned()
        }
        RunState::Queued if interrupted => {
            "queued, and no daemon runs (`orchestrate recover` takes it up)".to_owned()
        }
        RunState::Failed { class, message } => format!("failed ({class}): {message}"),
        RunState::Queued | RunState::Running | RunState::Done | RunState::Cancelled => {
            run.state.word().to_owned()
        }
    };
    let step = if run.step.is_empty() { String::new() } else { format!("  {}", run.step) };
    let begun =
        if run.attempt > 1 { format!("  begun {} times", run.attempt) } else { String::new() };
    let (verb, subject) = (run.verb.word(), safe(&run.subject));
    format!("run {:<5} {verb:<10} {subject}  {}{begun}{}\n", run.id, safe(&state), safe(&step))
}

pub(crate) fn history(events: &[Event]) -> String {
    events.iter().map(event).collect()
}

pub(crate) fn event(event: &Event) -> String {
    let from = event.from.as_deref().unwrap_or("-");
    let to = event.to.as_deref().unwrap_or("-");
    format!("{:>6}  {}  {from} -> {to}  {}\n", event.seq, safe(&event.subject), safe(&event.detail))
}

pub(crate) fn quarantined(blob: &Quarantined) -> String {
    let mut when = String::new();
    if blob.below != Quarantined::ANY {
        when = format!("on {}  ", safe(&blob.below));
    }
    if blob.limits.is_some() {
        when.push_str("under limits no larger than then  ");
    }
    if blob.unpacker != unpack::VERSION {
        when.push_str("by another version, so tried again when asked for  ");
    }
    let (digest, size) = (blob.digest, blob.size);
    format!("{digest}  {size} bytes  {}  {when}{}\n", safe(&blob.key), safe(&blob.message))
}

pub(crate) fn released(digest: &Digest, released: bool) -> String {
    match released {
        true => format!("{digest} may be unpacked again\n"),
        false => format!("{digest} is not in quarantine\n"),
    }
}

pub(crate) fn rebuilt(done: &Rebuilt) -> String {
    let verb = if done.dry_run { "would rebuild" } else { "rebuilt" };
    let mut text = format!(
        "{verb} a registry of {} layers, {} images, {} activations\n",
        done.layers,
        done.images.len(),
        done.activations.len()
    );
    for image in &done.images {
        put(&mut text, format_args!("  image {}\n", safe(image)));
    }
    for name in &done.activations {
        put(&mut text, format_args!("  activation {}\n", safe(name)));
    }
    for found in &done.catalogs {
        let (serial, url) = (found.serial, safe(&found.url));
        put(&mut text, format_args!("  believes the catalog of serial {serial} from {url}\n"));
    }
    if !done.foreign.is_empty() {
        let ids: Vec<String> = done.foreign.iter().map(VolumeId::to_string).collect();
        put(&mut text, format_args!("not ours: volumes {}\n", ids.join(", ")));
    }
    for unread in &done.unread {
        let (volume, why) = (unread.volume, safe(&unread.why));
        let name = unread.name.as_deref().map(|name| format!(", activation {}", safe(name)));
        put(&mut text, format_args!("volume {volume}{}: {why}\n", name.unwrap_or_default()));
    }
    for path in &done.restored {
        put(&mut text, format_args!("put back: {}\n", path.display()));
    }
    for lost in &done.lost {
        put(&mut text, format_args!("not taken over: {}\n", safe(lost)));
    }
    if done.taken_over {
        let is = if done.dry_run { "would be" } else { "is" };
        let line =
            format_args!("the store {is} this registry's; one that had it before {is} refused\n");
        put(&mut text, line);
    }
    if let Some(kept) = &done.kept {
        put(&mut text, format_args!("the registry that was there is {}\n", kept.display()));
    }
    text
}

pub(crate) fn reset(done: &Reset) -> String {
    let was = done.was.map_or("none".into(), |serial| format!("that of serial {serial}"));
    format!("the catalog of serial {} is believed from now on; before it was {was}\n", done.serial)
}

pub(crate) fn scanned(done: &Scanned) -> String {
    let verdict = if done.blocks { "; the policy does not let it through" } else { "" };
    let (image, scanner) = (safe(&done.image), safe(&done.scanner));
    let mut by = scanner;
    for (what, said) in [("", &done.version), ("database ", &done.database)] {
        if let Some(said) = said {
            put(&mut by, format_args!(" {what}{}", safe(said)));
        }
    }
    let mut text = format!("{image}: {} ({by}, policy {}){verdict}\n", done.counts, done.policy);
    for finding in &done.findings {
        let fixed = match finding.fixed.as_str() {
            "" => String::new(),
            fixed => format!(" (fixed in {})", safe(fixed)),
        };
        put(
            &mut text,
            format_args!(
                "  {:<8}  {}  {} {}{fixed}  {}\n",
                finding.severity.word(),
                safe(&finding.id),
                safe(&finding.package),
                safe(&finding.installed),
                safe(&finding.title)
            ),
        );
    }
    text
}

/// A line of the settings' file.
pub(crate) fn setting(setting: &Setting, value: &Value, origin: &Origin) -> String {
    let line = match value.toml() {
        Some(value) => format!("{} = {value}", setting.key),
        None => format!("# {} =", setting.key),
    };
    format!("{line:<48}  # {origin}\n")
}
