//! A year of a busy host in one run: runs that end, activations made and removed, a catalog of a higher
//! serial every minute of its clock, new stacks that are scanned and removed. What is kept of all that stays
//! as large, and answers stay as fast, as in its first days.
//!
//! One life is parts of one length; a figure for each. With `VENEER_YEAR_DIR` the host stays there with the
//! figures of all parts so far, and the next run goes on with it, also after one that was stopped in the
//! middle of a part.

use std::fs::{self, File};
use std::io::Write as _;
use std::ops::Range;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::bench::growth::Growth;
use tests::layer;

use crate::bench::{Bench, Host};
use crate::daemon::Daemon;
use crate::signed::minisign;

const IMAGE: &str = "s3://bucket/a/";

/// Acts of the whole year by the measure; the short form is some hundred.
const PARTS: u64 = 20;

/// Acts in which a minute goes by: a year has 525,600 of them and 1,000,000 acts. Each minute has a catalog.
const MINUTE: u64 = 2;

/// What an idle daemon may take of one processor, in percent.
const IDLE_MAX: f64 = 0.2;

fn number(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |text| text.parse().expect("a number"))
}

/// Who signs, and what.
struct Publisher<'b> {
    bench: &'b Bench,
    key: PathBuf,
    public: PathBuf,
    serial: u64,
    images: Value,
}

impl<'b> Publisher<'b> {
    /// With the key of this directory, which is made there once.
    fn new(bench: &'b Bench, dir: &Path) -> Publisher<'b> {
        let (key, public) = (dir.join("sign.key"), dir.join("sign.pub"));
        if !key.exists() {
            minisign(&["-G", "-W", "-p", text(&public), "-s", text(&key)]);
        }
        let maker = bench.host("maker");
        maker.ok(&["ensure", IMAGE]);
        let images = maker.ok(&["catalog", "--make", "1"])["images"].take();
        let serial = fs::read_to_string(dir.join("serial")).map_or(0, |text| text.parse().unwrap());
        Publisher { bench, key, public, serial, images }
    }

    /// A catalog of the next serial.
    fn publish(&mut self) {
        self.serial += 1;
        let catalog = json!({"version": 1, "serial": self.serial, "images": self.images});
        let bytes = serde_json::to_vec(&catalog).unwrap();
        let file = self.bench.path("catalog");
        fs::write(&file, &bytes).unwrap();
        minisign(&["-S", "-W", "-s", text(&self.key), "-m", text(&file)]);
        let signature = fs::read(self.bench.path("catalog.minisig")).unwrap();
        self.bench.put("catalog.json.minisig", &signature);
        self.bench.put("catalog.json", &bytes);
        fs::write(self.key.with_file_name("serial"), self.serial.to_string()).unwrap();
    }

    /// A stack that nobody has had, in the next catalog.
    fn new_image(&mut self, number: u64) -> String {
        let content = format!("content {number}");
        self.bench.put("new/1.tar", &layer::of(&[("new".into(), content.into_bytes())]));
        let maker = self.bench.host("maker");
        let image = "s3://bucket/new/";
        maker.ok(&["ensure", image]);
        self.images["new/"] = maker.ok(&["catalog", "--make", "1"])["images"]["new/"].take();
        maker.ok(&["rm", image]);
        self.publish();
        image.into()
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// What is measured after each part.
#[derive(Debug, Default, PartialEq)]
struct Figures {
    acts: u64,
    bytes: u64,
    files: u64,
    resident_kib: u64,
    idle_percent: f64,
    activate_p99_ms: f64,
    ls_p99_ms: f64,
}

impl Figures {
    /// A line of `year.tsv`.
    fn line(&self) -> String {
        format!(
            "{}\t{}\t{}\t{}\t{:.2}\t{:.1}\t{:.1}\n",
            self.acts,
            self.bytes,
            self.files,
            self.resident_kib,
            self.idle_percent,
            self.activate_p99_ms,
            self.ls_p99_ms
        )
    }

    /// What such a line says.
    fn of(line: &str) -> Figures {
        let cells: Vec<&str> = line.split('\t').collect();
        let [acts, bytes, files, resident, idle, activate, ls] = cells[..] else {
            panic!("no line of figures: {line}")
        };
        let number = |text: &str| text.parse::<u64>().unwrap();
        let decimal = |text: &str| text.parse::<f64>().unwrap();
        Figures {
            acts: number(acts),
            bytes: number(bytes),
            files: number(files),
            resident_kib: number(resident),
            idle_percent: decimal(idle),
            activate_p99_ms: decimal(activate),
            ls_p99_ms: decimal(ls),
        }
    }
}

#[test]
fn figures_are_kept_as_lines() {
    let one = Figures {
        acts: 50_000,
        bytes: 4_194_304,
        files: 21,
        resident_kib: 12_345,
        idle_percent: 0.05,
        activate_p99_ms: 31.5,
        ls_p99_ms: 0.4,
    };
    assert_eq!(Figures::of(one.line().trim_end()), one);
}

/// Bytes and files below a directory.
fn size(dir: &Path) -> (u64, u64) {
    let (mut bytes, mut files) = (0, 0);
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let Ok(meta) = entry.path().symlink_metadata() else { continue };
        if meta.is_dir() {
            let (more, inner) = size(&entry.path());
            (bytes, files) = (bytes + more, files + inner);
        } else {
            (bytes, files) = (bytes + meta.len(), files + 1);
        }
    }
    (bytes, files)
}

fn p99(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() * 99 / 100].as_secs_f64() * 1e3
}

/// Processor time of a process so far, in ticks of 10 ms (proc(5)).
fn ticks(daemon: &Daemon) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", daemon.pid())).unwrap();
    let after: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    after[11].parse::<u64>().unwrap() + after[12].parse::<u64>().unwrap()
}

