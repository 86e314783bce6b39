//! The table at the top of `plan` against the code: every edge is in it and no other, and recovery does what it says.

use std::collections::BTreeSet;

use registry::{ActivationState, RunState, Seal, VolumeState};

use crate::plan::{self, ActivationStep, Mapping, VolumeStep};

/// One row, by the names of the head.
struct Row {
    what: String,
    from: String,
    to: String,
    by: String,
    cells: Vec<String>,
    absent: String,
    mapped: String,
}

fn rows() -> Vec<Row> {
    let text = include_str!("mod.rs");
    let lines = text.lines().filter_map(|line| line.strip_prefix("//! |"));
    let row = |line: &str| {
        let cells: Vec<String> =
            line.trim_end_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
        let [what, from, to, by, .., absent, mapped] = cells.as_slice() else {
            panic!("a row of other cells: {line}");
        };
        let [what, from, to, by] = [what, from, to, by].map(Clone::clone);
        let (absent, mapped) = (absent.clone(), mapped.clone());
        Row { what, from, to, by: by.trim_matches('`').to_owned(), cells, absent, mapped }
    };
    lines.skip(2).map(row).collect()
}

fn sealed() -> VolumeState {
    VolumeState::Sealed(Seal {
        chain: None,
        diff: None,
        blob: None,
        tree: None,
        blocks: None,
        own_bytes: 0,
        entries: 0,
        content_bytes: 0,
    })
}

fn edges(what: &str) -> BTreeSet<(String, String)> {
    let rows = rows();
    let of = rows.iter().filter(|row| row.what == what);
    let edges: Vec<_> = of.map(|row| (row.from.clone(), row.to.clone())).collect();
    let set: BTreeSet<_> = edges.iter().cloned().collect();
    assert_eq!(set.len(), edges.len(), "an edge of {what} stands twice");
    set
}

/// The edges of `states`, with the making of the first and the end of the last.
fn expected<S>(
    states: &[S],
    word: fn(&S) -> &str,
    may: fn(&S, &S) -> bool,
) -> BTreeSet<(String, String)> {
    let name = |state: &S| word(state).to_owned();
    let mut edges = BTreeSet::from([
        ("-".to_owned(), name(&states[0])),
        (name(&states[states.len() - 1]), "-".to_owned()),
    ]);
    for from in states {
        edges.extend(states.iter().filter(|to| may(from, to)).map(|to| (name(from), name(to))));
    }
    edges
}

fn volumes() -> [VolumeState; 3] {
    [VolumeState::Building, sealed(), VolumeState::Deleting]
}

fn activations() -> [ActivationState; 4] {
    use ActivationState::{Active, Deleting, Inactive, Reserved};
    [Reserved, Active, Inactive, Deleting]
}

#[test]
fn the_table_has_every_edge_and_no_other() {
    let volumes = expected(&volumes(), VolumeState::word, VolumeState::may_become);
    assert_eq!(edges("volume"), volumes);
    let activations =
        expected(&activations(), |state| state.word(), |from, to| from.may_become(*to));
    assert_eq!(edges("activation"), activations);
}

#[test]
fn a_run_leaves_every_state_but_its_ends() {
    let failed = RunState::Failed { class: String::new(), message: String::new() };
    let states = [RunState::Queued, RunState::Running, RunState::Done, failed, RunState::Cancelled];
    let edges = edges("run");
    for state in states {
        let leaves = edges.iter().any(|(from, _)| from == state.word());
        assert_eq!(leaves, !state.is_end(), "{}", state.word());
        assert!(
            edges.iter().any(|(_, to)| to == state.word()),
            "nothing leads to {}",
            state.word()
        );
    }
}

/// The steps by which recovery brings a volume to rest.
fn of_volume(mut state: VolumeState, mut mapping: Mapping) -> String {
    let mut steps = Vec::new();
    loop {
        let step = plan::volume(&state, mapping);
        match step {
            VolumeStep::Keep if steps.is_empty() => return "Keep".into(),
            VolumeStep::Keep => return steps.join(", "),
            VolumeStep::Unmap => mapping = Mapping::Absent,
            VolumeStep::Discard => state = VolumeState::Deleting,
            VolumeStep::Delete => {
                steps.push(format!("{step:?}"));
                return steps.join(", ");
            }
        }
        steps.push(format!("{step:?}"));
    }
}

/// The steps by which recovery brings an activation to rest.
fn of_activation(state: ActivationState, mut mapping: Mapping) -> String {
    let (wish, mut state) = (plan::settled(state), Some(state));
    let mut steps = Vec::new();
    loop {
        let step = plan::activation(state, mapping, wish);
        match step {
            ActivationStep::Done if steps.is_empty() => return "Keep".into(),
            ActivationStep::Done => return steps.join(", "),
            ActivationStep::Reserve => state = Some(ActivationState::Reserved),
            ActivationStep::Publish | ActivationStep::Map => {
                (state, mapping) = (Some(ActivationState::Active), Mapping::Live);
            }
            ActivationStep::Unmap => mapping = Mapping::Absent,
            ActivationStep::Rest => state = Some(ActivationState::Inactive),
            ActivationStep::Condemn => state = Some(ActivationState::Deleting),
            ActivationStep::Delete => (state, mapping) = (None, Mapping::Absent),
        }
        steps.push(format!("{step:?}"));
    }
}

#[test]
fn recovery_does_what_the_table_says() {
    let mut compared = 0;
    for row in rows() {
        let (absent, mapped) = match row.what.as_str() {
            "volume" => {
                let Some(state) = volumes().into_iter().find(|s| s.word() == row.from) else {
                    continue;
                };
                (of_volume(state.clone(), Mapping::Absent), of_volume(state, Mapping::Live))
            }
            "activation" => {
                let Some(state) = ActivationState::from_word(&row.from) else { continue };
                (of_activation(state, Mapping::Absent), of_activation(state, Mapping::Live))
            }
            _ => continue,
        };
        let edge = format!("{} {} to {}", row.what, row.from, row.to);
        assert_eq!((row.absent, row.mapped), (absent, mapped), "{edge}");
        compared += 1;
    }
    assert_eq!(compared, 11);
}

#[test]
fn every_row_is_whole_and_names_a_file() {
    let src = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for row in rows() {
        assert_eq!(row.cells.len(), 8, "{} {} to {}", row.what, row.from, row.to);
        assert!(row.cells.iter().all(|cell| !cell.is_empty()), "{:?}", row.cells);
        assert!(src.join(&row.by).is_file(), "{} is not there", row.by);
    }
}
