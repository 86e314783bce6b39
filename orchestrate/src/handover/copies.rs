//! Files of the caller's that are put into a new activation: how they are named, how many and how large they may be,
//! and the frames of the tar stream that carries them. Pure.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use registry::Digest;
use serde::{Deserialize, Serialize};

use crate::handover::unfit::Unfit;

/// No more files are put into one activation.
pub const COPIES_MAX: usize = 64;

/// Nor more bytes of them together.
pub const COPY_BYTES_MAX: u64 = 1 << 30;

/// No longer path exists (path_resolution(7)).
const PATH_BYTES_MAX: usize = 4095;

/// Permissions, set-id and sticky bits.
const MODE_MAX: u32 = 0o7777;

/// A tar stream is made of blocks of so many bytes.
pub(crate) const BLOCK: usize = 512;

/// A file to be put into a new activation: `FILE:PATH[:MODE]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyIn {
    /// The file of this host; absolute as soon as it is part of a run.
    pub from: PathBuf,
    /// Its path in the activation; absolute.
    pub to: String,
    /// Its permissions; none: those of the file, without set-id and sticky bits.
    pub mode: Option<u32>,
    /// Bytes of the file; none: it was not looked at yet.
    pub bytes: Option<u64>,
    /// sha256 of the file; none: it was not looked at yet.
    pub sha256: Option<Digest>,
}

impl FromStr for CopyIn {
    type Err = Unfit;

    fn from_str(text: &str) -> Result<CopyIn, Unfit> {
        let bad = |why: String| Unfit::Copy { text: text.to_owned(), why };
        let (rest, mode) = match text.rsplit_once(':') {
            Some((rest, mode)) if !mode.starts_with('/') && rest.contains(":/") => {
                let octal = (3..=4).contains(&mode.len())
                    && mode.bytes().all(|digit| (b'0'..=b'7').contains(&digit));
                let number = u32::from_str_radix(mode, 8).ok().filter(|_| octal);
                let why = || bad("MODE has to be three or four octal digits, such as 0755".into());
                (rest, Some(number.ok_or_else(why)?))
            }
            Some(_) | None => (text, None),
        };
        let Some((from, to)) = rest.rsplit_once(":/") else {
            return Err(bad(
                "expected FILE:PATH or FILE:PATH:MODE, where PATH begins with /".into()
            ));
        };
        if from.is_empty() {
            return Err(bad("the file in front of the first colon has no name".into()));
        }
        let to = format!("/{to}");
        place(&to).map_err(|why| bad(format!("PATH {why}")))?;
        Ok(CopyIn { from: from.into(), to, mode, bytes: None, sha256: None })
    }
}

/// What is wrong with a path in the activation.
fn place(path: &str) -> Result<(), String> {
    if path.len() > PATH_BYTES_MAX {
        return Err(format!("has {} bytes, and may have {PATH_BYTES_MAX}", path.len()));
    }
    for name in path.split('/').skip(1) {
        match name {
            "" => return Err("has an empty name in it, or ends with /".into()),
            "." | ".." => return Err(format!("has {name} in it")),
            name if name.contains('\0') => return Err("has a NUL byte in it".into()),
            // A layer takes files away by such names.
            name if name.starts_with(".wh.") => {
                return Err(
                    "has a name in it that begins with .wh., which marks what a layer removes"
                        .into(),
                );
            }
            _ => {}
        }
    }
    Ok(())
}

impl CopyIn {
    /// The same, where its path in the activation is one that may be written to.
    ///
    /// # Errors
    /// [`Unfit::Copy`].
    pub(crate) fn checked(self) -> Result<CopyIn, Unfit> {
        let bad = |why: String| Unfit::Copy { text: format!("{}:{}", self.shown(), self.to), why };
        if !self.to.starts_with('/') {
            return Err(bad("PATH has to begin with /".into()));
        }
        place(&self.to).map_err(|why| bad(format!("PATH {why}")))?;
        Ok(self)
    }

    /// With the file's path as it is from everywhere.
    #[must_use]
    pub fn absolute(self, cwd: &Path) -> CopyIn {
        CopyIn { from: cwd.join(&self.from), ..self }
    }

    pub(crate) fn shown(&self) -> String {
        self.from.to_string_lossy().into_owned()
    }
}

/// Whether these can be put into one activation.
///
/// # Errors
/// [`Unfit::Copies`] where they are too many; [`Unfit::Copy`] where two have one place, or one lies below another.
pub(crate) fn judge(copies: &[CopyIn]) -> Result<(), Unfit> {
    if copies.len() > COPIES_MAX {
        return Err(Unfit::Copies {
            what: "files",
            found: copies.len() as u64,
            most: COPIES_MAX as u64,
        });
    }
    let places: BTreeSet<&str> = copies.iter().map(|copy| copy.to.as_str()).collect();
    let bad = |copy: &CopyIn, why: &str| {
        let text = format!("{}:{}", copy.shown(), copy.to);
        Err(Unfit::Copy { text, why: why.into() })
    };
    if places.len() < copies.len() {
        let mut seen = BTreeSet::new();
        let twice = copies.iter().find(|copy| !seen.insert(copy.to.as_str()));
        return twice.map_or(Ok(()), |copy| bad(copy, "another --copy has the same PATH"));
    }
    for copy in copies {
        let mut above = copy.to.as_str();
        while let Some((parent, _)) = above.rsplit_once('/') {
            if places.contains(parent) {
                return bad(copy, "another --copy puts a file where this needs a directory");
            }
            above = parent;
        }
    }
    Ok(())
}

