//! A daemon with little memory and little processor, and hostile servers and layers among good ones: the good images
//! arrive all the time, and the daemon is never restarted. A seed says which comes next; the long form is
//! `just soak-small`.
//!
//! The bounds are a control group's where one can be made: 256 MiB for the daemon, its children and what they have
//! in the page cache, and half a processor. Where none can, the data of each process is bounded by prlimit, and
//! that is said.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tests::dice::Dice;
use tests::layer;

use crate::bench::{Bench, Host};
use crate::daemon::Daemon;

const MEMORY: u64 = 256 << 20;
/// Of one processor, in percent.
const PROCESSOR: u64 = 50;
/// Runs at once; one of them is left to the good.
const WORKERS: usize = 4;

/// Servers that are hostile by how they answer.
const SERVERS: [&str; 6] = ["endless", "huge-keys", "drip-list", "drip-body", "cut", "garbled"];

fn number(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |text| text.parse().expect("a number"))
}

/// One entry of a tar, with PAX records before it.
fn entry(tar: &mut Vec<u8>, name: &str, kind: u8, link: &str, content: &[u8], pax: &[u8]) {
    if !pax.is_empty() {
        entry(tar, "pax", b'x', "", pax, &[]);
    }
    let mut head = [0; 512];
    head[..name.len()].copy_from_slice(name.as_bytes());
    head[100..107].copy_from_slice(b"0000755");
    head[108..115].copy_from_slice(b"0000000");
    head[116..123].copy_from_slice(b"0000000");
    head[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
    head[136..147].copy_from_slice(b"00000000000");
    head[148..156].copy_from_slice(b"        ");
    head[156] = kind;
    head[157..157 + link.len()].copy_from_slice(link.as_bytes());
    head[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = head.iter().map(|byte| u32::from(*byte)).sum();
    head[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    tar.extend(head);
    tar.extend(content);
    tar.resize(tar.len().next_multiple_of(512), 0);
}

fn pax(key: &str, value: &str) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    format!("{length} {key}={value}\n").into_bytes()
}

/// Layers that cost, or are to be refused, by name; `scale` times as many entries.
fn layers(scale: usize) -> Vec<(&'static str, Vec<u8>)> {
    let plain = |tar: &mut Vec<u8>, name: &str| entry(tar, name, b'0', "", b"", &[]);
    let mut all = Vec::new();
    let mut tar = Vec::new();
    plain(&mut tar, "first");
    for at in 0..5000 * scale {
        entry(&mut tar, &format!("links/{at}"), b'1', "first", b"", &[]);
    }
    all.push(("hard-links", tar));
    let mut tar = Vec::new();
    let deep = "d/".repeat(900);
    entry(&mut tar, "x", b'5', "", b"", &pax("path", &deep));
    for at in 0..39 {
        let to = if at == 0 { deep.clone() } else { format!("s{}", at - 1) };
        entry(&mut tar, &format!("s{at}"), b'2', "", b"", &pax("linkpath", &to));
    }
    for at in 0..200 * scale {
        plain(&mut tar, &format!("s38/{at}"));
    }
    all.push(("symlink-walks", tar));
    let mut tar = Vec::new();
    for _ in 0..3 * scale {
        entry(&mut tar, "x", b'5', "", b"", &pax("path", &"e/".repeat(2000)));
        plain(&mut tar, ".wh.e");
        plain(&mut tar, "e");
    }
    all.push(("deep-removals", tar));
    let mut tar = Vec::new();
    for at in 0..20 * scale {
        let many: Vec<u8> =
            (0..100).flat_map(|n| pax(&format!("SCHILY.xattr.user.n{n}"), "v")).collect();
        entry(&mut tar, &format!("f{at}"), b'0', "", b"", &many);
    }
    all.push(("attributes", tar));
    let mut tar = Vec::new();
    for _ in 0..20_000 * scale {
        plain(&mut tar, "same");
    }
    all.push(("overwritten", tar));
    let mut tar = Vec::new();
    entry(&mut tar, "x", b'0', "", b"", &pax("path", &"../n".repeat(75_000)));
    all.push(("long-name", tar));
    let mut tar = Vec::new();
    entry(&mut tar, "zeros", b'0', "", &vec![0; 64 << 20], &[]);
    all.push(("bomb", tar));
    for (_, tar) in &mut all {
        tar.resize(tar.len() + 1024, 0);
    }
    all.push(("escape", layer::named("../../evil")));
    all
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut command = Command::new("gzip");
    let mut child =
        command.arg("-9c").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("gzip");
    let mut input = child.stdin.take().unwrap();
    std::thread::scope(|threads| {
        threads.spawn(move || input.write_all(content).unwrap());
        let mut packed = Vec::new();
        child.stdout.take().unwrap().read_to_end(&mut packed).unwrap();
        assert!(child.wait().unwrap().success());
        packed
    })
}

/// In front of the good server: what has a hostile name is answered by it, all else goes through.
fn front(good: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            std::thread::spawn(move || drop(answer(client, good)));
        }
    });
    address
}

