//! What a machine does with its disk, and what has to be there after a power cut: files that were synced, names that
//! were replaced, trees that were synced whole, rows that a database has committed. Not a scenario.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use rusqlite::Connection;

use crate::dice::Dice;

/// Files that were synced stay for so many rounds.
const KEPT: u64 = 24;

/// One who works, and says what is done: only what was said has to be there.
pub(crate) struct Load<'t> {
    root: PathBuf,
    dice: Dice,
    /// Hears each line, before the next thing is begun.
    told: &'t mut dyn FnMut(&str) -> Result<()>,
    database: Connection,
    round: u64,
}

impl<'t> Load<'t> {
    /// Works below `root`, a mounted file system, from round `from` on.
    pub(crate) fn begin(
        root: &Path,
        dice: Dice,
        from: u64,
        told: &'t mut dyn FnMut(&str) -> Result<()>,
    ) -> Result<Load<'t>> {
        let root = root.join("load");
        fs::create_dir_all(&root)?;
        let database = Connection::open(root.join("rows.db"))?;
        // A machine has its own mind about this; both ways of SQLite are to hold.
        let mode = if from.is_multiple_of(2) { "WAL" } else { "DELETE" };
        database.query_row(&format!("PRAGMA journal_mode = {mode}"), [], |_| Ok(()))?;
        database.pragma_update(None, "synchronous", "FULL")?;
        database.execute_batch(
            "CREATE TABLE IF NOT EXISTS rows(n INTEGER PRIMARY KEY, content BLOB NOT NULL)",
        )?;
        sync_dir(&root)?;
        Ok(Load { root, dice, told, database, round: from })
    }

    /// The next round: one thing of each kind, and others that nobody waits for.
    pub(crate) fn round(&mut self) -> Result<()> {
        self.round += 1;
        let round = self.round;
        self.noise()?;
        self.synced(round)?;
        self.noise()?;
        self.renamed(round)?;
        self.committed(round)?;
        if round.is_multiple_of(6) {
            self.noise()?;
            self.tree(round)?;
        }
        if let Some(old) = round.checked_sub(KEPT) {
            // Said before it is done: it may be there or not.
            (self.told)(&format!("removing {old}"))?;
            fs::remove_file(self.root.join(format!("synced-{old}"))).ok();
            fs::remove_dir_all(self.root.join(format!("tree-{old}"))).ok();
        }
        Ok(())
    }

    fn synced(&mut self, round: u64) -> Result<()> {
        put(&self.root.join(format!("synced-{round}")), &content(round, 0))?;
        sync_dir(&self.root)?;
        (self.told)(&format!("synced {round}"))
    }

    /// As a careful program replaces a file.
    fn renamed(&mut self, round: u64) -> Result<()> {
        let new = self.root.join("replaced.new");
        let mut bytes = round.to_le_bytes().to_vec();
        bytes.extend(content(round, 1));
        put(&new, &bytes)?;
        fs::rename(&new, self.root.join("replaced"))?;
        sync_dir(&self.root)?;
        (self.told)(&format!("renamed {round}"))
    }

    fn committed(&mut self, round: u64) -> Result<()> {
        let transaction = self.database.transaction()?;
        transaction.execute("INSERT INTO rows VALUES (?1, ?2)", (round, content(round, 2)))?;
        transaction.execute("DELETE FROM rows WHERE n < ?1", [round.saturating_sub(KEPT)])?;
        transaction.commit()?;
        (self.told)(&format!("committed {round}"))
    }

    /// A tree with links, synced whole.
    fn tree(&mut self, round: u64) -> Result<()> {
        let dir = self.root.join(format!("tree-{round}"));
        fs::create_dir(&dir)?;
        for file in 0..8 {
            fs::write(dir.join(format!("file-{file}")), content(round, 10 + file))?;
            fs::hard_link(dir.join(format!("file-{file}")), dir.join(format!("link-{file}")))?;
        }
        std::os::unix::fs::symlink("file-0", dir.join("symbolic"))?;
        rustix::fs::syncfs(File::open(&dir)?)?;
        (self.told)(&format!("tree {round}"))
    }

    /// What a cut may take: no word is said of it.
    fn noise(&mut self) -> Result<()> {
        let place = self.root.join(format!("noise-{}", self.dice.roll(5)));
        match self.dice.roll(4) {
            0 => {
                fs::remove_file(&place).ok();
            }
            1 => {
                if let Ok(file) = File::options().write(true).open(&place) {
                    file.set_len(self.dice.roll(50_000))?;
                }
            }
            2 => {
                let other = self.root.join(format!("noise-{}", self.dice.roll(5)));
                fs::rename(&place, other).ok();
            }
            _ => {
                let bytes = content(self.dice.roll(1 << 20), 3);
                File::options().create(true).append(true).open(&place)?.write_all(&bytes)?;
            }
        }
        Ok(())
    }
}

