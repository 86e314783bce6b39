//! Where the program's bytes and lines go: stdout, a file, the terminal.
//!
//! Part of the program, not of the library.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, IsTerminal as _, Read, Seek as _, Write};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{env, process, thread};

use anyhow::Context as _;
use fetch::{Body, Client, Expect, ImageRef, Kind, Layer, Locator, Summary, write_digest};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use serde::Serialize;

use crate::cli::kept;
use crate::cli::progress::{self, Progress};

/// How talkative.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Show {
    pub(crate) quiet: bool,
    pub(crate) json: bool,
    /// Whatever it is, a terminal gets it: `-o -`.
    pub(crate) to_terminal: bool,
}

impl Show {
    /// What begins like this could leave a terminal unusable, or steer it: a NUL, as curl has it, or an escape.
    fn spare_terminal(self, begin: &[u8]) -> anyhow::Result<()> {
        let binary = begin.iter().take(2000).any(|byte| [0, 0x1b].contains(byte));
        if self.to_terminal || !binary || !io::stdout().is_terminal() {
            return Ok(());
        }
        let (name, value) = ("stdout", "a terminal".to_owned());
        let why = "the object is no text: name a file by -o FILE, or -o - if that is meant";
        Err(fetch::Error::Setting { name, value, why }.into())
    }
}

/// A line to stderr, control characters escaped. If that is closed there is nobody left to tell.
pub(crate) fn complain(text: &str) {
    progress::wipe();
    let mut line = String::with_capacity(text.len() + 1);
    for c in text.chars() {
        match c {
            '\n' => line.push(c),
            c if c.is_control() => line.extend(c.escape_default()),
            c => line.push(c),
        }
    }
    line.push('\n');
    drop(io::stderr().write_all(line.as_bytes()));
}

/// A line to stdout.
pub(crate) fn line(text: &str) -> anyhow::Result<()> {
    let mut line = text.to_owned();
    line.push('\n');
    Ok(io::stdout().write_all(line.as_bytes())?)
}

/// The class of an error of the library, also out of a `Read`.
pub(crate) fn kind(error: &anyhow::Error) -> Option<Kind> {
    error.chain().find_map(|cause| {
        let direct = cause.downcast_ref::<fetch::Error>();
        let wrapped = || cause.downcast_ref::<io::Error>()?.get_ref()?.downcast_ref();
        direct.or_else(wrapped).map(fetch::Error::kind)
    })
}

#[derive(Serialize)]
struct ListLine<'a> {
    number: Option<u64>,
    object: String,
    key: &'a str,
    size: u64,
    etag: Option<&'a str>,
}

pub(crate) fn list(client: &Client, image: &ImageRef, all: bool, json: bool) -> anyhow::Result<()> {
    let layers: Vec<(Option<u64>, fetch::Object)> = match (all, image) {
        (true, ImageRef::Prefix { bucket, prefix }) => {
            client.list(bucket, prefix)?.into_iter().map(|object| (None, object)).collect()
        }
        (true, ImageRef::Object(object)) => {
            let objects = client.list(&object.bucket, &object.key)?;
            objects.into_iter().map(|object| (None, object)).collect()
        }
        (false, image) => {
            let numbered = |Layer { number, object }| (Some(number), object);
            let layers = client.layers(image).map_err(|error| match (image, error.kind()) {
                (ImageRef::Object(_), Kind::NotFound) => anyhow::Error::new(error)
                    .context("no such object; a prefix would end with \"/\""),
                _ => error.into(),
            })?;
            layers.into_iter().map(numbered).collect()
        }
    };
    let mut text = String::new();
    for (number, object) in &layers {
        let (key, size, etag) = (&object.object.key, object.size, object.etag.as_deref());
        if json {
            let line =
                ListLine { number: *number, object: object.object.to_string(), key, size, etag };
            text.push_str(&harmless(&serde_json::to_string(&line)?));
        } else {
            let number = number.map_or_else(String::new, |n| format!("{n:>3}  "));
            let shown = escape(&object.object.to_string());
            text.push_str(&format!("{number}{size:>14}  {}  {shown}", etag.unwrap_or("-")));
        }
        text.push('\n');
    }
    Ok(io::stdout().write_all(text.as_bytes())?)
}

