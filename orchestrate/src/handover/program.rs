//! What an image runs, and how: command line, environment, directory.

use std::collections::{BTreeMap, HashMap};

use crate::handover::accounts::{Identity, Tables, identity};
use crate::handover::unfit::Unfit;

/// What a program finds that looks for others, where the image does not say (as container runtimes have it).
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What an image's config says of how it wants to be run; empty where it does not say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Process {
    /// See [`identity`].
    pub(crate) user: String,
    /// `NAME=value`, each.
    pub(crate) env: Vec<String>,
    pub(crate) entrypoint: Vec<String>,
    pub(crate) cmd: Vec<String>,
    pub(crate) working_dir: String,
    pub(crate) labels: BTreeMap<String, String>,
    /// Such as `80/tcp`.
    pub(crate) ports: Vec<String>,
    pub(crate) stop_signal: String,
    pub(crate) os: String,
    pub(crate) architecture: String,
    pub(crate) variant: String,
    pub(crate) created: String,
}

impl From<&fetch::image::Config> for Process {
    fn from(config: &fetch::image::Config) -> Process {
        let platform = &config.platform;
        Process {
            user: config.user.clone(),
            env: config.env.clone(),
            entrypoint: config.entrypoint.clone(),
            cmd: config.cmd.clone(),
            working_dir: config.working_dir.clone(),
            labels: config.labels.clone(),
            ports: config.exposed_ports.clone(),
            stop_signal: config.stop_signal.clone(),
            os: platform.os.clone(),
            architecture: platform.architecture.clone(),
            variant: platform.variant.clone().unwrap_or_default(),
            created: config.created.clone(),
        }
    }
}

/// What the caller wants instead.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Instead {
    /// Instead of `Entrypoint`; then the image's `Cmd` does not count. Empty: no entry point.
    pub(crate) entrypoint: Option<String>,
    /// Instead of `Cmd`; empty: that of the image.
    pub(crate) command: Vec<String>,
}

/// A program that can be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Program {
    /// Not one, where that was allowed.
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<String>,
    pub(crate) cwd: String,
    pub(crate) who: Identity,
}

/// Of which image; for messages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Of<'i> {
    pub(crate) image: &'i str,
    /// Whether it has a config.
    pub(crate) config: bool,
}

/// The program that an image, or who runs it, asks for.
///
/// # Errors
/// [`Unfit`]; `NoCommand` where there is none and `bare` does not allow that.
pub(crate) fn program(
    process: &Process,
    tables: Tables<'_>,
    instead: &Instead,
    of: Of<'_>,
    bare: bool,
) -> Result<Program, Unfit> {
    let args = args(process, instead)?;
    if args.is_empty() && !bare {
        return Err(Unfit::NoCommand { image: of.image.to_owned(), config: of.config });
    }
    let who = identity(&process.user, tables)?;
    let cwd = match process.working_dir.as_str() {
        "" => "/",
        dir => dir,
    };
    let bad = |why| Err(Unfit::Directory { text: cwd.to_owned(), why });
    match cwd {
        cwd if !cwd.starts_with('/') => return bad("it has to begin with /"),
        cwd if cwd.contains('\0') => return bad("a NUL byte ends what a system call takes"),
        _ => {}
    }
    Ok(Program { args, env: env(process, &who)?, cwd: cwd.to_owned(), who })
}

fn args(process: &Process, instead: &Instead) -> Result<Vec<String>, Unfit> {
    let entrypoint = match &instead.entrypoint {
        Some(program) => std::slice::from_ref(program),
        None => &process.entrypoint,
    };
    // One empty word is how an entry point is taken back.
    let entrypoint = if entrypoint == [""] { &[] } else { entrypoint };
    let cmd = match (instead.command.as_slice(), &instead.entrypoint) {
        ([], None) => &process.cmd,
        (command, _) => command,
    };
    let args: Vec<String> = entrypoint.iter().chain(cmd).cloned().collect();
    let bad = |word: &String, why| Unfit::Word { what: "command", word: word.clone(), why };
    if let Some(word) = args.iter().find(|word| word.contains('\0')) {
        return Err(bad(word, "a NUL byte ends what a system call takes"));
    }
    match args.first() {
        Some(first) if first.is_empty() => Err(bad(first, "its first word names the program")),
        Some(_) | None => Ok(args),
    }
}

