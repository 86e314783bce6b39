//! `kill -9` at the calls of a run for a layout, for a pipe and for a real registry, and calls that fail; then the same again, or `recover`,
//! ends it and nothing is left behind. A short form runs with every test; all of it is a part of `just soak-matrix`
//! and `just soak-failures`.

use std::fs;
use std::process::Command;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use serde_json::Value;
use tests::distribution::Registry;
use tests::trace::{self, Act, Call, Effect, Ended, Side, Whose};

use crate::bench::{self, Bench, Host, names};
use crate::images::layout::{Family, Image, Layout, Packing, Saved, archive, gzip, saved};
use crate::matrix::killed_once;
use crate::sweep::{How, may_fail};

/// In a test run, each of these many calls.
const STEP: usize = 211;

/// And of those that fail.
const SWEEP_STEP: usize = 997;

fn step() -> usize {
    std::env::var("VENEER_MATRIX_STEP").map_or(STEP, |text| text.parse().unwrap())
}

struct Source {
    name: &'static str,
    reference: String,
    /// What standard input is.
    input: Option<String>,
}

/// The command of a source; standard input comes from a file by a shell, which the tracer goes along with.
fn command(host: &Host<'_>, source: &Source) -> Command {
    let words = ["activate", source.reference.as_str(), "--name", "a-1"];
    let own = host.command(&words);
    let Some(input) = &source.input else { return own };
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", &format!("exec \"$@\" < {input}"), "sh"]);
    shell.arg(own.get_program()).args(own.get_args());
    shell.envs(own.get_envs().filter_map(|(name, value)| Some((name, value?))));
    shell
}

/// Runs it and kills it at the `at`th place; gives the place, if it came so far.
fn killed_at(host: &Host<'_>, source: &Source, whose: Whose, at: usize) -> Option<Call> {
    let (mut seen, mut place) = (0, None);
    let each = |call: &Call, side: Side| {
        if call.effect != Effect::Changes || side != Side::After || place.is_some() {
            return Act::Go;
        }
        seen += 1;
        if seen <= at {
            return Act::Go;
        }
        place = Some(call.clone());
        Act::Kill
    };
    let ended = trace::run(&command(host, source), &[&host.dir], whose, each).unwrap();
    match &place {
        Some(place) => assert_eq!(ended.signal, Some(Signal::SIGKILL), "{}: {place}", source.name),
        None => assert_eq!(ended.code, Some(0), "{}: {}", source.name, ended.stderr),
    }
    place
}

fn clean(host: &Host<'_>, told: &str) {
    host.check();
    assert_eq!(names(&host.state().join("archives")), [""; 0], "{told}");
    assert_eq!(names(&host.state().join("spool")), [""; 0], "{told}");
    assert_eq!(host.rows("SELECT build FROM attempts"), [""; 0], "{told}");
    assert_eq!(host.rows("SELECT digest FROM quarantine"), [""; 0], "{told}");
}

/// And the registry that the last is in.
fn sources(bench: &Bench) -> ([Source; 5], Registry) {
    let image = Image::of(&[1, 2, 3]);
    let layout = Layout::one(&image, Packing::Gzip, Family::Oci);
    layout.put(bench, "images/app");
    layout.write(&bench.path("layout"));
    let docker = bench.path("docker.tar");
    fs::write(&docker, archive(&saved(&image, Saved::Podman, &[]))).unwrap();
    let packed = bench.path("docker.tar.gz");
    fs::write(&packed, gzip(&fs::read(&docker).unwrap())).unwrap();
    let registry =
        Registry::start(&bench::cached("registry/docker-registry"), &bench.path("registry"));
    let registry = registry.unwrap();
    registry.put(&bench.path("layout"), "app", "v1").unwrap();
    let source = |name, reference: String| Source { name, reference, input: None };
    let sources = [
        source("layout", format!("oci:{}:v1", bench.path("layout").display())),
        source("bucket", "oci:s3://bucket/images/app/:v1".into()),
        source("archive", format!("docker-archive:{}", packed.display())),
        Source {
            name: "pipe",
            reference: "docker-archive:-".into(),
            input: Some(docker.display().to_string()),
        },
        source("registry", format!("docker://{}/app:v1", registry.host())),
    ];
    (sources, registry)
}

#[test]
fn killed_at_every_kth_call_a_run_for_a_layout_a_pipe_or_a_registry_is_ended_by_the_next() {
    let bench = Bench::new(&[], 4, 2000);
    let (sources, _registry) = sources(&bench);
    let mut kills = 0;
    for source in &sources {
        for whose in [Whose::Main, Whose::Children, Whose::Others] {
            let (step, mut at) = (if whose == Whose::Others { step().min(5) } else { step() }, 0);
            loop {
                let host = bench.host("host");
                host.wipe();
                let Some(place) = killed_at(&host, source, whose, at) else {
                    clean(&host, source.name);
                    break;
                };
                kills += 1;
                let told = format!("{}: killed {whose:?} {at}: {place}", source.name);
                if kills % 2 == 0 {
                    // What is recovered is done or never was; a pipe's bytes are here or gone.
                    host.ok(&["recover"]);
                    host.check();
                    let active = host.rows("SELECT name FROM activations");
                    let left = names(&host.state().join("archives"));
                    assert!(active.is_empty() || left.is_empty(), "{told}: {left:?}");
                    if active == ["a-1"] {
                        host.check_tree("a-1", 3);
                        clean(&host, &told);
                    }
                }
                let ran = command(&host, source).output().unwrap();
                assert!(ran.status.success(), "{told}: {ran:?}");
                host.check_tree("a-1", 3);
                assert_eq!(
                    host.rows("SELECT count(*) FROM volumes WHERE role = 'layer'"),
                    ["3"],
                    "{told}"
                );
                clean(&host, &told);
                at += step;
            }
        }
    }
    eprintln!("{kills} kills, every one passed");
    assert!(kills > 20, "only {kills} places to kill at");
}

