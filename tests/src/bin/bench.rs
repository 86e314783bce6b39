//! `bench`: ours against what anyone would use instead, in one run; see `tests::bench`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use argh::FromArgs;
use tests::bench::counts::{self, Count};
use tests::bench::growth::{self, Growth};
use tests::bench::images::Pulled;
use tests::bench::jobs::{self, NAMES, Store};
use tests::bench::{Row, Setup, contest, kept, peers, table, vm};
use tests::host::places::Places;

/// Measure every job side by side with what anyone would use instead. Writes results.json, table.md and
/// chart.svg under target/bench.
#[derive(FromArgs)]
struct Args {
    /// hold the ratios against docs/performance.tsv and end with 1 when one got worse
    #[argh(switch)]
    check: bool,
    /// keep the ratios of this run in docs/performance.tsv
    #[argh(switch)]
    keep: bool,
    /// rounds that count (default 5)
    #[argh(option, default = "5")]
    rounds: usize,
    /// where to unpack to: a folder on the file system that is meant (default target/bench)
    #[argh(option)]
    dir: Option<PathBuf>,
    /// in the VM the full images rather than the small ones
    #[argh(switch)]
    full: bool,
    /// do without programs that are not installed
    #[argh(switch)]
    no_install: bool,
    /// jobs, "images", "counts", "growth" and "vm"; all when there is none
    #[argh(positional)]
    jobs: Vec<String>,
}

/// Beside the jobs that share a server.
const OTHERS: [&str; 4] = ["images", "counts", "growth", "vm"];

fn main() -> ExitCode {
    match start(&argh::from_env()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: fatal: {error:#}");
            ExitCode::from(111)
        }
    }
}

fn start(args: &Args) -> Result<bool> {
    let known = |name: &&String| NAMES.contains(&name.as_str()) || OTHERS.contains(&name.as_str());
    if let Some(name) = args.jobs.iter().find(|name| !known(name)) {
        bail!("no job {name:?}: there are {}, {}", NAMES.join(", "), OTHERS.join(", "));
    }
    let places = Places::find()?;
    let root = std::env::current_dir()?;
    if !args.no_install
        && root.join("bootstrap").exists()
        && let Err(error) = peers::install(&root)
    {
        eprintln!("bench: {error:#}; going on without");
    }
    let out = places.work.with_file_name("bench");
    let base = args.dir.clone().unwrap_or_else(|| out.clone());
    std::fs::create_dir_all(&out)?;
    std::fs::create_dir_all(&base)?;
    let scratch = tempfile::tempdir_in(&base)?;
    let setup = Setup {
        programs: places.programs.clone(),
        peers: places.peers(),
        images: places.images.clone(),
        scratch: scratch.path().to_owned(),
        rounds: args.rounds.max(1),
    };
    let wanted = |name: &str| args.jobs.is_empty() || args.jobs.iter().any(|job| job == name);
    let mut rows = Vec::new();
    let mut growth = Vec::new();
    let mut notes = vec![machine()];
    let counts = native(&setup, &places, &wanted, &mut rows, &mut growth)?;
    for Count { what, instructions } in counts.iter().flatten() {
        notes.push(format!("{what}: {instructions} instructions"));
    }
    if wanted("counts") && counts.is_none() {
        notes.push("instructions were not counted: there is no valgrind".into());
    }
    let counts = counts.unwrap_or_default();
    if wanted("images") {
        images(&setup, &places, &mut rows, &mut notes)?;
    }
    if wanted("vm") {
        rows.extend(vm::rows(&places, args.full, &mut growth, &mut notes)?);
    }
    notes.extend(sizes(&setup)?);
    let text = table::markdown(&rows, &growth, &notes);
    println!("{text}");
    std::fs::write(out.join("table.md"), &text)?;
    std::fs::write(out.join("chart.svg"), table::chart(&rows, &growth))?;
    let json =
        serde_json::json!({"rows": rows, "growth": growth, "counts": counts, "notes": notes});
    std::fs::write(out.join("results.json"), serde_json::to_vec_pretty(&json)?)?;
    println!("written: {}", out.join("{table.md,chart.svg,results.json}").display());
    let file = root.join("docs/performance.tsv");
    if args.keep {
        let kept = std::fs::read_to_string(&file).unwrap_or_default();
        std::fs::write(&file, kept::write(&kept, &rows, &counts)?)
            .with_context(|| file.display().to_string())?;
    }
    if args.check {
        let text = std::fs::read_to_string(&file)
            .with_context(|| format!("{}: `just bench --keep` makes it", file.display()))?;
        let worse = kept::worse(&text, &rows, &counts)?;
        worse.iter().for_each(|line| println!("worse: {line}"));
        return Ok(worse.is_empty());
    }
    Ok(true)
}

