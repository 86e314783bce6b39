//! `receive`: a stream of blocks becomes the disk of an activation, when all of it is here and was compared.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::time::{Duration, Instant};

use registry::{Arrival, ArrivalState, Digest, NewArrival, Point, Volume, VolumeId, VolumeState};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::error::Error;
use crate::error::travel::NotMoved;
use crate::host::Host;
use crate::host::ids::{self, New};
use crate::process::lock::Lock;
use crate::store::snapshot::Snapshot;
use crate::store::travel::Blocks;
use crate::travel::entry::{Entry, What};
use crate::travel::fault::Fault;
use crate::travel::head::{Basis, Head};
use crate::travel::read::{Next, StreamReader};
use crate::verbs::named::{check_name, reference};
use crate::verbs::points::POINTS_MAX;
use crate::verbs::travel::brought::{Brought, Ended};
use crate::verbs::travel::patient::Patient;
use crate::verbs::travel::{at_work, identity};

/// Bytes that are written between two moments from which a killed receive is gone on with; and the time.
const STEP_BYTES: u64 = 32 << 20;
const STEP_TIME: Duration = Duration::from_secs(5);

/// Bytes that are read at a time.
const IN: usize = 1 << 20;

/// How a stream is received.
#[derive(Clone, Debug, Default)]
pub struct ReceiveOptions {
    /// The image that the activation is of here; none: what the stream says.
    pub image: Option<String>,
    /// Whether what has arrived of another disk is given up.
    pub restart: bool,
}

/// What was received.
#[derive(Clone, Debug, Serialize)]
pub struct ReceivedDisk {
    /// The activation.
    pub name: String,
    /// Its image.
    pub image: String,
    /// Its volume.
    pub volume: VolumeId,
    /// Bytes of the disk.
    pub bytes: u64,
    /// The point that it was received as.
    pub point: Option<String>,
    /// Bytes of the stream.
    pub stream_bytes: u64,
    /// Blocks that were written by this receive.
    pub blocks: u64,
    /// The block from which this receive has gone on, where an earlier one has brought a part.
    pub resumed_from: u64,
    /// Whether the point was here before and nothing had to be done.
    pub already: bool,
    /// Whether the activation is mapped.
    pub mapped: bool,
}

/// How far the disk has come that arrives under a name.
#[derive(Clone, Debug, Serialize)]
pub struct Progress {
    /// The activation that it is to be, or to be put on.
    pub name: String,
    /// Its image.
    pub image: String,
    /// Bytes of the disk.
    pub bytes: u64,
    /// All blocks below this one are here.
    pub next: u64,
    /// What tells the content from every other.
    pub stream: Digest,
}

/// What a stream is put on.
enum Ground {
    /// It is here already: the activation's point.
    Already(Point),
    /// On the sealed volume of its image, or on nothing.
    New(Volume),
    /// On a point of the activation.
    Onto(Volume, Point),
}

impl Host {
    /// How far the disk has come that arrives as `name`.
    ///
    /// # Errors
    /// [`Error::Unknown`] where none does.
    pub fn receive_progress(&self, name: &str) -> Result<Progress, Error> {
        check_name(name)?;
        match self.registry.arrival(name)? {
            Some(row) => Ok(Progress {
                name: row.name,
                image: row.reference,
                bytes: row.bytes,
                next: row.next_block,
                stream: row.stream,
            }),
            None => Err(Error::Unknown { what: "disk that arrives as", name: name.into() }),
        }
    }

