//! The recipe of a set of images: a small text format, one directive a line, and its parser.
//!
//! Nothing here reads a package or writes a tar. The recipes themselves are `tests/images/*.recipe`.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};

/// Which header flavour a layer's tar uses where a name does not fit in 100 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// POSIX headers; long names and sub-second times in PAX records, names without `./`.
    Pax,
    /// GNU headers; long names in `././@LongLink` entries, every name begins with `./`.
    Gnu,
}

/// One thing a layer holds besides the contents of its packages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Extra {
    /// A directory, or new metadata for one that is there.
    Dir { path: String, mode: u32, uid: u64, gid: u64 },
    /// A symbolic link; the target is written as it stands.
    Symlink { path: String, target: String },
    /// A character or block device.
    Node { path: String, block: bool, major: u32, minor: u32, mode: u32, gid: u64 },
    /// A named pipe.
    Fifo { path: String, mode: u32 },
    /// A regular file with this text.
    File { path: String, mode: u32, text: String },
    /// A regular file with the contents of a package's file of the same layer.
    Copy { path: String, from: String },
    /// A hard link to an entry of the same layer.
    Link { path: String, target: String },
}

/// What a layer hides of the layers below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Whiteout {
    /// `.wh.<name>`: the path is gone.
    Remove(String),
    /// `.wh..wh..opq`: the directory stays, what the lower layers put in it is gone.
    Opaque(String),
    /// As `Opaque`, but the marker comes after the layer's own entries of that directory. The OCI spec says producers SHOULD put it
    /// first and that it MUST NOT hide entries of its own layer, so a reader has to get both orders right.
    OpaqueLate(String),
}

/// One layer of the set.
#[derive(Debug, Clone)]
pub(super) struct Layer {
    /// The object's number: `<n>.tar`.
    pub(super) number: u32,
    /// The families that have this very layer at that number.
    pub(super) families: Vec<String>,
    /// Header flavour.
    pub(super) format: Format,
    /// Packages that are asked for; what they depend on comes too, unless a lower layer has it.
    pub(super) packages: Vec<String>,
    /// Entries besides the packages, in order; written before them.
    pub(super) before: Vec<Extra>,
    /// Entries written after the packages.
    pub(super) after: Vec<Extra>,
    /// What it hides of the layers below.
    pub(super) whiteouts: Vec<Whiteout>,
    /// xattrs to put on entries: path to (name, value).
    pub(super) xattrs: BTreeMap<String, Vec<(String, Vec<u8>)>>,
}

/// A program that an image of this family must be able to run in a chroot.
#[derive(Debug, Clone)]
pub(super) struct Run {
    /// The family.
    pub(super) family: String,
    /// argv, `argv[0]` an absolute path inside the image.
    pub(super) argv: Vec<String>,
    /// Text that its stdout must contain.
    pub(super) prints: String,
}

/// A whole set of images.
#[derive(Debug, Clone, Default)]
pub(super) struct Recipe {
    /// Modification time of generated entries, seconds since 1970.
    pub(super) epoch: u64,
    /// Packages that are left out although something depends on them.
    pub(super) skip: Vec<String>,
    /// Path prefixes of package contents that are left out.
    pub(super) drop: Vec<String>,
    /// The layers, parents before children.
    pub(super) layers: Vec<Layer>,
    /// The programs to try.
    pub(super) runs: Vec<Run>,
}

/// `security.capability` for one permitted and effective capability below 32: `struct vfs_cap_data` revision 2 (linux/capability.h),
/// little-endian.
fn file_capability(name: &str) -> Result<Vec<u8>> {
    let bit = match name {
        "cap_net_bind_service" => 10,
        "cap_net_raw" => 13,
        other => bail!("capability \"{other}\" is not known here"),
    };
    let magic: u32 = 0x0200_0000 | 1;
    Ok([magic, 1 << bit, 0, 0, 0].iter().flat_map(|word| word.to_le_bytes()).collect())
}

