//! The scan hook: an outside scanner looks at the sealed top layer of an image, what it found is kept,
//! and a policy may keep the image from being activated. How it is run is in `run` and `child`, what it
//! prints is read in `trust::report`.

pub(crate) mod child;
pub(crate) mod filter;
pub(crate) mod run;

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use registry::{Digest, Scan, ScanFinding, Volume, VolumeState};
use serde::Serialize;

use crate::trust::scan::{Counts, Mode, Policy};

pub use crate::trust::report::{Report, parse};
pub use crate::trust::scan::Failure;
pub use crate::verbs::scan::child::child_entry;

use crate::error::Error;
use crate::host::{Host, walls};
use crate::process::log::Level;
use crate::process::{log, place};
use crate::store::seam::StoreName;

/// A scan, as it is told.
#[derive(Clone, Debug, Serialize)]
pub struct Scanned {
    /// The image.
    pub image: String,
    /// Its stack.
    pub chain: Digest,
    /// Who scanned, as its report says.
    pub scanner: String,
    /// The scanner, as it was set; empty where an older program kept the verdict.
    pub command: String,
    /// Its version, where it says so.
    pub version: Option<String>,
    /// What it knew of, where it says so.
    pub database: Option<String>,
    /// The policy under which it scanned.
    pub policy: String,
    /// `trivy` or `sarif`.
    pub format: String,
    /// How many findings of each severity.
    pub counts: Counts,
    /// Whether the policy's severities are among them.
    pub blocks: bool,
    /// When, milliseconds since 1970 UTC.
    pub at_ms: i64,
    /// The worst first, as far as they are kept.
    pub findings: Vec<ScanFinding>,
}

impl From<[u64; 5]> for Counts {
    fn from([critical, high, medium, low, unknown]: [u64; 5]) -> Counts {
        Counts { critical, high, medium, low, unknown }
    }
}

impl Host {
    /// What the last scan of an image's stack found.
    ///
    /// # Errors
    /// [`Error::Unknown`] for an image that is not here, or was never scanned.
    pub fn scanned(&self, image: &str) -> Result<Scanned, Error> {
        let image = &self.own_name(image)?;
        let (chain, _) = self.top_of(image)?;
        let scan = self.registry.scan(chain)?;
        let scan = scan.ok_or_else(|| Error::Unknown { what: "scan of", name: image.into() })?;
        self.told(image, scan)
    }

    /// Scans an image's sealed top layer, also one that was scanned before, and keeps what was found.
    ///
    /// # Errors
    /// [`Error::Unknown`] for an image that is not here; [`Error::Scan`].
    pub fn scan(&mut self, image: &str) -> Result<Scanned, Error> {
        let image = &self.own_name(image)?;
        let (_, top) = self.top_of(image)?;
        let scan = match self.scan_volume(&top, true) {
            // Somebody else removed the image while its volume's lock was waited for, and perhaps made it again.
            Err(Error::Lost { volume }) if volume == top.id => {
                let (_, now) = self.top_of(image)?;
                self.scan_volume(&now, true)?
            }
            scanned => scanned?,
        };
        self.told(image, scan)
    }

    /// Lets an image be activated, or not. A scan takes its time: no lock is held but that of the volume,
    /// which keeps it from being removed.
    ///
    /// # Errors
    /// [`Error::Blocked`]; [`Error::Scan`] where a scan is required and cannot be made.
    pub(crate) fn permit(&mut self, image: &str, top: &Volume) -> Result<(), Error> {
        let mode = self.settings.scan.mode;
        let scan = match mode {
            Mode::Off => return Ok(()),
            Mode::Report | Mode::Required => self.scan_volume(top, false),
        };
        let scan = match (scan, mode) {
            (Ok(scan), _) => scan,
            (Err(error @ Error::Scan(_)), Mode::Report) => {
                log::line(Level::Warning, &format!("{image} is not scanned: {error}"), &[]);
                return Ok(());
            }
            (Err(error), _) => return Err(error),
        };
        if !self.settings.scan.blocks(&scan.counts) {
            return Ok(());
        }
        let findings = self.registry.scan_findings(&scan)?;
        let blocked = Error::Blocked {
            image: image.into(),
            counts: scan.counts.into(),
            worst: findings.first().map_or("?".into(), |finding| finding.id.clone()),
        };
        if mode == Mode::Report {
            log::line(Level::Warning, &blocked.to_string(), &[]);
            return Ok(());
        }
        self.registry.write(|write| write.count("activations_blocked_total", "", 1))?;
        Err(blocked)
    }

    fn top_of(&self, image: &str) -> Result<(Digest, Volume), Error> {
        let unknown = || self.unknown("image", image);
        let row = self.registry.image(image)?.ok_or_else(unknown)?;
        let top = row.layers.last().ok_or_else(unknown)?.volume;
        let top = self.registry.volume(top)?.ok_or(Error::Lost { volume: top })?;
        Ok((row.chain, top))
    }