    /// Receives a disk as the activation `name`, which is not mapped then; an incremental stream is put on the point of
    /// it that the stream names.
    ///
    /// # Errors
    /// [`Error::Travel`] for what is wrong with the stream, or lacks here; [`Error::Taken`]; [`Error::Held`] where the
    /// activation is in use.
    pub fn receive(
        &mut self,
        name: &str,
        options: &ReceiveOptions,
        input: File,
    ) -> Result<ReceivedDisk, Error> {
        check_name(name)?;
        if self.store.disks().is_none() {
            return Err(NotMoved::Directories.into());
        }
        if self.store.keeps_name(name) {
            let what = "a build or a look on this pool may need a device of this name";
            return Err(Error::Usage(format!("{name:?}: {what}: choose another")));
        }
        let Some(_arriving) = self.locks.try_build(&at_work::arriving(name))? else {
            let what = format!("what arrives as {name}");
            let holder = "another `orchestrate receive`".into();
            return Err(Error::Locked { what, holder, waited_s: 0 });
        };
        let cancel = self.settings.cancel.clone();
        let input = BufReader::with_capacity(IN, Patient { input, cancel });
        let stream = |fault| self.stream_error(name, fault);
        let mut reader = StreamReader::new(input).map_err(stream)?;
        let head = reader.head().clone();
        let mine = self.locks.activation(name)?;
        let before = self.arrival_of(name, &head, options)?;
        let resumed = before.is_some();
        let arrival = match before {
            Some(arrival) => arrival,
            None => match self.ground(name, &head)? {
                Ground::Already(point) => {
                    drop(mine);
                    // Whoever sends it is not stopped in its middle.
                    io::copy(&mut reader.into_rest(), &mut io::sink()).map_err(|source| {
                        Error::Io { doing: "read", path: "the stream".into(), source }
                    })?;
                    return self.already_received(name, &point);
                }
                Ground::New(volume) => self.begin_arrival(name, &head, options, &volume, None)?,
                Ground::Onto(volume, base) => {
                    self.begin_arrival(name, &head, options, &volume, Some(&base))?
                }
            },
        };
        drop(mine);
        if head.from > arrival.next_block {
            return Err(NotMoved::Gap { here: arrival.next_block, begins: head.from }.into());
        }
        self.arrive(&mut reader, &head, &arrival)?;
        let (blocks, stream_bytes) = self.compare(reader, &head, &arrival, resumed)?;
        self.land(&head, &arrival, blocks, stream_bytes)
    }

    /// What has arrived of this stream before; none where nothing has. What has no further use is taken out.
    fn arrival_of(
        &mut self,
        name: &str,
        head: &Head,
        options: &ReceiveOptions,
    ) -> Result<Option<Arrival>, Error> {
        let Some(row) = self.registry.arrival(name)? else { return Ok(None) };
        match row.state {
            ArrivalState::Arriving if row.stream == head.stream && !options.restart => {
                if ids::is_theirs(self, row.id)? {
                    return Err(Error::NotOurs { id: row.id });
                }
                return Ok(Some(row));
            }
            ArrivalState::Arriving if !options.restart => {
                return Err(NotMoved::Another { name: name.into() }.into());
            }
            ArrivalState::Reserved | ArrivalState::Arriving | ArrivalState::Deleting => {}
        }
        self.drop_arrival(&row)?;
        Ok(None)
    }

    /// Finds what the stream is to be put on. Nothing is changed.
    fn ground(&self, name: &str, head: &Head) -> Result<Ground, Error> {
        let travels = self.store.disks().ok_or(NotMoved::Directories)?.travels();
        let (here, sent) = (travels.travel_block(), head.block_bytes);
        if here != sent {
            return Err(NotMoved::BlockSize { here, sent }.into());
        }
        let there = self.registry.activation(name)?;
        let points = self.registry.points_of(name)?;
        let store = self.store.binding();
        if let Some(point) = &head.point {
            check_name(&point.name)?;
            let of = |found: &&Point| identity(&store, found) == point.identity;
            if let Some(found) = points.iter().find(of) {
                return Ok(Ground::Already(found.clone()));
            }
            if points.iter().any(|found| found.name.as_ref() == Some(&point.name)) {
                return Err(Error::Usage(format!(
                    "{name} has another point {0:?}: `orchestrate points {name} --remove {0}` first",
                    point.name
                )));
            }
            if points.len() >= POINTS_MAX {
                return Err(Error::Usage(format!(
                    "{name} has {} points, at most {POINTS_MAX} may be kept; `orchestrate points {name} --remove POINT` \
                     makes room",
                    points.len()
                )));
            }
        }
        match (&head.basis, there) {
            (Basis::Point { identity: wanted }, row) => {
                let base = points.into_iter().find(|point| identity(&store, point) == *wanted);
                let (Some(row), Some(base)) = (row, base) else {
                    let (name, identity) = (name.into(), *wanted);
                    return Err(NotMoved::NoBase { name, identity }.into());
                };
                let row = self.with_disk(&row.name)?;
                if let Some(by) = self.store.held(row.id)? {
                    return Err(Error::Held { what: format!("activation {name}"), by });
                }
                Ok(Ground::Onto(self.still_sealed(row.origin)?, base))
            }
            (Basis::Nothing {} | Basis::Image { .. }, Some(row)) => Err(Error::Taken {
                name: name.into(),
                by: format!("an activation of {}", row.reference),
            }),
            (Basis::Nothing {}, None) => self.stack(head).map(Ground::New),
            (Basis::Image { blocks }, None) => {
                let volume = self.stack(head)?;
                let here = match &volume.state {
                    VolumeState::Sealed(seal) => seal.blocks,
                    VolumeState::Building | VolumeState::Deleting => None,
                };
                match here == Some(*blocks) {
                    true => Ok(Ground::New(volume)),
                    false => Err(NotMoved::OtherBlocks {
                        image: head.image.clone(),
                        here,
                        wanted: *blocks,
                    }
                    .into()),
                }
            }
        }
    }

