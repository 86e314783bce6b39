//! The lines of the guides that only a whole machine with systemd can run: they name units that the package
//! has. The others are typed in the VM by the scenario `guides`.

use std::collections::BTreeSet;
use std::path::Path;

use tests::guides::lines;

/// Verbs of systemctl that take units.
const VERBS: [&str; 10] = [
    "start",
    "stop",
    "restart",
    "try-restart",
    "reload",
    "enable",
    "disable",
    "status",
    "edit",
    "reset-failed",
];

fn shipped() -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace's folder");
    let units = std::fs::read_dir(root.join("packaging/systemd")).expect("packaging/systemd");
    units.map(|unit| unit.expect("a unit").file_name().to_string_lossy().into_owned()).collect()
}

/// The units that a line names, with the ending that systemd thinks of.
fn named(line: &str) -> Vec<String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let units: Vec<&str> = match words.as_slice() {
        ["systemctl", verb, rest @ ..] if VERBS.contains(verb) => {
            rest.iter().copied().filter(|word| !word.starts_with('-')).collect()
        }
        ["journalctl", rest @ ..] => {
            let after = |pair: &[&str]| (pair[0] == "-u").then(|| pair[1].to_owned());
            return rest.windows(2).filter_map(after).map(with_ending).collect();
        }
        _ => panic!("this test does not know what {line:?} does"),
    };
    units.into_iter().map(|unit| with_ending(unit.to_owned())).collect()
}

fn with_ending(unit: String) -> String {
    if unit.contains('.') { unit } else { format!("{unit}.service") }
}

#[test]
fn lines_for_systemd_name_units_that_are_shipped() {
    let shipped = shipped();
    let mut seen = 0;
    for line in lines().iter().filter(|line| line.is_systemds()) {
        let units = named(&line.text);
        assert!(!units.is_empty(), "{}: `{}` names no unit", line.guide, line.text);
        for unit in units {
            assert!(shipped.contains(&unit), "{}: `{}`: no unit {unit}", line.guide, line.text);
            seen += 1;
        }
    }
    assert!(seen > 5, "only {seen} units are named");
}
