//! The bytes of device-mapper's ioctl interface: pure encoders and total decoders.
//!
//! Layouts and numbers are those of `include/uapi/linux/dm-ioctl.h`, pinned by the const asserts
//! below. Nothing here issues a call (`sys.rs`) or knows what a pool is (`pool.rs`).

#[cfg(test)]
#[path = "wire_tests.rs"]
pub(crate) mod tests;

use std::mem::{offset_of, size_of};

use crate::format::units::Dev;

/// `struct dm_ioctl`. Only its layout is used: buffers are filled by offset.
#[repr(C)]
#[allow(dead_code, reason = "a layout to take offsets from")]
struct Layout {
    version: [u32; 3],
    data_size: u32,
    data_start: u32,
    target_count: u32,
    open_count: i32,
    flags: u32,
    event_nr: u32,
    padding: u32,
    dev: u64,
    name: [u8; 128],
    uuid: [u8; 129],
    data: [u8; 7],
}

/// `struct dm_target_spec`.
#[repr(C)]
#[allow(dead_code, reason = "a layout to take offsets from")]
struct Spec {
    sector_start: u64,
    length: u64,
    status: i32,
    next: u32,
    target_type: [u8; 16],
}

const _: () = assert!(size_of::<Layout>() == 312);
const _: () = assert!(offset_of!(Layout, data_size) == 12);
const _: () = assert!(offset_of!(Layout, data_start) == 16);
const _: () = assert!(offset_of!(Layout, target_count) == 20);
const _: () = assert!(offset_of!(Layout, open_count) == 24);
const _: () = assert!(offset_of!(Layout, flags) == 28);
const _: () = assert!(offset_of!(Layout, event_nr) == 32);
const _: () = assert!(offset_of!(Layout, dev) == 40);
const _: () = assert!(offset_of!(Layout, name) == 48);
const _: () = assert!(offset_of!(Layout, uuid) == 176);
const _: () = assert!(offset_of!(Layout, data) == 305);
const _: () = assert!(size_of::<Spec>() == 40);
const _: () = assert!(offset_of!(Spec, length) == 8);
const _: () = assert!(offset_of!(Spec, next) == 20);
const _: () = assert!(offset_of!(Spec, target_type) == 24);

/// Bytes of the header; every payload starts here.
pub(crate) const HEADER: usize = size_of::<Layout>();

/// `DM_*_FLAG` bits.
pub(crate) mod flag {
    pub(crate) const READONLY: u32 = 1 << 0;
    pub(crate) const SUSPEND: u32 = 1 << 1;
    pub(crate) const STATUS_TABLE: u32 = 1 << 4;
    pub(crate) const ACTIVE_PRESENT: u32 = 1 << 5;
    pub(crate) const INACTIVE_PRESENT: u32 = 1 << 6;
    pub(crate) const BUFFER_FULL: u32 = 1 << 8;
    pub(crate) const SKIP_LOCKFS: u32 = 1 << 10;
    pub(crate) const NOFLUSH: u32 = 1 << 11;
    pub(crate) const UUID: u32 = 1 << 14;
    pub(crate) const DEFERRED_REMOVE: u32 = 1 << 17;
}

/// The commands this crate issues. `DM_REMOVE_ALL` is not among them, on purpose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the kernel's own names")]
pub enum Command {
    Version,
    ListDevices,
    DevCreate,
    DevRemove,
    DevRename,
    DevSuspend,
    DevStatus,
    TableLoad,
    TableClear,
    TableStatus,
    TargetMsg,
    DevArmPoll,
    GetTargetVersion,
}

