//! A pool is not brought up on metadata that is zeroed, cut, foreign, older, damaged, of another block
//! size, or somewhere else: each is refused by name, nothing is written to it, and nothing stays.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

use super::thin_invariants::thin;
use crate::guest::Guest;
use crate::guest::leftovers::Seen;
use crate::scenario::{Needs, Report, Scenario};

/// See the module.
pub const SCENARIO: Scenario = Scenario { name: "thin_wrong_metadata", needs: Needs::DEFAULT, run };

fn run(guest: &mut Guest) -> Result<Report> {
    let dir = guest.scratch().join("pool");
    let dir_text = dir.display().to_string();
    let metadata = dir.join("metadata");
    let up: &[&str] = &["pool", "up", &dir_text];
    let down: &[&str] = &["pool", "down", &dir_text];

    thin(guest, &["pool", "init", &dir_text, "--data", "64M"]).run()?.expect(0)?;
    thin(guest, &["create", "1"]).run()?.expect(0)?;
    thin(guest, &["transaction", "0", "5"]).run()?.expect(0)?;
    thin(guest, down).run()?.expect(0)?;
    let older = std::fs::read(&metadata)?;
    thin(guest, up).run()?.expect(0)?;
    thin(guest, &["transaction", "5", "6"]).run()?.expect(0)?;
    thin(guest, down).run()?.expect(0)?;
    let before_create = std::fs::read(&metadata)?;
    thin(guest, up).run()?.expect(0)?;
    thin(guest, &["create", "2"]).run()?.expect(0)?;
    thin(guest, down).run()?.expect(0)?;
    let good = std::fs::read(&metadata)?;

    let foreign = foreign(guest, &["--data", "64M"])?;
    let blocks = foreign_blocks(guest)?;
    let mut zeroed = good.clone();
    zeroed[..4096].fill(0);
    let mut damaged = good.clone();
    damaged[100] ^= 1;
    let mut other = good.clone();
    other[32] ^= 1;
    let cut = good[..good.len() / 2].to_vec();

    let cases: [(&str, &[u8], &str); 8] = [
        ("zeroed", &zeroed, "takes for a new pool"),
        ("cut", &cut, "cut to"),
        ("foreign", &foreign, "stamped"),
        ("of another block size", &blocks, "stamped"),
        ("older by its transaction", &older, "it is older"),
        ("older by its last commit", &before_create, "not as it was"),
        ("damaged", &damaged, "checksum"),
        ("no metadata", &other, "magic"),
    ];
    for (what, content, message) in cases {
        refused(guest, &metadata, content, up, message).context(what)?;
    }
    // The right content in the wrong file.
    let aside = dir.join("aside");
    std::fs::rename(&metadata, &aside)?;
    refused(guest, &metadata, &good, up, "inode").context("moved")?;
    std::fs::rename(&aside, &metadata)?;

    std::fs::write(&metadata, &good)?;
    let mut expected = up.to_vec();
    expected.extend(["--expect-transaction", "7"]);
    refused(guest, &metadata, &good, &expected, "the records at 7").context("records ahead")?;
    let mut expected = up.to_vec();
    expected.extend(["--expect-transaction", "4"]);
    refused(guest, &metadata, &good, &expected, "the records at 4").context("records behind")?;

    thin(guest, up).run()?.expect(0)?;
    let ids = thin(guest, &["--json", "ls"]).run()?.expect(0)?.json_lines()?;
    ensure!(ids.len() == 2, "both thins are there: {ids:?}");
    thin(guest, down).run()?.expect(0)?;
    Ok(Report::new().figure("kinds_refused", cases.len() + 3))
}

fn refused(
    guest: &Guest,
    metadata: &Path,
    content: &[u8],
    words: &[&str],
    message: &str,
) -> Result<()> {
    std::fs::write(metadata, content)?;
    let before = Seen::now()?;
    thin(guest, words).run()?.expect_message(100, message)?;
    let left = Seen::now()?.since(&before);
    ensure!(left.is_empty(), "left behind: {left:?}");
    let same = Sha256::digest(std::fs::read(metadata)?) == Sha256::digest(content);
    ensure!(same, "the metadata was written to");
    Ok(())
}

fn foreign(guest: &Guest, options: &[&str]) -> Result<Vec<u8>> {
    let dir = guest.scratch().join("foreign");
    let text = dir.display().to_string();
    let mut words = vec!["--pool", "foreign", "pool", "init", &text];
    words.extend(options);
    thin(guest, &words).run()?.expect(0)?;
    thin(guest, &["pool", "down", &text]).run()?.expect(0)?;
    let content = std::fs::read(dir.join("metadata"))?;
    std::fs::remove_dir_all(&dir)?;
    Ok(content)
}

fn foreign_blocks(guest: &Guest) -> Result<Vec<u8>> {
    foreign(guest, &["--data", "64M", "--block-size", "128K"])
}