fn native(
    setup: &Setup,
    places: &Places,
    wanted: &dyn Fn(&str) -> bool,
    rows: &mut Vec<Row>,
    growth: &mut Vec<Growth>,
) -> Result<Option<Vec<Count>>> {
    if !NAMES.iter().chain(&["counts", "growth"]).any(|name| wanted(name)) {
        return Ok(None);
    }
    let store = Store::start(setup, &places.s3_server())?;
    for name in NAMES.into_iter().filter(|name| wanted(name)) {
        let job = match name {
            "fetch" => jobs::fetch(setup, &store)?,
            "unpack" => jobs::unpack(setup)?,
            "stream" => jobs::stream(setup, &store)?,
            "unpack-bare" => jobs::unpack_bare(setup)?,
            "image" | "image-bare" => jobs::image(setup, name)?,
            "stages" => jobs::stages(setup, &store)?,
            "stages-once" => jobs::stages_once(setup, &store)?,
            "start-up" => jobs::start_up(setup),
            "no-op" => jobs::no_op(setup, &store)?,
            compressed => jobs::compressed(setup, compressed)?,
        };
        eprintln!("bench: {name}: {}", job.what);
        rows.push(contest::run(setup, &job)?);
    }
    if wanted("growth") {
        eprintln!("bench: growth");
        growth.extend(growth::entries(setup)?);
        growth.extend(growth::bytes(setup, &store.server)?);
        growth.extend(growth::stacks(setup, &store.server)?);
        growth.extend(growth::inventory(setup, &store.server)?);
    }
    match wanted("counts") {
        true => counts::run(setup, &store),
        false => Ok(None),
    }
}

fn images(
    setup: &Setup,
    places: &Places,
    rows: &mut Vec<Row>,
    notes: &mut Vec<String>,
) -> Result<()> {
    let Some(pulled) = Pulled::start(setup, &places.registry())? else {
        notes.push("images were not pulled: there is no skopeo to make them".into());
        return Ok(());
    };
    for job in pulled.first(setup) {
        eprintln!("bench: {}: {}", job.name, job.what);
        rows.push(contest::run(setup, &job)?);
    }
    notes.extend(pulled.second(setup)?);
    Ok(())
}

fn machine() -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = |key: &str| {
        let found = cpu.lines().find(|line| line.starts_with(key));
        found.and_then(|line| line.split_once(": ")).map_or("?", |(_, value)| value).to_owned()
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let sha = if line("flags").contains("sha_ni") { "with" } else { "without" };
    format!("{cores} cores, {}, {sha} SHA instructions", line("model name"))
}

fn sizes(setup: &Setup) -> Result<Vec<String>> {
    let mut sizes = Vec::new();
    for name in ["fetch", "unpack", "thin", "registry", "orchestrate"] {
        let bytes = std::fs::metadata(setup.programs.join(name))?.len();
        sizes.push(format!("{name} {:.1} MB", bytes as f64 / 1e6));
    }
    Ok(vec![format!("static programs: {}", sizes.join(", "))])
}
