//! What `verify` found, as text for people.

use orchestrate::{Measure, Now, Verified, VolumeFinding};
use registry::Digest;

use crate::cli::print::text::{put, safe};

/// What differs of a volume.
fn changed(finding: &VolumeFinding, found: Digest, chunks: &[u64]) -> String {
    let short = |digest: Option<Digest>| digest.map_or("?".into(), |digest| digest.short());
    match finding.compared {
        Some(Measure::Blocks) => {
            let sealed = short(finding.blocks);
            let mut text = format!("CHANGED: blocks are {}, sealed were {sealed}", found.short());
            let first: Vec<String> = chunks.iter().take(3).map(u64::to_string).collect();
            if let [first @ .., last] = first.as_slice() {
                let more = if chunks.len() > 3 { " and more" } else { "" };
                let first: String = first.iter().map(|chunk| format!("{chunk}, ")).collect();
                put(&mut text, format_args!("; chunks of 1 MiB: {first}{last}{more}"));
            }
            text
        }
        Some(Measure::Tree) | None => {
            format!("CHANGED: tree is {}, sealed was {}", found.short(), short(finding.sealed))
        }
    }
}

pub(crate) fn verified(found: &Verified) -> String {
    let mut text = String::new();
    for finding in &found.volumes {
        let now = match &finding.now {
            Now::Intact => "intact".to_owned(),
            Now::Changed { found, chunks } => changed(finding, *found, chunks),
            Now::Unreadable { why } => format!("UNREADABLE: {}", safe(why)),
            Now::Condemned { why } => format!("CONDEMNED before: {}", safe(why)),
            Now::Unseen { why, .. } => format!("not looked at: {}", safe(why)),
            Now::Unknown => "UNKNOWN: sealed without a tree digest".to_owned(),
        };
        put(&mut text, format_args!("volume {:<5} {now}\n", finding.volume));
    }
    let bad = found.volumes.iter().filter(|finding| finding.now != Now::Intact).count();
    if bad > 0 {
        let all = found.volumes.len();
        put(
            &mut text,
            format_args!("{bad} of {all} volumes are not seen to be as they were sealed\n"),
        );
    }
    match found.standing.advice() {
        Some(advice) => put(&mut text, format_args!("{}\n", safe(&advice))),
        None if !found.standing.condemned.is_empty() => {
            text.push_str("nothing stands on the condemned volumes: `orchestrate gc` takes them\n");
        }
        None => {}
    }
    text
}

#[cfg(test)]
mod tests {
    use orchestrate::VolumeFinding;
    use registry::{Digest, VolumeId};

    use super::*;

    #[test]
    fn what_differs_is_said_with_what_was_compared() {
        let (sealed, blocks) = (Some(Digest([1; 32])), Some(Digest([2; 32])));
        let said = |compared, chunks: &[u64]| {
            let now = Now::Changed { found: Digest([3; 32]), chunks: chunks.to_vec() };
            let finding = VolumeFinding {
                volume: VolumeId::new(5),
                chain: None,
                sealed,
                blocks,
                compared,
                now: now.clone(),
            };
            changed(&finding, Digest([3; 32]), chunks)
        };
        assert_eq!(
            said(Some(Measure::Tree), &[]),
            "CHANGED: tree is 030303030303, sealed was 010101010101"
        );
        let by_blocks = "CHANGED: blocks are 030303030303, sealed were 020202020202";
        assert_eq!(said(Some(Measure::Blocks), &[]), by_blocks);
        assert_eq!(said(Some(Measure::Blocks), &[4]), format!("{by_blocks}; chunks of 1 MiB: 4"));
        assert_eq!(
            said(Some(Measure::Blocks), &[4, 9, 10, 11]),
            format!("{by_blocks}; chunks of 1 MiB: 4, 9, 10 and more")
        );
    }
}
