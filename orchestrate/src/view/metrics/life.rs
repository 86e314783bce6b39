//! What only a living process knows of itself: its own counts, which begin anew with each process, and
//! what the kernel says of it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::fleet::{Refused, Status};
use crate::view::metrics::text::Text;

/// Counts of this process. A daemon adds to them; nothing is decided by them.
#[derive(Debug, Default)]
pub struct Life {
    /// Requests answered, by the first digit of their status: 1xx to 5xx.
    requests: [AtomicU64; 5],
    /// Connections that are open.
    pub connections: AtomicU64,
    /// Clients that were turned away before an answer of their own.
    refused: [AtomicU64; 4],
    /// Webhooks that were taken by who was to hear.
    pub webhooks_sent: AtomicU64,
    /// Webhooks that were given up.
    pub webhooks_failed: AtomicU64,
    /// When the scheduler last looked, milliseconds since 1970 UTC.
    pub ticked_ms: AtomicU64,
    /// When S3 last answered as it should, milliseconds since 1970 UTC; 0: never in this process.
    pub s3_ok_ms: AtomicU64,
    /// Panics that a worker or a connection was ended by and this process was not.
    pub panics: AtomicU64,
    /// What the daemon knows of its fleet; none: it is in none.
    pub fleet: Mutex<Option<Status>>,
    /// Documents of it that were not believed, or not to be had, by why.
    documents_refused: [AtomicU64; DOCUMENTS_REFUSED.len()],
}

/// Why a document is not in force: those of [`Refused`], that there is none, and that nobody answers.
const DOCUMENTS_REFUSED: [&str; 8] = {
    let [a, b, c, d, e, f] = Refused::WORDS;
    [a, b, c, d, e, f, "absent", "unreachable"]
};

/// Why a client was turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Too many connections.
    Full,
    /// No right to it.
    Denied,
    /// Too slow with its request.
    Slow,
    /// A request that is none, or larger than it may be.
    Malformed,
}

/// The counts of this process.
pub static LIFE: Life = Life::new();

impl Life {
    const fn new() -> Life {
        Life {
            requests: [const { AtomicU64::new(0) }; 5],
            connections: AtomicU64::new(0),
            refused: [const { AtomicU64::new(0) }; 4],
            webhooks_sent: AtomicU64::new(0),
            webhooks_failed: AtomicU64::new(0),
            ticked_ms: AtomicU64::new(0),
            s3_ok_ms: AtomicU64::new(0),
            panics: AtomicU64::new(0),
            fleet: Mutex::new(None),
            documents_refused: [const { AtomicU64::new(0) }; DOCUMENTS_REFUSED.len()],
        }
    }

