//! How errors are said: the one `Display` of all of them.

use std::fmt;

use crate::error::Error;
use crate::error::leaves::stream_error;
use crate::error::quote::quoted;

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Fetch(source) => source.fmt(f),
            Error::Unpack { layer, source } => match stream_error(source) {
                Some(stream) => stream.fmt(f),
                None => write!(f, "layer {}: {source}", layer.escape_debug()),
            },
            Error::Tree { doing, source } => write!(f, "cannot {doing}: {source}"),
            Error::Volume { volume, source } if matches!(**source, unpack::Unfit::Io { .. }) => {
                write!(f, "volume {volume}: {source}")
            }
            Error::Volume { volume, source } => write!(
                f,
                "volume {volume} cannot take another layer: {source}; `orchestrate verify` finds out whether it is as \
                 it was sealed"
            ),
            Error::Image(unusable) => unusable.fmt(f),
            Error::Push(not) => not.fmt(f),
            Error::Export(not) => not.fmt(f),
            Error::Travel(not) => not.fmt(f),
            Error::Thin(source) => source.fmt(f),
            Error::Registry(source) => source.fmt(f),
            Error::Io { doing, path, source } => {
                write!(f, "cannot {doing} {}: {source}", path.display())
            }
            Error::Usage(text) => f.write_str(text),
            Error::Unknown { what, name } => {
                write!(f, "no {what} {} here; `orchestrate ls` shows what there is", quoted(name))
            }
            Error::Making(making) => making.fmt(f),
            Error::Amiss(amiss) => amiss.fmt(f),
            Error::NotHere { image } => {
                write!(f, "{image} is not on this host; without --no-fetch it would be fetched")
            }
            Error::Taken { name, by } => {
                write!(
                    f,
                    "the name {name:?} is taken by {by}; choose another, or `orchestrate rm` it"
                )
            }
            Error::Held { what, by } => write!(
                f,
                "{what} is in use: {by}. Nothing was changed. Close that (a mount: `orchestrate umount`) and try \
                 again, or `orchestrate rm --when-closed` or `deactivate --when-closed` does it as soon as nobody \
                 has it open"
            ),
            Error::LookedAt { volume, name } => write!(
                f,
                "volume {volume} is mapped read-only as {name:?}: somebody looks at it; `thin \
                 deactivate {name}` ends that"
            ),
            Error::Stranger { name, by } => write!(
                f,
                "the name {name:?} belongs to {by}, which is not ours and is left alone; choose \
                 another name, or free it by hand"
            ),
            Error::Gone { volume } => write!(
                f,
                "volume {volume} is gone from the store: somebody deleted it by hand, with what was \
                 written to it; `orchestrate rm` removes what is left of it"
            ),
            Error::Locked { what, holder, waited_s: 0 } => {
                write!(f, "{what}: still held by {holder}; try again later")
            }
            Error::Locked { what, holder, waited_s } => {
                write!(f, "{what}: still held by {holder} after {waited_s} s; try again later")
            }
            Error::NoSpace { what, needs, free, garbage } => {
                write!(f, "no space for {what}: needs {needs} bytes, free {free}")?;
                match garbage {
                    Some(bytes) if *bytes > 0 => write!(
                        f,
                        "; `orchestrate gc` would free {bytes}, else `orchestrate rm` an image or \
                         grow the pool"
                    ),
                    Some(_) | None => {
                        write!(f, "; `orchestrate rm` an image, or grow the pool")
                    }
                }
            }
            Error::Filling(filling) => filling.fmt(f),
            Error::Quarantined { layer, digest, why } => write!(
                f,
                "layer {}: these bytes were refused before and are not unpacked again: {why}; \
                 `orchestrate quarantine --release {digest}` allows it",
                layer.escape_debug()
            ),
            Error::NoNotes { store, volumes, forged } => {
                write!(
                    f,
                    "store {store:?}: none of its {volumes} volumes has the seal record of a template"
                )?;
                if let Some((says, older)) = forged {
                    write!(
                        f,
                        "; volume {says} does, and is not the first of this store, since volume {older} is older: \
                         whoever had it may have written that"
                    )?;
                }
                f.write_str(
                    "; nothing can be rebuilt from it. A backup of the registry knows its key: put that in \
                     place and `orchestrate rebuild`",
                )
            }
            Error::Cancelled { why } => {
                write!(f, "stopped on request: {}; nothing half done stays", why.escape_debug())
            }
            Error::Mismatch { layer, expected, found } => write!(
                f,
                "layer {}: digest is {found}, expected {expected}; nothing of it is kept",
                layer.escape_debug()
            ),
            Error::Fence { registry, store } => write!(
                f,
                "the registry and the store are out of step (registry at transaction {registry}, store at {store}): \
                 one of them was restored from a backup or written by another program. Nothing was changed. \
                 Restore the other one as well, or make a registry from what the store has with `orchestrate \
                 rebuild`"
            ),
            Error::Owner(refusal) => refusal.fmt(f),
            Error::State(state) => state.fmt(f),
            Error::Full(full) => full.fmt(f),
            Error::Away { image, source } => write!(
                f,
                "{source}; {} is on this host as it was when it was last asked for: `--no-fetch` takes it \
                 so",
                image.escape_debug()
            ),
            Error::Unseen(unseen) => unseen.fmt(f),
            Error::Unheard { url, others, source } => {
                write!(f, "the catalog {} is not to be had", url.escape_debug())?;
                for (from, why) in others {
                    write!(f, "; from source {from}: {why}")?;
                }
                if others.is_empty() {
                    write!(f, "; no source could be asked")?;
                }
                write!(f, "; from the bucket: {source}")
            }
            Error::Condemned { what, volume, why } => write!(
                f,
                "{}: volume {volume} is condemned and not handed out: {}; `orchestrate ensure` of the \
                 image builds it again",
                what.escape_debug(),
                why.escape_debug()
            ),
            Error::NotOurs { id } => write!(
                f,
                "id {id} in the store is not ours: another program has made what is there, and it is left \
                 alone; try again, or `orchestrate rm` the activation that has this id: its row alone goes"
            ),
            Error::NoVolumes { store } => write!(
                f,
                "store {store:?} has not one volume, and the registry knows of some: is it mounted, and is \
                 it the right one? Nothing was changed"
            ),
            Error::Lost { volume } => write!(
                f,
                "sealed volume {volume} is gone from the store: somebody deleted it by hand; `orchestrate \
                 ensure` of the image builds it again"
            ),
            Error::Told { message, .. } => f.write_str(message),
            Error::Catalog(why) => why.fmt(f),
            Error::Unfit(unfit) => unfit.fmt(f),
            Error::Scan(failure) => failure.fmt(f),
            Error::Blocked { image, counts, worst } => write!(
                f,
                "{} is not let through: {counts}; the worst is {}; `orchestrate scan --show {0}` shows \
                 all, `orchestrate scan {0}` scans again",
                image.escape_debug(),
                worst.escape_debug()
            ),
            Error::CrashLoop { what, begun } => write!(
                f,
                "{}: begun {begun} times and never finished; look at the kernel log, then \
                 `orchestrate recover --retry` to allow it again",
                what.escape_debug()
            ),
        }
    }
}
