//! `send`: the blocks of a disk as a stream, found by the store's own metadata.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Seek as _, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use registry::{Activation, DiskState, Point, VolumeId, VolumeState};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use thin::Difference;

use crate::error::Error;
use crate::error::travel::NotMoved;
use crate::host::Host;
use crate::host::ids::{self, New};
use crate::plan::disks::DiskUse;
use crate::process::full::STANDARD_OUTPUT;
use crate::process::reserve;
use crate::store::snapshot::Snapshot;
use crate::store::travel::{Blocks, Travels};
use crate::travel::fault::Fault;
use crate::travel::head::{Basis, Head, HeadPoint};
use crate::travel::write::{Sent, StreamWriter};
use crate::verbs::disks;
use crate::verbs::export::whole::Whole;
use crate::verbs::named::check_name;
use crate::verbs::travel::{at_work, identity};

/// Stretches that are asked for at a time: for so long the pool's metadata is held.
const PAGE: usize = 4096;

/// Bytes that go out at a time.
const OUT: usize = 1 << 20;

/// Where a stream goes.
#[derive(Debug)]
pub enum SendTo {
    /// Into this one, as it comes.
    Stream(File),
    /// Into a file, which is there when all of it is, in the place of one that was there.
    File(PathBuf),
}

/// What is sent of a disk.
#[derive(Clone, Debug, Default)]
pub struct SendOptions {
    /// Only the blocks that differ from this point.
    pub since: Option<String>,
    /// The disk as it was at this point; none: as it is.
    pub point: Option<String>,
    /// All blocks, also those of the image.
    pub whole: bool,
    /// The first block to send: those below it were received.
    pub from: u64,
}

/// What was sent.
#[derive(Clone, Debug, Serialize)]
pub struct SentDisk {
    /// The activation.
    pub name: String,
    /// Its image.
    pub image: String,
    /// The point that was sent; none: the disk as it is.
    pub point: Option<String>,
    /// The point since which.
    pub since: Option<String>,
    /// The file; none where it went to standard output.
    pub to: Option<String>,
    /// Bytes of the stream.
    pub bytes: u64,
    /// Bytes of the disk.
    pub disk_bytes: u64,
    /// Bytes of a block.
    pub block_bytes: u64,
    /// Blocks that differ from what the receiver has, with data.
    pub data_blocks: u64,
    /// Blocks that differ from what the receiver has, and read as zeros.
    pub zero_blocks: u64,
    /// Blocks whose data is in this stream.
    pub sent_blocks: u64,
    /// The digest of the content.
    pub content: registry::Digest,
}

/// A disk that nobody writes to.
struct Still {
    point: Point,
    /// Whether it is a snapshot that goes when it was sent.
    passing: bool,
}

impl Host {
    /// Writes the blocks of the disk of the activation `name`.
    ///
    /// # Errors
    /// [`Error::Unknown`]; [`Error::Travel`] where somebody has it open and no point is named; [`Error::Usage`]; those of
    /// files.
    pub fn send(
        &mut self,
        name: &str,
        options: &SendOptions,
        to: SendTo,
    ) -> Result<SentDisk, Error> {
        check_name(name)?;
        if options.whole && options.since.is_some() {
            return Err(Error::Usage("--whole and --since: one of them".into()));
        }
        if options.from > 0 && options.point.is_none() {
            return Err(Error::Usage(
                "--from: only a point is the same twice; name the one that was sent by --point"
                    .into(),
            ));
        }
        let mine = self.locks.activation(name)?;
        let row = self.with_disk(name)?;
        if self.store.disks().is_none() {
            return Err(NotMoved::Directories.into());
        }
        let since = options.since.as_deref().map(|since| self.named_point(name, since));
        let since = since.transpose()?;
        let still = match &options.point {
            Some(point) => Still { point: self.named_point(name, point)?, passing: false },
            None => Still { point: self.passing_point(&row)?, passing: true },
        };
        let sent = self.sent(&row, &still, since.as_ref(), options, to, mine);
        if still.passing {
            // What stays is taken out by whoever comes next.
            self.drop_points(name)?;
        }
        sent
    }