    /// Counts an answer of this status.
    pub fn answered(&self, status: u16) {
        let place = usize::from(status / 100).clamp(1, 5) - 1;
        self.requests[place].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a client that was turned away.
    pub fn refused(&self, why: Refusal) {
        self.refused[why as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a document of the fleet that is not in force.
    pub(crate) fn document_refused(&self, why: &str) {
        if let Some(at) = DOCUMENTS_REFUSED.iter().position(|known| *known == why) {
            self.documents_refused[at].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What the daemon knows of its fleet.
    pub fn of_fleet(&self) -> Option<Status> {
        self.fleet.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn write_fleet(&self, text: &mut Text) {
        let Some(fleet) = self.of_fleet() else { return };
        let help = "Serial of the fleet's document in force; 0: there is none.";
        text.gauge("fleet_serial", help, fleet.serial.unwrap_or(0));
        if let Some(age_s) = fleet.age_s {
            let help = "Seconds since the fleet's document was last found to be the newest.";
            text.gauge("fleet_age_seconds", help, age_s);
        }
        let help = "Images and activations that the document names, by how far they are here.";
        text.family("fleet_images", "gauge", help);
        for state in ["ready", "wanted", "failed", "left"] {
            text.sample("fleet_images", &format!("state=\"{state}\""), fleet.count(state));
        }
        let help = "Documents of the fleet that were not believed or not to be had, by why.";
        text.family("fleet_refused_total", "counter", help);
        for (count, why) in self.documents_refused.iter().zip(DOCUMENTS_REFUSED) {
            let count = count.load(Ordering::Relaxed);
            text.sample("fleet_refused_total", &format!("why=\"{why}\""), count);
        }
    }

    /// Counts a panic that was caught, and gives what it said.
    pub fn panicked(&self, payload: &(dyn std::any::Any + Send)) -> String {
        self.panics.fetch_add(1, Ordering::Relaxed);
        let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| payload.downcast_ref::<String>().cloned());
        text.unwrap_or_else(|| "nothing".to_owned())
    }

    pub(super) fn write(&self, text: &mut Text) {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        text.family("http_requests_total", "counter", "Requests this process answered.");
        for (count, class) in self.requests.iter().zip(["1xx", "2xx", "3xx", "4xx", "5xx"]) {
            text.sample("http_requests_total", &format!("code=\"{class}\""), of(count));
        }
        text.gauge("http_connections", "Connections that are open.", of(&self.connections));
        let help = "Clients this process turned away.";
        text.family("http_refused_total", "counter", help);
        for (count, why) in self.refused.iter().zip(["full", "denied", "slow", "malformed"]) {
            text.sample("http_refused_total", &format!("reason=\"{why}\""), of(count));
        }
        text.family("webhooks_total", "counter", "Webhooks that this process sent or gave up.");
        text.sample("webhooks_total", "outcome=\"sent\"", of(&self.webhooks_sent));
        text.sample("webhooks_total", "outcome=\"failed\"", of(&self.webhooks_failed));
        let help = "Panics that ended a run's try or a connection, and not this process: bugs.";
        text.family("panics_total", "counter", help);
        text.sample("panics_total", "", of(&self.panics));
        let seconds = |count: &AtomicU64| of(count) as f64 / 1000.0;
        let help = "When the scheduler last looked, since 1970.";
        text.gauge("ticked_timestamp_seconds", help, seconds(&self.ticked_ms));
        let help = "When S3 last answered a daemon as it should, since 1970, also one before this; 0: never.";
        text.gauge("s3_ok_timestamp_seconds", help, seconds(&self.s3_ok_ms));
        self.write_fleet(text);
    }
}

/// What the kernel says of this process (proc(5)). The names are those of every Prometheus client.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Process {
    /// Time on processors, seconds.
    pub cpu_s: f64,
    /// Resident bytes.
    pub resident_bytes: u64,
    /// Virtual bytes.
    pub virtual_bytes: u64,
    /// Open files.
    pub open_files: u64,
    /// As many may be open.
    pub max_files: u64,
    /// Threads.
    pub threads: u64,
    /// Begin, seconds since 1970 UTC.
    pub begun_s: f64,
}

impl Process {
    /// This process, as far as the kernel says; 0 for the rest.
    pub fn now() -> Process {
        let read =
            |name: &str| std::fs::read_to_string(format!("/proc/{name}")).unwrap_or_default();
        let files = std::fs::read_dir("/proc/self/fd").map_or(0, |dir| dir.count() as u64);
        let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten();
        let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
        let unit = |found: Option<i64>, usual: u64| {
            found.and_then(|n| u64::try_from(n).ok()).unwrap_or(usual)
        };
        let mut process = Process::parse(
            &read("self/stat"),
            &read("stat"),
            &read("self/limits"),
            unit(ticks, 100),
            unit(page, 4096),
        );
        // The directory's own descriptor is one of them.
        process.open_files = files.saturating_sub(1);
        process
    }

    fn parse(stat: &str, system: &str, limits: &str, ticks: u64, page: u64) -> Process {
        // The name in parentheses may hold anything; fields are counted from after it: state is 3.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
        let field = |n: usize| fields.get(n - 3).and_then(|f| f.parse::<u64>().ok()).unwrap_or(0);
        let after = |text: &str, word: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(word));
            line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0)
        };
        let time = |n: u64| n as f64 / ticks as f64;
        Process {
            cpu_s: time(field(14) + field(15)),
            threads: field(20),
            begun_s: after(system, "btime ") as f64 + time(field(22)),
            virtual_bytes: field(23),
            resident_bytes: field(24) * page,
            open_files: 0,
            max_files: after(limits, "Max open files"),
        }
    }

    pub(super) fn write(&self, text: &mut String) {
        let mut put = |name: &str, kind: &str, help: &str, value: String| {
            text.push_str(&format!(
                "# HELP process_{name} {help}\n# TYPE process_{name} {kind}\nprocess_{name} {value}\n"
            ));
        };
        let gauge = "gauge";
        put("cpu_seconds_total", "counter", "Time on processors.", self.cpu_s.to_string());
        put("resident_memory_bytes", gauge, "Resident memory.", self.resident_bytes.to_string());
        put("virtual_memory_bytes", gauge, "Virtual memory.", self.virtual_bytes.to_string());
        put("open_fds", gauge, "Open files.", self.open_files.to_string());
        put("max_fds", gauge, "As many files may be open.", self.max_files.to_string());
        put("threads", gauge, "Threads.", self.threads.to_string());
        put("start_time_seconds", gauge, "Begin, since 1970.", self.begun_s.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_counted_and_told() {
        let life = Life::new();
        for (caught, due) in [
            (std::panic::catch_unwind(|| panic!("plain")), "plain"),
            (std::panic::catch_unwind(|| panic!("with {}", 7)), "with 7"),
        ] {
            assert_eq!(life.panicked(&*caught.unwrap_err()), due);
        }
        assert_eq!(life.panics.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn a_process_with_a_name_full_of_parentheses_is_read() {
        let stat = "7 (a) R 1) S 1 7 7 0 -1 4194560 1 2 3 4 250 50 0 0 20 0 9 0 1000 8192 3 184";
        let limits =
            "Limit   Soft\nMax open files            1024                 4096       files\n";
        let process = Process::parse(stat, "cpu 1\nbtime 5000\n", limits, 100, 4096);
        let expected = Process {
            cpu_s: 3.0,
            resident_bytes: 3 * 4096,
            virtual_bytes: 8192,
            open_files: 0,
            max_files: 1024,
            threads: 9,
            begun_s: 5010.0,
        };
        assert_eq!(process, expected);
        assert_eq!(Process::parse("", "", "", 100, 4096), Process::default());
    }

    #[test]
    fn this_process_is_there() {
        let process = Process::now();
        assert!(process.resident_bytes > 1 << 20 && process.open_files > 2, "{process:?}");
        assert!(process.begun_s > 1e9 && process.max_files > 0, "{process:?}");
    }
}
