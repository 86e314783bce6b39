//! What goes to stdout.

use std::io::{self, Write as _};
use std::process::ExitCode;

use orchestrate::log;
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
    Ok(io::stdout().write_all(text.as_bytes())?)
}
