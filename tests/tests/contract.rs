//! What all five programs promise alike, as one table: help, version, exit codes, streams.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};

use tests::programs::programs;

const PROGRAMS: [&str; 5] = ["fetch", "unpack", "thin", "registry", "orchestrate"];

fn command(program: &str) -> Command {
    let mut command = Command::new(programs().join(program));
    // A program's own settings must not decide these tests.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("VENEER_") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

fn run(program: &str, args: &[&str]) -> Output {
    command(program).args(args).output().unwrap_or_else(|error| panic!("{program}: {error}"))
}

/// Checks every program and names all that fail, not only the first.
fn each(check: impl Fn(&str) -> Result<(), String>) {
    let failed: Vec<String> = PROGRAMS
        .iter()
        .filter_map(|program| check(program).err().map(|why| format!("{program}: {why}")))
        .collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

fn expect(good: bool, what: &str, output: &Output) -> Result<(), String> {
    if good { Ok(()) } else { Err(format!("{what}: {output:?}")) }
}

#[test]
fn help_goes_to_stdout_and_names_the_exit_codes() {
    each(|program| {
        let output = run(program, &["--help"]);
        let short = run(program, &["-h"]);
        let same = short.status.code() == Some(0) && short.stdout == output.stdout;
        expect(same, "-h is --help", &short)?;
        let text = String::from_utf8_lossy(&output.stdout);
        expect(output.status.code() == Some(0), "exit code", &output)?;
        expect(output.stderr.is_empty(), "stderr", &output)?;
        expect(text.contains("100") && text.contains("111"), "100 and 111 in it", &output)
    });
}

#[test]
fn version_is_one_line_with_the_programs_name() {
    each(|program| {
        let output = run(program, &["--version"]);
        let text = String::from_utf8_lossy(&output.stdout);
        let wanted = format!("{program} {}\n", env!("CARGO_PKG_VERSION"));
        expect(output.status.code() == Some(0), "exit code", &output)?;
        expect(*text == wanted, "stdout", &output)
    });
}

#[test]
fn an_unknown_option_is_a_usage_error_that_says_so() {
    each(|program| {
        let output = run(program, &["--no-such-option"]);
        let text = String::from_utf8_lossy(&output.stderr);
        expect(output.status.code() == Some(100), "exit code", &output)?;
        expect(output.stdout.is_empty(), "stdout", &output)?;
        expect(text.starts_with(&format!("{program}: fatal: ")), "its first words", &output)?;
        expect(text.contains("--no-such-option"), "the option in it", &output)?;
        expect(text.lines().count() == 1, "one line", &output)
    });
}

/// What was typed, or came out of a file by way of a script, is shown and not obeyed by the terminal.
#[test]
fn control_characters_of_an_argument_are_escaped() {
    each(|program| {
        let typed: &[&str] = match program {
            "fetch" => &["--jobs", "\u{1b}[2J"],
            "unpack" => &["--shown-max", "\u{1b}[2J"],
            "thin" => &["--wait-ms", "\u{1b}[2J", "ls"],
            "registry" => &["ls", "\u{1b}[2J"],
            _ => &["cancel", "\u{1b}[2J"],
        };
        for words in [typed, &["--\u{1b}[2J\u{7}"]] {
            let output = run(program, words);
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            let plain = !text.trim_end_matches('\n').chars().any(char::is_control);
            expect(output.status.code() == Some(100) && plain, "escaped", &output)?;
        }
        Ok(())
    });
}

/// Whoever gives a megabyte by mistake wants to read what is wrong with it.
#[test]
fn a_long_value_is_told_by_its_beginning() {
    let long = "x".repeat(100_000);
    each(|program| {
        let typed: &[&str] = match program {
            "fetch" => &["--jobs", &long],
            "unpack" => &["--entries-max", &long, "--root", "."],
            "thin" => &["--wait-ms", &long, "ls"],
            "registry" => &["--state", ".", "ls", &long, &long],
            _ => &["--store", &long, "ls"],
        };
        let unknown = format!("--{long}");
        for args in [typed, &[unknown.as_str()], &[long.as_str(), long.as_str()]] {
            let output = run(program, args);
            let args: Vec<&str> = args.iter().map(|arg| &arg[..arg.len().min(20)]).collect();
            let said = String::from_utf8_lossy(&output.stderr);
            let told = format!("{args:?}: {} bytes: {said:.300}", said.len());
            if output.status.code() != Some(100) || !(20..1000).contains(&said.len()) {
                return Err(told);
            }
        }
        Ok(())
    });
}

/// Where a program has commands, nobody has to know which of its options stands where.
#[test]
fn general_options_may_stand_before_or_after_the_command() {
    let places: [(&str, &[&str], &str); 9] = [
        ("thin", &["--json"], "ls"),
        ("thin", &["-q"], "ls"),
        ("thin", &["-v"], "ls"),
        ("thin", &["--pool", "p"], "ls"),
        ("registry", &["--json"], "ls"),
        ("registry", &["--state", "/nonexistent"], "ls"),
        ("orchestrate", &["--json"], "config"),
        ("orchestrate", &["-q"], "config"),
        ("orchestrate", &["--state", "/nonexistent"], "config"),
    ];
    for (program, option, command) in places {
        let before = run(program, &[option, &[command]].concat());
        let after = run(program, &[&[command], option].concat());
        let said = String::from_utf8_lossy(&before.stderr);
        assert!(!said.contains("nrecognized"), "{program} {option:?} {command}: {said}");
        assert_eq!(before, after, "{program} {option:?} {command}");
    }
}

/// Every size on a command line: the program, its command, what stands before the size, and its name in the help.
const SIZES: &[(&str, &str, &str, &str)] = &[
    ("fetch", "", "--size", "--size"),
    ("fetch", "", "--size-max", "--size-max"),
    ("fetch", "", "--spool-min", "--spool-min"),
    ("fetch", "", "--spool-reserve", "--spool-reserve"),
    ("fetch", "", "--rate-floor", "--rate-floor"),
    ("unpack", "", "--blob-bytes-max", "--blob-bytes-max"),
    ("unpack", "", "--bytes-max", "--bytes-max"),
    ("unpack", "", "--file-bytes-max", "--file-bytes-max"),
    ("unpack", "", "--path-bytes-max", "--path-bytes-max"),
    ("unpack", "", "--extension-bytes-max", "--extension-bytes-max"),
    ("unpack", "", "--xattr-bytes-max", "--xattr-bytes-max"),
    ("unpack", "", "--xattrs-bytes-max", "--xattrs-bytes-max"),
    ("unpack", "", "--spill-bytes-max", "--spill-bytes-max"),
    ("unpack", "", "--place-min", "--place-min"),
    ("unpack", "", "--image /nonexistent/image --blank", "--blank"),
    ("unpack", "", "--image /nonexistent/image --blank 1G --block", "--block"),
    ("unpack", "", "--image /nonexistent/image --blank 1G --align", "--align"),
    ("thin", "activate", "1 name --size", "--size"),
    ("thin", "look", "1 --size", "--size"),
    ("thin", "grow", "name --size", "--size"),
    ("thin", "watch", "--grow-by", "--grow-by"),
    ("thin", "watch", "--grow-to", "--grow-to"),
    ("thin", "watch", "--grow-metadata-to", "--grow-metadata-to"),
    ("thin", "room", "", "bytes"),
    ("thin", "pool create", "--block-size", "--block-size"),
    ("thin", "pool init", "folder --data", "--data"),
    ("thin", "pool init", "folder --metadata", "--metadata"),
    ("thin", "pool init", "folder --block-size", "--block-size"),
    ("thin", "pool grow", "folder --data", "--data"),
    ("thin", "pool grow", "folder --metadata", "--metadata"),
    ("orchestrate", "", "--bytes-max", "--bytes-max"),
    ("orchestrate", "", "--volume-bytes", "--volume-bytes"),
    ("orchestrate", "activate", "image --name name --size", "--size"),
    ("orchestrate", "resize", "name", "size"),
    ("orchestrate", "fork", "name new --size", "--size"),
    ("orchestrate", "gc", "--keep-bytes", "--keep-bytes"),
];

/// A size has one meaning, is judged before anything is opened, and its help shows a unit.
#[test]
fn every_size_takes_units_and_says_so() {
    for (program, command, before, name) in SIZES {
        let words = |text: &'static str| text.split(' ').filter(|word| !word.is_empty());
        let command: Vec<&str> = words(command).collect();
        let rest: Vec<&str> = words(before).chain(["1X"]).collect();
        let wrong = run(program, &[&command[..], &rest].concat());
        let said = String::from_utf8_lossy(&wrong.stderr);
        let good = wrong.status.code() == Some(100) && said.contains("K, M, G");
        assert!(good, "{program} {command:?} {rest:?}: {said}");

        let help = run(program, &[&command[..], &["--help"]].concat());
        let shown = help_of(&String::from_utf8_lossy(&help.stdout), name);
        let with_unit = |word: &str| {
            word.ends_with(['K', 'M', 'G', 'T']) && word.starts_with(|c: char| c.is_ascii_digit())
        };
        let unit = shown.split(|c: char| !c.is_ascii_alphanumeric()).any(with_unit);
        assert!(unit, "{program} {command:?}, its help of {name}: {shown:?}");
    }
}

/// What a help says of an option, or of the argument of a command.
fn help_of(help: &str, name: &str) -> String {
    let is_it =
        |line: &&str| line.starts_with("  ") && line.split_whitespace().next() == Some(name);
    let mut lines = help.lines().skip_while(|line| !is_it(line));
    let first = lines.next().unwrap_or_default().to_owned();
    lines.take_while(|line| line.starts_with("       ")).fold(first, |shown, line| shown + line)
}

#[test]
fn an_argument_that_is_not_utf8_is_refused_and_escaped() {
    use std::os::unix::ffi::OsStrExt;
    each(|program| {
        let bytes = std::ffi::OsStr::from_bytes(b"--\xff\x1b[31m");
        let output = command(program).arg(bytes).output().expect("run");
        expect(output.status.code() == Some(100), "exit code", &output)?;
        expect(output.stdout.is_empty(), "stdout", &output)?;
        expect(!output.stderr.contains(&0x1b), "no raw control bytes", &output)
    });
}

#[test]
fn nothing_at_all_on_the_command_line_is_not_a_crash() {
    each(|program| {
        // Without even a name of its own, as execve allows (the kernel makes it one empty string).
        let output = command(program).arg0("").output().expect("run");
        let code = output.status.code();
        expect(matches!(code, Some(0 | 1 | 100 | 111)), "exit code", &output)?;
        expect(!String::from_utf8_lossy(&output.stderr).contains("panicked"), "a panic", &output)
    });
}

#[test]
fn a_reader_that_goes_away_is_no_reason_to_complain() {
    each(|program| {
        // A pipe whose reading end is closed before the program writes.
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let mut child =
            command(program).arg("--help").stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        child.stderr.take().expect("stderr").read_to_string(&mut said).expect("read stderr");
        child.wait().expect("wait");
        if said.is_empty() { Ok(()) } else { Err(format!("it says {said:?}")) }
    });
}

#[test]
fn a_full_disk_at_stdout_is_no_crash() {
    each(|program| {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
        let output = command(program).arg("--help").stdout(full).output().expect("run");
        let text = String::from_utf8_lossy(&output.stderr);
        expect(!text.contains("panicked"), "a panic", &output)
    });
}

/// Man pages and completions are made of what `--help` says, so each command and option is in all four.
#[test]
fn manuals_and_completions_have_every_command_and_option() {
    let folder = tempfile::tempdir().expect("a folder");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/shell.py");
    let made = Command::new("python3")
        .args([script.as_ref(), programs().as_os_str(), folder.path().as_os_str()])
        .arg("1")
        .output()
        .expect("no python3: run ./bootstrap");
    assert!(made.status.success(), "{made:?}");
    let read = |path: String| std::fs::read_to_string(folder.path().join(&path)).expect(&path);
    each(|program| {
        let output = run(program, &["--help"]);
        let help = String::from_utf8_lossy(&output.stdout).into_owned();
        let texts = [
            read(format!("man/man1/{program}.1")).replace("\\-", "-"),
            read(format!("bash-completion/completions/{program}")),
            read(format!("zsh/vendor-completions/_{program}")),
            read(format!("fish/vendor_completions.d/{program}.fish")).replace("-l ", "--"),
        ];
        let listed = help.lines().filter_map(|line| line.strip_prefix("  "));
        let listed = listed.filter(|line| line.starts_with(|c: char| c == '-' || c.is_lowercase()));
        let words = listed.flat_map(|line| line.split([' ', ',']).take(3));
        let words: Vec<&str> =
            words.filter(|word| word.starts_with("--") && word.len() > 3).collect();
        expect(words.len() >= 3, "options in its help", &output)?;
        for (text, what) in texts.iter().zip(["man", "bash", "zsh", "fish"]) {
            for word in &words {
                expect(text.contains(word), &format!("{word} in {what}"), &output)?;
            }
        }
        let bash = folder.path().join(format!("bash-completion/completions/{program}"));
        let checked = Command::new("bash").arg("-n").arg(bash).output().expect("bash");
        expect(checked.status.success(), "bash reads it", &checked)
    });
}