fn idle_percent(daemon: &Daemon, seconds: u64) -> f64 {
    let before = ticks(daemon);
    std::thread::sleep(Duration::from_secs(seconds));
    (ticks(daemon) - before) as f64 / seconds as f64
}

fn done(daemon: &Daemon, run: u64) {
    let end = daemon.end_of(run);
    assert_eq!(end["state"], "done", "{end}");
}

fn activate(daemon: &Daemon, name: &str, image: &str) -> Duration {
    let begun = Instant::now();
    let run = daemon.activate(name, image);
    done(daemon, run);
    begun.elapsed()
}

fn remove(daemon: &Daemon, target: &str) {
    let answer = daemon.ask("DELETE", target, "");
    let body = answer.json();
    let run = body["id"].as_u64().unwrap_or_else(|| panic!("DELETE {target}: {body}"));
    done(daemon, run);
}

fn activation(name: &str) -> String {
    format!("/v1/activations/{name}")
}

fn figures(host: &Host<'_>, daemon: &Daemon, acts: u64, samples: u64) -> Figures {
    let mut activated = Vec::new();
    let mut listed = Vec::new();
    for number in 0..samples {
        let name = format!("sample-{acts}-{number}");
        activated.push(activate(daemon, &name, IMAGE));
        let begun = Instant::now();
        daemon.get("/v1/listing");
        listed.push(begun.elapsed());
        remove(daemon, &activation(&name));
    }
    let (bytes, files) = size(&host.state());
    Figures {
        acts,
        bytes,
        files,
        resident_kib: daemon.status("VmRSS"),
        idle_percent: idle_percent(daemon, if samples > 20 { 20 } else { 1 }),
        activate_p99_ms: p99(activated),
        ls_p99_ms: p99(listed),
    }
}

/// Runs of all kinds, each ended: of ten, two for an activation, the others ask for an image again.
fn live(daemon: &Daemon, publisher: &mut Publisher<'_>, acts: Range<u64>, at: &Path) {
    for act in acts {
        if act % 100 == 0 {
            fs::write(at, act.to_string()).unwrap();
        }
        match act % 10 {
            0 => {
                activate(daemon, &format!("vm-{act}"), IMAGE);
                remove(daemon, &activation(&format!("vm-{act}")));
            }
            _ => {
                let run = daemon.begin("PUT", "/v1/images", &json!({"image": IMAGE}));
                done(daemon, run);
            }
        }
        if act % MINUTE == 0 {
            publisher.publish();
            publisher.bench.proxy.clear();
        }
        if act % 30 == 15 {
            let image = publisher.new_image(act);
            activate(daemon, "scanned", &image);
            remove(daemon, &activation("scanned"));
            remove(daemon, &format!("/v1/images?image={image}"));
        }
    }
}