    /// A snapshot of a disk that nobody has open, for as long as it is sent.
    fn passing_point(&mut self, row: &Activation) -> Result<Point, Error> {
        match self.disk_use(row.id)? {
            DiskUse::Down | DiskUse::Idle => {}
            DiskUse::Mounted { by } | DiskUse::Held { by } => {
                return Err(NotMoved::Open { name: row.name.clone(), by }.into());
            }
        }
        self.drop_points(&row.name)?;
        let _alone = self.locks.store()?;
        self.store.admit(1)?;
        let origin = row.id;
        let new = New::Point { activation: &row.name, name: None, bytes: row.bytes };
        let (id, made) = ids::take(self, &new, |host, id| {
            disks::snapshot(host.store.as_ref(), Snapshot { id, origin })
        })?;
        made?;
        self.point_of(Some(id))?.ok_or(Error::Lost { volume: id })
    }

    fn sent(
        &self,
        row: &Activation,
        still: &Still,
        since: Option<&Point>,
        options: &SendOptions,
        to: SendTo,
        mine: crate::process::lock::Lock,
    ) -> Result<SentDisk, Error> {
        let Some(disks) = self.store.disks() else { return Err(NotMoved::Directories.into()) };
        let travels = disks.travels();
        let head = self.head(row, still, since, options, travels.travel_block())?;
        let left = match (since, options.whole) {
            (Some(since), _) => Some(since.id),
            (None, true) => None,
            (None, false) => Some(row.origin),
        };
        let _sending = self.locks.build(&at_work::sending(still.point.id))?;
        let open = travels.open_still(still.point.id, still.point.bytes)?;
        // A point that is open is not removed; a passing snapshot is known by the lock of its activation.
        let _mine = Some(mine).filter(|_| still.passing);
        let source = Source { host: self, travels, left, id: still.point.id, open };
        let (sent, file) = match to {
            SendTo::Stream(out) => {
                let to = Path::new(STANDARD_OUTPUT);
                (source.through(&head, out).map_err(|error| self.written_to(to, error))?.0, None)
            }
            SendTo::File(path) => {
                let whole = Whole::new(&path)?;
                let sent = source.through(&head, whole);
                let (sent, whole) = sent.map_err(|error| self.written_to(&path, error))?;
                whole.keep(&path)?;
                (sent, Some(path.display().to_string()))
            }
        };
        Ok(SentDisk {
            name: row.name.clone(),
            image: row.reference.clone(),
            point: options.point.clone(),
            since: options.since.clone(),
            to: file,
            bytes: sent.bytes,
            disk_bytes: head.disk_bytes,
            block_bytes: head.block_bytes,
            data_blocks: sent.data_blocks,
            zero_blocks: sent.zero_blocks,
            sent_blocks: sent.sent_blocks,
            content: sent.content,
        })
    }

    /// Names what could not be written: what the stream goes to, or the index beside it, in the state directory.
    fn written_to(&self, to: &Path, error: Error) -> Error {
        match error {
            Error::Io { doing, path, source } if path == Path::new(STREAM) => {
                let aside = reserve::lacks(&self.settings.state).is_some();
                let path = if aside { self.settings.state.clone() } else { to.into() };
                Error::Io { doing, path, source }
            }
            error => error,
        }
    }

    fn head(
        &self,
        row: &Activation,
        still: &Still,
        since: Option<&Point>,
        options: &SendOptions,
        block_bytes: u64,
    ) -> Result<Head, Error> {
        let store = self.store.binding();
        self.not_condemned(row.origin, &row.reference)?;
        let volume = self.still_sealed(row.origin)?;
        let VolumeState::Sealed(seal) = &volume.state else {
            return Err(Error::Lost { volume: volume.id });
        };
        let no_digest =
            || NotMoved::NoDigest { name: row.name.clone(), image: row.reference.clone() };
        let chain = seal.chain.ok_or_else(no_digest)?;
        let basis = match (since, options.whole) {
            (Some(since), _) => Basis::Point { identity: identity(&store, since) },
            (None, true) => Basis::Nothing {},
            (None, false) => Basis::Image { blocks: seal.blocks.ok_or_else(no_digest)? },
        };
        let disk_bytes = self.store.device_bytes(still.point.bytes);
        if let Some(since) = since.filter(|since| since.bytes > still.point.bytes) {
            return Err(Error::Usage(format!(
                "the disk had {} bytes at the point {}, and has {} now: send it without --since",
                since.bytes,
                since.name.as_deref().unwrap_or_default(),
                still.point.bytes
            )));
        }
        let own = identity(&store, &still.point);
        let mut hash = Sha256::new();
        hash.update(b"veneer stream 1\0");
        hash.update(own.0);
        hash.update(serde_json::to_vec(&basis).unwrap_or_default());
        let point = still.point.name.clone().filter(|_| !still.passing).map(|name| HeadPoint {
            name,
            identity: own,
            consistency: still.point.disk_state.unwrap_or(DiskState::CrashConsistent),
        });
        let stream = registry::Digest(hash.finalize().into());
        let (name, image, from) = (row.name.clone(), row.reference.clone(), options.from);
        Ok(Head { stream, name, image, chain, block_bytes, disk_bytes, basis, point, from })
    }
}

