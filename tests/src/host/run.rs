//! Which scenarios share a boot, and the watch over each boot: a hang or a panic of the guest fails
//! the scenario that ran, and the others go on in a fresh VM. Several VMs may run side by side, each in a lane.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

use super::cuts;
use super::places::Places;
use super::qemu::{Disk, Heard, Keeps, Machine, Vm};
use super::results::{Finished, Results};
use super::root_disk;
use super::store;
use super::volatile::VolatileDisk;
use crate::protocol::{Ended, Event, Figures, Outcome, Plan, Stage};
use crate::scenario::{Images, Scenario};

/// From QEMU's start to the guest's first word, on a busy host.
const BOOT_BOUND: Duration = Duration::from_secs(120);
/// Boots in a row that may end before the guest's first word. A kernel that is emulated by several threads
/// panics once in some hundred boots before it has started a program: that is no scenario's fault.
const STILLBORN_MAX: u32 = 2;
/// What the host waits beyond the guest's own bound on a scenario.
const GRACE: Duration = Duration::from_secs(30);
/// Scenarios in one boot where there are several lanes: few, so that the lanes end together.
const BOOT_MAX: usize = 4;

/// Scenarios that run in one VM, one after the other.
#[derive(Debug)]
struct Group {
    images: Images,
    memory_mib: u32,
    disks: &'static [u64],
    scenarios: Vec<&'static Scenario>,
}

