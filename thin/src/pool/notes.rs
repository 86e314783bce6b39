//! Notes beside the pool: who made which thin, when, as a snapshot of which, and how long it was when
//! it was last active. The kernel keeps none of that.
//!
//! They are for people who read `thin ls`, and nothing is decided by them: a line is appended without
//! a sync after the thing is done, and one that was lost, or is of another thin that once had the id,
//! reads as unknown.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::format::units::ThinId;

/// Where the notes of all pools are, unless `$VENEER_NOTES` says another directory.
const DIR: &str = "/var/lib/veneer/thin";
/// How long another process is waited for.
const TURN_WAIT: Duration = Duration::from_millis(500);
/// A file longer than this is rewritten without what no longer matters.
const LONG: u64 = 1 << 20;

/// The directory of notes: `$VENEER_NOTES`, else `/var/lib/veneer/thin`.
pub fn dir() -> PathBuf {
    match std::env::var_os("VENEER_NOTES") {
        Some(dir) if !dir.is_empty() => dir.into(),
        Some(_) | None => PathBuf::from(DIR),
    }
}

/// What is noted of a thin.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Note {
    /// The thin.
    pub id: ThinId,
    /// The thin it was made a snapshot of.
    pub parent: Option<ThinId>,
    /// When, in seconds since 1970.
    pub made_at: u64,
    /// The program that made it.
    pub owner: String,
    /// The pool's transaction id then: the pool keeps it too, so that a note of an earlier thin of
    /// the same id is seen to be that.
    pub transaction_id: u64,
    /// Its length when it was last made active to be written: who only reads may want a part of it.
    pub sectors: Option<u64>,
}

/// One line of the file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Line {
    Made(Note),
    Sized { id: ThinId, sectors: u64 },
    Gone { id: ThinId },
}

/// Where a pool's notes go, and in whose name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Notes {
    pub(crate) file: PathBuf,
    pub(crate) owner: String,
}

impl Notes {
    pub(crate) fn add(&self, line: &Line) {
        // A host where this cannot be written has a column of `-`, and everything else works.
        drop(self.append(line));
    }

    pub(crate) fn append(&self, line: &Line) -> io::Result<()> {
        let mut text = serde_json::to_string(line)?;
        text.push('\n');
        let mut options = OpenOptions::new();
        options.create(true).append(true).mode(0o600);
        let open = || options.open(&self.file);
        let file = match open() {
            Err(err) if err.kind() == io::ErrorKind::NotFound => {
                let mut private = DirBuilder::new();
                private.recursive(true).mode(0o700);
                self.file.parent().map_or(Ok(()), |dir| private.create(dir))?;
                open()?
            }
            other => other?,
        };
        // Who may read it may lock it, and an older program let all read it.
        file.set_permissions(Permissions::from_mode(0o600))?;
        let mut file = turn(file)?;
        file.write_all(text.as_bytes())?;
        if file.metadata()?.len() > LONG {
            self.shorten()?;
        }
        Ok(())
    }

    /// Under the lock. Who waits for it on the old file writes a line that is lost.
    pub(crate) fn shorten(&self) -> io::Result<()> {
        let mut known: Vec<Note> = read(&fs::read_to_string(&self.file)?).into_values().collect();
        known.sort_by_key(|note| note.id);
        let mut text = String::new();
        for note in known {
            text.push_str(&serde_json::to_string(&Line::Made(note))?);
            text.push('\n');
        }
        let aside = self.file.with_extension("new");
        let mut options = OpenOptions::new();
        options.create(true).truncate(true).write(true).mode(0o600);
        options.open(&aside)?.write_all(text.as_bytes())?;
        fs::rename(&aside, &self.file)
    }
}

/// The lock on the notes, which is held for a moment; nobody waits for longer than some of them.
fn turn(mut file: File) -> io::Result<Flock<File>> {
    let begun = Instant::now();
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(turn) => return Ok(turn),
            Err((back, Errno::EWOULDBLOCK)) if begun.elapsed() < TURN_WAIT => file = back,
            Err((_, errno)) => return Err(errno.into()),
        }
        sleep(Duration::from_millis(5));
    }
}

/// The last word on each id; a line that is none is passed over.
pub(crate) fn read(text: &str) -> HashMap<ThinId, Note> {
    let mut known: HashMap<ThinId, Note> = HashMap::new();
    for line in text.lines() {
        match serde_json::from_str(line) {
            Ok(Line::Made(note)) => {
                known.insert(note.id, note);
            }
            Ok(Line::Sized { id, sectors }) => {
                if let Some(note) = known.get_mut(&id) {
                    note.sectors = Some(sectors);
                }
            }
            Ok(Line::Gone { id }) => {
                known.remove(&id);
            }
            Err(_) => {}
        }
    }
    known
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u64) -> ThinId {
        ThinId::new(number).unwrap()
    }

    fn made(number: u64, parent: Option<u64>) -> Line {
        Line::Made(Note {
            id: id(number),
            parent: parent.map(id),
            made_at: 100 + number,
            owner: "thin".to_owned(),
            transaction_id: 5,
            sectors: None,
        })
    }

    #[test]
    fn the_last_word_counts_and_nonsense_does_not() {
        let mut text = String::new();
        for line in [
            made(1, None),
            made(2, Some(1)),
            Line::Sized { id: id(2), sectors: 8 },
            Line::Sized { id: id(9), sectors: 8 },
            made(3, Some(2)),
            Line::Gone { id: id(1) },
        ] {
            text.push_str(&serde_json::to_string(&line).unwrap());
            text.push_str("\n{\"made\":\ntorn\u{fffd}\n\n");
        }
        let known = read(&text);
        assert_eq!(known.len(), 2);
        assert_eq!(known[&id(2)].sectors, Some(8));
        assert_eq!(known[&id(2)].parent, Some(id(1)));
        assert_eq!(known[&id(3)].made_at, 103);
    }

    #[test]
    fn a_long_file_is_shortened_and_keeps_what_lives() {
        let dir = std::env::temp_dir().join(format!("veneer-notes-{}", std::process::id()));
        let notes = Notes { file: dir.join("sub/pool.ndjson"), owner: "thin".to_owned() };
        notes.append(&made(7, Some(3))).unwrap();
        while fs::metadata(&notes.file).unwrap().len() < LONG - 200 {
            let filler = "x".repeat(usize::try_from(LONG).unwrap() / 8);
            let text = fs::read_to_string(&notes.file).unwrap() + &filler + "\n";
            fs::write(&notes.file, text).unwrap();
        }
        notes.append(&made(8, None)).unwrap();
        notes.append(&made(9, None)).unwrap();
        assert!(fs::metadata(&notes.file).unwrap().len() < LONG / 8);
        let known = read(&fs::read_to_string(&notes.file).unwrap());
        assert_eq!(known.len(), 3);
        assert_eq!(known[&id(7)].parent, Some(id(3)));
        fs::remove_dir_all(&dir).unwrap();
    }
}
