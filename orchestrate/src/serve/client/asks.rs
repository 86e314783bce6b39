//! The verbs, each as a request.

use std::time::{Duration, Instant};

use fetch::Reference;
use registry::{Event, Run, RunId, VolumeId};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::error::Error;
use crate::error::class::Class;
use crate::host::run::RunLine;
use crate::serve::client::files::Opened;
use crate::serve::client::{
    ANSWER_TIME, Asking, Client, FIRST_S, LATE, PAGE, Runs, WAIT_S, parsed,
};
use crate::serve::verbs::Verbs;
use crate::verbs::activate::{ActivateOptions, Activated};
use crate::verbs::deactivate::{Deactivated, Going};
use crate::verbs::ensure::Ensured;
use crate::verbs::fork::Forked;
use crate::verbs::gc::{Bound, Collected};
use crate::verbs::label::{LabelChanges, Labelled};
use crate::verbs::points::{Points, Snapshotted};
use crate::verbs::remove::Removed;
use crate::verbs::rename::Renamed;
use crate::verbs::resize::Resized;
use crate::verbs::restore::Restored;
use crate::verbs::ttl::Timed;
use crate::verbs::usage::Usage;
use crate::view::listing::Listing;

/// For a path or query.
fn encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' | b':' => {
                encoded.push(char::from(byte));
            }
            byte => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

fn with_dry_run(target: String, dry_run: bool) -> String {
    let mark = if target.contains('?') { '&' } else { '?' };
    if dry_run { format!("{target}{mark}dry_run=1") } else { target }
}

/// A daemon of another day does not know `when_closed`: only who means it says it.
fn with_how(target: String, how: Going) -> String {
    let target = if how.when_closed { format!("{target}&when_closed=1") } else { target };
    with_dry_run(target, how.dry_run)
}

/// A disk stands still only when what is on its way to it has been written, which may be much.
const DISK_TIME: Duration = Duration::from_secs(600);

impl Client {
    fn ask_of_disk<T: DeserializeOwned>(
        &self,
        name: &str,
        verb: &str,
        body: &Value,
    ) -> Result<T, Error> {
        let target = format!("/v1/activations/{}/{verb}", encoded(name));
        let asking = Asking::new("POST", &target, Some(body));
        parsed(&self.call_within(&asking, DISK_TIME, true)?.body)
    }
}

impl Verbs for Client {
    fn ensure(&mut self, image: &Reference, dry_run: bool) -> Result<Ensured, Error> {
        let mut body = json!({"image": image.to_string(), "dry_run": dry_run});
        let mut opened = Opened::default();
        opened.image(image, &mut body);
        let target = format!("/v1/images?wait={FIRST_S}");
        let asking = Asking::new("PUT", &target, Some(&body));
        let asking = Asking { files: &opened.files, ..asking };
        let done = self.done_with(&asking, image.is_stream());
        opened.answer(done)
    }

    fn activate(
        &mut self,
        image: &Reference,
        name: &str,
        options: ActivateOptions,
    ) -> Result<Activated, Error> {
        let ActivateOptions {
            bytes,
            no_fetch,
            dry_run,
            copies,
            labels,
            ttl_s,
            read_only,
            no_journal,
        } = options;
        let mut body = json!({"id": name, "image": image.to_string(), "dry_run": dry_run});
        body["bytes"] = bytes.into();
        // A daemon of another day does not know the word: only who means it says it.
        if no_fetch {
            body["no_fetch"] = true.into();
        }
        if !labels.is_empty() {
            body["labels"] = json!(labels);
        }
        if ttl_s.is_some() {
            body["ttl_s"] = json!(ttl_s);
        }
        if read_only {
            body["read_only"] = true.into();
        }
        if no_journal {
            body["no_journal"] = true.into();
        }
        let mut opened = Opened::default();
        opened.image(image, &mut body);
        opened.copies(&copies, &self.cancel, &mut body);
        let target = format!("/v1/activations?wait={FIRST_S}");
        let asking = Asking::new("POST", &target, Some(&body));
        let asking = Asking { files: &opened.files, ..asking };
        let done = self.done_with(&asking, image.is_stream());
        opened.answer(done)
    }

    fn deactivate(&mut self, name: &str, how: Going) -> Result<Deactivated, Error> {
        let target = format!("/v1/activations/{}/deactivate?wait={FIRST_S}", encoded(name));
        self.done("POST", &with_how(target, how), None)
    }

    fn remove(&mut self, name: &str, how: Going) -> Result<Removed, Error> {
        let image = name.contains(':');
        let target = match image {
            true => format!("/v1/images?wait={FIRST_S}&image={}", encoded(name)),
            false => format!("/v1/activations/{}?wait={FIRST_S}", encoded(name)),
        };
        match self.done("DELETE", &with_how(target, how), None) {
            // What is no name at all is no name here.
            Err(Error::Told { class: Class::NotFound, .. }) => {
                Err(Error::Unknown { what: "activation or image", name: name.into() })
            }
            Err(Error::Told { class: Class::Usage, .. })
                if !image && crate::verbs::named::check_name(name).is_err() =>
            {
                Err(Error::Unknown { what: "activation or image", name: name.into() })
            }
            done => done,
        }
    }