/// Runs these scenarios on this machine, which gets the disks and the memory that they need; `long` in the
/// long form of those that have one; in so many VMs side by side. True if all passed.
///
/// # Errors
/// The harness itself fails: something is missing, or QEMU does not start.
pub fn run(
    places: &Places,
    machine: &Machine,
    scenarios: &[&'static Scenario],
    long: bool,
    lanes: usize,
) -> Result<bool> {
    let file = machine.kernel.file(&places.work, "results", "jsonl");
    let results = Results::create(&file)?;
    let (boot_max, processors) = if lanes > 1 { (BOOT_MAX, 1) } else { (usize::MAX, 2) };
    let mut groups = VecDeque::new();
    for group in group(scenarios, boot_max) {
        // The disk of images is made here, once, and the lanes only read it.
        let images = store::disk(places, group.images)?;
        groups.push_back((group, images));
    }
    let (groups, boots) = (Mutex::new(groups), AtomicU32::new(0));
    std::thread::scope(|scope| {
        let start = |number| {
            let (groups, boots, results) = (&groups, &boots, &results);
            scope.spawn(move || -> Result<()> {
                let here = places.lane(number)?;
                let lane = Lane { places, here, machine, processors, long, boots, results };
                loop {
                    let next = groups.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                    let Some((group, images)) = next else { return Ok(()) };
                    let ended = lane.run_group(&group, images);
                    if ended.is_err() {
                        groups.lock().unwrap_or_else(PoisonError::into_inner).clear();
                        return ended;
                    }
                }
            })
        };
        let started: Vec<_> = (1..=lanes).map(start).collect();
        let ended =
            started.into_iter().map(|lane| lane.join().map_err(|_| anyhow!("a lane panicked"))?);
        // Each lane is waited for, whatever another one says.
        ended.collect::<Vec<Result<()>>>().into_iter().collect::<Result<()>>()
    })?;
    Ok(results.close())
}

fn group(scenarios: &[&'static Scenario], boot_max: usize) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for scenario in scenarios {
        let needs = &scenario.needs;
        let alone = needs.own_boot || !needs.disks.is_empty();
        let fits = |group: &&mut Group| {
            !group.scenarios.iter().any(|other| other.needs.own_boot)
                && group.disks.is_empty()
                && group.scenarios.len() < boot_max
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

/// What runs one VM after the other, beside other lanes.
struct Lane<'a> {
    /// Where consoles and results go.
    places: &'a Places,
    /// The same with a folder of its own for what a VM is made of.
    here: Places,
    machine: &'a Machine,
    processors: u32,
    long: bool,
    boots: &'a AtomicU32,
    results: &'a Results,
}

impl Lane<'_> {
    fn run_group(&self, group: &Group, images: Option<Disk>) -> Result<()> {
        let disks = make_disks(&self.here, group)?;
        let mut attached = disks.clone();
        attached.extend(images);
        let machine = Machine {
            memory_mib: group.memory_mib,
            processors: self.processors,
            disks: attached,
            ..self.machine.clone()
        };
        let stages = group.scenarios.iter().map(|scenario| cuts::first_stage(scenario, self.long));
        let mut pending: VecDeque<Stage> = stages.collect::<Result<_>>()?;
        let mut phases = Phases::default();
        let mut stillborn = 0;
        while !pending.is_empty() {
            let boot = self.boots.fetch_add(1, Ordering::Relaxed) + 1;
            let console = machine.kernel.file(&self.places.work, &format!("console-{boot}"), "log");
            let mut served = Vec::new();
            for disk in &machine.disks {
                if let Keeps::Flushed(socket) = &disk.keeps {
                    served.push(VolatileDisk::serve(&disk.file, socket)?);
                }
            }
            let may_fail = stillborn < STILLBORN_MAX;
            let end = self.boot(&machine, &mut pending, &console, &mut phases, may_fail)?;
            stillborn = if end == BootEnd::Stillborn { stillborn + 1 } else { 0 };
            let lose = match end {
                BootEnd::PowerCut { seed } => Some(seed),
                BootEnd::Over | BootEnd::Stillborn => None,
            };
            for disk in served {
                disk.end(lose)?;
            }
        }
        let says = group.scenarios.iter().find_map(|scenario| scenario.needs.then_says);
        let last = phases.last.take().filter(|last| last.passed);
        if let (Some(says), Some(disk), Some(last)) = (says, disks.first(), last) {
            root_disk::boot(&self.here, &machine, &disk.file, says, last, self.results)?;
        }
        for Disk { file, .. } in disks {
            std::fs::remove_file(&file).with_context(|| file.display().to_string())?;
        }
        Ok(())
    }
}

/// Empty sparse files for the disks that survive a reboot.
fn make_disks(places: &Places, group: &Group) -> Result<Vec<Disk>> {
    let cuts = group.scenarios.iter().any(|scenario| scenario.needs.power_cuts.is_some());
    let mut disks = Vec::new();
    for (n, mib) in group.disks.iter().enumerate() {
        let file = places.work.join(format!("disk{n}.raw"));
        std::fs::File::create(&file)?.set_len(mib << 20)?;
        let socket = places.work.join(format!("disk{n}.socket"));
        let keeps = if cuts { Keeps::Flushed(socket) } else { Keeps::Written };
        disks.push(Disk { serial: format!("disk{n}"), file, keeps });
    }
    Ok(disks)
}

/// How a boot ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BootEnd {
    /// What was pending is done, or the rest needs a fresh VM.
    Over,
    /// With a power cut: the disks lose what this seed says.
    PowerCut { seed: u64 },
    /// Before the guest's first word: all is still pending.
    Stillborn,
}

impl Lane<'_> {
    /// Boots once and runs what is pending until it is done, something is dirty, or the VM fails. With `may_fail`
    /// a guest that ends before its first word fails no scenario.
    fn boot(
        &self,
        machine: &Machine,
        pending: &mut VecDeque<Stage>,
        console: &Path,
        phases: &mut Phases,
        may_fail: bool,
    ) -> Result<BootEnd> {
        let plan = Plan { stages: pending.iter().cloned().collect(), shell: false };
        let started = Instant::now();
        let vm = Vm::boot(&self.here, machine, &plan, console)?;
        let mut deadline = started + BOOT_BOUND;
        let (mut booted, mut cut) = (false, false);
        loop {
            let why = match vm.hear(deadline)? {
                Heard::Event(Event::Booted { kernel, .. }) => {
                    booted = true;
                    println!("boot  {:.1} s, Linux {kernel}", started.elapsed().as_secs_f64());
                    phases.kernel = Some(kernel);
                    deadline = Instant::now() + GRACE;
                    continue;
                }
                Heard::Event(Event::Start { stage }) => {
                    let bound = crate::scenarios::find(&stage.name)
                        .map_or(Duration::ZERO, |found| found.needs.bound(stage.long));
                    deadline = Instant::now() + bound + GRACE;
                    continue;
                }
                Heard::Event(Event::Armed) => {
                    if let Some(after) = pending.front().and_then(cuts::moment) {
                        cut = true;
                        deadline = Instant::now() + after;
                    }
                    continue;
                }
                Heard::Silence if cut => {
                    vm.kill()?;
                    let Some(stage) = pending.pop_front() else { return Ok(BootEnd::Over) };
                    let seed = cuts::roll(&stage);
                    phases.take(cuts::ended(stage, started.elapsed()), pending, self.results)?;
                    return Ok(BootEnd::PowerCut { seed });
                }
                Heard::Event(Event::End(ended)) => {
                    pending.pop_front();
                    let dirty = ended.dirty;
                    phases.take(*ended, pending, self.results)?;
                    if dirty {
                        return vm.end().map(|()| BootEnd::Over);
                    }
                    deadline = Instant::now() + GRACE;
                    continue;
                }
                Heard::Event(Event::Done) => return vm.end().map(|()| BootEnd::Over),
                Heard::Ended => {
                    vm.end()?;
                    "the VM stopped: its kernel may have panicked"
                }
                Heard::Silence => {
                    vm.kill()?;
                    "hang: nothing came from the VM any more, and it was killed"
                }
            };
            if !booted && may_fail {
                println!("boot  failed before the guest's first word, and is tried again: {why}");
                println!("      its console: {}", console.display());
                return Ok(BootEnd::Stillborn);
            }
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
                phases.take(ended, pending, self.results)?;
            }
            return Ok(BootEnd::Over);
        }
    }
}