impl Command {
    /// The kernel's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Command::Version => "DM_VERSION",
            Command::ListDevices => "DM_LIST_DEVICES",
            Command::DevCreate => "DM_DEV_CREATE",
            Command::DevRemove => "DM_DEV_REMOVE",
            Command::DevRename => "DM_DEV_RENAME",
            Command::DevSuspend => "DM_DEV_SUSPEND",
            Command::DevStatus => "DM_DEV_STATUS",
            Command::TableLoad => "DM_TABLE_LOAD",
            Command::TableClear => "DM_TABLE_CLEAR",
            Command::TableStatus => "DM_TABLE_STATUS",
            Command::TargetMsg => "DM_TARGET_MSG",
            Command::DevArmPoll => "DM_DEV_ARM_POLL",
            Command::GetTargetVersion => "DM_GET_TARGET_VERSION",
        }
    }

    fn number(self) -> u32 {
        match self {
            Command::Version => 0x00,
            Command::ListDevices => 0x02,
            Command::DevCreate => 0x03,
            Command::DevRemove => 0x04,
            Command::DevRename => 0x05,
            Command::DevSuspend => 0x06,
            Command::DevStatus => 0x07,
            Command::TableLoad => 0x09,
            Command::TableClear => 0x0a,
            Command::TableStatus => 0x0c,
            Command::TargetMsg => 0x0e,
            Command::DevArmPoll => 0x10,
            Command::GetTargetVersion => 0x11,
        }
    }

    /// The interface's minor version that has the command. The kernel refuses a minor newer than
    /// its own, so the lowest one that will do is asked for.
    fn minor(self) -> u32 {
        match self {
            Command::TargetMsg => 2,
            Command::DevArmPoll => 37,
            Command::GetTargetVersion => 41,
            Command::Version
            | Command::ListDevices
            | Command::DevCreate
            | Command::DevRemove
            | Command::DevRename
            | Command::DevSuspend
            | Command::DevStatus
            | Command::TableLoad
            | Command::TableClear
            | Command::TableStatus => 0,
        }
    }

    /// `_IOWR(0xfd, number, struct dm_ioctl)`.
    pub(crate) fn request(self) -> u32 {
        const BASE: u32 = (3 << 30) | (312 << 16) | (0xfd << 8);
        BASE | self.number()
    }

    /// Whether the call only reads, so that it may be repeated with a larger buffer.
    pub(crate) fn repeatable(self) -> bool {
        match self {
            Command::ListDevices
            | Command::DevStatus
            | Command::TableStatus
            | Command::GetTargetVersion
            | Command::Version => true,
            Command::DevCreate
            | Command::DevRemove
            | Command::DevRename
            | Command::DevSuspend
            | Command::TableLoad
            | Command::TableClear
            | Command::TargetMsg
            | Command::DevArmPoll => false,
        }
    }
}

/// Which device a request is about. The kernel takes exactly one look-up key.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Key<'a> {
    /// No device.
    None,
    /// By name.
    Name(&'a str),
    /// By uuid.
    Uuid(&'a str),
    /// Both: only for `DM_DEV_CREATE`.
    Both(&'a str, &'a str),
}

impl Key<'_> {
    pub(crate) fn text(&self) -> &str {
        match self {
            Key::None => "",
            Key::Name(text) | Key::Uuid(text) | Key::Both(text, _) => text,
        }
    }
}

/// One request; [`Request::encode`] makes a fresh header each time it is called.
#[derive(Clone, Debug)]
pub(crate) struct Request<'a> {
    pub(crate) command: Command,
    pub(crate) key: Key<'a>,
    pub(crate) flags: u32,
    pub(crate) event_nr: u32,
    pub(crate) target_count: u32,
    pub(crate) payload: Vec<u8>,
}

impl<'a> Request<'a> {
    pub(crate) fn new(command: Command, key: Key<'a>) -> Request<'a> {
        Request { command, key, flags: 0, event_nr: 0, target_count: 0, payload: Vec::new() }
    }

    pub(crate) fn flags(mut self, flags: u32) -> Request<'a> {
        self.flags |= flags;
        self
    }