/// What is wrong with how a run ended of which calls failed with `errno`.
fn wrong(ended: &Ended, errno: Errno) -> Option<String> {
    let said: Value =
        serde_json::from_str(ended.stdout.lines().last().unwrap_or_default()).unwrap_or_default();
    let class = said["error"]["class"].as_str().unwrap_or_default();
    let good = match (ended.code, errno) {
        (Some(0), _) => return None,
        (Some(111), Errno::ENOSPC) => class == "no_space",
        (Some(111), _) => class == "temporary" || class == "no_space",
        // SQLite keeps to itself why it cannot open a file.
        (Some(100), _) => class == "host_broken" || ended.stderr.contains("database"),
        (_, _) => false,
    };
    let told = ended.stderr.contains("orchestrate: fatal: ") && !ended.stderr.contains("panicked");
    (!good || !told).then(|| format!("{:?}, {class}: {}", ended.code, ended.stderr))
}

#[test]
fn each_call_of_a_run_for_a_layout_a_pipe_or_a_registry_fails_and_the_next_ends_well() {
    let bench = Bench::new(&[], 4, 2000);
    let step: usize =
        std::env::var("VENEER_SWEEP_STEP").map_or(SWEEP_STEP, |text| text.parse().unwrap());
    let (mut runs, mut all) = (0, Vec::new());
    let short = step == SWEEP_STEP;
    // Of the others the short form has nothing that these have not.
    let named = |source: &&Source| !short || ["bucket", "pipe"].contains(&source.name);
    let (sources, _registry) = sources(&bench);
    for source in sources.iter().filter(named) {
        for (whose, errno, always) in [Whose::Main, Whose::Children, Whose::Others]
            .into_iter()
            .flat_map(|whose| [(whose, Errno::EIO, false), (whose, Errno::ENOSPC, true)])
        {
            let step = if whose == Whose::Others { step.min(29) } else { step };
            for at in (0..).step_by(step) {
                let host = bench.host("host");
                host.wipe();
                let (mut seen, mut first) = (0, None::<Call>);
                let each = |call: &Call, side: Side| {
                    if side == Side::After || !may_fail(call, How::Errno(errno)) {
                        return Act::Go;
                    }
                    seen += 1;
                    let this = match &first {
                        None => seen > at,
                        Some(first) => always && call.name == first.name,
                    };
                    if !this {
                        return Act::Go;
                    }
                    first.get_or_insert_with(|| call.clone());
                    Act::Fail(errno)
                };
                let ended = trace::run(&command(&host, source), &[&host.dir], whose, each).unwrap();
                let Some(call) = first else { break };
                runs += 1;
                let told = format!("{}: {errno} at {whose:?} {at}, {call}", source.name);
                all.extend(wrong(&ended, errno).map(|why| format!("{told}: {why}")));
                let ran = command(&host, source).output().unwrap();
                assert!(ran.status.success(), "{told}: {ran:?}");
                host.check_tree("a-1", 3);
                clean(&host, &told);
            }
        }
    }
    eprintln!("{runs} runs with a failing call");
    assert!(all.is_empty(), "{}", all.join("\n"));
}

/// For which platform an image was asked for may come from a setting, which whoever takes the run up has not.
#[test]
fn a_killed_run_is_taken_up_for_the_platform_that_it_was_asked_for() {
    let bench = Bench::small();
    let host = bench.host("host");
    let mut layout = Layout::default();
    let arm = Image { arch: "arm64", ..Image::of(&[1, 2, 4]) };
    let both = [Image::of(&[1, 2, 3]), arm.clone()];
    let both = both.map(|image| layout.image(&image, Packing::Gzip, Family::Oci));
    let index = layout.index(&both, Family::Oci);
    layout.tag(index, "v1");
    layout.write(&bench.path("layout"));
    let image = format!("oci:{}:v1", bench.path("layout").display());
    host.settings("platform = \"linux/arm64\"\n");
    killed_once(&host, &["activate", &image, "--name", "a-1"], "volumes/2");
    host.settings("");
    let done = host.ok(&["recover"]);
    assert_eq!(done["resumed"][0]["state"], "done", "{done}");
    let chain = format!("sha256:{}", host.rows("SELECT chain FROM images")[0]);
    assert_eq!(chain, arm.chain());
    host.check();
}