/// The image's own, each name once: the last one counts, at the place of the first. What is not there and
/// every program needs is added; nothing that is there is replaced.
fn env(process: &Process, who: &Identity) -> Result<Vec<String>, Unfit> {
    let (mut env, mut seen) = (Vec::<String>::new(), HashMap::<&str, usize>::new());
    for text in &process.env {
        let bad = |why| Unfit::Variable { text: text.clone(), why };
        let name = match text.split_once('=') {
            None => return Err(bad("it has no =")),
            Some(("", _)) => return Err(bad("it has no name")),
            Some(_) if text.contains('\0') => {
                return Err(bad("a NUL byte ends what a system call takes"));
            }
            Some((name, _)) => name,
        };
        match seen.get(name) {
            Some(at) => env[*at].clone_from(text),
            None => {
                seen.insert(name, env.len());
                env.push(text.clone());
            }
        }
    }
    for (name, value) in [("PATH", PATH), ("HOME", &who.home)] {
        if !seen.contains_key(name) {
            env.push(format!("{name}={value}"));
        }
    }
    Ok(env)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OF: Of<'_> = Of { image: "s3://b/p/", config: true };

    fn words(text: &str) -> Vec<String> {
        text.split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect()
    }

    fn process(entrypoint: &str, cmd: &str) -> Process {
        Process { entrypoint: words(entrypoint), cmd: words(cmd), ..Process::default() }
    }

    fn run(process: &Process, instead: &Instead) -> Result<Program, Unfit> {
        let tables = Tables { passwd: b"app:x:5:6::/home/app:\n", group: b"" };
        program(process, tables, instead, OF, false)
    }

    #[test]
    fn the_command_line_is_the_images_or_the_callers() {
        let instead = |entrypoint: Option<&str>, command: &str| Instead {
            entrypoint: entrypoint.map(str::to_owned),
            command: words(command),
        };
        let (both, cmd) = (process("/init -q", "serve"), process("", "sh -c env"));
        for (process, instead, expected) in [
            (&both, instead(None, ""), "/init -q serve"),
            (&cmd, instead(None, ""), "sh -c env"),
            (&both, instead(None, "check now"), "/init -q check now"),
            (&cmd, instead(None, "id"), "id"),
            (&both, instead(Some("/bin/sh"), ""), "/bin/sh"),
            (&both, instead(Some("/bin/sh"), "-c id"), "/bin/sh -c id"),
            (&both, instead(Some(""), "id"), "id"),
        ] {
            assert_eq!(run(process, &instead).unwrap().args, words(expected), "{instead:?}");
        }
        let reset = Process { entrypoint: vec![String::new()], ..process("", "id") };
        assert_eq!(run(&reset, &Instead::default()).unwrap().args, ["id"]);
    }

    #[test]
    fn without_a_command_the_message_says_what_to_give() {
        let none = run(&Process::default(), &Instead::default()).unwrap_err();
        assert_eq!(
            none.to_string(),
            "\"s3://b/p/\": the image has neither Entrypoint nor Cmd; give a command after --"
        );
        let of = Of { config: false, ..OF };
        let bare =
            |bare| program(&Process::default(), Tables::default(), &Instead::default(), of, bare);
        assert_eq!(
            bare(false).unwrap_err().to_string(),
            "\"s3://b/p/\": the image has no config that says what to run; give a command after --"
        );
        assert_eq!(bare(true).unwrap().args, Vec::<String>::new());
        for bad in ["a\0b", ""] {
            let process = Process { cmd: vec![bad.into()], ..Process::default() };
            assert!(
                matches!(run(&process, &Instead::default()), Err(Unfit::Word { .. })),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn the_environment_has_each_name_once_and_path_and_home() {
        let env = |env: &[&str]| {
            let env = env.iter().map(|text| (*text).to_owned()).collect();
            run(&Process { env, user: "app".into(), ..process("", "id") }, &Instead::default())
                .map(|program| program.env)
        };
        let path = format!("PATH={PATH}");
        assert_eq!(env(&[]).unwrap(), [path.as_str(), "HOME=/home/app"]);
        // The last counts, at the first one's place.
        assert_eq!(
            env(&["PATH=/a", "X=1", "PATH=/b", "HOME="]).unwrap(),
            ["PATH=/b", "X=1", "HOME="]
        );
        assert_eq!(env(&["A=b=c", "E="]).unwrap()[..2], ["A=b=c", "E="]);
        for bad in ["NOTHING", "=x", "", "A=\0"] {
            assert!(matches!(env(&[bad]), Err(Unfit::Variable { .. })), "{bad:?}");
        }
    }

    #[test]
    fn the_directory_is_absolute() {
        let cwd = |dir: &str| {
            run(&Process { working_dir: dir.into(), ..process("", "id") }, &Instead::default())
                .map(|program| program.cwd)
        };
        assert_eq!(cwd("").unwrap(), "/");
        assert_eq!(cwd("/srv/app").unwrap(), "/srv/app");
        for bad in ["srv", "./x", "/a\0b"] {
            assert!(matches!(cwd(bad), Err(Unfit::Directory { .. })), "{bad:?}");
        }
    }
}
