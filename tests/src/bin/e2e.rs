//! `e2e [NAME..]`: runs scenarios in the VM; `e2e --vm`: a shell in it. `--kernel` says on which kernel.

use std::process::ExitCode;

use anyhow::{Result, bail};
use argh::FromArgs;
use tests::host::kernel::Kernel;
use tests::host::places::Places;
use tests::host::{qemu, run, store};
use tests::scenario::{Images, Scenario};
use tests::scenarios;

/// Run end-to-end scenarios in a VM with device-mapper.
#[derive(FromArgs)]
struct Args {
    /// list the scenarios and stop
    #[argh(switch)]
    list: bool,
    /// the full-size images, and the scenarios on them, instead of the small ones
    #[argh(switch)]
    full: bool,
    /// the long form of scenarios that have one: faults by the hundred
    #[argh(switch)]
    soak: bool,
    /// give a shell in the VM on this terminal
    #[argh(switch)]
    vm: bool,
    /// the kernel, by its version such as 6.12, or a folder with vmlinuz and modules (default: the oldest there is)
    #[argh(option)]
    kernel: Option<String>,
    /// run on each kernel there is but the oldest; without names a short set
    #[argh(switch)]
    others: bool,
    /// VMs that run side by side (default: one for each processor, at most 4 and one for each 4 GiB of
    /// free memory; the long forms one after the other)
    #[argh(option)]
    lanes: Option<usize>,
    /// memory of that VM in MiB (default 2048)
    #[argh(option, default = "2048")]
    memory: u32,
    /// scenarios, or beginnings of their names; all when there is none
    #[argh(positional)]
    names: Vec<String>,
}

fn main() -> ExitCode {
    match start(&argh::from_env()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("e2e: fatal: {error:#}");
            ExitCode::from(111)
        }
    }
}

fn start(args: &Args) -> Result<bool> {
    if args.list {
        for scenario in scenarios::ALL.iter().chain(scenarios::LONG) {
            println!("{}", scenario.name);
        }
        return Ok(true);
    }
    let places = Places::find()?;
    let chosen = chosen(args)?;
    let lanes = match args.lanes {
        Some(lanes @ 1..=16) => lanes,
        Some(lanes) => bail!("--lanes {lanes}: it is 1 to 16"),
        None if args.soak || args.full => 1,
        None => fitting_lanes(),
    };
    if args.others {
        if args.kernel.is_some() || args.vm {
            bail!(
                "--others runs scenarios on all kernels but one: it goes with neither --kernel nor --vm"
            );
        }
        let mut good = true;
        let others: Vec<Kernel> =
            Kernel::all(&places)?.into_iter().filter(|kernel| !kernel.first).collect();
        if others.is_empty() {
            println!("this suite has one kernel alone: nothing more to run");
        }
        for kernel in others {
            good &= run::run(&places, &qemu::machine(&places, kernel)?, &chosen, args.soak, lanes)?;
        }
        return Ok(good);
    }
    let machine = qemu::machine(&places, Kernel::find(&places, args.kernel.as_deref())?)?;
    if args.vm {
        let images = if args.full { Images::Full } else { Images::Small };
        let disks = store::disk(&places, images)?.into_iter().collect();
        let machine = qemu::Machine { memory_mib: args.memory, disks, ..machine };
        qemu::shell(&places, &machine)?;
        return Ok(true);
    }
    run::run(&places, &machine, &chosen, args.soak, lanes)
}

/// So many VMs as this machine has processors and memory for: what a scenario's bounds allow for.
fn fitting_lanes() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let free = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
        line.split_whitespace().next()?.parse::<usize>().ok()
    });
    processors.min(free.map_or(1, |kib| kib >> 22)).clamp(1, 4)
}

fn chosen(args: &Args) -> Result<Vec<&'static Scenario>> {
    let mut chosen: Vec<&'static Scenario> = Vec::new();
    if args.names.is_empty() && args.others && !args.full && !args.soak {
        chosen.extend(scenarios::SHORT);
    } else if args.names.is_empty() {
        let full = |scenario: &&Scenario| (scenario.needs.images == Images::Full) == args.full;
        let long = |scenario: &&Scenario| !args.soak || scenario.needs.soak_timeout_s.is_some();
        chosen.extend(scenarios::ALL.iter().filter(full).filter(long));
        if args.soak {
            chosen.extend(scenarios::LONG);
        }
    }
    for name in &args.names {
        let before = chosen.len();
        match scenarios::find(name) {
            Some(scenario) => chosen.push(scenario),
            None => chosen.extend(
                scenarios::ALL.iter().chain(scenarios::LONG).filter(|s| s.name.starts_with(name)),
            ),
        }
        if chosen.len() == before {
            let all: Vec<&str> = scenarios::ALL
                .iter()
                .chain(scenarios::LONG)
                .map(|scenario| scenario.name)
                .collect();
            bail!("no scenario \"{}\": there are {}", name.escape_debug(), all.join(", "));
        }
    }
    Ok(chosen)
}
