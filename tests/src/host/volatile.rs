//! A disk with a write cache that a power cut empties. QEMU reaches it as a network block device on a
//! socket; what the guest wrote since its last flush is, at a cut, kept or lost piece by piece.
//!
//! A killed QEMU alone loses nothing that the guest's disk has taken: the host lives on. So this is
//! where an order of writes, or a flush that is missing, shows. (Protocol: NetworkBlockDevice/nbd
//! doc/proto.md, "fixed newstyle", simple replies.)

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow, bail};

const NEWSTYLE: u64 = 0x4e42_444d_4147_4943; // "NBDMAGIC"
const OPTION: u64 = 0x4948_4156_454f_5054; // "IHAVEOPT"
const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
const REQUEST: u32 = 0x2560_9513;
const REPLY: u32 = 0x6744_6698;
/// Fixed newstyle, no zeroes at the end of the handshake.
const HANDSHAKE: u16 = 3;
/// There are flags, and there is a flush. No FUA: QEMU then flushes after such a write.
const EXPORT: u16 = 1 | 1 << 2;
/// What a disk writes as a whole.
const PIECE: usize = 4096;
const EINVAL: u32 = 22;

/// A disk that is being served.
#[derive(Debug)]
pub struct VolatileDisk {
    socket: PathBuf,
    file: PathBuf,
    server: JoinHandle<Result<Vec<Unflushed>>>,
}

/// A write that no flush has followed.
#[derive(Debug)]
struct Unflushed {
    at: u64,
    before: Vec<u8>,
    after: Vec<u8>,
}

impl VolatileDisk {
    /// Serves `file` on `socket` to the first that connects.
    ///
    /// # Errors
    /// The file or the socket cannot be opened.
    pub fn serve(file: &Path, socket: &Path) -> Result<VolatileDisk> {
        if socket.exists() {
            std::fs::remove_file(socket)?;
        }
        let listener = UnixListener::bind(socket).with_context(|| socket.display().to_string())?;
        let disk = OpenOptions::new().read(true).write(true).open(file)?;
        let server = std::thread::spawn(move || {
            let (client, _) = listener.accept()?;
            serve(client, &disk)
        });
        Ok(VolatileDisk { socket: socket.to_owned(), file: file.to_owned(), server })
    }

    /// To be called when QEMU has ended. With `lose`, which seeds what is lost, as after a power cut;
    /// without, as after an orderly end.
    ///
    /// # Errors
    /// What the server came upon.
    pub fn end(self, lose: Option<u64>) -> Result<()> {
        // Ends a server that nobody has connected to.
        drop(UnixStream::connect(&self.socket));
        std::fs::remove_file(&self.socket)?;
        let unflushed = self.server.join().map_err(|_| anyhow!("the disk's server panicked"))??;
        if let Some(seed) = lose {
            cut(&OpenOptions::new().write(true).open(&self.file)?, &unflushed, seed)?;
        }
        Ok(())
    }
}

/// The disk as it was at the last flush, and of each write since then the pieces that the seed says.
fn cut(disk: &File, unflushed: &[Unflushed], seed: u64) -> Result<()> {
    for write in unflushed.iter().rev() {
        disk.write_all_at(&write.before, write.at)?;
    }
    // A third of the cuts lose all, a third nothing, and a third some of it.
    let of_four = [0, 2, 4][usize::try_from(seed % 3)?];
    let mut state = seed | 1;
    for write in unflushed {
        for (piece, at) in write.after.chunks(PIECE).zip((write.at..).step_by(PIECE)) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            if state % 4 < of_four {
                disk.write_all_at(piece, at)?;
            }
        }
    }
    Ok(())
}

fn serve(mut client: UnixStream, disk: &File) -> Result<Vec<Unflushed>> {
    let mut unflushed = Vec::new();
    if handshake(&mut client, disk)? {
        while let Some(request) = request(&mut client)? {
            if !answer(&mut client, disk, &request, &mut unflushed)? {
                break;
            }
        }
    }
    Ok(unflushed)
}

/// False when the client left before it had chosen.
fn handshake(client: &mut UnixStream, disk: &File) -> Result<bool> {
    client.write_all(&NEWSTYLE.to_be_bytes())?;
    client.write_all(&OPTION.to_be_bytes())?;
    client.write_all(&HANDSHAKE.to_be_bytes())?;
    if take::<4>(client)?.is_none() {
        return Ok(false);
    }
    loop {
        let Some(magic) = take(client)? else { return Ok(false) };
        if u64::from_be_bytes(magic) != OPTION {
            bail!("the client sent no option");
        }
        let Some(option) = take(client)?.map(u32::from_be_bytes) else { return Ok(false) };
        let length = u32::from_be_bytes(take(client)?.context("an option's length")?);
        let mut data = vec![0; usize::try_from(length)?];
        client.read_exact(&mut data)?;
        match option {
            // NBD_OPT_INFO and NBD_OPT_GO.
            6 | 7 => {
                let mut info = 0_u16.to_be_bytes().to_vec();
                info.extend(disk.metadata()?.len().to_be_bytes());
                info.extend(EXPORT.to_be_bytes());
                reply_option(client, option, 3, &info)?;
                reply_option(client, option, 1, &[])?;
                if option == 7 {
                    return Ok(true);
                }
            }
            // NBD_OPT_ABORT.
            2 => return Ok(false),
            _ => reply_option(client, option, 0x8000_0001, &[])?,
        }
    }
}