/// JSON in which nothing outside of ASCII acts on a terminal or turns text around: controls (C1) and what sets
/// a direction are written as `\uXXXX`. They stand only in texts, so it says the same.
pub(crate) fn harmless(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '\u{7f}'..='\u{9f}'
            | '\u{61c}'
            | '\u{200e}'
            | '\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}' => text.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => text.push(c),
        }
    }
    text
}

/// Keys may hold anything, a terminal may not.
pub(crate) fn escape(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let plain = c == '\'' || c == '"';
            let escaped = (!plain).then(|| c.escape_debug());
            escaped.into_iter().flatten().chain(plain.then_some(c))
        })
        .collect()
}

/// For so long a pipe may have no reader yet.
const READER_WAIT: Duration = Duration::from_secs(30);

/// Where the bytes go.
#[derive(Debug)]
pub(crate) enum Out {
    Stdout,
    /// A device or a pipe with a name: nothing that could be replaced by a whole file.
    Special(PathBuf),
    /// Whole or not at all.
    File(PathBuf),
}

impl Out {
    /// What `-o` means. Looked at before anything is asked for.
    pub(crate) fn of(path: Option<&Path>) -> anyhow::Result<Out> {
        let Some(path) = path.filter(|path| *path != Path::new("-")) else {
            return Ok(Out::Stdout);
        };
        let refused = |why| {
            let value = path.display().to_string();
            Err(fetch::Error::Setting { name: "--output", value, why }.into())
        };
        if path.as_os_str().as_encoded_bytes().ends_with(b"/") {
            return refused("it names a folder: name the file in it");
        }
        let Ok(stat) = fs::metadata(path) else { return Ok(Out::File(path.to_owned())) };
        let kind = stat.file_type();
        if kind.is_dir() {
            return refused("it is a folder: name the file in it");
        }
        if kind.is_file() {
            return Ok(Out::File(path.to_owned()));
        }
        if kind.is_char_device() || kind.is_fifo() {
            return Ok(Out::Special(path.to_owned()));
        }
        refused("it is neither a file nor a pipe: write it by way of stdout")
    }

    fn open(&self) -> anyhow::Result<File> {
        let (Out::Special(path) | Out::File(path)) = self else { return Ok(stdout()?) };
        let begun = Instant::now();
        // A pipe would wait for its reader for ever.
        let file = loop {
            let mut how = OpenOptions::new();
            match how.write(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path) {
                Ok(file) => break file,
                Err(e)
                    if e.raw_os_error() == Some(libc::ENXIO) && begun.elapsed() < READER_WAIT =>
                {
                    thread::sleep(Duration::from_millis(20));
                }
                Err(source) => return Err(failed("open", path, source).into()),
            }
        };
        let blocking = fcntl(&file, FcntlArg::F_SETFL(OFlag::empty()));
        blocking.map_err(|source| failed("open", path, source.into()))?;
        Ok(file)
    }

    fn name(&self) -> &Path {
        match self {
            Out::Stdout => Path::new("stdout"),
            Out::Special(path) | Out::File(path) => path,
        }
    }

    fn is_stdout(&self) -> bool {
        matches!(self, Out::Stdout)
    }
}

fn failed(act: &'static str, path: &Path, source: io::Error) -> fetch::Error {
    fetch::Error::File { act, path: path.to_owned(), source }
}