    fn gc(&mut self, bound: Bound, purge: &[VolumeId], dry_run: bool) -> Result<Collected, Error> {
        let body = json!({
            "keep_bytes": bound.keep_bytes,
            "max_used": bound.max_used,
            "purge_foreign": purge,
        });
        let target = with_dry_run(format!("/v1/gc?wait={FIRST_S}"), dry_run);
        self.done("POST", &target, Some(&body))
    }

    fn pin(&mut self, image: &str, pinned: bool) -> Result<(), Error> {
        let body = json!({"image": image, "pinned": pinned});
        self.ask::<Value>("POST", "/v1/images/pin", Some(&body)).map(drop)
    }

    fn label(&mut self, name: &str, changes: &LabelChanges) -> Result<Labelled, Error> {
        let body = json!({"labels": changes});
        self.ask("POST", &format!("/v1/activations/{}/labels", encoded(name)), Some(&body))
    }

    fn set_ttl(&mut self, name: &str, seconds: Option<u64>) -> Result<Timed, Error> {
        let body = json!({"ttl_s": seconds});
        self.ask("POST", &format!("/v1/activations/{}/ttl", encoded(name)), Some(&body))
    }

    fn rename(&mut self, name: &str, new: &str) -> Result<Renamed, Error> {
        let body = json!({"to": new});
        self.ask("POST", &format!("/v1/activations/{}/rename", encoded(name)), Some(&body))
    }

    fn resize(&mut self, name: &str, bytes: u64, dry_run: bool) -> Result<Resized, Error> {
        let body = json!({"bytes": bytes, "dry_run": dry_run});
        self.ask_of_disk(name, "resize", &body)
    }

    fn fork(
        &mut self,
        name: &str,
        new: &str,
        bytes: Option<u64>,
        dry_run: bool,
    ) -> Result<Forked, Error> {
        let body = json!({"id": new, "bytes": bytes, "dry_run": dry_run});
        self.ask_of_disk(name, "fork", &body)
    }

    fn snapshot(&mut self, name: &str, point: &str, dry_run: bool) -> Result<Snapshotted, Error> {
        self.ask_of_disk(name, "points", &json!({"point": point, "dry_run": dry_run}))
    }

    fn restore(&mut self, name: &str, point: &str, dry_run: bool) -> Result<Restored, Error> {
        self.ask_of_disk(name, "restore", &json!({"point": point, "dry_run": dry_run}))
    }

    fn points(&mut self, name: &str) -> Result<Points, Error> {
        self.ask("GET", &format!("/v1/activations/{}/points", encoded(name)), None)
    }

    fn remove_point(&mut self, name: &str, point: &str, dry_run: bool) -> Result<Points, Error> {
        let points = format!("/v1/activations/{}/points", encoded(name));
        let target = with_dry_run(format!("{points}?point={}", encoded(point)), dry_run);
        self.ask("DELETE", &target, None)
    }

    fn cancel(&mut self, run: RunId, why: &str) -> Result<Run, Error> {
        let (body, begun) = (json!({"why": why}), Instant::now());
        let target = format!("/v1/runs/{run}/cancel?wait={FIRST_S}");
        let mut line: RunLine = self.ask("POST", &target, Some(&body))?;
        while !line.run.state.is_end() {
            let left = self.wait.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return Err(Error::Locked {
                    what: format!("run {run}, which is to stop"),
                    holder: "its process".into(),
                    waited_s: begun.elapsed().as_secs(),
                });
            }
            let asked = Instant::now();
            line = self.look_at(&line, left)?;
            if !line.run.state.is_end() {
                self.pace.rest(asked.elapsed(), &self.cancel)?;
            }
        }
        Ok(line.run)
    }

    fn list(&mut self) -> Result<Listing, Error> {
        self.ask("GET", "/v1/listing", None)
    }

    fn usage(&mut self) -> Result<Usage, Error> {
        self.ask("GET", "/v1/usage", None)
    }

    fn runs(&mut self, all: bool) -> Result<Vec<RunLine>, Error> {
        let status = if all { "all" } else { "live" };
        let mut lines: Vec<RunLine> = Vec::new();
        loop {
            let after = lines.last().map_or(RunId::default(), |line| line.run.id);
            let target = format!("/v1/runs?status={status}&after={after}&limit={PAGE}");
            let page: Runs = self.ask("GET", &target, None)?;
            let last = page.runs.len() < PAGE;
            lines.extend(page.runs);
            if last {
                return Ok(lines);
            }
        }
    }

    fn events(
        &mut self,
        subject: Option<&str>,
        after: u64,
        time: Duration,
    ) -> Result<Vec<Event>, Error> {
        let after = after.min(i64::MAX.unsigned_abs());
        let mut target = format!("/v1/events?after={after}");
        let wait = if time.is_zero() { 0 } else { time.as_secs().clamp(1, WAIT_S) };
        if wait > 0 {
            target.push_str(&format!("&wait={wait}"));
        }
        if let Some(subject) = subject {
            target.push_str(&format!("&subject={}", encoded(subject)));
        }
        let longest = if wait == 0 { ANSWER_TIME } else { LATE + Duration::from_secs(wait) };
        let asked = Instant::now();
        let answer = self.call_within(&Asking::new("GET", &target, None), longest, true)?;
        if wait > 0 && answer.body.is_empty() {
            self.pace.rest(asked.elapsed(), &self.cancel)?;
        }
        let lines = answer.body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines.map(parsed).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_survives_a_query() {
        assert_eq!(encoded("s3://b/p q/é&"), "s3://b/p%20q/%C3%A9%26");
    }
}
