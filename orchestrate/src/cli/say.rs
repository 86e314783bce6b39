//! What goes to stdout.

use std::io::{self, Write as _};
use std::process::ExitCode;

use orchestrate::{Error, full, log};
use serde::Serialize;

pub(crate) fn output<T: Serialize>(
    json: bool,
    value: &T,
    text: impl FnOnce(&T) -> String,
) -> anyhow::Result<ExitCode> {
    let text = match json {
        true => log::harmless(serde_json::to_string(value)? + "\n"),
        false => text(value),
    };
    say(&text).map(|()| ExitCode::SUCCESS)
}

pub(crate) fn say(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // Whoever reads has read enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(error.into()),
        Err(source) => {
            Err(Error::Io { doing: "write to", path: full::STANDARD_OUTPUT.into(), source }.into())
        }
        Ok(()) => Ok(()),
    }
}
