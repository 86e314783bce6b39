//! Refusals that are remembered: each counts only where all is as it was when it was made.
//!
//! The bytes of a layer are one part of it. What it stands on, the limits and the version of the rules
//! may be others: `unpack::Error::depends_on` says which.

use registry::{Digest, Quarantined, Volume};
use unpack::Limits;

use crate::error::Error;
use crate::error::leaves::{stream_error, whole};
use crate::host::Host;
use crate::process::full;
use crate::verbs::arriving::Arriving;
use crate::verbs::wanted::{Wanted, chain_below};

/// Whether this refusal holds for the same bytes on `below`, under `limits`.
fn holds(refused: &Quarantined, below: &str, limits: &Limits) -> bool {
    let under = |then: &serde_json::Value| {
        // One that cannot be read is of a program with other limits.
        serde_json::from_value(then.clone()).is_ok_and(|then| limits.are_within(&then))
    };
    refused.unpacker == unpack::VERSION
        && (refused.below == Quarantined::ANY || refused.below == below)
        && refused.limits.as_ref().is_none_or(under)
}

/// What a layer stands on, as a refusal has it.
fn below(parent: &Volume) -> Result<String, Error> {
    Ok(chain_below(parent)?.map_or_else(|| "template".into(), |chain| chain.to_string()))
}

/// Whether these bytes were refused where `wanted` is to stand.
///
/// # Errors
/// [`Error::Quarantined`].
pub(crate) fn look(
    host: &Host,
    digest: Digest,
    wanted: &Wanted,
    parent: &Volume,
) -> Result<(), Error> {
    let (below, limits) = (below(parent)?, &host.settings.limits);
    let refused = host.registry.refused(digest)?;
    match refused.into_iter().find(|refused| holds(refused, &below, limits)) {
        None => Ok(()),
        Some(refused) => Err(Error::Quarantined {
            layer: wanted.title(),
            digest: refused.digest,
            why: refused.message,
        }),
    }
}

/// What is known to be refused is neither fetched nor unpacked again. An object is known by what is
/// signed, or by what was read of itself: what another key was says nothing against it.
pub(crate) fn refused_before(host: &Host, wanted: &Wanted, parent: &Volume) -> Result<(), Error> {
    let digest = match (wanted.expected(), &wanted.source) {
        (Some(digest), _) => Some(digest),
        (None, Some(source)) => host.registry.refused_source(source, &wanted.key)?,
        (None, None) => None,
    };
    digest.map_or(Ok(()), |digest| look(host, digest, wanted, parent))
}

/// Where the layer was refused, reads on to its end, so that its bytes are known by digest, and remembers
/// that with all that it depended on. Gives back the error.
pub(crate) fn keep(
    host: &mut Host,
    wanted: &Wanted,
    parent: &Volume,
    stream: &mut Arriving,
    error: Error,
) -> Error {
    let depends = match &error {
        Error::Unpack { source, .. } if stream_error(source).is_none() => source.depends_on(),
        _ => None,
    };
    let Some(depends) = depends else { return error };
    // A stream that fails now leaves only a blob that is refused again.
    let Some((digest, size)) = stream.drained() else { return error };
    let below = match depends.tree {
        true => match below(parent) {
            Ok(below) => below,
            Err(_) => return error,
        },
        false => Quarantined::ANY.into(),
    };
    let limits = depends.limits.then(|| serde_json::to_value(&host.settings.limits));
    let Ok(limits) = limits.transpose() else { return error };
    let refused = Quarantined {
        digest,
        below,
        limits,
        unpacker: unpack::VERSION,
        size,
        key: wanted.key.clone(),
        message: error.to_string(),
        at_ms: 0,
    };
    // A cache or a peer may have lied: then the bytes are bad, and the object may be good.
    let source = wanted.source.as_ref().filter(|_| host.settings.fetch.sources.is_empty());
    let kept = host.registry.write(|write| write.refuse(&refused, source));
    if let Err(second) = kept {
        let second = whole(&full::told(second.into(), &host.settings.places()));
        let line = format!("{}: is not remembered as refused: {second}", wanted.title());
        host.warn(&line, &[]);
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_holds_only_where_all_is_as_it_was() {
        let limits = Limits::default();
        let larger = Limits { depth_max: limits.depth_max + 1, ..limits.clone() };
        let smaller = Limits { bytes_max: 1, ..limits.clone() };
        let refused = |below: &str, under: Option<&Limits>, unpacker| Quarantined {
            digest: Digest([1; 32]),
            below: below.into(),
            limits: under.map(|limits| serde_json::to_value(limits).unwrap()),
            unpacker,
            size: 1,
            key: "k".into(),
            message: "why".into(),
            at_ms: 0,
        };
        let now = unpack::VERSION;
        for (refused, below, under, right) in [
            (refused("any", None, now), "template", &limits, true),
            (refused("any", None, now), "sha256:1", &larger, true),
            (refused("any", None, now - 1), "template", &limits, false),
            (refused("any", None, now + 1), "template", &limits, false),
            (refused("template", None, now), "template", &limits, true),
            (refused("template", None, now), "sha256:1", &limits, false),
            (refused("sha256:1", None, now), "sha256:1", &limits, true),
            (refused("any", Some(&limits), now), "template", &limits, true),
            (refused("any", Some(&limits), now), "template", &smaller, true),
            (refused("any", Some(&limits), now), "template", &larger, false),
            (refused("any", Some(&smaller), now), "template", &limits, false),
        ] {
            assert_eq!(holds(&refused, below, under), right, "{refused:?} on {below}");
        }
        let odd = Quarantined { limits: Some(1.into()), ..refused("any", None, now) };
        assert!(!holds(&odd, "template", &limits));
    }
}