fn reply_option(client: &mut UnixStream, option: u32, kind: u32, data: &[u8]) -> Result<()> {
    let mut reply = OPTION_REPLY.to_be_bytes().to_vec();
    for word in [option, kind, u32::try_from(data.len())?] {
        reply.extend(word.to_be_bytes());
    }
    reply.extend(data);
    Ok(client.write_all(&reply)?)
}

#[derive(Debug)]
struct Request {
    kind: u16,
    cookie: [u8; 8],
    at: u64,
    length: usize,
}

/// `None` at the end: a killed QEMU says no goodbye.
fn request(client: &mut UnixStream) -> Result<Option<Request>> {
    let Some(head) = take::<28>(client)? else { return Ok(None) };
    let field = |from: usize, to: usize| {
        head[from..to].iter().fold(0_u64, |value, byte| value << 8 | u64::from(*byte))
    };
    if field(0, 4) != u64::from(REQUEST) {
        bail!("the client sent no request");
    }
    let mut cookie = [0; 8];
    cookie.copy_from_slice(&head[8..16]);
    let kind = u16::try_from(field(6, 8))?;
    let length = usize::try_from(field(24, 28))?;
    Ok(Some(Request { kind, cookie, at: field(16, 24), length }))
}

/// False when the client said goodbye, or went in the middle of a write (which is then no write).
fn answer(
    client: &mut UnixStream,
    disk: &File,
    request: &Request,
    unflushed: &mut Vec<Unflushed>,
) -> Result<bool> {
    let (mut error, mut data) = (0, Vec::new());
    match request.kind {
        // READ, WRITE, DISC, FLUSH.
        0 => {
            data.resize(request.length, 0);
            disk.read_exact_at(&mut data, request.at)?;
        }
        1 => {
            let mut after = vec![0; request.length];
            match client.read_exact(&mut after) {
                Ok(()) => {}
                Err(error) if gone(&error) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
            let mut before = vec![0; request.length];
            disk.read_exact_at(&mut before, request.at)?;
            disk.write_all_at(&after, request.at)?;
            unflushed.push(Unflushed { at: request.at, before, after });
        }
        2 => return Ok(false),
        3 => unflushed.clear(),
        _ => error = EINVAL,
    }
    let mut reply = REPLY.to_be_bytes().to_vec();
    reply.extend(error.to_be_bytes());
    reply.extend(request.cookie);
    reply.extend(data);
    match client.write_all(&reply) {
        Ok(()) => Ok(true),
        Err(error) if gone(&error) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn take<const N: usize>(client: &mut UnixStream) -> Result<Option<[u8; N]>> {
    let mut bytes = [0; N];
    match client.read_exact(&mut bytes) {
        Ok(()) => Ok(Some(bytes)),
        Err(error) if gone(&error) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn gone(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_leaves_flushed_writes_and_some_of_the_others() {
        let file = std::env::temp_dir().join(format!("veneer-volatile-{}", std::process::id()));
        let mut lost = Vec::new();
        for seed in 0..30 {
            std::fs::write(&file, [1; 8192]).unwrap();
            let disk = OpenOptions::new().read(true).write(true).open(&file).unwrap();
            // As after: flush, write 2s, write 3s over the second piece.
            let (first, second) = (vec![2; 8192], vec![3; 4096]);
            disk.write_all_at(&first, 0).unwrap();
            disk.write_all_at(&second, 4096).unwrap();
            let unflushed = [
                Unflushed { at: 0, before: vec![1; 8192], after: first },
                Unflushed { at: 4096, before: vec![2; 4096], after: second },
            ];
            cut(&disk, &unflushed, seed).unwrap();
            let left = std::fs::read(&file).unwrap();
            assert!(left.chunks(4096).all(|piece| piece.iter().all(|byte| *byte == piece[0])));
            lost.push((left[0], left[4096]));
        }
        std::fs::remove_file(&file).unwrap();
        assert!(lost.contains(&(1, 1)) && lost.contains(&(2, 3)), "{lost:?}");
        let torn = lost.iter().any(|pair| ![(1, 1), (2, 3)].contains(pair));
        assert!(torn && lost.iter().all(|(first, _)| *first != 3), "{lost:?}");
    }
}
