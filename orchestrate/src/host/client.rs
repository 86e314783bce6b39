//! Who speaks to S3 for this process: with whose settings, who is told of waits, and who may stop them.

use crate::error::Error;
use crate::host::settings::Settings;
use crate::process::cancel::heedfully;
use crate::process::log::{self, Level};

/// The options of requests, with who is told of waits and who may stop them.
pub(crate) fn heard(settings: &Settings, stop: fetch::Stop) -> fetch::Options {
    let mut options = settings.fetch.clone();
    if settings.talk > 0 {
        options.watch = fetch::Watch::new(tell_wait);
    }
    options.stop = stop;
    options
}

/// A client for the bucket of these settings.
pub(crate) fn client_of(settings: &Settings, stop: fetch::Stop) -> Result<fetch::Client, Error> {
    let options = heard(settings, stop);
    // Keys may have to be asked for.
    heedfully(&settings.cancel, move || fetch::Client::new(&options))?.map_err(Error::Fetch)
}

/// Nobody should wonder what a run does while a server is silent, or asks for patience.
fn tell_wait(event: &fetch::Event<'_>) {
    match event {
        fetch::Event::Waiting { subject, waited } => {
            let seconds = waited.as_secs();
            let line =
                format!("{subject}: nothing has come from the server for {seconds} s, waiting");
            log::line(Level::Info, &line, &[("waited", seconds.into())]);
        }
        fetch::Event::Retry { subject, error, tries, wait, left } if event.is_news() => {
            let (wait, left) = (wait.as_secs(), left.as_secs());
            let line = format!(
                "{subject}: try {tries} failed, next in {wait} s, patience for {left} s: {error}"
            );
            let fields =
                [("tries", u64::from(*tries).into()), ("wait", wait.into()), ("left", left.into())];
            log::line(Level::Info, &line, &fields);
        }
        fetch::Event::Away { subject, error, again, origin, left } => {
            let next = match (origin, again) {
                (Some(time), _) => format!("the origin is asked in {} s", time.as_secs()),
                (None, Some(time)) => format!("asked again in {} s", time.as_secs()),
                (None, None) => "waiting".to_owned(),
            };
            let left = left.as_secs();
            let why = error.map_or_else(String::new, |error| format!(": {error}"));
            let line = format!(
                "{subject}: no source can be asked now: {next}, patience for {left} s{why}"
            );
            log::line(Level::Info, &line, &[("left", left.into())]);
        }
        fetch::Event::Anonymous => {
            let line = "no keys in the environment, ~/.aws or this machine's metadata: requests are not \
                        signed; `anonymous = true` says that this is meant";
            log::line(Level::Info, line, &[]);
        }
        fetch::Event::Warning { server, text } => {
            let fields = [("server", (*server).into()), ("warning", (*text).into())];
            log::line(Level::Warning, &format!("{server} warns: {text}"), &fields);
        }
        // Whose server it is that fails in the end, if it does, is told by the error.
        fetch::Event::Left { text } => log::line(Level::Info, text, &[]),
        fetch::Event::Retry { .. } | fetch::Event::Resume { .. } | fetch::Event::Note { .. } => {}
    }
}
