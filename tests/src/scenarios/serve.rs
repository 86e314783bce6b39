//! Sixty requests at once (in the long form five hundred) for overlapping images, to a daemon on a thin pool
//! that is killed in the middle: each layer is fetched and unpacked once, and all that was asked for is there.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::guest::Guest;
use crate::guest::daemon::{Daemon, exchange, get, wait};
use crate::guest::veneer::{FAMILIES, Mounted, Veneer, expected, image};
use crate::scenario::{Images, Needs, Report, Scenario};

/// See the module.
pub const SCENARIO: Scenario = Scenario {
    name: "serve",
    needs: Needs {
        images: Images::Small,
        timeout_s: 900,
        soak_timeout_s: Some(1500),
        ..Needs::DEFAULT
    },
    run,
};

/// All that come at once.
#[derive(Debug, Clone, Copy)]
struct Crowd {
    requests: usize,
    /// Names: each is asked for by several requests, which is asking once.
    names: usize,
}

const ARGS: [&str; 2] = ["--concurrency", "3"];

fn run(guest: &mut Guest) -> Result<Report> {
    let crowd = match guest.long() {
        true => Crowd { requests: 500, names: 90 },
        false => Crowd { requests: 60, names: 12 },
    };
    let veneer = Veneer::new(guest)?;
    let daemon = Daemon::start(&veneer, &ARGS)?;
    let socket = daemon.socket.clone();
    let begun = Instant::now();
    crowd.ask(&socket)?;
    wait(|| {
        let done = get(&socket, "/v1/runs?status=done&limit=1000")?;
        Ok(done["runs"].as_array().is_some_and(|runs| runs.len() >= 3))
    })?;
    let queued = get(&socket, "/v1/runs?status=queued&limit=1000")?;
    let queued = queued["runs"].as_array().map_or(0, Vec::len);
    daemon.kill()?;

    let daemon = Daemon::start(&veneer, &ARGS)?;
    crowd.ask(&socket)?;
    wait(|| Ok(get(&socket, "/v1/runs?status=live")?["runs"] == serde_json::json!([])))?;
    let ms = u64::try_from(begun.elapsed().as_millis())?;
    let failed = get(&socket, "/v1/runs?status=failed")?;
    ensure!(failed["runs"] == serde_json::json!([]), "{failed}");

    // What was under way at the kill may have come in two pieces; nothing else came twice.
    let gets = veneer.s3.object_gets();
    let listing = get(&socket, "/v1/listing")?;
    let images = listing["images"].as_array().context("images")?;
    let layers = images.iter().filter_map(|image| image["layers"].as_array()).flatten();
    let volumes: BTreeSet<u64> = layers.filter_map(|layer| layer["volume"].as_u64()).collect();
    let keys: BTreeSet<&str> = gets.iter().map(|get| get.target.as_str()).collect();
    ensure!(keys.len() == volumes.len(), "{} layers by {keys:?}", volumes.len());
    let sealed = history(&socket)?;
    ensure!(sealed.len() == volumes.len() + 1, "sealed: {sealed:?}, in use: {volumes:?}");
    let names = listing["activations"].as_array().context("activations")?;
    ensure!(names.len() == crowd.names, "{} of {} names are there", names.len(), crowd.names);
    ensure!(names.iter().all(|line| line["mapped"] == true), "not mapped: {listing}");

    let mounted = Mounted::new(guest.scratch(), "n-0")?;
    expected(guest, FAMILIES[0], 256)?.expect_equal(&mounted.tree()?)?;
    drop(mounted);
    let ready = get(&socket, "/readyz")?;
    ensure!(ready["ready"] == true, "{ready}");
    daemon.stop()?;
    veneer.check()?;
    veneer.close()?;
    Ok(Report::new()
        .figure("requests", 2 * crowd.requests)
        .figure("activations", crowd.names)
        .figure("queued_at_the_kill", queued)
        .figure("layers", volumes.len())
        .figure("object_gets", gets.len())
        .figure("ms", ms))
}

impl Crowd {
    /// All requests at once, each on a connection of its own; who finds no place comes again.
    fn ask(self, socket: &Path) -> Result<()> {
        std::thread::scope(|scope| {
            let ask = |number: usize| -> Result<()> {
                let name = number % self.names;
                let body = format!(
                    "{{\"id\":\"n-{name}\",\"image\":\"{}\"}}",
                    image(FAMILIES[name % FAMILIES.len()])
                );
                wait(|| match exchange(socket, "POST", "/v1/activations", &body) {
                    Ok((200 | 202, _)) => Ok(true),
                    // Full, or shown the door before all was said.
                    Ok((503, _)) | Err(_) => Ok(false),
                    Ok((status, answer)) => anyhow::bail!("{status}: {answer}"),
                })
            };
            let asking: Vec<_> = (0..self.requests)
                .map(|number| {
                    let small = std::thread::Builder::new().stack_size(128 << 10);
                    small.spawn_scoped(scope, move || ask(number))
                })
                .collect::<std::io::Result<_>>()?;
            asking.into_iter().try_for_each(|thread| thread.join().expect("a request panicked"))
        })
    }
}

/// Subjects of the events by which something was sealed.
fn history(socket: &Path) -> Result<Vec<String>> {
    let (mut after, mut sealed) = (0, Vec::new());
    loop {
        let (_, answer) = exchange(socket, "GET", &format!("/v1/events?after={after}"), "")?;
        let before = after;
        for line in answer.lines() {
            let event: Value = serde_json::from_str(line)?;
            after = event["seq"].as_u64().context("a number")?;
            if event["to"] == "sealed" {
                sealed.push(event["subject"].to_string());
            }
        }
        if after == before {
            return Ok(sealed);
        }
    }
}
