//! The scan hook: an outside scanner looks at the sealed top layer of an image, what it found is kept,
//! and a policy may keep the image from being activated. How it is run is in `run` and `child`, what it
//! prints is read in `report`.

mod child;
mod report;
mod run;

use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;

use registry::{Digest, Scan, ScanFinding, Severity, Volume, VolumeState};
use serde::Serialize;

pub use child::child_entry;
pub use report::{Report, parse};
pub use run::Failure;

use crate::log::Level;
use crate::{Error, Host, log};

/// What happens to an image that was not scanned, or not well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Nothing; it is scanned when asked.
    #[default]
    Off,
    /// It is scanned before its first activation, and what was found is said.
    Report,
    /// It is not activated.
    Required,
}

/// Who scans, and what is not let through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Whether activations depend on it.
    pub mode: Mode,
    /// The scanner and its words; `{}` in one is the tree's place.
    pub command: Vec<String>,
    /// Findings that are not let through.
    pub block: Vec<Severity>,
    /// It has so many seconds, of the wall and of the processor.
    pub timeout_s: u64,
    /// It may print so many bytes, on both streams together.
    pub output_max: u64,
    /// It may map so many bytes.
    pub memory_max: u64,
}

/// A scan, as it is told.
#[derive(Clone, Debug, Serialize)]
pub struct Scanned {
    /// The image.
    pub image: String,
    /// Its stack.
    pub chain: Digest,
    /// Who scanned.
    pub scanner: String,
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

/// How many findings of each severity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// The worst.
    pub critical: u64,
    /// Bad.
    pub high: u64,
    /// Not so bad.
    pub medium: u64,
    /// Hardly.
    pub low: u64,
    /// Nobody knows.
    pub unknown: u64,
}

impl From<[u64; 5]> for Counts {
    fn from([critical, high, medium, low, unknown]: [u64; 5]) -> Counts {
        Counts { critical, high, medium, low, unknown }
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Counts { critical, high, medium, low, unknown } = self;
        write!(f, "{critical} critical, {high} high, {medium} medium, {low} low, {unknown} unknown")
    }
}

impl Mode {
    /// The mode of a word of the settings.
    pub fn from_word(word: &str) -> Option<Mode> {
        match word {
            "off" => Some(Mode::Off),
            "report" => Some(Mode::Report),
            "required" => Some(Mode::Required),
            _ => None,
        }
    }
}

impl Policy {
    /// Whether these counts are not let through. Pure.
    pub fn blocks(&self, counts: &[u64; 5]) -> bool {
        self.block.iter().any(|severity| counts[*severity as usize] > 0)
    }
}

impl Host {
    /// What the last scan of an image's stack found.
    ///
    /// # Errors
    /// [`Error::Unknown`] for an image that is not here, or was never scanned.
    pub fn scanned(&self, image: &str) -> Result<Scanned, Error> {
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
        // What is looked at stays as long as that takes.
        let _using = self.locks.images_shared()?;
        let (_, top) = self.top_of(image)?;
        let scan = self.scan_volume(&top, true)?;
        self.told(image, scan)
    }

    /// Lets an image be activated, or not. The caller holds the images' lock.
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
        let findings = self.registry.scan_findings(scan.chain)?;
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
        let unknown = || Error::Unknown { what: "image", name: image.into() };
        let row = self.registry.image(image)?.ok_or_else(unknown)?;
        let top = row.layers.last().ok_or_else(unknown)?.volume;
        let top = self.registry.volume(top)?.ok_or(Error::Lost { volume: top })?;
        Ok((row.chain, top))
    }

    fn told(&self, image: &str, scan: Scan) -> Result<Scanned, Error> {
        let findings = self.registry.scan_findings(scan.chain)?;
        Ok(Scanned {
            image: image.into(),
            chain: scan.chain,
            blocks: self.settings.scan.blocks(&scan.counts),
            scanner: scan.scanner,
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
        let known = |host: &Host| host.registry.scan(chain).map(|scan| scan.filter(|_| !again));
        if let Some(scan) = known(self)? {
            return Ok(scan);
        }
        // Recovery by another process leaves a volume alone whose lock is held.
        let _mine = self.locks.build(&volume.build)?;
        if let Some(scan) = known(self)? {
            return Ok(scan);
        }
        let found = self.look_through(volume);
        let outcome = if found.is_ok() { "outcome=\"done\"" } else { "outcome=\"failed\"" };
        let Report { scanner, format, counts, findings } = match found {
            Ok(report) => report,
            Err(error) => {
                self.registry.write(|write| write.count("scans_total", outcome, 1))?;
                return Err(error);
            }
        };
        let program = self.settings.scan.command.first().cloned().unwrap_or_default();
        let scan = Scan {
            chain,
            scanner: scanner.unwrap_or(program),
            format: format.into(),
            counts,
            at_ms: 0,
        };
        self.registry.write(|write| {
            write.count("scans_total", outcome, 1)?;
            write.put_scan(&scan, &findings)
        })?;
        self.registry.scan(chain)?.ok_or(Error::Lost { volume: volume.id })
    }

    fn look_through(&self, volume: &Volume) -> Result<Report, Error> {
        let target = self.place()?;
        self.say(1, format_args!("scanning volume {}", volume.id));
        let view = {
            let _store = self.locks.store()?;
            self.store.look(volume.id, volume.bytes)?
        };
        let found = run::run(&self.settings.scan, view.tree(), &target, &self.settings.cancel);
        // Where the scan failed, that is the news.
        match (found, view.close()) {
            (Ok(report), closed) => closed.map(|()| report),
            (Err(error), _) => Err(error),
        }
    }

    /// Where a scanner sees the tree, in a namespace of its own: here it is an empty directory.
    fn place(&self) -> Result<PathBuf, Error> {
        let path = self.settings.state.join("scan");
        let mut builder = std::fs::DirBuilder::new();
        let made = builder.recursive(true).mode(0o700).create(&path);
        made.and_then(|()| path.canonicalize()).map_err(|source| Error::Io {
            doing: "make",
            path,
            source,
        })
    }
}