fn answer(mut client: TcpStream, good: SocketAddr) -> std::io::Result<()> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && head.len() < 64 << 10 {
        if client.read(&mut byte)? == 0 {
            return Ok(());
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let target = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let listing = target.contains("list-type=2");
    let how = SERVERS.iter().find(|how| target.contains(&format!("evil-{how}")));
    let xml = "HTTP/1.1 200 OK\r\nContent-Type: application/xml\r\nConnection: close\r\n\r\n\
               <?xml version=\"1.0\"?><ListBucketResult>";
    match (how.copied(), listing) {
        (Some("endless" | "huge-keys"), true) => {
            static PAGE: AtomicUsize = AtomicUsize::new(0);
            let page = PAGE.fetch_add(1, Ordering::Relaxed);
            let length = if how == Some(&"endless") { 900 } else { 64 << 10 };
            let mut text = format!("{xml}<IsTruncated>true</IsTruncated>");
            text += &format!("<NextContinuationToken>t{page}</NextContinuationToken>");
            for at in 0..200 {
                let key = format!("evil/{}{page}-{at}", "k".repeat(length));
                text += &format!(
                    "<Contents><Key>{key}</Key><Size>1</Size><ETag>\"e\"</ETag></Contents>"
                );
            }
            client.write_all((text + "</ListBucketResult>").as_bytes())
        }
        (Some("drip-list"), true) => {
            client.write_all(xml.as_bytes())?;
            loop {
                client.write_all(b" ")?;
                std::thread::sleep(Duration::from_millis(500));
            }
        }
        (how, _) => {
            let mut server = TcpStream::connect(good)?;
            let lines = head.trim_end().lines();
            let kept = lines.filter(|line| !line.to_ascii_lowercase().starts_with("connection:"));
            let kept: Vec<&str> = kept.collect();
            let request = format!("{}\r\nConnection: close\r\n\r\n", kept.join("\r\n"));
            server.write_all(request.as_bytes())?;
            let mut whole = Vec::new();
            server.read_to_end(&mut whole)?;
            let body = whole.windows(4).position(|four| four == b"\r\n\r\n").map_or(0, |at| at + 4);
            let middle = body + (whole.len() - body) / 2;
            match how.filter(|_| !listing) {
                Some("drip-body") => {
                    client.write_all(&whole[..body])?;
                    for byte in &whole[body..] {
                        client.write_all(&[*byte])?;
                        std::thread::sleep(Duration::from_millis(500));
                    }
                    Ok(())
                }
                Some("cut") => client.write_all(&whole[..middle]),
                Some("garbled") if middle < whole.len() => {
                    whole[middle] ^= 0x55;
                    client.write_all(&whole)
                }
                Some(_) | None => client.write_all(&whole),
            }
        }
    }
}

/// One setting of a group: which of the directories, its file, what goes in.
type Setting = (usize, &'static str, String);

/// What bounds the daemon, as far as this host lets it.
enum Bounds {
    /// Directories of control groups, one for each controller that is a hierarchy of its own.
    Groups(Vec<PathBuf>),
    /// Nothing but the data of each process.
    Data,
}

impl Bounds {
    fn new() -> Bounds {
        let root = Path::new("/sys/fs/cgroup");
        let name = format!("veneer-small-{}", std::process::id());
        let quota = PROCESSOR * 1000;
        let sets: [(Vec<PathBuf>, Vec<Setting>); 2] = [
            (
                vec![root.join(&name)],
                vec![
                    (0, "memory.max", MEMORY.to_string()),
                    (0, "cpu.max", format!("{quota} 100000")),
                ],
            ),
            (
                vec![root.join("memory").join(&name), root.join("cpu").join(&name)],
                vec![
                    (0, "memory.limit_in_bytes", MEMORY.to_string()),
                    (1, "cpu.cfs_period_us", "100000".into()),
                    (1, "cpu.cfs_quota_us", quota.to_string()),
                ],
            ),
        ];
        for (places, settings) in sets {
            // What is no hierarchy of control groups is left alone; and nothing but the kernel makes their files.
            let is_group = |place: &PathBuf| {
                place.parent().is_some_and(|above| above.join("cgroup.procs").exists())
            };
            let set = |(at, file, text): &Setting| {
                let file = places[*at].join(file);
                file.exists() && fs::write(file, text).is_ok()
            };
            let made = places.iter().all(is_group)
                && places.iter().all(|place| fs::create_dir(place).is_ok());
            if made && settings.iter().all(set) {
                return Bounds::Groups(places);
            }
            places.iter().for_each(|place| drop(fs::remove_dir(place)));
        }
        Bounds::Data
    }

    /// Under them, this command; its process is the command's.
    fn wrap(&self, command: &Command) -> Command {
        let mut shell = Command::new("sh");
        let enter = match self {
            Bounds::Groups(places) => {
                let enter = |place: &PathBuf| {
                    format!("echo $$ > '{}' && ", place.join("cgroup.procs").display())
                };
                places.iter().map(enter).collect::<String>()
            }
            Bounds::Data => format!("ulimit -d {} && ", MEMORY >> 10),
        };
        shell.arg("-c").arg(format!("{enter}exec \"$0\" \"$@\"")).arg(command.get_program());
        shell.args(command.get_args()).stdin(Stdio::null());
        for (key, value) in command.get_envs() {
            shell.env(key, value.unwrap_or_default());
        }
        shell
    }

    fn told(&self) -> String {
        let read = |place: &Path, file: &str| fs::read_to_string(place.join(file)).ok();
        match self {
            Bounds::Groups(places) => {
                let peak = ["memory.peak", "memory.max_usage_in_bytes"];
                let peak = peak.iter().find_map(|file| read(&places[0], file)).unwrap_or_default();
                let events = ["memory.events", "memory.oom_control"];
                let events = events.iter().find_map(|file| read(&places[0], file));
                let kills = events.unwrap_or_default();
                let kills = kills.lines().find(|line| line.starts_with("oom_kill "));
                format!(
                    "a control group, {} MiB and {PROCESSOR} % of a processor; peak {} MiB with the page \
                     cache, {}",
                    MEMORY >> 20,
                    peak.trim().parse::<u64>().unwrap_or(0) >> 20,
                    kills.unwrap_or("oom_kill not told")
                )
            }
            Bounds::Data => {
                "no control group can be made here: prlimit, 256 MiB of data a process".into()
            }
        }
    }
}

impl Drop for Bounds {
    fn drop(&mut self) {
        if let Bounds::Groups(places) = self {
            for place in places {
                // Its processes may be about to end.
                for _ in 0..100 {
                    if fs::remove_dir(&*place).is_ok() {
                        break;
                    }
                    std::thread::sleep(Duration::from_millis(50));
                }
            }
        }
    }
}

/// A new image, made, looked at and removed again; how long until it was there.
fn good(bench: &Bench, host: &Host<'_>, daemon: &Daemon, number: u64) -> Duration {
    let content: Vec<_> = (0..8)
        .map(|file| (format!("srv/{file}"), format!("{number} {file}").into_bytes()))
        .collect();
    bench.put(&format!("good-{number}/1.tar"), &layer::of(&content));
    let (name, image) = (format!("g-{number}"), format!("s3://bucket/good-{number}/"));
    let begun = Instant::now();
    let run = daemon.activate(&name, &image);
    let end = daemon.end_of(run);
    let took = begun.elapsed();
    assert_eq!(end["state"], "done", "{end}");
    let file = host.store().join("active").join(&name).join("srv/7");
    assert_eq!(fs::read_to_string(file).unwrap(), format!("{number} 7"));
    for target in [format!("/v1/activations/{name}"), format!("/v1/images?image={image}")] {
        let removed = daemon.ask("DELETE", &target, "").json();
        let run = removed["id"].as_u64().unwrap_or_else(|| panic!("{target}: {removed}"));
        daemon.end_of(run);
    }
    took
}

#[test]
fn a_small_daemon_gives_good_images_among_hostile_ones() {
    let seconds = number("VENEER_SMALL_SECONDS", 15);
    let seed = number("VENEER_SEED", 1);
    let bench = Bench::on_disk(&[("a", &[1])], 2, 100);
    let layers = layers(if seconds > 60 { 10 } else { 1 });
    let mut evil: Vec<&str> = Vec::new();
    for (name, tar) in &layers {
        bench.put(&format!("evil-{name}/1.tar.gz"), &gzip(tar));
        evil.push(name);
    }
    for name in SERVERS {
        bench.put(&format!("evil-{name}/1.tar"), &layer::stacked(9, 4, 2000));
        evil.push(name);
    }
    let address = front(bench.server());
    let host = bench.host("small");
    let bounds = Bounds::new();
    let workers = WORKERS.to_string();
    let plain = host.command_at(address, &["serve", "--concurrency", &workers]);
    let daemon = Daemon::start_command(&host, bounds.wrap(&plain));
    let pid = daemon.pid();
    let (mut dice, begun) = (Dice::new(seed), Instant::now());
    let mut running: Vec<(&str, u64, Instant)> = Vec::new();
    let mut ends: BTreeMap<(String, String), (u64, Duration)> = BTreeMap::new();
    let mut times = Vec::new();
    while begun.elapsed() < Duration::from_secs(seconds) || times.is_empty() {
        running.retain(|(name, run, since)| {
            let line = daemon.get(&format!("/v1/runs/{run}"));
            let state = line["state"].as_str().unwrap().to_owned();
            let live = ["queued", "running"].contains(&state.as_str());
            if !live {
                let class = line["class"].as_str().unwrap_or("").to_owned();
                let end = ends.entry(((*name).to_owned(), format!("{state} {class}"))).or_default();
                *end = (end.0 + 1, end.1.max(since.elapsed()));
            }
            live
        });
        while running.len() < WORKERS - 1 {
            let name = evil[usize::try_from(dice.roll(evil.len() as u64)).unwrap()];
            if running.iter().any(|(other, ..)| *other == name) {
                continue;
            }
            let image = json!({"image": format!("s3://bucket/evil-{name}/")});
            // The run of that image that was given up just now may still be at its end.
            let answer = daemon.ask("PUT", "/v1/images", &image.to_string());
            if answer.status == 503 {
                std::thread::sleep(Duration::from_millis(20));
                continue;
            }
            let run = answer.json()["id"].as_u64().unwrap_or_else(|| panic!("{}", answer.json()));
            running.push((name, run, Instant::now()));
        }
        // What drips may do so for long: half of the time somebody gives it up.
        if dice.roll(8) == 0 {
            let (_, run, _) = running.swap_remove(0);
            daemon.ask("POST", &format!("/v1/runs/{run}/cancel"), "");
        }
        times.push(good(&bench, &host, &daemon, times.len() as u64));
    }
    for (_, run, _) in running {
        daemon.ask("POST", &format!("/v1/runs/{run}/cancel"), "");
    }
    good(&bench, &host, &daemon, u64::MAX);
    assert_eq!(daemon.pid(), pid);
    let resident = daemon.status("VmHWM");
    let count = times.len();
    times.sort_unstable();
    let at = |percent: usize| times[(count * percent / 100).min(count - 1)].as_secs_f64();
    println!("bounds: {}", bounds.told());
    println!(
        "seed {seed}, {seconds} s, {} hostile runs at once; the daemon's own peak {} MiB",
        WORKERS - 1,
        resident >> 10
    );
    println!(
        "good images: {count}, all arrived; s until there: p50 {:.2}, p99 {:.2}, max {:.2}",
        at(50),
        at(99),
        at(100)
    );
    for ((name, end), (count, longest)) in &ends {
        println!("  {name:<14} {end:<22} {count:>5} times, longest {:.1} s", longest.as_secs_f64());
    }
    daemon.stop();
    host.ok(&["recover"]);
}