    /// The sealed volume of the stream's image.
    fn stack(&self, head: &Head) -> Result<Volume, Error> {
        let volume = self.registry.layer(head.chain)?;
        let not_here = || NotMoved::NotHere { image: head.image.clone(), chain: head.chain };
        let volume = volume.ok_or_else(not_here)?;
        self.not_condemned(volume.id, &head.image)?;
        Ok(volume)
    }

    /// Commits the row, and makes the volume that the blocks are written to.
    fn begin_arrival(
        &mut self,
        name: &str,
        head: &Head,
        options: &ReceiveOptions,
        volume: &Volume,
        base: Option<&Point>,
    ) -> Result<Arrival, Error> {
        if head.from > 0 {
            return Err(NotMoved::Gap { here: 0, begins: head.from }.into());
        }
        let image = options.image.as_deref().unwrap_or(&head.image);
        let image = match (base, self.registry.activation(name)?) {
            (Some(_), Some(row)) => row.reference,
            (Some(_) | None, _) => reference(image)?.to_string(),
        };
        let _using = self.locks.images_shared()?;
        let _alone = self.locks.store()?;
        self.still_sealed(volume.id)?;
        if let Some(by) = self.store.stranger(None, name)?.filter(|_| base.is_none()) {
            return Err(Error::Stranger { name: name.into(), by });
        }
        self.store.admit(1)?;
        self.may_begin(&format!("the disk that arrives as {name}"))?;
        self.may_promise(name, head.disk_bytes)?;
        let origin = match (&head.basis, base) {
            (Basis::Nothing {}, _) => None,
            (Basis::Image { .. } | Basis::Point { .. }, base) => {
                Some(base.map_or(volume.id, |base| base.id))
            }
        };
        let new = New::Arrival(NewArrival {
            name,
            reference: &image,
            origin: volume.id,
            bytes: head.disk_bytes,
            stream: head.stream,
            base: base.map(|base| base.id),
        });
        let (id, made) = ids::take(self, &new, |host, id| match (origin, host.store.disks()) {
            (Some(origin), _) => host.store.snapshot(Snapshot { id, origin }),
            (None, Some(disks)) => disks.travels().make_empty(id),
            (None, None) => Err(NotMoved::Directories.into()),
        })?;
        made?;
        self.registry.write(|write| write.reach_arrival(id, 0))?;
        let row = self.registry.arrival(name)?;
        row.ok_or_else(|| Error::Unknown { what: "disk that arrives as", name: name.into() })
    }

    /// Writes what comes into the volume. What of it is on disk is committed as it goes, and whatever ends it.
    fn arrive<R: Read>(
        &mut self,
        reader: &mut StreamReader<R>,
        head: &Head,
        arrival: &Arrival,
    ) -> Result<(), Error> {
        let mut open = self.open_arrival(arrival)?;
        let mut reached = arrival.next_block;
        let ended = self.pass(reader, head, arrival, open.as_mut(), &mut reached);
        // What came is good whatever has ended it, and is gone on from.
        let kept = open.sync().and_then(|()| self.note_arrival(arrival, reached));
        let closed = open.close();
        match ended {
            Ok(()) => kept.and(closed),
            Err(Ended::Error(error)) => Err(error),
            Err(Ended::Fault(fault)) => Err(self.refused(arrival, fault)),
        }
    }

    /// What of a stream is kept that is not what it should be: nothing, where a block may be in another's place.
    fn refused(&mut self, arrival: &Arrival, fault: Fault) -> Error {
        if !fault.leaves_good()
            && let Err(error) = self.drop_arrival(arrival)
        {
            self.say(1, format_args!("what arrived as {} is left to gc: {error}", arrival.name));
        }
        self.stream_error(&arrival.name, fault)
    }

    fn open_arrival(&self, arrival: &Arrival) -> Result<Box<dyn Blocks>, Error> {
        let travels = self.store.disks().ok_or(NotMoved::Directories)?.travels();
        if let Some(left) = self.store.mapped_as(arrival.id)? {
            // Of a receive that was killed: this is the only one.
            self.store.unmap(arrival.id, &left.name)?;
        }
        travels.open_arriving(arrival.id, arrival.bytes)
    }

    fn note_arrival(&mut self, arrival: &Arrival, reached: u64) -> Result<(), Error> {
        Ok(self.registry.write(|write| write.reach_arrival(arrival.id, reached))?)
    }

