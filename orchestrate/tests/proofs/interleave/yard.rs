//! Where rounds begin: a server with small images, hosts that have some of them, and somebody who is told of
//! the ends of runs.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tests::dice::Dice;
use tests::layer;

use super::acts::{A, Act, B, P, Theme};
use crate::bench::{Bench, Host};

pub(crate) const IMAGES: &[(&str, &[u8])] =
    &[("a", &[1, 2]), ("b", &[1, 3]), ("c", &[1, 4]), ("p", &[1, 5])];

/// Files of a layer, and their bytes.
const FILES: (usize, usize) = (2, 100);

/// How long somebody may take to be told, on a loaded machine too.
const PATIENCE: Duration = Duration::from_secs(30);

/// See the module.
pub(crate) struct Yard<'b> {
    bench: &'b Bench,
    scenes: BTreeMap<&'static str, Host<'b>>,
    receiver: SocketAddr,
    told: Arc<Mutex<BTreeSet<String>>>,
    number: usize,
}

/// What stands in the queue of the scene `queued`, all about a name: the act that it is.
pub(crate) fn queued(verb: &str) -> Option<Act> {
    match verb {
        "deactivate" => Some(Act::Deactivate("x")),
        "activate" => Some(Act::Activate { name: "y", image: B, bytes: None }),
        _ => None,
    }
}

impl<'b> Yard<'b> {
    pub(crate) fn bench() -> Bench {
        Bench::new(IMAGES, FILES.0, FILES.1)
    }

    /// The `number`th yard with this server.
    pub(crate) fn new(bench: &'b Bench, number: usize) -> Yard<'b> {
        let words: &[(&'static str, &[&[&str]])] = &[
            ("fresh", &[]),
            ("sealed", &[&["ensure", A], &["ensure", B]]),
            (
                "names",
                &[
                    &["ensure", A],
                    &["ensure", B],
                    &["activate", A, "--name", "x"],
                    &["activate", B, "--name", "y"],
                    &["deactivate", "y"],
                ],
            ),
            ("pushed", &[&["ensure", P]]),
        ];
        let mut scenes = BTreeMap::new();
        for (name, words) in words {
            let host = bench.host(&format!("{name}-{number}"));
            words.iter().for_each(|words| drop(host.ok(words)));
            scenes.insert(*name, host);
        }
        let host = scenes["names"].copy_to(&format!("queued-{number}"));
        let conn = Connection::open(host.state().join("registry.db")).unwrap();
        let wishes = [
            ("deactivate", "x", "{\"when_closed\": false}".to_owned()),
            ("activate", "y", serde_json::json!({"image": B}).to_string()),
        ];
        for wish in wishes {
            // As by a daemon that was killed before it began them.
            let sql = "INSERT INTO runs(verb, subject, input, state, priority, attempt, created_ms,
                       updated_ms) VALUES (?1, ?2, ?3, 'queued', 0, 0, 1, 1)";
            conn.execute(sql, wish).unwrap();
        }
        drop(conn);
        scenes.insert("queued", host);
        let scanner = bench.path("scanner");
        let report = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/reports/other.sarif");
        std::fs::write(&scanner, format!("#!/bin/sh\ncat {report}\n")).unwrap();
        std::fs::set_permissions(&scanner, std::fs::Permissions::from_mode(0o755)).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let receiver = listener.local_addr().unwrap();
        let told = Arc::<Mutex<BTreeSet<String>>>::default();
        let heard = told.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if let Some(path) = hear(stream) {
                    heard.lock().unwrap().insert(path);
                }
            }
        });
        Yard { bench, scenes, receiver, told, number }
    }

    /// A host as the theme has it, of its own.
    pub(crate) fn set_up(
        &self,
        theme: Theme,
        seed: u64,
        dice: &mut Dice,
    ) -> (&'static str, Host<'b>) {
        let scene = match theme {
            Theme::Names => dice.of(&["sealed", "names", "sealed", "names", "fresh"]),
            Theme::Daemon => dice.of(&["sealed", "sealed", "names"]),
            Theme::Images => dice.of(&["sealed", "names", "fresh"]),
            Theme::Slow | Theme::SlowDaemon => "names",
            Theme::Rebuild => dice.of(&["names", "names", "queued"]),
            Theme::Killed => dice.of(&["sealed", "names", "fresh"]),
            Theme::Push => "pushed",
        };
        if theme == Theme::Push {
            // The host has yet another one.
            self.push(dice);
        }
        (scene, self.scenes[scene].copy_to(&format!("round-{}-{seed}", self.number)))
    }

    pub(crate) fn command(&self, host: &Host<'_>, words: &[&str]) -> Command {
        let mut command = host.command(words);
        let scanner = format!("{} {{}}", self.bench.path("scanner").display());
        command.env("VENEER_SCAN_COMMAND", scanner);
        command
    }

    /// The image `p` gets another top layer.
    pub(crate) fn push(&self, dice: &mut Dice) {
        self.put(20 + u8::try_from(dice.roll(200)).unwrap_or_default());
    }

    fn put(&self, number: u8) {
        self.bench.put("p/2.tar", &layer::stacked(number, FILES.0, FILES.1));
    }

    /// An address that is to hear of the end of what one of a round asks for.
    pub(crate) fn hook(&self, seed: u64, seat: usize) -> String {
        format!("http://{}/{seed}/{seat}", self.receiver)
    }

    /// Who was not told, of these by address.
    pub(crate) fn untold(&self, hooks: &BTreeMap<String, String>) -> Vec<String> {
        let begun = Instant::now();
        loop {
            let told = self.told.lock().unwrap();
            let heard = |hook: &String| told.iter().any(|path| hook.ends_with(path.as_str()));
            let left: Vec<String> =
                hooks.iter().filter(|(hook, _)| !heard(hook)).map(|(_, who)| who.clone()).collect();
            drop(told);
            if left.is_empty() || begun.elapsed() > PATIENCE {
                return left;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// The path of one request, which is answered.
fn hear(mut stream: TcpStream) -> Option<String> {
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let (mut bytes, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        let read = stream.read(&mut piece).ok()?;
        bytes.extend_from_slice(&piece[..read]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case("content-length").then(|| value.parse::<usize>().ok())?
        });
        if read == 0 || body.len() >= length.unwrap_or_default() {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").ok()?;
            return head.split(' ').nth(1).map(str::to_owned);
        }
    }
}