impl Recipe {
    /// Parses the text of a recipe.
    ///
    /// # Errors
    /// Names the line that is not a directive, or that lacks a word.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let mut recipe = Self::default();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            recipe.directive(line).with_context(|| format!("recipe line {}: {line}", index + 1))?;
        }
        Ok(recipe)
    }

    fn directive(&mut self, line: &str) -> Result<()> {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        let rest = rest.trim();
        let mut words = Words(rest.split_whitespace());
        match verb {
            "epoch" => self.epoch = rest.parse()?,
            "skip" => self.skip.extend(rest.split_whitespace().map(str::to_owned)),
            "drop" => self.drop.extend(rest.split_whitespace().map(str::to_owned)),
            "layer" => {
                let number = words.next()?.parse()?;
                let families = words.0.map(str::to_owned).collect();
                self.layers.push(Layer {
                    number,
                    families,
                    format: Format::Pax,
                    packages: Vec::new(),
                    before: Vec::new(),
                    after: Vec::new(),
                    whiteouts: Vec::new(),
                    xattrs: BTreeMap::new(),
                });
            }
            "run" => {
                let family = words.next()?;
                let rest = rest[family.len()..].trim();
                let (argv, prints) =
                    rest.split_once(" => ").context("a run line needs \" => \"")?;
                let argv = serde_json::from_str(argv)?;
                self.runs.push(Run { family: family.to_owned(), argv, prints: prints.to_owned() });
            }
            _ => self
                .layers
                .last_mut()
                .context("comes before the first layer")?
                .directive(verb, rest)?,
        }
        Ok(())
    }
}

impl Layer {
    fn directive(&mut self, verb: &str, rest: &str) -> Result<()> {
        let mut words = Words(rest.split_whitespace());
        // Directories, links and nodes must be there before packages go through them; contents come after, so that they win.
        match verb {
            "gnu" => self.format = Format::Gnu,
            "packages" => self.packages.extend(words.0.map(str::to_owned)),
            "dir" => {
                let (path, mode) = (words.path()?, words.mode()?);
                let uid = words.0.next().unwrap_or("0").parse()?;
                let gid = words.0.next().unwrap_or("0").parse()?;
                self.before.push(Extra::Dir { path, mode, uid, gid });
            }
            "symlink" => {
                self.before.push(Extra::Symlink { path: words.path()?, target: words.path()? })
            }
            "node" => self.before.push(Extra::Node {
                path: words.path()?,
                block: words.next()? == "b",
                major: words.next()?.parse()?,
                minor: words.next()?.parse()?,
                mode: words.mode()?,
                gid: words.next()?.parse()?,
            }),
            "fifo" => self.before.push(Extra::Fifo { path: words.path()?, mode: words.mode()? }),
            "file" => {
                let (path, mode) = (words.path()?, words.mode()?);
                let text = rest.splitn(3, ' ').nth(2).unwrap_or("").replace("\\n", "\n");
                self.after.push(Extra::File { path, mode, text });
            }
            "copy" => self.after.push(Extra::Copy { path: words.path()?, from: words.path()? }),
            "link" => self.after.push(Extra::Link { path: words.path()?, target: words.path()? }),
            "remove" => self.whiteouts.push(Whiteout::Remove(words.path()?)),
            "opaque" => self.whiteouts.push(Whiteout::Opaque(words.path()?)),
            "opaque-late" => self.whiteouts.push(Whiteout::OpaqueLate(words.path()?)),
            "caps" => {
                let path = words.path()?;
                let value = file_capability(words.next()?)?;
                self.xattrs
                    .entry(path)
                    .or_default()
                    .push(("security.capability".to_owned(), value));
            }
            "xattr" => {
                let (path, name) = (words.path()?, words.next()?.to_owned());
                let value = rest.splitn(3, ' ').nth(2).unwrap_or("").as_bytes().to_vec();
                self.xattrs.entry(path).or_default().push((name, value));
            }
            other => bail!("\"{other}\" is not a directive"),
        }
        Ok(())
    }
}

struct Words<'a>(std::str::SplitWhitespace<'a>);

impl<'a> Words<'a> {
    fn next(&mut self) -> Result<&'a str> {
        self.0.next().context("a word is missing")
    }
    fn path(&mut self) -> Result<String> {
        Ok(self.next()?.to_owned())
    }
    fn mode(&mut self) -> Result<u32> {
        Ok(u32::from_str_radix(self.next()?, 8)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capability_is_twenty_bytes_of_revision_two() {
        let value = file_capability("cap_net_raw").unwrap();
        assert_eq!(value.len(), 20);
        assert_eq!(value[..8], [1, 0, 0, 2, 0, 0x20, 0, 0]);
    }

    #[test]
    fn a_bad_line_is_named() {
        let error = Recipe::parse("layer 1 golang\nfrob x\n").unwrap_err();
        assert!(format!("{error:#}").contains("line 2"), "{error:#}");
        assert!(Recipe::parse("packages x").is_err(), "a directive of a layer needs a layer");
    }

    #[test]
    fn the_text_of_a_file_keeps_its_spaces() {
        let recipe = Recipe::parse("layer 1 a b\nfile etc/x 0644 one  two\\n").unwrap();
        let wanted = Extra::File { path: "etc/x".into(), mode: 0o644, text: "one  two\n".into() };
        assert_eq!(recipe.layers[0].after, [wanted]);
        assert_eq!(recipe.layers[0].families, ["a", "b"]);
    }
}
