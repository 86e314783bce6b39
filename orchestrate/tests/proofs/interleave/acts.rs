//! What somebody may do, how it is asked, and how its answer is to be understood.

use serde_json::{Value, json};
use tests::dice::Dice;
use tests::trace::Ended;

use super::view::Row;

/// Whom it is asked of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Via {
    /// A process of its own does it.
    Command,
    /// The daemon does it.
    Daemon,
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    Ensure(&'static str),
    Activate {
        name: &'static str,
        image: &'static str,
        bytes: Option<u64>,
    },
    Deactivate(&'static str),
    /// An activation or an image.
    Rm(&'static str),
    Pin(&'static str),
    Scan(&'static str),
    Ls,
    Gc {
        all: bool,
    },
    Recover,
    Rebuild,
    Cancel(u64),
    /// The image `p` is another one from now on, at the server.
    Push,
}

pub(crate) const A: &str = "s3://bucket/a/";
pub(crate) const B: &str = "s3://bucket/b/";
pub(crate) const C: &str = "s3://bucket/c/";
pub(crate) const P: &str = "s3://bucket/p/";

/// The size of a volume that nobody chose, and another.
pub(crate) const PLAIN: u64 = 4 << 30;
pub(crate) const LARGE: u64 = 8 << 30;

/// How somebody was answered.
#[derive(Clone, PartialEq)]
pub(crate) enum Answer {
    Done(Value),
    /// A query's no.
    No,
    /// Something else has the name, or is wanted of it.
    Conflict,
    /// There is no such thing.
    Unknown,
    Cancelled,
    /// It was killed and answered nobody.
    None,
    /// What should not happen to anybody.
    Failed(String),
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Answer::Done(said) if said["already"] == true => write!(f, "done already"),
            Answer::Done(_) => write!(f, "done"),
            Answer::No => write!(f, "no"),
            Answer::Conflict => write!(f, "conflict"),
            Answer::Unknown => write!(f, "unknown"),
            Answer::Cancelled => write!(f, "cancelled"),
            Answer::None => write!(f, "killed"),
            Answer::Failed(why) => write!(f, "FAILED {why}"),
        }
    }
}

impl Act {
    /// The words of the command.
    pub(crate) fn words(&self) -> Vec<String> {
        let text = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        match self {
            Act::Ensure(image) => text(&["ensure", image]),
            Act::Activate { name, image, bytes: None } => {
                text(&["activate", image, "--name", name])
            }
            Act::Activate { name, image, bytes: Some(bytes) } => {
                text(&["activate", image, "--name", name, "--size", &bytes.to_string()])
            }
            Act::Deactivate(name) => text(&["deactivate", name]),
            Act::Rm(subject) => text(&["rm", subject]),
            Act::Pin(image) => text(&["pin", image]),
            Act::Scan(image) => text(&["scan", image]),
            Act::Ls => text(&["ls"]),
            Act::Gc { all: true } => text(&["gc", "--keep-bytes", "0"]),
            Act::Gc { all: false } => text(&["gc"]),
            Act::Recover => text(&["recover"]),
            Act::Rebuild => text(&["rebuild"]),
            Act::Cancel(run) => text(&["cancel", &run.to_string()]),
            Act::Push => Vec::new(),
        }
    }

    /// Method, target and body of the request.
    pub(crate) fn request(&self, hook: Option<&str>, priority: i64) -> (&str, String, String) {
        let with = |mut body: Value| {
            if let Some(hook) = hook {
                body["webhook"] = hook.into();
            }
            if priority != 0 {
                body["priority"] = priority.into();
            }
            body.to_string()
        };
        match self {
            Act::Ensure(image) => ("PUT", "/v1/images".into(), with(json!({"image": image}))),
            Act::Activate { name, image, bytes } => {
                let body = json!({"id": name, "image": image, "bytes": bytes});
                ("POST", "/v1/activations".into(), with(body))
            }
            Act::Deactivate(name) => {
                ("POST", format!("/v1/activations/{name}/deactivate"), String::new())
            }
            Act::Rm(subject) if subject.starts_with("s3://") => {
                ("DELETE", format!("/v1/images?image={subject}"), String::new())
            }
            Act::Rm(subject) => ("DELETE", format!("/v1/activations/{subject}"), String::new()),
            Act::Pin(image) => (
                "POST",
                "/v1/images/pin".into(),
                json!({"image": image, "pinned": true}).to_string(),
            ),
            Act::Gc { all } => {
                let body = if *all { json!({"keep_bytes": 0}) } else { json!({}) };
                ("POST", "/v1/gc".into(), body.to_string())
            }
            Act::Cancel(run) => ("POST", format!("/v1/runs/{run}/cancel"), String::new()),
            Act::Ls | Act::Scan(_) | Act::Recover | Act::Rebuild | Act::Push => {
                ("GET", "/v1/listing".into(), String::new())
            }
        }
    }

    /// The name that it is about, if it is about one.
    pub(crate) fn name(&self) -> Option<&'static str> {
        match self {
            Act::Activate { name, .. } | Act::Deactivate(name) => Some(name),
            Act::Rm(subject) => (!subject.starts_with("s3://")).then_some(subject),
            Act::Ensure(_)
            | Act::Pin(_)
            | Act::Scan(_)
            | Act::Ls
            | Act::Gc { .. }
            | Act::Recover
            | Act::Rebuild
            | Act::Cancel(_)
            | Act::Push => None,
        }
    }

    fn image(&self) -> Option<&'static str> {
        match self {
            Act::Ensure(image)
            | Act::Activate { image, .. }
            | Act::Pin(image)
            | Act::Scan(image) => Some(image),
            Act::Rm(subject) => subject.starts_with("s3://").then_some(subject),
            Act::Push => Some(P),
            Act::Deactivate(_)
            | Act::Ls
            | Act::Gc { .. }
            | Act::Recover
            | Act::Rebuild
            | Act::Cancel(_) => None,
        }
    }

    /// Whether it has to wait for the other while that waits for a silent server: they are about the same,
    /// or the one builds what the other needs.
    pub(crate) fn needs(&self, other: &Act) -> bool {
        let builds =
            |act: &Act| matches!(act, Act::Ensure(_) | Act::Activate { .. } | Act::Scan(_));
        match (self, other) {
            // It ends what others are at, or waits for the end of all.
            (Act::Rebuild | Act::Cancel(_) | Act::Recover, _) => true,
            (Act::Activate { name, .. }, _) if other.name() == Some(name) => true,
            (_, _) if self.name().is_some() && self.name() == other.name() => true,
            (_, Act::Gc { .. }) if matches!(self, Act::Gc { .. }) => true,
            (one, other) if builds(one) && builds(other) => one.image() == other.image(),
            (Act::Rm(_), other) => self.image().is_some() && self.image() == other.image(),
            _ => false,
        }
    }
}