    /// The buffer to hand to the kernel, `room` bytes or as many as the payload needs.
    /// Name and uuid are cut to the fields' sizes; callers have checked them.
    pub(crate) fn encode(&self, room: usize) -> Vec<u8> {
        let size = room.max(HEADER + self.payload.len());
        let mut buf = vec![0; size];
        let mut put = |at: usize, value: u32| {
            buf[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        };
        put(0, 4);
        put(4, self.command.minor());
        put(offset_of!(Layout, data_size), u32::try_from(size).unwrap_or(u32::MAX));
        put(offset_of!(Layout, data_start), 312);
        put(offset_of!(Layout, target_count), self.target_count);
        put(offset_of!(Layout, flags), self.flags);
        put(offset_of!(Layout, event_nr), self.event_nr);
        let (name, uuid) = match self.key {
            Key::None => ("", ""),
            Key::Name(name) => (name, ""),
            Key::Uuid(uuid) => ("", uuid),
            Key::Both(name, uuid) => (name, uuid),
        };
        text_into(&mut buf[offset_of!(Layout, name)..][..128], name);
        text_into(&mut buf[offset_of!(Layout, uuid)..][..129], uuid);
        buf[HEADER..HEADER + self.payload.len()].copy_from_slice(&self.payload);
        buf
    }
}

fn text_into(field: &mut [u8], text: &str) {
    let n = text.len().min(field.len() - 1);
    field[..n].copy_from_slice(&text.as_bytes()[..n]);
}

/// The payload of `DM_TABLE_LOAD`; here `next` counts from each target itself.
pub(crate) fn targets(lines: &[Target]) -> Vec<u8> {
    let mut out = Vec::new();
    for line in lines {
        let first = out.len();
        let length = (size_of::<Spec>() + line.params.len() + 1).next_multiple_of(8);
        out.resize(first + length, 0);
        let spec = &mut out[first..];
        spec[0..8].copy_from_slice(&line.start.to_ne_bytes());
        spec[8..16].copy_from_slice(&line.sectors.to_ne_bytes());
        let next = u32::try_from(length).unwrap_or(u32::MAX);
        spec[20..24].copy_from_slice(&next.to_ne_bytes());
        text_into(&mut spec[24..40], &line.kind);
        spec[40..40 + line.params.len()].copy_from_slice(line.params.as_bytes());
    }
    out
}

/// The payload of `DM_TARGET_MSG` for the target at sector 0.
pub(crate) fn message(text: &str) -> Vec<u8> {
    let mut out = vec![0; 8 + text.len() + 1];
    out[8..8 + text.len()].copy_from_slice(text.as_bytes());
    out
}

/// The payload of `DM_DEV_RENAME`.
pub(crate) fn text(text: &str) -> Vec<u8> {
    [text.as_bytes(), &[0]].concat()
}

/// What the kernel wrote back. Every read is bounds-checked: a wrong offset gives `None`.
#[derive(Debug)]
pub(crate) struct Reply {
    buf: Vec<u8>,
}

/// One line of a table or of a status.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// First sector.
    pub start: u64,
    /// Length in sectors.
    pub sectors: u64,
    /// Target name, such as `thin-pool`.
    pub kind: String,
    /// Parameters or status text, without the trailing blank the kernel leaves.
    pub params: String,
}

/// One row of `DM_LIST_DEVICES`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct NameRow {
    pub(crate) dev: Dev,
    pub(crate) name: String,
    pub(crate) event_nr: u32,
    /// `None` when this kernel does not say.
    pub(crate) uuid: Option<Option<String>>,
}

impl Target {
    /// A whole table of one target.
    pub fn whole(sectors: u64, kind: &str, params: &str) -> Target {
        Target { start: 0, sectors, kind: kind.to_owned(), params: params.to_owned() }
    }
}

impl Reply {
    pub(crate) fn new(buf: Vec<u8>) -> Reply {
        Reply { buf }
    }

    fn u32_at(&self, at: usize) -> Option<u32> {
        Some(u32::from_ne_bytes(self.buf.get(at..at.checked_add(4)?)?.try_into().ok()?))
    }

    fn u64_at(&self, at: usize) -> Option<u64> {
        Some(u64::from_ne_bytes(self.buf.get(at..at.checked_add(8)?)?.try_into().ok()?))
    }

    fn text_at(&self, at: usize) -> Option<String> {
        Some(String::from_utf8_lossy(self.bytes_at(at)?).into_owned())
    }