/// What every line that was told says is so: the file system below `root` is as after a power cut.
pub(crate) fn held<'l>(root: &Path, lines: impl IntoIterator<Item = &'l str>) -> Result<u64> {
    let root = root.join("load");
    let (mut synced, mut trees) = (Vec::new(), Vec::new());
    let (mut renamed, mut committed, mut held) = (0, 0, 0);
    for line in lines {
        let (what, round) = line.split_once(' ').with_context(|| line.to_owned())?;
        let round: u64 = round.parse().with_context(|| line.to_owned())?;
        match what {
            "synced" => synced.push(round),
            "renamed" => renamed = round,
            "committed" => committed = round,
            "tree" => trees.push(round),
            "removing" => {
                synced.retain(|of| *of != round);
                trees.retain(|of| *of != round);
            }
            _ => bail!("{line:?} is no line of a load"),
        }
    }
    for round in &synced {
        let found = fs::read(root.join(format!("synced-{round}")));
        ensure!(found.is_ok_and(|found| found == content(*round, 0)), "file {round} was synced");
        held += 1;
    }
    if renamed > 0 {
        let found = fs::read(root.join("replaced")).context("a file that was replaced")?;
        let (version, rest) = found.split_at_checked(8).context("it is cut off")?;
        let version = u64::from_le_bytes(version.try_into()?);
        ensure!(version >= renamed, "version {version} is there, {renamed} was synced");
        ensure!(rest == content(version, 1), "version {version} is not whole");
        held += 1;
    }
    for round in &trees {
        held += whole_tree(&root, *round).with_context(|| format!("tree {round} was synced"))?;
    }
    if committed > 0 {
        held += rows(&root.join("rows.db"), committed)?;
    }
    Ok(held)
}

fn whole_tree(root: &Path, round: u64) -> Result<u64> {
    let dir = root.join(format!("tree-{round}"));
    for file in 0..8 {
        for name in ["file", "link"] {
            let found = fs::read(dir.join(format!("{name}-{file}")))?;
            ensure!(found == content(round, 10 + file), "{name}-{file} has another content");
        }
    }
    ensure!(fs::read_link(dir.join("symbolic"))? == Path::new("file-0"), "the link");
    Ok(17)
}

/// The database's own check, and every row that was committed.
fn rows(path: &Path, committed: u64) -> Result<u64> {
    let database = Connection::open(path)?;
    let check: String = database.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
    ensure!(check == "ok", "the database: {check}");
    let mut held = 0;
    let mut rows = database.prepare("SELECT n, content FROM rows ORDER BY n")?;
    let found: Vec<(u64, Vec<u8>)> = rows
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_, rusqlite::Error>>()?;
    for (n, bytes) in &found {
        ensure!(*bytes == content(*n, 2), "row {n} has another content");
        held += 1;
    }
    let last = found.last().map_or(0, |(n, _)| *n);
    ensure!(last >= committed, "row {committed} was committed, the last one is {last}");
    Ok(held)
}

/// Of 1 to 40,000 bytes that nothing else has.
fn content(round: u64, kind: u64) -> Vec<u8> {
    let mut dice = Dice::new(round << 8 | kind);
    let length = 1 + dice.roll(40_000);
    (0..length).map(|_| u8::try_from(dice.roll(256)).unwrap_or_default()).collect()
}

fn put(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    Ok(file.sync_all()?)
}

fn sync_dir(path: &Path) -> Result<()> {
    Ok(File::open(path)?.sync_all()?)
}