/// What a command's end means.
pub(crate) fn answer(act: &Act, ended: &Ended) -> Answer {
    let said: Value = serde_json::from_str(ended.stdout.trim()).unwrap_or_default();
    let error = &said["error"];
    match ended.code {
        _ if ended.signal.is_some() => Answer::None,
        Some(0) => Answer::Done(said),
        Some(1) => Answer::No,
        code => {
            let told = error["message"].as_str().unwrap_or(ended.stderr.trim());
            let class = error["class"].as_str().unwrap_or_default();
            // What `recover` took up has ended in these ways, and it tells so.
            if *act == Act::Recover && error.is_null() && code.is_some() {
                return Answer::Done(said);
            }
            refusal(class, told, || format!("{code:?}: {told}"))
        }
    }
}

fn refusal(class: &str, told: &str, failed: impl FnOnce() -> String) -> Answer {
    match class {
        "cancelled" => Answer::Cancelled,
        "not_found" => Answer::Unknown,
        "conflict" => Answer::Conflict,
        // Who came later has taken it away already: told so, and as if it had been cancelled.
        _ if told.contains("was asked for later and is done") => Answer::Cancelled,
        _ if told.contains("is making it") || told.contains("is in use by") => Answer::Conflict,
        _ if told.contains("taken by") || told.contains("with another") => Answer::Conflict,
        _ => Answer::Failed(failed()),
    }
}

/// What the end of a run means for who asked for it.
pub(crate) fn run_answer(row: &Row) -> Answer {
    match row.state.as_str() {
        "done" => Answer::Done(Value::Null),
        "cancelled" => Answer::Cancelled,
        // The class is in the message's stead only where the row has no more.
        _ if row.message.contains("no activation") || row.message.contains("no image") => {
            Answer::Unknown
        }
        _ => refusal("", &row.message, || format!("its run failed: {}", row.message)),
    }
}

/// What an answer of the daemon means: the run to wait for, or the answer itself.
pub(crate) fn http_answer(status: u16, body: &Value) -> Result<u64, Answer> {
    match (status, body["id"].as_u64()) {
        (200 | 202, Some(run)) => Ok(run),
        (200, None) => Err(Answer::Done(body.clone())),
        (404, _) => Err(Answer::Unknown),
        (409, _) => Err(Answer::Conflict),
        _ => Err(Answer::Failed(format!("{status}: {body}"))),
    }
}

/// What a round is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Theme {
    /// Several want something of one name.
    Names,
    /// Images are made, used and taken away.
    Images,
    /// A server is silent to one of them.
    Slow,
    /// The registry is made anew meanwhile.
    Rebuild,
    /// Somebody is killed.
    Killed,
    /// An image becomes another one at the server.
    Push,
    /// As [`Theme::Names`], by way of a daemon and past it.
    Daemon,
    /// As [`Theme::Slow`], by way of a daemon.
    SlowDaemon,
}