    fn told(&self, image: &str, scan: Scan) -> Result<Scanned, Error> {
        let findings = self.registry.scan_findings(&scan)?;
        Ok(Scanned {
            image: image.into(),
            chain: scan.chain,
            blocks: self.settings.scan.blocks(&scan.counts),
            scanner: scan.scanner,
            command: scan.command,
            version: scan.version,
            database: scan.database,
            policy: scan.policy,
            format: scan.format,
            counts: scan.counts.into(),
            at_ms: scan.at_ms,
            findings,
        })
    }

    /// The scan of a sealed volume; made where there is none, or `again`.
    fn scan_volume(&mut self, volume: &Volume, again: bool) -> Result<Scan, Error> {
        let VolumeState::Sealed(seal) = &volume.state else {
            return Err(Error::Lost { volume: volume.id });
        };
        let chain = seal.chain.ok_or(Error::Lost { volume: volume.id })?;
        let scanner = self.settings.scan.scanner();
        let known = |host: &Host| {
            let scan = host.registry.scan_by(chain, &scanner)?;
            Ok::<_, Error>(scan.filter(|scan| !again && host.settings.scan.counts_for(scan)))
        };
        if let Some(scan) = known(self)? {
            return Ok(scan);
        }
        // Recovery by another process leaves a volume alone whose lock is held.
        let _mine = self.locks.build(&volume.build)?;
        if let Some(scan) = known(self)? {
            return Ok(scan);
        }
        self.still_sealed(volume.id)?;
        let found = self.look_through(volume);
        let outcome = if found.is_ok() { "outcome=\"done\"" } else { "outcome=\"failed\"" };
        let Report { scanner: named, version, database, format, counts, findings } = match found {
            Ok(report) => report,
            Err(error) => {
                self.registry.write(|write| write.count("scans_total", outcome, 1))?;
                return Err(error);
            }
        };
        let program = self.settings.scan.command.first().cloned().unwrap_or_default();
        let scan = Scan {
            chain,
            command: scanner.clone(),
            scanner: named.unwrap_or(program),
            version,
            database,
            policy: self.settings.scan.mode.word().into(),
            format: format.into(),
            counts,
            at_ms: 0,
        };
        self.commit_told(|write| {
            write.count("scans_total", outcome, 1)?;
            write.put_scan(&scan, &findings)
        })?;
        self.registry.scan_by(chain, &scanner)?.ok_or(Error::Lost { volume: volume.id })
    }

    fn look_through(&self, volume: &Volume) -> Result<Report, Error> {
        let target = self.place(&self.settings.state.join("scan"))?;
        // It has temporary files, too.
        let cache = self.cache()?;
        let policy = Policy { cache, ..self.settings.scan.clone() };
        if policy.walls != unpack::Walls::Require {
            walls::warn("a scanner runs", &walls::standing(&self.settings).unwrap_or_default());
        }
        self.say(1, format_args!("scanning volume {}", volume.id));
        let view = {
            let _store = self.locks.store()?;
            self.store.look(volume.id, volume.bytes)?
        };
        let (policy, cancel) = (&policy, &self.settings.cancel);
        let found = run::run(policy, view.tree(), &target, cancel).and_then(|mut report| {
            if !policy.about.is_empty() {
                let about = run::about(policy, view.tree(), &target, cancel)?;
                report.version = about.version.or(report.version);
                report.database = about.database.or(report.database);
            }
            Ok(report)
        });
        // Where the scan failed, that is the news.
        match (found, view.close()) {
            (Ok(report), closed) => closed.map(|()| report),
            (Err(error), _) => Err(error),
        }
    }

    /// The scanner's cache: a directory of ours that nobody else can look into, since a scanner that is taken
    /// over may leave anything there.
    fn cache(&self) -> Result<PathBuf, Error> {
        let named = &self.settings.scan.cache;
        let cache = self.place(named)?;
        let dir = place::own(named, place::CACHE, false)?;
        let state = self.settings.state.canonicalize().unwrap_or_default();
        let store = match &self.settings.store {
            StoreName::Dir(path) => path.canonicalize().ok(),
            StoreName::Thin(_) => None,
        };
        let inside =
            store.is_some_and(|store| cache.starts_with(&store) || store.starts_with(&cache));
        if state.starts_with(&cache) || inside {
            return Err(Error::Usage(format!(
                "scan.cache {}: the state directory or the store is in it, or it is in the store: a scanner may \
                 write to all that is there; name another",
                named.display().to_string().escape_debug()
            )));
        }
        let private = std::fs::Permissions::from_mode(0o700);
        dir.set_permissions(private).map_err(|source| Error::Io {
            doing: "set the mode of",
            path: cache.clone(),
            source,
        })?;
        let temporary = cache.join("tmp");
        self.place(&temporary)?;
        place::own(&temporary, place::CACHE, false)?;
        Ok(cache)
    }

    /// A directory for a scanner: where it sees the tree, in a namespace of its own (here it is empty), or where
    /// it may write.
    fn place(&self, path: &Path) -> Result<PathBuf, Error> {
        place::make(path, place::CACHE)?;
        path.canonicalize().map_err(|source| Error::Io {
            doing: "find",
            path: path.to_owned(),
            source,
        })
    }
}