fn plot(figures: &[Figures]) -> String {
    let series = |what: &str, unit: &'static str, of: fn(&Figures) -> f64| Growth {
        of: "acts".into(),
        what: what.into(),
        unit,
        points: figures.iter().map(|one| (one.acts, of(one))).collect(),
    };
    tests::bench::table::chart(
        &[],
        &[
            series("state directory", "KiB", |one| one.bytes as f64 / 1024.0),
            series("files of the state directory", "files", |one| one.files as f64),
            series("memory of the daemon", "KiB", |one| one.resident_kib as f64),
            series("processor of the idle daemon", "%", |one| one.idle_percent),
            series("activate, p99", "ms", |one| one.activate_p99_ms),
            series("ls, p99", "ms", |one| one.ls_p99_ms),
        ],
    )
}

#[test]
fn a_year_leaves_no_more_than_its_first_days() {
    let acts = number("VENEER_YEAR_ACTS", 120);
    let long = acts > 10_000;
    let parts = if long { PARTS } else { 2 };
    let bench = Bench::new(&[("a", &[1])], 2, 100);
    let kept = std::env::var_os("VENEER_YEAR_DIR").map(PathBuf::from);
    let host = match &kept {
        Some(dir) => bench.host(text(dir)),
        None => bench.host("host"),
    };
    fs::create_dir_all(&host.dir).unwrap();
    let mut publisher = Publisher::new(&bench, &host.dir);
    publisher.publish();
    let scanner = bench.path("scanner");
    fs::write(&scanner, "#!/bin/sh\necho '{\"SchemaVersion\": 2, \"Results\": []}'\n").unwrap();
    fs::set_permissions(&scanner, fs::Permissions::from_mode(0o755)).unwrap();
    let settings = format!(
        "[catalog]\nurl = \"s3://bucket/catalog.json\"\nkeys = [\"{}\"]\n\
         [scan]\npolicy = \"report\"\ncommand = [\"{}\", \"{{}}\"]\n{}",
        text(&publisher.public),
        text(&scanner),
        // So that the short form, too, is beyond what is kept.
        if long { "" } else { HISTORY },
    );
    // The maker of catalogs trusts nobody.
    let config = bench.path("year.toml");
    fs::write(&config, settings).unwrap();
    let at = host.dir.join("acts");
    let before = fs::read_to_string(&at).map_or(0, |text| text.parse().unwrap());
    let daemon = Daemon::start_with(&host, &[], &[("VENEER_CONFIG", text(&config))]);
    let samples = if long { 300 } else { 5 };
    let part = acts / parts;
    let figures_at = host.dir.join("year.tsv");
    // What is kept is full after the first part, and grows no more.
    for number in before / part..parts {
        let end = (number + 1) * part;
        live(&daemon, &mut publisher, before.max(number * part)..end, &at);
        fs::write(&at, end.to_string()).unwrap();
        let one = figures(&host, &daemon, end, samples);
        println!("{one:?}");
        let mut lines = File::options().create(true).append(true).open(&figures_at).unwrap();
        lines.write_all(one.line().as_bytes()).unwrap();
        if kept.is_some() {
            fs::write(host.dir.join("year.svg"), plot(&all(&figures_at))).unwrap();
        }
    }
    let found = all(&figures_at);
    let (Some(first), Some(last)) = (found.first(), found.last()) else { return };
    assert!(last.files <= first.files + 4, "files: {first:?}, {last:?}");
    assert!(last.bytes <= first.bytes * 5 / 4 + (256 << 10), "bytes: {first:?}, {last:?}");
    if long {
        let busy: Vec<&Figures> = found.iter().filter(|one| one.idle_percent > IDLE_MAX).collect();
        assert!(busy.is_empty(), "idle, and at work: {busy:?}");
    }
    daemon.stop();
    host.ok(&["recover", "--dry-run"]);
}

/// The figures of all parts so far, also of runs before this one.
fn all(figures_at: &Path) -> Vec<Figures> {
    fs::read_to_string(figures_at).unwrap_or_default().lines().map(Figures::of).collect()
}

/// What is kept of the past in the short form.
const HISTORY: &str = "[history]\nruns = 20\nevents = 50\nverdicts = 3\n";