/// Passes the bytes on as they come; with `spool`, through a spool that the next process continues.
pub(crate) fn as_it_comes(
    client: &Client,
    object: &Locator,
    expect: &Expect,
    spool: Option<&Path>,
    out: Out,
    show: Show,
) -> anyhow::Result<()> {
    let start = Instant::now();
    let mut to = out.open()?;
    let mut body = match spool {
        Some(dir) => client.open_spooled(object, expect, dir)?,
        None => client.open(object, expect)?,
    };
    let summary = copy(&mut body, Some((&mut to, out.name())), show)?;
    body.discard_spool()?;
    kept::is(None);
    report(object, &summary, start.elapsed(), show, out.is_stdout())
}

/// As [`as_it_comes`], where other sources than the origin are asked: all of it is verified in a
/// file in `dir` before a byte goes out, since a lie cannot be called back from a pipe.
pub(crate) fn verified(
    client: &Client,
    object: &Locator,
    expect: &Expect,
    dir: Option<&Path>,
    out: Out,
    show: Show,
) -> anyhow::Result<()> {
    let start = Instant::now();
    let own = dir.is_none().then(Staging::make).transpose()?;
    let dir = own.as_ref().map(|staging| staging.0.as_path()).or(dir).context("no folder")?;
    let (body, summary) = drain(client, object, expect, &dir.join("fetch"), show)?;
    let path = body.spool_path().context("the body has no file")?;
    let mut file = File::open(path).map_err(|source| failed("open", path, source))?;
    if out.is_stdout() {
        let mut begin = Vec::new();
        Read::by_ref(&mut file).take(2000).read_to_end(&mut begin)?;
        show.spare_terminal(&begin)?;
        file.rewind()?;
    }
    io::copy(&mut file, &mut out.open()?).map_err(|source| failed("write", out.name(), source))?;
    kept::is(None);
    body.discard_spool()?;
    report(object, &summary, start.elapsed(), show, out.is_stdout())
}

/// A folder of this process alone, below TMPDIR; gone with it.
struct Staging(PathBuf);

impl Staging {
    fn make() -> anyhow::Result<Staging> {
        let path = env::temp_dir().join(format!(
            "fetch-{}-{:016x}",
            process::id(),
            RandomState::new().hash_one(Instant::now())
        ));
        // Fails where somebody has made it first.
        let made = DirBuilder::new().mode(0o700).create(&path);
        made.with_context(|| format!("unable to make {path:?}: set TMPDIR, or pass --spool"))?;
        Ok(Staging(path))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

/// Reads an object into a file beside `path`; where a source lied, without that source again.
fn drain(
    client: &Client,
    object: &Locator,
    expect: &Expect,
    path: &Path,
    show: Show,
) -> anyhow::Result<(Body, Summary)> {
    let mut client = client.clone();
    loop {
        let mut body = client.open_for_file(object, expect, path)?;
        // The library writes the file as the bytes pass by.
        let error = match copy(&mut body, None, show) {
            Ok(summary) => return Ok((body, summary)),
            Err(error) => error,
        };
        // What an earlier process left is gone by now, so this happens once.
        let rotten = matches!(error.downcast_ref(), Some(fetch::Error::Rotten { .. }));
        let what = match kind(&error) {
            _ if rotten => "starting again",
            Some(Kind::Digest | Kind::Changed) => match client.elsewhere(object)? {
                None => return Err(error),
                Some(next) => {
                    let anew = next.asks_anew() && !client.asks_anew();
                    client = next;
                    match kind(&error) {
                        Some(Kind::Changed) => {
                            "a source has another version, starting again without it"
                        }
                        _ if anew => "the copy of a source is wrong; asking it to fetch again",
                        _ => "a source lied, going on without it",
                    }
                }
            },
            _ => return Err(error),
        };
        if !show.quiet {
            complain(&format!("fetch: {what}: {error:#}"));
        }
    }
}

/// stdout without std's line buffer, which for binary data costs a copy and short writes.
fn stdout() -> io::Result<File> {
    let out = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    // A wider pipe saves wake-ups; where stdout is no pipe or the limit is lower, nothing is lost.
    fcntl(&out, FcntlArg::F_SETPIPE_SZ(1 << 20)).ok();
    Ok(out)
}

pub(crate) fn to_file(
    client: &Client,
    object: &Locator,
    expect: &Expect,
    path: &Path,
    show: Show,
) -> anyhow::Result<()> {
    let start = Instant::now();
    let (body, summary) = drain(client, object, expect, path, show)?;
    body.keep()?;
    kept::is(None);
    report(object, &summary, start.elapsed(), show, false)
}

/// Reads a body to its end, into a file with a name for messages, or into nothing.
fn copy(
    body: &mut Body,
    mut out: Option<(&mut File, &Path)>,
    show: Show,
) -> anyhow::Result<Summary> {
    let progress = Progress::new(body.size(), !show.quiet && !show.json);
    kept::is(body.spool_path().map(|path| (path, body.goes_on_later())));
    let mut buffer = vec![0; 256 << 10];
    let mut done = 0;
    loop {
        let count = match body.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) => return Err(unwrap(error)),
        };
        if let Some((file, path)) = &mut out {
            if done == 0 && path == &Out::Stdout.name() {
                show.spare_terminal(&buffer[..count])?;
            }
            file.write_all(&buffer[..count]).map_err(|source| failed("write", path, source))?;
        }
        done += count as u64;
        progress.at(done);
    }
    drop(progress);
    body.summary().context("the body ended without a summary")
}