    fn pass<R: Read>(
        &mut self,
        reader: &mut StreamReader<R>,
        head: &Head,
        arrival: &Arrival,
        open: &mut dyn Blocks,
        reached: &mut u64,
    ) -> Result<(), Ended> {
        let mut block = Vec::new();
        let (mut since, mut at) = (STEP_BYTES, Instant::now());
        let mut guard = self.guard(&format!("the disk that arrives as {}", arrival.name));
        loop {
            self.settings.cancel.check()?;
            if since >= STEP_BYTES || at.elapsed() >= STEP_TIME {
                if *reached > arrival.next_block {
                    open.sync()?;
                    self.note_arrival(arrival, *reached)?;
                }
                guard.pass(self.store.as_ref())?;
                let disks = self.store.disks().ok_or(Error::from(NotMoved::Directories))?;
                disks.travels().has_room(STEP_BYTES.max(head.block_bytes))?;
                (since, at) = (0, Instant::now());
            }
            match reader.next(&mut block)? {
                Next::Data(number) if number < arrival.next_block => {}
                Next::Data(number) => {
                    open.write(number, &block)?;
                    since += head.block_bytes;
                    *reached = number + 1;
                }
                Next::Zeros(begin, blocks) if begin + blocks <= arrival.next_block => {}
                Next::Zeros(begin, blocks) => {
                    open.zero(begin, blocks)?;
                    *reached = begin + blocks;
                }
                Next::End => return Ok(()),
            }
        }
    }

    /// Compares the index with what came; of what an earlier receive has brought, with what is on the disk. Gives the
    /// blocks that this one has written, and the bytes of the stream.
    fn compare<R: Read>(
        &mut self,
        reader: StreamReader<R>,
        head: &Head,
        arrival: &Arrival,
        resumed: bool,
    ) -> Result<(u64, u64), Error> {
        let mut open = self.open_arrival(arrival)?;
        let mut brought = Brought::new(self, head, arrival, resumed)?;
        let mut block = vec![0; usize::try_from(head.block_bytes).unwrap_or(0)];
        let mut written = 0;
        let cancel = self.settings.cancel.clone();
        let whole = reader.finish(|entry: &Entry| -> Result<(), Ended> {
            brought.pass(entry.begin, entry.blocks)?;
            let data = matches!(entry.what, What::Data { .. });
            if entry.begin >= arrival.next_block {
                written += u64::from(data);
                return Ok(());
            }
            cancel.check()?;
            for number in entry.begin..entry.begin + entry.blocks {
                open.read(number, &mut block)?;
                let same = match data {
                    true => Digest(Sha256::digest(&block).into()) == entry.sha256,
                    false => block.iter().all(|byte| *byte == 0),
                };
                if !same {
                    let name = arrival.name.clone();
                    return Err(Ended::Error(NotMoved::Differs { block: number, name }.into()));
                }
            }
            Ok(())
        });
        let whole = whole.and_then(|whole| brought.pass(u64::MAX, 0).map(|()| whole));
        drop(brought);
        let closed = open.sync().and(open.close());
        match whole {
            Ok(whole) => closed.map(|()| (written, whole.bytes)),
            Err(Ended::Fault(fault)) => Err(self.refused(arrival, fault)),
            Err(Ended::Error(error)) => {
                if let Error::Travel(not) = &error
                    && matches!(**not, NotMoved::Differs { .. })
                {
                    self.drop_arrival(arrival)?;
                }
                Err(error)
            }
        }
    }

    pub(crate) fn stream_error(&self, name: &str, fault: Fault) -> Error {
        if self.settings.cancel.is_set()
            && let Err(error) = self.settings.cancel.check()
        {
            return error;
        }
        let row = self.registry.arrival(name).ok().flatten();
        let block = self.store.disks().map_or(1, |disks| disks.travels().travel_block());
        let here = row.map(|row| (row.next_block, row.bytes / block.max(1)));
        NotMoved::Stream { fault, here, name: name.into() }.into()
    }

    fn already_received(&self, name: &str, point: &Point) -> Result<ReceivedDisk, Error> {
        let row = self.with_disk(name)?;
        Ok(ReceivedDisk {
            name: name.into(),
            volume: row.id,
            bytes: point.bytes,
            point: point.name.clone(),
            stream_bytes: 0,
            blocks: 0,
            resumed_from: 0,
            already: true,
            mapped: self.is_up(name, &row.reference)?,
            image: row.reference,
        })
    }

    pub(crate) fn lock_of_arrival(&self, name: &str) -> Result<Option<Lock>, Error> {
        self.locks.try_build(&at_work::arriving(name))
    }
}