/// A disk that is open, and what it is compared with.
struct Source<'a> {
    host: &'a Host,
    travels: &'a dyn Travels,
    left: Option<VolumeId>,
    id: VolumeId,
    open: Box<dyn Blocks>,
}

impl Source<'_> {
    /// Writes the stream into `out`, and gives that back. The device is closed whatever comes of it.
    fn through<W: Write>(mut self, head: &Head, out: W) -> Result<(Sent, W), Error> {
        let sent = self.written(head, BufWriter::with_capacity(OUT, out));
        let closed = self.open.close();
        let (sent, out) = sent?;
        closed?;
        let out = out.into_inner().map_err(|error| failed(Fault::Io(error.into_error())))?;
        Ok((sent, out))
    }

    fn written<W: Write>(&mut self, head: &Head, out: W) -> Result<(Sent, W), Error> {
        let aside = aside(&self.host.settings.state)?;
        let mut writer = StreamWriter::new(out, aside, head).map_err(failed)?;
        let mut block = vec![0; usize::try_from(head.block_bytes).unwrap_or(0)];
        let (mut from, blocks) = (0, head.blocks());
        // The first block has the seal record of this host's volume in it: it is never the receiver's.
        let mut with_first = matches!(head.basis, Basis::Image { .. });
        loop {
            let page = self.travels.delta(self.left, self.id, from, PAGE)?;
            for stretch in &page.stretches {
                if std::mem::take(&mut with_first) && stretch.begin > 0 {
                    self.block(&mut writer, 0, &mut block)?;
                }
                // Beyond its end a thin may have blocks from when it was larger.
                let end = stretch.begin.saturating_add(stretch.blocks).min(blocks);
                if end <= stretch.begin {
                    continue;
                }
                match stretch.kind {
                    Difference::OnlyLeft => {
                        writer.zeros(stretch.begin, end - stretch.begin).map_err(failed)?;
                    }
                    Difference::Changed | Difference::OnlyRight => {
                        for number in stretch.begin..end {
                            self.block(&mut writer, number, &mut block)?;
                        }
                    }
                }
            }
            match page.next {
                Some(next) => from = next,
                None => break,
            }
        }
        if with_first {
            self.block(&mut writer, 0, &mut block)?;
        }
        writer.finish(|aside| aside.seek(SeekFrom::Start(0)).map(drop)).map_err(failed)
    }

    fn block<W: Write>(
        &mut self,
        writer: &mut StreamWriter<'_, W, File>,
        number: u64,
        block: &mut [u8],
    ) -> Result<(), Error> {
        self.host.settings.cancel.check()?;
        self.open.read(number, block)?;
        writer.data(number, block).map_err(failed)
    }
}

/// What an error has for a path where it is not known yet what the stream goes to.
const STREAM: &str = "the stream of the disk";

fn failed(fault: Fault) -> Error {
    let source = match fault {
        Fault::Io(source) => source,
        other => std::io::Error::other(other),
    };
    Error::Io { doing: "write", path: STREAM.into(), source }
}

/// A file without a name, for the index while the blocks go out.
fn aside(state: &std::path::Path) -> Result<File, Error> {
    let io = |source| Error::Io { doing: "make a file in", path: state.into(), source };
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    match options.clone().custom_flags(nix::libc::O_TMPFILE).open(state) {
        Ok(file) => Ok(file),
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(nix::libc::EOPNOTSUPP | nix::libc::EISDIR | nix::libc::EINVAL)
            ) =>
        {
            let path = state.join(format!(".sending.{}", std::process::id()));
            let file = options.create_new(true).open(&path).map_err(io)?;
            std::fs::remove_file(&path).map_err(io)?;
            Ok(file)
        }
        Err(source) => Err(io(source)),
    }
}