fn console_lines(console: &Path) -> Vec<String> {
    let bytes = std::fs::read(console).unwrap_or_default();
    String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect()
}

/// What a group's boots have brought so far.
#[derive(Debug, Default)]
struct Phases {
    /// Of scenarios that reboot, what their earlier phases have brought.
    earlier: BTreeMap<String, (f64, Figures)>,
    /// The release of the kernel that has booted.
    kernel: Option<String>,
    /// What ended last.
    last: Option<Finished>,
}

impl Phases {
    /// Takes a phase's end: a result, or the next phase at the head of the queue.
    fn take(
        &mut self,
        ended: Ended,
        pending: &mut VecDeque<Stage>,
        results: &Results,
    ) -> Result<()> {
        let Stage { name, phase, .. } = ended.stage.clone();
        let (mut seconds, mut figures) = self.earlier.remove(&name).unwrap_or_default();
        seconds += ended.seconds;
        figures.extend(ended.figures);
        let why = match ended.outcome {
            Outcome::Reboot => {
                pending.push_front(Stage { phase: phase + 1, ..ended.stage });
                self.earlier.insert(name, (seconds, figures));
                return Ok(());
            }
            Outcome::Passed => None,
            Outcome::Failed { why } if phase == 0 => Some(why),
            Outcome::Failed { why } => Some(format!("phase {phase}: {why}")),
        };
        let finished = Finished {
            scenario: name,
            kernel: self.kernel.clone(),
            passed: why.is_none(),
            why,
            seconds,
            figures,
            output: ended.output,
            kernel_log: ended.kernel_log,
        };
        results.add(&finished)?;
        self.last = Some(finished);
        Ok(())
    }
}