/// Bytes of all of them, as far as that is known.
pub(crate) fn bytes(copies: &[CopyIn]) -> u64 {
    copies.iter().filter_map(|copy| copy.bytes).fold(0, u64::saturating_add)
}

/// What is written of a file in front of its content: an extended header with all that may be long, then the header.
/// A time is not told: what is copied is as old as what a layer makes for a missing parent.
pub(crate) fn head(copy: &CopyIn, (uid, gid): (u32, u32)) -> Vec<u8> {
    let path = copy.to.trim_start_matches('/');
    let mut extended = record("path", path);
    extended.extend(record("uid", &uid.to_string()));
    extended.extend(record("gid", &gid.to_string()));
    let mut head = block(b'x', extended.len() as u64, 0o644);
    head.extend(&extended);
    head.resize(head.len().next_multiple_of(BLOCK), 0);
    head.extend(block(b'0', copy.bytes.unwrap_or(0), copy.mode.unwrap_or(0o644) & MODE_MAX));
    head
}

/// One record of an extended header: its own length in front, that number counted too (pax(1)).
fn record(key: &str, value: &str) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length.to_string().len() + rest != length {
        length = length.to_string().len() + rest;
    }
    format!("{length} {key}={value}\n").into_bytes()
}

/// One header block of the ustar format (pax(1)).
fn block(kind: u8, size: u64, mode: u32) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| {
        if let Some(field) = block.get_mut(at..at + bytes.len()) {
            field.copy_from_slice(bytes);
        }
    };
    put(0, b"copy");
    put(100, format!("{mode:07o}").as_bytes());
    put(108, b"0000000");
    put(116, b"0000000");
    put(124, format!("{size:011o}").as_bytes());
    put(136, b"00000000000");
    put(148, b"        ");
    put(156, &[kind]);
    put(257, b"ustar\0");
    put(263, b"00");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    if let Some(field) = block.get_mut(148..155) {
        field.copy_from_slice(format!("{sum:06o}\0").as_bytes());
    }
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy(text: &str) -> Result<CopyIn, String> {
        text.parse().map_err(|unfit: Unfit| unfit.to_string())
    }

    #[test]
    fn a_file_a_path_and_perhaps_a_mode() {
        for (text, from, to, mode) in [
            ("./init:/sbin/init:0755", "./init", "/sbin/init", Some(0o755)),
            ("init:/sbin/init", "init", "/sbin/init", None),
            ("a:b:/c:644", "a:b", "/c", Some(0o644)),
            ("/a:/b", "/a", "/b", None),
            ("f:/etc/a b:4755", "f", "/etc/a b", Some(0o4755)),
        ] {
            let found = copy(text).unwrap();
            assert_eq!(
                (found.from.as_path(), found.to.as_str(), found.mode),
                (Path::new(from), to, mode)
            );
        }
        for (text, why) in [
            ("init", "expected FILE:PATH"),
            ("init:sbin/init", "expected FILE:PATH"),
            (":/sbin/init", "has no name"),
            ("f:/", "empty name"),
            ("f:/a/", "empty name"),
            ("f:/a/../b", "has .. in it"),
            ("f:/a/.wh.b", ".wh."),
            ("f:/a:0888", "octal"),
            ("f:/a:77777", "octal"),
            ("f:/a:", "octal"),
        ] {
            let said = copy(text).unwrap_err();
            assert!(said.contains(why) && said.starts_with("--copy \""), "{text}: {said}");
        }
        assert!(copy(&format!("f:/{}", "x".repeat(5000))).unwrap_err().contains("5001 bytes"));
    }

    #[test]
    fn files_stand_in_no_others_way() {
        let judged = |words: &[&str]| {
            let copies: Vec<CopyIn> = words.iter().map(|word| word.parse().unwrap()).collect();
            judge(&copies).map_err(|unfit| unfit.to_string())
        };
        assert_eq!(judged(&[]), Ok(()));
        assert_eq!(judged(&["a:/a", "a:/ab", "b:/b/c", "b:/b/d"]), Ok(()));
        assert!(judged(&["a:/a", "b:/a"]).unwrap_err().contains("the same PATH"));
        assert!(judged(&["a:/a/b/c", "b:/a"]).unwrap_err().contains("needs a directory"));
        let many: Vec<String> = (0..=COPIES_MAX).map(|n| format!("f:/{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(judged(&many).unwrap_err().contains("65 files, and at most 64"));
        assert_eq!(judged(&many[1..]), Ok(()));
    }

    #[test]
    fn a_record_counts_its_own_length() {
        assert_eq!(record("path", "a"), b"9 path=a\n");
        for length in 0..2000 {
            let record = record("path", &"x".repeat(length));
            let said: usize =
                std::str::from_utf8(&record).unwrap().split(' ').next().unwrap().parse().unwrap();
            assert_eq!(said, record.len());
        }
    }

    #[test]
    fn what_is_kept_of_a_run_is_read_again() {
        let kept =
            CopyIn { bytes: Some(7), sha256: Some(Digest([3; 32])), ..copy("/a:/b:0755").unwrap() };
        let json = serde_json::to_value(&kept).unwrap();
        assert_eq!(serde_json::from_value::<CopyIn>(json).unwrap(), kept);
    }
}