/// The library's own error out of the `io::Error` it travelled in, so that it is told only once.
fn unwrap(error: io::Error) -> anyhow::Error {
    match error.downcast::<fetch::Error>() {
        Ok(error) => error.into(),
        Err(error) => error.into(),
    }
}

#[derive(Serialize)]
struct SummaryLine<'a> {
    object: String,
    bytes: u64,
    sha256: String,
    etag: Option<&'a str>,
    tries: u32,
    resumed: u32,
    reused: u64,
    seconds: f64,
}

/// stdout when it is free, else stderr.
fn report(
    object: &Locator,
    summary: &Summary,
    took: Duration,
    show: Show,
    taken: bool,
) -> anyhow::Result<()> {
    let sha256 = write_digest(&summary.sha256);
    let Summary { bytes, etag, tries, resumed, reused, .. } = summary;
    let seconds = took.as_secs_f64();
    if show.json {
        let fields = SummaryLine {
            object: object.to_string(),
            bytes: *bytes,
            sha256,
            etag: etag.as_deref(),
            tries: *tries,
            resumed: *resumed,
            reused: *reused,
            seconds,
        };
        let text = harmless(&serde_json::to_string(&fields)?);
        if taken {
            complain(&text);
            return Ok(());
        }
        return line(&text);
    }
    if !taken {
        line(&sha256)?;
    }
    if !show.quiet {
        let rate = *bytes as f64 / seconds.max(1e-9) / 1e6;
        complain(&format!(
            "fetch: {}: {bytes} bytes, {sha256}, {seconds:.2} s, {rate:.1} MB/s, \
             {tries} requests, {resumed} resumed, {reused} bytes reused",
            escape(&object.to_string())
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_turns_no_terminal_and_no_text_around() {
        let hostile: String = ('\u{7f}'..='\u{9f}')
            .chain("\u{61c}\u{200e}\u{200f}\u{202a}\u{202e}\u{2066}\u{2069}aä\u{1b}\n".chars())
            .collect();
        let json = serde_json::json!({ "key": hostile.clone(), hostile.clone(): 1 }).to_string();
        let text = harmless(&json);
        assert!(
            !text.chars().any(|c| c.is_control() || matches!(c, '\u{200e}'..='\u{2069}')),
            "{text:?}"
        );
        assert!(
            text.contains("\\u009b") && text.contains("\\u202e") && text.contains('ä'),
            "{text:?}"
        );
        let back: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(back["key"], hostile);
    }
}