    /// Up to a NUL. Another program's device may have a name that is not UTF-8.
    fn bytes_at(&self, at: usize) -> Option<&[u8]> {
        let rest = self.buf.get(at..)?;
        rest.get(..rest.iter().position(|&b| b == 0)?)
    }

    pub(crate) fn version(&self) -> [u32; 3] {
        [0, 4, 8].map(|at| self.u32_at(at).unwrap_or(0))
    }

    pub(crate) fn flags(&self) -> u32 {
        self.u32_at(offset_of!(Layout, flags)).unwrap_or(0)
    }

    pub(crate) fn event_nr(&self) -> u32 {
        self.u32_at(offset_of!(Layout, event_nr)).unwrap_or(0)
    }

    pub(crate) fn open_count(&self) -> u32 {
        self.u32_at(offset_of!(Layout, open_count)).unwrap_or(0)
    }

    pub(crate) fn target_count(&self) -> u32 {
        self.u32_at(offset_of!(Layout, target_count)).unwrap_or(0)
    }

    pub(crate) fn dev(&self) -> Dev {
        Dev::from_kernel(self.u64_at(offset_of!(Layout, dev)).unwrap_or(0))
    }

    pub(crate) fn name(&self) -> String {
        self.text_at(offset_of!(Layout, name)).unwrap_or_default()
    }

    pub(crate) fn uuid(&self) -> Option<String> {
        self.text_at(offset_of!(Layout, uuid)).filter(|uuid| !uuid.is_empty())
    }

    fn data_start(&self) -> Option<usize> {
        usize::try_from(self.u32_at(offset_of!(Layout, data_start))?).ok()
    }

    /// The lines of `DM_TABLE_STATUS`; `next` counts from the first one, unlike in a load.
    pub(crate) fn targets(&self) -> Option<Vec<Target>> {
        let first = self.data_start()?;
        let mut at = first;
        let mut out = Vec::new();
        for _ in 0..self.target_count() {
            out.push(Target {
                start: self.u64_at(at)?,
                sectors: self.u64_at(at.checked_add(8)?)?,
                kind: self.text_at(at.checked_add(24)?)?,
                params: self.text_at(at.checked_add(40)?)?.trim_end().to_owned(),
            });
            let next = usize::try_from(self.u32_at(at.checked_add(20)?)?).ok()?;
            let after = first.checked_add(next)?;
            // After the last one it may be anything; before that, back is a loop.
            if after <= at && out.len() < usize::try_from(self.target_count()).ok()? {
                return None;
            }
            at = after;
        }
        Some(out)
    }

    /// The rows of `DM_LIST_DEVICES`; here `next` counts from the row itself.
    pub(crate) fn names(&self) -> Option<Vec<NameRow>> {
        let mut at = self.data_start()?;
        let mut out = Vec::new();
        loop {
            let dev = self.u64_at(at)?;
            if dev == 0 {
                return Some(out);
            }
            let next = usize::try_from(self.u32_at(at.checked_add(8)?)?).ok()?;
            let name = self.bytes_at(at.checked_add(12)?)?;
            let tail = at.checked_add((12 + name.len() + 1).next_multiple_of(8))?;
            let name = String::from_utf8_lossy(name).into_owned();
            let event_nr = self.u32_at(tail)?;
            // Bit 0: a uuid follows; bit 1: there is none; neither: an older kernel.
            let uuid = match self.u32_at(tail.checked_add(4)?) {
                Some(bits) if bits & 1 != 0 => Some(self.text_at(tail.checked_add(8)?)),
                Some(bits) if bits & 2 != 0 => Some(None),
                Some(_) | None => None,
            };
            out.push(NameRow { dev: Dev::from_kernel(dev), name, event_nr, uuid });
            if next == 0 {
                return Some(out);
            }
            at = at.checked_add(next)?;
        }
    }

    /// The single row of `DM_GET_TARGET_VERSION`: `next` u32, then three u32.
    pub(crate) fn target_version(&self) -> Option<[u32; 3]> {
        let at = self.data_start()?;
        Some([self.u32_at(at + 4)?, self.u32_at(at + 8)?, self.u32_at(at + 12)?])
    }
}