pub(crate) const THEMES: &[Theme] = &[
    Theme::Names,
    Theme::Images,
    Theme::Slow,
    Theme::Rebuild,
    Theme::Killed,
    Theme::Push,
    Theme::Daemon,
    Theme::SlowDaemon,
    // Most ways to meet.
    Theme::Daemon,
];

impl Theme {
    pub(crate) fn has_daemon(self) -> bool {
        matches!(self, Theme::Daemon | Theme::SlowDaemon)
    }

    /// Two to four acts, with whom they are asked of.
    pub(crate) fn acts(self, dice: &mut Dice) -> Vec<(Act, Via)> {
        let count = 2 + usize::try_from(dice.roll(3)).unwrap_or_default();
        let mut acts = self.first(dice);
        while acts.len() < count {
            let act = self.act(dice);
            let own = matches!(act, Act::Recover | Act::Rebuild | Act::Scan(_) | Act::Push);
            let asks = self.has_daemon() && !own && dice.roll(3) > 0;
            acts.push((act, if asks { Via::Daemon } else { Via::Command }));
        }
        acts
    }

    /// What the theme is about.
    fn first(self, dice: &mut Dice) -> Vec<(Act, Via)> {
        use Via::{Command, Daemon};
        let up = |image, bytes| Act::Activate { name: "x", image, bytes };
        match self {
            Theme::Rebuild if dice.roll(2) == 0 => {
                vec![(Act::Rebuild, Command), (Act::Ensure(C), Command)]
            }
            Theme::Rebuild => vec![(Act::Rebuild, Command)],
            Theme::Slow | Theme::SlowDaemon => {
                let via = if self == Theme::Slow { Command } else { Daemon };
                let long = match dice.roll(3) {
                    0 => Act::Activate { name: "z", image: C, bytes: None },
                    _ => Act::Ensure(C),
                };
                vec![(long, via)]
            }
            Theme::Push => {
                let older = dice.of(&[Act::Ensure(P), up(P, None)]);
                let newer =
                    dice.of(&[Act::Ensure(P), Act::Activate { name: "y", image: P, bytes: None }]);
                vec![(Act::Push, Command), (older, Command), (newer, Command)]
            }
            // One stands in the queue, and the other is about the same.
            Theme::Daemon => {
                let [one, two] = dice.of(&[[A, B], [B, A]]);
                let other = match dice.roll(7) {
                    0 | 1 => (up(two, None), Command),
                    2 => (up(one, Some(LARGE)), Command),
                    3 => (up(two, None), Daemon),
                    4 => (up(one, None), Daemon),
                    5 => (up(one, None), Command),
                    _ => return vec![(Act::Deactivate("x"), Daemon), (up(A, None), Daemon)],
                };
                vec![(up(one, None), Daemon), other]
            }
            Theme::Names | Theme::Images | Theme::Killed => Vec::new(),
        }
    }

    fn act(self, dice: &mut Dice) -> Act {
        let name = dice.of(&["x", "x", "y"]);
        let image = dice.of(&[A, A, B]);
        let up = Act::Activate { name, image, bytes: None };
        match self {
            Theme::Names | Theme::Killed | Theme::Daemon => match dice.roll(12) {
                0..5 => up,
                5 => Act::Activate { name, image, bytes: Some(LARGE) },
                6 | 7 => Act::Deactivate(name),
                8 => Act::Rm(name),
                9 => Act::Cancel(self.first_run() + dice.roll(3)),
                10 if self == Theme::Killed => Act::Recover,
                10 => Act::Ensure(image),
                11 if dice.roll(2) == 0 => Act::Ls,
                _ => Act::Gc { all: false },
            },
            Theme::Images => match dice.roll(9) {
                0 | 1 => Act::Ensure(dice.of(&[A, B, C])),
                2 => up,
                3 => Act::Gc { all: true },
                4 => Act::Rm(image),
                5 => Act::Pin(image),
                6 => Act::Ls,
                7 => Act::Scan(image),
                _ => Act::Gc { all: false },
            },
            Theme::Slow | Theme::SlowDaemon => match dice.roll(8) {
                0 => Act::Gc { all: false },
                1 => Act::Gc { all: true },
                2 => Act::Deactivate("x"),
                3 => Act::Activate { name: "x", image: A, bytes: None },
                4 => Act::Activate { name: "w", image: A, bytes: None },
                5 => Act::Rm(dice.of(&["x", "y", B])),
                6 => Act::Ls,
                _ => Act::Pin(A),
            },
            Theme::Rebuild => match dice.roll(7) {
                0 | 1 => Act::Ensure(dice.of(&[A, B, C])),
                2 => up,
                3 => Act::Pin(A),
                4 => Act::Deactivate("x"),
                5 => Act::Ls,
                _ => Act::Recover,
            },
            Theme::Push => match dice.roll(6) {
                0..3 => Act::Activate { name, image: P, bytes: None },
                3 => Act::Push,
                _ => Act::Ensure(P),
            },
        }
    }

    /// The number that the first run of a round may have.
    fn first_run(self) -> u64 {
        6
    }
}
