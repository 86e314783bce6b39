//! Which scenarios share a boot, and the watch over each boot: a hang or a panic of the guest fails
//! the scenario that ran, and the others go on in a fresh VM.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::places::Places;
use super::qemu::{Accel, Heard, Machine, Vm};
use super::results::{Finished, Results};
use super::store;
use crate::protocol::{Ended, Event, Figures, Outcome, Plan, Stage};
use crate::scenario::{Images, Scenario};

/// From QEMU's start to the guest's first word, on a busy host.
const BOOT_BOUND: Duration = Duration::from_secs(120);
/// What the host waits beyond the guest's own bound on a scenario.
const GRACE: Duration = Duration::from_secs(30);

/// Scenarios that run in one VM, one after the other.
#[derive(Debug)]
struct Group {
    images: Images,
    memory_mib: u32,
    disks: &'static [u64],
    scenarios: Vec<&'static Scenario>,
}

/// Runs these scenarios; true if all passed.
///
/// # Errors
/// The harness itself fails: something is missing, or QEMU does not start.
pub fn run(places: &Places, accel: Accel, scenarios: &[&'static Scenario]) -> Result<bool> {
    let mut results = Results::create(&places.work.join("results.jsonl"))?;
    let mut boots = 0;
    for group in group(scenarios) {
        run_group(places, accel, &group, &mut boots, &mut results)?;
    }
    Ok(results.close())
}

fn group(scenarios: &[&'static Scenario]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for scenario in scenarios {
        let needs = &scenario.needs;
        let alone = needs.own_boot || !needs.disks.is_empty();
        let fits = |group: &&mut Group| {
            !group.scenarios.iter().any(|other| other.needs.own_boot)
                && group.disks.is_empty()
                && (group.images == Images::Full) == (needs.images == Images::Full)
        };
        match groups.iter_mut().find(fits) {
            Some(group) if !alone => {
                group.images = group.images.max(needs.images);
                group.memory_mib = group.memory_mib.max(needs.memory_mib);
                group.scenarios.push(scenario);
            }
            Some(_) | None => groups.push(Group {
                images: needs.images,
                memory_mib: needs.memory_mib,
                disks: needs.disks,
                scenarios: vec![scenario],
            }),
        }
    }
    groups
}

fn run_group(
    places: &Places,
    accel: Accel,
    group: &Group,
    boots: &mut u32,
    results: &mut Results,
) -> Result<()> {
    let disks = make_disks(places, group)?;
    let mut attached = disks.clone();
    if let Some(store) = store::disk(places, group.images)? {
        attached.push(("store".to_owned(), store, true));
    }
    let machine = Machine { accel, memory_mib: group.memory_mib, disks: attached };
    let mut pending: VecDeque<Stage> = group
        .scenarios
        .iter()
        .map(|scenario| Stage { name: scenario.name.to_owned(), phase: 0 })
        .collect();
    let mut phases = Phases::default();
    while !pending.is_empty() {
        *boots += 1;
        let console = places.work.join(format!("console-{boots}.log"));
        boot(places, &machine, &mut pending, &console, &mut phases, results)?;
    }
    for (_, file, _) in disks {
        std::fs::remove_file(&file).with_context(|| file.display().to_string())?;
    }
    Ok(())
}

/// Empty sparse files for the disks that survive a reboot.
fn make_disks(places: &Places, group: &Group) -> Result<Vec<(String, PathBuf, bool)>> {
    let mut disks = Vec::new();
    for (n, mib) in group.disks.iter().enumerate() {
        let file = places.work.join(format!("disk{n}.raw"));
        std::fs::File::create(&file)?.set_len(mib << 20)?;
        disks.push((format!("disk{n}"), file, false));
    }
    Ok(disks)
}

/// Boots once and runs what is pending until it is done, something is dirty, or the VM fails.
fn boot(
    places: &Places,
    machine: &Machine,
    pending: &mut VecDeque<Stage>,
    console: &Path,
    phases: &mut Phases,
    results: &mut Results,
) -> Result<()> {
    let plan = Plan { stages: pending.iter().cloned().collect(), shell: false };
    let started = Instant::now();
    let vm = Vm::boot(places, machine, &plan, console)?;
    let mut deadline = started + BOOT_BOUND;
    loop {
        let why = match vm.hear(deadline)? {
            Heard::Event(Event::Booted { .. }) => {
                println!("boot  {:.1} s", started.elapsed().as_secs_f64());
                deadline = Instant::now() + GRACE;
                continue;
            }
            Heard::Event(Event::Start { stage }) => {
                let bound = crate::scenarios::find(&stage.name)
                    .map_or(Duration::ZERO, |found| secs(found.needs.timeout_s));
                deadline = Instant::now() + bound + GRACE;
                continue;
            }
            Heard::Event(Event::End(ended)) => {
                pending.pop_front();
                let dirty = ended.dirty;
                phases.take(*ended, pending, results)?;
                if dirty {
                    return vm.end();
                }
                deadline = Instant::now() + GRACE;
                continue;
            }
            Heard::Event(Event::Done) => return vm.end(),
            Heard::Ended => {
                vm.end()?;
                "the VM stopped: its kernel may have panicked"
            }
            Heard::Silence => {
                vm.kill()?;
                "hang: nothing came from the VM any more, and it was killed"
            }
        };
        if let Some(stage) = pending.pop_front() {
            let ended = Ended {
                outcome: Outcome::Failed { why: why.to_owned() },
                stage,
                seconds: started.elapsed().as_secs_f64(),
                figures: Figures::new(),
                output: String::new(),
                kernel_log: console_lines(console),
                dirty: true,
            };
            phases.take(ended, pending, results)?;
        }
        return Ok(());
    }
}

fn secs(seconds: u32) -> Duration {
    Duration::from_secs(u64::from(seconds))
}

fn console_lines(console: &Path) -> Vec<String> {
    let bytes = std::fs::read(console).unwrap_or_default();
    String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect()
}

/// What earlier phases of a scenario that reboots have brought.
#[derive(Debug, Default)]
struct Phases(BTreeMap<String, (f64, Figures)>);

impl Phases {
    /// Takes a phase's end: a result, or the next phase at the head of the queue.
    fn take(
        &mut self,
        ended: Ended,
        pending: &mut VecDeque<Stage>,
        results: &mut Results,
    ) -> Result<()> {
        let Stage { name, phase } = ended.stage;
        let (mut seconds, mut figures) = self.0.remove(&name).unwrap_or_default();
        seconds += ended.seconds;
        figures.extend(ended.figures);
        let why = match ended.outcome {
            Outcome::Reboot => {
                pending.push_front(Stage { name: name.clone(), phase: phase + 1 });
                self.0.insert(name, (seconds, figures));
                return Ok(());
            }
            Outcome::Passed => None,
            Outcome::Failed { why } if phase == 0 => Some(why),
            Outcome::Failed { why } => Some(format!("phase {phase}: {why}")),
        };
        results.add(&Finished {
            scenario: name,
            passed: why.is_none(),
            why,
            seconds,
            figures,
            output: ended.output,
            kernel_log: ended.kernel_log,
        })
    }
}
